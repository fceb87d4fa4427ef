"""Many records into a stream, fast, with a known last durable line.

Rows are gathered into groups of some tens of MiB, columns into larger ones.  A group is divided among the
shards, appended and committed by a thread while the next one is being read; a group that the disk has no room
for is refused whole, before anything of it is appended.  So after each group, and after any failure but one,
exactly the records up to `durable_line` are in the stream.  The one: something else takes the room, or a disk
fails, in the middle of a group; then `partly_stored` says that some shards have records from behind that line.
"""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from streamfn.doors.grouping import Columns, Item, append_rows, columns_of, listed, overhead, weight
from streamfn.doors.openfiles import allow_open_files
from streamfn.errors import DiskFull
from streamfn.formats.rows import Changes, Rows
from streamfn.limits import FREE_BYTES_MIN, MIB
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.format.changes import item_key
from streamfn.log.producer.porter import Porter
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.sharing.broker import request_release
from streamfn.log.storage.durability import FSYNC, Durability
from streamfn.types import NewChange

GROUP_BYTES = 32 * MIB
# The same for columns, which have no object for each record: about a segment, which an append of that size fills.
COLUMN_GROUP_BYTES = 96 * MIB
# What a group takes on disk beside its records: messages' metadata, and a new segment's header a shard.
_SHARD_BYTES = 16 * 1024
# Keys repeat where they come from a field, and then looking them up costs a tenth of hashing them.
_KEYS_REMEMBERED = 65_536


