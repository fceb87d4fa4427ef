"""What the engine does not do: look when nothing moved, keep what no batch can need."""

import re
from pathlib import Path

import trio
from engine_rig import one_mapping, some, until
from trio.testing import trio_test

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
