"""A whole mapping in virtual time: producers, a runtime that dies, workers that fail, time out and crash, a store
that is slow and refuses, a destination; shards that are split, merged and trimmed, and a clock that jumps.

The machines are the real ones (streamfn/core), and so is the little that goes around them (streamfn/testing/engine.py);
everything else is scripted by one seeded generator.  `Plan.draw(seed)` decides what kind of world it is, so that some
worlds have no faults at all and others hardly anything else.  After `heal_ns` nothing fails any more but poison
records, and what is left must be finished in LIVENESS_NS of virtual time.

What the checker is told comes from producers, workers, the store and the log, never from the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import orjson
from family import Family, Log
from plan import FRAME_BYTES, Plan

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules
from streamfn.core.shard import Reach
from streamfn.core.verdict import FailurePolicy
from streamfn.errors import DiskFull
from streamfn.events import partial, window
from streamfn.events.partial import Failed, Partly, Whole
from streamfn.testing.checker import (
    Accepted,
    Acknowledged,
    Attempted,
    Clock,
    Committed,
    Discard,
    Ended,
    Event,
    Facts,
    Gone,
    Logged,
    Owned,
    Put,
    Rules,
    Seen,
    Settled,
    Violation,
    Window,
    check,
)
from streamfn.testing.clock import NS_PER_MS, NS_PER_S, Agenda, VirtualClock
from streamfn.testing.engine import COMMIT_DELAY_NS, Engine, Judged, Setup
from streamfn.testing.memory import Discard as Row
from streamfn.testing.memory import MemoryStore
from streamfn.testing.pool import Ending, Entry, Outcome
from streamfn.types import Run

LIVENESS_NS = 400 * NS_PER_S  # several times the longest backoff
BIG_STATE = "x" * (1024 * 1024 + 1)
ACTIONS_MOST = 100_000
FORWARD_NS = 30 * NS_PER_MS


class Runtime(Engine):
    """The engine, with rings that are full now and then."""

    around: World

    def fitting(self, machine: Any, runs: list[Run]) -> list[Run]:
        world = self.around
        spare = machine.in_flight - 1
        if spare <= 0 or not runs or world.draw.random() >= 0.1:
            return runs
        fitting = sum(run.batches for run in runs)
        putting = min(fitting, spare, 1 + world.some(2))
        machine.put_back(putting)
        return fit(runs, fitting - putting)


class Store(MemoryStore):
    """A store that refuses now and then, and is the witness of who owns the mapping."""

    def __init__(self, starts: dict[str, int], history: list[Event]) -> None:
        super().__init__(starts)
        self.failing = False
        self.history = history

    def acquire(self) -> int:
        self.epoch = self.next_epoch()
        self.history.append(Owned(self.epoch))
        return self.epoch

    def next_epoch(self) -> int:
        return self.epoch + 1

    def commit(self, epoch: int, *args: Any) -> None:
        if self.failing and epoch == self.epoch:
            raise DiskFull("scripted")
        super().commit(epoch, *args)


class Forwarder:
    """Carries discards to their destination, one after the other: under their ids, so that it may do so twice."""

    def __init__(self, world: World) -> None:
        self.world = world

    def pending(self) -> int | None:
        """The first discard that is not marked as delivered."""
        marked = self.world.marked
        return next((row for row in range(len(self.world.store.discards)) if row not in marked), None)

    def step(self) -> None:
        """Take a discard to the destination, then mark it."""
        world, row = self.world, self.pending()
        if row is not None and world.runtime is not None:
            epoch = world.runtime.epoch
            world.history.append(Attempted(row))
            if world.healed or world.draw.random() >= world.plan.fail_rate:
                self.arrive(row)
                world.agenda.after(world.some(10 * NS_PER_MS), lambda: self.mark(row, epoch))
        world.agenda.after(FORWARD_NS, self.step)

    def arrive(self, row: int) -> None:
        self.world.destination[row] = self.world.store.discards[row]

    def mark(self, row: int, epoch: int) -> None:
        world = self.world
        if world.runtime is not None and world.runtime.epoch == epoch and row not in world.marked:
            world.marked.add(row)
            world.history.append(Settled(row, "delivered"))


class World:
    """Everything there is, and the history of it; `engine.Surroundings`."""

    def __init__(
        self,
        plan: Plan,
        runtime: type[Engine] = Runtime,
        store: type[Store] = Store,
        log: type[Log] = Log,
        forwarder: type[Forwarder] = Forwarder,
    ) -> None:
        self.plan = plan
        self.draw = Random(plan.seed ^ 0x5EED)
        self.random = self.draw.random
        self.clock = VirtualClock(start_ns=1)
        self.agenda = Agenda(self.clock, most=ACTIONS_MOST)
        self.history: list[Event] = []
        names = [f"shardId-{number:012}" for number in range(plan.shards)]
        self.starts = {name: self.draw.choice([0, 17]) for name in names}
        self.family = Family(self.starts, Random(plan.seed ^ 0xFA11), log)
        self.logs: dict[str, Any] = self.family.logs
        self.store = store(self.starts, self.history)
        self.healed = False
        self.drained_ns = 0  # how long it took from the end of the faults until everything was done
        self.marked: set[int] = set()
        self.destination: dict[int, Row] = {}
        self._forwarder = forwarder(self)
        self._accepted = 0
        self._runtime_type = runtime
        self.runtime: Engine | None = None
        self.setup = Setup(
            BatchRules(plan.batch_size, plan.window_ns, plan.event_bytes_max, frame_bytes=FRAME_BYTES),
            FailurePolicy(Backoff(plan.backoff_ns), plan.retries, plan.age_ms, plan.bisect),
            factor=plan.factor,
            window_ms=plan.tumbling_ms,
            filtered=plan.passing is not None,
            capacity=plan.capacity,
            workers=plan.workers,
            buffered_max=plan.buffered_max,
            reach=Reach(lane_bytes=plan.buffered_max * 20, records=plan.buffered_max * 4 + 40, bytes=10_000),
        )

    def run(self) -> list[Violation]:
        """Live through it all, and be judged."""
        plan = self.plan
        for name in self.starts:
            for _ in range(plan.messages):
                self.agenda.after(self.some(plan.heal_ns), lambda name=name: self._append(name))  # type: ignore[misc]
        for count, happen in [
            (plan.runtime_crashes, self._crash),
            (plan.revokes, self._revoke),
            (plan.reshards, self._reshard),
            (plan.jumps, self._jump),
            (plan.trims, self._trim),
        ]:
            for _ in range(count):
                self.agenda.after(self.some(plan.heal_ns), happen)
        self._start()
        self._forwarder.step()
        self.agenda.run(plan.heal_ns)
        self.healed = True
        self.store.failing = False
        ends = {name: log.end_offset for name, log in self.logs.items()}
        done = self.agenda.run(plan.heal_ns + LIVENESS_NS, lambda: self._is_done(ends))
        self.drained_ns = self.agenda.now_ns - plan.heal_ns
        for name, log in self.logs.items():
            for offset in range(log.trimmed_to, log.end_offset):
                self.history.append(Logged(name, offset, log.content(offset), str(offset)))
        found = check(self.history, starts=self.starts, ends=ends, rules=self.rules, facts=self.facts)
        if not done and not found:
            found.append(Violation("R13", "lag", -1, "a window is open, or a discard not carried to its destination"))
        may_pass = plan.age_ms is not None or plan.retries is not None or plan.trims > 0
        return found + self.family.out_of_order(self.history, across_owners=not may_pass)

    @property
    def rules(self) -> Rules:
        """What the checker is told of the mapping."""
        plan = self.plan
        return Rules(
            plan.batch_size, plan.event_bytes_max, plan.retries, plan.age_ms, plan.bisect, window_ms=plan.tumbling_ms
        )

    @property
    def facts(self) -> Facts:
        """What it is told of the records."""
        logs = self.logs
        return Facts(
            lane=self.lane,
            covered=self.wanted,
            arrival_ms=lambda shard, offset: logs[shard].arrival_ms(offset),
            event_bytes=lambda shard, offset: FRAME_BYTES + logs[shard].bytes_of(offset),
        )

    def _is_done(self, ends: dict[str, int]) -> bool:
        if any(self.store.offsets.get(name, 0) < end for name, end in ends.items()):
            return False
        if self._forwarder.pending() is not None or len(self.marked) < self._accepted or self.runtime is None:
            return False
        if any(window.state is not None for window in self.store.windows.values()):
            return False
        return all(self.runtime.is_idle(feed) for feed in self.runtime.feeds.values())

    def some(self, most: int) -> int:
        """A number from 0 to `most`."""
        return int(self.draw.random() * (most + 1))

    # ---- what happens

    def _append(self, name: str) -> None:
        plan, draw = self.plan, self.draw
        weights = [draw.randint(1, 49) for _ in range(draw.randint(1, plan.message_rows_max))]
        name, contents = self.family.choose(name, len(weights))
        now_ms = self.clock.unix_ms()
        back_ms = draw.choice([0, 0, 0, 20, 1000]) if plan.age_ms or plan.tumbling_ms else 0
        arrivals = [now_ms - draw.randint(0, back_ms) for _ in weights]
        first = self.logs[name].end_offset
        self.history += [Put(content) for content in contents]
        self.logs[name].put(contents, weights, arrivals)
        self.history += [
            Acknowledged(name, first + place, content, str(first + place)) for place, content in enumerate(contents)
        ]
        if self.runtime is not None:
            self.runtime.pump_all()

    def _start(self) -> None:
        if self.runtime is None:
            self.runtime = self._runtime_type(self, self.setup)

    def _crash(self) -> None:
        """The runtime dies.  Its workers may live on for a moment, and so may a commit under way."""
        if self.runtime is not None:
            self.runtime.die(lambda: self.some(30 * NS_PER_MS))
            self.runtime = None
            self.agenda.after(self.some(20 * NS_PER_MS), self._start)

    def _revoke(self) -> None:
        """Take back what some lane has staged, best of one that has."""
        if self.runtime is None:
            return
        lanes = [(feed, lane) for feed in self.runtime.feeds.values() for lane in range(len(feed.lanes))]
        staged = [(feed, lane) for feed, lane in lanes if feed.lanes[lane].in_flight > 1]
        if lanes:
            self.runtime.revoke(*self.draw.choice(staged or lanes))
            self.runtime.pump_all()

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

    def _jump(self) -> None:
        for jump in (0, self.draw.choice([-1000, -40, 40, 1000, 100_000])):
            self.clock.jump(jump)
            self.history.append(Clock(self.clock.unix_ms()))

    def _trim(self) -> None:
        name = self.draw.choice(list(self.logs))
        log = self.logs[name]
        to = log.trimmed_to + self.some(log.end_offset - log.trimmed_to)
        if to > log.trimmed_to:
            self.history.append(Gone(name, log.trimmed_to, to))
            log.trim(to)

    # ---- engine.Surroundings

    def parents(self, shard: str) -> Sequence[str]:
        return self.family.parents[shard]

    def end(self, shard: str) -> int | None:
        return self.family.ends.get(shard)

    def lane(self, shard: str, offset: int) -> int:
        return int(self.logs[shard].content(offset)[0]) % self.plan.factor

    def wanted(self, shard: str, offset: int) -> bool:
        passing = self.plan.passing
        return passing is None or self._hashed(shard, offset, 7) < passing

    def poisoned(self, shard: str, offset: int) -> bool:
        """Whether no batch with this record ever succeeds."""
        return self.plan.poison_rate > 0 and self._hashed(shard, offset, 13) < self.plan.poison_rate

    def _hashed(self, shard: str, offset: int, salt: int) -> float:
        put = int(self.logs[shard].content(offset)[1])
        return ((put + 1) * 2654435761 * salt + self.plan.seed * 40503) % 65536 / 65536

    def judge(self, entry: Entry, payload: bytes) -> Judged:
        numbers = [str(offset) for offset in entry.offsets]
        if not self.plan.tumbling_ms:
            return Judged(partial.judge(payload, numbers))
        verdict, state = window.judge(payload, numbers if self.plan.partial else None)
        return Judged(verdict, None if isinstance(verdict, Failed) else state)

    def script(self, engine: Engine) -> WorkerScript:
        return WorkerScript(self, engine.epoch)

    def committing_takes_ns(self) -> int:
        self.store.failing = not self.healed and self.draw.random() < self.plan.commit_failures
        return self.some(self.plan.commit_ns_max)

    def gathering_takes_ns(self) -> int:
        return self.some(COMMIT_DELAY_NS)

    def replacing_takes_ns(self) -> int:
        return self.some(5 * NS_PER_MS)

    def committed(self, engine: Engine, shard: str, offset: int, discards: Sequence[Row]) -> None:
        rows = tuple(Discard(tuple(row.offsets), row.condition, row.attempts) for row in discards)
        self.history.append(Committed(shard, engine.epoch, offset, rows, self.clock.unix_ms()))
        for number in range(self._accepted, len(self.store.discards)):
            self.history.append(Accepted(number))
        self._accepted = len(self.store.discards)


def fit(runs: list[Run], batches: int) -> list[Run]:
    """The first `batches` batches of `runs`."""
    fitting = []
    for run in runs:
        if batches > 0:
            fitting.append(run._replace(batches=min(run.batches, batches)))
            batches -= run.batches
    return fitting


def token(state: bytes | None) -> object:
    """What stands for a state in the history: nothing for a fresh one, and not all of a big one."""
    return None if state in (None, b"{}") else (state[:40], len(state))


class WorkerScript:
    """What handlers do in this world; the witness."""

    def __init__(self, world: World, epoch: int) -> None:
        self.world = world
        self.epoch = epoch
        self._seen: set[int] = set()  # by invocation
        self._judged: dict[int, Judged] = {}

    def started(self, entry: Entry) -> Ending:
        world, plan, draw = self.world, self.world.plan, self.world.draw
        duration_ns = world.some(plan.duration_ns_max)
        if not world.healed and draw.random() < plan.throttle_rate:
            return Ending(duration_ns, Outcome.THROTTLED)
        name, offsets, log = entry.shard, entry.offsets, world.logs[entry.shard]
        self._seen.add(entry.invocation)
        world.history.append(
            Seen(
                name,
                self.epoch,
                (self.epoch, entry.invocation),
                offsets,
                FRAME_BYTES + sum(log.bytes_of(offset) for offset in offsets),
                world.clock.unix_ms(),
                [log.content(offset) for offset in offsets],
                self._window(entry),
            )
        )
        return Ending(duration_ns, *self._act(entry))

    def _window(self, entry: Entry) -> Window | None:
        told = entry.envelope
        if told is None:
            return None
        return Window(told.start_ms, token(told.state), told.is_final, told.is_terminated_early)

    def _act(self, entry: Entry) -> tuple[Outcome, bytes]:
        """How the invocation ends, and with which response."""
        world, plan, luck = self.world, self.world.plan, self.world.draw.random()
        poison = next(
            (place for place, offset in enumerate(entry.offsets) if world.poisoned(entry.shard, offset)), None
        )
        failing = poison is not None
        if not world.healed:
            for outcome, rate in (
                (Outcome.FAILED, plan.fail_rate),
                (Outcome.CRASHED, plan.crash_rate),
                (Outcome.TIMED_OUT, plan.timeout_rate),
            ):
                if luck < rate:
                    if outcome is not Outcome.FAILED:
                        return outcome, b""
                    failing = True
                    break
                luck -= rate
        if failing and (not plan.partial or world.draw.random() < 0.3):
            return Outcome.FAILED, b""
        return self._respond(entry, failing, poison)

    def _respond(self, entry: Entry, failing: bool, poison: int | None) -> tuple[Outcome, bytes]:
        world, plan = self.world, self.world.plan
        response: dict[str, object] = {}
        if failing and entry.offsets:
            first = poison if poison is not None else world.some(len(entry.offsets) - 1)
            failed = [offset for place, offset in enumerate(entry.offsets) if place >= first]
            response["batchItemFailures"] = [
                {"itemIdentifier": str(offset)}
                for place, offset in enumerate(failed)
                if not place or world.draw.random() < 0.5
            ][:: world.draw.choice([1, -1])]
        elif failing:
            return Outcome.FAILED, b""
        if (plan.partial or plan.tumbling_ms) and not world.healed and world.draw.random() < plan.malformed_rate:
            response["batchItemFailures"] = world.draw.choice([[{"itemIdentifier": ""}], [{"foo": 1}], 7])
            if not plan.partial:
                response = {}
        elif plan.tumbling_ms:
            state: dict[str, object] = {"by": [self.epoch, entry.invocation]}
            if not world.healed and world.draw.random() < 0.01:
                state["pad"] = BIG_STATE
            response["state"] = state
        elif not response:
            return Outcome.OK, b"null"
        payload = orjson.dumps(response)
        self._judged[entry.invocation] = world.judge(entry, payload)
        return Outcome.RESPONDED, payload

    def ended(self, entry: Entry, ending: Ending | None) -> None:
        if entry.invocation not in self._seen:  # it was throttled
            return
        invocation, done, state = (self.epoch, entry.invocation), 0, None
        ok = ending is not None and ending.outcome is Outcome.OK
        if ending is not None and ending.outcome is Outcome.RESPONDED:
            verdict, returned = self._judged.pop(entry.invocation)
            state = token(returned)
            ok = isinstance(verdict, Whole)
            done = verdict.done if isinstance(verdict, Partly) else 0
        self.world.history.append(Ended(invocation, ok, done, state=state))

    def reap_delay_ns(self) -> int:
        return self.world.some(self.world.plan.reap_ns_max)
