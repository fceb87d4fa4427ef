"""What has been read of a shard and is not due yet.

Reading goes ahead of time; here is what keeps it until its time has come.  Records are offsets, times are
nanoseconds on whatever clock the caller's `now_ns` is of.  Not thread-safe; nothing here waits.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple


class Due(NamedTuple):
    """Consecutive records, and when each of them was due."""

    first_offset: int
    times: array[int]


class Release:
    """The records of one shard between its reader and its lanes; see the top of the file."""

    __slots__ = ("_chunks", "_row", "records")

    def __init__(self) -> None:
        self._chunks: deque[Due] = deque()
        self._row = 0  # the first row of the front chunk that has not been released
        self.records = 0  # that are held

    def hold(self, first_offset: int, times: array[int]) -> None:
        """Keep the records from `first_offset` on; `times` never goes back, within a call or between two."""
        if times:
            self._chunks.append(Due(first_offset, times))
            self.records += len(times)

    def take(self, now_ns: int) -> Iterator[Due]:
        """Yield what is due by now, in order; a chunk that was held as one comes in as many parts as it has moments."""
        chunks = self._chunks
        while chunks:
            first_offset, times = chunks[0]
            row = self._row
            end = len(times) if times[-1] <= now_ns else bisect_right(times, now_ns, row)
            if end == row:
                return
            if end == len(times):
                chunks.popleft()
                self._row = 0
            else:
                self._row = end
            self.records -= end - row
            yield Due(first_offset + row, times[row:end])

    def delay(self, ns: int) -> None:
        """Everything that is held is due so much later than it was."""
        for _, times in self._chunks:
            for row in range(len(times)):
                times[row] += ns

    @property
    def first_offset(self) -> int | None:
        """The offset of the first record that is held; None if none is."""
        return self._chunks[0].first_offset + self._row if self._chunks else None

    def due_ns(self, ahead: int = 0) -> int | None:
        """When the record `ahead` records behind the first one that is held is due; the last one if there are fewer.

        None if nothing is held.
        """
        if not self._chunks:
            return None
        place = self._row + ahead
        for _, times in self._chunks:
            if place < len(times):
                return times[place]
            place -= len(times)
        return self._chunks[-1].times[-1]
