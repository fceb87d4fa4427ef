"""A split on a disk that forgets: whatever a loss of power leaves, the shard was split or it was not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from crash_world import newborn

from streamfn.errors import ShardClosed, StreamfnError
from streamfn.log.catalog import datadir
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.disk import write_file
from streamfn.log.upkeep import reshard
from streamfn.testing.disk import SimDisk
from streamfn.testing.volatile import Crash, Image
from streamfn.types import NewRecord

ROOT = Path("/data")
FIRST = "shardId-000000000000"
CONTENT = [b"a", b"b" * 600, b"c"]


@contextmanager
def in_memory() -> Iterator[None]:
    """What a data directory asks the system beside its disk is left out; one shard at a time, and small segments."""
    defaults = ShardWriter.open.__func__.__kwdefaults__  # type: ignore[attr-defined]
    with (
        mock.patch.dict(defaults, segment_bytes=8192),
        mock.patch.multiple(DataDir, require_writable=mock.DEFAULT, _sweep=mock.DEFAULT, _sweep_shards=mock.DEFAULT),
        mock.patch.object(reshard, "_AT_ONCE", 1),
    ):
        yield


def moments(disk_type: type[SimDisk] = SimDisk) -> tuple[list[Crash], Crash]:
    """Every moment of a split, and the one after it was acknowledged."""
    image, shard = newborn()
    disk = SimDisk(image)
    with ShardWriter.open(shard._replace(disk=disk)) as writer:
        writer.append([NewRecord(data, "k") for data in CONTENT])
    disk = disk_type(disk.crash().kept())
    found: list[Crash] = []
    disk.changed = lambda: found.append(disk.crash())
    reshard.split_shard(DataDir(ROOT, disk), "s", FIRST)
    disk.changed = None
    return found, disk.crash()


def content(shard: Shard) -> list[bytes]:
    found: list[bytes] = []
    with ShardReader.open(shard, 0) as reader:
        while messages := reader.poll(1 << 20):
            found += [record.data for message in messages for record in records(message)]
    return found


def judge(image: Image, *, acknowledged: bool) -> bool:
    """Whether the shard is split there; AssertionError and whatever else is raised is a promise broken."""
    stream: Stream = DataDir(ROOT, SimDisk(image)).stream("s")
    parent, *children = stream.shards
    assert len(children) in (0, 2)
    assert children or not acknowledged, "an acknowledged split is gone"
    assert content(parent) == CONTENT
    if children:
        assert parent.end_offset == len(CONTENT)
        with pytest.raises(ShardClosed):
            ShardWriter.open(parent)
    for shard in stream.open_shards:
        before = content(shard)
        with ShardWriter.open(shard) as writer:
            writer.append([NewRecord(b"new", "k")])
        assert content(shard) == [*before, b"new"]
    return bool(children)


def judge_all(made: tuple[list[Crash], Crash], seed: int, limit: int = 40) -> tuple[int, int]:
    """How many states were judged, and in how many of them the shard is split."""
    chance = random.Random(seed)
    found, after = made
    judged = split = 0
    for crash, acknowledged in [*((crash, False) for crash in found), (after, True)]:
        for image in [crash.killed(), *crash.states(limit, chance)]:
            split += judge(image, acknowledged=acknowledged)
            judged += 1
    return judged, split


def test_whatever_a_crash_leaves_the_shard_was_split_or_it_was_not(crash_seed: int) -> None:
    with in_memory():
        judged, split = judge_all(moments(), crash_seed)
    print(f"{judged} states, seed {crash_seed}: split in {split}")
    assert judged > 500
    assert 0 < split < judged


class ForgetsTheChildrensNames(SimDisk):
    """Does not sync the stream's directory before its description speaks of the children."""

    described = False

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.described = self.described or target.name == "stream.json"

    def sync_directory(self, path: Path) -> None:
        if path.parent.name != "streams" or self.described:
            super().sync_directory(path)


def _careless(stream: Stream, directory: Path, shards: list[Shard]) -> None:
    for shard in shards:
        place = directory / shard.directory.name
        stream.disk.make_directory(place)
        write_file(stream.disk, place / "lock", b"")
        write_file(stream.disk, place / "commit", b"")


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(lambda: moments(ForgetsTheChildrensNames), id="the children's names are not synced"),
        pytest.param(
            lambda: mock.patch.object(datadir, "make_shard_directories", _careless)(moments)(),
            id="what is in their directories is not synced",
        ),
    ],
)
def test_a_planted_bug_is_found(plant: Callable[[], tuple[list[Crash], Crash]], crash_seed: int) -> None:
    with in_memory(), pytest.raises((AssertionError, StreamfnError, OSError)) as caught:
        judge_all(plant(), crash_seed)
    print(f"seed {crash_seed}: {caught.value!r}")
