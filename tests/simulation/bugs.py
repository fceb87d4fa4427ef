"""Bugs that the simulation must be able to see: at least one for every rule of the checker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from family import Log
from world import Forwarder, Runtime, Store, World

from streamfn.core.lane import Lane
from streamfn.core.lineage import Lineage
from streamfn.core.shard import ShardWork
from streamfn.core.tumbling import WindowLane
from streamfn.testing.memory import Discard, Message
from streamfn.testing.pool import Answer, Outcome, ScriptedWorker
from streamfn.types import Fault, Run, Window


@dataclass(frozen=True)
class Bug:
    """A planted bug: what is replaced in the world, and by which names of the rule's it may be found."""

    rule: str
    names: frozenset[str]
    runtime: type[Runtime] = Runtime
    store: type[Store] = Store
    log: type[Log] = Log
    forwarder: type[Forwarder] = Forwarder

    @property
    def planted(self) -> type:
        """What is wrong."""
        parts = ((self.runtime, Runtime), (self.store, Store), (self.log, Log), (self.forwarder, Forwarder))
        return next(part for part, right in parts if part is not right)

    @property
    def title(self) -> str:
        """Its name, in words."""
        return self.planted.__name__

    @property
    def text(self) -> str:
        """What it does."""
        return (self.planted.__doc__ or "").strip().rstrip(".")


def lanes(kind: type[Lane]) -> type[Runtime]:
    return type(kind.__name__, (Runtime,), {"lane_type": kind, "__doc__": kind.__doc__})


def lineages(kind: type[Lineage]) -> type[Runtime]:
    return type(kind.__name__, (Runtime,), {"lineage_type": kind, "__doc__": kind.__doc__})


# ---- the log


class AcknowledgesWithoutAppending(Log):
    """Forgets some appends, after answering them."""

    def put(self, contents: Sequence[tuple[int, int]], weights: Sequence[int], arrivals: Sequence[int]) -> None:
        if contents[0][1] % 7:
            super().put(contents, weights, arrivals)


class AppendsTwice(Log):
    """Appends a record once more than it was put."""

    def put(self, contents: Sequence[tuple[int, int]], weights: Sequence[int], arrivals: Sequence[int]) -> None:
        if contents[0][1] % 11 == 5:
            contents, weights, arrivals = [*contents, contents[-1]], [*weights, 1], [*arrivals, arrivals[-1]]
        super().put(contents, weights, arrivals)


class HandsOutAnotherRecord(Log):
    """Gives some records away with the content of their neighbours once they have been read often."""

    reads = 0

    def content(self, offset: int) -> tuple[int, int]:
        self.reads += 1
        if self.reads > 40 and offset % 5 == 3 and offset > self.start_offset:
            offset -= 1
        return super().content(offset)


# ---- lanes


class SkipsTheFailedBatch(Lane):
    """Goes on behind a failure as if it had been a success."""

    def failed(self, now_ns: int, fault: Fault, *, charged: bool = True) -> None:
        batch = self._answered(1)
        self._watermark.offset = batch.first_offset + batch.records

    def returned(self, batches: int) -> None:
        self._watermark.offset += sum(self._answered(1).records for _ in range(batches))


class RetriesWithoutWaitingForTheOthers(Lane):
    """Hands the next ones over before what was skipped has come back."""

    def failed(self, now_ns: int, fault: Fault, *, charged: bool = True) -> None:
        self._again.appendleft(self._answered(1))


class ForgetsWhatCameBack(Lane):
    """Drops batches that did not run."""

    def returned(self, batches: int) -> None:
        for _ in range(batches):
            self._answered(1)


class NeverWakesForARetry(Lane):
    """Has its retry due, and tells nobody."""

    def wake_at(self, now_ns: int) -> int | None:
        return None if self._retry is not None else super().wake_at(now_ns)


class LosesTheWindow(Lane):
    """Waits for full batches for ever."""

    def wake_at(self, now_ns: int) -> int | None:
        return None if not self._batcher.closed else super().wake_at(now_ns)


