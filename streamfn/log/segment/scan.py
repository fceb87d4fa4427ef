"""Walking over a segment's messages, each proven by its CRC before it is believed; and a look behind damage."""

from __future__ import annotations

from typing import Any

from streamfn._native import ffi, lib
from streamfn.log.segment.segment import Segment

SCAN_MESSAGES = 256


class Scan:
    """A cursor over a segment's messages: a file position and the shard offset of the message there."""

    __slots__ = ("_count", "_next", "_out", "_position", "segment")

    def __init__(
        self, segment: Segment, position: int, next_offset: int, capacity: int = SCAN_MESSAGES
    ) -> None:
        self.segment = segment
        self._position = ffi.new("uint64_t *", position)
        self._next = ffi.new("uint64_t *", next_offset)
        self._count = ffi.new("size_t *")
        self._out = ffi.new("sf_message[]", capacity)

    @property
    def position(self) -> int:
        """Where the scan goes on, in the file."""
        return int(self._position[0])

    @property
    def next_offset(self) -> int:
        """The shard offset of the message there."""
        return int(self._next[0])

    def move(self, segment: Segment, position: int, next_offset: int) -> None:
        """Go on elsewhere."""
        self.segment = segment
        self._position[0] = position
        self._next[0] = next_offset

    def step(self, end: int, messages_max: int, bytes_max: int) -> tuple[int, Any, int]:
        """Scan on, up to file position `end`; return an SF_SCAN code, the messages and how many they are.

        The messages are overwritten by the next step.
        """
        segment = self.segment
        proven = segment.proven
        start = self._position[0]
        status = lib.sf_scan_proven(
            segment.base,
            end,
            segment.layout.id,
            proven,
            self._position,
            self._next,
            bytes_max,
            self._out,
            messages_max,
            self._count,
        )
        if start <= max(proven, segment.data_at) and self._position[0] > proven:
            segment.proven = self._position[0]
        return status, self._out, self._count[0]


class Message:
    """One proven message.

    `cdata` is its `sf_message *`; `bytes` is how much of the segment it takes.  The segment stays mapped
    until the reader's next `poll` or `close`; whoever needs it longer retains it.
    """

    __slots__ = ("_keep", "bytes", "cdata", "first_offset", "rows", "segment")

    def __init__(self, segment: Segment, keep: Any, index: int) -> None:
        cdata = keep + index
        self.segment = segment
        self.cdata = cdata
        self.first_offset: int = cdata.first_offset
        self.rows: int = cdata.rows
        self.bytes: int = cdata.length
        self._keep = keep

    def __repr__(self) -> str:
        return f"<Message of {self.rows} records from {self.first_offset} in {self.segment!r}>"


def next_message(segment: Segment, position: int, end: int, at_least: int, below: int) -> Any:
    """Return the first whole message from a file position on that begins at an offset in `at_least` .. `below`.

    An `sf_message`, or None if there is none before file position `end`.  Between messages nothing is believed, so
    every eighth byte is looked at.
    """
    found = ffi.new("sf_message *")
    at = ffi.new("uint64_t *", position)
    while lib.sf_find_message(segment.base, min(segment.size, end), segment.layout.id, at, found):
        if at_least <= found.first_offset < below:
            return found
        at[0] += found.length
    return None
