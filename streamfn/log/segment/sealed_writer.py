"""Writing a sealed file, message by message: it has its name only when it is whole and synced."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from streamfn._native import ffi, lib
from streamfn.log.catalog.age import Moment
from streamfn.log.catalog.stream import Shard
from streamfn.log.format.footer import PLAIN, Footer, Group, encode
from streamfn.log.format.layout import Layout
from streamfn.log.format.schema import Draft, schema_message
from streamfn.log.segment.segment import header, sealed_path
from streamfn.log.storage.disk import Content, write_all

# What an unfinished file is called; whoever opens the shard for writing removes what a crash left.
SUFFIX = ".sealing"


class SealedWriter:
    """One sealed segment being written.  Call `finish`, or `abandon` it.

    Every call may raise OSError; then only `abandon` may follow.
    """

    def __init__(self, shard: Shard, first_offset: int, layout: Layout, codec: int = PLAIN) -> None:
        """Begin the file of the segment whose first record is `first_offset`.

        Raises:
            OSError: it cannot be made.
        """
        self.path = sealed_path(shard, first_offset)
        self._shard = shard
        self._layout = layout
        self._codec = codec
        self._temporary = self.path.with_suffix(SUFFIX)
        self._groups: list[Group] = []
        self._latest_ms = 0
        self._named = False
        self._fd = shard.disk.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        start = header(shard, sealed=True, layout=layout)
        self.position = len(start)
        try:
            write_all(shard.disk, self._fd, memoryview(start), 0)
        except BaseException:
            self.abandon()
            raise

    def add(self, pieces: Sequence[Content], first_offset: int, times: memoryview) -> None:
        """Add a finished message, given as one piece or more; `times` are its arrival times (int64 ms since 1970)."""
        self.add_group(pieces, first_offset, _latest(times))

    def add_group(self, pieces: Sequence[Content], first_offset: int, latest_ms: int) -> None:
        """The same with the latest arrival time in it."""
        begin = self.position
        for piece in pieces:
            write_all(self._shard.disk, self._fd, memoryview(piece), self.position)
            self.position += len(piece)
        (metadata_bytes,) = struct.unpack_from("<I", pieces[0], 4)
        self._latest_ms = max(self._latest_ms, latest_ms)
        body_bytes = self.position - begin - 8 - metadata_bytes
        self._groups.append(Group(begin, metadata_bytes, body_bytes, first_offset, self._latest_ms))

    def add_draft(self, draft: Draft) -> None:
        """Add a draft that is finished."""
        at = draft.columns[draft.layout.time]
        self.add([draft.buffer], draft.first_offset, memoryview(draft.buffer)[at : at + 8 * draft.rows])

    def sync(self) -> None:
        """Sync what has been written so far; another thread may add meanwhile."""
        self._shard.disk.sync(self._fd)

    def finish(self, end_offset: int, appended: Moment) -> Path:
        """Write what a sealed file ends with, sync it, and give it its name, durably.

        `appended` is when the last of its records was appended.
        """
        disk = self._shard.disk
        footer = Footer(self._codec, end_offset, appended.wall_ms, appended.lived_ms, tuple(self._groups))
        end = encode(schema_message(self._shard.name, self._layout), footer)
        write_all(disk, self._fd, memoryview(end), self.position)
        self.position += len(end)
        disk.sync(self._fd)
        disk.close(self._fd)
        self._fd = -1
        disk.rename(self._temporary, self.path)
        self._named = True
        disk.sync_directory(self._shard.directory)
        return self.path

    def abandon(self) -> None:
        """Leave nothing of an unfinished file; one that has its name stays."""
        if self._fd >= 0:
            self._shard.disk.close(self._fd)
            self._fd = -1
        if not self._named:
            self._named = True  # once is enough
            self._shard.disk.unlink(self._temporary)


def _latest(times: memoryview) -> int:
    message = ffi.new("sf_message *", {"rows": times.nbytes // 8, "layout": lib.SF_KINESIS})
    span = ffi.new("int64_t[2]")
    lib.sf_arrival_span(ffi.from_buffer("uint8_t[]", times.cast("B")), message, span, span + 1)
    return int(span[1])