class RetriesASmallerBatch(Lane):
    """Cuts a failed batch anew."""

    def failed(self, now_ns: int, fault: Fault, *, charged: bool = True) -> None:
        super().failed(now_ns, fault, charged=charged)
        retry = self._retry
        if retry is not None and retry.records > 1:
            self._retry = retry._replace(records=1)
            rest = Run(retry.first_offset + 1, retry.records - 1, 1, 1)
            (self._back if self.in_flight else self._again).appendleft(rest)


class TakesAPartForTheWhole(Lane):
    """Believes a response that reports records to be a success."""

    def partly(self, done_records: int, now_ns: int, fault: Fault) -> None:
        super().succeeded(1, now_ns)


class DeliversTheDonePartAgain(Lane):
    """Retries the whole batch when part of it succeeded."""

    def partly(self, done_records: int, now_ns: int, fault: Fault) -> None:
        super().partly(0, now_ns, fault)


class TakesASuccessForNotRun(Runtime):
    """Delivers once more what succeeded, now and then."""

    def answered(self, feed: Any, lane: Any, answer: Answer) -> None:
        if answer.outcome is Outcome.OK and lane.in_flight == 1 and self.around.random() < 0.05:
            answer = answer._replace(outcome=Outcome.NOT_RUN)
        super().answered(feed, lane, answer)


class TakesACrashForSuccess(Runtime):
    """Believes that whoever died had finished."""

    def answered(self, feed: Any, lane: Any, answer: Answer) -> None:
        died = answer.outcome is Outcome.CRASHED and not feed.windowed
        super().answered(feed, lane, answer._replace(outcome=Outcome.OK) if died else answer)


class RevokesAndTellsNobody(Runtime):
    """Stages more behind what has been revoked."""

    def recalled(self, feed: Any, lane: int) -> None:
        pass


class MovesALaneThatIsInFlight(Runtime):
    """Gives a lane to whichever worker has room."""

    def _seat(self, feed: Any, lane: int) -> ScriptedWorker | None:
        alive = [worker for worker in self.workers if worker.room]
        if not alive:
            return None
        feed.seats[lane] = self.around.draw.choice(alive)
        return feed.seats[lane]  # type: ignore[no-any-return]


class IgnoresTheEventLimit(Runtime):
    """Cuts batches as if events could have any size."""

    def make_lane(self, name: str, offset: int) -> Any:
        self.setup = replace(self.setup, rules=replace(self.setup.rules, event_bytes_max=10**9))
        return super().make_lane(name, offset)


# ---- giving up


class GivesUpEarly(Runtime):
    """Allows one retry less than was asked for."""

    def make_lane(self, name: str, offset: int) -> Any:
        policy, retries = self.setup.policy, self.around.plan.retries
        if retries:
            self.setup = replace(self.setup, policy=replace(policy, maximum_retry_attempts=retries - 1))
        return super().make_lane(name, offset)


class RetriesOnceMore(Runtime):
    """Allows one retry more than was asked for."""

    def make_lane(self, name: str, offset: int) -> Any:
        policy, retries = self.setup.policy, self.around.plan.retries
        if retries is not None:
            self.setup = replace(self.setup, policy=replace(policy, maximum_retry_attempts=retries + 1))
        return super().make_lane(name, offset)


class ChargesThrottles(Runtime):
    """Lets a throttle use up an attempt."""

    def answered(self, feed: Any, lane: Any, answer: Answer) -> None:
        throttled = answer.outcome is Outcome.THROTTLED
        super().answered(feed, lane, answer._replace(outcome=Outcome.FAILED) if throttled else answer)


