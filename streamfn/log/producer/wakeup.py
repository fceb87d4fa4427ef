"""A descriptor by which one thread wakes another that waits for descriptors."""

from __future__ import annotations

import os


class Wakeup:
    """An eventfd.  Registered edge-triggered it never has to be read: every `ring` is an event of its own."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def ring(self) -> None:
        """Wake who waits, or who is about to; any thread."""
        os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
