"""Which shards of a stream may be delivered: a child when all its parents are finished.

    waiting    a parent of it is not finished
    ready      its parents are finished; told once, by `take_ready`
    finished   so are its parents, it is closed, and every record below its end has a disposition that is durable
    barred     it cannot be finished, or an ancestor cannot: nothing behind it is delivered in this run

That a shard is delivered to its end is not enough: one that never had a record would let its children pass its
parents.  A parent that is not known counts as finished: its records are gone from the source.  What moves a shard is
its durable checkpoint, so that a child's first record is never handed over before that of its parents would
survive a crash; where several lanes share a shard, it is where the last of them is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class _Shard:
    parents: tuple[str, ...]
    end: int | None
    offset: int
    told: bool = False
    barred: bool = False
    finished: bool = False

    @property
    def at_its_end(self) -> bool:
        return self.end is not None and self.offset >= self.end


class Lineage:
    """The machine of one mapping.  Synchronous; shards are called by their ids."""

    __slots__ = ("_candidates", "_children", "_shards")

    def __init__(self) -> None:
        self._shards: dict[str, _Shard] = {}
        self._children: defaultdict[str, list[str]] = defaultdict(list)
        self._candidates: dict[str, None] = {}  # what may have become ready, in the order it did

    def __contains__(self, shard: str) -> bool:
        return shard in self._shards

    def add(self, shard: str, parents: Sequence[str], *, end: int | None, offset: int) -> None:
        """Tell of a shard: where it ends, if it is closed, and where its durable checkpoint is.

        Parents are told of before their children, or never.
        """
        assert shard not in self._shards, f"{shard} is known already"
        self._shards[shard] = _Shard(tuple(parents), end, offset)
        for parent in parents:
            self._children[parent].append(shard)
        if any(self._shards[parent].barred for parent in parents if parent in self._shards):
            self._bar(shard)
        self._candidates[shard] = None
        self._check(shard)

    def close(self, shard: str, end: int) -> None:
        """The shard was closed: `end` is the offset behind its last record."""
        self._shards[shard].end = end
        self._check(shard)

    def move(self, shard: str, offset: int) -> None:
        """The shard's checkpoint is durable at `offset`."""
        known = self._shards[shard]
        known.offset = max(known.offset, offset)
        self._check(shard)

    def bar(self, shard: str) -> None:
        """The shard will not be finished, nor will what comes after it."""
        self._bar(shard)

    def take_ready(self) -> list[str]:
        """Return the shards that may be delivered and were not told before; none that is finished already."""
        ready = [shard for shard in self._candidates if self._ready(shard)]
        self._candidates.clear()
        for shard in ready:
            self._shards[shard].told = True
        return ready

    def finished(self, shard: str) -> bool:
        """Whether all of the shard and of its ancestors has been delivered, durably."""
        return self._shards[shard].finished

    def waiting(self) -> set[str]:
        """Return what is neither told nor finished nor barred: what may still become ready."""
        return {name for name, one in self._shards.items() if not (one.told or one.finished or one.barred)}

    def within_reach(self) -> set[str]:
        """Return the shards that are not finished and come up for delivery though no more shards are closed."""
        return {name for name, one in self._shards.items() if not one.finished and self._reachable(one)}

    def _reachable(self, shard: _Shard) -> bool:
        """Whether all its ancestors are finished, or closed and not barred: without recursion, lines can be long."""
        if shard.barred:
            return False
        seen: set[str] = set()
        ancestors = list(shard.parents)
        while ancestors:
            name = ancestors.pop()
            parent = self._shards.get(name)
            if parent is None or parent.finished or name in seen:
                continue
            if parent.end is None or parent.barred:
                return False
            seen.add(name)
            ancestors += parent.parents
        return True

    def _ready(self, shard: str) -> bool:
        known = self._shards[shard]
        return not (known.told or known.at_its_end or known.barred) and self._after_parents(known)

    def _after_parents(self, shard: _Shard) -> bool:
        return all(self._shards[parent].finished for parent in shard.parents if parent in self._shards)

    def _check(self, shard: str) -> None:
        """See whether the shard is finished, and by that others."""
        changed = [shard]
        while changed:
            name = changed.pop()
            known = self._shards[name]
            if not known.finished and known.at_its_end and self._after_parents(known):
                known.finished = True
                self._candidates.update(dict.fromkeys(self._children[name]))
                changed += self._children[name]

    def _bar(self, shard: str) -> None:
        doomed = [shard]
        while doomed:
            name = doomed.pop()
            known = self._shards.get(name)
            if known is not None and not known.barred and not known.finished:
                known.barred = True
                doomed += self._children[name]
