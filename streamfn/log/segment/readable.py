"""What can be read of a segment file, whatever is wrong with it: header, footer, and messages in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from streamfn._native import ffi, lib
from streamfn.clock import SystemClock
from streamfn.errors import LogDamaged
from streamfn.log.catalog.age import Moment, ShardClock
from streamfn.log.catalog.stream import Shard
from streamfn.log.format.layout import LAYOUTS, Layout, initial
from streamfn.log.segment.cold import find_groups, layout_of, read_group
from streamfn.log.segment.segment import SegmentFile, header, read_header


@dataclass
class Run:
    """Messages whose records follow on each other; `end_offset` is behind the last of them."""

    first_offset: int
    end_offset: int
    messages: list[Any]


class Readable:
    """A segment file, mapped as it is, and the messages in it that are as they were written.

    `base` and `layout` are what the messages of `runs` speak of; compressed row groups are inflated into memory.
    `appended` is a moment that the last append was not after.  Close it.
    """

    def __init__(self, shard: Shard, file: SegmentFile) -> None:
        self._disk = shard.disk
        self._file = file
        self._fd = shard.disk.open(file.path, os.O_RDONLY)
        status = shard.disk.status(self._fd)
        self.appended = Moment(status.modified_ms, ShardClock(shard, SystemClock()).now().lived_ms)
        self._mapped_bytes = self._size = status.size
        self._address = shard.disk.map(self._fd, self._size) if self._size else 0
        self.base: Any = ffi.cast("uint8_t *", self._address)
        self.layout, self._at, _ = find_layout(shard, file, self._fd, self.base, self._size)
        self._inflate()

    def _inflate(self) -> None:
        groups = [group for group, _ in find_groups(self.base, self._at, self._size)]
        if groups:
            inflated = bytearray().join(read_group(self._file.path, self.base, group, self.layout) for group in groups)
            self.base = ffi.from_buffer("uint8_t[]", inflated)
            self._at, self._size = 0, len(inflated)

    def close(self) -> None:
        """Unmap and close the file."""
        if self._mapped_bytes:
            self._disk.unmap(self._address, self._mapped_bytes)
        self._disk.close(self._fd)

    def runs(self) -> list[Run]:
        """Return every stretch of records without a hole, in order."""
        runs: list[Run] = []
        for message in self._messages():
            first, end = int(message.first_offset), int(message.first_offset + message.rows)
            if runs and runs[-1].end_offset == first:
                runs[-1].end_offset = end
                runs[-1].messages.append(message)
            elif first >= (runs[-1].end_offset if runs else self._file.first_offset):
                runs.append(Run(first, end, [message]))
        return runs

    def _messages(self) -> Iterator[Any]:
        position = ffi.new("uint64_t *", self._at)
        while True:
            found = ffi.new("sf_message *")
            if not lib.sf_find_message(self.base, self._size, self.layout.id, position, found):
                return
            yield found
            position[0] += found.length


def find_layout(
    shard: Shard, file: SegmentFile, fd: int, base: Any, size: int
) -> tuple[Layout, int, LogDamaged | None]:
    """Return the layout of a segment's messages, where the first of them begins, and what is wrong with the header.

    Where the header cannot be believed the messages themselves say what they are.
    """
    try:
        return *read_header(shard, file, fd), None
    except LogDamaged as damage:
        layout = _layout_of_messages(base, size) or initial(shard.kind)
        return layout, min(size, len(header(shard, sealed=file.sealed, layout=layout))), damage


def _layout_of_messages(base: Any, size: int) -> Layout | None:
    first, found = size, None
    for layout in LAYOUTS:
        position = ffi.new("uint64_t *", 0)
        if lib.sf_find_message(base, first, layout.id, position, ffi.new("sf_message *")):
            first, found = int(position[0]), layout
    group = next(find_groups(base, 0, size), None) if found is None else None
    return found if group is None else layout_of(base, group[0])
