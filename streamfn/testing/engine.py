"""The least that a mapping needs around its machines: offering, pumping, sitting, answering, committing.

Everything that decides anything is production's own code: `core.lane`, `core.shard`, `core.tumbling`, `core.lineage`,
`events.partial`.  What production's shell does with an event loop, rings and files is done here by an agenda, so that
one life of a runtime, from `acquire` to its death, runs in virtual time.  Simulations plant their bugs by overriding.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from streamfn.core.batcher import BatchRules, Chunk
from streamfn.core.lane import Lane
from streamfn.core.lineage import Lineage
from streamfn.core.shard import Reach, ShardWork
from streamfn.core.tumbling import FOREVER, WindowLane
from streamfn.core.verdict import Discarded, FailurePolicy
from streamfn.errors import DiskFull, Fenced
from streamfn.events.partial import Failed, Partly, Whole
from streamfn.testing.clock import NS_PER_MS, Agenda, VirtualClock
from streamfn.testing.memory import Discard, MemoryShard, MemoryStore
from streamfn.testing.pool import Answer, Entry, Outcome, Script, ScriptedWorker
from streamfn.types import Fault, Part, Run, Window

COMMIT_DELAY_NS = 50 * NS_PER_MS
"""How long production gathers checkpoints before it commits them (docs/architecture.md)."""

COMMIT_AGAIN_NS = 100 * NS_PER_MS

SCRIPTED = Fault("Error", "scripted", b"{}")

REPORTED = Fault("", "the response says so", b"")
"""No error: what the handler returned says that records failed."""


REACH = Reach(lane_bytes=1_000_000, records=100_000, bytes=100_000_000)


@dataclass(frozen=True, slots=True)
class Setup:
    """A mapping's options, as the machines take them."""

    rules: BatchRules
    policy: FailurePolicy
    factor: int = 1
    window_ms: int = 0
    filtered: bool = False
    capacity: int = 1  # entries that a worker takes
    workers: int = 1
    buffered_max: int = 10_000  # records read ahead
    reach: Reach = REACH


class Judged(NamedTuple):
    """What a response says: of the records, and for windows the state (None: it has none)."""

    verdict: Whole | Failed | Partly
    state: bytes | None = None


class Surroundings(Protocol):
    """What a mapping lives in, and who watches it."""

    clock: VirtualClock
    agenda: Agenda
    store: MemoryStore
    logs: dict[str, MemoryShard]

    def random(self) -> float:
        """Uniform in [0, 1)."""

    def parents(self, shard: str) -> Sequence[str]:
        """The shards that it was made of, as the stream's description has them."""

    def end(self, shard: str) -> int | None:
        """Where a closed shard ends; None as long as it is open."""

    def lane(self, shard: str, offset: int) -> int:
        """Which of the parallel lanes a record belongs to."""

    def wanted(self, shard: str, offset: int) -> bool:
        """Whether a record passes the filters."""

    def judge(self, entry: Entry, payload: bytes) -> Judged:
        """What a response that is not a certain success says of its batch."""

    def script(self, engine: Engine) -> Script:
        """What a worker of this life does."""

    def committing_takes_ns(self) -> int:
        """How long the next commit takes."""

    def gathering_takes_ns(self) -> int:
        """How long checkpoints are gathered before the next commit."""

    def committed(self, engine: Engine, shard: str, offset: int, discards: Sequence[Discard]) -> None:
        """A checkpoint is durable, with discards that are of its transaction."""

    def replacing_takes_ns(self) -> int:
        """How long it takes until a dead worker has a successor."""


