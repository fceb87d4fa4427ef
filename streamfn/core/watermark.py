"""The offset below which every record of a lane has a disposition.

A lane finishes its batches in order, so this is one number; it is a class because of what it refuses.
Checkpoints are made of it and of nothing else: a disposition that does not begin exactly where the last
one ended would be a record skipped or finished twice, and stops the program before it can be made durable.
"""

from __future__ import annotations


class Watermark:
    """A number that moves up, one disposition after the other."""

    __slots__ = ("offset",)

    def __init__(self, start_offset: int) -> None:
        assert start_offset >= 0
        self.offset = start_offset

    def dispose(self, first_offset: int, end_offset: int) -> None:
        """The records `first_offset` .. `end_offset` (exclusive) are finished, by success or for good."""
        assert first_offset == self.offset, "records are finished in order, each of them once"
        assert end_offset > first_offset
        self.offset = end_offset
