"""Segments: their file names, and a segment mapped into memory for as long as someone needs it.

    NNNNNNNNNNNNNNNNNNNN.arrows    an Arrow stream: the active segment, or one that awaits sealing
    NNNNNNNNNNNNNNNNNNNN.arrow     an Arrow file: sealed, for ever as it is

The 20 digits are the shard offset of the first record, so the end of one segment names the next.

One process maps a segment once, whoever reads it: readers of several mappings share it, and with it the
knowledge of how far its messages have been proven.  A mapping outlives the file's name: sealing and
retention unlink files, and who has one open keeps it.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
from bisect import bisect_right
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from streamfn._native import ffi
from streamfn.errors import LogDamaged
from streamfn.log.catalog.stream import Shard
from streamfn.log.format.footer import PLAIN, ZSTD, Footer
from streamfn.log.format.layout import KINESIS, LAYOUTS, Layout
from streamfn.log.format.schema import schema_message
from streamfn.log.segment.cold import find_groups, inflate
from streamfn.log.segment.sealed import read_end
from streamfn.log.storage.disk import Disk

_NAME = re.compile(r"(\d{20})\.(arrows|arrow)")
FILE_MAGIC = b"ARROW1\0\0"


class SegmentFile(NamedTuple):
    """A segment as it lies in the directory."""

    first_offset: int
    sealed: bool
    path: Path


def stream_path(shard: Shard, first_offset: int) -> Path:
    """Return where the unsealed segment that begins at an offset lies."""
    return shard.directory / f"{first_offset:020d}.arrows"


def sealed_path(shard: Shard, first_offset: int) -> Path:
    """Return where the sealed segment that begins at an offset lies."""
    return shard.directory / f"{first_offset:020d}.arrow"


def list_files(shard: Shard) -> list[SegmentFile]:
    """Return every segment file of a shard, by first offset; both forms while one is being sealed."""
    found = []
    for name in shard.disk.list_directory(shard.directory):
        match = _NAME.fullmatch(name)
        if match:
            found.append(SegmentFile(int(match[1]), match[2] == "arrow", shard.directory / name))
    return sorted(found)


def list_segments(shard: Shard) -> list[SegmentFile]:
    """The same with one form of each segment: the sealed one where there are both."""
    return list({file.first_offset: file for file in list_files(shard)}.values())


def header(shard: Shard, *, sealed: bool, layout: Layout = KINESIS) -> bytes:
    """Return the bytes that a segment begins with, up to its first message."""
    return (FILE_MAGIC if sealed else b"") + schema_message(shard.name, layout)


class Segment:
    """A mapped segment; made by `open_segment` only.  Thread-safe.

    `id` is unique in the process, `fd` a read-only descriptor, `address` and `size` (bytes) the mapping,
    `base` the same as a cffi pointer, `layout` the columns of its messages, `data_at` the file position of the
    first of them.  Messages that end at or below the file position `proven` have had their CRC checked by this
    process.  `footer` is that of a sealed segment, None where it was sealed before footers had a checksum, or where
    that is wrong.  `flaw` says what is wrong with a segment that only salvage reads.
    """

    __slots__ = (
        "_disk",
        "_key",
        "_places",
        "_references",
        "_source_fd",
        "address",
        "base",
        "data_at",
        "fd",
        "first_offset",
        "flaw",
        "footer",
        "id",
        "layout",
        "path",
        "proven",
        "sealed",
        "size",
    )

    _ids: ClassVar[itertools.count[int]] = itertools.count(1)
    # By the disk it lies on and the file's identity there.
    _open: ClassVar[dict[tuple[Disk, tuple[int, int]], Segment]] = {}
    _opening: ClassVar[set[tuple[Disk, tuple[int, int]]]] = set()
    _lock: ClassVar[threading.Lock] = threading.Lock()
    _opened: ClassVar[threading.Condition] = threading.Condition(_lock)

    def __init__(
        self,
        file: SegmentFile,
        fd: int,
        key: tuple[Disk, tuple[int, int]],
        size: int,
        layout: Layout,
        data_at: int,
    ) -> None:
        self.id = next(self._ids)
        self.path = file.path
        self.sealed = file.sealed
        self.first_offset = file.first_offset
        self.fd = fd
        self.size = size
        self.address = key[0].map(fd, size)
        self.base: Any = ffi.cast("uint8_t *", self.address)
        self.layout = layout
        self.data_at = data_at
        self.proven = 0
        self._disk = key[0]
        self.footer: Footer | None = None
        self.flaw: LogDamaged | None = None
        self._key = key
        self._references = 1
        # Of a cold segment, the file it was made from: as long as it is open no other file has its identity.
        self._source_fd = -1
        # Where its row groups lie here, and where in that file.
        self._places: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"<Segment {self.id} {self.path.name} of {self.path.parent.name}>"

    def retain(self) -> Segment:
        """Add a reference, so that mapping and descriptor stay until a further `release`."""
        with self._lock:
            assert self._references > 0, "a released segment is used again"
            self._references += 1
        return self

    def file_position(self, position: int) -> int:
        """Return where in the file lies what is mapped at a position; of a cold one, where its row group begins."""
        index = bisect_right(self._places, position, key=lambda place: place[0]) - 1
        return self._places[index][1] if index >= 0 else position

    def release(self) -> None:
        """Give a reference back; the last one unmaps and closes."""
        with self._lock:
            assert self._references > 0, "a segment is released more often than retained"
            self._references -= 1
            if self._references:
                return
            del self._open[self._key]
        self.unmap()
        self._disk.close(self.fd)
        if self._source_fd >= 0:
            self._disk.close(self._source_fd)

    def unmap(self) -> None:
        """Give the mapping up; only for a segment that nobody has (any more)."""
        self._disk.unmap(self.address, self.size)
        self.address = self.size = 0
        self.base = None


def open_segment(shard: Shard, file: SegmentFile, *, salvage: bool = False) -> Segment:
    """Map a segment, or return the one this process has mapped already; the caller owes a `release`.

    With `salvage` a sealed one is mapped for the messages in it that are good, whatever its end is like.

    The end of a sealed file, from its end-of-stream mark on, is checked when this process maps it first.  A cold one
    is inflated then, which takes a fraction of a second, and its room as long as somebody has it.

    Raises:
        FileNotFoundError: there is no such file (any more).
        LogDamaged: it does not begin as a segment of this shard begins, or a sealed one does not end as it was
            written.
    """
    disk = shard.disk
    fd = disk.open(file.path, os.O_RDONLY)
    try:
        status = disk.status(fd)
        key = (disk, status.identity)
        with Segment._opened:
            # Whoever is first maps it, without the lock: others need that for segments they have already.
            while key in Segment._opening:
                Segment._opened.wait()
            known = Segment._open.get(key)
            if known is not None:
                if known.flaw is not None and not salvage:
                    raise known.flaw
                known._references += 1
                disk.close(fd)
                return known
            Segment._opening.add(key)
    except BaseException:
        disk.close(fd)
        raise
    segment: Segment | None = None
    try:
        segment = _map(shard, file, fd, key, status.size, salvage=salvage)
    finally:
        with Segment._opened:
            Segment._opening.discard(key)
            if segment is not None:
                Segment._open[key] = segment
            Segment._opened.notify_all()
    return segment


def _map(
    shard: Shard, file: SegmentFile, fd: int, key: tuple[Disk, tuple[int, int]], size: int, *, salvage: bool
) -> Segment:
    """Map an open file that is checked first; the descriptor is the segment's, or closed."""
    disk = shard.disk
    try:
        layout, data_at = read_header(shard, file, fd)
        segment = Segment(file, fd, key, size, layout, data_at)
    except BaseException:
        disk.close(fd)
        raise
    try:
        if file.sealed:
            try:
                segment.footer = _checked_footer(segment, data_at)
            except LogDamaged as flaw:
                if not salvage:
                    raise
                segment.flaw = flaw
        packed = segment.footer if segment.flaw is None else _footer_of_messages(segment)
        if packed is None or packed.codec == PLAIN:
            return segment
        start = header(shard, sealed=True, layout=layout)
        inflated_fd, footer = inflate(disk, file.path, segment.base, start, packed, layout)
    except BaseException:
        segment.unmap()
        disk.close(fd)
        raise
    wrong = segment.flaw
    segment.unmap()
    try:
        whole = Segment(file, inflated_fd, key, disk.status(inflated_fd).size, layout, data_at)
    except BaseException:
        disk.close(inflated_fd)
        disk.close(fd)
        raise
    whole.footer = footer if wrong is None else None
    whole.flaw = wrong
    whole._places = [(now.position, was.position) for now, was in zip(footer.groups, packed.groups, strict=True)]
    whole._source_fd = fd
    whole.proven = whole.size  # the checksums of what it was made from were right
    return whole