class Feed:
    """One shard's reading, and its lanes."""

    def __init__(self, engine: Engine, name: str, offset: int) -> None:
        setup, self.name = engine.setup, name
        self.windowed = setup.window_ms > 0
        self.lanes: list[Any] = [engine.make_lane(name, offset) for _ in range(setup.factor)]
        self.work: ShardWork[Discard] | None = None
        if setup.factor > 1 or setup.filtered:  # else positions are offsets
            self.work = engine.work_type(self.lanes, offset, setup.reach)
        self.machine: Any = self.work or self.lanes[0]  # what reads, finishes and meets gaps
        self.seats: dict[int, ScriptedWorker] = {}
        self.discards: list[Discard] = []  # rows of the next checkpoint
        self.noted = offset  # a commit is due for everything below

    @property
    def watermark(self) -> int:
        """The shard offset below which every record has a disposition."""
        return int(self.machine.watermark)

    @property
    def in_flight(self) -> int:
        """Batches in workers."""
        return sum(lane.in_flight for lane in self.lanes)

    @property
    def window(self) -> Window | None:
        """Where the windows are."""
        window: Window | None = self.lanes[0].window if self.windowed else None
        return window

    def hungry(self, buffered_max: int) -> bool:
        """Whether reading should go on."""
        if self.work is not None:
            return self.work.hungry
        return bool(self.machine.buffered_records < buffered_max)

    def offsets(self, lane: int, position: int, records: int) -> Sequence[int]:
        """The shard offsets of records of a lane."""
        if self.work is None:
            return range(position, position + records)
        return self.work.offsets(lane, position, records)

    def give_up(self, lane: int, offsets: Sequence[int], row: Discard) -> None:
        """A row of a lane that goes with the checkpoint that passes its records."""
        if self.work is None or not offsets:
            self.discards.append(row)
        else:
            self.work.hold(lane, offsets[0], offsets[-1], row)

    def moved(self) -> None:
        """Lanes may have moved."""
        if self.work is not None:
            self.work.moved()
            self.discards += self.work.release()


