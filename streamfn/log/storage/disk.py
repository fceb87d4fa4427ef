"""Every system call by which the log touches storage, behind one interface.

The log never calls `os` for files itself: what it needs is here, and nothing else.  So the same writer,
recovery, sealing and reading run on a simulated disk that loses, tears and reorders what was not synced,
and a test can fail any call.  `shard.disk` says which one a shard lies on.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from streamfn import limits
from streamfn.log.storage import libc

# What one read of a small file asks for.
_CHUNK = 1 << 16

Content = bytes | bytearray | memoryview


class FileStatus(NamedTuple):
    """What a descriptor stands for.  `identity` (device, inode) is one file's alone; `links` is 0 once it is unlinked.

    `size` is its length, `stored` what it takes on the disk, both in bytes; `modified_ms` since 1970, UTC.
    """

    identity: tuple[int, int]
    size: int
    stored: int
    links: int
    modified_ms: int


class Space(NamedTuple):
    """A file system's size and what is free of it for us, in bytes."""

    total: int
    free: int


class Disk(Protocol):
    """Storage as the log sees it.  Every method raises OSError as the system call behind it does."""

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        """Open a file (O_CLOEXEC is implied) and return its descriptor."""

    def close(self, fd: int) -> None:
        """Close a descriptor."""

    def pread(self, fd: int, length: int, position: int) -> bytes:
        """Read up to `length` bytes from a position."""

    def pwrite(self, fd: int, content: Content, position: int) -> int:
        """Write at a position; may write less, and returns how much."""

    def truncate(self, fd: int, size: int) -> None:
        """Set a file's length."""

    def punch_hole(self, fd: int, start: int, length: int) -> None:
        """Make a range read as zeros; the length stays."""

    def sync(self, fd: int) -> None:
        """Make a file's content and length durable (fdatasync)."""

    def sync_directory(self, path: Path) -> None:
        """Make the entries of a directory durable."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of what has it now."""

    def unlink(self, path: Path) -> None:
        """Remove a name."""

    def make_directory(self, path: Path) -> None:
        """Make a directory; its parent exists."""

    def list_directory(self, path: Path) -> list[str]:
        """Return the names in a directory, in no order."""

    def status(self, fd: int) -> FileStatus:
        """Describe an open file."""

    def space(self, fd: int) -> Space:
        """Return how much room the file system of an open file has."""

    def data_extents(self, fd: int, start: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of a sparse file, from `start` on, that are not holes."""

    def map(self, fd: int, size: int) -> int:
        """Map a file shared and read-only; the address stays valid until `unmap`, whatever becomes of the name."""

    def unmap(self, address: int, size: int) -> None:
        """Undo `map`."""

    def unnamed(self, directory: Path, write: Callable[[int], None]) -> int:
        """Make a file without a name in a directory, or in memory where that cannot hold it; return a descriptor.

        `write` fills it through another one, and may be called a second time.  Nothing of it is left behind.
        """

    def try_lock(self, fd: int) -> bool:
        """Lock a file for this open descriptor alone; False if another one has it.  Closing lets it go."""

    def boot_id(self) -> str:
        """Return what tells this run of the machine from others: 36 characters."""


class SystemDisk:
    """The machine's own."""

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        """See `Disk`."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        """See `Disk`."""
        os.close(fd)

    def pread(self, fd: int, length: int, position: int) -> bytes:
        """See `Disk`."""
        return os.pread(fd, length, position)

    def pwrite(self, fd: int, content: Content, position: int) -> int:
        """See `Disk`."""
        return os.pwrite(fd, content, position)

    def truncate(self, fd: int, size: int) -> None:
        """See `Disk`."""
        os.ftruncate(fd, size)

    def punch_hole(self, fd: int, start: int, length: int) -> None:
        """See `Disk`."""
        libc.punch_hole(fd, start, length)

    def sync(self, fd: int) -> None:
        """See `Disk`."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """See `Disk`."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        """See `Disk`."""
        os.unlink(path)

    def make_directory(self, path: Path) -> None:
        """See `Disk`."""
        os.mkdir(path)

    def list_directory(self, path: Path) -> list[str]:
        """See `Disk`."""
        return os.listdir(path)

    def status(self, fd: int) -> FileStatus:
        """See `Disk`."""
        found = os.fstat(fd)
        return FileStatus(
            (found.st_dev, found.st_ino),
            found.st_size,
            found.st_blocks * 512,
            found.st_nlink,
            found.st_mtime_ns // 1_000_000,
        )

    def space(self, fd: int) -> Space:
        """See `Disk`."""
        found = os.fstatvfs(fd)
        return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def data_extents(self, fd: int, start: int, size: int) -> Iterator[tuple[int, int]]:
        """See `Disk`."""
        while start < size:
            try:
                start = os.lseek(fd, start, os.SEEK_DATA)
            except OSError:  # ENXIO: no data behind `start`
                return
            stop = os.lseek(fd, start, os.SEEK_HOLE)
            yield start, stop
            start = stop

    def map(self, fd: int, size: int) -> int:
        """See `Disk`."""
        return libc.map_readonly(fd, size)

    def unmap(self, address: int, size: int) -> None:
        """See `Disk`."""
        libc.unmap(address, size)

    def unnamed(self, directory: Path, write: Callable[[int], None]) -> int:
        """See `Disk`."""
        try:
            return _filled(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), write)
        except OSError:  # a file system that is full, read-only, or knows no such files
            return _filled(os.memfd_create("streamfn-segment", os.MFD_CLOEXEC), write)

    def try_lock(self, fd: int) -> bool:
        """See `Disk`."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def boot_id(self) -> str:
        """See `Disk`."""
        return _boot_id()


def _filled(fd: int, write: Callable[[int], None]) -> int:
    """Fill a file and return a descriptor that can only read it: others are handed it."""
    try:
        write(fd)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


@lru_cache(maxsize=1)
def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


SYSTEM_DISK = SystemDisk()


def write_all(disk: Disk, fd: int, view: memoryview, position: int) -> None:
    """Write all of `view` at a file position, however often the system cuts it short."""
    while view:
        written = disk.pwrite(fd, view, position)
        view = view[written:]
        position += written


def read_file(disk: Disk, path: Path) -> bytes:
    """Return what is in a file; FileNotFoundError if there is none."""
    fd = disk.open(path, os.O_RDONLY)
    try:
        content = bytearray()
        while chunk := disk.pread(fd, _CHUNK, len(content)):
            content += chunk
        return bytes(content)
    finally:
        disk.close(fd)


def stored_bytes(disk: Disk, path: Path) -> int:
    """Return what a file takes on its disk, in bytes; FileNotFoundError if there is none."""
    fd = disk.open(path, os.O_RDONLY)
    try:
        return disk.status(fd).stored
    finally:
        disk.close(fd)


def write_file(disk: Disk, path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write a whole file anew."""
    fd = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(disk, fd, memoryview(content), 0)
        if sync:
            disk.sync(fd)
    finally:
        disk.close(fd)


def write_synced(disk: Disk, path: Path, content: bytes) -> None:
    """Write a whole file anew and sync it; its name is durable when its directory is synced."""
    write_file(disk, path, content, sync=True)


def replace(disk: Disk, path: Path, content: bytes) -> None:
    """Give a file new content, durably: after a crash it has the old one or the new one, whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    write_synced(disk, temporary, content)
    disk.rename(temporary, path)
    disk.sync_directory(path.parent)


def floor_bytes(space: Space) -> int:
    """Return how much of a file system must stay free, so that checkpoints and discards still fit."""
    return min(limits.FREE_BYTES_MIN, space.total // 4)