def _checked_footer(segment: Segment, data_at: int) -> Footer | None:
    """Return the footer of a sealed segment; raise LogDamaged unless it is as it was written."""
    end = read_end(segment._disk, segment.fd, segment.path, segment.size)
    if not end.fits(segment.base, len(FILE_MAGIC), data_at):
        raise LogDamaged(f"{segment.path} has a footer that does not fit its row groups", path=segment.path)
    return end.footer


def _footer_of_messages(segment: Segment) -> Footer | None:
    """Return where the compressed row groups of a segment lie whose footer says nothing; None if it has none."""
    groups = tuple(group for group, _ in find_groups(segment.base, segment.data_at, segment.size))
    return Footer(ZSTD, 0, 0, 0, groups) if groups else None


def read_header(shard: Shard, file: SegmentFile, fd: int) -> tuple[Layout, int]:
    """Return the layout of a segment's messages, and the file position where the first of them begins.

    Raises:
        LogDamaged: it does not begin as a segment of this shard begins, whatever its layout.
    """
    starts = [(header(shard, sealed=file.sealed, layout=layout), layout) for layout in LAYOUTS]
    actual = shard.disk.pread(fd, max(len(start) for start, _ in starts), 0)
    for start, layout in starts:
        if actual.startswith(start):
            return layout, len(start)
    same = max(
        next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(actual), len(start)))
        for start, _ in starts
        for pairs in (zip(actual, start, strict=False),)
    )
    if same == len(actual):
        why = f"ends after {len(actual)} bytes, inside its header"
    else:
        why = f"does not begin as a segment of shard {file.path.parent.name} (byte {same})"
    raise LogDamaged(f"{file.path} {why}; its first record would be offset {file.first_offset}")
