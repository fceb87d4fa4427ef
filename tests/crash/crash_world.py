"""The life of one shard on a simulated disk.

A life begins by opening the shard for writing, takes one step after the other, and may end at any moment.
"""

from __future__ import annotations

import errno
import functools
import json
from pathlib import Path
from typing import Any
from unittest import mock

from crash_told import Moment, Told, expect_same, number_of, whole, without_lost

from streamfn import limits
from streamfn.log.catalog import age
from streamfn.log.catalog.datadir import FORMAT_VERSION, DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.shard import compact, gaps, retention
from streamfn.log.shard.chain import read_chain
from streamfn.log.shard.reader import ShardReader
from streamfn.log.shard.seal import seal
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage import commit
from streamfn.log.storage.commit import Commit
from streamfn.log.storage.disk import write_synced
from streamfn.log.storage.durability import FSYNC, Durability
from streamfn.testing.clock import VirtualClock
from streamfn.testing.disk import SimDisk
from streamfn.testing.volatile import Image
from streamfn.types import NewRecord, Record

SEGMENT_BYTES = 8192  # seven messages or so
RESERVE_BLOCK = 16  # so that one is used up now and then
# What a fault may hit.
_WRITING = {"open", "pwrite", "punch_hole", "rename", "sync", "sync_directory", "truncate", "unlink"}


class QuickPath(str):
    """As much of a Path as the log needs: making those took a third of the time of a simulation."""

    __slots__ = ()

    def __truediv__(self, name: str) -> QuickPath:
        return QuickPath(f"{self}/{name}")

    @property
    def parent(self) -> QuickPath:
        return QuickPath(self.rpartition("/")[0])

    @property
    def name(self) -> str:
        return self.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return "." + self.name.rpartition(".")[2]

    def with_name(self, name: str) -> QuickPath:
        return self.parent / name

    def __getattr__(self, name: str) -> Any:
        return getattr(Path(str(self)), name)  # the rest, as slow as it is

    def with_suffix(self, suffix: str) -> QuickPath:
        return QuickPath(self.rpartition(".")[0] + suffix)


@functools.cache
def newborn(kind: str = "kinesis") -> tuple[Image, Shard]:
    """A disk with a stream of one shard, all of it durable, and the shard."""
    disk = SimDisk()
    for path in ("/data", "/data/streams"):
        disk.make_directory(Path(path))
    write_synced(disk, Path("/data/format"), json.dumps({"streamfn": FORMAT_VERSION}).encode())
    with (
        mock.patch("secrets.token_hex", return_value="00c0ffee00c0ffee"),
        mock.patch.multiple(DataDir, require_writable=mock.DEFAULT, _sweep=mock.DEFAULT),
    ):
        stream = DataDir(Path("/data"), disk).create_stream("s", kind=kind)
    (shard,) = stream.shards
    return disk.crash().kept(), shard._replace(directory=QuickPath(shard.directory))


# Of the first records: small ones, and one whose end may be torn off while its beginning is whole.
_SIZES = (60, 560, 150, 290)


@functools.cache
def made(offset: int, life: int) -> NewRecord:
    """The record that this life appends at this offset; no two are alike, and they end anywhere in a sector."""
    size = _SIZES[offset] if offset < len(_SIZES) else (offset * 149 + life * 61) % 700
    filler = bytes((offset * 7 + life * 31 + i * i) % 256 for i in range(size))
    return NewRecord(b"%d/%d:" % (life, offset) + filler, f"key-{offset % 3}", 1000 + offset)


