"""What becomes of batches that do not succeed, over the whole engine: retry limits, halves, reported records, age."""

import json
import time

import pytest
from run_rig import error_line, until

from streamfn.log.producer.producer import Producer
from streamfn.state.store import Store
from streamfn.types import NewRecord

RETRIES = "--maximum-retry-attempts"
BISECT = "--bisect-batch-on-function-error"
REPORT = ["--function-response-types", "ReportBatchItemFailures"]


def noted(place):
    """What every invocation noted, in order."""
    path = place.notes / "noted"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def batches(place):
    return [row["contents"] for row in noted(place)]


def discards(place, name):
    with Store.open(place.data / "state.db", create=False) as store:
        return [row.discard for row in store.discards(store.mapping(name).uuid)]


@pytest.mark.conformance("retries/limit")
def test_a_batch_that_always_fails_is_discarded_after_its_retries_and_the_shard_goes_on(place):
    place.stream(contents=["a", "poison", "b", "c"])
    done = place.caught_up("failing.poison", "--batch-size", "2", RETRIES, "2")
    assert done.code == 3
    assert batches(place) == [["a", "poison"]] * 3 + [["b", "c"]]
    counted = {key: done.summary[key] for key in ("records", "batches", "errors", "discarded", "remaining")}
    assert counted == {"records": 2, "batches": 1, "errors": 3, "discarded": 2, "remaining": 0}
    (kept,) = discards(place, "failing.poison@s")
    assert (kept.first_offset, kept.end_offset, kept.reason) == (0, 2, "RetryAttemptsExhausted")
    assert (kept.failure.attempts, kept.failure.records, kept.failure.function_error) == (3, 2, "Unhandled")
    numbers = place.log()["shardId-000000000000"]
    assert (kept.failure.first_sequence_number, kept.failure.last_sequence_number) == (numbers[0], numbers[1])
    assert "discards 2 records from offset 0, RetryAttemptsExhausted after 3 attempts: ValueError: poisoned" in done.err
    assert place.checkpoints("failing.poison@s") == {"shardId-000000000000": 4}


def test_the_discards_are_said_at_the_end(place):
    place.stream(contents=["a", "poison", "b"])
    done = place.run(
        "run", "failing.poison", "--stream", "s", "--until-caught-up", "--batch-size", "1", RETRIES, "0",
    )  # fmt: skip
    assert done.code == 3
    assert "2 records in 2 batches" in done.err
    assert "1 record discarded" in done.err


def test_a_run_that_discarded_nothing_ends_well_although_an_earlier_one_did(place):
    place.stream(contents=["poison"])
    assert place.caught_up("failing.poison", RETRIES, "0").code == 3
    place.put(["fine"])
    done = place.caught_up("failing.poison", RETRIES, "0")
    assert (done.code, done.summary["discarded"]) == (0, 0)
    assert batches(place) == [["poison"], ["fine"]]


@pytest.mark.conformance("bisect/halves")
def test_bisect_isolates_the_poison_record(place):
    contents = [str(number) if number != 5 else "poison" for number in range(8)]
    place.stream(contents=contents)
    done = place.caught_up("failing.poison", "--batch-size", "8", BISECT, RETRIES, "1")
    assert done.code == 3
    assert batches(place) == [
        contents, contents[:4], contents[4:], contents[4:6], ["4"], ["poison"], ["poison"], contents[6:],
    ]  # fmt: skip
    (kept,) = discards(place, "failing.poison@s")
    assert (kept.first_offset, kept.end_offset, kept.failure.attempts) == (5, 6, 2)
    assert done.summary["records"] == 7


@pytest.mark.conformance(
    "retries/fresh-after-progress",
    source="recorded",
    rule="When a partial response moves the checkpoint, the rest has a fresh budget: the failing sixth record of six "
    "is delivered once with its batch and 1 + MaximumRetryAttempts times alone, and the count says the latter.",
)
def test_a_reported_record_has_a_fresh_budget_five_deliveries_in_all(place):
    """MaximumRetryAttempts 3, batches of 3, six records, the sixth fails: as AWS was recorded to do."""
    place.stream(contents=["1", "2", "3", "4", "5", "poison"])
    done = place.caught_up("failing.reports", "--batch-size", "3", RETRIES, "3", *REPORT)
    assert done.code == 3
    assert batches(place) == [["1", "2", "3"], ["4", "5", "poison"]] + [["poison"]] * 4
    assert sum("poison" in batch for batch in batches(place)) == 5
    (kept,) = discards(place, "failing.reports@s")
    assert (kept.failure.attempts, kept.failure.records, kept.failure.function_error) == (4, 1, None)
    assert (done.summary["records"], done.summary["discarded"], done.summary["errors"]) == (5, 1, 5)


@pytest.mark.conformance(
    "responses/lowest",
    source="documented",
    rule="Of several reported records the lowest sequence number counts: delivery goes on there, later successes "
    "included.",
)
def test_a_partial_response_resumes_at_the_lowest_reported_record(place):
    place.stream(contents=["1", "2", "poison", "3", "poison!", "4"])
    done = place.caught_up("failing.reports", "--batch-size", "10", RETRIES, "0", *REPORT)
    assert batches(place) == [["1", "2", "poison", "3", "poison!", "4"], ["poison", "3", "poison!", "4"]]
    assert (done.code, done.summary["records"], done.summary["discarded"]) == (3, 2, 4)


