"""Which shards of a stream may be read now: those whose parents have been read to their ends.

A parent that the source does not list has been trimmed away long ago, and holds nobody up.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamfn.capture.source import SourceShard


class Lineage:
    """All shards known, which of them are being read, and which are finished."""

    def __init__(self) -> None:
        self.shards: dict[str, SourceShard] = {}
        self._reading: set[str] = set()
        self._finished: set[str] = set()
        self._stopped: set[str] = set()

    def learn(self, shards: Iterable[SourceShard]) -> list[SourceShard]:
        """Take note of shards, and return those that were not known.  Known ones may have been closed since."""
        fresh = []
        for shard in shards:
            known = self.shards.get(shard.id)
            if known is None:
                self.shards[shard.id] = shard
                fresh.append(shard)
            elif shard.closed and not known.closed:
                self.shards[shard.id] = known._replace(ending_sequence_number=shard.ending_sequence_number)
        return fresh

    def start_ready(self) -> list[SourceShard]:
        """Return the shards that may be read now, in the order in which they became known; they count as being read."""
        ready = [shard for shard in self.shards.values() if self._is_ready(shard)]
        self._reading.update(shard.id for shard in ready)
        return ready

    def finish(self, shard_id: str) -> None:
        """A shard has been read to its end (now, or by an earlier run): its children may follow."""
        self._reading.discard(shard_id)
        self._finished.add(shard_id)

    def stop(self, shard_id: str) -> None:
        """A shard will not be read on, and its children not at all."""
        self._reading.discard(shard_id)
        self._stopped.add(shard_id)

    @property
    def reading(self) -> int:
        """How many shards are being read."""
        return len(self._reading)

    @property
    def childless(self) -> bool:
        """Whether a finished shard's children are not known yet."""
        parents = {parent for shard in self.shards.values() for parent in shard.parents}
        return not self._finished <= parents

    @property
    def done(self) -> bool:
        """Whether every shard known is finished or stopped, or waits for one that is stopped."""
        return not self._reading and not any(self._is_ready(shard) for shard in self.shards.values())

    def _is_ready(self, shard: SourceShard) -> bool:
        if shard.id in self._reading or shard.id in self._finished or shard.id in self._stopped:
            return False
        return all(parent in self._finished or parent not in self.shards for parent in shard.parents)
