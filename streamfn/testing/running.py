"""One call that runs a mapping over given records in virtual time, through the machines of production."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from math import inf
from random import Random
from typing import Any

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules
from streamfn.core.rising import risen
from streamfn.core.schedule import Recorded
from streamfn.core.verdict import Discarded as CoreDiscarded
from streamfn.core.verdict import FailurePolicy
from streamfn.errors import RefusedError
from streamfn.events import arrow, window
from streamfn.events.failure_record import failure_record
from streamfn.events.size import EVENT_FRAME_BYTES
from streamfn.limits import EVENT_BYTES_MAX, FILTERS_MAX_DEFAULT
from streamfn.mapping import calling
from streamfn.mapping.options import FOR_EVER, RunOptions, validate
from streamfn.mapping.request import patterns_of
from streamfn.testing.builders import function_arn
from streamfn.testing.clock import NS_PER_MS, NS_PER_S, Agenda, VirtualClock
from streamfn.testing.engine import COMMIT_DELAY_NS, Engine, Feed, Judged, Setup
from streamfn.testing.invoking import FunctionSetup, InEnvironment, InProcess, judge
from streamfn.testing.memory import Discard, MemoryStore
from streamfn.testing.pool import Entry
from streamfn.testing.results import Checkpoint, Discarded, MappingResult
from streamfn.testing.scripts import Script
from streamfn.testing.stream import Given, MemoryStream, time_ms
from streamfn.types import Failure

DAY_S = 86_400


def run_mapping(
    handler: Callable[..., Any] | Script,
    records: Given,
    *,
    batch_size: int = 100,
    maximum_batching_window_in_seconds: int = 0,
    parallelization_factor: int = 1,
    maximum_retry_attempts: int = FOR_EVER,
    maximum_record_age_in_seconds: int = FOR_EVER,
    bisect_batch_on_function_error: bool = False,
    function_response_types: Iterable[str] = (),
    tumbling_window_in_seconds: int = 0,
    filter_criteria: Mapping[str, Any] | None = None,
    filters_max: int = FILTERS_MAX_DEFAULT,
    parents: Mapping[str, Sequence[str]] | None = None,
    retention_seconds: float | None = None,
    timeout_seconds: float = 3.0,
    memory_limit_in_mb: int = 128,
    function_name: str = "handler",
    stream: str = "stream",
    speed: float | None = None,
    clock: VirtualClock | None = None,
    backoff: Backoff | None = None,
    seed: int = 0,
    max_seconds: float = DAY_S,
) -> MappingResult:
    """Run a mapping until everything is done and checkpointed, or `max_seconds` of virtual time have passed.

    The machines that batch, retry, split, discard, filter, carry state and move checkpoints are those of production;
    the handler is called in this process, with the events and a context as in production, one invocation of a lane at
    a time.
    Nothing is waited for, and the same arguments give the same result.

    Args:
        handler: any handler that streamfn runs (docs/handlers.md), or a `Script`.  It takes virtual time by
        `clock.sleep`, or `asyncio.sleep` if it is async; SystemExit ends its process.
        records: records of one shard, or a mapping from shard ids to records: bytes, text, JSON objects, `NewRecord`
            (see `record`) or `NewChange` (see `change`).  One whose arrival time lies behind the clock's arrives then,
            and the following ones not before it.
        parents: by child, the ids of the shards it was made of; they are closed, each behind its last record.
        retention_seconds: records older than that are trimmed, delivered or not; None: none is.
        timeout_seconds: of the function.
        speed: replay them: they come as far apart as they arrived, or so many times as fast, the first of them at once;
            and ages, windows and retention count from when they come.  None: they come when they arrive.
        clock: the virtual clock to run on, for handlers that take time; None: a new one.
        backoff: the pace of retries; None: production's.
        seed: of the backoff's jitter.
        max_seconds: a day, unless said, which is as long as Kinesis keeps records by default.

    All other options are those of Lambda's event source mappings, in the library's words, checked as in production:
    `filter_criteria` is `{"Filters": [{"Pattern": JSON text}]}`.

    Raises:
        RefusedError: an option is out of its range, a filter pattern is not valid, or the handler cannot be called.
    """
    if not isinstance(handler, Script) and not callable(handler):
        raise RefusedError(
            f"a handler is a function or something else that can be called, or a Script, not {handler!r}"
        )
    if isinstance(function_response_types, str):
        raise RefusedError(f"option function_response_types takes a list of texts, not {function_response_types!r}")
    options = RunOptions(
        handler="tests.handler",
        stream=stream,
        batch_size=batch_size,
        maximum_batching_window_in_seconds=maximum_batching_window_in_seconds,
        parallelization_factor=parallelization_factor,
        maximum_retry_attempts=maximum_retry_attempts,
        maximum_record_age_in_seconds=maximum_record_age_in_seconds,
        bisect_batch_on_function_error=bisect_batch_on_function_error,
        function_response_types=tuple(function_response_types),
        tumbling_window_in_seconds=tumbling_window_in_seconds,
        filters=patterns_of(filter_criteria or {}),
        filters_max=filters_max,
    )
    if speed is not None and not 0 < speed < inf:
        raise RefusedError(f"option speed takes a number above 0, such as 10, not {speed!r}")
    if tumbling_window_in_seconds and not isinstance(handler, Script) and calling.marked(handler, arrow.MARK):
        raise RefusedError(arrow.WINDOWED)
    clock = VirtualClock() if clock is None else clock
    validate(options, now_ms=clock.unix_ms())
    function = FunctionSetup(
        handler=handler,
        name=function_name,
        timeout_seconds=timeout_seconds,
        memory_limit_in_mb=memory_limit_in_mb,
        windowed=tumbling_window_in_seconds > 0,
        reports_failures=bool(options.function_response_types),
    )
    run = _Run(records, options, function, clock, parents or {}, backoff or Backoff(), seed, speed)
    run.keep_for(retention_seconds)
    try:
        return run.until(max_seconds)
    finally:
        run.end_workers()


class _Run:
    """The surroundings (`engine.Surroundings`) of one mapping that is run once."""

    def __init__(
        self,
        records: Given,
        options: RunOptions,
        function: FunctionSetup,
        clock: VirtualClock,
        parents: Mapping[str, Sequence[str]],
        backoff: Backoff,
        seed: int,
        speed: float | None,
    ) -> None:
        self.clock = clock
        self.agenda = Agenda(clock)
        self.stream = MemoryStream(records, name=options.stream, start_ms=clock.unix_ms())
        self.stream.compile(options.filters)
        self.logs = self.stream.logs
        self.store = MemoryStore(dict.fromkeys(self.logs, 0))
        self.random = Random(seed).random
        self.checkpoints: list[Checkpoint] = []
        self.discards: list[Discarded] = []
        self._options = options
        self._function = function
        self._parents = parents
        unknown = {name for child, names in parents.items() for name in [child, *names]} - self.logs.keys()
        if unknown:
            raise RefusedError(f"parents speaks of shards that there are no records of: {', '.join(sorted(unknown))}")
        self._closed = {name for names in parents.values() for name in names}
        self._start_ns = clock.monotonic_ns()
        self._worker = InProcess(self.stream, clock, function, self._start_ns)
        self._told: dict[Discard, CoreDiscarded] = {}
        self._arrivals(speed)
        self._engine = _RecordingEngine(self, self._setup(backoff))

    def _setup(self, backoff: Backoff) -> Setup:
        options = self._options
        age_s, retries = options.maximum_record_age_in_seconds, options.maximum_retry_attempts
        windowed = options.tumbling_window_in_seconds > 0
        extra = max((window.room(shard, self.stream.arn) for shard in self.logs), default=0) if windowed else 0
        rules = BatchRules(
            batch_size=options.batch_size,
            window_ns=options.maximum_batching_window_in_seconds * NS_PER_S,
            event_bytes_max=EVENT_BYTES_MAX,
            frame_bytes=EVENT_FRAME_BYTES + extra,
        )
        policy = FailurePolicy(
            backoff=backoff,
            maximum_retry_attempts=None if retries == FOR_EVER else retries,
            maximum_record_age_ms=None if age_s == FOR_EVER else age_s * 1000,
            bisect=options.bisect_batch_on_function_error,
        )
        return Setup(
            rules,
            policy,
            factor=options.parallelization_factor,
            window_ms=options.tumbling_window_in_seconds * 1000,
            filtered=bool(options.filters),
            workers=len(self.logs) * options.parallelization_factor,
        )

    # ---- records

    def _arrivals(self, speed: float | None) -> None:
        """See to it that every record arrives when it should, in the order in which it was given."""
        start_ms = self.clock.unix_ms()
        times = {shard: [time_ms(one) for one in stored] for shard, stored in self.stream.stored.items()}
        if speed is None:
            self._counted = times
            due = {shard: [max(0, at - start_ms) * NS_PER_MS for at in mine] for shard, mine in times.items()}
        else:
            times = {shard: list(risen(mine)) for shard, mine in times.items()}
            recorded = Recorded(min((mine[0] for mine in times.values() if mine), default=0), speed)
            due = {shard: list(recorded.shard(shard).due(0, mine)) for shard, mine in times.items()}
            self._counted = {shard: [start_ms + at_ns // NS_PER_MS for at_ns in mine] for shard, mine in due.items()}
        for shard, mine in due.items():
            for offset, at_ns in enumerate(accumulate(mine, max)):
                if at_ns:
                    self.agenda.after(at_ns, lambda shard=shard, offset=offset: self._arrive(shard, offset))  # type: ignore[misc]
                else:
                    self.stream.arrive(shard, offset, self._counted[shard][offset])

    def _arrive(self, shard: str, offset: int) -> None:
        self.stream.arrive(shard, offset, self._counted[shard][offset])
        if not self._is_complete(shard) or shard not in self._closed:
            self._engine.pump_all()
        else:
            self._engine.learn()

    def _is_complete(self, shard: str) -> bool:
        return self.logs[shard].end_offset == len(self.stream.stored[shard])

    def keep_for(self, seconds: float | None) -> None:
        """Trim records when they are older than that."""
        if seconds is None:
            return
        for shard, counted in self._counted.items():
            for offset, arrived_ms in enumerate(counted):
                at_ms = max(0, arrived_ms + int(seconds * 1000) - self.clock.unix_ms())
                self.agenda.after(at_ms * NS_PER_MS, lambda shard=shard, offset=offset: self._trim(shard, offset + 1))  # type: ignore[misc]

    def _trim(self, shard: str, offset: int) -> None:
        self.logs[shard].trim(offset)
        self._engine.pump_all()

    # ---- engine.Surroundings

    def parents(self, shard: str) -> Sequence[str]:
        """As they were given."""
        return self._parents.get(shard, ())

    def end(self, shard: str) -> int | None:
        """Where a parent ends, once all of it is there."""
        return self.logs[shard].end_offset if shard in self._closed and self._is_complete(shard) else None

    def lane(self, shard: str, offset: int) -> int:
        """By partition key, or by item."""
        return self.stream.lane(shard, offset, self._options.parallelization_factor)

    def wanted(self, shard: str, offset: int) -> bool:
        """As the patterns say."""
        return self.stream.wanted(shard, offset)

    def judge(self, entry: Entry, payload: bytes) -> Judged:
        """As production judges."""
        return judge(self.stream, self._function, entry, payload)

    def script(self, engine: Engine) -> InEnvironment:
        """All workers write into one list."""
        return self._worker.environment()

    def committing_takes_ns(self) -> int:
        """No time."""
        return 0

    def gathering_takes_ns(self) -> int:
        """As long as in production."""
        return COMMIT_DELAY_NS

    def replacing_takes_ns(self) -> int:
        """No time: Lambda has another environment at once."""
        return 0

    def told(self, row: Discard, discarded: CoreDiscarded) -> None:
        """Remember why, for when the row is durable."""
        self.discards.append(self._described(row, discarded))

    def committed(self, engine: Engine, shard: str, offset: int, discards: Sequence[Discard]) -> None:
        """Write a checkpoint down."""
        self.checkpoints.append(Checkpoint(shard, offset, self._now()))

    def _described(self, row: Discard, discarded: CoreDiscarded) -> Discarded:
        numbers = self.stream.sequence_numbers(row.shard, row.offsets)
        times = [time_ms(self.stream.stored[row.shard][offset]) for offset in row.offsets] or [0]
        request = self._worker.requests.get((row.shard, row.offsets[0])) if row.offsets else None
        failure = Failure(
            attempts=row.attempts,
            request_id=request or str(uuid.UUID(int=len(self.discards), version=4)),
            function_arn=function_arn(self._function.name),
            function_error="Unhandled" if discarded.fault is not None and discarded.fault.document else None,
            records=len(numbers),
            first_sequence_number=numbers[0] if numbers else "",
            last_sequence_number=numbers[-1] if numbers else "",
            first_arrival_ms=times[0],
            last_arrival_ms=times[-1],
            time_ms=self.clock.unix_ms(),
        )
        record = failure_record(
            failure, condition=row.condition, kind=self.stream.kind, stream_arn=self.stream.arn, shard_id=row.shard
        )
        return Discarded(
            shard_id=row.shard,
            sequence_numbers=numbers,
            condition=row.condition,
            attempts=row.attempts,
            at=self._now(),
            failure_record=record,
        )

    def _now(self) -> float:
        return (self.clock.monotonic_ns() - self._start_ns) / 1e9

    # ---- the run

    def until(self, max_seconds: float) -> MappingResult:
        """Let time pass until everything is done, or there is no more time."""
        end_ns = self._start_ns + int(max_seconds * NS_PER_S)
        caught_up = self.agenda.run(end_ns, self._is_done)
        return MappingResult(self._worker.batches, self.discards, self.checkpoints, caught_up, self._now())

    def end_workers(self) -> None:
        """They end with the runtime."""
        self._worker.end()

    def _is_done(self) -> bool:
        engine, store = self._engine, self.store
        if engine.commit_is_due or engine.committing:
            return False
        if any(store.offsets[shard] < len(stored) for shard, stored in self.stream.stored.items()):
            return False
        if any(each.state is not None for each in store.windows.values()):
            return False
        return all(engine.is_idle(feed) for feed in engine.feeds.values())


class _RecordingEngine(Engine):
    """Tells the run of what is given up, while why is known."""

    around: _Run

    def discarded(self, feed: Feed, lane: int, row: Discard, discarded: CoreDiscarded) -> None:
        self.around.told(row, discarded)
        super().discarded(feed, lane, row, discarded)
