"""Mounts: memory in place of a directory, attributes, and mounts that are attached nowhere.

The last two are Linux's newer calls (5.12), which no libc of some years ago has.
"""

from __future__ import annotations

import os
import struct

from streamfn.pool import linux

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same everywhere
_HERE = -100  # AT_FDCWD
_AT_EMPTY_PATH, _AT_RECURSIVE, _CLONE = 0x1000, 0x8000, 1
_MOVE_FROM_EMPTY_PATH = 4

RDONLY, NOSUID, NODEV, NOEXEC, IDMAP = 1, 2, 4, 8, 0x00100000


def mount_memory(target: str, size: int | str, mode: str = "755") -> None:
    """Mount an empty tmpfs of that size (bytes, or as mount(8) has it) over a directory; OSError."""
    linux.mount("tmpfs", target, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"mode={mode},size={size}")


def set_attributes(path: str, attributes: int, *, recursive: bool = True) -> None:
    """Give the mount at a path attributes, and with `recursive` those below it; OSError, naming the path."""
    try:
        _set(_HERE, os.fsencode(path), attributes, 0, _AT_RECURSIVE if recursive else 0)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def detached(path: str, attributes: int, namespace: int = 0) -> int:
    """Make a mount of what is at a path and below it, attached nowhere, with attributes; its descriptor.  OSError.

    `namespace` is the descriptor of the user namespace that IDMAP goes by.  The process needs CAP_SYS_ADMIN over its
    mount namespace; who is given the descriptor needs nothing.
    """
    mount = linux.syscall(_OPEN_TREE, _HERE, os.fsencode(path), _CLONE | os.O_CLOEXEC | _AT_RECURSIVE)
    try:
        _set(mount, b"", attributes, namespace, _AT_EMPTY_PATH | _AT_RECURSIVE)
    except OSError:
        os.close(mount)
        raise
    return mount


def attach(mount: int, target: str) -> None:
    """Attach such a mount; OSError."""
    linux.syscall(_MOVE_MOUNT, mount, b"", _HERE, os.fsencode(target), _MOVE_FROM_EMPTY_PATH)


def unescaped(text: str) -> str:
    """A path of /proc/PID/mountinfo: blanks, tabs, line ends and backslashes are octal there."""
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text


def _set(place: int, path: bytes, attributes: int, namespace: int, flags: int) -> None:
    packed = struct.pack("=4Q", attributes, 0, 0, namespace)
    linux.syscall(_MOUNT_SETATTR, place, path, flags, packed, len(packed))
