"""Whatever the options, the handler and the records: what `run_mapping` tells is a history that the checker accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn.limits import EVENT_BYTES_MAX
from streamfn.testing import Dies, MappingResult, Raises, Returns, Script, Throttled, TimesOut, record, run_mapping
from streamfn.testing.builders import START_MS
from streamfn.testing.checker import Committed, Discard, Ended, Event, Facts, Owned, Rules, Seen, check

SHARD = "shardId-000000000000"
TOOK = st.sampled_from([0.001, 0.5, 2.0])


def reports(place: int) -> Any:
    """A response that reports one record of its event."""
    return lambda event: {
        "batchItemFailures": [
            {"itemIdentifier": event["Records"][place % len(event["Records"])]["kinesis"]["sequenceNumber"]}
        ]
    }


STEPS = st.one_of(
    TOOK.map(lambda seconds: Returns(None, seconds)),
    st.tuples(st.integers(0, 9), TOOK).map(lambda drawn: Returns(reports(drawn[0]), drawn[1])),
    TOOK.map(lambda seconds: Raises(ValueError("no"), seconds)),
    TOOK.map(lambda seconds: Dies(None, seconds)),
    st.just(TimesOut()),
    st.just(Throttled()),
)
OPTIONS = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 6),
        "maximum_batching_window_in_seconds": st.sampled_from([0, 0, 3]),
        "parallelization_factor": st.sampled_from([1, 1, 3]),
        "maximum_retry_attempts": st.sampled_from([-1, 0, 2]),
        "maximum_record_age_in_seconds": st.sampled_from([-1, -1, 60]),
        "bisect_batch_on_function_error": st.booleans(),
        "function_response_types": st.sampled_from([(), ("ReportBatchItemFailures",)]),
    }
)
RECORDS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-70, 20)), min_size=1, max_size=25)


def history_of(result: MappingResult, places: Mapping[str, int]) -> list[Event]:
    """The result as witnesses would have told it; nothing takes no time here, so that times tell the order."""
    events: list[tuple[float, int, Event]] = []
    for number, batch in enumerate(result.batches):
        if batch.outcome != "throttled":
            offsets = [places[each] for each in batch.sequence_numbers]
            now_ms = START_MS + int(batch.started * 1000) + 1
            done = batch.done if batch.outcome == "partly" else 0
            events.append((batch.started, 2, Seen(SHARD, 1, number, offsets, time_ms=now_ms)))
            events.append((batch.ended, 0, Ended(number, batch.outcome == "succeeded", done)))
    rows = [
        (Discard([places[each] for each in one.sequence_numbers], one.condition, one.attempts))
        for one in result.discarded
    ]
    for point in result.checkpoints:
        durable = [row for row in rows if row.offsets[-1] < point.offset]
        rows = [row for row in rows if row not in durable]
        now_ms = START_MS + int(point.at * 1000) + 1
        events.append((point.at, 1, Committed(SHARD, 1, point.offset, durable, now_ms)))
    return [Owned(1), *(event for _, _, event in sorted(events, key=lambda event: event[:2]))]


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.lists(STEPS, max_size=12), OPTIONS, st.integers(0, 5))
def test_what_a_mapping_does_is_what_the_rules_allow(
    records: list[tuple[str, int]], steps: list[Any], options: dict[str, Any], seed: int
) -> None:
    given_records = [
        record(f"{number}", key, START_MS + seconds * 1000) for number, (key, seconds) in enumerate(records)
    ]
    result = run_mapping(Script(*steps, then=Returns(None, 0.001)), given_records, seed=seed, **options)
    assert result.caught_up
    numbers = [each for batch in result.batches for each in batch.sequence_numbers]
    numbers += [each for one in result.discarded for each in one.sequence_numbers]
    places = {number: place for place, number in enumerate(sorted(set(numbers), key=int))}
    assert len(places) == len(records)
    retries, age_s = options["maximum_retry_attempts"], options["maximum_record_age_in_seconds"]
    rules = Rules(
        batch_size=options["batch_size"],
        event_bytes_max=EVENT_BYTES_MAX,
        maximum_retry_attempts=None if retries < 0 else retries,
        maximum_record_age_ms=None if age_s < 0 else age_s * 1000,
        bisect=options["bisect_batch_on_function_error"],
    )
    factor = options["parallelization_factor"]
    facts = Facts(
        lane=lambda shard, offset: 0 if factor == 1 else records[offset][0],
        arrival_ms=lambda shard, offset: START_MS + records[offset][1] * 1000,
        keys=factor > 1,
    )
    history = history_of(result, places)
    assert check(history, starts={SHARD: 0}, ends={SHARD: len(records)}, rules=rules, facts=facts) == []
