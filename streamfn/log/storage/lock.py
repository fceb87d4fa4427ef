"""Locks between processes: flock on a file that names its holder, free as soon as the holder has ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from streamfn.errors import BusyError
from streamfn.log.storage.disk import SYSTEM_DISK, Disk, read_file

_RETRY_S = 0.01
_ASK_S = 0.1


class FileLock:
    """An exclusive lock on a file.  `acquire` may block; `release` gives it back, and is harmless twice."""

    __slots__ = ("_disk", "_fd", "path")

    def __init__(self, path: Path, disk: Disk = SYSTEM_DISK) -> None:
        self.path = path
        self._disk = disk
        self._fd: int | None = None

    def acquire(
        self, what: str, wait_s: float, *, create: bool = True, ask: Callable[[float], object] | None = None
    ) -> None:
        """Take the lock, waiting up to `wait_s` seconds, and write our pid into the file.

        Args:
            what: how the error calls the thing that is locked.
            wait_s: 0 tries once.
            create: False never makes or writes the file: for directories that may be read-only.
            ask: asks whoever holds it to let go, waiting up to so many seconds; called now and then, because
                another one may be faster than we each time it is let go.

        Raises:
            BusyError: another process holds it; the text names its pid.
            OSError: the file cannot be opened.
        """
        now = ask_s = time.monotonic()
        deadline = now + wait_s
        while not self._try(create):
            now = time.monotonic()
            if now >= deadline:
                raise BusyError(f"{what} is in use by {self._holder()}")
            if ask is not None and now >= ask_s:
                ask(deadline - now)
                ask_s = time.monotonic() + _ASK_S
            else:
                time.sleep(_RETRY_S)

    def _try(self, create: bool) -> bool:
        disk = self._disk
        fd = disk.open(self.path, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY)
        try:
            # The file may have been deleted, with its stream, while we came.
            held = disk.try_lock(fd) and disk.status(fd).links > 0
            if held and create:
                disk.truncate(fd, 0)
                disk.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except BaseException:  # a full disk among them: a lock that nobody holds must not stay
            disk.close(fd)
            raise
        if not held:
            disk.close(fd)
            return False
        self._fd = fd
        return True

    def _holder(self) -> str:
        try:
            text = read_file(self._disk, self.path).decode(errors="replace").strip()
        except OSError:
            text = ""
        return f"process {text}" if text.isdigit() else "another process"

    def release(self) -> None:
        """Give the lock back."""
        if self._fd is not None:
            self._disk.close(self._fd)
            self._fd = None


@contextmanager
def locked(
    path: Path, what: str, wait_s: float = 5.0, *, disk: Disk = SYSTEM_DISK
) -> Iterator[None]:
    """Hold a `FileLock` for the body."""
    lock = FileLock(path, disk)
    lock.acquire(what, wait_s)
    try:
        yield
    finally:
        lock.release()
