"""An event source mapping at work: what its lanes count and ask for, and when it is done.

A mapping is bound to its name in the state store, owned by one process at a time (a lock, and an epoch under which
every checkpoint is committed), and runs until it is told to drain, has caught up, or has handed over its limit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import trio

from streamfn.core.lane import Lane
from streamfn.core.ranges import Ranges
from streamfn.core.schedule import Schedule
from streamfn.core.tumbling import WindowLane
from streamfn.core.verdict import Discarded, FailurePolicy
from streamfn.errors import FailedError, Fenced, HandlerImportError
from streamfn.events.size import fixed_bytes
from streamfn.events.window import room
from streamfn.limits import RING_CAPACITY, ROLE_ARN
from streamfn.log.shard.gaps import TRIMMED, Gap
from streamfn.mapping.billing import Bill
from streamfn.mapping.delivery import Source
from streamfn.mapping.discarding import call_given_up, discard_of, said_of
from streamfn.mapping.feed import Select, ShardFeed
from streamfn.mapping.feeds import Feeds
from streamfn.mapping.forwarder import Forwarder
from streamfn.mapping.logs import LogLines, Usage
from streamfn.mapping.observing import LastError
from streamfn.mapping.options import RunOptions
from streamfn.mapping.outcome import Outcome
from streamfn.mapping.pace import Pace
from streamfn.mapping.pieces import Span
from streamfn.mapping.poller import Poller
from streamfn.mapping.result import Counts, RunResult
from streamfn.mapping.rules import batch_rules, failure_policy
from streamfn.mapping.source import event_source, source_header
from streamfn.mapping.stages import Stages
from streamfn.mapping.stepping import Decide, Stepper
from streamfn.mapping.tally import Tally
from streamfn.mapping.timeline import Timeline
from streamfn.mapping.wanted import WantedPoller, WantedRows
from streamfn.measure.histogram import new_histogram
from streamfn.state.discards import Discard

if TYPE_CHECKING:
    from streamfn.log.catalog.stream import Shard, Stream
    from streamfn.log.shard.reader import ShardReader
    from streamfn.mapping.lane import ShardLane
    from streamfn.mapping.runtime import Runtime
    from streamfn.mapping.selector import Selector
    from streamfn.pool.function import Function
    from streamfn.pool.lane import Answer
    from streamfn.pool.worker import Worker
    from streamfn.state.owner import Ownership
    from streamfn.state.progress import Progress
    from streamfn.state.store import Binding, StoredMapping
    from streamfn.types import Envelope, Fault, Window

# A batch window that does not end while anybody waits for it.
FAR_NS = 1 << 62

# How long a drain lets lanes that are behind others of their shard catch up.
LEVEL_S = 5.0


class EventSourceMapping:
    """One mapping, owned by this process. Made by `Runtime.mapping`; used by one `run` at a time."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        binding: Binding,
        ownership: Ownership,
        epoch: int,
        stream: Stream,
        function: Function,
        shares_function: bool,
        options: RunOptions,
        logs: LogLines,
        destination: str = "",
        selector: Selector | None = None,
        of: StoredMapping | None = None,
    ) -> None:
        self.runtime = runtime
        self.name: str = binding.mapping.name if of is None else f"redrive of {of.title}"
        self.uuid: str = binding.mapping.uuid
        self.resumed: bool = binding.resumed
        self.stream = stream
        self.function = function
        self.shares_function = shares_function
        self.selector = selector  # the filters; None where everything is delivered
        self.timeout_s = function.config.timeout_s
        self.counts = Counts()  # of this run
        self.earlier = Counts()  # of those before it
        self.last_error: LastError | None = None  # of this run
        self.tally = Tally()
        self.pace = Pace()
        self.latency, self.duration = new_histogram(), new_histogram()
        self.bill = Bill(self.duration, function.config.limits)
        self.durable: dict[str, int] = {}
        self.timeline = Timeline()  # of the present run, as the next two
        self.stages: Stages | None = None
        self.budget: int | None = None
        self.damage: list[FailedError] = []
        # Of each shard the records that a run is about, and nothing else is delivered; None: all. Set between runs.
        self.wanted: Mapping[str, Ranges] | None = None
        self._ownership = ownership
        self._epoch = epoch
        self._rules = batch_rules(options.batch_size, options.maximum_batching_window_in_seconds)
        self._policy = failure_policy(options, runtime.backoff)
        self._factor = options.parallelization_factor
        self.window_ms = options.tumbling_window_in_seconds * 1000  # 0: no tumbling windows
        # Lanes need to know when records arrived.
        self.dated = self._policy.maximum_record_age_ms is not None or bool(self.window_ms)
        self.reports_failures = bool(options.function_response_types)
        self._logs = logs
        self.salvage = options.on_damage == "salvage"  # go on behind damage
        self.destination = destination  # of on-failure records, resolved
        # A mapping that was created says the function's ARN as that was given, with a version or without.
        named = binding.mapping.options.get("FunctionArn") or function.config.settings["function_arn"]
        self._function_arn = str(named)
        source = Source(self.uuid if of is None else of.uuid, stream, ROLE_ARN)
        self._forwarder = Forwarder(self, runtime.data, runtime.store, runtime.disk, source, self._say)
        self._watchers: list[Callable[[Outcome], None]] = []
        self._headers: dict[str, bytes] = {}
        self._feeds = Feeds(self)
        self._over = trio.Event()
        self._deaf = False  # the run was cancelled: what its workers' deaths look like is nobody's business
        self.paused = False  # hand nothing over: one of the next three is so
        self._outrun = False
        self._stepper: Stepper | None = None  # somebody decides about failed batches, and may have stopped at one
        self.once = False  # batches are cut the same in every run, and delivered once
        self.stuck: str | None = None  # why checkpoints cannot be written just now
        self._no_worker: str | None = None  # why, as it was said last
        self._fenced: Fenced | None = None  # another process owns the mapping, for good
        self._why = ""
        self._level_by_ns = math.inf  # until when a drain may hand over what evens the lanes out
        self._first_ns = 0
        self._last_ns = 0

    # ---- running

    async def run(
        self,
        *,
        until_caught_up: bool = False,
        limit: int | None = None,
        ends: Mapping[str, int] | None = None,
        schedule: Schedule | None = None,
        stages: Stages | None = None,
        decide: Decide | None = None,
        once: bool = False,
    ) -> RunResult:
        """Deliver records until caught up, until `limit` records were handed over, or until `drain` is called.

        Caught up means: the committed end of every shard as it was when this began, the last partial batch included,
        with the checkpoints durable. Shards that were split or merged before that are finished before their children; a
        reshard that comes later only adds lanes to a run that follows the stream.

        With `ends` it has caught up where these say: for each shard the offset behind the last record of this run. A
        shard that is not in it is not delivered, and what comes after it in the lineage is. A tumbling window that is
        open where a shard is cut off stays open.

        `decide` is asked about every batch that fails, and the mapping stands still until it has answered, whatever its
        options say of retries and of bisecting; None ends the run in front of that batch. It is not asked where the
        function is not to blame.

        With `once`, for who compares what two functions say of the same records, batches are cut the same however fast
        the log is read: full ones, and what is left where a shard ends. A failed one is discarded without a word.

        With a `schedule` records are handed over when they are due by that and not before, and everything that counts
        from a record's arrival counts from then: its age, its tumbling window (one under a schedule that waits for
        nothing stays as it was recorded, and then nothing is too old), iterator age, latency. `stages` are the
        histograms that the run is recorded in; under a schedule there are some in any case.

        Cancellation: stops at once: workers in the middle of one of this mapping's batches are killed and replaced.
        What was completed and not yet committed is delivered again by the next run.

        Raises:
            LogDamaged: a shard is damaged; the other shards were served to the end before.
            Fenced: another process has taken the mapping over; what ran was waited for.
        """
        if self._fenced is not None:
            raise self._fenced
        self._over, self._why, self._deaf, self.damage = trio.Event(), "", False, []
        self.count_anew()
        self.last_error, self.budget = None, limit
        self.timeline = Timeline(schedule, windows=bool(self.window_ms))
        self.stages = stages or (Stages() if schedule is not None else None)
        self._first_ns = self._last_ns = 0
        self._level_by_ns = math.inf
        self.stuck, self.paused = None, self._outrun  # an earlier run may have been cancelled while it waited for room
        self._stepper = None if decide is None else Stepper(self, decide)
        self.once = once
        self._feeds = Feeds(self)
        try:
            self.runtime.adopt(self)
            await self._forwarder.open(self.destination)
            self._forwarder.stir()  # an earlier run may have left something
            await self._feeds.open(until_caught_up=until_caught_up, ends=ends)
            self.look()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._forwarder.run)
                if self._stepper is not None:
                    nursery.start_soon(self._stepper.run)
                self.timeline.begin(self.now_ns(), self.time_ms())
                self._feeds.start(nursery)
                await self._over.wait()
                await self._level()
                await self._finish()
                nursery.cancel_scope.cancel()
        finally:
            if self._feeds.busy:
                self._deaf = True
                await self._feeds.abandon()
            self._feeds.close()
            self.runtime.release(self)
        if self._fenced is not None:
            raise self._fenced
        if self.damage:
            raise self._failure()
        return self.result()

    def count_anew(self) -> None:
        """What was counted so far is an earlier run's from now on."""
        self.earlier += self.counts
        self.counts = Counts()

    def _say(self, text: str) -> None:
        self.runtime.say(f"{self.name}: {text}")

    def _failure(self) -> FailedError:
        """Everything that is damaged, as one error."""
        first, *more = self.damage
        return type(first)("; ".join([str(first), *map(str, more)])) if more else first

    def drain(self, level_s: float = LEVEL_S) -> None:
        """Stop at a batch edge: hand over nothing more, wait for what runs, never for a retry.

        Where a shard has several lanes, those that are behind go on up to where the furthest one is, so that the next
        run repeats nothing: for `level_s` seconds at most. Called again, the earlier end of that holds.
        """
        self._level_by_ns = min(self._level_by_ns, self.now_ns() + level_s * 1e9)
        self._end("drained")

    def result(self) -> RunResult:
        """What was done so far."""
        seconds = (self._last_ns - self._first_ns) / 1e9 if self._first_ns and self._last_ns else 0.0
        return RunResult(
            **asdict(self.counts),
            seconds=max(0.0, seconds),
            why=self._why,
            resumes_at=dict(self.durable),
            on_failure_pending=self._forwarder.left,
            open_windows=self._feeds.open_windows,
            **self.bill.total()._asdict(),
        )

    @property
    def on_failure_pending(self) -> int:
        """On-failure records that their destinations do not take just now."""
        return self._forwarder.left

    @property
    def span_ns(self) -> tuple[int, int]:
        """First hand-over and last durable checkpoint of this run, on the monotonic clock; 0 where there was none."""
        return self._first_ns, self._last_ns

    async def _level(self) -> None:
        """Of a run that is drained, let lanes that are behind others of their shard catch up with them."""
        if self._why != "drained" or self.paused:
            return
        for feed in self.feeds:
            feed.level()
        while self.now_ns() < self._level_by_ns and not all(feed.is_level for feed in self.feeds):
            if self.paused or self._fenced is not None:
                return
            has_none = self.function.fault is not None and not self.function.workers
            if not self._feeds.busy and (self.budget == 0 or has_none):
                return  # nothing more may go, or there may never be a worker
            await self.runtime.next_round()

    async def _finish(self) -> None:
        """Take back what is staged, wait for what runs, make the last checkpoints durable, carry what was discarded."""
        self._feeds.drain()
        while self._feeds.busy:
            await self.runtime.next_round()
        if self.tally.pending() is not None:
            self.runtime.checkpointer.stir(self.uuid)
        await self.runtime.checkpointer.flush()
        if self._fenced is None:
            try:
                await self._forwarder.finish()
            except Fenced as error:
                self.fenced(error)

    def _end(self, why: str) -> None:
        if not self._why:
            self._why = why
            self._over.set()

    def look(self) -> None:
        """End the run if what it was asked for is done."""
        if self._why:
            return
        if self._feeds.over:
            self._end("damage" if self.damage else "caught up")
        elif self.budget == 0 and all(lane.machine.watermark >= lane.high for lane in self.lanes):
            self._end("limit")

    @property
    def ending(self) -> bool:
        """Nothing more is begun."""
        return bool(self._why)

    @property
    def feeds(self) -> list[ShardFeed]:
        """The shards that are open now."""
        return self._feeds.active

    @property
    def lanes(self) -> list[ShardLane]:
        """The lanes of those shards."""
        return [lane for feed in self._feeds.active for lane in feed.lanes]

    @property
    def remaining(self) -> int:
        """How many records are left, those of shards that wait for others included, as far as it is known."""
        return self._feeds.remaining

    @property
    def lag(self) -> int:
        """How many records wait now; all that remain, unless the run is paced: see `ShardFeed.lag`."""
        return sum(feed.lag for feed in self.feeds) if self.timeline.paced else self.remaining

    def make_feed(self, shard: Shard, reader: ShardReader, window: Window | None = None) -> ShardFeed:
        """A feed that goes on where the reader stands, and in the window that was committed with that offset."""
        start, now = reader.position, self.now_ns()
        machines: list[Lane] | list[WindowLane]
        policy = replace(self._policy, asks=self._stepper is not None)
        rules = self._rules
        if self.once:
            policy, rules = FailurePolicy(maximum_retry_attempts=0), replace(rules, window_ns=FAR_NS)
        if self.window_ms:
            machines = [self._make_window_lane(shard, policy, start, window)]
        else:
            machines = [Lane(rules, policy, start, now, self.runtime.random) for _ in range(self._factor)]
        fixed = fixed_bytes(event_source(self.stream, shard, ROLE_ARN))
        selector: Select | None = None if self.selector is None else self.selector.shard(self.source_header(shard))
        if self.wanted is None:
            poller = Poller(reader, fixed, sized=selector is None)
        else:
            wanted = self.wanted.get(shard.id, Ranges())
            poller, selector = WantedPoller(reader, fixed, wanted), WantedRows(wanted, selector)
        schedule = None if self.timeline.schedule is None else self.timeline.schedule.shard(shard.id)
        return ShardFeed(self, shard, machines, poller, start, selector, schedule)

    def _make_window_lane(self, shard: Shard, policy: FailurePolicy, start: int, window: Window | None) -> WindowLane:
        rules = self._rules
        # Room for the largest state, whatever the present one has: what was cut fits with any state it is tried with.
        rules = replace(rules, frame_bytes=rules.frame_bytes + room(shard.id, self.stream.arn))
        random, length_ms = self.runtime.random, self.window_ms
        if self.timeline.keeps_arrivals:
            policy = replace(policy, maximum_record_age_ms=None)
        return WindowLane(rules, policy, start, self.now_ns(), random, length_ms=length_ms, window=window)

    def resharded(self) -> None:
        """The stream is described anew."""
        self._feeds.wake()

    # ---- what lanes ask and tell

    @property
    def batch_size(self) -> int:
        """Records in a batch, at most."""
        return self._rules.batch_size

    def now_ns(self) -> int:
        """The runtime's monotonic clock."""
        return time.monotonic_ns()

    def time_ms(self) -> int:
        """The present, in milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000

    def record_ms(self) -> int | None:
        """The present that the age of a record is counted to; None where nobody asks for it."""
        if not self.dated:
            return None
        return self.time_ms() if self.timeline.schedule is None else self.timeline.ms_at(self.now_ns())

    def choose_worker(self, lane: ShardLane) -> Worker | None:
        """A ready worker for the lane; None while there is none: see `Function.choose`."""
        return self.function.choose(lane)

    def fewest_lanes(self) -> int:
        """Of all workers where a lane could sit down, the number of lanes on the one with the fewest."""
        free = (worker.lanes for worker in self.function.workers if not worker.is_held_up)
        return min(free, default=RING_CAPACITY)

    def spend(self, records: int) -> None:
        """These many records are handed over for the first time."""
        if not self._first_ns:
            self._first_ns = self.now_ns()
        if self.budget is not None:
            self.budget -= records

    @property
    def observed(self) -> bool:
        """Somebody wants every invocation's own answer."""
        return bool(self._watchers) or self._logs.which == "all"

    def watch(self, watcher: Callable[[Outcome], None]) -> Callable[[], None]:
        """Call `watcher` with every outcome from now on; returns what stops it."""
        self._watchers.append(watcher)
        for worker in self.function.workers:
            worker.fold = False
        return lambda: self._unwatch(watcher)

    def _unwatch(self, watcher: Callable[[Outcome], None]) -> None:
        self._watchers.remove(watcher)
        self.runtime.fold(self.function)

    def pause(self) -> None:
        """Hand nothing over until `resume`: a watcher cannot keep up."""
        self._outrun = self.paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        self._outrun = False
        self.go_on()

    def stopped(self, lane: ShardLane) -> None:
        """A batch of the lane waits for a decision: nothing is handed over before. A run that is ending asks nobody."""
        assert self._stepper is not None, "nobody decides about failed batches"
        if self.ending:
            return
        self.timeline.stand(self.now_ns())
        self.paused = True
        self._stepper.stop(lane)

    @property
    def stands(self) -> bool:
        """Whether somebody is being asked about a failed batch: the clock of a schedule stands still meanwhile."""
        return self._stepper is not None and self._stepper.stopped

    def stop(self) -> None:
        """End in front of the batch that somebody was asked about; nothing more is handed over."""
        self._end("stopped")

    def go_on(self) -> None:
        """Hand over again, unless there is another reason left not to."""
        if not self.stands and (stood_ns := self.timeline.go_on(self.now_ns())):
            for feed in self.feeds:
                feed.delay(stood_ns)
        if self.paused and not self._outrun and self.stuck is None and not self.stands:
            self.paused = False
            for feed in self.feeds:
                feed.wake()

    def succeeded(self, batches: int, records: int) -> None:
        """A lane moved on over `batches` batches, of so many records together."""
        self.counts.batches += batches
        self.counts.records += records
        self.tally.succeeded(records)
        self.pace.done(batches, self.now_ns(), sum(worker.lanes > 0 for worker in self.function.workers))

    def moved(self, feed: ShardFeed) -> None:
        """The shard's watermark moved: its checkpoint follows."""
        if self.stages is not None:
            self.stages.moved(feed.shard.id, feed.watermark, self.now_ns())
        self.runtime.checkpointer.moved(self.uuid, feed.shard.id, feed.watermark, None, feed.window)
        if feed.finished or self.budget == 0:
            self.look()

    def discarded(
        self, shard_id: str, gone: Discarded, spans: list[Span], request_id: str, *, unhandled: bool
    ) -> Discard:
        """A lane of the shard gave these records up: said and counted; give what is returned to `keep`.

        `request_id` is that of the lane's last invocation that failed, `unhandled` whether it did by an error.
        """
        self.counts.discarded += gone.records
        if not self.destination:
            self.tally.dropped += gone.records
        discard = discard_of(
            shard_id,
            gone,
            spans,
            unhandled=unhandled,
            request_id=request_id if gone.attempts else None,
            function_arn=self._function_arn,
            destination=self.destination,
            now_ms=self.time_ms(),
        )
        if not self.once:
            self._say(said_of(discard, gone))
        return discard

    def gave_up(self, shard_id: str, offset: int, gone: Discarded, told: Envelope) -> Discard:
        """The call of a window has used up its retries: said and counted; give what is returned to `keep`.

        It had no records, so Lambda's on-failure record, which is about a batch, has nothing to say of it.
        """
        self.counts.windows_given_up += 1
        discard = call_given_up(shard_id, offset, gone, told)
        self._say(f"{shard_id} gives up the {discard.detail}")
        return discard

    def keep(self, discard: Discard) -> None:
        """Make it durable with the checkpoint that passes it: before the shard is said to have moved."""
        self.runtime.checkpointer.discarded(self.uuid, discard)

    def filtered(self, records: int) -> None:
        """These many records were looked at, and are not wanted."""
        self.counts.filtered += records
        self.tally.filtered_out += records

    def records_in(self, shard_id: str, first: int, end: int) -> int:
        """How many records this run is about lie between two offsets of a shard."""
        if self.wanted is None:
            return max(0, end - first)
        return self.wanted[shard_id].count(first, end) if shard_id in self.wanted else 0

    def skipped(self, feed: ShardFeed, gap: Gap) -> None:
        """The shard's watermark moved over records that are gone: said, counted, and durable with the checkpoint."""
        records = self.records_in(feed.shard.id, gap.first_offset, gap.end_offset)
        if records:
            self._lose(feed, gap, records)
        self.runtime.checkpointer.moved(self.uuid, feed.shard.id, gap.end_offset, None, feed.window)
        if feed.finished:
            self.look()

    def _lose(self, feed: ShardFeed, gap: Gap, records: int) -> None:
        if gap.why == TRIMMED:
            self.counts.trimmed += records
        else:
            self.counts.lost += records
        where = f"{feed.shard.id} goes on at offset {gap.end_offset}"
        self.runtime.say(f"{self.name}: {where}; {records} records are gone, {gap}")
        ranges = Ranges([(gap.first_offset, gap.end_offset)])
        if self.wanted is not None:
            ranges = self.wanted[feed.shard.id].clipped(gap.first_offset, gap.end_offset)
        for first, end in ranges:
            discard = Discard(feed.shard.id, first, end, gap.why, str(gap))
            self.runtime.checkpointer.discarded(self.uuid, discard)

    def failed(self, shard_id: str, offset: int, records: int, fault: Fault) -> None:
        """An invocation with the batch at this offset failed on so many records."""
        self.counts.errors += 1
        self.last_error = LastError(shard_id, offset, f"{fault.error_type}: {fault.message}", self.now_ns())
        if self.tally.failed(records):
            self.runtime.checkpointer.stir(self.uuid)  # a handler that always fails moves no checkpoint

    def report(self, outcome: Outcome, answer: Answer, worker: Worker) -> None:
        """An invocation ended that printed, failed or is watched."""
        if self._deaf:
            return
        if answer.log or answer.log_dropped or outcome.fault is not None or self._logs.wants(outcome.invocation):
            self._logs.ended(
                outcome.invocation,
                self.request_id(outcome.invocation),
                answer.log,
                duration_ns=max(0, outcome.finished_ns - outcome.started_ns),
                fault=outcome.fault,
                usage=Usage.of(worker, answer),
                dropped=answer.log_dropped,
            )
        for watcher in self._watchers:
            watcher(outcome)

    def printed(self, invocation: int, log: bytes) -> None:
        """A running invocation wrote something."""
        self._logs.partial(invocation, self.request_id(invocation), log)

    def look_after_workers(self) -> None:
        """Say why there are no new workers, when an Init fails that is not the first; the pool tries again."""
        fault = self.function.fault
        if (None if fault is None else str(fault)) == self._no_worker:
            return
        self._no_worker = None if fault is None else str(fault)
        if isinstance(fault, HandlerImportError):
            self._logs.init_failed(fault)
        if fault is not None:
            self.runtime.say(f"{self.name} gets no new worker, and tries again: {fault}")

    def request_id(self, invocation: int) -> str:
        """The request id that the handler saw."""
        return self.runtime.pool.request_id(invocation)

    def source_header(self, shard: Shard) -> bytes:
        """What a worker needs to know of a segment's shard to build events, as JSON."""
        header = self._headers.get(shard.id)
        if header is None:
            header = self._headers[shard.id] = source_header(self.stream, shard, ROLE_ARN)
        return header

    def retire(self, segment_id: int) -> None:
        """No batch can need the segment any more: workers let their mappings go."""
        for worker in self.function.workers:
            if worker.knows(segment_id):
                worker.let_go(segment_id)

    # ---- what the checkpointer tells

    @property
    def epoch(self) -> int:
        """The epoch under which this owner commits."""
        return self._epoch

    def own(self, epoch: int) -> None:
        """Commit under this epoch, which is this owner's too, from now on; not while it runs."""
        self._epoch = epoch

    def progress(self) -> Progress | None:
        """What it has done that is not in the store yet."""
        return self.tally.pending()

    def counted(self, progress: Progress) -> None:
        """That is in the store now."""
        self.tally.written(progress)

    def committed(self, shard_id: str, offset: int, window: Window | None) -> None:
        """A checkpoint is durable, and with it where the shard's tumbling windows are."""
        self.durable[shard_id] = offset
        self._feeds.committed(shard_id, offset, window)
        self._last_ns = self.now_ns()
        if self.stages is not None:
            self.stages.committed(shard_id, offset, self._last_ns)

    def kept(self) -> None:
        """Discards are durable."""
        self._forwarder.stir()

    def stall(self, why: str) -> None:
        """Checkpoints cannot be written just now: hand nothing over until `recover`."""
        if self.stuck is None:
            self.runtime.say(f"{self.name} pauses, and goes on by itself: {why}")
        self.stuck = why
        self.paused = True

    def recover(self) -> None:
        """Go on after `stall`."""
        if self.stuck is not None:
            self.stuck = None
            self.runtime.say(f"{self.name} goes on")
            self.go_on()

    def fenced(self, error: Fenced) -> None:
        """Another owner has taken the mapping over: end at a batch edge, with that error."""
        self._fenced = error
        self._end("fenced")

    def close(self) -> None:
        """Give the mapping up: another process may own it from now on."""
        self._ownership.release()
