"""What the engine does not do: look when nothing moved, keep what no batch can need."""

import re
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import trio
from engine_rig import FUNCTIONS, one_mapping, some, until
from trio.testing import trio_test

import streamfn
from streamfn.log.shard.writer import ShardWriter
from streamfn.mapping.feed import ShardFeed
from streamfn.mapping.lane import ShardLane
from streamfn.pool.reaper import Reaper
from streamfn.pool.worker import Worker


@trio_test
async def test_an_idle_mapping_costs_no_cpu(tmp_path, monkeypatch):
    """Counted in reads of the log, looks at a lane and rounds of the pool."""
    done = []

    def counted(owner, name):
        function = getattr(owner, name)

        def call(self, *arguments):
            done.append(name)
            return function(self, *arguments)

        monkeypatch.setattr(owner, name, call)

    counted(ShardFeed, "_read")
    counted(ShardLane, "hand_over")
    counted(Reaper, "_round")
    async with one_mapping(tmp_path, "noop") as (session, mapping):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapping.run)
            await session.put("s", b"x")
            await until(lambda: mapping._inner.counts.records == 1)
            await trio.sleep(0.1)
            done.clear()
            await trio.sleep(0.4)
            assert done == []
            await session.put("s", b"x")
            await until(lambda: mapping._inner.counts.records == 2)
            mapping.drain()


class Wakes(trio.abc.Instrument):
    """How often the event loop woke up."""

    count = 0

    def after_io_wait(self, timeout):
        self.count += 1


@trio_test
async def test_many_idle_mappings_wake_the_runtime_no_more_than_one(tmp_path):
    """A timer for each, however slow, would show: they share one function, whose workers may come and go."""
    wakes, many = Wakes(), 150
    trio.lowlevel.add_instrument(wakes)
    found = {}
    async with streamfn.open(tmp_path / "d") as session, AsyncExitStack() as stack:
        await session.put_many("s", some(10))
        options = {"workers": 8, "provisioned_concurrency": 2, "code_dir": FUNCTIONS}
        function = await stack.enter_async_context(session.function("engine.noop", **options))
        function._inner.share.bounds = replace(function._inner.share.bounds, idle_ns=50_000_000)
        async with trio.open_nursery() as nursery:
            mappings = []
            for number in range(many):
                mappings.append(await stack.enter_async_context(session.mapping(function, "s", name=f"m{number}")))
                nursery.start_soon(mappings[-1].run)
                if number in (0, many - 1):
                    await until(lambda: all(one._inner.counts.records == 10 for one in mappings))
                    await until(lambda: len(function.workers) == 2)
                    await trio.sleep(0.3)
                    wakes.count = 0
                    await trio.sleep(1.0)
                    found[number] = wakes.count
            nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(wakes)
    assert found[many - 1] <= 2 * found[0] + 5


@trio_test
async def test_every_retired_segment_is_unmapped_although_the_ring_is_full(tmp_path, monkeypatch):
    opened, retire, owed, retired = ShardWriter.open.__func__, Worker.let_go, 0, 0

    def small(cls, shard, **options):
        return opened(cls, shard, **{**options, "segment_bytes": 1 << 19})

    def counted(self, segment_id):
        nonlocal owed, retired
        retire(self, segment_id)
        retired += 1
        owed += self.owes

    monkeypatch.setattr(ShardWriter, "open", classmethod(small))
    monkeypatch.setattr(Worker, "let_go", counted)
    monkeypatch.setattr(ShardLane, "_room", lambda self, worker: worker.room)
    async with one_mapping(tmp_path, "noop", batch_size=1) as (session, mapping):
        for _ in range(12):
            await session.put_many("s", some(1000, size=300))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapping.run)
            await until(lambda: mapping._inner.counts.records == 12_000)
            assert retired > 5
            assert owed, "the ring was never full"
            (worker,) = mapping._inner.function.workers
            maps = Path(f"/proc/{worker.pid}/maps")
            await until(lambda: len(set(re.findall(r"\S+\.arrow", maps.read_text()))) <= 1)
            await until(lambda: worker.chores == 0)
            mapping.drain()
