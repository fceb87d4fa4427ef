"""Namespaces: the outer ones around a zygote, the inner ones around each of its workers.

    warden            new user, mount, PID, IPC, UTS and (unless the network was asked for) network namespaces
     ├─ keeper        process 1 of that PID namespace
     └─ zygote        process 2; with the capabilities that make the inner ones, over nothing but its own
         ├─ keeper    process 1 of a worker's PID namespace
         └─ worker    process 2; mount, IPC and user namespaces of its own, no capability at all

The zygote makes a PID namespace with its keeper in it, puts its next child there, and turns back: there is no
process in the middle, and the zygote is its workers' parent and reaps them.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from streamfn._native import ffi, lib
from streamfn.pool import linux
from streamfn.pool.confine import landlock, seccomp, storage, view
from streamfn.pool.confine.limits import STORAGE_BYTES_DEFAULT
from streamfn.pool.confine.privileges import (
    CAP_SYS_ADMIN,
    CAP_SYS_CHROOT,
    bound_capabilities,
    keep_capabilities,
    unshare_keeping_ids,
    unshare_mapping_all,
)

_OUTER = linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS


# The zygote's: it makes namespaces, and enters those of its environments, which sets a root.
_KEPT = (CAP_SYS_ADMIN, CAP_SYS_CHROOT)
_TRIAL = -1  # the number of an environment that is none


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

    def kill(self) -> None:
        """Kill it, and with it everything in its namespace."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it, and return when all in its namespace is gone: children of ours there must have been reaped."""
        self.kill()
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
    """Put this process into the outer namespaces, its next children into their PID namespace.  OSError."""
    enter_user(_OUTER | (0 if network else linux.CLONE_NEWNET))
    keeper = Keeper()
    live_with(keeper)
    return keeper


def enter_user(flags: int = 0) -> None:
    """Enter a new user namespace, and with it those that `flags` name.  OSError.

    All user ids of the machine stay what they are if root asks, its own id if somebody else does.
    """
    if os.geteuid() == 0:
        unshare_mapping_all(linux.CLONE_NEWUSER | flags)
    else:
        unshare_keeping_ids(flags)


def live_with(keeper: Keeper) -> None:
    """Have our next children live in a keeper's namespace."""
    namespace = os.pidfd_open(keeper.pid)
    try:
        linux.setns(namespace, linux.CLONE_NEWPID)
    finally:
        os.close(namespace)


def become_unprivileged() -> None:
    """Be the sandbox's user, with no capabilities but two over the outer namespaces, and no way to more."""
    uid, gid = view.sandbox_ids()
    bound_capabilities(_KEPT)
    linux.prctl(linux.PR_SET_KEEPCAPS, 1)
    if uid != os.geteuid():
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    keep_capabilities(_KEPT)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


# ---- the inner wall


class Nursery:
    """What a walled zygote needs to have walled children.  Made before any of the user's code runs.

    `tmp` has the /tmp of each of its environments.
    """

    def __init__(self, code_dir: str, *, network: bool, storage_bytes: int | None) -> None:
        self._network = network
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._filter = seccomp.inner()
        self.tmp = storage.Spaces(code_dir, storage_bytes or STORAGE_BYTES_DEFAULT, walled=True)
        # What the user's code execs in the zygote has no use for our capabilities.
        linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_CLEAR_ALL)

    def try_out(self) -> None:
        """Put the walls up around a child that does nothing else.  OSError says what cannot be had."""
        heard, tell = os.pipe2(os.O_CLOEXEC)
        with self.tmp.child(_TRIAL, fresh=True), self.child() as keeper:
            pid = os.fork()
            if pid == 0:
                try:
                    self.tmp.let_go()
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
        self.tmp.wipe(_TRIAL)
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
            live_with(keeper)
            try:
                yield keeper
            finally:
                linux.setns(self._own, linux.CLONE_NEWPID)
        except BaseException:
            keeper.end()
            raise

    def enclose(self) -> None:
        """In the child, which has let go of `tmp`: put its own walls up, for good.  OSError if one cannot be."""
        os.close(self._own)
        threads = len(os.listdir("/proc/self/task")) - 1
        if threads:
            raise RuntimeError(f"the fork started {threads} thread(s), around which a worker's walls cannot be put up")
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWIPC)
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        unshare_keeping_ids()
        bound_capabilities(())
        keep_capabilities(())
        rules = [("/", landlock.READ), ("/tmp", landlock.ALL), *((name, landlock.DEVICE) for name in view.DEVICES)]
        landlock.restrict(rules, network=self._network)
        seccomp.install(self._filter)
