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
from streamfn.pool.confine import warden
from streamfn.pool.confine.isolation import Isolation, inherited


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
    control: int,
    *,
    name: str,
    code_dir: str,
    environment: Mapping[str, str],
    log: int | None,
    isolation: Isolation,
    storage_bytes: int | None,
) -> ZygoteProcess:
    """Exec a zygote that holds `control`; its output goes to `log`, or (None) it inherits the terminal.

    At isolation level `sandbox` the process is a warden, which ends as the zygote behind its wall does; what the
    machine does not allow comes through `control`.  `storage_bytes` is the size of the /tmp there.

    Takes a millisecond or two, and blocks for it.  Raises FailedError if the process cannot be started.
    """
    if not sys.executable:
        raise FailedError(f"cannot start workers for {name}: the path of the Python interpreter is not known")
    with contextlib.ExitStack() as files:
        command, kept, variables = boot.command("zygote", control), [control], dict(environment)
        try:
            if isolation.is_sandbox:
                note = warden.note(
                    control,
                    code_dir=code_dir,
                    environment=environment,
                    isolation=isolation,
                    storage_bytes=storage_bytes,
                )
                files.callback(os.close, note)
                command, kept, variables = boot.command("confine.warden", note), [control, note], inherited(os.environ)
            popen = subprocess.Popen(
                command,
                stdin=None if log is None else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=kept,
                cwd=code_dir,
                env=variables,
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
