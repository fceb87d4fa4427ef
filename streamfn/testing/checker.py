"""Judge a history of one mapping: was anything lost, reordered, skipped or repeated without a reason?

The history is told by witnesses in the order in which things happened: who owned the mapping, what the
*worker* saw and how that ended, which checkpoints became durable.  What the runtime believes is no
evidence and does not occur.  The rules and their names:

    R3   lost-delivery              at the end every record was delivered with success
    R4   skip                       a batch begins where its epoch's last success ended, so no record is
                                    handed over before every earlier one has its disposition
    R5   int-skip                   inside a batch offsets rise by one
         batch-too-big              a batch is within BatchSize and the event limit
         retry-differs              after a failure the same batch comes again
    R6   overlapping-invocations    one live invocation of a shard within an epoch
    R7   checkpoint-ahead           below a checkpoint everything was delivered with success *before*
         checkpoint-backwards       a checkpoint never moves back
         delivered-after-checkpoint the current owner delivers nothing below a checkpoint
    R8   epoch-not-increasing       every owner has a higher epoch than the one before
         stale-epoch-checkpoint     nothing is committed by an owner that has been replaced
    R9   child-before-parent        nothing of a shard is handed over while a record of one that was split or merged
                                    into it, generations back, lacks its disposition
         child-before-checkpoint    nor before that is durable: after a crash the parent's records would come again
    R10  unexplained-duplicate      a record is delivered once, plus once for every failed delivery of it,
                                    plus once for every change of owner while it was not checkpointed
    R13  lag                        at the end the checkpoint is at the end

Lanes are shards here.  `Checker` depends on nothing else of streamfn: feed it from a simulation, or from
files that handlers wrote while the runtime was being killed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias


class Owned(NamedTuple):
    """A runtime has become the owner, with this epoch."""

    epoch: int


class Seen(NamedTuple):
    """A worker was handed a batch, written down before anything else was done with it."""

    shard: str
    epoch: int
    invocation: object
    offsets: Sequence[int]
    event_bytes: int = 0


class Ended(NamedTuple):
    """That invocation is over: with certain success, or not (it failed, or its worker is dead)."""

    invocation: object
    ok: bool


class Committed(NamedTuple):
    """A checkpoint is durable."""

    shard: str
    epoch: int
    offset: int


class Resharded(NamedTuple):
    """Shards were closed, each at its end, and all their keys went to new ones, which begin at offset 0."""

    parents: Mapping[str, int]
    children: Sequence[str]


Event: TypeAlias = Owned | Seen | Ended | Committed | Resharded


class Violation(NamedTuple):
    """A rule that was broken, by which event (its number in the history; -1 for the end), and how."""

    rule: str
    name: str
    number: int
    text: str


@dataclass(slots=True)
class _Shard:
    """What is known of one shard so far."""

    start: int
    disposed: int  # everything from `start` to here was delivered with success
    checkpoint: int
    owned_at: list[int] = field(default_factory=list)  # the checkpoint at each change of owner
    position: dict[int, int] = field(default_factory=dict)  # by epoch: where its next batch must begin
    live: dict[int, Seen] = field(default_factory=dict)  # by epoch
    failed: dict[int, range] = field(default_factory=dict)  # by epoch: the batch that must come again
    deliveries: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    failures: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    ancestors: Mapping[str, int] = field(default_factory=dict)  # with their ends


class Checker:
    """Fed with one event after the other; `violations` are what it has found."""

    def __init__(self, starts: Mapping[str, int], *, batch_size: int, event_bytes_max: int) -> None:
        """Begin with the mapping's starting offset of each shard."""
        self.violations: list[Violation] = []
        self._shards = {shard: _Shard(start, start, start) for shard, start in starts.items()}
        self._batch_size = batch_size
        self._event_bytes_max = event_bytes_max
        self._epoch: int | None = None
        self._live: dict[object, Seen] = {}
        self._number = -1

    def feed(self, event: Event) -> None:
        """Take note of what happened next."""
        self._number += 1
        match event:
            case Seen():
                self._seen(event)
            case Ended():
                self._ended(event)
            case Committed():
                self._committed(event)
            case Owned():
                self._owned(event)
            case Resharded():
                self._resharded(event)

    def finish(self, ends: Mapping[str, int]) -> None:
        """The history is over, and everything below `ends[shard]` should be done and checkpointed."""
        self._number = -1
        for name, end in ends.items():
            shard = self._shards[name]
            if shard.disposed < end:
                self._report("R3", "lost-delivery", f"{name}: nothing from {shard.disposed} on, of {end}")
            elif shard.checkpoint < end:
                self._report("R13", "lag", f"{name}: checkpoint at {shard.checkpoint} of {end}")

    def _owned(self, event: Owned) -> None:
        if self._epoch is not None:
            if event.epoch <= self._epoch:
                self._report("R8", "epoch-not-increasing", f"{event.epoch} after {self._epoch}")
            for shard in self._shards.values():
                shard.owned_at.append(shard.checkpoint)
        for shard in self._shards.values():
            shard.position[event.epoch] = shard.checkpoint
        self._epoch = event.epoch

    def _resharded(self, event: Resharded) -> None:
        ancestors = dict(event.parents)
        for parent in event.parents:
            ancestors |= self._shards[parent].ancestors
        for child in event.children:
            self._shards[child] = _Shard(0, 0, 0, ancestors=ancestors)

    def _seen(self, event: Seen) -> None:
        shard, epoch, offsets = self._shards[event.shard], event.epoch, event.offsets
        first, end = offsets[0], offsets[-1] + 1
        where = f"{event.shard} epoch {epoch}: {first}..{end - 1}"
        if not isinstance(offsets, range) and list(offsets) != list(range(first, first + len(offsets))):
            self._report("R5", "int-skip", where)
        if len(offsets) > self._batch_size or event.event_bytes > self._event_bytes_max:
            self._report("R5", "batch-too-big", f"{where}, {event.event_bytes} bytes")
        again = shard.failed.pop(epoch, None)
        if again is not None and again.start == first and again.stop != end:
            self._report("R5", "retry-differs", f"{where} after {again}")
        if first > shard.position.get(epoch, first):
            self._report("R4", "skip", f"{where} although {shard.position[epoch]} is not done")
        if first > shard.disposed:
            self._report("R4", "skip", f"{where} although nobody has done {shard.disposed}")
        for parent, parent_end in shard.ancestors.items():
            before = self._shards[parent]
            if before.disposed < parent_end:
                self._report(
                    "R9", "child-before-parent", f"{where} although {parent} is at {before.disposed} of {parent_end}"
                )
            elif before.checkpoint < parent_end:
                self._report("R9", "child-before-checkpoint", f"{where}, {parent} durable to {before.checkpoint}")
        if epoch == self._epoch and first < shard.checkpoint:
            self._report("R7", "delivered-after-checkpoint", f"{where}, checkpoint at {shard.checkpoint}")
        if epoch in shard.live:
            self._report("R6", "overlapping-invocations", f"{where} while {shard.live[epoch].offsets} runs")
        for offset in offsets:
            shard.deliveries[offset] += 1
            explained = 1 + shard.failures[offset] + bisect_right(shard.owned_at, offset)
            if shard.deliveries[offset] > explained:
                self._report(
                    "R10", "unexplained-duplicate", f"{where}: {offset} seen {shard.deliveries[offset]} times"
                )
                break
        shard.live[epoch] = event
        self._live[event.invocation] = event

    def _ended(self, event: Ended) -> None:
        seen = self._live.pop(event.invocation)
        shard = self._shards[seen.shard]
        if shard.live.get(seen.epoch) is seen:
            del shard.live[seen.epoch]
        first, end = seen.offsets[0], seen.offsets[-1] + 1
        if event.ok:
            shard.position[seen.epoch] = end
            if first <= shard.disposed:
                shard.disposed = max(shard.disposed, end)
        else:
            shard.failed[seen.epoch] = range(first, end)
            for offset in seen.offsets:
                shard.failures[offset] += 1

    def _committed(self, event: Committed) -> None:
        shard = self._shards[event.shard]
        where = f"{event.shard} epoch {event.epoch}: {event.offset}"
        if event.epoch != self._epoch:
            self._report("R8", "stale-epoch-checkpoint", f"{where}, owner is {self._epoch}")
        if event.offset < shard.checkpoint:
            self._report("R7", "checkpoint-backwards", f"{where} after {shard.checkpoint}")
        if event.offset > shard.disposed:
            self._report("R7", "checkpoint-ahead", f"{where}, done up to {shard.disposed}")
        shard.checkpoint = event.offset

    def _report(self, rule: str, name: str, text: str) -> None:
        self.violations.append(Violation(rule, name, self._number, text))


def check(
    history: Iterable[Event],
    *,
    starts: Mapping[str, int],
    ends: Mapping[str, int],
    batch_size: int,
    event_bytes_max: int,
) -> list[Violation]:
    """Judge a whole history.  [] means that nothing is wrong with it."""
    checker = Checker(starts, batch_size=batch_size, event_bytes_max=event_bytes_max)
    for event in history:
        checker.feed(event)
    checker.finish(ends)
    return checker.violations
