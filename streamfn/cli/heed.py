"""Signals to the command, heeded by who sent them.

Handlers run as the same user as the runtime, so nothing keeps one from sending it a signal.  What ends a run has to
come from outside: a terminal, a shell, a supervisor.  So signals are not delivered but read, with their sender; those
of the run's own workers, and of whatever these have started, are not obeyed.  SIGKILL and SIGSTOP cannot be read: the
isolation level `sandbox` keeps handlers from sending them.

A sender that has ended before its signal is read is nobody's: INT, TERM and HUP are obeyed then, because `kill` and
`pkill` end that fast, and a run that drains loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NamedTuple

import trio

from streamfn.pool import linux

# What asks a run to end.
ENDING = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
_STOPPING = frozenset((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))
# These do nothing by themselves, or are Python's to ignore, or belong to whoever waits for children.
_LET_BE = frozenset(
    (
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGURG,
        signal.SIGWINCH,
        signal.SIGPIPE,
        signal.SIGXFSZ,
        signal.SIGKILL,
        signal.SIGSTOP,
    )
)
_SI_KERNEL, _SI_TKILL = 128, -6


class Signal(NamedTuple):
    """A signal as it was sent: `code` says how, `sender` is a pid (0: from outside of our PID namespace)."""

    number: int
    code: int
    sender: int


class Heed:
    """The signals of this process while the context lasts: enter it in the main thread, before any other is started."""

    def __enter__(self) -> Heed:
        signals = signal.valid_signals() - _LET_BE
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        self._fd = linux.signalfd(signals)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    async def next(self) -> int:
        """Wait for the next signal that asks for an end, and return its number.  Others are done as they mean."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            for sent in map(Signal._make, linux.read_signals(self._fd)):
                if not _is_foreign(sent):
                    continue
                if sent.number in ENDING:
                    return sent.number
                _act_on(sent.number)


def _is_foreign(sent: Signal) -> bool:
    """Whether a signal is to be obeyed: it does not come from our own workers."""
    if sent.code == _SI_KERNEL:  # the terminal
        return True
    if sent.code not in (_SI_TKILL, 0):  # sigqueue lets a process name another one as the sender
        return False
    if sent.sender in (0, os.getpid()):
        return True
    if linux.is_descendant(sent.sender, os.getpid()):
        return False
    return sent.number in ENDING or os.path.exists(f"/proc/{sent.sender}")


def _act_on(number: int) -> None:
    """Do what the signal does where nobody reads it."""
    if number in _STOPPING:
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