class Engine:
    """One life of the runtime of a mapping."""

    lineage_type: type[Lineage] = Lineage
    lane_type: type[Lane] = Lane
    window_lane_type: type[WindowLane] = WindowLane
    work_type: type[ShardWork[Discard]] = ShardWork

    def __init__(self, surroundings: Surroundings, setup: Setup) -> None:
        """Become the mapping's owner, learn the shards, and begin."""
        self.around = surroundings
        self.setup = setup
        self.agenda = surroundings.agenda
        self.alive = True
        self.epoch = surroundings.store.acquire()
        self.lineage = self.lineage_type()
        self.feeds: dict[str, Feed] = {}
        self.invocations = 0
        self.commit_is_due = self.committing = False
        self._ends: dict[str, int] = {}
        self._seat_epochs: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._wakes: dict[str, int] = {}
        self._begin()

    def _begin(self) -> None:
        self.workers = [self._worker() for _ in range(self.setup.workers)]
        self.learn()

    # ---- what planted bugs override, beside the types above

    def make_lane(self, name: str, offset: int) -> Any:
        """The machine of one lane of a shard that begins at an offset."""
        setup, now_ns, draw = self.setup, self.agenda.now_ns, self.around.random
        if not setup.window_ms:
            return self.lane_type(setup.rules, setup.policy, offset, now_ns, draw)
        length_ms, window = setup.window_ms, self.window_of(name)
        return self.window_lane_type(
            setup.rules, setup.policy, offset, now_ns, draw, length_ms=length_ms, window=window
        )

    def window_of(self, name: str) -> Window | None:
        """Where a shard's windows are at its checkpoint."""
        return self.around.store.windows.get(name)

    def start_of(self, name: str) -> int:
        """Where a shard begins: its checkpoint, or for one that came later its first record."""
        return self.around.store.offsets.get(name, 0)

    def resume_at(self, name: str) -> int:
        """Where delivery goes on."""
        return self.start_of(name)

    def parents_of(self, name: str) -> Sequence[str]:
        """What a shard was made of."""
        return self.around.parents(name)

    def checkpoint_of(self, feed: Feed) -> int:
        """What is to be committed of a shard."""
        return feed.watermark

    def recalled(self, feed: Feed, lane: int) -> None:
        """What a lane has staged has been revoked."""
        feed.lanes[lane].recall()

    # ---- which shards

    def learn(self) -> None:
        """Read the stream's description, and serve what comes up by it."""
        if not self.alive:
            return
        for name in self.around.logs:
            end = self.around.end(name)
            if name not in self.lineage:
                start = self.finished_to(name, self.start_of(name))
                self.lineage.add(name, self.parents_of(name), end=end, offset=start)
                if end is not None:
                    self._ends[name] = end
            elif end is not None and name not in self._ends:
                self._ends[name] = end
                self.lineage.close(name, end)
                if name in self.feeds:
                    self._finish(self.feeds[name], end)
        self.serve()

    def finished_to(self, name: str, checkpoint: int) -> int:
        """A shard is not at its end while a window of it is open, durably."""
        window = self.around.store.windows.get(name)
        return checkpoint - 1 if window is not None and window.state is not None else checkpoint

    def _finish(self, feed: Feed, end: int) -> None:
        """The shard is closed, for good."""
        feed.machine.finish_at(end, FOREVER)

    def serve(self) -> None:
        """Let go of the shards that are finished, take on those that come up, and pump them all."""
        for name in [name for name in self.feeds if self.lineage.finished(name) and self.is_idle(self.feeds[name])]:
            del self.feeds[name]
        for name in self.lineage.take_ready():
            self.begin_shard(name)
        self.pump_all()

    def begin_shard(self, name: str) -> None:
        """Take a shard on."""
        self.feeds[name] = feed = Feed(self, name, self.resume_at(name))
        if name in self._ends:
            self._finish(feed, self._ends[name])

    def is_idle(self, feed: Feed) -> bool:
        """Nothing of it is in flight, and no window of it is open."""
        return not feed.in_flight and (feed.window is None or feed.window.state is None)

    # ---- records to workers

    def pump_all(self) -> None:
        """Hand over whatever may go."""
        for feed in list(self.feeds.values()):
            self.pump(feed)

    def pump(self, feed: Feed) -> None:
        """Offer what there is, hand over what may go, and come back when a lane says so."""
        if self.feeds.get(feed.name) is not feed or not self.alive:
            return
        while self._read(feed) or self._skip(feed):
            pass
        if feed.windowed and self.around.logs[feed.name].end_offset <= feed.machine.next_offset:
            feed.lanes[0].read_up_to(self.around.clock.unix_ms(), self.agenda.now_ns)
        for lane in range(len(feed.lanes)):
            self._pump_lane(feed, lane)
        self._take_discards(feed)
        if feed.watermark != feed.noted:  # also when all that was read was filtered away
            feed.noted = feed.watermark
            self._commit_soon()
        now_ns = self.agenda.now_ns
        wakes = [wake for lane in feed.lanes if (wake := lane.wake_at(now_ns)) is not None and wake > now_ns]
        wake_ns = min(wakes, default=None)
        if wake_ns is not None and self._wakes.get(feed.name) != wake_ns:
            self._wakes[feed.name] = wake_ns
            self.agenda.after(wake_ns - now_ns, lambda: self.pump(feed))

    def _read(self, feed: Feed) -> bool:
        """Offer the next message, if there is one and it is wanted."""
        before = feed.machine.next_offset
        message = self.around.logs[feed.name].read(before) if feed.hungry(self.setup.buffered_max) else None
        if message is None:
            return False
        if feed.work is not None:
            feed.work.offer(before + len(message.arrivals), self._parts(feed, message))
        else:
            feed.machine.offer(Chunk(*message))
        return bool(feed.machine.next_offset != before)

    def _parts(self, feed: Feed, message: Any) -> list[Part]:
        """What of a message goes to which lane."""
        rows: defaultdict[int, list[int]] = defaultdict(list)
        for row in range(len(message.arrivals)):
            offset = message.first_offset + row
            if not self.setup.filtered or self.around.wanted(feed.name, offset):
                rows[self.around.lane(feed.name, offset) if self.setup.factor > 1 else 0].append(row)
        parts = []
        for lane, mine in sorted(rows.items()):
            sums = [0]
            for row in mine:
                sums.append(sums[-1] + message.prefix_bytes[row + 1] - message.prefix_bytes[row])
            arrivals = [message.arrivals[row] for row in mine]
            parts.append(Part(lane, message.first_offset, memoryview(array("I", mine)), sums, arrivals))
        return parts

    def _skip(self, feed: Feed) -> bool:
        """Meet a gap where reading stands, or go on behind it once everything before it is done."""
        log, work = self.around.logs[feed.name], feed.machine
        if work.next_offset >= log.trimmed_to:
            return False
        end = min(log.trimmed_to, self._ends.get(feed.name, log.trimmed_to))
        if end <= work.next_offset:
            return False
        work.meet_gap()
        if not work.at_gap:
            return False
        work.skip_gap(end, self.agenda.now_ns)
        self._commit_soon()
        return True

    def _pump_lane(self, feed: Feed, lane: int) -> None:
        machine, worker = feed.lanes[lane], self._seat(feed, lane)
        if worker is None or not worker.room:
            return
        now_ns = self.agenda.now_ns
        runs = machine.take(now_ns, worker.room, time_ms=self.around.clock.unix_ms())
        for run in self.fitting(machine, runs):
            for number in range(run.batches):
                self._submit(feed, lane, worker, run, run.first_offset + number * run.records)

    def fitting(self, machine: Any, runs: list[Run]) -> list[Run]:
        """What of the runs finds room; the rest goes back into the machine."""
        return runs

    def _submit(self, feed: Feed, lane: int, worker: ScriptedWorker, run: Run, position: int) -> None:
        self.invocations += 1
        worker.submit(
            Entry(
                (feed.name, lane),
                feed.name,
                self._seat_epochs[feed.name, lane],
                feed.offsets(lane, position, run.records),
                run.attempt,
                self.invocations,
                feed.lanes[lane].envelope if feed.windowed else None,
            )
        )

    def _seat(self, feed: Feed, lane: int) -> ScriptedWorker | None:
        """The lane's worker: any one while nothing is in flight, else the one it is on."""
        if feed.lanes[lane].in_flight:
            return feed.seats[lane]
        free = [worker for worker in self.workers if worker.room]
        if not free:
            return None
        feed.seats[lane] = min(free, key=lambda worker: (worker.in_flight, self.around.random()))
        self._seat_epochs[feed.name, lane] += 1
        return feed.seats[lane]

    def revoke(self, feed: Feed, lane: int) -> None:
        """Take back what a lane has staged."""
        if lane in feed.seats and feed.seats[lane].alive:
            feed.seats[lane].revoke((feed.name, lane))
            self.recalled(feed, lane)

    # ---- answers

    def reaped(self, worker: ScriptedWorker, answers: list[Answer]) -> None:
        """A worker's answers have come."""
        if not self.alive:
            return
        for answer in answers:
            name, lane = answer.entry.lane
            feed = self.feeds[name]
            self.answered(feed, feed.lanes[lane], answer)
            self._take_discards(feed)
            self.moved(feed)
        if not worker.alive and worker in self.workers:
            self.workers.remove(worker)
            self.agenda.after(self.around.replacing_takes_ns(), self._replace)
        self._commit_soon()
        self.pump_all()

    def moved(self, feed: Feed) -> None:
        """The watermark of a shard may have moved."""

    def answered(self, feed: Feed, lane: Any, answer: Answer) -> None:
        """Tell the machine what became of its oldest batch."""
        now_ns, fault = self.agenda.now_ns, answer.fault or SCRIPTED
        match answer.outcome:
            case Outcome.OK:
                lane.succeeded(1, now_ns)
            case Outcome.RESPONDED:
                self.responded(feed, lane, answer, now_ns)
            case Outcome.FAILED | Outcome.TIMED_OUT | Outcome.CRASHED:
                lane.failed(now_ns, fault)
            case Outcome.THROTTLED:
                lane.failed(now_ns, fault, charged=False)
            case Outcome.NOT_RUN:
                lane.returned(1)

    def responded(self, feed: Feed, lane: Any, answer: Answer, now_ns: int) -> None:
        """The handler returned something that has to be judged."""
        verdict, state = self.around.judge(answer.entry, answer.payload)
        fault = answer.fault or REPORTED
        if feed.windowed and state is None:
            verdict = Failed("the response has no state")
        states = {"state": state} if feed.windowed else {}
        match verdict:
            case Whole():
                lane.succeeded(1, now_ns, **states)
            case Partly(done):
                lane.partly(done, now_ns, fault, **states)
            case Failed():
                lane.failed(now_ns, fault)

    def _take_discards(self, feed: Feed) -> None:
        """After anything that may have moved a lane."""
        for index, lane in enumerate(feed.lanes):
            for discarded in lane.take_discards():
                offsets = feed.offsets(index, discarded.first_offset, discarded.records)
                row = Discard(feed.name, offsets, str(discarded.condition), discarded.attempts)
                self.discarded(feed, index, row, discarded)
                self._commit_soon()
        feed.moved()

    def discarded(self, feed: Feed, lane: int, row: Discard, discarded: Discarded) -> None:
        """Records of a lane were given up."""
        feed.give_up(lane, row.offsets, row)

    # ---- checkpoints

    def _commit_soon(self) -> None:
        if not self.commit_is_due and not self.committing:
            self.commit_is_due = True
            self.agenda.after(self.around.gathering_takes_ns(), self._begin_commit)

    def _begin_commit(self) -> None:
        self.commit_is_due = False
        if not self.alive:
            return
        self.committing = True
        feeds = list(self.feeds.values())
        offsets = {feed.name: self.checkpoint_of(feed) for feed in feeds}
        rows: dict[str, list[Discard]] = {}
        for feed in feeds:
            rows[feed.name], feed.discards = feed.discards, []
        windows = {feed.name: window for feed in feeds if (window := feed.window) is not None}
        self.agenda.after(self.around.committing_takes_ns(), lambda: self._commit(feeds, offsets, rows, windows))

    def _commit(
        self,
        feeds: list[Feed],
        offsets: dict[str, int],
        rows: dict[str, list[Discard]],
        windows: dict[str, Window],
    ) -> None:
        """The transaction becomes durable, fails, or is refused; the runtime may be dead by now."""
        self.committing = False
        if not self.alive and self.around.random() < 0.5:
            return
        store = self.around.store
        before, pending = dict(store.offsets), dict(store.windows)
        try:
            store.commit(self.epoch, offsets, self.rows_of(rows), windows)
        except Fenced:
            assert not self.alive
            return
        except DiskFull:
            for feed in feeds:
                feed.discards[:0] = rows[feed.name]
            self.agenda.after(COMMIT_AGAIN_NS, self._commit_soon)
            return
        for name in offsets:
            offset = store.offsets.get(name, 0)
            if offset != before.get(name, 0) or rows[name] or store.windows.get(name) != pending.get(name):
                self.around.committed(self, name, offset, rows[name])
        if self.alive:
            for name, offset in offsets.items():
                self.durable(name, self.finished_to(name, offset))
            if any(self._is_dirty(feed, offsets, windows) for feed in self.feeds.values()):
                self._commit_soon()
            self.serve()

    def rows_of(self, rows: dict[str, list[Discard]]) -> list[Discard]:
        """The discards of a transaction."""
        return [row for each in rows.values() for row in each]

    def _is_dirty(self, feed: Feed, offsets: dict[str, int], windows: dict[str, Window]) -> bool:
        if feed.discards or feed.watermark != offsets.get(feed.name):
            return True
        return feed.window != windows.get(feed.name)

    def durable(self, name: str, offset: int) -> None:
        """A checkpoint is durable."""
        self.lineage.move(name, offset)

    # ---- workers

    def _worker(self) -> ScriptedWorker:
        return ScriptedWorker(self.agenda, self.around.script(self), self.setup.capacity, self.reaped)

    def _replace(self) -> None:
        if self.alive:
            self.workers.append(self._worker())
            self.pump_all()

    def die(self, after_ns: Callable[[], int]) -> None:
        """The runtime is killed.  Its workers may live on for a moment, and so may a commit under way."""
        self.alive = False
        for worker in self.workers:
            self.agenda.after(after_ns(), worker.kill)
