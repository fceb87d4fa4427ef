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

import contextlib
import gc
import importlib
import json
import os
import random
import resource
import select
import signal
import socket
import stat
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, NoReturn

from streamfn.pool import linux, protocol
from streamfn.pool.seat import Seat

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
        self._tokens: dict[int, int] = {}  # by pid
        self._restore: dict[int, Any] = {}  # signal handlers as Init left them

    def run(self) -> None:
        """Do Init, then serve until the runtime is gone; return when every descendant is gone too."""
        message = protocol.receive(self._control)
        if message is None:
            return
        fields = message.fields
        self._runtime = message.fds[0]
        self._debug = bool(fields["debug"])
        self._defer = bool(fields["defer"])
        self._settings: dict[str, object] = {**fields["settings"], **(self._forked or {})}
        if self._forked is None:  # the thread that forks a zygote ends at once, and would take it along
            linux.die_with_parent(fields["runtime_pid"])
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            if self._initialise(fields["main"], fields["code_dir"]):
                linux.prctl(linux.PR_SET_PDEATHSIG, 0)
                self._spared = set(linux.children())  # what Init started is part of the function
                self._serve()
        finally:
            kill_descendants()

    def _initialise(self, main: str, code_dir: str) -> bool:
        """Import the worker's main and let it do Init.  False, and reported, if there can be no workers."""
        try:
            self._module = importlib.import_module(main)
            # Behind our own imports, so that a file of the user's cannot take their place.
            sys.path.insert(0, code_dir)
            self._state = None if self._defer else self._module.init(self._settings)
            if not self._defer:
                self._refuse_what_forks_badly()
        except protocol.InitFailed as failure:
            self._reply({"op": "failed", "document": failure.document.decode(errors="replace")})
        except Unforkable as reason:
            self._reply({"op": "unforkable", "reason": str(reason)})
        except (Exception, SystemExit) as error:
            # The boundary to foreign code: a main is expected to turn a handler's errors into InitFailed.
            self._reply({"op": "failed", "document": _document(error)})
        else:
            gc.collect()
            gc.freeze()
            self._reply({"op": "ready"})
            return True
        return False

    def _refuse_what_forks_badly(self) -> None:
        # sys._current_frames also knows threads that were started behind threading's back.
        threads = len(sys._current_frames())
        if threads > 1:
            raise Unforkable(f"its import started {threads - 1} Python thread(s)")
        for fd in linux.open_fds():
            if fd > 2 and fd != self._control.fileno() and stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise Unforkable(f"its import left a socket open (descriptor {fd})")

    def _serve(self) -> None:
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._own = [self._control.fileno(), self._runtime, wake_read, wake_write]
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._restore = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
        self._restore[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
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
        assert message.fields["op"] == "spawn", message.fields
        token, index = message.fields["token"], message.fields["index"]
        flush()
        try:
            with warnings.catch_warnings():
                # Native threads (numpy's, pyarrow's) have their at-fork handlers; Python's were ruled out.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
        except OSError as error:
            self._reply({"op": "refused", "token": token, "reason": f"fork: {error}"})
            protocol.close_all(message.fds)
            return True
        if pid == 0:
            self._become_worker(index, message.fds)
        # Only we reap, so the pid is still this child's, even if it has ended already.
        pidfd = os.pidfd_open(pid)
        self._tokens[pid] = token
        self._reply({"op": "spawned", "token": token, "pid": pid}, [pidfd])
        protocol.close_all([pidfd, *message.fds])
        return True

    def _reply(self, fields: dict[str, object], fds: list[int] | None = None) -> None:
        flush()  # whoever reads the answer reads the log with it
        # A broken pipe: the runtime is gone; its pidfd says so, and we end on that.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            protocol.send(self._control, fields, fds or [])

    def _reap(self) -> None:
        """Reap whatever has ended, tell the runtime of workers, and kill what those left behind."""
        ended = False
        for pid, status in _ended():
            token = self._tokens.pop(pid, None)
            if token is not None:
                ended = True
                # The number cannot have been reused while a group of that number exists.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                self._reply({"op": "exited", "token": token, "status": status})
        if ended:
            # What is our child and no worker was orphaned by one.  Whose it was is not known any more, so a
            # process that a handler daemonised lives at most until the next worker's end.
            for pid in linux.children():
                if pid not in self._tokens and pid not in self._spared:
                    os.kill(pid, signal.SIGKILL)

    # ---- in the child ----

    def _become_worker(self, index: int, fds: list[int]) -> NoReturn:
        """Run the worker's main in a fresh child.  Never returns into the zygote's loop."""
        code = 1
        try:
            linux.die_with_parent(self._pid)
            signal.set_wakeup_fd(-1)
            for number, handler in self._restore.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            protocol.close_all(self._own)
            self._control.detach()
            os.setpgid(0, 0)
            linux.name_process(f"sf-worker-{index}")
            seat = Seat(index, fds, debug=self._debug)
            _tidy_interpreter()
            code = self._work(seat)
        except SystemExit as leave:
            code = _exit_code(leave)
        except BaseException:  # the boundary: nothing may unwind into the zygote's loop
            traceback.print_exc()
        finally:
            flush()
            os._exit(code)

    def _work(self, seat: Seat) -> int:
        if self._defer:
            try:
                self._state = self._module.init(self._settings)
            except protocol.InitFailed as failure:
                seat.report({"op": "failed", "document": failure.document.decode(errors="replace")})
                return 1
            except (Exception, SystemExit) as error:
                seat.report({"op": "failed", "document": _document(error)})
                return 1
            seat.report({"op": "ready"})
        self._module.main(self._state, seat)
        return 0


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


def flush() -> None:
    """Write out what is buffered, or each worker would write it again."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _tidy_interpreter() -> None:
    """Give a worker its own randomness, and standard streams that write every line at once."""
    random.seed()
    numpy_random: ModuleType | None = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    for stream in (sys.stdout, sys.stderr):
        # A line that has been printed must survive the worker's being killed.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _exit_code(leave: SystemExit) -> int:
    """What the interpreter would make of it."""
    if leave.code is None:
        return 0
    if isinstance(leave.code, int):
        return leave.code & 0xFF
    print(leave.code, file=sys.stderr)
    return 1


def _document(error: BaseException) -> str:
    """A plain error document for what a main's `init` should not have raised."""
    name = "Runtime.ExitError" if isinstance(error, SystemExit) else type(error).__name__
    frames = traceback.format_list(traceback.extract_tb(error.__traceback__))
    return json.dumps({"errorMessage": str(error), "errorType": name, "requestId": "", "stackTrace": frames})


def serve(fd: int, forked: Mapping[str, object] | None = None) -> NoReturn:
    """Be the zygote at the other end of `fd`; ends the process.  `forked`: see `Zygote`."""
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        linux.name_process("sf-zygote")
        os.set_inheritable(fd, False)
        Zygote(socket.socket(fileno=fd), forked).run()
        code = 0
    except BaseException:  # the boundary: a forked zygote must not unwind into its parent's stack
        traceback.print_exc()
    finally:
        flush()
        os._exit(code)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
