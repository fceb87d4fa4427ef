"""When the records of one lane arrived, for as long as they have no disposition: who is too old by now?

Kept only where there is an age limit.  Arrival times are milliseconds since 1970 and need not rise (a captured
stream has those of its source).  Nobody looks at every record each time: a chunk knows its oldest one, and all
chunks together know a time below which nothing is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple


class _Chunk(NamedTuple):
    first: int
    end: int
    oldest_ms: int
    arrivals: Sequence[int]


class Ages:
    """The arrival times of consecutive records, by the lane's offsets.  One lane's."""

    __slots__ = ("_chunks", "_oldest_ms")

    def __init__(self) -> None:
        self._chunks: deque[_Chunk] = deque()
        self._oldest_ms: int | None = None  # nothing is older; None: not known

    def add(self, first: int, end: int, arrivals: Sequence[int]) -> None:
        """The records `first` .. `end` (exclusive) arrived at `arrivals`, which may go on behind them.  Borrowed."""
        if end > first:
            oldest_ms = min(arrivals[: end - first])
            if not self._chunks or (self._oldest_ms is not None and oldest_ms < self._oldest_ms):
                self._oldest_ms = oldest_ms
            self._chunks.append(_Chunk(first, end, oldest_ms, arrivals))

    def forget(self, end: int) -> None:
        """Every record below `end` has its disposition."""
        chunks = self._chunks
        while chunks and chunks[0].end <= end:
            chunks.popleft()

    def drop(self, first: int) -> None:
        """The records from `first` on were never there."""
        chunks = self._chunks
        while chunks and chunks[-1].end > first:
            chunk = chunks.pop()
            if chunk.first < first:
                chunks.append(chunk._replace(end=first))

    def arrival_ms(self, offset: int) -> int:
        """When that record arrived."""
        chunk = next(chunk for chunk in self._chunks if chunk.end > offset)
        return chunk.arrivals[offset - chunk.first]

    def next_older(self, offset: int, than_ms: int) -> int | None:
        """The first record from `offset` on that arrived before `than_ms`; None if none did."""
        if self._oldest_ms is not None and self._oldest_ms >= than_ms:
            return None
        self._oldest_ms = min((chunk.oldest_ms for chunk in self._chunks), default=None)
        for chunk in self._chunks:
            if chunk.end > offset and chunk.oldest_ms < than_ms:
                for place in range(max(offset, chunk.first), chunk.end):
                    if chunk.arrivals[place - chunk.first] < than_ms:
                        return place
        return None

    def next_younger(self, offset: int, end: int, than_ms: int) -> int:
        """The first record from `offset` on that did not arrive before `than_ms`; `end` if there is none below it."""
        for chunk in self._chunks:
            if chunk.end > offset:
                for place in range(max(offset, chunk.first), min(end, chunk.end)):
                    if chunk.arrivals[place - chunk.first] >= than_ms:
                        return place
                if chunk.end >= end:
                    break
        return end
