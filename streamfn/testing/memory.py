"""A shard log and a checkpoint store in memory, for simulations.

Both keep the promises of the real ones, and no more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from streamfn.errors import Fenced
from streamfn.types import Window


class Message(NamedTuple):
    """What one append left: records by their sizes as JSON (see `core.batcher.Chunk`) and arrival times."""

    first_offset: int
    prefix_bytes: Sequence[int]
    arrivals: Sequence[int]


class MemoryShard:
    """A log of records that are nothing but a size and a time, in messages as they were appended."""

    def __init__(self, start_offset: int = 0) -> None:
        """Begin empty; the first record has `start_offset`."""
        self.start_offset = start_offset
        self.end_offset = start_offset
        self.trimmed_to = start_offset  # what lies below is gone
        self._firsts: list[int] = []
        self._sums = [0]  # of all records: record i weighs _sums[i - start + 1] - _sums[i - start]
        self._arrivals: list[int] = []

    def append(self, weights: Sequence[int], arrivals: Sequence[int] | None = None) -> None:
        """Append one message of at least one record."""
        assert weights
        self._firsts.append(self.end_offset)
        for weight in weights:
            self._sums.append(self._sums[-1] + weight)
        self._arrivals += [0] * len(weights) if arrivals is None else arrivals
        self.end_offset += len(weights)

    def trim(self, offset: int) -> None:
        """Let go of everything below an offset."""
        self.trimmed_to = max(self.trimmed_to, min(offset, self.end_offset))

    def read(self, offset: int) -> Message | None:
        """What one message has from `offset` on; None at the end, and where the record is gone."""
        if offset >= self.end_offset or offset < self.trimmed_to:
            return None
        message = bisect_right(self._firsts, offset)
        end = self._firsts[message] if message < len(self._firsts) else self.end_offset
        first, last = offset - self.start_offset, end - self.start_offset
        return Message(offset, self._sums[first : last + 1], self._arrivals[first:last])

    def bytes_of(self, offset: int) -> int:
        """What a record weighs."""
        return self._sums[offset - self.start_offset + 1] - self._sums[offset - self.start_offset]

    def arrival_ms(self, offset: int) -> int:
        """When a record arrived."""
        return self._arrivals[offset - self.start_offset]


class Discard(NamedTuple):
    """A row of the discards; its id is its place among them."""

    shard: str
    offsets: Sequence[int]
    condition: str
    attempts: int


class MemoryStore:
    """One mapping's epoch, checkpoints, windows and discards, with the rules of `streamfn.state.store.Store`."""

    def __init__(self, starts: Mapping[str, int]) -> None:
        """Begin with the mapping's starting offsets."""
        self.epoch = 0
        self.offsets = dict(starts)
        self.windows: dict[str, Window] = {}
        self.discards: list[Discard] = []

    def acquire(self) -> int:
        """See `Store.acquire`."""
        self.epoch += 1
        return self.epoch

    def commit(
        self,
        epoch: int,
        offsets: Mapping[str, int],
        discards: Sequence[Discard] = (),
        moved_windows: Mapping[str, Window] | None = None,
    ) -> None:
        """See `Store.commit`: all of it or nothing.  Raises Fenced for any epoch but the latest."""
        if epoch != self.epoch:
            raise Fenced(f"epoch {self.epoch}, ours is {epoch}")
        for shard, offset in offsets.items():
            if offset < self.offsets.get(shard, 0):
                continue
            if offset > self.offsets.get(shard, 0):
                self.offsets[shard] = offset
                self.windows.pop(shard, None)
            if moved_windows and shard in moved_windows:
                self.windows[shard] = moved_windows[shard]
        self.discards += discards
