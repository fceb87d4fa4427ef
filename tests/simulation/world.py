"""A whole mapping in virtual time: producers, a runtime that dies, workers that fail and crash, a store; and
shards that are split and merged meanwhile.

The machines are the real ones (streamfn/core); everything around them is scripted by one seeded generator.
`Plan.draw(seed)` decides what kind of world it is, so that some worlds have no faults at all and others
hardly anything else.  After `heal_ns` nothing fails any more and what is left must be finished in
LIVENESS_NS of virtual time.

What the checker is told comes from the workers and the store, never from the runtime.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from random import Random

from family import Family

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules
from streamfn.core.lane import Lane
from streamfn.core.lineage import Lineage
from streamfn.core.verdict import FailurePolicy
from streamfn.errors import Fenced
from streamfn.testing.checker import Committed, Ended, Event, Owned, Rules, Seen, Violation, check
from streamfn.testing.clock import NS_PER_MS, NS_PER_S, Agenda, VirtualClock
from streamfn.testing.memory import MemoryStore
from streamfn.testing.pool import Answer, Entry, Outcome, ScriptedWorker
from streamfn.types import Fault, Run

FRAME_BYTES = 14
LIVENESS_NS = 400 * NS_PER_S  # several times the longest backoff
COMMIT_DELAY_NS = 50 * NS_PER_MS
FAULT = Fault("Error", "scripted", b"{}")


@dataclass(frozen=True)
class Plan:
    """What kind of world a seed makes.  Rates are per event, 0 to 1."""

    seed: int
    shards: int
    messages: int  # per shard
    message_rows_max: int
    batch_size: int
    window_ns: int
    event_bytes_max: int
    workers: int
    capacity: int
    buffered_max: int
    duration_ns_max: int
    reap_ns_max: int
    fail_rate: float
    crash_rate: float
    revokes: int
    runtime_crashes: int
    commit_ns_max: int
    backoff_ns: int  # the first bound
    heal_ns: int
    reshards: int

    @classmethod
    def draw(cls, seed: int) -> Plan:
        draw = Random(seed)
        return cls(
            seed=seed,
            shards=draw.randint(1, 3),
            messages=draw.choice([0, 3, 12, 40]),
            message_rows_max=draw.choice([1, 1, 3, 30]),
            batch_size=draw.choice([1, 1, 2, 5, 20]),
            window_ns=draw.choice([0, 0, 5 * NS_PER_MS, NS_PER_S]),
            event_bytes_max=FRAME_BYTES + draw.choice([50, 120, 100_000]),
            workers=draw.randint(1, 3),
            capacity=draw.choice([1, 2, 8]),
            buffered_max=draw.choice([1, 10, 100]),
            duration_ns_max=draw.choice([1, 3, 30]) * NS_PER_MS,
            reap_ns_max=draw.choice([0, 1, 20]) * NS_PER_MS,
            fail_rate=draw.choice([0, 0, 0.05, 0.4]),
            crash_rate=draw.choice([0, 0, 0.02, 0.2]),
            revokes=draw.choice([0, 0, 20]),
            runtime_crashes=draw.choice([0, 0, 1, 8]),
            commit_ns_max=draw.choice([1, 3, 100]) * NS_PER_MS,
            backoff_ns=draw.choice([1, 500]) * NS_PER_MS,
            heal_ns=draw.choice([50, 200, 2000]) * NS_PER_MS,
            reshards=draw.choice([0, 0, 1, 3, 8]),
        )

    def __str__(self) -> str:
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))


class World:
    """Everything there is, and the history of it."""

    def __init__(self, plan: Plan, runtime: type[Runtime], store: type[MemoryStore] = MemoryStore) -> None:
        self.plan = plan
        self.draw = Random(plan.seed ^ 0x5EED)
        self.agenda = Agenda(VirtualClock(start_ns=1))
        self.history: list[Event] = []
        names = [f"shardId-{number:012}" for number in range(plan.shards)]
        self.starts = {name: self.draw.choice([0, 17]) for name in names}
        self.family = Family(self.starts, Random(plan.seed ^ 0xFA11))
        self.logs = self.family.logs
        self.store = store(self.starts)
        self.healed = False
        self.invocations = 0
        self._runtime_type = runtime
        self.runtime: Runtime | None = None

    def run(self) -> list[Violation]:
        """Live through it all, and be judged."""
        plan = self.plan
        for name in self.starts:
            for _ in range(plan.messages):
                self.agenda.after(self.some(plan.heal_ns), lambda name=name: self._append(name))  # type: ignore[misc]
        for _ in range(plan.runtime_crashes):
            self.agenda.after(self.some(plan.heal_ns), self._crash)
        for _ in range(plan.revokes):
            self.agenda.after(self.some(plan.heal_ns), self._revoke)
        for _ in range(plan.reshards):
            self.agenda.after(self.some(plan.heal_ns), self._reshard)
        self._start()
        self.agenda.run(plan.heal_ns)
        self.healed = True
        ends = {name: log.end_offset for name, log in self.logs.items()}
        if self.runtime is not None:
            self.runtime.finish()
        done = lambda: all(self.store.offsets.get(name, 0) >= end for name, end in ends.items())  # noqa: E731
        self.agenda.run(plan.heal_ns + LIVENESS_NS, done)
        found = check(
            self.history,
            starts=self.starts,
            ends=ends,
            rules=Rules(plan.batch_size, plan.event_bytes_max),
        )
        return found + self.family.out_of_order(self.history)

    def some(self, most: int) -> int:
        """A number from 0 to `most`."""
        return int(self.draw.random() * (most + 1))

    def _append(self, name: str) -> None:
        weights = [self.draw.randint(1, 49) for _ in range(self.draw.randint(1, self.plan.message_rows_max))]
        self.family.append(name, weights)
        if self.runtime is not None:
            self.runtime.pump_all()

    def _start(self) -> None:
        if self.runtime is None:
            self.runtime = self._runtime_type(self)

    def _crash(self) -> None:
        """The runtime dies.  Its workers may live on for a moment, and so may a commit under way."""
        if self.runtime is not None:
            self.runtime.die()
            self.runtime = None
            self.agenda.after(self.some(20 * NS_PER_MS), self._start)

    def _revoke(self) -> None:
        if self.runtime is not None:
            self.runtime.revoke_one()

    def _reshard(self) -> None:
        """Split a shard or merge two; the runtime, if one lives, hears of it a moment later."""
        names = self.family.open
        merging = len(names) > 1 and self.draw.random() < 0.4
        event = (
            self.family.merge(*self.draw.sample(names, 2)) if merging else self.family.split(self.draw.choice(names))
        )
        if event is not None:
            self.history.append(event)
            if (runtime := self.runtime) is not None:
                self.agenda.after(self.some(20 * NS_PER_MS), runtime.learn)


class Runtime:
    """The least that a mapping needs around its lanes.  One life of it: from `acquire` to its death."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.plan = world.plan
        self.agenda = world.agenda
        self.alive = True
        self.epoch = world.store.acquire()
        world.history.append(Owned(self.epoch))
        self.rules = BatchRules(
            self.plan.batch_size, self.plan.window_ns, self.plan.event_bytes_max, frame_bytes=FRAME_BYTES
        )
        self.lineage = self.lineage_type()
        self.ends: dict[str, int] = {}  # of the closed shards it knows
        self.lanes: dict[str, Lane] = {}
        self.workers = [self._worker() for _ in range(self.plan.workers)]
        self.seats: dict[str, ScriptedWorker] = {}
        self.seat_epochs: defaultdict[str, int] = defaultdict(int)
        self.wakes: dict[str, int] = {}
        self.commit_is_due = False
        self.learn()

    # ---- what planted bugs override ----

    lane_type: type[Lane] = Lane
    lineage_type: type[Lineage] = Lineage

    def make_lane(self, rules: BatchRules, offset: int) -> Lane:
        policy = FailurePolicy(Backoff(self.plan.backoff_ns))
        return self.lane_type(rules, policy, offset, self.agenda.now_ns, self.world.draw.random)

    def resume_at(self, name: str, checkpoint: int) -> int:
        return checkpoint

    def checkpoint_of(self, name: str) -> int:
        return self.lanes[name].watermark

    def answered(self, lane: Lane, outcome: Outcome, now_ns: int) -> None:
        match outcome:
            case Outcome.OK:
                lane.succeeded(1, now_ns)
            case Outcome.FAILED | Outcome.CRASHED:
                lane.failed(now_ns, FAULT)
            case Outcome.NOT_RUN:
                lane.returned(1)

    def recalled(self, name: str) -> None:
        self.lanes[name].recall()

    def start_of(self, name: str) -> int:
        return self.world.store.offsets.get(name, 0)

    def parents_of(self, name: str) -> tuple[str, ...]:
        return self.world.family.parents[name]

    # ---- which shards ----

    def learn(self) -> None:
        """Read the stream's description, and serve what comes up by it."""
        if not self.alive:
            return
        family = self.world.family
        for name in family.logs:
            if name not in self.lineage:
                self.lineage.add(name, self.parents_of(name), end=family.ends.get(name), offset=self.start_of(name))
            elif name in family.ends and name not in self.ends:
                self.lineage.close(name, family.ends[name])
                if name in self.lanes:
                    self.lanes[name].finish_at(family.ends[name])
        self.ends = dict(family.ends)
        self.serve()

    def serve(self) -> None:
        """Let go of the lanes that are finished, make those that come up, and pump them all."""
        for name in [name for name in self.lanes if self.lineage.finished(name)]:
            del self.lanes[name]
        for name in self.lineage.take_ready():
            self.lanes[name] = self.make_lane(self.rules, self.resume_at(name, self.start_of(name)))
            if name in self.ends:
                self.lanes[name].finish_at(self.ends[name])
            elif self.world.healed:
                self.lanes[name].finish_at(self.world.logs[name].end_offset)
        self.pump_all()

    def moved(self, name: str) -> None:
        """The watermark of a shard moved."""

    def durable(self, name: str, offset: int) -> None:
        """A checkpoint is durable."""
        self.lineage.move(name, offset)

    def finish(self) -> None:
        """Nothing will be appended any more: close the last batches."""
        for name, lane in self.lanes.items():
            lane.finish_at(self.world.logs[name].end_offset)
        self.pump_all()

    # ---- records to workers ----

    def pump_all(self) -> None:
        for name in self.lanes:
            self.pump(name)

    def pump(self, name: str) -> None:
        """Offer what there is, hand over what may go, and come back when the lane says so."""
        if name not in self.lanes:
            return
        lane, log = self.lanes[name], self.world.logs[name]
        while lane.buffered_records < self.plan.buffered_max and (chunk := log.chunk(lane.next_offset)):
            before = lane.next_offset
            lane.offer(chunk)
            if lane.next_offset == before:
                break
        worker = self._seat(name)
        now_ns = self.agenda.now_ns
        if worker is not None and worker.room:
            runs = lane.take(now_ns, worker.room)
            spare = lane.in_flight - 1
            if spare and runs and self.world.draw.random() < 0.1:  # the arena is full
                fitting = sum(run.batches for run in runs)
                putting = min(fitting, spare, 1 + self.world.some(2))
                lane.put_back(putting)
                runs = fit(runs, fitting - putting)
            for run in runs:
                for number in range(run.batches):
                    first = run.first_offset + number * run.records
                    self.world.invocations += 1
                    worker.submit(
                        Entry(
                            name,
                            self.seat_epochs[name],
                            first,
                            run.records,
                            run.attempt,
                            self.world.invocations,
                        )
                    )
        wake_ns = lane.wake_at(now_ns)
        if wake_ns is not None and wake_ns > now_ns and self.wakes.get(name) != wake_ns:
            self.wakes[name] = wake_ns
            self.agenda.after(wake_ns - now_ns, lambda: self.pump(name) if self.alive else None)

    def _seat(self, name: str) -> ScriptedWorker | None:
        """The lane's worker: any one while nothing is in flight, else the one it is on."""
        if self.lanes[name].in_flight:
            return self.seats[name]
        alive = [worker for worker in self.workers if worker.room]
        if not alive:
            return None
        self.seats[name] = self.world.draw.choice(alive)
        self.seat_epochs[name] += 1
        return self.seats[name]

    def revoke_one(self) -> None:
        if not self.lanes:
            return
        name = self.world.draw.choice(list(self.lanes))
        if name in self.seats and self.seats[name].alive:
            self.seats[name].revoke(name)
            self.recalled(name)

    # ---- answers to checkpoints ----

    def reaped(self, worker: ScriptedWorker, answers: list[Answer]) -> None:
        if not self.alive:
            return
        now_ns = self.agenda.now_ns
        for answer in answers:
            self.answered(self.lanes[str(answer.entry.lane)], answer.outcome, now_ns)
            self.moved(str(answer.entry.lane))
        if not worker.alive and worker in self.workers:
            self.workers.remove(worker)
            self.agenda.after(self.world.some(5 * NS_PER_MS), self._replace)
        if not self.commit_is_due:
            self.commit_is_due = True
            self.agenda.after(self.world.some(COMMIT_DELAY_NS), self._begin_commit)
        self.pump_all()

    def _replace(self) -> None:
        if self.alive:
            self.workers.append(self._worker())
            self.pump_all()

    def _begin_commit(self) -> None:
        self.commit_is_due = False
        if self.alive:
            offsets = {name: self.checkpoint_of(name) for name in self.lanes}
            self.agenda.after(self.world.some(self.plan.commit_ns_max), lambda: self._commit(offsets))

    def _commit(self, offsets: dict[str, int]) -> None:
        """The transaction becomes durable, or is refused; the runtime may be dead by now."""
        if not self.alive and self.world.draw.random() < 0.5:
            return
        before = dict(self.world.store.offsets)
        try:
            self.world.store.commit(self.epoch, offsets)
        except Fenced:
            assert not self.alive
            return
        for name, offset in self.world.store.offsets.items():
            if offset != before.get(name, 0):
                self.world.history.append(Committed(name, self.epoch, offset))
        if self.alive:
            for name, offset in offsets.items():
                self.durable(name, offset)
            self.serve()

    # ---- workers ----

    def _worker(self) -> ScriptedWorker:
        return ScriptedWorker(self.agenda, WorkerScript(self), self.plan.capacity, self.reaped)

    def die(self) -> None:
        self.alive = False
        for worker in self.workers:
            self.agenda.after(self.world.some(30 * NS_PER_MS), worker.kill)


