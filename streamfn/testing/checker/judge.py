"""The checker: takes events, asks the witnesses' books, reports what does not fit.  See the package for the rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from streamfn.testing.checker.history import (
    Accepted,
    Acknowledged,
    Attempted,
    Clock,
    Committed,
    Discard,
    Ended,
    Event,
    Gone,
    Logged,
    Owned,
    Put,
    Resharded,
    Seen,
    Settled,
)
from streamfn.testing.checker.lanes import Lane, Shard
from streamfn.testing.checker.log import LaterWitness, LogWitness
from streamfn.testing.checker.rules import EXHAUSTED, Facts, Rules, Violation
from streamfn.testing.checker.views import View
from streamfn.testing.checker.windows import WindowWitness

_ONE_LANE = Facts()


class Checker:
    """Fed with one event after the other; `violations` are what it has found."""

    def __init__(self, starts: Mapping[str, int], rules: Rules, facts: Facts = _ONE_LANE) -> None:
        """Begin with the mapping's starting offset of each shard."""
        self.violations: list[Violation] = []
        self._rules = rules
        self._facts = facts
        self._shards = {name: Shard(name, start, facts, start, start) for name, start in starts.items()}
        self._epoch: int | None = None
        self._live: dict[Hashable, tuple[Seen, list[tuple[Lane, int, int]]]] = {}
        self._tries: defaultdict[tuple[str, int, int, int, int], int] = defaultdict(int)  # charged failures of a batch
        self._latest_ms: int | None = None
        self._number = -1
        self._log = LogWitness(self._report)
        self._later = LaterWitness(self._report)
        self._windows = WindowWitness(rules, facts, self._report)

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
            case Gone():
                self._log.gone(event)
                self._shards[event.shard].lose(event.first_offset, event.end_offset)
            case Clock():
                self._tell_time(event.time_ms)
            case Put():
                self._log.put(event)
            case Acknowledged():
                self._log.acknowledged(event)
            case Logged():
                self._log.logged(event)
            case Accepted() | Attempted() | Settled():
                self._later.feed(event)

    def finish(self, ends: Mapping[str, int]) -> None:
        """The history is over, and everything below `ends[shard]` should be done and checkpointed."""
        self._number = -1
        for name, end in ends.items():
            shard = self._shards[name]
            undone = min(shard.undone(end), default=None)
            owing = min(shard.owing(end), default=None)
            if undone is not None:
                self._report("R3", "lost-delivery", f"{name}: nothing from {undone} on, of {end}")
            elif owing is not None:
                self._report("R3", "lost-delivery", f"{name}: {owing} was given up, and no discard says so")
            elif shard.checkpoint < end:
                self._report("R13", "lag", f"{name}: checkpoint at {shard.checkpoint} of {end}")
        self._log.finish()
        self._later.finish()

    # ---- owners and shards

    def _owned(self, event: Owned) -> None:
        if self._epoch is not None:
            if event.epoch <= self._epoch:
                self._report("R8", "epoch-not-increasing", f"{event.epoch} after {self._epoch}")
            for shard in self._shards.values():
                shard.owned_at.append(shard.checkpoint)
        for shard in self._shards.values():
            shard.began.setdefault(event.epoch, shard.checkpoint)
        self._epoch = event.epoch

    def _resharded(self, event: Resharded) -> None:
        ancestors = dict(event.parents)
        for parent in event.parents:
            ancestors |= self._shards[parent].ancestors
        for child in event.children:
            self._shards[child] = made = Shard(child, 0, self._facts, 0, 0, ancestors=ancestors)
            if self._epoch is not None:
                made.began[self._epoch] = 0

    # ---- what workers saw

    def _seen(self, event: Seen) -> None:
        self._tell_time(event.time_ms)
        shard, offsets = self._shards[event.shard], event.offsets
        for offset, record in zip(offsets, event.records, strict=False):
            self._log.seen(event.shard, offset, record)
        if self._rules.window_ms:
            self._windows.seen(event)
        if not offsets:
            self._live[event.invocation] = (event, [])
            return
        where = f"{event.shard} epoch {event.epoch}: {offsets[0]}..{offsets[-1]}"
        shard.learn(max(offsets) + 1)
        if len(offsets) > self._rules.batch_size or event.event_bytes > self._rules.event_bytes_max:
            self._report("R5", "batch-too-big", f"{where}, {len(offsets)} records, {event.event_bytes} bytes")
        self._ancestors_are_done(shard, where)
        if event.epoch == self._epoch and offsets[0] < shard.checkpoint:
            self._report("R7", "delivered-after-checkpoint", f"{where}, checkpoint at {shard.checkpoint}")
        parts = self._parts(shard, event, where)
        for lane, start, end in parts:
            self._begins(shard, lane, start, end, event, where)
        tries, retries = self._tries[_batch(event)], self._rules.maximum_retry_attempts
        if retries is not None and tries > retries:
            self._report("R11", "too-many-attempts", f"{where}: failed {tries} times before")
        self._live[event.invocation] = (event, parts)

    def _parts(self, shard: Shard, event: Seen, where: str) -> list[tuple[Lane, int, int]]:
        """What of each lane is in the batch, which must be consecutive."""
        found: dict[Hashable, list[int]] = {}
        last = -1
        for offset in event.offsets:
            place = shard.places.get(offset)
            if place is None:
                if offset >= shard.start:
                    self._report("R5", "not-covered", f"{where}: {offset} is filtered out")
                continue
            if offset <= last:
                self._report("R5", "int-skip", f"{where}: {offset} after {last}")
                continue
            last = offset
            key, position = place
            run = found.setdefault(key, [position, position])
            if position != run[1]:
                self._report("R5", "int-skip", f"{where}: {shard.lanes[key].offsets[run[1]]} is missing")
            run[1] = position + 1
        if len(found) > 1 and not self._facts.keys:
            self._report("R5", "mixed-lanes", f"{where}: {sorted(map(str, found))}")
        return [(shard.lanes[key], start, end) for key, (start, end) in found.items()]

    def _ancestors_are_done(self, shard: Shard, where: str) -> None:
        for parent, parent_end in shard.ancestors.items():
            before = self._shards[parent]
            undone = min(before.undone(parent_end), default=None)
            if undone is not None:
                self._report("R9", "child-before-parent", f"{where} although {parent} is at {undone} of {parent_end}")
            elif before.checkpoint < parent_end:
                self._report("R9", "child-before-checkpoint", f"{where}, {parent} durable to {before.checkpoint}")

    def _begins(self, shard: Shard, lane: Lane, start: int, end: int, event: Seen, where: str) -> None:
        """Judge the part of a batch that lies in one lane."""
        view = shard.view(lane, event.epoch, start)
        if view.live is not None:
            self._report("R6", "overlapping-invocations", f"{where} while {view.live.offsets} runs")
        view.live = event
        self._pass_over(shard, lane, view, start, event.epoch)
        passed, epoch = range(start, view.position), event.epoch
        if passed and all(shard.is_gone(lane.offsets[each]) and lane.done_in.get(each) != epoch for each in passed):
            view.position = start  # its owner had read them before they were gone
        if start > view.position:
            self._report("R4", "skip", f"{where} although {lane.offsets[view.position]} is not done")
            view.parts.clear()
            view.position = start
        if start > lane.disposed:
            self._report("R4", "skip", f"{where} although nobody has done {lane.offsets[lane.disposed]}")
        if start == view.position:
            old = self._old(shard, lane)
            why = view.begin(start, end, self._rules, self._facts.keys, old)
            if why == "bisected too often":
                self._report("R11", "too-many-levels", where)
            elif why is not None:
                self._report("R5", "retry-differs", f"{where}: {why}")
        for position in range(start, end):
            lane.deliveries[position] += 1
            explained = 1 + lane.failures[position] + shard.changes_of_owner(lane.offsets[position])
            if lane.deliveries[position] > explained:
                text = f"{where}: {lane.offsets[position]} seen {lane.deliveries[position]} times"
                self._report("R10", "unexplained-duplicate", text)
                break

    def _pass_over(self, shard: Shard, lane: Lane, view: View, target: int, epoch: int) -> None:
        """See whether what lies before `target` may have been given up; a durable discard has to say so in time."""
        old, large = self._old(shard, lane), self._large(shard, lane)
        while view.position < target:
            found = view.why_given_up(view.position, target, self._rules, old, large)
            if found is None or found[0] > target:
                return
            end, why = found
            for position in range(view.position, end):
                # What an owner gave up that has been replaced is nobody's once a later one succeeded on it.
                if position not in lane.discarded and lane.done_in.get(position, epoch) <= epoch:
                    lane.owed[position] = why
            lane.dispose(view.position, end)
            view.move(end)
            shard.settle()

    def _old(self, shard: Shard, lane: Lane) -> Callable[[int], bool]:
        limit, arrival = self._rules.maximum_record_age_ms, self._facts.arrival_ms

        def old(position: int) -> bool:
            if limit is None or position >= len(lane.offsets):
                return False
            if arrival is None or self._latest_ms is None:
                return True
            return arrival(shard.name, lane.offsets[position]) + limit < self._latest_ms

        return old

    def _large(self, shard: Shard, lane: Lane) -> Callable[[int], bool]:
        weigh, most = self._facts.event_bytes, self._rules.event_bytes_max
        return lambda position: weigh is not None and weigh(shard.name, lane.offsets[position]) > most

    def _ended(self, event: Ended) -> None:
        seen, parts = self._live.pop(event.invocation)
        if self._rules.window_ms:
            self._windows.ended(seen, event)
        if event.ok and event.done:
            raise ValueError("a whole success has no part that is done")
        shard = self._shards[seen.shard]
        left = len(seen.offsets) if event.ok else event.done
        behind = seen.offsets[left] if left < len(seen.offsets) else None
        for lane, start, end in parts:
            view = lane.views[seen.epoch]
            if view.live is seen:
                view.live = None
            done = end - start if behind is None else min(end, max(start, lane.below(behind))) - start
            for position in range(start, start + done):
                lane.done_in[position] = seen.epoch
                lane.owed.pop(position, None)
            for position in range(start + done, end):
                lane.failures[position] += 1
            lane.dispose(start, start + done)
            if start <= view.position:
                view.ended(start, end, done, self._rules, charged=event.charged, keys=self._facts.keys)
        shard.settle()
        if behind is not None and not left and event.charged:
            self._tries[_batch(seen)] += 1

    # ---- what is durable

    def _committed(self, event: Committed) -> None:
        self._tell_time(event.time_ms)
        shard = self._shards[event.shard]
        where = f"{event.shard} epoch {event.epoch}: {event.offset}"
        if event.epoch != self._epoch:
            self._report("R8", "stale-epoch-checkpoint", f"{where}, owner is {self._epoch}")
        for discard in event.discards:
            self._discarded(shard, event.epoch, discard)
        if event.offset < shard.checkpoint:
            self._report("R7", "checkpoint-backwards", f"{where} after {shard.checkpoint}")
        undone = min(shard.undone(event.offset), default=None)
        if undone is not None:
            self._report("R7", "checkpoint-ahead", f"{where}, done up to {undone}")
        owing = min(shard.owing(event.offset), default=None)
        if owing is not None:
            self._report("R7", "checkpoint-ahead", f"{where}: {owing} was given up, and no discard says so")
        if self._rules.window_ms:
            self._windows.committed(event)
        shard.checkpoint = event.offset

    def _discarded(self, shard: Shard, epoch: int, discard: Discard) -> None:
        """A durable row says that these records were given up."""
        offsets = discard.offsets
        if not offsets:  # an invocation without records was given up
            return
        where = f"{shard.name} epoch {epoch}: {offsets[0]}..{offsets[-1]} {discard.condition}"
        shard.learn(max(offsets) + 1)
        self._is_reasonable(shard, epoch, discard, where)
        for offset in offsets:
            place = shard.places.get(offset)
            if place is None:
                self._report("R11", "discard-unexplained", f"{where}: {offset} is not covered")
                continue
            lane, position = shard.lanes[place[0]], place[1]
            view = shard.view(lane, epoch, position)
            if lane.done_in.get(position) == epoch:
                self._report("R11", "discard-after-success", f"{where}: {offset}")
                return
            if position in lane.discarded:
                self._report("R3", "two-dispositions", f"{where}: {offset} was discarded before")
            lane.discarded.add(position)
            if position in lane.owed:
                del lane.owed[position]
            elif position >= view.position:
                lane.dispose(position, position + 1)
                view.move(position + 1)
        shard.settle()

    def _is_reasonable(self, shard: Shard, epoch: int, discard: Discard, where: str) -> None:
        """Whether attempts are used up, or the records too old or too big."""
        offsets, rules = discard.offsets, self._rules
        match discard.condition:
            case "RetryAttemptsExhausted":
                if rules.maximum_retry_attempts is None:
                    self._report("R11", "discard-with-infinite-retries", where)
                    return
                wanted, tries = rules.maximum_retry_attempts + 1, self._failures_of(shard, epoch, offsets)
                if tries is None:
                    self._report("R11", "discard-unexplained", f"{where}: it was given up for another reason")
                elif tries < wanted or discard.attempts != wanted:
                    text = f"{where} after {tries} attempts of {wanted}, says {discard.attempts}"
                    self._report("R11", "discard-too-early", text)
            case "RecordAgeExceeded":
                arrival, limit = self._facts.arrival_ms, rules.maximum_record_age_ms
                if limit is None:
                    self._report("R11", "discard-with-infinite-retries", where)
                elif arrival is not None and self._latest_ms is not None:
                    young = [offset for offset in offsets if arrival(shard.name, offset) + limit >= self._latest_ms]
                    if young:
                        self._report("R11", "discard-too-early", f"{where}: {young[0]} is not too old")
            case "RecordTooLarge":
                weigh = self._facts.event_bytes
                if weigh is not None and any(weigh(shard.name, each) <= rules.event_bytes_max for each in offsets):
                    self._report("R11", "discard-unexplained", f"{where}: it is not")
            case _:
                self._report("R11", "discard-unexplained", where)

    def _failures_of(self, shard: Shard, epoch: int, offsets: Sequence[int]) -> int | None:
        """The charged failures of these records as one batch; None if they were passed over for another reason."""
        wanted = (self._rules.maximum_retry_attempts or 0) + 1
        batch = (shard.name, epoch, offsets[0], offsets[-1], len(offsets))
        if self._facts.keys or offsets[0] not in shard.places:
            return self._tries[batch]
        key, position = shard.places[offsets[0]]
        lane = shard.lanes[key]
        if lane.owed.get(position) == EXHAUSTED:
            return wanted
        part = shard.view(lane, epoch, position).front
        failures = part.failures if part is not None and part.start == position else 0
        tries = max(failures, self._tries[batch])
        # An owner before this one may have passed over them for another reason: its clock was ahead.
        return tries if tries or position not in lane.owed else None

    def _tell_time(self, time_ms: int | None) -> None:
        if time_ms is not None:
            self._latest_ms = time_ms if self._latest_ms is None else max(self._latest_ms, time_ms)

    def _report(self, rule: str, name: str, text: str) -> None:
        self.violations.append(Violation(rule, name, self._number, text))


def _batch(seen: Seen) -> tuple[str, int, int, int, int]:
    """What names a batch of an epoch."""
    return seen.shard, seen.epoch, seen.offsets[0], seen.offsets[-1], len(seen.offsets)


def check(
    history: Iterable[Event],
    *,
    starts: Mapping[str, int],
    ends: Mapping[str, int],
    rules: Rules,
    facts: Facts = _ONE_LANE,
) -> list[Violation]:
    """Judge a whole history.  [] means that nothing is wrong with it."""
    checker = Checker(starts, rules, facts)
    for event in history:
        checker.feed(event)
    checker.finish(ends)
    return checker.violations