class Loader(ABC):
    """Gathers rows and has them stored by a thread.  One thread's; a context manager that stores what it was given.

    `durable_line` is the last line of the file whose records are durable, `records` and `bytes` what was stored and
    what was taken.  Left with an exception, it stores nothing more, and what is gathered is dropped.
    """

    def __init__(self, stream: Stream, durability: Durability) -> None:
        self.stream = stream
        self.durability = durability
        self.durable_line = 0
        self.records = 0
        self.bytes = 0
        self.partly_stored = False
        self._failed = False
        self._open = ExitStack()
        self._porter = Porter(durability)
        self._thread = ThreadPoolExecutor(1, "streamfn-loader")
        self._storing: Future[None] | None = None
        self._group: list[Item] = []
        self._group_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self.close()

    def close(self) -> None:
        """Release the shards; what was taken and is not durable yet is dropped."""
        self._thread.shutdown()
        self._porter.close()
        self._open.close()

    def add(self, item: Item) -> None:
        """Take rows or changes; now and then wait until those before are durable.

        Raises:
            DiskFull: there is no room; see the top of the file.
            LogError: a disk failed.
        """
        _, size = weight(item)
        self.bytes += size
        columns = isinstance(item, Rows) and isinstance(item.data, pa.Array)
        self._group.append(item)
        self._group_bytes += size + overhead(item)
        if self._group_bytes >= (COLUMN_GROUP_BYTES if columns else GROUP_BYTES):
            self._submit()

    def flush(self) -> None:
        """Wait until everything that was taken is durable; errors as of `add`.

        After an error nothing more is stored, and this does nothing.
        """
        self._submit()
        self._wait()

    def begin_file(self) -> None:
        """Count lines from the begin again; what was taken before is durable when this returns."""
        self.flush()
        self.durable_line = 0

    @abstractmethod
    def _writers(self) -> Collection[ShardWriter]:
        """Return the writers that are open."""

    @abstractmethod
    def _append(self, group: list[Item]) -> None:
        """Append a group to its shards, in the order of the file."""

    def _submit(self) -> None:
        self._wait()
        group, self._group, size, self._group_bytes = self._group, [], self._group_bytes, 0
        if group and not self._failed:
            self._storing = self._thread.submit(self._store, group, size)

    def _wait(self) -> None:
        storing, self._storing = self._storing, None
        if storing is not None:
            try:
                storing.result()
            except BaseException:
                self._failed = True
                raise

    def _store(self, group: list[Item], size: int) -> None:
        """Append and commit one group; runs in the loader's thread."""
        with self._porter.exclusive():
            self._store_alone(group, size)

    def _store_alone(self, group: list[Item], size: int) -> None:
        self._require_room(size)
        ends = [writer.end_offset for writer in self._writers()]
        try:
            self._append(group)
        except BaseException:
            self.partly_stored = ends != [writer.end_offset for writer in self._writers()]
            raise
        self.partly_stored = True
        for writer in self._writers():
            writer.commit()
        self.partly_stored = False
        self.records += sum(weight(item)[0] for item in group)
        self.durable_line = group[-1].last_line

    def _require_room(self, size: int) -> None:
        """Raise DiskFull unless all of a group fits, so that none of it is stored on one shard only."""
        need = size + _SHARD_BYTES * len(self._writers())
        status = os.statvfs(self.stream.directory)
        floor = min(FREE_BYTES_MIN, status.f_blocks * status.f_frsize // 4)
        free = status.f_bavail * status.f_frsize
        if free < need + floor:
            raise DiskFull(
                f"no space left in {self.stream.directory}: {free} bytes are free, {need + floor} are needed"
            )


class StreamLoader(Loader):
    """Into all open shards of a stream, as the records' keys say; what others put meanwhile is taken along."""

    def __init__(self, stream: Stream, durability: Durability = FSYNC) -> None:
        """Take the lock of every open shard.

        Raises:
            BusyError: another process writes to one; the text names its pid.
            LogError: a shard is damaged or cannot be written.
        """
        super().__init__(stream, durability)
        self._shard_index = lru_cache(_KEYS_REMEMBERED)(stream.shard_index)
        self._by_index: list[ShardWriter] = []
        allow_open_files(8 * len(stream.open_shards))
        with ExitStack() as opening:
            opening.callback(self._porter.close)
            for shard in stream.open_shards:
                request_release(shard)
                writer = ShardWriter.open(shard, durability=durability)
                self._by_index.append(opening.enter_context(writer))
            self._open = opening.pop_all()
        self._porter.add(self._by_index, serve=True)

    def _writers(self) -> Collection[ShardWriter]:
        return self._by_index

    def _append(self, group: list[Item]) -> None:
        rows = [item for item in group if isinstance(item, Rows)]
        if rows and len(self._by_index) == 1:
            append_rows(self._by_index[0], rows)
        elif rows:
            self._divide(columns_of(rows), (listed(some.keys) for some in rows))
        changes = [change for item in group if isinstance(item, Changes) for change in item.changes]
        by_shard: dict[int, list[NewChange]] = {}
        for change in changes:
            by_shard.setdefault(self._shard_index(item_key(change.keys)), []).append(change)
        for number, mine in by_shard.items():
            self._by_index[number].append_changes(mine)

    def _divide(self, columns: Columns, keys: Iterable[Sequence[str]]) -> None:
        # Filtering lets the GIL go, so that the next group is being read meanwhile.
        numbers = map(self._shard_index, itertools.chain.from_iterable(keys))
        shard_numbers = pa.array(numbers, pa.int16(), size=len(columns.data))
        for number in set(shard_numbers.unique().to_pylist()):
            part = columns.filtered(pc.equal(shard_numbers, number)).as_part()
            self._by_index[number].append_parts([part])


class CapturedLoader(Loader):
    """Into the shards that captured records come from, with the sequence numbers that they have."""

    def __init__(self, stream: Stream, durability: Durability = FSYNC) -> None:
        super().__init__(stream, durability)
        self._by_id: dict[str, ShardWriter] = {}

    def use(self, stream: Stream, shard: Shard) -> None:
        """Take a shard's lock; `stream` is the stream as it is with that shard.

        Raises:
            BusyError: another process writes to it; the text names its pid.
            LogError: it is damaged or cannot be written.
        """
        self.stream = stream
        if shard.id not in self._by_id:
            self.flush()  # the thread goes through the writers
            allow_open_files(4 * (len(self._by_id) + 1))
            request_release(shard)
            writer = self._open.enter_context(ShardWriter.open(shard, durability=self.durability))
            self._by_id[shard.id] = writer
            # What is put here would stand between the records of the source.
            self._porter.add([writer], serve=False)

    def writes(self, shard_id: str) -> bool:
        """Whether a shard is open for appends."""
        return shard_id in self._by_id

    def let_go(self, shard_id: str) -> None:
        """Release a shard; what it was given has been flushed."""
        writer = self._by_id.pop(shard_id, None)
        if writer is not None:
            self._porter.remove(writer)
            writer.close()

    def _writers(self) -> Collection[ShardWriter]:
        return self._by_id.values()

    def _append(self, group: list[Item]) -> None:
        by_shard: dict[str, list[Item]] = {}
        for item in group:
            assert item.origin is not None, "captured rows have an origin"
            by_shard.setdefault(item.origin.shard_id or "", []).append(item)
        for shard_id, items in by_shard.items():
            writer = self._by_id[shard_id]
            rows = [item for item in items if isinstance(item, Rows)]
            if rows:
                append_rows(writer, rows)
            else:
                writer.append_changes([c for item in items if isinstance(item, Changes) for c in item.changes])
