"""Stopping at failed batches: who is asked, about what, and what comes of each answer; over the whole engine."""

import json
from contextlib import asynccontextmanager
from functools import partial

import orjson
import trio
from engine_rig import FUNCTIONS, SHARD, until
from trio.testing import trio_test

import streamfn
from streamfn.core.schedule import FixedRate, Stretch
from streamfn.core.verdict import Decision


class Asked:
    """Answers with what it was given, in turn, and keeps what it was asked; None when it has nothing more to say."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.stops = []

    async def __call__(self, stop):
        self.stops.append(stop)
        await trio.lowlevel.checkpoint()
        return self._answers.pop(0) if self._answers else None

    @property
    def contents(self):
        return [[row.data.decode() for row in stop.rows] for stop in self.stops]


@asynccontextmanager
async def mapping_on(place, contents, handler="failing.poison", shards=1, **options):
    """The engine's own mapping of a handler of functions/, on a stream with these contents."""
    place.stream(shards=shards, contents=contents)
    given = {"code_dir": FUNCTIONS, "workers": 1, "batch_size": 4, "environment": {"NOTES": str(place.notes)}}
    async with (
        streamfn.open(place.data) as session,
        session.mapping(handler, "s", **{**given, **options}) as mapping,
    ):
        yield mapping._inner


def noted(place):
    path = place.notes / "noted"
    return [json.loads(line)["contents"] for line in path.read_text().splitlines()]


@trio_test
async def test_bisecting_leads_to_the_record_and_skipping_goes_on_behind_it(place):
    asked = Asked(Decision.BISECT, Decision.BISECT, Decision.SKIP)
    async with mapping_on(place, ["a", "b", "poison", "c", "d"]) as mapping:
        result = await mapping.run(until_caught_up=True, decide=asked)
    assert asked.contents == [["a", "b", "poison", "c"], ["poison", "c"], ["poison"]]
    assert noted(place) == [["a", "b", "poison", "c"], ["a", "b"], ["poison", "c"], ["poison"], ["c"], ["d"]]
    assert (result.why, result.records, result.discarded) == ("caught up", 4, 1)
    assert result.resumes_at == {SHARD: 5}


@trio_test
async def test_quitting_ends_the_run_in_front_of_the_batch(place):
    asked = Asked()
    async with mapping_on(place, ["a", "poison", "b"], batch_size=1) as mapping:
        result = await mapping.run(until_caught_up=True, decide=asked)
    assert asked.contents == [["poison"]]
    assert noted(place) == [["a"], ["poison"]]
    assert (result.why, result.resumes_at) == ("stopped", {SHARD: 1})


@trio_test
async def test_a_retry_is_the_same_batch_at_once_whatever_the_options_say_of_retries(place):
    asked = Asked(Decision.RETRY, Decision.RETRY)
    async with mapping_on(place, ["poison", "a"], maximum_retry_attempts=0) as mapping:
        with trio.fail_after(5):
            await mapping.run(until_caught_up=True, decide=asked)
    assert noted(place) == [["poison", "a"]] * 3
    assert [stop.attempts for stop in asked.stops] == [1, 2, 3]


@trio_test
async def test_what_is_asked_has_the_error_and_the_event_as_the_handler_had_it(place):
    asked = Asked()
    async with mapping_on(place, ["a", "poison"]) as mapping:
        await mapping.run(until_caught_up=True, decide=asked)
    (stop,) = asked.stops
    assert (stop.shard_id, stop.first_offset) == (SHARD, 0)
    assert stop.fault[:2] == ("ValueError", "poisoned")
    assert any("failing.py" in frame for frame in orjson.loads(stop.fault.document)["stackTrace"])
    records = orjson.loads(stop.event)["Records"]
    assert [record["kinesis"]["sequenceNumber"] for record in records] == [row.sequence_number for row in stop.rows]
    assert records[0]["eventSource"] == "aws:kinesis"


