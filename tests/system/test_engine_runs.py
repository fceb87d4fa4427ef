"""Runs that fail, are cancelled, follow each other: what is handed over, in which order, and what is left."""

import threading

import pytest
import trio
import trio.testing
from engine_rig import PATIENCE_S, Log, one_mapping, some, stored, until
from library_rig import FUNCTIONS, children, count_fds, wait_for
from trio.testing import trio_test

import streamfn
from streamfn.errors import BusyError
from streamfn.mapping import feeds
from streamfn.mapping.lane import ShardLane
from streamfn.state.store import Store


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTES", str(tmp_path))
    return tmp_path


@trio_test
async def test_a_failed_batch_is_retried_until_caught_up(tmp_path):
    async with one_mapping(tmp_path, "fails_once", some(5), log=Log(), batch_size=2) as (_, mapping):
        with trio.fail_after(PATIENCE_S):
            result = await mapping.run_until_caught_up()
    assert (result.records, result.batches, result.errors) == (5, 3, 1)


@trio_test
async def test_a_record_that_cannot_be_sent_is_discarded_and_what_is_behind_it_goes_on(tmp_path):
    records = [*some(150), streamfn.NewRecord(b"y" * 5_000_000, "key"), *some(7)]
    async with one_mapping(tmp_path, "noop", records, log=Log()) as (_, mapping):
        with trio.fail_after(PATIENCE_S):
            result = await mapping.run_until_caught_up()
        (kept,) = await trio.to_thread.run_sync(lambda: mapping._inner.runtime.store.discards(mapping._inner.uuid))
    assert (result.records, result.discarded, result.errors) == (157, 1, 0)
    assert (kept.discard.first_offset, kept.discard.end_offset, kept.discard.reason) == (150, 151, "RecordTooLarge")


@trio_test
async def test_a_cancelled_run_leaves_nothing_in_flight(tmp_path):
    async with one_mapping(tmp_path, "noop", some(20_000), batch_size=1, workers=2) as (_, mapping):
        inner, scope = mapping._inner, trio.CancelScope()
        async with trio.open_nursery() as nursery:

            async def run():
                with scope:
                    await mapping.run_until_caught_up()

            nursery.start_soon(run)
            await until(lambda: inner.counts.batches > 100)
            scope.cancel()
        assert scope.cancelled_caught
        assert not any(lane.busy for lane in inner.lanes)
        assert not any(worker.in_flight for worker in inner.function.workers)
        # Behind a commit that was on its way when the run was cancelled.
        first = await inner.runtime.disk(inner.runtime.store.checkpoints, inner.uuid)
        with trio.fail_after(PATIENCE_S):
            result = await mapping.run_until_caught_up()
        assert sum(point.offset for point in first.values()) + result.records == 20_000


@trio_test
async def test_a_second_run_on_the_same_mapping_keeps_the_order(tmp_path, notes):
    """Nothing that was staged by the first one runs beside or behind what the second one sends."""
    noted = notes / "noted"
    async with one_mapping(tmp_path, "noted", some(8), batch_size=1, workers=2) as (_, mapping):
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:

            async def run():
                with scope:
                    await mapping.run_until_caught_up()

            nursery.start_soon(run)
            await until(lambda: noted.exists() and "begin 2" in noted.read_text())
            scope.cancel()
        with trio.fail_after(PATIENCE_S):
            await mapping.run_until_caught_up()
    lines = noted.read_text().split("\n")[:-1]
    running, began = None, []
    for line in lines:
        what, offset = line.split()
        if what == "begin":
            assert running is None or began.count(running) == 1, lines  # that one was killed
            running = int(offset)
            began.append(running)
        else:
            assert running == int(offset), lines
            running = None
    again = next(place for place in range(1, len(began)) if began[place] <= began[place - 1])
    assert began[:again] == list(range(again)), began
    assert began[again:] == list(range(began[again], 8)), began
    assert began[again] <= 2


