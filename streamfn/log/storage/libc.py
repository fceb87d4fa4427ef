"""The system calls that Python's standard library lacks: mapping at an address, punching holes, inotify."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)

_MAP_FAILED = ctypes.c_void_p(-1).value
_KEEP_SIZE_PUNCH_HOLE = 0x01 | 0x02
_ZEROS = bytes(1 << 16)

_EVENT = struct.Struct("=iIII")
_READ_BYTES = 1 << 16

IN_MODIFY = 0x0000_0002
IN_CLOSE_WRITE = 0x0000_0008
IN_MOVED_FROM = 0x0000_0040
IN_MOVED_TO = 0x0000_0080
IN_CREATE = 0x0000_0100
IN_DELETE = 0x0000_0200
IN_DELETE_SELF = 0x0000_0400
IN_MOVE_SELF = 0x0000_0800
IN_Q_OVERFLOW = 0x0000_4000
IN_IGNORED = 0x0000_8000
IN_ISDIR = 0x4000_0000


def _fail(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def map_readonly(fd: int, size: int) -> int:
    """Map `size` bytes of a file, shared and read-only, and return the address.  The caller unmaps it."""
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == _MAP_FAILED:
        raise _fail("mmap")
    return int(address)


def unmap(address: int, size: int) -> None:
    """Undo `map_readonly`."""
    if _libc.munmap(address, size) != 0:
        raise _fail("munmap")


def punch_hole(fd: int, start: int, length: int) -> None:
    """Make a range of a file read as zeros; its size stays.  Written out where holes are not supported."""
    if length <= 0 or _libc.fallocate(fd, _KEEP_SIZE_PUNCH_HOLE, start, length) == 0:
        return
    if ctypes.get_errno() not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise _fail("fallocate")
    end = start + length
    while start < end:
        start += os.pwrite(fd, _ZEROS[: min(len(_ZEROS), end - start)], start)


def inotify_init() -> int:
    """Return a new non-blocking inotify descriptor."""
    fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise _fail("inotify_init1")
    return int(fd)


def inotify_add(fd: int, path: str, mask: int) -> int:
    """Watch a file and return the watch's number: the same one if the file is watched already."""
    watch = _libc.inotify_add_watch(fd, os.fsencode(path), mask)
    if watch < 0:
        raise _fail(f"inotify_add_watch {path}")
    return int(watch)


def inotify_events(fd: int) -> Iterator[tuple[int, int, bytes]]:
    """Read what has happened: the watch's number, the mask, and the name in the directory, or none.  Never blocks."""
    while content := _read(fd):
        at = 0
        while at < len(content):
            watch, mask, _, name_bytes = _EVENT.unpack_from(content, at)
            yield watch, mask, content[at + _EVENT.size :][:name_bytes].rstrip(b"\0")
            at += _EVENT.size + name_bytes


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return b""


def inotify_remove(fd: int, watch: int) -> None:
    """Stop watching.  A watch that the kernel has dropped already, because its file is gone, is no error."""
    if _libc.inotify_rm_watch(fd, watch) != 0 and ctypes.get_errno() != errno.EINVAL:
        raise _fail("inotify_rm_watch")
