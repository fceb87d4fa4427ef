"""What is told of invocations: to the log, and to who watches."""

import trio
from engine_rig import PATIENCE_S, Log, one_mapping, some, until
from run_rig import report_blocks
from trio.testing import trio_test


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