@pytest.mark.conformance("bisect/partial-response")
def test_bisect_with_a_partial_response_splits_at_the_reported_record(place):
    place.stream(contents=["1", "2", "3", "4", "5", "6", "poison", "7"])
    done = place.caught_up("failing.reports", "--batch-size", "8", BISECT, RETRIES, "0", *REPORT)
    # The first record reported is the whole batch failed: that is halved.
    assert batches(place) == [["1", "2", "3", "4", "5", "6", "poison", "7"], ["poison", "7"], ["poison"], ["7"]]
    assert (done.code, done.summary["discarded"], done.summary["records"]) == (3, 1, 7)


@pytest.mark.conformance(
    "responses/whole-success",
    source="recorded",
    rule='`""`, `[]`, null, `{}`, an empty and a null list of failures are success of the whole batch.',
)
def test_a_response_without_failures_is_success(place):
    answers = ['""', "[]", "null", "{}", '{"batchItemFailures": []}', '{"batchItemFailures": null}']
    place.stream(contents=answers)
    done = place.caught_up("failing.answers", "--batch-size", "1", *REPORT, RETRIES, "1")
    assert (done.code, done.summary["records"], done.summary["errors"]) == (0, 6, 0)
    assert batches(place) == [[answer] for answer in answers]


@pytest.mark.conformance(
    "responses/whole-failure",
    source="recorded",
    rule="An item identifier that is not of the batch, no text, empty, null or missing fails the whole batch; "
    "functionError of its on-failure record is null.",
)
def test_a_response_that_names_no_record_of_the_batch_fails_it_whole(place):
    items = [{"itemIdentifier": 123}, {"itemIdentifier": ""}, {"itemIdentifier": None}, {"foo": 123}, {"foo": None}]
    answers = [json.dumps({"batchItemFailures": [item]}) for item in items]
    place.stream(contents=answers)
    done = place.caught_up("failing.answers", "--batch-size", "1", *REPORT, RETRIES, "1")
    assert done.code == 3
    assert batches(place) == [[answer] for answer in answers for _ in range(2)]
    kept = discards(place, "failing.answers@s")
    assert [(row.failure.attempts, row.failure.function_error) for row in kept] == [(2, None)] * 5


def test_without_the_option_a_response_means_nothing(place):
    place.stream(contents=["a", "poison"])
    done = place.caught_up("failing.reports", RETRIES, "0")
    assert done.code == 0
    assert batches(place) == [["a", "poison"]]


@pytest.mark.conformance("age/splits-a-batch")
def test_age_splits_a_batch_into_the_expired_and_the_fresh(place):
    place.stream()
    now_ms = time.time_ns() // 1_000_000
    with Producer(place.opened()) as producer:
        old = NewRecord(b"old", "k", arrival_ms=now_ms - 100_000)
        producer.submit([old, *(NewRecord(b"new %d" % n, "k", arrival_ms=now_ms) for n in range(5))]).result()
    done = place.caught_up(
        "failing.poison", "--batch-size", "10", RETRIES, "0", "--maximum-record-age-in-seconds", "60"
    )
    assert done.code == 3
    assert batches(place) == [[f"new {n}" for n in range(5)]]
    (kept,) = discards(place, "failing.poison@s")
    assert (kept.first_offset, kept.end_offset, kept.reason) == (0, 1, "RecordAgeExceeded")
    assert kept.failure.attempts == 0


def test_the_limit_counts_what_was_handed_over_and_not_what_was_too_old(place):
    place.stream()
    now_ms = time.time_ns() // 1_000_000
    with Producer(place.opened()) as producer:
        old = [NewRecord(b"old", "k", arrival_ms=now_ms - 100_000)] * 3
        producer.submit([*old, *(NewRecord(b"%d" % n, "k") for n in range(5))]).result()
    options = ["--limit", "2", "--json", "--batch-size", "10", "--maximum-record-age-in-seconds", "60"]
    done = place.run("run", "failing.poison", "--stream", "s", *options)
    assert batches(place) == [["0", "1"]]
    assert (done.code, done.summary["records"], done.summary["discarded"]) == (3, 2, 3)


@pytest.mark.conformance(
    "retries/process-end",
    source="inferred",
    rule="A batch whose process ended, or ran into its timeout, has used up an attempt.",
)
@pytest.mark.parametrize("handler", ["exits", "hangs"])
def test_the_end_of_the_process_and_a_timeout_use_up_an_attempt(place, handler):
    place.stream(contents=["poison", "b"])
    done = place.caught_up(f"failing.{handler}", "--batch-size", "1", RETRIES, "1", "--timeout", "1")
    assert done.code == 3
    assert batches(place) == [["poison"], ["poison"], ["b"]]
    (kept,) = discards(place, f"failing.{handler}@s")
    assert (kept.failure.attempts, kept.failure.function_error) == (2, "Unhandled")


def test_a_drain_does_not_wait_for_retries_and_the_next_run_begins_with_the_whole_batch(place):
    place.stream(contents=["poison", "a"])
    with place.following("failing.poison", "--batch-size", "2", BISECT) as run:
        until(lambda: ["poison"] in batches(place), "the halves")
        run.signal()
        assert run.wait() == 0
    count = len(batches(place))
    assert place.caught_up("failing.reports", "--name", "failing.poison@s", *REPORT, RETRIES, "0").code == 3
    assert batches(place)[count:] == [["poison", "a"]]


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        (RETRIES, "10001", "at 'maximumRetryAttempts'"),
        ("--maximum-record-age-in-seconds", "604801", "at 'maximumRecordAgeInSeconds'"),
        ("--function-response-types", "Everything", "Member must satisfy enum value set: [ReportBatchItemFailures]"),
    ],
)
def test_a_bad_value_is_refused_before_anything_is_made(place, option, value, text):
    place.stream(contents=["a"])
    done = place.caught_up("failing.poison", option, value)
    assert done.code == 2
    assert text in error_line(done)
    assert not (place.data / "state.db").exists()
