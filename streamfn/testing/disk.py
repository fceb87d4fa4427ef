"""A disk in memory that forgets what was not synced: storage for the log under crash tests.

`SimDisk.crash()` freezes a moment; `Crash.image(picks)` is one of the disks that may be found after it, and
`SimDisk(image)` goes on from there.  What may be lost is written down in `streamfn.testing.volatile`.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from streamfn.log.storage.disk import Content, FileStatus, Space
from streamfn.testing.volatile import (
    ROOT,
    SECTOR_BYTES,
    Crash,
    Directory,
    DirectoryState,
    Entry,
    File,
    FileState,
    Image,
)

# Far from any descriptor of the system: one that reaches `os` by mistake is an error there.
_FIRST_FD = 1 << 20

_devices = itertools.count(1)


class SimDisk:
    """A `Disk` in memory.  Not thread-safe.

    `before` is called with the name of each call before it happens, and may raise OSError in its place;
    `changed` after each call that changed something: where crash states are taken.  `free_bytes` is what
    `space` says.  No method raises anything but OSError, as the system call would.
    """

    def __init__(self, image: Image | None = None) -> None:
        """Begin with an empty disk, or with what was found after a crash."""
        image = image or Image({ROOT: {}}, 0)
        self.before: Callable[[str], None] | None = None
        self.changed: Callable[[], None] | None = None
        self.free_bytes = 1 << 40
        self.boots = image.boots
        self._device = next(_devices)
        self._nodes = {number: _node(content, image.unsynced.get(number)) for number, content in image.nodes.items()}
        for node in list(self._nodes.values()):
            if isinstance(node, Directory):
                for child in node.live.values():
                    self._nodes[child].links += 1
        self._numbers = itertools.count(max(self._nodes) + 1)
        self._fds = itertools.count(_FIRST_FD)
        self._open: dict[int, int] = {}
        self._locked: dict[int, int] = {}
        self._maps: dict[int, tuple[File, ctypes.Array[ctypes.c_char], int]] = {}
        self._directories: dict[str, Directory] = {}

    def crash(self) -> Crash:
        """Freeze this moment."""
        named = {ROOT}
        for node in self._nodes.values():
            if isinstance(node, Directory):
                named.update(node.durable.values(), node.live.values())
                named.update(change.node for change in node.changes if change.node is not None)
        return Crash({number: self._nodes[number].state() for number in sorted(named)}, self.boots)

    def content(self, path: Path) -> bytes:
        """Return what is in a file, as processes see it."""
        directory, name = self._parent(path)
        node = self._nodes[self._entry(directory, name, path)]
        assert isinstance(node, File), f"{path} is a directory"
        return bytes(node.live)

    @property
    def open_files(self) -> int:
        """How many descriptors and mappings are open."""
        return len(self._open) + sum(count for _, _, count in self._maps.values())

    # ---- Disk ----

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        """See `Disk`."""
        self._call("open")
        fd = next(self._fds)
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            self._directory(str(path))
            number = next(self._numbers)
            self._nodes[number] = File()
            self._open[fd] = number
            return fd
        directory, name = self._parent(path)
        found = directory.live.get(name)
        if found is None:
            if not flags & os.O_CREAT:
                raise _error(errno.ENOENT, path)
            found = next(self._numbers)
            self._nodes[found] = File()
            self._nodes[found].links = 1
            directory.change(Entry(name, found))
            self._changed()
        elif flags & os.O_EXCL and flags & os.O_CREAT:
            raise _error(errno.EEXIST, path)
        node = self._nodes[found]
        if isinstance(node, Directory):
            if flags & (os.O_WRONLY | os.O_RDWR):
                raise _error(errno.EISDIR, path)
        elif flags & os.O_DIRECTORY:
            raise _error(errno.ENOTDIR, path)
        elif flags & os.O_TRUNC and node.live:
            node.truncate(0)
            self._changed()
        self._open[fd] = found
        return fd

    def close(self, fd: int) -> None:
        """See `Disk`."""
        number = self._number(fd)
        del self._open[fd]
        if self._locked.get(number) == fd:
            del self._locked[number]

    def pread(self, fd: int, length: int, position: int) -> bytes:
        """See `Disk`."""
        self._call("pread")
        return bytes(self._file(fd).live[position : position + length])

    def pwrite(self, fd: int, content: Content, position: int) -> int:
        """See `Disk`."""
        self._call("pwrite")
        written = bytes(content)
        if written:
            self._file(fd).write(written, position)
            self._changed()
        return len(written)

    def truncate(self, fd: int, size: int) -> None:
        """See `Disk`."""
        self._call("truncate")
        file = self._file(fd)
        if size != len(file.live):
            file.truncate(size)
            self._changed()

    def punch_hole(self, fd: int, start: int, length: int) -> None:
        """See `Disk`."""
        self._call("punch_hole")
        file = self._file(fd)
        length = min(start + length, len(file.live)) - start
        if length > 0:
            file.write(bytes(length), start)
            self._changed()

    def sync(self, fd: int) -> None:
        """See `Disk`."""
        file = self._file(fd)
        try:
            self._call("sync")
        except OSError:
            file.sync_failed()
            raise
        file.sync()
        self._changed()

    def sync_directory(self, path: Path) -> None:
        """See `Disk`."""
        self._call("sync_directory")
        self._directory(str(path)).sync()
        self._changed()

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        self._call("rename")
        directory, name = self._parent(source)
        into, new_name = self._parent(target)
        if into is not directory:
            raise _error(errno.EXDEV, target)
        number = self._entry(directory, name, source)
        replaced = directory.live.get(new_name)
        if replaced == number:
            return
        if replaced is not None:
            self._nodes[replaced].links -= 1
        directory.change(Entry(new_name, number, name))
        self._directories.clear()
        self._changed()

    def unlink(self, path: Path) -> None:
        """See `Disk`."""
        self._call("unlink")
        directory, name = self._parent(path)
        node = self._nodes[self._entry(directory, name, path)]
        if isinstance(node, Directory):
            raise _error(errno.EISDIR, path)
        node.links -= 1
        directory.change(Entry(name, None))
        self._changed()

    def make_directory(self, path: Path) -> None:
        """See `Disk`."""
        self._call("make_directory")
        directory, name = self._parent(path)
        if name in directory.live:
            raise _error(errno.EEXIST, path)
        number = next(self._numbers)
        made = self._nodes[number] = Directory({})
        made.links = 1
        directory.change(Entry(name, number))
        self._changed()

    def list_directory(self, path: Path) -> list[str]:
        """See `Disk`."""
        self._call("list_directory")
        return list(self._directory(str(path)).live)

    def status(self, fd: int) -> FileStatus:
        """See `Disk`."""
        number = self._number(fd)
        node = self._nodes[number]
        size = len(node.live) if isinstance(node, File) else 0
        return FileStatus((self._device, number), size, size, node.links, 0)

    def space(self, fd: int) -> Space:
        """See `Disk`."""
        self._number(fd)
        return Space(1 << 40, self.free_bytes)

    def data_extents(self, fd: int, start: int, size: int) -> Iterator[tuple[int, int]]:
        """See `Disk`."""
        stop = len(self._file(fd).live[start:size].rstrip(b"\0"))
        if stop:
            yield start, min(size, start + -(-stop // SECTOR_BYTES) * SECTOR_BYTES)

    def map(self, fd: int, size: int) -> int:
        """See `Disk`."""
        self._call("map")
        file = self._file(fd)
        if not 0 < size <= len(file.live):
            raise _error(errno.EINVAL, None)
        shared = (ctypes.c_char * size).from_buffer(file.live)
        address = ctypes.addressof(shared)
        count = self._maps[address][2] if address in self._maps else 0
        self._maps[address] = (file, shared, count + 1)
        return address

    def unmap(self, address: int, size: int) -> None:
        """See `Disk`."""
        file, shared, count = self._maps.pop(address)
        if count > 1:
            self._maps[address] = (file, shared, count - 1)

    def unnamed(self, directory: Path, write: Callable[[int], None]) -> int:
        """See `Disk`."""
        fd = self.open(directory, os.O_TMPFILE | os.O_RDWR)
        try:
            write(fd)
        except BaseException:
            self.close(fd)
            raise
        return fd

    def try_lock(self, fd: int) -> bool:
        """See `Disk`."""
        self._call("try_lock")
        return self._locked.setdefault(self._number(fd), fd) == fd

    def boot_id(self) -> str:
        """See `Disk`."""
        return f"00000000-0000-0000-0000-{self.boots:012d}"

    # ---- plumbing ----

    def _call(self, name: str) -> None:
        if self.before is not None:
            self.before(name)

    def _changed(self) -> None:
        if self.changed is not None:
            self.changed()

    def _number(self, fd: int) -> int:
        number = self._open.get(fd)
        if number is None:
            raise _error(errno.EBADF, None)
        return number

    def _file(self, fd: int) -> File:
        node = self._nodes[self._number(fd)]
        if isinstance(node, Directory):
            raise _error(errno.EISDIR, None)
        return node

    def _parent(self, path: Path) -> tuple[Directory, str]:
        parent, _, name = str(path).rpartition("/")
        return self._directory(parent), name

    def _directory(self, path: str) -> Directory:
        known = self._directories.get(path)
        if known is not None:
            return known
        number = ROOT
        for name in filter(None, path.split("/")):
            node = self._nodes[number]
            if isinstance(node, File):
                raise _error(errno.ENOTDIR, Path(path))
            number = self._entry(node, name, Path(path))
        found = self._nodes[number]
        if isinstance(found, File):
            raise _error(errno.ENOTDIR, Path(path))
        self._directories[path] = found
        return found

    def _entry(self, directory: Directory, name: str, path: Path) -> int:
        number = directory.live.get(name)
        if number is None:
            raise _error(errno.ENOENT, path)
        return number


def _node(
    content: bytes | Mapping[str, int], unsynced: FileState | DirectoryState | None
) -> File | Directory:
    if isinstance(content, bytes):
        assert not isinstance(unsynced, DirectoryState)
        return File(content, unsynced)
    assert not isinstance(unsynced, FileState)
    return Directory(content, unsynced)


def _error(number: int, path: Path | None) -> OSError:
    return OSError(number, os.strerror(number), None if path is None else str(path))
