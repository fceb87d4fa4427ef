"""Checking one segment file wholly: every byte of it is held against a checksum, and what does not fit is named.

    header            the bytes every segment of the shard begins with
    messages          CRC32C each, one behind the other, offsets rising without a hole; also of cold segments
    end-of-stream mark, footer, its length, magic (sealed)      CRC32C in the footer
    what follows the last message (unsealed)                    zeros

Nothing is changed and nothing is believed: not what this process has proven before, nor that the file is still
as long as it was.  The scanning happens in C, with the interpreter's lock released.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from streamfn._native import ffi, lib
from streamfn.errors import LogDamaged
from streamfn.log.catalog.stream import Shard
from streamfn.log.format.footer import PLAIN, Footer, Group
from streamfn.log.segment.cold import find_groups, proven
from streamfn.log.segment.readable import find_layout
from streamfn.log.segment.sealed import read_end
from streamfn.log.segment.segment import FILE_MAGIC, SegmentFile

_MESSAGES = 1024
# How much is checked between two calls of `progress`, and between two looks at signals.
_STEP_BYTES = 64 << 20
_CHUNK = 1 << 20


class Finding(NamedTuple):
    """Bytes of a segment file that are not as they were written.

    They lie from file position `byte` up to `end_byte`; the records with offsets from `first_offset` up to
    `end_offset` are lost with them (equal: none is).
    """

    path: Path
    byte: int
    end_byte: int
    first_offset: int
    end_offset: int
    why: str


class Check(NamedTuple):
    """What was found in one segment file: `records` good ones up to `end_offset`, in `bytes` bytes looked at."""

    findings: list[Finding]
    records: int
    end_offset: int
    bytes: int


def check_segment(
    shard: Shard,
    file: SegmentFile,
    *,
    committed_bytes: int | None = None,
    end_offset: int | None = None,
    at_least: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Check:
    """Check a segment file from its first byte to its last.

    Args:
        committed_bytes: how much of the active segment the commit file vouches for; nothing behind it is looked at,
            because a writer may be at work there.  None for a segment that is complete.
        end_offset: the offset where the next segment begins, or the committed end; None where nobody knows.
        at_least: good records behind `end_offset` are nothing to be named.
        progress: told now and then how many bytes were checked since the last time.

    Raises:
        FileNotFoundError: there is no such file (any more).
        OSError: it cannot be read.
    """
    disk = shard.disk
    fd = disk.open(file.path, os.O_RDONLY)
    try:
        size = disk.status(fd).size
        if size == 0:
            lost = Finding(file.path, 0, 0, file.first_offset, end_offset or file.first_offset, "the file is empty")
            return Check([lost], 0, file.first_offset, 0)
        address = disk.map(fd, size)
        try:
            walk = _Walk(shard, file, fd, ffi.cast("uint8_t *", address), size, progress)
            return walk.check(committed_bytes, end_offset, at_least=at_least)
        finally:
            disk.unmap(address, size)
    finally:
        disk.close(fd)


class _Walk:
    """One file being checked: the messages, and what surrounds them."""

    def __init__(
        self, shard: Shard, file: SegmentFile, fd: int, base: Any, size: int, progress: Callable[[int], None] | None
    ) -> None:
        self._disk = shard.disk
        self._file = file
        self._fd = fd
        self._base = base
        self._size = size
        self._shard = shard
        self._layout, self._data_at, damage = find_layout(shard, file, fd, base, size)
        self._progress = progress
        self._told = 0
        self._position = ffi.new("uint64_t *", self._data_at)
        self._next = ffi.new("uint64_t *", file.first_offset)
        self._records = 0
        self._findings: list[Finding] = []
        if damage is not None:
            self._find(0, self._data_at, file.first_offset, file.first_offset, str(damage))

    def check(self, committed_bytes: int | None, end_offset: int | None, *, at_least: bool = False) -> Check:
        if self._file.sealed:
            self._check_sealed(end_offset)
        elif committed_bytes is not None:
            self._check_messages(committed_bytes, end_offset)
        else:
            self._check_messages(self._data_end(), end_offset, limit=self._size, at_least=at_least)
        self._tell(self._size if committed_bytes is None else min(committed_bytes, self._size))
        return Check(self._findings, self._records, self._offset, self._told)

    @property
    def _at(self) -> int:
        return int(self._position[0])

    @property
    def _offset(self) -> int:
        return int(self._next[0])

    def _check_sealed(self, end_offset: int | None) -> None:
        end, why = None, f"{self._file.path} has a footer that does not fit its row groups"
        try:
            end = read_end(self._disk, self._fd, self._file.path, self._size)
        except LogDamaged as damage:
            why = str(damage)
        if end is not None and not end.fits(self._base, len(FILE_MAGIC), self._data_at):
            end = None
        if end is not None and end.footer is not None and end_offset is None:
            end_offset = end.footer.end_offset
        if end is not None and end.footer is not None and end.footer.codec != PLAIN:
            self._check_cold(end.footer, end.position, end_offset)
            return
        cold = [] if end is not None else list(find_groups(self._base, self._data_at, self._size))
        if cold:
            self._check_found(cold)
        else:
            self._check_messages(self._size if end is None else end.position, end_offset, footer=end is None)
        if end is None:
            self._find(self._at, self._size, self._offset, self._offset, why)

    def _check_cold(self, footer: Footer, end: int, end_offset: int | None) -> None:
        """Go through compressed row groups; their footer, which is as it was written, says where each lies."""
        ends = [group.first_offset for group in footer.groups[1:]] + [footer.end_offset]
        for group, stop in zip(footer.groups, ends, strict=True):
            if not proven(self._base, group):
                self._find(group.position, group.end, group.first_offset, stop, "no valid row group lies there")
            else:
                self._records += stop - group.first_offset
            self._position[0], self._next[0] = group.end, stop
            self._tell(group.end)
        if end_offset is not None and end_offset != footer.end_offset:
            self._find(end, end, self._offset, end_offset, f"the next segment begins at {end_offset}")

    def _check_found(self, groups: list[tuple[Group, int]]) -> None:
        """Go through compressed row groups that were found without a footer."""
        for group, rows in groups:
            if group.first_offset != self._offset:
                self._find(self._at, group.position, self._offset, group.first_offset, "no valid row group lies there")
            self._records += rows
            self._position[0], self._next[0] = group.end, group.first_offset + rows
            self._tell(group.end)

    def _data_end(self) -> int:
        """Return where the last byte that is not zero ends, rounded up; a message may go on behind it, in zeros."""
        end = self._at
        for start, stop in self._disk.data_extents(self._fd, self._at, self._size):
            for at in range(start, stop, _CHUNK):
                chunk = self._disk.pread(self._fd, min(_CHUNK, stop - at), at).rstrip(b"\0")
                if chunk:
                    end = at + len(chunk)
        return min(self._size, (end + 7) // 8 * 8)

    def _check_messages(
        self,
        end: int,
        end_offset: int | None,
        *,
        footer: bool = False,
        limit: int | None = None,
        at_least: bool = False,
    ) -> None:
        """Go through the messages up to file position `end`; the next segment begins at `end_offset`.

        With `footer` something that is no message follows before `end`, and is not to be named here.  The last message
        may go on up to `limit`, `end` unless given.
        """
        if end > self._size:
            self._find(self._size, end, self._offset, end_offset, f"the file was cut to {self._size} bytes")
            end_offset, end = None, self._size
        limit = end if limit is None else limit
        out, count = ffi.new("sf_message[]", _MESSAGES), ffi.new("size_t *")
        while self._at < end:
            before = self._offset
            status = lib.sf_scan(
                self._base, limit, self._layout.id, self._position, self._next, _STEP_BYTES, out, _MESSAGES, count
            )
            self._records += self._offset - before
            self._tell(self._at)
            if status in (lib.SF_SCAN_MORE, lib.SF_SCAN_LIMIT) or self._at >= end:
                continue
            at, offset = self._at, self._offset
            if lib.sf_find_message(self._base, limit, self._layout.id, self._position, out):
                self._next[0] = out[0].first_offset
                self._find(at, self._at, offset, self._offset, "no valid record lies there")
                continue
            self._position[0] = at
            if not footer or status == lib.SF_SCAN_DAMAGED:
                self._find(at, end, offset, end_offset, "no valid record lies there")
                return
            break
        if end_offset is not None and self._offset != end_offset and not (at_least and self._offset > end_offset):
            why = "records are missing" if self._offset < end_offset else f"the next segment begins at {end_offset}"
            self._find(self._at, self._at, self._offset, end_offset, why)

    def _find(self, byte: int, end_byte: int, first_offset: int, end_offset: int | None, why: str) -> None:
        end = first_offset if end_offset is None else max(first_offset, end_offset)
        self._findings.append(Finding(self._file.path, byte, end_byte, first_offset, end, why))

    def _tell(self, position: int) -> None:
        if self._progress is not None and position > self._told:
            self._progress(position - self._told)
        self._told = max(self._told, position)
