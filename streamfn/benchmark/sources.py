"""Where the records of a benchmark come from: a stream that is there, or one that they are made in when needed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from streamfn.benchmark.part import Part
from streamfn.benchmark.records import Maker, Recipe
from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.segment.rows import rows
from streamfn.log.shard.reader import ShardReader, horizon
from streamfn.types import Record

# Of free memory and disk, how much generated records may take: they are to be read from memory, as fresh ones are.
_ROOM_PART = 0.5
# How much of each shard is looked at for the size of its records.
_LOOK_BYTES = 1 << 20


class Source(Protocol):
    """Records, of which each run takes the first ones."""

    @property
    def stream(self) -> Stream:
        """The stream they are in."""

    @property
    def description(self) -> Mapping[str, object]:
        """What a result says of them: its `kind` is `generated`, `stream` or `file`."""

    @property
    def record_size(self) -> int:
        """Bytes of data of a record; the mean."""

    @property
    def most(self) -> int:
        """How many there may be, at most."""

    @property
    def bound(self) -> str:
        """The same in words, with the reason."""

    @property
    def once(self) -> bool:
        """So many were asked for: they are not to be delivered again when the time is not over yet."""

    def prepare(self, records: int, progress: Callable[[int], None] = lambda made: None) -> Part:
        """Return so many records, or all there may be, made if need be; blocks.

        Raises:
            FailedError, LogError: they cannot be made or read.
        """


class Stored:
    """What is in a stream already; `limit`: the first so many of it."""

    def __init__(self, stream: Stream, description: Mapping[str, object], limit: int | None = None) -> None:
        """Reads the disk.

        Raises:
            RefusedError: the stream has no records.
            LogError: it cannot be read.
        """
        self.stream = stream
        self.description = description
        self._part = Part.of(stream)
        if not self._part.records:
            what = f"{description['kind']} {description.get('file', stream.name)!r}"
            raise RefusedError(f"{what} has no records to measure with")
        self.most = min(self._part.records, limit or self._part.records)
        self.once = limit is not None
        self.bound = f"there are {self.most:,} records"
        self.record_size = _mean_size(stream.shards)

    def prepare(self, records: int, progress: Callable[[int], None] = lambda made: None) -> Part:
        """Return the first ones; see `Source`."""
        return self._part.first(min(records, self.most))


class Generated:
    """Records that are made by a recipe in a stream of their own; `limit`: exactly so many."""

    def __init__(self, data: DataDir, recipe: Recipe, shards: int, limit: int | None = None) -> None:
        """Make the stream.

        Raises:
            RefusedError: there cannot be so many shards.
        """
        self.stream = data.create_stream(f"bench-{len(data.streams())}", shards)
        self._recipe = recipe
        self._maker = Maker(recipe, self.stream)
        self._limit = limit
        self.once = limit is not None
        self.description = {
            "kind": "generated",
            "keys": recipe.keys,
            "key_distribution": str(recipe.distribution),
            "template": recipe.template is not None,
            "seed": recipe.seed,
            "shards": shards,
        }

    @property
    def record_size(self) -> int:
        """The size that was asked for, or the mean of those that were made."""
        if self._recipe.size is not None:
            return self._recipe.size
        return round(self._maker.bytes / self._maker.records) if self._maker.records else len(self._recipe.sample())

    @property
    def most(self) -> int:
        """As many as were asked for, or as many as there is room for in memory."""
        if self._limit is not None:
            return self._limit
        each = self._recipe.bytes_of(1)
        return self._maker.records + max(1, math.floor(_ROOM_PART * _room(self.stream.directory) / each))

    @property
    def bound(self) -> str:
        """The same in words."""
        if self._limit is not None:
            return f"--records says {self._limit:,}"
        return f"half of the free memory or disk has room for {self.most:,} records (fewer bytes each: --record-size)"

    def prepare(self, records: int, progress: Callable[[int], None] = lambda made: None) -> Part:
        """Return so many, made before if there are fewer; see `Source`."""
        records = min(records, self.most)
        if records > self._maker.records:
            self._maker.make(records - self._maker.records, progress)
        return Part.of(self.stream).first(records)


def _room(directory: str | os.PathLike[str]) -> int:
    """How many bytes are free on a disk, and in memory to keep what is written there; the smaller one."""
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    with open("/proc/meminfo", "rb") as file:
        for name, _, value in (line.partition(b":") for line in file):
            if name == b"MemAvailable":
                return min(free, int(value.split()[0]) * 1024)
    return free


def _mean_size(shards: Sequence[Shard]) -> int:
    """The mean size of the first records of each shard: data of records, keys and images of changes."""
    sizes = []
    for shard in shards:
        with ShardReader.open(shard, horizon(shard)) as reader:
            for message in reader.poll(_LOOK_BYTES):
                for row in rows(message):
                    if isinstance(row, Record):
                        sizes.append(len(row.data))
                    else:
                        sizes.append(sum(len(image) for image in (row.keys, row.new_image, row.old_image) if image))
    return round(sum(sizes) / len(sizes)) if sizes else 0
