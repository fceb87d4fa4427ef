"""Checkpoints: durable when a run returns, soon when it does not, and nobody's trouble but their mapping's."""

import threading
import time

import pytest
import trio
import trio.testing
from engine_rig import PATIENCE_S, SHARD, Log, end_of, mapping_of, one_mapping, some, stored, until
from trio.testing import trio_test

import streamfn
from streamfn.errors import DiskFull, Fenced
from streamfn.mapping.checkpointer import Checkpointer
from streamfn.state.store import Store
from streamfn.types import Window


@pytest.fixture
def slow_disk(monkeypatch):
    commit = Store.commit

    def slow(self, *arguments, **options):
        time.sleep(0.02)
        return commit(self, *arguments, **options)

    monkeypatch.setattr(Store, "commit", slow)


class FullDisk:
    """Every commit is refused until `room` is made; `asked` counts them."""

    def __init__(self, monkeypatch):
        self.room, self.asked = False, 0
        commit = Store.commit

        def maybe(store, *arguments, **options):
            self.asked += 1
            if not self.room:
                raise DiskFull("no room for a moment")
            return commit(store, *arguments, **options)

        monkeypatch.setattr(Store, "commit", maybe)


@trio_test
async def test_run_returns_only_when_its_checkpoint_is_durable(tmp_path, slow_disk):
    """Although another mapping's run ends, and commits for both, at the same time."""
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("a", some(3))
        await session.put_many("b", some(3))
        async with mapping_of(session, "naps", "a", name="x") as x, mapping_of(session, "naps", "b", name="y") as y:

            async def run(mapping, delay):
                await trio.sleep(delay)
                result = await mapping.run_until_caught_up()
                assert result.resumes_at == {SHARD: end_of(mapping)}
                assert result.seconds > 0
                assert await stored(session, mapping) == end_of(mapping)

            for number in range(24):
                await session.put("a", b"x")
                await session.put("b", b"x")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run, x, 0)
                    nursery.start_soon(run, y, 0.001 * (number % 24))


@trio_test
async def test_a_flush_waits_for_the_commit_that_another_one_has_begun():
    class Disk:
        begun, go_on = threading.Event(), threading.Event()

        def commit(self, *arguments, **options):
            self.begun.set()
            assert self.go_on.wait(PATIENCE_S)

    class Owner:
        uuid, epoch, durable = "x", 1, 0

        def committed(self, shard_id, offset, window):
            self.durable = offset

        def kept(self):
            pass

        def progress(self):
            return None

    disk, owner = Disk(), Owner()
    checkpointer = Checkpointer(disk, trio.CapacityLimiter(1))
    checkpointer.own(owner)
    checkpointer.moved("x", SHARD, 7, None)

    async def flush():
        await checkpointer.flush()
        assert owner.durable == 7

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush)
        await until(disk.begun.is_set)
        nursery.start_soon(flush)
        await trio.testing.wait_all_tasks_blocked()
        disk.go_on.set()


@trio_test
async def test_a_window_is_committed_with_its_own_checkpoint_also_when_a_commit_before_found_no_room():
    class Disk:
        full, commits = True, []

        def commit(self, uuid, epoch, positions, discards, windows, **more):
            if self.full:
                self.full = False
                checkpointer.moved("x", "b", 9, None, Window(0, 60, b"9"))
                raise DiskFull("full")
            self.commits.append((positions, windows))

    class Owner:
        uuid, epoch = "x", 1

        def __init__(self):
            self.told = {}

        def committed(self, shard_id, offset, window):
            self.told[shard_id] = (offset, window)

        def kept(self):
            pass

        def progress(self):
            return None

        def stall(self, why):
            pass

        def recover(self):
            pass

    disk, owner = Disk(), Owner()
    checkpointer = Checkpointer(disk, trio.CapacityLimiter(1))
    checkpointer.own(owner)
    checkpointer.moved("x", "a", 7, None, Window(0, 60, b"7"))
    checkpointer.moved("x", "b", 8, None, Window(0, 60, b"8"))
    await checkpointer.flush()
    ((positions, windows),) = disk.commits
    assert positions == {"a": (7, None), "b": (9, None)}
    assert windows == {"a": Window(0, 60, b"7"), "b": Window(0, 60, b"9")}
    assert owner.told == {"a": (7, Window(0, 60, b"7")), "b": (9, Window(0, 60, b"9"))}


@trio_test
async def test_checkpoints_follow_a_run_although_earlier_runs_had_nothing_to_commit(tmp_path):
    async with one_mapping(tmp_path, "noop") as (session, mapping):
        for _ in range(3):
            await mapping.run_until_caught_up()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapping.run)
            await session.put("s", b"x")
            with trio.fail_after(PATIENCE_S):
                while await stored(session, mapping) < 1:
                    await trio.sleep(0.001)
            mapping.drain()


@trio_test
async def test_a_commit_that_finds_no_room_pauses_the_run_which_goes_on_when_there_is(tmp_path, monkeypatch):
    disk, log = FullDisk(monkeypatch), Log()
    async with one_mapping(tmp_path, "naps", some(40), batch_size=1, log=log) as (session, mapping):
        async with trio.open_nursery() as nursery:

            async def run():
                assert (await mapping.run_until_caught_up()).records == 40
                assert await stored(session, mapping) == 40

            nursery.start_soon(run)
            await until(lambda: mapping._inner.paused)
            await until(lambda: not mapping._inner.lanes[0].busy)
            assert mapping._inner.counts.records < 40
            disk.room = True
    assert "pauses, and goes on by itself: no room for a moment" in log.text
    assert "goes on\n" in log.text


@trio_test
async def test_a_run_cancelled_while_there_is_no_room_holds_up_neither_others_nor_the_next(tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    async with streamfn.open(tmp_path / "d", log=Log()) as session:
        await session.put_many("a", some(1))
        await session.create_stream("b")
        async with mapping_of(session, "noop", "a", name="x") as x, mapping_of(session, "noop", "b", name="y") as y:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(y.run)
                scope = trio.CancelScope()

                async def run():
                    with scope:
                        await x.run_until_caught_up()

                nursery.start_soon(run)
                await until(lambda: x._inner.paused and y._inner.paused)
                scope.cancel()
                await until(lambda: not x.running)
                disk.room = True
                await session.put("b", b"x")
                await until(lambda: y._inner.counts.records == 1)
                y.drain()
            with trio.fail_after(PATIENCE_S):
                assert (await x.run_until_caught_up()).records == 1


@trio_test
async def test_a_mapping_that_is_taken_over_ends_its_own_run_and_no_other(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.create_stream("s")
        async with mapping_of(session, "noop", name="x") as x, mapping_of(session, "noop", name="y") as y:
            async with trio.open_nursery() as nursery:

                async def taken_over():
                    with pytest.raises(Fenced, match="has been taken over"):
                        await x.run()

                nursery.start_soon(taken_over)
                nursery.start_soon(y.run)
                await session._runtime.disk(session._runtime.store.acquire, x._inner.uuid)
                await session.put("s", b"x")
                await until(lambda: not x.running)
                await session.put("s", b"x")
                await until(lambda: y._inner.counts.records == 2)
                y.drain()
            assert await stored(session, y) == 2
            assert await stored(session, x) == 0
            with pytest.raises(Fenced):
                await x.run_until_caught_up()
