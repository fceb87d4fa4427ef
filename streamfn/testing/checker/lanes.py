"""One lane of a shard: its covered records in order, who has done what with them, and a view for every owner."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

from streamfn.testing.checker.rules import Facts
from streamfn.testing.checker.views import View


@dataclass(slots=True)
class Lane:
    """Positions are indices of `offsets`."""

    offsets: list[int] = field(default_factory=list)
    disposed: int = 0  # everything below was done by somebody
    deliveries: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    failures: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    done_in: dict[int, int] = field(default_factory=dict)  # by position: the last epoch in which it succeeded
    owed: dict[int, str] = field(default_factory=dict)  # given up, and no durable discard says so yet
    discarded: set[int] = field(default_factory=set)
    views: dict[int, View] = field(default_factory=dict)  # by epoch

    def dispose(self, start: int, end: int) -> None:
        """These have their disposition."""
        if start <= self.disposed:
            self.disposed = max(self.disposed, end)

    def below(self, offset: int) -> int:
        """How many records lie below a shard offset (as far as the lane is known)."""
        return bisect_left(self.offsets, offset)


@dataclass(slots=True)
class Shard:
    """What is known of one shard so far."""

    name: str
    start: int
    facts: Facts
    checkpoint: int
    known: int  # offsets below it are sorted into lanes
    owned_at: list[int] = field(default_factory=list)  # the checkpoint at each change of owner
    began: dict[int, int] = field(default_factory=dict)  # by epoch: the checkpoint then
    lanes: dict[Hashable, Lane] = field(default_factory=dict)
    places: dict[int, tuple[Hashable, int]] = field(default_factory=dict)  # by offset: lane, position
    gone: list[tuple[int, int]] = field(default_factory=list)
    ancestors: Mapping[str, int] = field(default_factory=dict)  # with their ends

    def learn(self, end: int) -> None:
        """Sort the records below `end` into lanes."""
        lane_of, covered, name = self.facts.lane, self.facts.covered, self.name
        for offset in range(self.known, end):
            if covered(name, offset):
                key = lane_of(name, offset)
                lane = self.lanes.setdefault(key, Lane())
                self.places[offset] = (key, len(lane.offsets))
                lane.offsets.append(offset)
        self.known = max(self.known, end)

    def view(self, lane: Lane, epoch: int, first: int) -> View:
        """What `epoch` has done in a lane; an owner nobody told of is believed to begin where it begins."""
        view = lane.views.get(epoch)
        if view is None:
            began = self.began.get(epoch)
            view = lane.views[epoch] = View(first if began is None else lane.below(began))
            self._pass_gone(lane, view)
        return view

    def is_gone(self, offset: int) -> bool:
        """Whether the record is gone from the log."""
        return any(first <= offset < end for first, end in self.gone)

    def lose(self, first: int, end: int) -> None:
        """These records are gone: that is their disposition, once everything before them has one."""
        self.gone.append((first, end))
        self.learn(end)
        self.settle()

    def settle(self) -> None:
        """Move over what is gone, wherever everything before it is done."""
        if not self.gone:
            return
        for lane in self.lanes.values():
            while lane.disposed < len(lane.offsets) and self.is_gone(lane.offsets[lane.disposed]):
                lane.disposed += 1
            for view in lane.views.values():
                self._pass_gone(lane, view)

    def _pass_gone(self, lane: Lane, view: View) -> None:
        """Nothing that is gone has to be handed over; what has been, and comes again, its owner still holds."""
        while self.gone and view.front is None and view.position < len(lane.offsets):
            if not self.is_gone(lane.offsets[view.position]):
                return
            view.move(view.position + 1)

    def undone(self, end: int) -> Iterator[int]:
        """The offset below `end` of the first record without a disposition, in every lane that has one."""
        self.learn(end)
        for lane in self.lanes.values():
            if lane.disposed < len(lane.offsets) and lane.offsets[lane.disposed] < end:
                yield lane.offsets[lane.disposed]

    def owing(self, end: int) -> Iterator[int]:
        """Offsets below `end` that were given up although no durable discard says so."""
        for lane in self.lanes.values():
            for position in lane.owed:
                if lane.offsets[position] < end and not self.is_gone(lane.offsets[position]):
                    yield lane.offsets[position]

    def changes_of_owner(self, offset: int) -> int:
        """How often the owner changed while the record was not checkpointed."""
        return bisect_right(self.owned_at, offset)
