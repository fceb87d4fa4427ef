"""A shard log and a checkpoint store in memory, for simulations.

Both keep the promises of the real ones, and no more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from streamfn.core.batcher import Chunk
from streamfn.errors import Fenced


class MemoryShard:
    """A log of records that are nothing but their size as JSON, in messages as they were appended."""

    def __init__(self, start_offset: int = 0) -> None:
        """Begin empty; the first record has `start_offset`."""
        self.start_offset = start_offset
        self.end_offset = start_offset
        self._firsts: list[int] = []
        self._sums = [0]  # of all records: record i weighs _sums[i - start + 1] - _sums[i - start]

    def append(self, weights: Sequence[int]) -> None:
        """Append one message of at least one record."""
        assert weights
        self._firsts.append(self.end_offset)
        for weight in weights:
            self._sums.append(self._sums[-1] + weight)
        self.end_offset += len(weights)

    def chunk(self, offset: int) -> Chunk | None:
        """What one message has from `offset` on; None at the end."""
        if offset >= self.end_offset:
            return None
        message = bisect_right(self._firsts, offset)
        end = self._firsts[message] if message < len(self._firsts) else self.end_offset
        return Chunk(offset, self._sums[offset - self.start_offset : end - self.start_offset + 1])

    def bytes_of(self, first_offset: int, records: int) -> int:
        """What these records weigh together."""
        first = first_offset - self.start_offset
        return self._sums[first + records] - self._sums[first]


class MemoryStore:
    """One mapping's epoch and checkpoints, with the rules of `streamfn.state.store.Store`."""

    def __init__(self, starts: Mapping[str, int]) -> None:
        """Begin with the mapping's starting offsets."""
        self.epoch = 0
        self.offsets = dict(starts)

    def acquire(self) -> int:
        """See `Store.acquire`."""
        self.epoch += 1
        return self.epoch

    def commit(self, epoch: int, offsets: Mapping[str, int]) -> None:
        """See `Store.commit`.  Raises Fenced for any epoch but the latest."""
        if epoch != self.epoch:
            raise Fenced(f"epoch {self.epoch}, ours is {epoch}")
        for shard, offset in offsets.items():
            if offset > self.offsets.get(shard, 0):
                self.offsets[shard] = offset