@trio_test
async def test_a_commit_of_a_cancelled_run_may_become_durable_in_the_next_ones_first_moment(tmp_path, monkeypatch):
    begun, go = trio.Event(), threading.Event()
    commit = Store.commit

    def slow(self, *arguments, **options):
        trio.from_thread.run_sync(begun.set)
        assert go.wait(PATIENCE_S)
        return commit(self, *arguments, **options)

    monkeypatch.setattr(Store, "commit", slow)
    async with one_mapping(tmp_path, "noop", some(5)) as (session, mapping):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mapping.run)
                await begun.wait()
                scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapping.run_until_caught_up)
            await trio.testing.wait_all_tasks_blocked()  # it waits for the store, as the commit does for the disk
            go.set()
        assert await stored(session, mapping) == 5


@trio_test
async def test_batches_that_came_back_go_out_although_the_next_ring_was_full(tmp_path, monkeypatch):
    full = []
    room_of = ShardLane._room

    def room(lane, worker):
        machine = lane.machine
        came_back = machine.wake_at(0) == 0 and not machine.buffered_records and not machine.retrying
        if armed and came_back and lane.seat is None and not full:
            full.append(worker)
            return 0
        return room_of(lane, worker)

    armed = []
    monkeypatch.setattr(ShardLane, "_room", room)
    async with one_mapping(tmp_path, "noted", some(4), batch_size=1, workers=2) as (_, mapping):
        inner = mapping._inner

        async def take_back():
            await until(lambda: inner.lanes and not inner.lanes[0].machine.buffered_records and inner.lanes[0].busy)
            await until(lambda: inner.lanes[0].machine.in_flight == 2)
            armed.append(True)
            inner.lanes[0].recalled()
            inner.lanes[0].seat.revoke()
            await until(lambda: full)
            inner.runtime.pool._reaper.tell()  # other lanes keep the pool going

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_back)
                result = await mapping.run_until_caught_up()
    assert full
    assert result.records == 4


@trio_test
async def test_a_mapping_that_cannot_be_bound_leaves_no_function(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise BusyError("the database is locked")

    before = children()
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        with monkeypatch.context() as patch:
            patch.setattr(Store, "bind", refuse)
            with pytest.raises(BusyError, match="the database is locked"):
                await session.run_until_caught_up("engine.noop", "s", code_dir=FUNCTIONS, workers=2)
        assert session._runtime.pool.functions == []
        wait_for(lambda: children() == before)
        result = await session.run_until_caught_up("engine.noop", "s", code_dir=FUNCTIONS, workers=2)
        assert result.records == 1


@trio_test
async def test_runs_one_after_the_other_leave_no_descriptor_and_no_function(tmp_path):
    counts = []
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", some(10))
        for _ in range(6):
            await session.run_until_caught_up("engine.noop", "s", code_dir=FUNCTIONS, workers=1)
            counts.append(count_fds())
        assert session._runtime.pool.functions == []
    assert counts[-1] <= counts[1], counts


@trio_test
async def test_answers_that_come_after_a_cancelled_run_was_let_go_are_nobodys(tmp_path, notes, monkeypatch):
    """A killed worker may take longer to die than a cancelled run waits."""
    monkeypatch.setattr(feeds, "ABANDON_S", 0)
    noted = notes / "noted"
    async with one_mapping(tmp_path, "noted", some(6), batch_size=1) as (_, mapping):
        scope, inner = trio.CancelScope(), mapping._inner
        async with trio.open_nursery() as nursery:

            async def run():
                with scope:
                    await mapping.run_until_caught_up()

            nursery.start_soon(run)
            await until(lambda: noted.exists() and "begin 2" in noted.read_text())
            (worker,) = inner.function.workers
            scope.cancel()
        assert worker.in_flight
        with trio.fail_after(PATIENCE_S):
            await mapping.run_until_caught_up()
        assert not worker.in_flight
        assert not worker.lanes
    begun = [line for line in noted.read_text().splitlines() if line.startswith("begin")]
    assert sorted(set(begun)) == [f"begin {number}" for number in range(6)]
