"""The segment that is appended to: made whole, written at its end, never shortened.

It has its full size from the start and is sparse, so that readers map it once; a message's body is written before
its prefix, so that what is not complete reads as the end of the stream.
"""

from __future__ import annotations

import os

from streamfn import limits
from streamfn.log.catalog.stream import Shard
from streamfn.log.format.layout import Layout
from streamfn.log.segment.segment import SegmentFile, header, read_header, stream_path
from streamfn.log.storage.disk import Disk, write_all

# An active segment ends in zeros, so that readers which look for an end-of-stream mark find one.
_END_BYTES = 8


class ActiveSegment:
    """An active segment, open for writing; its records begin at offset `first_offset`, the next goes to `position`.

    `fd` is its descriptor, `layout` its columns, `size` its length in bytes.  `torn` is why half a message may lie
    behind `position`: then nothing may be written any more.  Every method raises OSError as the disk does.
    """

    __slots__ = ("_disk", "fd", "first_offset", "layout", "position", "size", "torn")

    def __init__(
        self, disk: Disk, fd: int, first_offset: int, layout: Layout, size: int, position: int
    ) -> None:
        self._disk = disk
        self.fd = fd
        self.first_offset = first_offset
        self.layout = layout
        self.size = size
        self.position = position
        self.torn: str | None = None

    @classmethod
    def resume(cls, shard: Shard, file: SegmentFile, position: int) -> ActiveSegment:
        """Open the one whose records end at a file position.

        Raises:
            LogDamaged: it does not begin as a segment of the shard.
        """
        disk = shard.disk
        fd = disk.open(file.path, os.O_RDWR)
        try:
            layout, _ = read_header(shard, file, fd)
            return cls(disk, fd, file.first_offset, layout, disk.status(fd).size, position)
        except BaseException:
            disk.close(fd)
            raise

    @classmethod
    def begin(cls, shard: Shard, first_offset: int, layout: Layout, size: int) -> ActiveSegment:
        """Make one; it has its name only when it is whole and synced.  The name is the caller's to sync."""
        disk = shard.disk
        start = header(shard, sealed=False, layout=layout)
        path = stream_path(shard, first_offset)
        temporary = path.with_suffix(".tmp")
        fd = disk.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            disk.truncate(fd, size)
            write_all(disk, fd, memoryview(start), 0)
            disk.sync(fd)
            disk.rename(temporary, path)
        except BaseException:
            disk.close(fd)
            raise
        return cls(disk, fd, first_offset, layout, size, len(start))

    @property
    def room(self) -> int:
        """How many bytes a message may still have."""
        return self.size - _END_BYTES - self.position

    def write(self, message: bytearray) -> None:
        """Write a message at the end: all of it, or nothing."""
        assert len(message) <= self.room, "a message outgrew its segment"
        view = memoryview(message)
        try:
            write_all(self._disk, self.fd, view[8:], self.position + 8)
            write_all(self._disk, self.fd, view[:8], self.position)
        except OSError:
            self._remove(len(message))
            raise
        self.position += len(message)

    def _remove(self, length: int) -> None:
        try:
            self._disk.punch_hole(self.fd, self.position, length)
        except OSError as error:
            self.torn = f"a failed append could not be removed: {error.strerror}"

    def write_again(self, start: int) -> None:
        """Write what lies from a file position on once more, as it is.

        After a failed sync the kernel takes pages for clean that never reached the disk, and the next sync would
        succeed without writing them.
        """
        for at in range(start, self.position, limits.MIB):
            content = self._disk.pread(self.fd, min(limits.MIB, self.position - at), at)
            write_all(self._disk, self.fd, memoryview(content), at)

    def close(self) -> None:
        """Close the descriptor."""
        self._disk.close(self.fd)
