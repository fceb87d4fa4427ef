"""A mapping in virtual time, thousands of times.

Goal    No record is lost, reordered, skipped or repeated without a reason; the checkpoint never lies; what
        is left when the faults stop is finished.
Method  The core machines run under a seeded generator and a virtual clock: no event loop, no files, no
        sleeping (world.py).  A failure prints its seed, and the seed alone replays it:
        STREAMFN_SEEDS=123:124 pytest tests/simulation
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from world import Plan, Runtime, World

from streamfn.core.batcher import BatchRules
from streamfn.core.lane import Lane
from streamfn.core.lineage import Lineage
from streamfn.testing.checker import Committed, Ended, Owned, Resharded, Seen
from streamfn.testing.memory import MemoryStore
from streamfn.testing.pool import Outcome
from streamfn.types import Run

FIRST, END = (int(part) for part in os.environ.get("STREAMFN_SEEDS", "0:1200").split(":"))
BLOCK = 200


@pytest.mark.parametrize("first", range(FIRST, END, BLOCK))
def test_every_record_is_finished_and_the_checkpoint_never_lies(first: int) -> None:
    for seed in range(first, min(first + BLOCK, END)):
        plan = Plan.draw(seed)
        violations = World(plan, Runtime).run()
        assert not violations, f"{violations[0]} in the world of {plan}"


def test_a_seed_replays_exactly() -> None:
    for seed in range(40):
        first, again = (World(Plan.draw(seed), Runtime) for _ in range(2))
        first.run()
        again.run()
        assert first.history == again.history


def test_the_worlds_have_in_them_what_they_are_for() -> None:
    owners = failures = commits = seen = reshards = across = 0
    for seed in range(100):
        world = World(Plan.draw(seed), Runtime)
        world.run()
        owners += sum(isinstance(event, Owned) for event in world.history) - 1
        failures += sum(isinstance(event, Ended) and not event.ok for event in world.history)
        commits += sum(isinstance(event, Committed) for event in world.history)
        seen += sum(isinstance(event, Seen) for event in world.history)
        reshards += sum(isinstance(event, Resharded) for event in world.history)
        across += len({event.shard for event in world.history if isinstance(event, Seen)}) > plan_shards(world)
    assert reshards > 100
    assert across > 20
    assert owners > 100
    assert failures > 250
    assert commits > 1000
    assert seen > 10_000


def plan_shards(world: World) -> int:
    return world.plan.shards


# ---- canaries: bugs that the harness must be able to see ----


class SkipsTheFailedBatch(Lane):
    """Goes on behind a failure as if it had been a success."""

    def failed(self, now_ns: int, fault: object) -> None:
        batch = self._answered(1)
        self._watermark.offset = batch.first_offset + batch.records

    def returned(self, batches: int) -> None:
        self._watermark.offset += sum(self._answered(1).records for _ in range(batches))


class RetriesWithoutWaitingForTheOthers(Lane):
    """Hands the next ones over before what was skipped has come back."""

    def failed(self, now_ns: int, fault: object) -> None:
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

    def failed(self, now_ns: int, fault: object) -> None:
        super().failed(now_ns, fault)  # type: ignore[arg-type]
        retry = self._retry
        if retry is not None and retry.records > 1:
            self._retry = retry._replace(records=1)
            rest = Run(retry.first_offset + 1, retry.records - 1, 1, 1)
            (self._back if self.in_flight else self._again).appendleft(rest)


def lanes(kind: type[Lane]) -> type[Runtime]:
    return type(kind.__name__, (Runtime,), {"lane_type": kind})


class IgnoresTheEventLimit(Runtime):
    def make_lane(self, rules: BatchRules, offset: int) -> Lane:
        return super().make_lane(BatchRules(rules.batch_size, rules.window_ns, 10**9, 14), offset)


class ChecksPointsOfWhatIsHandedOver(Runtime):
    def checkpoint_of(self, name: str) -> int:
        return self.lanes[name].cut_offset


class ResumesBehindTheCheckpoint(Runtime):
    def resume_at(self, name: str, checkpoint: int) -> int:
        return min(checkpoint + 1, self.world.logs[name].end_offset)


class ResumesAtTheStart(Runtime):
    def resume_at(self, name: str, checkpoint: int) -> int:
        return self.world.starts.get(name, 0)


class TakesACrashForSuccess(Runtime):
    def answered(self, lane: Lane, outcome: Outcome, now_ns: int) -> None:
        super().answered(lane, Outcome.OK if outcome is Outcome.CRASHED else outcome, now_ns)


class RevokesAndTellsNobody(Runtime):
    def recalled(self, name: str) -> None:
        pass


class MovesALaneThatIsInFlight(Runtime):
    def _seat(self, name: str):  # type: ignore[no-untyped-def]
        alive = [worker for worker in self.workers if worker.room]
        if not alive:
            return None
        self.seats[name] = self.world.draw.choice(alive)
        return self.seats[name]


def lineages(kind: type[Lineage]) -> type[Runtime]:
    return type(kind.__name__, (Runtime,), {"lineage_type": kind})


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

    def moved(self, name: str) -> None:
        self.lineage.move(name, self.lanes[name].watermark)
        self.lanes.update({name: self.lanes[name]})
        for child in self.lineage.take_ready():
            self.lanes[child] = self.make_lane(self.rules, self.start_of(child))


class ForgetsParentsWhenItRestarts(Runtime):
    """Knows of a reshard while it runs, and not when it reads the description anew."""

    def parents_of(self, name: str) -> tuple[str, ...]:
        return super().parents_of(name) if self.lanes else ()


class StartsChildrenAtTheirEnd(Runtime):
    """Takes children for LATEST."""

    def start_of(self, name: str) -> int:
        return self.world.store.offsets.get(name, self.world.logs[name].end_offset)


class NeverHearsOfAReshard(Runtime):
    """Learns its shards once."""

    def learn(self) -> None:
        if not self.lanes:
            super().learn()


class WithoutFence(MemoryStore):
    def commit(self, epoch: int, offsets: object) -> None:
        super().commit(self.epoch, offsets)  # type: ignore[arg-type]


class MovesBack(MemoryStore):
    def commit(self, epoch: int, offsets: dict[str, int]) -> None:  # type: ignore[override]
        super().commit(epoch, offsets)
        self.offsets.update(offsets)


class OldEpochAgain(MemoryStore):
    def acquire(self) -> int:
        self.epoch = max(self.epoch, 1)
        return self.epoch


BUGS = [
    (lanes(SkipsTheFailedBatch), MemoryStore, {"skip", "checkpoint-ahead", "lost-delivery"}),
    (lanes(RetriesWithoutWaitingForTheOthers), MemoryStore, {"skip", "AssertionError"}),
    (lanes(ForgetsWhatCameBack), MemoryStore, {"skip", "lost-delivery", "AssertionError"}),
    (lanes(NeverWakesForARetry), MemoryStore, {"lost-delivery"}),
    (lanes(LosesTheWindow), MemoryStore, {"lost-delivery"}),
    (lanes(RetriesASmallerBatch), MemoryStore, {"retry-differs"}),
    (IgnoresTheEventLimit, MemoryStore, {"batch-too-big"}),
    (ChecksPointsOfWhatIsHandedOver, MemoryStore, {"checkpoint-ahead"}),
    (ResumesBehindTheCheckpoint, MemoryStore, {"skip"}),
    (ResumesAtTheStart, MemoryStore, {"delivered-after-checkpoint", "unexplained-duplicate"}),
    (TakesACrashForSuccess, MemoryStore, {"skip", "checkpoint-ahead", "AssertionError"}),
    (RevokesAndTellsNobody, MemoryStore, {"AssertionError", "skip"}),
    (MovesALaneThatIsInFlight, MemoryStore, {"skip", "overlapping-invocations", "AssertionError"}),
    (lineages(DeliversChildrenAtOnce), MemoryStore, {"child-before-parent", "child-before-checkpoint"}),
    (lineages(LetsEmptyShardsPass), MemoryStore, {"child-before-parent"}),
    (lineages(WaitsForOneParent), MemoryStore, {"child-before-parent"}),
    (TakesTheWatermarkForTheCheckpoint, MemoryStore, {"child-before-checkpoint"}),
    (ForgetsParentsWhenItRestarts, MemoryStore, {"child-before-parent"}),
    (StartsChildrenAtTheirEnd, MemoryStore, {"skip", "lost-delivery"}),
    (NeverHearsOfAReshard, MemoryStore, {"lost-delivery"}),
    (Runtime, WithoutFence, {"stale-epoch-checkpoint"}),
    (Runtime, MovesBack, {"checkpoint-backwards"}),
    (Runtime, OldEpochAgain, {"epoch-not-increasing"}),
]


@pytest.mark.parametrize(
    ("runtime", "store", "names"), BUGS, ids=lambda value: getattr(value, "__name__", None) or ""
)
def test_a_planted_bug_is_caught(runtime: type[Runtime], store: type[MemoryStore], names: set[str]) -> None:
    for seed in range(300):
        try:
            found = {violation.name for violation in World(Plan.draw(seed), runtime, store).run()}
        except AssertionError:
            found = {"AssertionError"}
        if found:
            print(f"caught with seed {seed}: {sorted(found)}")
            assert found & names
            return
    pytest.fail("300 seeds, and nobody noticed")
