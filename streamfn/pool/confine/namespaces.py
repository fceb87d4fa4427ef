"""Namespaces: the outer ones around a zygote, the inner ones around each of its workers.

    warden            new user, mount, PID, IPC, UTS and (unless the network was asked for) network namespaces
     ├─ keeper        process 1 of that PID namespace
     └─ zygote        process 2; with the one capability that makes the inner ones, over nothing but its own
         ├─ keeper    process 1 of a worker's PID namespace
         └─ worker    process 2; mount, IPC and user namespaces of its own, no capability at all

The zygote makes a PID namespace with its keeper in it, puts its next child there, and turns back: there is no
process in the middle, and the zygote is its workers' parent and reaps them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
from collections.abc import Iterator, Sequence

from streamfn._native import ffi, lib
from streamfn.pool import linux
from streamfn.pool.confine import landlock, seccomp, view

CAP_SYS_ADMIN = 21
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITIES_V3 = 0x20080522
_CAPABILITY_MAX = 64
_OUTER = linux.CLONE_NEWUSER | linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS


class Keeper:
    """Process 1 of a new PID namespace: see native/include/sf_keeper.h.  A child of ours; `pid` is as we see it."""

    def __init__(self) -> None:
        """OSError if there is no such namespace."""
        stack = ffi.new("void **")
        own = os.pidfd_open(os.getpid())
        try:
            self.pid: int = lib.sf_keeper_start(own, stack)
            if self.pid < 0:
                raise OSError(ffi.errno, os.strerror(ffi.errno))
        finally:
            os.close(own)
        self._stack = stack[0]

    def end(self) -> None:
        """Kill it, and with it everything in its namespace; returns when all of that is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.forget()

    def forget(self) -> None:
        """Free what is left of it when somebody else has reaped it."""
        if self._stack != ffi.NULL:
            lib.sf_keeper_free(self._stack)
            self._stack = ffi.NULL


# ---- the outer wall


def enter_outer(*, network: bool) -> Keeper:
    """Put this process into the outer namespaces, its next children into their PID namespace.  OSError.

    All user ids of the machine stay what they are if root asks, its own id if somebody else does.
    """
    flags = _OUTER | (0 if network else linux.CLONE_NEWNET)
    if os.geteuid() == 0:
        _unshare_mapping_all(flags)
    else:
        uid, gid = os.geteuid(), os.getegid()
        linux.unshare(flags)
        _map_ids("self", f"{uid} {uid} 1", f"{gid} {gid} 1")
    keeper = Keeper()
    _live_with(keeper)
    return keeper


def _live_with(keeper: Keeper) -> None:
    """Have our next children live in a keeper's namespace."""
    namespace = os.pidfd_open(keeper.pid)
    try:
        linux.setns(namespace, linux.CLONE_NEWPID)
    finally:
        os.close(namespace)


def _unshare_mapping_all(flags: int) -> None:
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
                _map_ids(str(mapped), *ranges)
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


def _map_ids(process: str, uids: str, gids: str) -> None:
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


def become_unprivileged() -> None:
    """Be the sandbox's user, with no capability but the one over the outer namespaces, and no way to more."""
    uid, gid = view.sandbox_ids()
    _bound_capabilities((CAP_SYS_ADMIN,))
    linux.prctl(linux.PR_SET_KEEPCAPS, 1)
    if uid != os.geteuid():
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _keep_capabilities((CAP_SYS_ADMIN,))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


def _bound_capabilities(kept: Sequence[int]) -> None:
    """Make it impossible to ever have others."""
    for capability in range(_CAPABILITY_MAX):
        if capability not in kept:
            try:
                linux.prctl(linux.PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno != errno.EINVAL:  # there are no more of them
                    raise
                return


def _keep_capabilities(kept: Sequence[int]) -> None:
    """Have these, and keep them at an exec."""
    mask = sum(1 << capability for capability in kept)
    header = struct.pack("=Ii", _CAPABILITIES_V3, 0)
    linux.syscall(_CAPSET[os.uname().machine], header, struct.pack("=6I", mask, mask, mask, 0, 0, 0))
    for capability in kept:
        linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_RAISE, capability)


# ---- the inner wall


