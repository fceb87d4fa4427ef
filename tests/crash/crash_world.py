"""The life of one shard on a simulated disk, and what the outside was told of it while it lasted.

A life begins by opening the shard for writing, takes one step after the other, and may end at any moment.
`Told` is the only witness: what the log promised is computed from it, never from the log's own state.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from streamfn.log import age, commit
from streamfn.log.commit import Commit
from streamfn.log.datadir import FORMAT_VERSION, DataDir
from streamfn.log.disk import write_synced
from streamfn.log.durability import FSYNC, Durability
from streamfn.log.reader import ShardReader, records
from streamfn.log.seal import seal
from streamfn.log.stream import Shard
from streamfn.log.writer import ShardWriter
from streamfn.testing.clock import VirtualClock
from streamfn.testing.disk import SimDisk
from streamfn.testing.volatile import Crash, Image
from streamfn.types import NewRecord, Record

SEGMENT_BYTES = 8192  # seven messages or so


class Violation(Exception):
    """The log broke a promise: which one, and how."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Told(NamedTuple):
    """What the outside knows.  All numbers are offsets; what is said of one holds for every record below it.

    `given`: by offset, every record an append was called with; `written`: the append has returned;
    `acknowledged`: the record was acknowledged, or readers could see it; `synced`: the same under fsync, and
    under the weaker modes that a sync has returned; `checkpoint` and `discards` (first offset, end) as the
    store has them, which is durable by itself; `trimmed`: a trim was asked for.
    """

    given: tuple[NewRecord, ...] = ()
    written: int = 0
    acknowledged: int = 0
    synced: int = 0
    checkpoint: int = 0
    discards: tuple[tuple[int, int], ...] = ()
    trimmed: int = 0
    lives: int = 0


class Moment(NamedTuple):
    """A moment at which a life may end."""

    crash: Crash
    told: Told


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
    return disk.crash().kept(), stream.shards[0]


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
        self,
        disk: SimDisk,
        told: Told,
        durability: Durability = FSYNC,
        moments: list[Moment] | None = None,
    ) -> None:
        self.disk = disk
        self.shard = newborn()[1]._replace(disk=disk)
        self.told = told._replace(lives=told.lives + 1)
        self.durability = durability
        self.unsealed: list[tuple[int, int]] = []
        if moments is not None:
            self.watch(moments)
        self.writer = ShardWriter.open(
            self.shard, wait_s=0, clock=VirtualClock(), segment_bytes=SEGMENT_BYTES, threaded=False
        )
        self._forget_the_lock()
        self.writer._sealer.seal = lambda first, end, *_: self.unsealed.append((first, end))  # a step of its own

    def _forget_the_lock(self) -> None:
        """No promise depends on what the lock file says, so what it may say need not multiply the states."""
        fd = self.disk.open(self.shard.directory / "lock", 0)
        self.disk.sync(fd)
        self.disk.close(fd)

    def watch(self, moments: list[Moment]) -> None:
        """Add every moment from now on to `moments`."""
        self.disk.changed = lambda: moments.append(self.moment())

    def moment(self) -> Moment:
        """This moment.  What readers could see now has been told."""
        published = self.published()
        told = self.told
        if published is not None and published.end_offset > told.acknowledged:
            told = told._replace(acknowledged=published.end_offset, synced=published.end_offset)
        return Moment(self.disk.crash(), told)

    def published(self) -> Commit | None:
        """What the commit file says just now."""
        return commit.decode(self.disk.content(self.shard.directory / "commit"))

    def step(self, name: str) -> None:
        """Take one step of a script: an operation, for an append with the number of records."""
        operation, _, count = name.partition(":")
        getattr(self, operation)(*[int(count)] if count else [])

    def append(self, count: int = 1) -> None:
        start = self.writer.end_offset
        records = tuple(made(offset, self.told.lives) for offset in range(start, start + count))
        self.told = self.told._replace(given=(*self.told.given[:start], *records))
        self.writer.append(records)
        self.told = self.told._replace(written=self.writer.end_offset)

    def sync(self) -> None:
        self.writer.commit()
        self.acknowledge()

    def acknowledge(self) -> None:
        self.told = self.told._replace(acknowledged=self.writer.end_offset, synced=self.writer.end_offset)

    def roll(self) -> None:
        if self.writer.end_offset > self.writer._segment:
            self.writer._roll()

    def seal(self) -> None:
        while self.unsealed:
            seal(self.shard, *self.unsealed[0], age.Moment(0, 0))
            del self.unsealed[0]

    def checkpoint(self) -> None:
        """Deliver what can be seen; the first record fails for good and is discarded, with the checkpoint."""
        start = self.told.checkpoint
        with ShardReader.open(self.shard, start) as reader:
            delivered = whole(reader)
        expect_same(delivered, self.told, start)
        end = start + len(delivered)
        if delivered:
            discards = (*self.told.discards, (start, start + 1))
            self.told = self.told._replace(
                checkpoint=end,
                discards=discards,
                acknowledged=max(end, self.told.acknowledged),
                synced=max(end, self.told.synced),
            )

    def end(self) -> None:
        """Give everything back; the disk stays as it is."""
        self.disk.changed = None
        self.writer._abandon()


def whole(reader: ShardReader) -> list[Record]:
    """Everything that a reader finds, from its position on."""
    found: list[Record] = []
    start = reader.position
    while got := reader.poll(1 << 30):
        for message in got:
            found += records(message)
    return [record for record in found if record.offset >= start]


def expect_same(found: list[Record], told: Told, start: int) -> None:
    """Raise Violation unless the records are those that were given, from offset `start` on, in order."""
    for offset, record in enumerate(found, start):
        if record.offset != offset:
            raise Violation("hole", f"offset {record.offset} follows {offset - 1}")
        if offset >= len(told.given):
            raise Violation("phantom", f"record {record.data[:20]!r} at offset {offset} was never appended")
        given = told.given[offset]
        if (record.data, record.partition_key, record.arrival_ms) != given[:3]:
            raise Violation("wrong-content", f"offset {offset} has {record.data[:20]!r}, not {given.data[:20]!r}")
        if record.sequence_number[-20:] != f"{offset:020d}":
            raise Violation("wrong-number", f"offset {offset} has sequence number {record.sequence_number}")
