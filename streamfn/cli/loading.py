"""Many records into a stream, fast, with a known last durable line.

Rows are gathered into groups of some tens of MiB.  A group is divided among the shards, appended and
committed by a thread while the next one is being read; a group that the disk has no room for is refused
whole, before anything of it is appended.  So after each group, and after any failure but one, exactly the
records up to `durable_line` are in the stream.  The one: something else takes the room, or a disk fails,
in the middle of a group; then `partly_stored` says that some shards have records from behind that line.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from types import TracebackType
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from streamfn.cli.openfiles import allow_open_files
from streamfn.errors import DiskFull
from streamfn.formats.rows import Rows
from streamfn.limits import FREE_BYTES_MIN, MIB
from streamfn.log.stream import Stream
from streamfn.log.writer import ShardWriter

GROUP_BYTES = 32 * MIB
# What a record weighs beside its data and key: in memory two objects and three list entries; on disk, less.
_RECORD_BYTES = 128
# What a group takes on disk beside its records: messages' metadata, and a new segment's header a shard.
_SHARD_BYTES = 16 * 1024
# Keys repeat where they come from a field, and then looking them up costs a tenth of hashing them.
_KEYS_REMEMBERED = 65_536


class StreamLoader:
    """The writers of all shards of a stream.  One thread's; a context manager that stores what it was given.

    Left with an exception, it stores nothing more, and what is gathered is dropped.
    """

    def __init__(self, stream: Stream) -> None:
        """Take the lock of every shard.

        Raises:
            BusyError: another process writes to one; the text names its pid.
            LogError: a shard is damaged or cannot be written.
        """
        self.stream = stream
        self.durable_line = 0
        self.records = 0
        self.bytes = 0
        self.partly_stored = False
        self._failed = False
        self._shard_index = lru_cache(_KEYS_REMEMBERED)(stream.shard_index)
        allow_open_files(4 * len(stream.open_shards))
        self._open = ExitStack()
        self._writers: list[ShardWriter] = []
        with ExitStack() as opening:
            for shard in stream.open_shards:
                self._writers.append(opening.enter_context(ShardWriter.open(shard)))
            self._open = opening.pop_all()
        self._thread = ThreadPoolExecutor(1, "streamfn-loader")
        self._storing: Future[None] | None = None
        self._group: list[Rows] = []
        self._group_bytes = 0

    def __enter__(self) -> StreamLoader:
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
        self._open.close()

    def add(self, rows: Rows) -> None:
        """Take rows; now and then wait until those before are durable.

        Raises:
            DiskFull: there is no room; see the top of the file.
            LogError: a disk failed.
        """
        data_bytes = sum(map(len, rows.data))
        self.bytes += data_bytes
        self._group.append(rows)
        self._group_bytes += data_bytes + _RECORD_BYTES * len(rows.data)
        if self._group_bytes >= GROUP_BYTES:
            self._submit()

    def flush(self) -> None:
        """Wait until everything that was taken is durable; errors as of `add`.

        After an error nothing more is stored, and this does nothing.
        """
        self._submit()
        self._wait()

    def _submit(self) -> None:
        self._wait()
        group, self._group, self._group_bytes = self._group, [], 0
        if group and not self._failed:
            self._storing = self._thread.submit(self._store, group)

    def _wait(self) -> None:
        storing, self._storing = self._storing, None
        if storing is not None:
            try:
                storing.result()
            except BaseException:
                self._failed = True
                raise

    def _store(self, group: list[Rows]) -> None:
        """Append and commit one group; runs in the loader's thread."""
        columns = _columns(group)
        self._require_room(columns)
        try:
            self._append(columns, [key for rows in group for key in rows.keys])
        except BaseException:
            self.partly_stored = any(writer.end_offset > writer.committed_offset for writer in self._writers)
            raise
        self.partly_stored = True
        for writer in self._writers:
            writer.commit()
        self.partly_stored = False
        self.records += len(columns.data)
        self.durable_line = group[-1].last_line

    def _append(self, columns: _Columns, keys: list[str]) -> None:
        """Append each shard's records, in the order of the file."""
        if len(self._writers) == 1:
            self._writers[0].append_columns(columns.data, columns.keys, columns.arrivals)
            return
        # Filtering lets the GIL go, so that the next group is being read meanwhile.
        shard_numbers = pa.array(map(self._shard_index, keys), pa.int16(), size=len(keys))
        for number in set(shard_numbers.unique().to_pylist()):
            mine = pc.equal(shard_numbers, number)
            self._writers[number].append_columns(
                columns.data.filter(mine),
                columns.keys.filter(mine),
                None if columns.arrivals is None else columns.arrivals.filter(mine),
            )

    def _require_room(self, columns: _Columns) -> None:
        """Raise DiskFull unless all of a group fits, so that none of it is stored on one shard only."""
        content = columns.data.nbytes + columns.keys.nbytes + _RECORD_BYTES * len(columns.data)
        need = content + _SHARD_BYTES * len(self._writers)
        status = os.statvfs(self.stream.directory)
        floor = min(FREE_BYTES_MIN, status.f_blocks * status.f_frsize // 4)
        free = status.f_bavail * status.f_frsize
        if free < need + floor:
            raise DiskFull(
                f"no space left in {self.stream.directory}: {free} bytes are free, {need + floor} are needed"
            )


class _Columns(NamedTuple):
    """A group as Arrow arrays; `arrivals` in ms since 1970, UTC, None for the time of the append."""

    data: pa.Array
    keys: pa.Array
    arrivals: pa.Array | None


def _columns(group: list[Rows]) -> _Columns:
    arrivals = [pa.array(rows.arrivals, pa.int64()) for rows in group if rows.arrivals is not None]
    return _Columns(
        pa.concat_arrays([pa.array(rows.data, pa.binary()) for rows in group]),
        pa.concat_arrays([pa.array(rows.keys, pa.string()) for rows in group]),
        pa.concat_arrays(arrivals) if arrivals else None,
    )