class FindsRecordsOldTooSoon(Runtime):
    """Discards records at nine tenths of their age."""

    def make_lane(self, name: str, offset: int) -> Any:
        policy, age = self.setup.policy, self.around.plan.age_ms
        if age is not None:
            self.setup = replace(self.setup, policy=replace(policy, maximum_record_age_ms=age * 9 // 10))
        return super().make_lane(name, offset)


class SaysNothingOfDiscards(Runtime):
    """Moves the checkpoint over what was given up, without a row."""

    def rows_of(self, rows: dict[str, list[Discard]]) -> list[Discard]:
        for each in rows.values():
            each.clear()
        return []


class WritesDiscardsTwice(Runtime):
    """Writes every row again with the next checkpoint."""

    last: tuple[str, list[Discard]] = ("", [])

    def rows_of(self, rows: dict[str, list[Discard]]) -> list[Discard]:
        name, last = self.last
        for shard, each in rows.items():
            if each:
                self.last = (shard, list(each))
        if name in rows:
            rows[name][:0] = last
        return super().rows_of(rows)


class PassesADiscardInPieces(ShardWork[Any]):
    """Lets the watermark stand inside a discard's records."""

    def hold(self, lane: int, first_offset: int, last_offset: int, held: Any) -> None:
        super().hold(lane, last_offset, last_offset, held)


class LosesPiecesOfDiscards(Runtime):
    """Lets the checkpoint stand inside a discard's records, which lie apart in their lane."""

    work_type = PassesADiscardInPieces


# ---- filters, lanes of one shard


class DeliversWhatIsFilteredOut(Runtime):
    """Looks at filters for every record but each tenth."""

    def _parts(self, feed: Any, message: Message) -> Any:
        around, asked = self.around, self.around.wanted
        around.wanted = lambda shard, offset: offset % 10 == 9 or asked(shard, offset)  # type: ignore[method-assign]
        try:
            return super()._parts(feed, message)
        finally:
            around.wanted = asked  # type: ignore[method-assign]


class ForgetsWhatWasFilteredAway(Runtime):
    """Commits after answers only, though filtered records move the checkpoint too."""

    def pump(self, feed: Any) -> None:
        feed.noted = feed.watermark
        before = self._commit_soon
        self._commit_soon = lambda: None  # type: ignore[method-assign]
        try:
            super().pump(feed)
        finally:
            self._commit_soon = before  # type: ignore[method-assign]


class SpreadsKeysOverLanes(Runtime):
    """Chooses lanes by offset, so that a key has several."""

    def _parts(self, feed: Any, message: Message) -> Any:
        around, asked = self.around, self.around.lane
        around.lane = lambda shard, offset: offset % self.setup.factor  # type: ignore[method-assign]
        try:
            return super()._parts(feed, message)
        finally:
            around.lane = asked  # type: ignore[method-assign]


# ---- windows


class ForgetsTheState(Runtime):
    """Begins every window anew after a restart."""

    def window_of(self, name: str) -> Window | None:
        return None


class ForgetsOpenWindows(Runtime):
    """Takes a shard for finished though its last window is open."""

    def finished_to(self, name: str, checkpoint: int) -> int:
        return checkpoint


class MixesWindows(WindowLane):
    """Puts records of the next window into this one."""

    def _open(self, arrival_ms: int) -> None:
        super()._open(arrival_ms)
        assert self._window is not None
        self._window = self._window._replace(end_ms=self._window.end_ms + self._length_ms // 2)


class LetsWindowsOverlap(Runtime):
    """Puts records of the next window into this one."""

    window_lane_type = MixesWindows


# ---- checkpoints


class CheckpointsWhatIsHandedOver(Runtime):
    """Commits what has been cut into batches."""

    def checkpoint_of(self, feed: Any) -> int:
        return feed.watermark if feed.work or feed.windowed else int(feed.machine.cut_offset)


class ResumesBehindTheCheckpoint(Runtime):
    """Goes on one record too far."""

    def resume_at(self, name: str) -> int:
        return min(self.start_of(name) + 1, int(self.around.logs[name].end_offset))


class ResumesAtTheStart(Runtime):
    """Ignores checkpoints."""

    def resume_at(self, name: str) -> int:
        return self.around.starts.get(name, 0)


class NeverCommitsTheLastOnes(Runtime):
    """Commits while there is much to commit, and leaves the rest."""

    def checkpoint_of(self, feed: Any) -> int:
        return max(self.start_of(feed.name), feed.watermark - 1)


class WithoutFence(Store):
    """Takes checkpoints from anybody."""

    def commit(self, epoch: int, *args: Any) -> None:
        super().commit(self.epoch, *args)


class MovesBack(Store):
    """Goes back a record with every fourth transaction."""

    commits = 0

    def commit(self, epoch: int, offsets: Any, *args: Any) -> None:
        before = dict(self.offsets)
        super().commit(epoch, offsets, *args)
        self.commits += 1
        if self.commits % 4 == 0:
            self.offsets.update({name: before[name] - 1 for name in offsets if before.get(name, 0) > 18})


class OldEpochAgain(Store):
    """Gives every owner the same epoch."""

    def next_epoch(self) -> int:
        return 1


# ---- shards


class DeliversChildrenAtOnce(Lineage):
    """Does not wait for parents."""

    def _ready(self, shard: str) -> bool:
        known = self._shards[shard]
        return not known.told and not known.finished


class LetsEmptyShardsPass(Lineage):
    """Takes a shard that has no records for finished before its parents are."""

    def _check(self, shard: str) -> None:
        known = self._shards[shard]
        known.finished = known.at_its_end
        self._candidates.update(dict.fromkeys(self._children[shard]))


class WaitsForOneParent(Lineage):
    """Takes the first parent of a merge for both."""

    def add(self, shard: str, parents: Sequence[str], *, end: int | None, offset: int) -> None:
        super().add(shard, parents[:1], end=end, offset=offset)


class TakesTheWatermarkForTheCheckpoint(Runtime):
    """Delivers children before their parents' ends are durable."""

    def moved(self, feed: Any) -> None:
        self.lineage.move(feed.name, feed.watermark)
        for child in self.lineage.take_ready():
            self.begin_shard(child)


class ForgetsParentsWhenItRestarts(Runtime):
    """Knows of a reshard while it runs, and not when it reads the description anew."""

    def parents_of(self, name: str) -> Sequence[str]:
        return super().parents_of(name) if self.feeds else ()


class StartsChildrenAtTheirEnd(Runtime):
    """Takes children for LATEST."""

    def start_of(self, name: str) -> int:
        return self.around.store.offsets.get(name, int(self.around.logs[name].end_offset))


class NeverHearsOfAReshard(Runtime):
    """Learns its shards once."""

    def learn(self) -> None:
        if not self.feeds:
            super().learn()


# ---- what is done later


class ForwardsTwice(Forwarder):
    """Forgets which discards have been delivered."""

    def mark(self, row: int, epoch: int) -> None:
        super().mark(row, epoch)
        if row % 3 == 0 and row in self.world.marked and not self.world.healed:
            self.world.marked.discard(row)


class ForwardsNothingAfterARestart(Forwarder):
    """Carries what was discarded in its own life only."""

    def pending(self) -> int | None:
        row = super().pending()
        world = self.world
        if row is not None and world.runtime is not None and world.runtime.epoch > 1:
            return None
        return row


def bug(rule: str, what: Any, *names: str) -> Bug:
    """A planted bug, by what it replaces."""
    kinds = {Lane: lanes, Lineage: lineages}
    for base, wrap in kinds.items():
        if issubclass(what, base):
            what = wrap(what)
    where = {Runtime: "runtime", Store: "store", Log: "log", Forwarder: "forwarder"}
    place = next(name for base, name in where.items() if issubclass(what, base))
    return Bug(rule, frozenset(names), **{place: what})


BUGS = [
    bug("R1", AcknowledgesWithoutAppending, "lost-append", "corrupt-record", "inconsistent-content"),
    bug("R1", AppendsTwice, "phantom-record", "corrupt-record", "inconsistent-content"),
    bug("R2", HandsOutAnotherRecord, "inconsistent-content"),
    bug("R3", NeverWakesForARetry, "lost-delivery"),
    bug("R3", LosesTheWindow, "lost-delivery"),
    bug("R3", StartsChildrenAtTheirEnd, "skip", "lost-delivery"),
    bug("R3", NeverHearsOfAReshard, "lost-delivery"),
    bug("R3", WritesDiscardsTwice, "two-dispositions"),
    bug("R4", SkipsTheFailedBatch, "skip", "checkpoint-ahead", "lost-delivery"),
    bug("R4", ForgetsWhatCameBack, "skip", "lost-delivery", "AssertionError"),
    bug("R4", ResumesBehindTheCheckpoint, "skip"),
    bug("R4", TakesACrashForSuccess, "skip", "checkpoint-ahead", "AssertionError"),
    bug("R4", TakesAPartForTheWhole, "skip", "checkpoint-ahead", "lost-delivery"),
    bug("R4", RevokesAndTellsNobody, "AssertionError", "skip"),
    bug("R4", SpreadsKeysOverLanes, "mixed-lanes", "skip", "int-skip", "key-order"),
    bug("R5", IgnoresTheEventLimit, "batch-too-big"),
    bug("R5", RetriesASmallerBatch, "retry-differs"),
    bug("R5", DeliversWhatIsFilteredOut, "not-covered"),
    bug("R5", ForgetsTheState, "state-differs", "window-order"),
    bug("R5", LetsWindowsOverlap, "mixed-windows"),
    bug("R6", MovesALaneThatIsInFlight, "skip", "overlapping-invocations", "AssertionError"),
    bug("R7", CheckpointsWhatIsHandedOver, "checkpoint-ahead"),
    bug("R7", SaysNothingOfDiscards, "checkpoint-ahead"),
    bug("R7", LosesPiecesOfDiscards, "checkpoint-ahead"),
    bug("R7", MovesBack, "checkpoint-backwards", "checkpoint-ahead"),
    bug("R7", ResumesAtTheStart, "delivered-after-checkpoint", "unexplained-duplicate"),
    bug("R8", WithoutFence, "stale-epoch-checkpoint"),
    bug("R8", OldEpochAgain, "epoch-not-increasing"),
    bug("R9", DeliversChildrenAtOnce, "child-before-parent", "child-before-checkpoint"),
    bug("R9", LetsEmptyShardsPass, "child-before-parent"),
    bug("R9", WaitsForOneParent, "child-before-parent"),
    bug("R9", TakesTheWatermarkForTheCheckpoint, "child-before-checkpoint"),
    bug("R9", ForgetsParentsWhenItRestarts, "child-before-parent"),
    bug("R10", TakesASuccessForNotRun, "unexplained-duplicate"),
    bug("R10", DeliversTheDonePartAgain, "unexplained-duplicate"),
    bug("R11", RetriesWithoutWaitingForTheOthers, "too-many-attempts", "skip"),
    bug("R11", GivesUpEarly, "discard-too-early", "skip"),
    bug("R11", RetriesOnceMore, "too-many-attempts"),
    bug("R11", ChargesThrottles, "discard-too-early", "skip"),
    bug("R11", FindsRecordsOldTooSoon, "discard-too-early", "skip"),
    bug("R12", ForwardsTwice, "settled-twice"),
    bug("R12", ForwardsNothingAfterARestart, "unsettled"),
    bug("R13", ForgetsWhatWasFilteredAway, "lag"),
    bug("R13", ForgetsOpenWindows, "lag"),
    bug("R13", NeverCommitsTheLastOnes, "lag"),
]


def found_by(bug: Bug, plan: Any) -> set[str]:
    """The names of what is found in one world with the bug."""
    try:
        world = World(plan, bug.runtime, bug.store, bug.log, bug.forwarder)
        return {violation.name for violation in world.run()}
    except AssertionError:
        return {"AssertionError"}
