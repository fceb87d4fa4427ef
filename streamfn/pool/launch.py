"""Starting a zygote by exec, and the handle on a zygote's process.  No trio here."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from streamfn.errors import FailedError
from streamfn.pool import boot, linux


class ZygoteProcess:
    """A child process of ours.  It owns the pidfd; `reap` is to be called when that is readable."""

    def __init__(self, pid: int, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self._popen = popen

    def kill(self) -> None:
        """SIGKILL; nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def exit_detail(self) -> str:
        """Say how the ended process ended: see `linux.describe_exit`."""
        try:
            ended = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # the embedding program ignores SIGCHLD or waits for everything
            ended = None
        if ended is None:
            return "signal: killed"
        is_exit = ended.si_code == os.CLD_EXITED
        return linux.describe_exit(ended.si_status << 8 if is_exit else ended.si_status)

    def reap(self) -> None:
        """Reap the ended process and close the pidfd."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        if self._popen is not None:
            # Popen is not to wait for what we have reaped.
            self._popen.returncode = 0
        os.close(self.pidfd)


def launch(
    control: int, *, name: str, code_dir: str, environment: Mapping[str, str], log: int | None
) -> ZygoteProcess:
    """Exec a zygote that holds `control`; its output goes to `log`, or (None) it inherits the terminal.

    Takes a millisecond or two, and blocks for it.  Raises FailedError if the process cannot be started.
    """
    if not sys.executable:
        raise FailedError(f"cannot start workers for {name}: the path of the Python interpreter is not known")
    try:
        popen = subprocess.Popen(
            boot.command("zygote", control),
            stdin=None if log is None else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[control],
            cwd=code_dir,
            env=dict(environment),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise FailedError(f"cannot start workers for {name} in {code_dir}: {error}") from error
    return own(popen.pid, popen)


def own(pid: int, popen: subprocess.Popen[bytes] | None = None) -> ZygoteProcess:
    """Make the handle of a new child, or kill it."""
    try:
        return ZygoteProcess(pid, popen)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if popen is not None:
            popen.returncode = -signal.SIGKILL
        raise FailedError(f"cannot watch process {pid}: {error}") from error
