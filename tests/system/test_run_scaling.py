"""Workers that come and go, seen from mappings: warm ones, more as lanes wait, shared out among functions."""

import re
from collections import Counter
from dataclasses import replace

import pytest
import trio
from engine_rig import FUNCTIONS, Log, some, until
from trio.testing import trio_test

import streamfn
from streamfn.cli import app
from streamfn.mapping.lane import ShardLane
from streamfn.mapping.runtime import Runtime

SAID = re.compile(r"^(\d+) (True|False) (\S+)$", re.MULTILINE)


async def four_shards(path, log, handler="scaled.slow", shards=4, **options):
    async with streamfn.open(path / "d", log=log) as session:
        await session.create_stream("s", shards=shards)
        await session.put_many("s", some(200))
        options = {"workers": 4, "batch_size": 10, "timeout": 60, "code_dir": FUNCTIONS, **options}
        async with session.mapping(handler, "s", **options) as mapping:
            warm = len(mapping._inner.function.workers)
            result = await mapping.run_until_caught_up()
            assert result.records == 200
            return warm, SAID.findall(log.text)


@trio_test
async def test_provisioned_workers_are_warm_and_others_come_with_the_lanes_that_wait(tmp_path):
    warm, said = await four_shards(tmp_path, Log(), provisioned_concurrency=1)
    assert warm == 1
    kinds = {(pid, kind) for pid, _, kind in said}
    assert len({pid for pid, _ in kinds}) == len(kinds) > 1
    assert sorted(kind for _, kind in kinds) == ["on-demand"] * (len(kinds) - 1) + ["provisioned-concurrency"]


@trio_test
async def test_without_a_word_all_workers_are_warm_and_there_are_no_more(tmp_path):
    warm, said = await four_shards(tmp_path, Log(), workers=2)
    assert warm == 2
    assert len({pid for pid, _, _ in said}) == 2
    assert {kind for _, _, kind in said} == {"on-demand"}


@trio_test
async def test_lanes_that_long_invocations_have_freed_are_spread_over_the_workers(tmp_path):
    _, said = await four_shards(tmp_path, Log(), "scaled.third", shards=8)
    shares = sorted(Counter(pid for pid, _, _ in said).values())
    assert len(shares) == 4
    assert shares[-1] - shares[0] <= 4, "the first that was free again got all the lanes that waited"


@trio_test
async def test_each_spawned_worker_imports_the_handler_itself(tmp_path):
    warm, said = await four_shards(tmp_path, Log(), workers=2, start_method="spawn")
    assert warm == 2
    assert {own for _, own, _ in said} == {"True"}


@trio_test
async def test_what_must_not_be_forked_is_said_and_imported_by_each_worker(tmp_path):
    log = Log()
    _, said = await four_shards(tmp_path, log, workers=2, environment={"SCALED_THREAD": "1"})
    assert {own for _, own, _ in said} == {"True"}
    assert (
        "streamfn: scaled-slow: its import started 1 Python thread(s), which a fork would lose or share: each worker "
        "imports the handler by itself (start method spawn says that beforehand)\n"
    ) in log.text


@trio_test
async def test_functions_share_a_concurrency_and_all_get_their_turn(tmp_path):
    async with streamfn.open(tmp_path / "d", log=Log()) as session:
        handlers = ["engine.noop", "scaled.slow", "engine.naps"]
        for number, handler in enumerate(handlers):
            await session.create_stream(f"s{number}")
            await session.put_many(f"s{number}", some(60))
            options = {"starting_position": "TRIM_HORIZON", "batch_size": 10, "code_dir": FUNCTIONS}
            await session.managed.create(handler, f"s{number}", **options)
        most = 0

        async def watch():
            nonlocal most
            while True:
                functions = session._runtime.pool.functions
                most = max(most, sum(len(each.workers) for each in functions))
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            results = await session.managed.run(until_caught_up=True, concurrency=1)
            nursery.cancel_scope.cancel()
        assert [result.records for result in results.values()] == [60, 60, 60]
        assert most == 1
        assert session._runtime.pool.concurrency is None