@trio_test
async def test_while_somebody_is_asked_no_shard_goes_on(place):
    seen = []

    async def decide(stop):
        before = list(noted(place))
        await trio.sleep(0.1)
        seen.append(noted(place) == before)
        return Decision.SKIP

    contents = [f"poison {number}" if number < 2 else str(number) for number in range(200)]
    async with mapping_on(place, contents, shards=2, batch_size=1, workers=2) as mapping:
        result = await mapping.run(until_caught_up=True, decide=decide)
    assert seen == [True, True]
    assert (result.records, result.discarded) == (198, 2)


@trio_test
async def test_a_run_that_is_drained_while_somebody_is_asked_ends(place):
    async def never(stop):
        await trio.sleep_forever()

    async with mapping_on(place, ["poison"]) as mapping, trio.open_nursery() as nursery:
        results = []

        async def run():
            results.append(await mapping.run(until_caught_up=True, decide=never))

        nursery.start_soon(run)
        await until(lambda: mapping.paused)
        mapping.drain()
        with trio.fail_after(5):
            await until(lambda: results)
    assert results[0].why == "drained"
    assert results[0].resumes_at == {SHARD: 0}


@trio_test
async def test_what_fails_while_a_run_is_drained_is_not_asked_about(place):
    asked = Asked()
    async with mapping_on(place, ["a"], "failing.fails_late") as mapping, trio.open_nursery() as nursery:
        nursery.start_soon(partial(mapping.run, until_caught_up=True, decide=asked))
        await until((place.notes / "noted").exists)
        mapping.drain()
    assert asked.stops == []
    assert (mapping.result().why, mapping.counts.errors) == ("drained", 1)


@trio_test
async def test_records_that_a_response_reports_are_asked_about_from_the_first_one_on(place):
    asked = Asked(Decision.BISECT, Decision.SKIP)
    options = {"function_response_types": ["ReportBatchItemFailures"]}
    async with mapping_on(place, ["a", "poison", "b", "c"], "failing.reports", **options) as mapping:
        result = await mapping.run(until_caught_up=True, decide=asked)
    assert asked.contents == [["poison", "b", "c"], ["poison"]]
    assert asked.stops[0].fault.error_type == "BatchItemFailures"
    assert (result.records, result.discarded) == (3, 1)


@trio_test
async def test_a_failed_batch_of_a_window_has_its_state_in_the_event(place):
    asked = Asked(Decision.RETRY, Decision.RETRY)
    options = {"tumbling_window_in_seconds": 900, "function_response_types": ["ReportBatchItemFailures"]}
    async with mapping_on(place, ["a", "poison"], "windowed.reports", batch_size=1, **options) as mapping:
        result = await mapping.run(until_caught_up=True, decide=asked)
    for stop in asked.stops:
        event = orjson.loads(stop.event)
        assert event["state"] == {"seen": ["a"]}
        assert event["isFinalInvokeForWindow"] is False
        assert len(event["Records"]) == 1
    assert [stop.attempts for stop in asked.stops] == [1, 2]
    assert (result.why, result.records) == ("caught up", 2)


@trio_test
async def test_time_stands_still_for_a_schedule_while_somebody_is_asked(place):
    began = {}

    async def decide(stop):
        await trio.sleep(0.5)  # all the others would have become due
        return Decision.SKIP

    async with mapping_on(place, ["a"] * 5 + ["poison"] + ["b"] * 10, batch_size=1) as mapping:
        mapping.watch(lambda outcome: began.setdefault(outcome.first_offset, outcome.started_ns))
        schedule = FixedRate(40, {SHARD: Stretch(0, 16)})
        result = await mapping.run(until_caught_up=True, schedule=schedule, decide=decide)
    assert result.records == 15
    before, after = began[4] - began[0], began[15] - began[6]
    assert after > before  # nine intervals of the schedule, and four