class Life:
    """A shard open for writing, and the mapping that consumes it."""

    def __init__(
        self, disk: SimDisk, told: Told, durability: Durability = FSYNC, moments: list[Moment] | None = None
    ) -> None:
        self.disk = disk
        self.shard = newborn()[1]._replace(disk=disk)
        self.told = told._replace(lives=told.lives + 1, weak=told.weak or not durability.synced)
        self.durability = durability
        self.unsealed: list[tuple[int, int]] = []
        self.faulted = False
        self._moments: list[Moment] | None = None
        if moments is not None:
            self.watch(moments)
        self.writer = ShardWriter.open(
            self.shard,
            wait_s=0,
            clock=VirtualClock(),
            segment_bytes=SEGMENT_BYTES,
            durability=durability,
            threaded=False,
        )
        self._forget_the_lock()
        self.writer._sealer.seal = lambda first, end, *_: self.unsealed.append((first, end))  # a step of its own

    def _forget_the_lock(self) -> None:
        """No promise depends on what the lock file says, so what it may say need not multiply the states."""
        fd = self.disk.open(self.shard.directory / "lock", 0)
        self.disk.sync(fd)
        self.disk.close(fd)

    # ---- what may be found of it

    def watch(self, moments: list[Moment]) -> None:
        """Add every moment from now on to `moments`."""
        self._moments = moments
        self.disk.changed = self._note

    def _note(self) -> None:
        if self._moments is not None:
            self._moments.append(self.moment())

    def moment(self) -> Moment:
        """This moment.  What readers could see now has been told."""
        published = self.published()
        told = self.told
        if published is not None and published.end_offset > told.acknowledged:
            armed, self.disk.before = self.disk.before, None  # this look is none of the log's
            told = without_lost(told, gaps.read(self.shard).gaps)
            self.disk.before = armed
        if published is not None:
            told = told._replace(
                acknowledged=max(told.acknowledged, published.end_offset),
                synced=max(told.synced, published.end_offset if self.durability.synced else published.synced_offset),
            )
        return Moment(self.disk.crash(), told)

    def published(self) -> Commit | None:
        """What readers take from the commit file just now: nothing where it is of an earlier run of the machine."""
        found = commit.decode(self.disk.content(self.shard.directory / "commit"))
        return found if found is not None and found.boot_id == self.disk.boot_id() else None

    def end(self) -> None:
        """Give everything back; the disk stays as it is."""
        self.disk.changed = None
        self.writer._abandon()

    # ---- steps

    def fault(self, calls: int) -> None:
        """Let a call that writes fail, the `calls`-th from now on; a sync that fails loses what it should keep."""
        left = [calls]

        def before(name: str) -> None:
            if name in _WRITING:
                left[0] -= 1
                if not left[0]:
                    self.disk.before = None
                    self.faulted = True
                    raise OSError(errno.EIO, "Input/output error")

        self.disk.before = before

    def step(self, name: str) -> None:
        """Take one step of a script: an operation, for an append with the number of records."""
        operation, _, count = name.partition(":")
        getattr(self, operation)(*[int(count)] if count else [])

    def append(self, count: int = 1) -> None:
        """Append records; under a weaker durability they are acknowledged at once."""
        start = self.writer.end_offset
        self._append([made(offset, self.told.lives) for offset in range(start, start + count)])

    def sourced(self) -> None:
        """Append records that have more columns."""
        start = self.writer.end_offset
        records = [made(offset, self.told.lives) for offset in range(start, start + 2)]
        self._append([record._replace(source_subsequence_number=7) for record in records])

    def captured(self) -> None:
        """Append a record with a sequence number of its own, above all others."""
        end = self.writer.end_offset
        last = self.writer._numbers._last_number(end)  # given or not yet seen by anybody
        number = str(max(last, int(self.told.number[1] or 0)) + 10**30)
        self._append([made(end, self.told.lives)._replace(sequence_number=number)])

    def _append(self, records: list[NewRecord]) -> None:
        self._give(records)
        self.writer.append(records)
        self.told = self.told._replace(written=self.writer.end_offset)
        if not self.durability.synced:
            self.writer.commit()
            self.told = self.told._replace(acknowledged=self.writer.end_offset)

    def _give(self, records: list[NewRecord]) -> None:
        """Tell that these are about to be appended; what an append was refused before may still lie there."""
        end = self.writer.end_offset
        refused = [(offset, record) for offset, record in enumerate(self.told.given) if offset >= end and record]
        given = (*self.told.given[:end], *records)
        self.told = self.told._replace(given=given, refused=(*self.told.refused, *refused))

    def sync(self) -> None:
        """Acknowledge what was appended; under a weaker durability make it durable."""
        self.writer.sync()
        self.acknowledge()

    def acknowledge(self) -> None:
        end = self.writer.end_offset
        self.told = self.told._replace(acknowledged=end, synced=end)

    def roll(self) -> None:
        self.writer.roll()

    def compact(self) -> None:
        """Merge what is sealed, and compress it: nothing may change for readers."""
        self.seal()
        compact.compact(self.shard, 10**12, cold_after_s=0, segment_bytes=2 * SEGMENT_BYTES)

    def straight(self) -> None:
        """Append many records that go straight into sealed segments, durable and visible at once."""
        import pyarrow as pa

        start = self.writer.end_offset
        records = [made(offset, self.told.lives) for offset in range(start, start + 9)]
        self._give(records)
        data, keys, arrival = ([record[column] for record in records] for column in range(3))
        with mock.patch.object(limits, "STRAIGHT_BYTES", 0):
            self.writer.append_columns(pa.array(data), pa.array(keys), pa.array(arrival))
        self.told = self.told._replace(written=self.writer.end_offset)
        self.acknowledge()

    def seal(self) -> None:
        """Seal what is full."""
        while self.unsealed:
            seal(self.shard, *self.unsealed[0], age.Moment(0, 0))
            del self.unsealed[0]

    def trim(self) -> None:
        """Remove the older half of what is sealed."""
        links = retention.removable(read_chain(self.shard).links)
        if links:
            links = links[: (len(links) + 1) // 2]
            self.told = self.told._replace(trimmed=max(self.told.trimmed, links[-1].end_offset or 0))
            retention.trim(self.shard, links, 0)

    def checkpoint(self) -> list[Record]:
        """Deliver what can be seen: the first record fails for good and is discarded, and gaps are passed over."""
        start = self.told.checkpoint
        with ShardReader.open(self.shard, start) as reader:
            seen = whole(reader)
        expect_same(seen, self.told, start)
        if seen.end > start:
            disposed = [(gap.first_offset, gap.end_offset, gap.why) for gap in seen.gaps]
            disposed += [(record.offset, record.offset + 1, "ok") for record in seen.records]
            if seen.records:
                disposed[len(seen.gaps)] = (*disposed[len(seen.gaps)][:2], "failed")
            self.store(seen.end, tuple(disposed))
            self.told = self.told._replace(
                acknowledged=max(seen.end, self.told.acknowledged),
                synced=max(seen.end, self.told.synced) if self.durability.synced else self.told.synced,
                number=max([self.told.number, *map(number_of, seen.records)]),
            )
        return seen.records

    def store(self, checkpoint: int, disposed: tuple[tuple[int, int, str], ...]) -> None:
        """Commit a checkpoint and what it disposes of: one transaction."""
        self.told = self.told._replace(checkpoint=checkpoint, disposed=(*self.told.disposed, *disposed))
        self._note()
