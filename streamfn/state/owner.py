"""Who may run a mapping: one process at a time, held by a lock that its end releases.

The lock is `flock` on a file of the mapping's own, with the owner's pid written in for the message that a
second one gets.  The kernel frees it when the last copy of the descriptor is closed, so however the
process ends, nothing stale is left.  The descriptor is not inheritable; a child made by a bare `fork`
would share the lock and has to close it.

The lock says who may *start*; that an owner who lost it cannot commit is the epoch's work (store.py).
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from streamfn.errors import BusyError, FailedError

# How long somebody who only looks may hold a lock: a few microseconds, unless it is put to sleep in between.
_LOOK_S = (0.001, 0.005, 0.02)


class Ownership:
    """A held lock.  Use as a context manager, or call `release`."""

    def __init__(self, path: Path, fd: int) -> None:
        """Private: use `acquire`."""
        self.path = path
        self._fd = fd

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Take the lock file at `path`, which is created if need be, or fail at once.

        Raises:
            BusyError: another process, or another place in this one, holds it; names its pid.
            FailedError: the file cannot be opened.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise FailedError(f"cannot open the lock {path}: {error.strerror}") from error
        try:
            _lock(fd)
        except BlockingIOError:
            owner = _owner(fd)
            os.close(fd)
            raise BusyError(f"already running in {owner}") from None
        except OSError as error:
            os.close(fd)
            raise FailedError(f"cannot lock {path}: {error.strerror}") from error
        # One write of a fixed size: a reader sees the old owner or this one, never half of each.
        os.pwrite(fd, b"%-20d\n" % os.getpid(), 0)
        return cls(path, fd)

    def share(self) -> Ownership:
        """Another holder of the same lock in this process: it is free when all of them have released it."""
        return Ownership(self.path, os.dup(self._fd))

    def release(self) -> None:
        """Give the lock back.  The file stays: removing it would let two processes lock two files."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_owned(path: Path) -> bool:
    """Whether somebody holds the lock file at `path` just now.  Changes nothing, and needs no right to write."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # nobody ever took it, or it cannot be seen from here
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _lock(fd: int) -> None:
    """Take the lock; whoever only looks whether it is taken (`is_owned`) holds it for a moment, which is waited for."""
    for pause_s in (*_LOOK_S, None):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause_s is None:
                raise
            time.sleep(pause_s)
        else:
            return


def _owner(fd: int) -> str:
    """How to name the holder in a message: its pid, unless what is written there is stale."""
    text = os.pread(fd, 32, 0).strip()
    if text.isdigit() and Path(f"/proc/{int(text)}").exists():
        return f"process {int(text)}"
    return "another process"
