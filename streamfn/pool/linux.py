"""What we need of Linux and Python's `os` does not have; and how memfds are made here."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
_MADV_COLLAPSE = 25
_FALLOC_KEEP_SIZE = 1
_SIGINFO_BYTES = 128
_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_FALLOC_PUNCH_HOLE = 2
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.timerfd_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
_libc.syscall.restype = ctypes.c_long


class TableEntry(NamedTuple):
    """One line of the process table."""

    pid: int
    parent: int
    session: int


def _check(result: int, *named: str) -> int:
    """Return what libc returned; OSError, which names what was `named`, if that says that it failed."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), *named)
    return result


def prctl(option: int, value: int, more: int = 0) -> None:
    """Call prctl(2) with one integer argument, or two; OSError if it is refused."""
    _check(_libc.prctl(option, value, more, 0, 0))


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call that no libc of some years ago has; OSError if it fails."""
    native = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _check(int(_libc.syscall(ctypes.c_long(number), *native)))


def timerfd() -> int:
    """Return a timer on CLOCK_MONOTONIC: a descriptor that is readable when its moment has come; or OSError."""
    return _check(_libc.timerfd_create(_CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK))


def set_timer(fd: int, at_ns: int) -> None:
    """Let the timer's moment be `at_ns` on CLOCK_MONOTONIC; one that is past makes it readable at once."""
    seconds, ns = divmod(max(1, at_ns), 1_000_000_000)  # 0 would stop it
    _check(_libc.timerfd_settime(fd, _TFD_TIMER_ABSTIME, struct.pack("qqqq", 0, 0, seconds, ns), None))


def name_process(name: str) -> None:
    """Name the calling thread for ps and top; only 15 bytes of it are kept."""
    text = ctypes.create_string_buffer(name.encode()[:15])
    _check(_libc.prctl(PR_SET_NAME, ctypes.addressof(text), 0, 0, 0))


def die_with_parent(parent: int) -> None:
    """Be killed when the parent's *thread* that forked us ends; if `parent` is already gone, end now."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own (`CLONE_NEW*`); OSError if that is refused.

    `os.unshare` came with Python 3.12.
    """
    _check(_libc.unshare(flags))


def setns(fd: int, flags: int) -> None:
    """Enter the namespace that `fd` (a file of /proc/PID/ns) speaks of; a mount namespace's root becomes the root."""
    _check(_libc.setns(fd, flags))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Call mount(2); OSError, naming the target, if it is refused."""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(kind), flags, os.fsencode(data)), target)


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """Call umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags))


def punch_hole(fd: int, start: int, length: int) -> None:
    """Give a file's pages back to the system; its size stays, the range reads as zeros."""
    _check(_libc.fallocate(fd, _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, start, length))


def collapse(address: int, length: int) -> bool:
    """Put memory of our own into huge pages (Linux 6.1); False where it stays as it is."""
    return bool(_libc.madvise(address, length, _MADV_COLLAPSE) == 0)


def keep_freed(kept: int, own: int) -> bool:
    """Have malloc keep up to `kept` freed bytes at the heap's end, and map only what takes more than `own` by itself.

    False where the C library has no such thing.
    """
    mallopt = getattr(_libc, "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_TRIM_THRESHOLD, kept) and mallopt(_M_MMAP_THRESHOLD, own))



def sealed_memfd(name: str, size: int) -> int:
    """Make a zeroed memfd of `size` bytes that can never change its size; its memory comes with `fallocate`."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


def growing_memfd(name: str, *, append: bool) -> int:
    """Make an empty memfd that may grow; with `append` every write through it goes to its end."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    if append:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return fd


def signalfd(signals: Iterable[int]) -> int:
    """Make a descriptor to read these signals from; they must be blocked in every thread.  It never blocks."""
    mask = sum(1 << (number - 1) for number in signals)
    return _check(int(_libc.signalfd(-1, mask.to_bytes(128, sys.byteorder), os.O_NONBLOCK | os.O_CLOEXEC)))


def read_signals(fd: int) -> list[tuple[int, int, int]]:
    """Read what has come to a signalfd, as far as it fits: (number, si_code, si_pid) each."""
    try:
        found = os.read(fd, 32 * _SIGINFO_BYTES)
    except BlockingIOError:
        return []
    infos = (found[at : at + _SIGINFO_BYTES] for at in range(0, len(found), _SIGINFO_BYTES))
    return [struct.unpack_from("=I4xiI", info) for info in infos]


def open_fds() -> list[int]:
    """List the descriptors of this process."""
    found: list[int] = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        # One of them was the listing's own.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_GETFD)
            found.append(fd)
    return found


def stat_fields(pid: int | str) -> list[bytes]:
    """Read the fields of /proc/PID/stat behind the name: the state is the first of them.  OSError if it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The name may hold anything, blanks and brackets too: the fields start behind the last bracket.
        return file.read().rpartition(b")")[2].split()


def processes() -> Iterator[TableEntry]:
    """Read the process table; processes that end meanwhile are left out."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = stat_fields(entry)
            if fields:
                yield TableEntry(int(entry), int(fields[1]), int(fields[3]))


def pidfd_pid(fd: int) -> int:
    """Give the number, in our namespace, of a pidfd's process; -1 if that has been reaped.

    ValueError if the descriptor is no pidfd, or of a process that we have no number for.
    """
    with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
        for line in file:
            name, _, value = line.partition(b":")
            if name == b"Pid" and int(value) != 0:
                return int(value)
    raise ValueError(f"descriptor {fd} is no pidfd of a process we can see")


def is_descendant(pid: int, ancestor: int) -> bool:
    """Whether a process is `ancestor` or has come from it; False if it, or one between, is gone."""
    while pid > 1 and pid != ancestor:
        try:
            pid = int(stat_fields(pid)[1])
        except (OSError, IndexError):
            return False
    return pid == ancestor


def children() -> list[int]:
    """List the direct children of this process, zombies included."""
    try:
        found: list[int] = []
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children") as file:
                found.extend(map(int, file.read().split()))
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        own = os.getpid()
        return [process.pid for process in processes() if process.parent == own]
    return found


def kill_session(session: int) -> None:
    """SIGKILL every process of a session.

    The caller makes sure that `session` cannot have been reused: its leader is an unreaped child.
    """
    for process in processes():
        if process.session == session:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)


def describe_exit(status: int) -> str:
    """Say how a process ended, from a wait status, in Lambda's words: "exit status 1", "signal: killed"."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    return f"signal: {(signal.strsignal(-code) or str(-code)).lower()}"
