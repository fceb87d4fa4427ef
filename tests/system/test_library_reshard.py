"""Splitting and merging from a program, while it puts, reads and runs."""

import pytest
import trio
from library_rig import FUNCTIONS
from trio.testing import trio_test

import streamfn

FIRST = "shardId-000000000000"


@pytest.fixture(autouse=True)
def functions_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(FUNCTIONS))


def in_order(stored):
    """The numbers that were put with each key, in the order in which they came."""
    found = {}
    for record in stored:
        key, number = record.data.split()
        found.setdefault(key, []).append(int(number))
    return found


@trio_test
async def test_a_stream_is_resharded_under_a_program_that_goes_on_putting(tmp_path):
    async with streamfn.open(tmp_path / "data") as session:
        await session.create_stream("s")
        stopped = trio.Event()

        async def keep_putting(name):
            number = 0
            while not stopped.is_set():
                await session.put("s", f"{name} {number}", partition_key=name)
                number += 1

        async with trio.open_nursery() as nursery:
            for name in "abcdefgh":
                nursery.start_soon(keep_putting, name)
            await trio.sleep(0.05)
            split = await session.split_shard("s", FIRST)
            assert [shard.parents for shard in split.open_shards] == [(FIRST,), (FIRST,)]
            await trio.sleep(0.05)
            await session.update_shard_count("s", 3)
            await trio.sleep(0.05)
            low, middle, _ = (await session.stream("s")).open_shards
            merged = await session.merge_shards("s", low.id, middle.id)
            await trio.sleep(0.05)
            stopped.set()
        assert len(merged.open_shards) == 2

        stored = [record async for record in session.records("s")]
        found = in_order(stored)
        assert sorted(found) == [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"]
        for numbers in found.values():
            assert sorted(numbers) == list(range(len(numbers))), "each once"
        assert {record.shard_id for record in stored} > {shard.id for shard in merged.open_shards}

        async with session.mapping("library.count", "s", workers=1, code_dir=FUNCTIONS) as mapping:
            result = await mapping.run_until_caught_up()
        assert result.records == len(stored)


@trio_test
async def test_following_goes_on_in_the_children(tmp_path):
    async with streamfn.open(tmp_path / "data") as session:
        await session.create_stream("s")
        await session.put("s", "k 0")
        found = []
        async with trio.open_nursery() as nursery:

            async def follow():
                async with session.records("s", follow=True) as records:
                    async for record in records:
                        found.append(record.data)
                        if len(found) == 40:
                            return

            nursery.start_soon(follow)
            for number in range(1, 40):
                await session.put("s", f"k {number}")
                if number in (5, 15, 25):
                    stream = await session.stream("s")
                    await session.split_shard("s", stream.open_shards[0].id)
        assert sorted(found) == sorted(b"k %d" % number for number in range(40))


def test_the_sync_door_does_the_same(tmp_path):
    with streamfn.open_sync(tmp_path / "data") as session:
        session.create_stream("s", shards=2)
        session.put("s", "x", partition_key="k")
        first, second = session.stream("s").open_shards
        assert len(session.merge_shards("s", first.id, second.id).open_shards) == 1
        assert len(session.update_shard_count("s", 2).open_shards) == 2
        stream = session.split_shard("s", session.stream("s").open_shards[0].id, 77)
        assert stream.open_shards[0].end_hash == 76
        with pytest.raises(streamfn.RefusedError, match="already been merged or split"):
            session.split_shard("s", first.id)