class Nursery:
    """What a walled zygote needs to have walled children.  Made before any of the user's code runs."""

    def __init__(self, code_dir: str, *, network: bool, storage_bytes: int | None) -> None:
        self._code_dir = code_dir
        self._network = network
        self._storage_bytes = storage_bytes
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._through = _mounts_below("/tmp")
        self._filter = seccomp.inner()
        # What the user's code execs in the zygote has no use for our capability.
        linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_CLEAR_ALL)

    def try_out(self) -> None:
        """Put the walls up around a child that does nothing else.  OSError says what cannot be had."""
        heard, tell = os.pipe2(os.O_CLOEXEC)
        with self.child() as keeper:
            pid = os.fork()
            if pid == 0:
                try:
                    self.enclose()
                except OSError as error:
                    os.write(tell, f"{error.errno} {error.filename or ''}".encode())
                except BaseException as error:
                    os.write(tell, f"0 {error!r}".encode())
                finally:
                    os._exit(0)
        os.close(tell)
        with open(heard, "rb") as file:
            text = file.read().decode()
        os.waitpid(pid, 0)
        keeper.end()
        if text:
            number, _, where = text.partition(" ")
            raise OSError(int(number), os.strerror(int(number)) if int(number) else "unexpected", where or None)

    @contextlib.contextmanager
    def child(self) -> Iterator[Keeper]:
        """Have the process that is forked in the block live in a PID namespace of its own.

        Its keeper is to be ended after it.  OSError if there is none; one raised in the block ends the keeper.
        """
        keeper = Keeper()
        try:
            _live_with(keeper)
            try:
                yield keeper
            finally:
                linux.setns(self._own, linux.CLONE_NEWPID)
        except BaseException:
            keeper.end()
            raise

    def enclose(self) -> None:
        """In the child: put its own walls up, for good.  OSError if one of them cannot be."""
        os.close(self._own)
        uid, gid = os.geteuid(), os.getegid()
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWIPC)
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        self._own_tmp()
        os.chdir(self._code_dir)
        linux.unshare(linux.CLONE_NEWUSER)
        _map_ids("self", f"{uid} {uid} 1", f"{gid} {gid} 1")
        _bound_capabilities(())
        _keep_capabilities(())
        rules = [("/", landlock.READ), ("/tmp", landlock.ALL), *((name, landlock.DEVICE) for name in view.DEVICES)]
        landlock.restrict(rules, network=self._network)
        seccomp.install(self._filter)

    def _own_tmp(self) -> None:
        """Mount a /tmp with what Init left in the zygote's, and with the code that lies below it."""
        before = os.open("/tmp", os.O_PATH | os.O_CLOEXEC)
        through = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in self._through]
        view.mount_tmp("/tmp", self._storage_bytes)
        for path, place in through:
            if os.path.isdir(f"/proc/self/fd/{place}"):
                os.makedirs(path, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
            linux.mount(f"/proc/self/fd/{place}", path, flags=linux.MS_BIND | linux.MS_REC)
        _copy_missing(f"/proc/self/fd/{before}", "/tmp")
        for place in (before, *(place for _, place in through)):
            os.close(place)


def _mounts_below(directory: str) -> list[str]:
    """List the mount points below a directory, outermost first, and none that lies in another."""
    found: list[str] = []
    with open("/proc/self/mountinfo") as file:
        points = sorted(line.split()[4].encode().decode("unicode_escape") for line in file)
    for point in points:
        if point.startswith(directory + "/") and not any(point.startswith(each + "/") for each in found):
            found.append(point)
    return found


def _copy_missing(source: str, target: str) -> None:
    """Copy what is not there yet; directories that exist are gone into, mount points are not."""
    with os.scandir(source) as entries:
        for entry in entries:
            there = f"{target}/{entry.name}"
            if os.path.ismount(there):
                continue
            if entry.is_dir(follow_symlinks=False):
                os.makedirs(there, exist_ok=True)
                _copy_missing(entry.path, there)
            elif entry.is_symlink() or entry.is_file():
                _copy_file(entry, there)


def _copy_file(entry: os.DirEntry[str], target: str) -> None:
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), target)
        return
    with open(entry.path, "rb") as source, open(target, "wb") as copy:
        while piece := source.read(1024 * 1024):
            copy.write(piece)
    os.chmod(target, entry.stat().st_mode & 0o7777)
