"""Which shards of a source may be read now, and what is known of them.

That a child is read after its parents is `core.lineage`'s business, as it is in a mapping; what is stored here is
finished where a mapping's checkpoint would be at a shard's end.  A parent that the source does not list has been
trimmed away long ago, and holds nobody up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from streamfn.capture.source import SourceShard
from streamfn.core import lineage


class Lineage:
    """All shards known, which of them are being read, and which are finished."""

    def __init__(self) -> None:
        self.shards: dict[str, SourceShard] = {}
        self._machine = lineage.Lineage()
        self._reading: set[str] = set()
        self._finished: set[str] = set()

    def learn(self, shards: Iterable[SourceShard], is_finished: Callable[[str], bool] = lambda _: False) -> None:
        """Take note of shards: of new ones, and of known ones that were closed since.

        `is_finished` is asked of new ones: whether an earlier run has read them to their ends.
        """
        for shard in parents_first(shards):
            known = self.shards.get(shard.id)
            if known is None:
                self.shards[shard.id] = shard
                done = is_finished(shard.id)
                self._machine.add(shard.id, shard.parents, end=0 if done else None, offset=0)
                if done:
                    self._finished.add(shard.id)
            elif shard.closed and not known.closed:
                self.shards[shard.id] = known._replace(ending_sequence_number=shard.ending_sequence_number)

    def start_ready(self) -> list[SourceShard]:
        """Return the shards that may be read now; they count as being read."""
        ready = self._machine.take_ready()
        self._reading.update(ready)
        return [self.shards[shard] for shard in ready]

    def finish(self, shard_id: str) -> None:
        """A shard has been read to its end: its children may follow."""
        self._reading.discard(shard_id)
        self._finished.add(shard_id)
        self._machine.close(shard_id, 0)

    def stop(self, shard_id: str) -> None:
        """A shard will not be read on, and its children not at all."""
        self._reading.discard(shard_id)
        self._machine.bar(shard_id)

    @property
    def childless(self) -> bool:
        """Whether a finished shard's children are not known yet."""
        return not self._finished <= {parent for shard in self.shards.values() for parent in shard.parents}

    @property
    def done(self) -> bool:
        """Whether every shard known is finished or stopped, or follows one that is stopped."""
        return not self._reading and not self._machine.waiting()


def parents_first(shards: Iterable[SourceShard]) -> list[SourceShard]:
    """Return shards so that parents come before their children, and otherwise by id."""
    waiting = {shard.id: shard for shard in sorted(shards)}
    ordered: dict[str, SourceShard] = {}
    while waiting:
        ready = [s for s in waiting.values() if not any(parent in waiting for parent in s.parents)]
        for shard in ready or list(waiting.values()):  # a circle is not ours to judge, nor to hang in
            ordered[shard.id] = waiting.pop(shard.id)
    return list(ordered.values())