def fit(runs: list[Run], batches: int) -> list[Run]:
    """The first `batches` batches of `runs`."""
    fitting = []
    for run in runs:
        if batches > 0:
            fitting.append(run._replace(batches=min(run.batches, batches)))
            batches -= run.batches
    return fitting


class WorkerScript:
    """What handlers do in this world; the witness."""

    def __init__(self, runtime: Runtime) -> None:
        self.world = runtime.world
        self.epoch = runtime.epoch

    def started(self, entry: Entry) -> tuple[int, Outcome]:
        world, plan = self.world, self.world.plan
        name = str(entry.lane)
        weight = world.logs[name].bytes_of(entry.first_offset, entry.records)
        offsets = range(entry.first_offset, entry.first_offset + entry.records)
        world.history.append(Seen(name, self.epoch, entry.invocation, offsets, FRAME_BYTES + weight))
        outcome, luck = Outcome.OK, world.draw.random()
        if not world.healed:
            if luck < plan.fail_rate:
                outcome = Outcome.FAILED
            elif luck < plan.fail_rate + plan.crash_rate:
                outcome = Outcome.CRASHED
        return world.some(plan.duration_ns_max), outcome

    def ended(self, entry: Entry, ok: bool) -> None:
        self.world.history.append(Ended(entry.invocation, ok))

    def reap_delay_ns(self) -> int:
        return self.world.some(self.world.plan.reap_ns_max)
