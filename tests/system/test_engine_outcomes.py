"""What is told of invocations: to the log, and to who watches."""

import time

import pytest
import trio
from engine_rig import FUNCTIONS, PATIENCE_S, Log, one_mapping, some, until
from run_rig import report_blocks
from trio.testing import trio_test

import streamfn


@trio_test
async def test_an_invocation_that_printed_early_gets_its_end_and_report(tmp_path):
    log = Log()
    async with one_mapping(tmp_path, "prints_early", some(3), batch_size=1, log=log) as (_, mapping):
        await mapping.run_until_caught_up()
        assert mapping._inner._logs._begun == {}
    blocks = report_blocks(log.text)
    assert len({request_id for request_id, _, _ in blocks}) == 3
    assert [body for _, body, _ in blocks] == [["early"]] * 3
    assert log.text.count("START ") == 3


@trio_test
async def test_outcomes_opened_during_a_run_miss_nothing(tmp_path):
    async with one_mapping(tmp_path, "naps", some(100), batch_size=1) as (_, mapping):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapping.run_until_caught_up)
            await until(lambda: mapping._inner.counts.batches > 20)
            before = mapping._inner.counts.batches
            async with mapping.outcomes() as outcomes:
                seen = [outcome.first_offset async for outcome in outcomes]
        assert seen == list(range(before, 100))


@trio_test
async def test_outcomes_of_a_second_run_miss_nothing(tmp_path):
    async with one_mapping(tmp_path, "noop", some(10), batch_size=1) as (session, mapping):
        await mapping.run_until_caught_up()
        await session.put_many("s", some(10))
        async with trio.open_nursery() as nursery, mapping.outcomes() as outcomes:
            nursery.start_soon(mapping.run_until_caught_up)
            seen = [outcome.first_offset async for outcome in outcomes]
    assert seen == list(range(10, 20))


@trio_test
async def test_successes_come_folded_again_when_the_last_watcher_has_left(tmp_path):
    async with one_mapping(tmp_path, "naps", some(200), batch_size=1, workers=2) as (_, mapping):
        inner = mapping._inner
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapping.run_until_caught_up)
            await until(lambda: inner.counts.batches > 3)
            first, second = mapping.open_feed(), mapping.open_feed()
            assert not any(worker.fold for worker in inner.function.workers)
            mapping.close_feed(first)
            assert not any(worker.fold for worker in inner.function.workers)
            assert inner.lanes[0].busy
            mapping.close_feed(second)
            assert all(worker.fold for worker in inner.function.workers)
            mapping.drain()


@trio_test
async def test_a_log_that_raises_costs_its_lines_and_no_run(tmp_path, capsys):
    class Broken:
        def write(self, text):
            raise TypeError("a bytes-like object is required")

    async with one_mapping(tmp_path, "prints", some(3), batch_size=1, log=Broken()) as (session, mapping):
        with trio.fail_after(PATIENCE_S):
            assert (await mapping.run_until_caught_up()).records == 3
            await session.put("s", b"x")
            assert (await mapping.run_until_caught_up()).records == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "streamfn: nothing more is logged, for the log raised TypeError('a bytes-like object is required')"
    ]


@pytest.mark.conformance(
    "retries/not-to-blame",
    source="ours",
    rule="An invocation that was killed for the sake of another mapping on the same workers costs no attempt, as "
    "throttles and errors of the service cost none.",
)
@trio_test
async def test_a_worker_that_is_killed_for_another_mapping_costs_no_attempt(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTES", str(tmp_path))
    async with streamfn.open(tmp_path / "d", log=Log()) as session:
        await session.put_many("s", some(2))
        await session.put_many("other", some(40))
        async with session.function("engine.noted", workers=1, code_dir=FUNCTIONS) as function:
            mine = session.mapping(function, "s", batch_size=1, maximum_retry_attempts=0)
            async with mine as mapping, session.mapping(function, "other", batch_size=1) as other:
                scope, results = trio.CancelScope(), []

                async def run_other():
                    with scope:
                        await other.run()

                async def run():
                    results.append(await mapping.run_until_caught_up())

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run)
                    nursery.start_soon(run_other)
                    inner = mapping._inner
                    (worker,) = inner.function.workers

                    def ours_runs_beside_theirs():
                        seats = [seat for seat, _, _ in worker.staged]
                        owners = [seat.client.feed.owner for seat in seats]
                        return other._inner in owners and owners[0] is inner

                    await until(ours_runs_beside_theirs)
                    scope.cancel()
    (result,) = results
    assert (result.records, result.discarded) == (2, 0)


@trio_test
async def test_a_record_that_expires_while_it_is_retried_is_discarded_and_the_next_one_goes_on(tmp_path, monkeypatch):
    """The record clock is two minutes ahead from the first failure on until something was discarded."""
    monkeypatch.setenv("NOTES", str(tmp_path))
    options = {"batch_size": 1, "maximum_record_age_in_seconds": 60}
    fresh = streamfn.NewRecord(b"y", "key", arrival_ms=time.time_ns() // 1_000_000 + 115_000)
    async with one_mapping(tmp_path, "fails_once", [*some(1), fresh], log=Log(), **options) as (_, mapping):
        inner = mapping._inner
        now_ms = inner.time_ms

        def record_ms():
            return now_ms() + (120_000 if inner.counts.errors and not inner.counts.discarded else 0)

        monkeypatch.setattr(inner, "record_ms", record_ms)
        with trio.fail_after(PATIENCE_S):
            result = await mapping.run_until_caught_up()
        (kept,) = await trio.to_thread.run_sync(lambda: inner.runtime.store.discards(inner.uuid))
    assert (result.records, result.errors, result.discarded) == (1, 1, 1)
    assert (kept.discard.first_offset, kept.discard.end_offset, kept.discard.reason) == (0, 1, "RecordAgeExceeded")
    assert kept.discard.failure.attempts == 1
