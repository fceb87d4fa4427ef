"""The zygote: a process that has done a function's Init once, and forks a worker whenever it is asked.

It is exec'd (or, for a callable without an importable name, forked) by the runtime, has its own session,
and speaks `protocol` over one socket.  It reaps the workers, is the subreaper of what their handlers leave
behind, and watches the runtime by a pidfd: when that ends, however it ends, it kills every descendant and
exits.  A zygote that is killed itself takes its workers along by their PR_SET_PDEATHSIG.

While it is in Init it cannot watch anything, so for that time it has a parent-death signal too.

There is no Python thread here but the main one, and no socket but the one to the runtime: both would
be half there in a worker.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from streamfn.pool import birth, forkable, linux, pages, protocol
from streamfn.pool.confine import cgroup, rlimits, storage
from streamfn.pool.confine.isolation import Isolation
from streamfn.pool.confine.limits import Limits
from streamfn.pool.confine.namespaces import Keeper, Nursery

# After the runtime's end everything must be gone within a second; a process that takes longer to die
# than this (uninterruptible sleep) cannot be helped.
CLEANUP_S = 0.9
_CLEANUP_STEP_S = 0.001


class Unforkable(Exception):
    """What Init left behind would not survive a fork; the text says what."""


class Zygote:
    """One zygote, from its first message to its end."""

    def __init__(self, control: socket.socket, forked: Mapping[str, object] | None) -> None:
        """`forked`: None if exec'd, else what is added to the settings and cannot be sent as JSON."""
        self._control = control
        self._forked = forked
        self._pid = os.getpid()
        self.status = 0  # what the process exits with
        self._begins: str | None = None  # what workers do before they are ready: see `protocol`
        self._tokens: dict[int, int] = {}  # by pid
        self._nursery: Nursery | None = None  # in a sandbox
        self._keepers: dict[int, Keeper] = {}  # by their own pid
        self._keeper_of: dict[int, int] = {}  # by the worker's pid
        self._tmp: storage.Tmp | None = None
        self._no_tmp: str | None = None  # why it is a directory
        self._initialised: tuple[object, ...] = ()  # what Init left, if it was done here, and `_begins`
        self._restore: dict[int, Any] = {}  # signal handlers as Init left them
        self._hunting = False  # a worker has ended, and what it left behind may be there

    def run(self) -> None:
        """Do Init, then serve until the runtime is gone; return when every descendant is gone too."""
        message = protocol.receive(self._control)
        if message is None:
            return
        fields = message.fields
        self._runtime = message.fds[0]
        self._fresh = fields["init"] == protocol.FRESH
        settings: dict[str, object] = {**fields["settings"], **(self._forked or {})}
        self._birth = birth.Birth(
            main=fields["main"],
            settings=settings,
            code_dir=fields["code_dir"],
            number=0,
            debug=bool(fields["debug"]),
            limits=fields["limits"],
            holding=fields["holding"],
            workers=fields["workers"],
            isolation=fields["isolation"],
        )
        isolation = Isolation.from_json(fields["isolation"])
        if fields.get("folder") is not None:
            self._make_tmp(Limits.from_json(fields["limits"]), Path(fields["folder"]))
        if isolation.is_sandbox:  # its warden ends it with the runtime
            if not self._make_nursery(isolation, Limits.from_json(fields["limits"])):
                return
        elif self._forked is None:  # the thread that forks a zygote ends at once, and would take it along
            linux.die_with_parent(fields["runtime_pid"])
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        cgroup.enter(message.fds[1:])
        self._birth = self._birth._replace(holding=rlimits.limit_zygote(self._birth.limits, self._birth.holding))
        try:
            if self._initialise(here=fields["init"] == protocol.ZYGOTE):
                if not isolation.is_sandbox:
                    linux.prctl(linux.PR_SET_PDEATHSIG, 0)
                self._spared = set(linux.children())  # what Init started is part of the function
                self._serve()
        finally:
            kill_descendants()

    def _make_tmp(self, limits: Limits, folder: Path) -> None:
        """See that each worker gets a /tmp of its own, or at least a directory of its own, for temporary files."""
        assert limits.storage_bytes is not None
        try:
            self._tmp = storage.Spaces(self._birth.code_dir, limits.storage_bytes)
        except OSError as error:
            self._no_tmp = f"a mount namespace is refused: {error.strerror or error}"
            self._tmp = storage.Folders(folder)

    def _make_nursery(self, isolation: Isolation, limits: Limits) -> bool:
        """Prepare the workers' own walls, and try them.  False, and reported, if they cannot be had."""
        try:
            self._nursery = Nursery(self._birth.code_dir, network=isolation.network, storage_bytes=limits.storage_bytes)
            self._nursery.try_out()
            self._tmp = self._nursery.tmp
        except OSError as error:
            self._reply({"op": "unwalled", "reason": f"this machine does not allow the walls of a worker: {error}"})
            return False
        return True

    def _initialise(self, *, here: bool) -> bool:
        """Import the worker's main, and let it do Init if that is to be done here.

        False, and reported, if there can be no workers.
        """
        try:
            if not self._fresh:
                self._module = birth.find_main(self._birth)
            if here:
                state = self._module.init(self._birth.settings)
                before_fork = getattr(self._module, "before_fork", None)
                self._begins = None if before_fork is None else before_fork(state)
                self._initialised = (state, self._begins)
                self._refuse_what_forks_badly()
        except protocol.InitFailed as failure:
            self.status = failure.status
            self._reply({"op": "failed", "document": failure.document.decode(errors="replace")})
        except Unforkable as reason:
            self._reply({"op": "unforkable", "reason": str(reason)})
        except (Exception, SystemExit) as error:
            # The boundary to foreign code: a main is expected to turn a handler's errors into InitFailed.
            self._reply({"op": "failed", "document": birth.document_of(error)})
        else:
            gc.collect()
            gc.freeze()
            pages.gather()
            self._reply({"op": "ready", "begins": self._begins, "no_tmp": self._no_tmp})
            return True
        return False

    def _refuse_what_forks_badly(self) -> None:
        reason = forkable.why_not([self._control.fileno(), self._runtime])
        if reason is not None:
            raise Unforkable(reason)

    def _serve(self) -> None:
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._own = [self._control.fileno(), self._runtime, wake_read, wake_write]
        self._restore[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        # We end with the runtime.  A signal comes from a terminal, or from a handler that means us or everybody.
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - {signal.SIGCHLD})
        poller = select.poll()
        for fd in (self._control.fileno(), self._runtime, wake_read):
            poller.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if self._runtime in ready:
                return
            if wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
                self._reap()
            if self._control.fileno() in ready and not self._obey():
                return

    def _obey(self) -> bool:
        """Carry out one command.  False when the runtime has closed the socket."""
        message = protocol.receive(self._control)
        if message is None:
            return False
        index = message.fields["index"]
        if message.fields["op"] == "wipe":
            if self._tmp is not None:
                self._tmp.wipe(index)
            return True
        assert message.fields["op"] == "spawn", message.fields
        token, fresh = message.fields["token"], message.fields.get("fresh", True)
        birth.flush()
        try:
            with warnings.catch_warnings(), contextlib.ExitStack() as place:
                # Native threads (numpy's, pyarrow's) have their at-fork handlers; Python's were ruled out.
                warnings.simplefilter("ignore", DeprecationWarning)
                if self._tmp is not None:
                    place.enter_context(self._tmp.child(index, fresh=fresh))
                keeper = None if self._nursery is None else place.enter_context(self._nursery.child())
                pid = os.fork()
                if pid == 0:
                    self._become_worker(index, message.fds)
        except OSError as error:
            self._reply({"op": "refused", "token": token, "reason": f"fork: {error}"})
            protocol.close_all(message.fds)
            return True
        if keeper is not None:
            self._keepers[keeper.pid] = keeper
            self._keeper_of[pid] = keeper.pid
        # Only we reap, so the pid is still this child's, even if it has ended already.
        pidfd = os.pidfd_open(pid)
        self._tokens[pid] = token
        self._reply({"op": "spawned", "token": token, "pid": pid}, [pidfd])
        protocol.close_all([pidfd, *message.fds])
        return True

    def _reply(self, fields: dict[str, object], fds: list[int] | None = None) -> None:
        birth.flush()  # whoever reads the answer reads the log with it
        # A broken pipe: the runtime is gone; its pidfd says so, and we end on that.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            protocol.send(self._control, fields, fds or [])

    def _reap(self) -> None:
        """Reap whatever has ended, tell the runtime of workers, and kill what those left behind."""
        ended = False
        for pid, status in _ended():
            keeper = self._keepers.pop(pid, None)
            if keeper is not None:
                keeper.forget()
                continue
            token = self._tokens.pop(pid, None)
            if token is not None:
                self._end_keeper(self._keeper_of.pop(pid, 0))
                ended = True
                # The number cannot have been reused while a group of that number exists.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                self._reply({"op": "exited", "token": token, "status": status})
        self._hunting = self._hunting or ended
        if self._hunting:
            self._hunting = self._kill_strays()

    def _kill_strays(self) -> bool:
        """Kill what workers that ended have orphaned.  False when nothing is left; each death brings us back here.

        What is our child and no worker was orphaned by one.  Whose it was shows only where workers have control groups:
        elsewhere a process that a handler daemonised lives at most until the next worker's end.
        """
        known = self._tokens.keys() | self._keepers.keys() | self._spared
        strays = [pid for pid in linux.children() if pid not in known]
        if not strays:
            return False
        living = {cgroup.of(pid) for pid in self._tokens} - {cgroup.of(self._pid)}
        strays = [pid for pid in strays if cgroup.of(pid) not in living]
        for pid in strays:
            with contextlib.suppress(PermissionError):
                os.kill(pid, signal.SIGKILL)
        return bool(strays)

    def _end_keeper(self, pid: int) -> None:
        """Kill a worker's keeper, and with it whatever else lives in the worker's PID namespace."""
        if pid in self._keepers:  # else it is reaped, and the number may be another's
            os.kill(pid, signal.SIGKILL)

    # ---- in the child ----

    def _become_worker(self, index: int, fds: list[int]) -> NoReturn:
        """Be a worker in a fresh child."""

        def run() -> int:
            if self._nursery is None:  # else it goes with the namespace it is in
                linux.die_with_parent(self._pid)
            signal.set_wakeup_fd(-1)
            # `signal` itself makes enums, also of each signal that was blocked: page after page, in a fresh child.
            for number, handler in self._restore.items():
                _signal.signal(int(number), handler if callable(handler) else int(handler or signal.SIG_DFL))
            _signal.pthread_sigmask(signal.SIG_SETMASK, [])
            protocol.close_all(self._own)
            self._control.detach()
            if self._tmp is not None:
                self._tmp.let_go()
            if self._nursery is not None:
                self._nursery.enclose()
            born = self._birth._replace(number=index)
            if self._fresh:
                birth.become_fresh(born, fds)
            return birth.live(born, fds, lambda: self._module, self._initialised)

        birth.end_with(run)


def kill_descendants() -> None:
    """SIGKILL and reap every descendant: as their subreaper we get the children of whatever dies."""
    deadline = time.monotonic() + CLEANUP_S
    while time.monotonic() < deadline:
        for _ in _ended():
            pass
        left = linux.children()
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_CLEANUP_STEP_S)


def _ended() -> Iterator[tuple[int, int]]:
    """Reap every child that has ended: pid and wait status."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def serve(fd: int, forked: Mapping[str, object] | None = None) -> NoReturn:
    """Be the zygote at the other end of `fd`; ends the process.  `forked`: see `Zygote`."""
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        linux.name_process("sf-zygote")
        os.set_inheritable(fd, False)
        made = Zygote(socket.socket(fileno=fd), forked)
        made.run()
        code = made.status
    except BaseException:  # the boundary: a forked zygote must not unwind into its parent's stack
        traceback.print_exc()
    finally:
        birth.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
