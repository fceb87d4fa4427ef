"""A zygote forked from the calling process, for a callable that has no importable name.

The child has one thread; the others of the caller do not exist in it, and a lock that one of them held
stays locked.  So it touches as little as it can before it serves, and the runtime waits for it only
FORK_INIT_S.  It is forked by a thread made for that, in which no event loop of the caller is running.

Its descriptors, but for its own, are replaced by /dev/null instead of closed: objects of the caller that
are finalised here later close *their* numbers, and those must not have become ours.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import NoReturn

from streamfn.errors import FailedError
from streamfn.pool import birth, linux, zygote
from streamfn.pool.launch import ZygoteProcess, own

FORK_INIT_S = 5.0


def fork_zygote(
    control: int,
    callable_: Callable[..., object],
    *,
    code_dir: str,
    environment: Mapping[str, str],
    log: int | None,
) -> ZygoteProcess:
    """Fork a zygote that holds `control`; its output goes to `log`, or (None) it keeps the terminal.

    Blocks for the fork: milliseconds, more if the caller is large.  Raises FailedError if it is refused.
    """
    outcome: list[int | OSError] = []

    def fork() -> None:
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of what the module's text is about.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
        except OSError as error:
            outcome.append(error)
            return
        if pid == 0:
            _become_zygote(control, callable_, code_dir, environment, log)
        outcome.append(pid)

    birth.flush()
    thread = threading.Thread(target=fork, name="streamfn-fork")
    thread.start()
    thread.join()
    result = outcome[0]
    if isinstance(result, OSError):
        raise FailedError(f"cannot fork a process for {callable_!r}: {result}") from result
    return own(result)


def _become_zygote(
    control: int,
    callable_: Callable[..., object],
    code_dir: str,
    environment: Mapping[str, str],
    log: int | None,
) -> NoReturn:
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        _let_go_of_descriptors({control}, log)
        os.chdir(code_dir)
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()  # an exec'd process does it by itself
    except BaseException:  # the boundary: a child must not unwind into its parent's stack
        os._exit(1)
    zygote.serve(control, {"callable": callable_})


def _let_go_of_descriptors(own: set[int], log: int | None) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if log is not None:
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
    for fd in linux.open_fds():
        if fd > 2 and fd not in own and fd != null:
            os.dup2(null, fd, inheritable=False)
    os.close(null)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        # The caller's may be anything: a notebook's socket, a test's capture.
        with contextlib.suppress(OSError, ValueError):
            file = io.FileIO(fd, "w", closefd=False)
            stream = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", line_buffering=True)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    if log is not None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False))
