"""Some of a shard's records, by their offsets: sorted ranges that neither overlap nor touch.

What was discarded of a million records are a few ranges; asked of a message they give row numbers, and asked of an
offset what comes next, so that who reads can pass over the rest. Cost: a bisection each, and what is in the answer.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

Range = tuple[int, int]
"""Offsets: the first one, and the one behind the last."""


class Ranges:
    """An immutable set of offsets. Empty ranges that it is given are dropped, and those that touch are joined."""

    __slots__ = ("_before", "_ends", "_starts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for first, end in sorted(ranges):
            if first >= end:
                continue
            if self._ends and first <= self._ends[-1]:
                self._ends[-1] = max(end, self._ends[-1])
            else:
                self._starts.append(first)
                self._ends.append(end)
        # How many offsets lie in the ranges before each one.
        sizes = (end - first for first, end in zip(self._starts, self._ends, strict=True))
        self._before = list(accumulate(sizes, initial=0))

    @classmethod
    def of(cls, offsets: Iterable[int]) -> Ranges:
        """The ranges of single offsets."""
        return cls((offset, offset + 1) for offset in offsets)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._starts, self._ends, strict=True)

    def __len__(self) -> int:
        """How many offsets there are."""
        return self._before[-1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and (self._starts, self._ends) == (other._starts, other._ends)

    def __hash__(self) -> int:
        return hash((tuple(self._starts), tuple(self._ends)))

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"

    def __or__(self, other: Ranges) -> Ranges:
        return Ranges([*self, *other])

    @property
    def end(self) -> int:
        """The offset behind the last one; 0 where there is none."""
        return self._ends[-1] if self._ends else 0

    def count(self, first: int, end: int) -> int:
        """How many of the offsets `first` .. `end` (exclusive) are in it."""
        return max(0, self._rank(end) - self._rank(first))

    def _rank(self, offset: int) -> int:
        """How many lie below an offset."""
        place = bisect_right(self._starts, offset) - 1
        if place < 0:
            return 0
        return self._before[place] + min(offset, self._ends[place]) - self._starts[place]

    def next_at(self, offset: int) -> int | None:
        """The first one at or behind an offset; None if there is none."""
        place = bisect_right(self._ends, offset)
        return None if place == len(self._ends) else max(offset, self._starts[place])

    def end_of_run(self, offset: int, apart: int) -> int:
        """Where a stretch ends that begins at or behind an offset and has no hole of more than `apart` in it."""
        place = bisect_right(self._ends, offset)
        while place + 1 < len(self._ends) and self._starts[place + 1] - self._ends[place] <= apart:
            place += 1
        return self._ends[place] if place < len(self._ends) else offset

    def clipped(self, first: int, end: int | None = None) -> Ranges:
        """What lies at or behind `first`, and before `end` where one is given."""
        kept = ((max(start, first), stop if end is None else min(stop, end)) for start, stop in self)
        return Ranges((start, stop) for start, stop in kept if start < stop)

    def without(self, other: Ranges) -> Ranges:
        """What is not in the other one."""
        left: list[Range] = []
        for first, end in self:
            place = bisect_right(other._ends, first)
            while place < len(other._starts) and other._starts[place] < end:
                left.append((first, other._starts[place]))
                first = other._ends[place]
                place += 1
            left.append((first, end))
        return Ranges((first, end) for first, end in left if first < end)

    def rows(self, first: int, count: int) -> memoryview | None:
        """The row numbers of a message that holds the offsets from `first` on; None if all of its `count` rows are.

        Format 'I', ascending.
        """
        if self.count(first, first + count) == count:
            return None
        rows = array("I")
        place, end = bisect_right(self._ends, first), first + count
        stop = bisect_left(self._starts, end)
        for start, behind in zip(self._starts[place:stop], self._ends[place:stop], strict=True):
            rows.extend(range(max(start, first) - first, min(behind, end) - first))
        return memoryview(rows)
