"""Ids and capabilities: what a process is in a user namespace of its own, and what it may do there."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence

from streamfn.pool import linux

CAP_SYS_CHROOT = 18
CAP_SYS_ADMIN = 21
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITIES_V3 = 0x20080522
_CAPABILITY_MAX = 64


def unshare_mapping_all(flags: int) -> None:
    """Unshare as root: a process that stays outside maps every id this one knows to itself."""
    ranges = []
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}") as file:
            rows = [line.split() for line in file]
        ranges.append("\n".join(f"{first} {first} {count}" for first, _, count in rows))
    told, tell = os.pipe2(os.O_CLOEXEC)
    mapped = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(tell)
            if os.read(told, 1):
                map_ids(str(mapped), *ranges)
                code = 0
        finally:
            os._exit(code)
    os.close(told)
    try:
        linux.unshare(flags)
        os.write(tell, b"!")
    finally:
        os.close(tell)
        _, status = os.waitpid(pid, 0)
    if status:
        raise PermissionError("user ids cannot be mapped into a new user namespace")


def unshare_keeping_ids(flags: int = 0) -> None:
    """Enter a new user namespace, and those that `flags` name, in which our own ids are as before."""
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER | flags)
    map_ids("self", f"{uid} {uid} 1", f"{gid} {gid} 1")


def map_ids(process: str, uids: str, gids: str) -> None:
    """Say which ids of the machine are which in the user namespace of a process; OSError if that is refused."""
    if "\n" not in uids and uids.endswith(" 1"):
        _write(f"/proc/{process}/setgroups", "deny")  # without it an ordinary user may not map a group
    _write(f"/proc/{process}/gid_map", gids)
    _write(f"/proc/{process}/uid_map", uids)


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def bound_capabilities(kept: Sequence[int]) -> None:
    """Make it impossible to ever have others."""
    for capability in range(_CAPABILITY_MAX):
        if capability not in kept:
            try:
                linux.prctl(linux.PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno != errno.EINVAL:  # there are no more of them
                    raise
                return


def keep_capabilities(kept: Sequence[int]) -> None:
    """Have these, and keep them at an exec."""
    mask = sum(1 << capability for capability in kept)
    header = struct.pack("=Ii", _CAPABILITIES_V3, 0)
    linux.syscall(_CAPSET[os.uname().machine], header, struct.pack("=6I", mask, mask, mask, 0, 0, 0))
    for capability in kept:
        linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_RAISE, capability)
