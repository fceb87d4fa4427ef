"""Reading what a worker has printed.

Descriptors 1 and 2 of a worker append to a memfd of its own, so a handler that prints never waits for
a reader.  We read what is attributed to an invocation, and give the memory back behind us.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from streamfn.limits import MIB
from streamfn.pool import linux

# Of one invocation; the rest is skipped and counted.
INVOCATION_BYTES_MAX = MIB
# Unread output that is kept at all.
UNREAD_BYTES_MAX = 64 * MIB
# Giving memory back is a system call: not for every line.
_PUNCH_BYTES = 256 * 1024


class Output(NamedTuple):
    """The end of an invocation's output: what of it was not handed out yet, bytes of it that were dropped in
    all, and whether it had printed anything at all."""

    text: bytes
    dropped: int
    any: bool


NO_OUTPUT = Output(b"", 0, False)


class LogReader:
    """The reader of one worker's log file.  It does not own the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0
        self._punched = 0
        self._left = INVOCATION_BYTES_MAX
        self._dropped = 0

    def size(self) -> int:
        """Bytes that were ever written; by the file's own word, which a handler can falsify."""
        return os.fstat(self._fd).st_size

    def partial(self, end: int) -> bytes:
        """Give what was printed up to `end` by the invocation that still runs."""
        return self._advance(end)

    def settle(self, end: int) -> Output:
        """Give the rest of an invocation's output, up to `end`."""
        text = self._advance(end)
        output = Output(text, self._dropped, self._left < INVOCATION_BYTES_MAX or self._dropped > 0)
        self._dropped, self._left = 0, INVOCATION_BYTES_MAX
        return output

    def shed(self) -> None:
        """Drop what is unread beyond UNREAD_BYTES_MAX; it counts for the invocation that runs."""
        size = self.size()
        if size - self._position > UNREAD_BYTES_MAX:
            self._dropped += size - self._position
            self._position = size
            self._punch()

    def _advance(self, end: int) -> bytes:
        length = end - self._position
        if length <= 0:
            return b""
        text = os.pread(self._fd, min(length, self._left), self._position) if self._left else b""
        self._left -= len(text)
        self._dropped += length - len(text)
        self._position = end
        if end - self._punched >= _PUNCH_BYTES:
            self._punch()
        return text

    def _punch(self) -> None:
        linux.punch_hole(self._fd, self._punched, self._position - self._punched)
        self._punched = self._position