@trio_test
async def test_lanes_that_wait_for_their_functions_turn_are_not_asked_at_every_round(tmp_path, monkeypatch):
    in_vain, rounds = [], []
    hand_over, on_round = ShardLane.hand_over, Runtime._on_round

    def counted(self):
        waited = self._waits
        done = hand_over(self)
        if waited and self._waits:
            in_vain.append(self)
        return done

    def counted_rounds(self):
        rounds.append(None)
        on_round(self)

    monkeypatch.setattr(ShardLane, "hand_over", counted)
    monkeypatch.setattr(Runtime, "_on_round", counted_rounds)
    async with streamfn.open(tmp_path / "d", log=Log()) as session:
        for number, handler in enumerate(["engine.naps", "engine.noop"]):
            await session.create_stream(f"s{number}")
            await session.put_many(f"s{number}", some(100))
            options = {"starting_position": "TRIM_HORIZON", "batch_size": 1, "code_dir": FUNCTIONS}
            await session.managed.create(handler, f"s{number}", **options)
        results = await session.managed.run(until_caught_up=True, concurrency=1)
    assert [result.records for result in results.values()] == [100, 100]
    assert len(in_vain) <= 3 < len(rounds) / 5


AT_LEAST_ONE = "Value '0' at 'concurrency' failed to satisfy constraint: Member must have value greater than or equal"
TOO_SMALL = "a concurrency of 1 is too small: what functions have reserved or provisioned is 2"


@pytest.mark.parametrize(
    ("concurrency", "options", "text"),
    [(0, {}, AT_LEAST_ONE), (1, {"workers": 2, "provisioned_concurrency": 2}, TOO_SMALL)],
    ids=["none", "less than is provisioned"],
)
@trio_test
async def test_a_concurrency_that_is_not_enough_is_refused(tmp_path, concurrency, options, text):
    async with streamfn.open(tmp_path / "d", log=Log()) as session:
        await session.create_stream("s")
        await session.managed.create("engine.noop", "s", starting_position="LATEST", code_dir=FUNCTIONS)
        with pytest.raises(streamfn.RefusedError, match=text):
            await session.managed.run(until_caught_up=True, concurrency=concurrency, **options)


@trio_test
async def test_a_mapping_scales_down_to_what_is_warm_when_its_stream_is_quiet(tmp_path):
    async with streamfn.open(tmp_path / "d", log=Log()) as session:
        await session.create_stream("s", shards=4)
        options = {"workers": 4, "provisioned_concurrency": 1, "batch_size": 1, "code_dir": FUNCTIONS}
        async with session.mapping("scaled.slow", "s", **options) as mapping, trio.open_nursery() as nursery:
            nursery.start_soon(mapping.run)
            function = mapping._inner.function
            function.share.bounds = replace(function.share.bounds, idle_ns=200_000_000)
            await session.put_many("s", some(40))
            await until(lambda: len(function.workers) == 4)
            await until(lambda: mapping._inner.counts.records == 40)
            await until(lambda: len(function.workers) == 1)
            mapping.drain()


@trio_test
async def test_a_mapping_that_is_paused_keeps_no_worker_from_others(tmp_path):
    """Its lanes have records, and wait; while nothing may be handed over they are not what workers are made for."""
    async with streamfn.open(tmp_path / "d", log=Log()) as session:
        await session.put_many("s", some(100))
        async with session.function("engine.naps", workers=1, code_dir=FUNCTIONS) as function:
            inner = function._inner
            async with session.mapping(function, "s", batch_size=1) as mapping, trio.open_nursery() as nursery:
                nursery.start_soon(mapping.run)
                await until(lambda: mapping._inner.counts.records > 3)
                inner.workers[0].retire("to see")
                await until(lambda: inner._waiting)
                mapping._inner.pause()
                await until(lambda: not inner._waiting)
                mapping._inner.resume()
                await until(lambda: mapping._inner.counts.records == 100)
                mapping.drain()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--concurrency", "2"), "--concurrency goes without a HANDLER: one function has --workers"),
        (("--workers", "1", "--provisioned-concurrency", "2"), "a provisioned concurrency of 2 needs as many workers"),
        (("--start-method", "thread"), "Member must satisfy enum value set: [fork, spawn]"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(tmp_path, capsys, options, text):
    code = app.run(["run", "app.handler", "--stream", "s", "--data-dir", str(tmp_path / "d"), *options])
    assert code == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
