"""One measured run: a mapping delivers records, and meanwhile somebody looks.

    run:      |── warm-up ──|──────────── measured ────────────|── what is left ──|
    marks:                  begin   tick   tick   tick   ...  end

Rates and processor time are those from `begin` to `end`. Latencies and stages are of the records that were due (without
a schedule: submitted) after `begin`, whenever they were finished: those that are late at the end are waited for, so
that what is slow is not left out. A tick is a copy of the latency histogram, some tens of microseconds on the thread
that also reaps; what was recorded between two of them is worked out when the run is over.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import trio

from streamfn.benchmark.part import Part
from streamfn.benchmark.plan import Load
from streamfn.benchmark.processes import Used, Watch
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.result import RunResult
from streamfn.mapping.stages import STAGES, Stages
from streamfn.measure.counts import Counts, copied
from streamfn.measure.noise import Others
from streamfn.measure.result import Row, Sample

TICK_S = 0.1
TICKS_MAX = 100  # a copy is 272 KiB: of a long run the ticks become longer, and there are no more of them
# Without a schedule the warm-up ends at the latest with this part of the records: there may be few.
_WARM_PART = 0.1
# How often memory and context switches are looked at.
_LOOK_S = 0.5
# How exactly the moment is seen at which the last record is finished.
_NEAR_S = 0.001
# What is on its way at the end belongs to the measured time, which may be longer by that.
_SLACK_NS, _SLACK_PART = 20_000_000, 0.02
# Records that are late at the end are waited for as long as was measured, and at least this long.
_GRACE_S = 5.0
_NEVER = 2**62
# A p99 is missed when this part of the records is over the limit.
_P99_PART = 0.01


class _Mark(NamedTuple):
    at_ns: int
    records: int
    batches: int
    errors: int
    discarded: int
    cpu_s: float
    others: float | None
    latency: bytes


@dataclass(slots=True)
class Measured:
    """What one run came to.

    `latency` and `stages` are histograms in nanoseconds. `overdue` are records that were due and not finished when the
    run was given up: what they had waited until then is in `latency`, as what it will be at least. `cold_starts` has
    for each worker's pid how long its Init took, in nanoseconds; peaks are in bytes. `begun_s` is when the measurement
    began, in seconds since 1970, `cut_short` says that it was ended before its time, `last_error` what the last failed
    invocation said.
    """

    result: RunResult
    seconds: float
    records: int
    batches: int
    errors: int
    discarded: int
    latency: Counts
    stages: Mapping[str, Counts]
    samples: Sequence[Sample]
    cold_starts: Mapping[int, int]
    runtime: Used
    workers: Used
    runtime_peak: int
    workers_peak: int
    overdue: int
    begun_s: float
    cut_short: bool = False
    last_error: str = ""

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds if self.seconds else 0.0

    def numbered(self, run: int) -> Measured:
        """The same, with samples that say which run of its row it was."""
        return replace(self, samples=[replace(sample, run=run) for sample in self.samples])

    @classmethod
    def joined(cls, runs: Sequence[Measured]) -> Measured:
        """Several runs, one after the other, as one."""
        first, *_, last = [*runs, runs[-1]]
        return cls(
            result=last.result,
            seconds=sum(run.seconds for run in runs),
            records=sum(run.records for run in runs),
            batches=sum(run.batches for run in runs),
            errors=sum(run.errors for run in runs),
            discarded=sum(run.discarded for run in runs),
            latency=Counts.merged(run.latency for run in runs),
            stages={name: Counts.merged(run.stages[name] for run in runs) for name in first.stages},
            samples=[sample for run in runs for sample in run.samples],
            cold_starts={pid: init_ns for run in runs for pid, init_ns in run.cold_starts.items()},
            runtime=Used.sum(run.runtime for run in runs),
            workers=Used.sum(run.workers for run in runs),
            runtime_peak=max(run.runtime_peak for run in runs),
            workers_peak=max(run.workers_peak for run in runs),
            overdue=sum(run.overdue for run in runs),
            begun_s=first.begun_s,
            cut_short=last.cut_short,
            last_error=next((run.last_error for run in reversed(runs) if run.last_error), ""),
        )

    def row(self, **what: Any) -> Row:
        """A row of a result; `what` is what the run was told."""
        both = self.runtime.plus(self.workers)
        return Row(
            records=self.records,
            batches=self.batches,
            errors=self.errors,
            discarded=self.discarded,
            seconds=self.seconds,
            latency=self.latency,
            stages=self.stages,
            cold_starts=Counts.of_values(self.cold_starts.values()),
            runtime_cpu_s=self.runtime.cpu_s,
            workers_cpu_s=self.workers.cpu_s,
            context_switches={"voluntary": both.voluntary, "involuntary": both.involuntary},
            page_faults={"minor": both.minor, "major": both.major},
            peak_memory_bytes={"runtime": self.runtime_peak, "workers": self.workers_peak},
            samples=self.samples,
            **what,
        )


class Measurement:
    """One run of a mapping that has just been opened at `part.starts`, under a load; `run` it once.

    With `limit_ns` the run is given up as soon as its p99 is certain to be above.
    """

    def __init__(
        self, mapping: EventSourceMapping, load: Load, part: Part, *, limit_ns: int | None = None
    ) -> None:
        self._mapping = mapping
        self._load = load
        self._part = part
        self._limit_ns = limit_ns
        self._schedule = part.schedule(load)
        self._stages = Stages()
        self._watch = Watch()
        self._others = Others()
        self._marks: list[_Mark] = []
        self._end: _Mark | None = None
        self._inits: dict[int, int] = {}
        self._finished = trio.Event()
        self._begun_s = 0.0
        self._cut_short = False

    async def run(self) -> Measured:
        """Deliver the records, and measure.

        Cancellation: as of `EventSourceMapping.run`; nothing is measured.

        Raises:
            FailedError: as of `EventSourceMapping.run`.
        """
        self._stages.count_from(_NEVER if self._load.warmup_s else 0)
        gc.collect()
        gc.freeze()  # what making the records has left behind is nothing to look through again and again
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._observe)
                result = await self._mapping.run(ends=self._part.ends, schedule=self._schedule, stages=self._stages)
                if result.why == "caught up" and self._lasts_to_the_end:
                    await self._finished.wait()  # the last record is due a little before the time is over
                nursery.cancel_scope.cancel()
        finally:
            gc.unfreeze()
        return self._measured(result)

    def stop(self) -> None:
        """End it at the edge of a batch."""
        self._cut_short = True
        self._mapping.drain(0)

    @property
    def _lasts_to_the_end(self) -> bool:
        """There are as many records as are due."""
        return self._schedule is not None and self._part.records >= self._load.records

    # ---- while it runs

    async def _observe(self) -> None:
        mapping, load = self._mapping, self._load
        await self._until_begun()
        began_ns = mapping.timeline.began_ns
        if load.warmup_s and self._schedule is None:
            await self._warm_up(began_ns)
            began_ns = time.monotonic_ns()
        elif load.warmup_s:
            began_ns += round(load.warmup_s * 1e9)
        if load.warmup_s:
            self._stages.count_from(began_ns)
            await trio.sleep(max(0.0, (began_ns - time.monotonic_ns()) / 1e9))
        self._begin()
        ends_ns = began_ns + round(load.duration_s * 1e9)
        await self._tick(ends_ns)
        if self._schedule is not None:
            await self._last_ones(ends_ns + max(_SLACK_NS, load.duration_s * 1e9 * _SLACK_PART))
        self._finish()
        if self._schedule is None:
            mapping.drain(0)
            return
        # The rest was due, and is waited for: its latencies are what an overload looks like.
        grace_ns = round(max(_GRACE_S, load.duration_s) * 1e9)
        while time.monotonic_ns() < ends_ns + grace_ns and not self._is_hopeless():  # noqa: ASYNC110
            await trio.sleep(TICK_S)
        mapping.drain(0)

    async def _until_begun(self) -> None:
        while not self._mapping.timeline.began_ns:  # noqa: ASYNC110
            await trio.sleep(_NEAR_S)

    async def _warm_up(self, began_ns: int) -> None:
        """Until its time has passed, or a part of the records."""
        enough = self._part.records * _WARM_PART
        ends_ns = began_ns + round(self._load.warmup_s * 1e9)
        while time.monotonic_ns() < ends_ns and self._mapping.counts.records < enough:
            await self._mapping.runtime.next_round()

    def _begin(self) -> None:
        self._begun_s = time.time()
        self._watch.begin(self._pids())
        mark = self._mark()
        if not self._load.warmup_s:  # what was done while somebody noticed that it has begun counts too
            mark = _Mark(self._mapping.timeline.began_ns or mark.at_ns, 0, 0, 0, 0, mark.cpu_s, mark.others, b"")
        self._marks.append(mark)

    async def _tick(self, ends_ns: int) -> None:
        """Mark the measurement's time, tick by tick, to its end or the last record's."""
        tick_ns = round(TICK_S * 1e9)
        next_ns = self._marks[0].at_ns + tick_ns
        look_ns = self._marks[0].at_ns
        while True:
            until_ns = min(next_ns, ends_ns)
            if await self._over_by(until_ns):
                return
            self._marks.append(self._mark())
            if until_ns >= ends_ns:
                return
            if len(self._marks) > TICKS_MAX and len(self._marks) % 2:
                self._marks = _every_second(self._marks)
                tick_ns *= 2
            next_ns += tick_ns
            if self._marks[-1].at_ns >= look_ns:
                self._watch.look(self._pids())
                look_ns = self._marks[-1].at_ns + round(_LOOK_S * 1e9)
            if self._is_hopeless():
                self.stop()
                return

    async def _last_ones(self, until_ns: float) -> None:
        """Wait a moment for what was on its way at the end, so that a load that is kept up with is counted whole."""
        while self._mapping.remaining and not self._mapping.ending and time.monotonic_ns() < until_ns:  # noqa: ASYNC110
            await trio.sleep(_NEAR_S)

    async def _over_by(self, moment_ns: int) -> bool:
        """Wait for a moment, or until there are no more records; whether there are none."""
        while (left_ns := moment_ns - time.monotonic_ns()) > 0:
            if self._schedule is not None:
                await trio.sleep(left_ns / 1e9)  # its records end with its time
                continue
            if self._mapping.ending or not self._mapping.remaining:
                return True
            await trio.sleep(min(left_ns / 1e9, self._lasts_s()))
        return False

    def _lasts_s(self) -> float:
        """For how long the records will last, very cautiously; looked at more and more often towards the end."""
        first, last = self._marks[0], self._marks[-1]
        done = self._mapping.counts.records - first.records
        seconds = (time.monotonic_ns() - first.at_ns) / 1e9
        if done <= 0 or last is None:
            return _NEAR_S
        return max(_NEAR_S, self._mapping.remaining / (done / seconds) / 4)

    def _finish(self) -> None:
        self._end = self._mark()
        self._watch.end(self._pids())
        self._finished.set()

    def _mark(self) -> _Mark:
        counts, cpu_s = self._mapping.counts, self._watch.cpu_s(self._pids())
        return _Mark(
            time.monotonic_ns(),
            counts.records,
            counts.batches,
            counts.errors,
            counts.discarded,
            cpu_s,
            self._others.look(cpu_s),
            copied(self._stages["latency"]),
        )

    def _pids(self) -> list[int]:
        """The workers that are there, those that look into data for filters among them."""
        found = []
        for function in self._mapping.runtime.pool.functions:
            for worker in function.workers:
                found.append(worker.pid)
                if function is self._mapping.function:
                    self._inits[worker.pid] = worker.init_ns
        return found

    def _is_hopeless(self) -> bool:
        """Whether the p99 is above its limit whatever comes now."""
        limit_ns = self._limit_ns
        if limit_ns is None:
            return False
        allowed = _P99_PART * self._load.rate * self._load.duration_s
        now_ns = time.monotonic_ns()
        # How many of those that count were due so long ago that they are over the limit if they are finished now.
        due_s = (now_ns - limit_ns - self._mapping.timeline.began_ns) / 1e9
        done = max(self._mapping.counts.records, self._load.warmup_s * self._load.rate)
        if min(due_s, self._load.seconds) * self._load.rate - done > allowed:
            return True
        over = Counts.between(b"", copied(self._stages["latency"]))
        return over.total - over.at_most(limit_ns) > allowed

    # ---- when it is over

    def _measured(self, result: RunResult) -> Measured:
        if not self._marks:  # it was over before it was warm
            self._begin()
        if self._end is None:
            self._finish()
        begin, end = self._marks[0], self._end
        assert end is not None
        overdue = self._overdue(result)
        samples = self._samples(overdue)
        return Measured(
            result=result,
            seconds=(end.at_ns - begin.at_ns) / 1e9,
            records=end.records - begin.records,
            batches=end.batches - begin.batches,
            errors=end.errors - begin.errors,
            discarded=end.discarded - begin.discarded,
            latency=Counts.merged(sample.latency for sample in samples),
            stages={name: Counts.of(self._stages[name]) for name in STAGES if name != "latency"},
            samples=samples,
            cold_starts=self._inits,
            runtime=self._watch.runtime,
            workers=self._watch.workers,
            runtime_peak=self._watch.runtime_peak,
            workers_peak=self._watch.workers_peak,
            overdue=overdue.total,
            begun_s=self._begun_s,
            cut_short=self._cut_short,
            last_error="" if self._mapping.last_error is None else self._mapping.last_error.reason,
        )

    def _samples(self, overdue: Counts) -> list[Sample]:
        """What was finished from tick to tick; what was late at the end is in the last one."""
        assert self._end is not None
        marks = [*self._marks, self._end]
        if len(marks) > 2 and marks[-1].at_ns - marks[-2].at_ns < (marks[1].at_ns - marks[0].at_ns) / 2:
            del marks[-2]  # what is left of a tick's time is no interval of its own
        samples = [
            Sample(
                after.records - before.records,
                (after.at_ns - before.at_ns) / 1e9,
                Counts.between(before.latency, after.latency),
                cpu_s=after.cpu_s - before.cpu_s,
                others=after.others,
            )
            for before, after in pairwise(marks)
        ]
        late = Counts.between(self._end.latency, copied(self._stages["latency"]))
        samples[-1] = replace(samples[-1], latency=Counts.merged([samples[-1].latency, late, overdue]))
        return samples

    def _overdue(self, result: RunResult) -> Counts:
        """How long the records that were due and are not finished had waited when the run ended."""
        if self._schedule is None:
            return Counts()
        passed_ns = time.monotonic_ns() - self._mapping.timeline.began_ns
        warm_ns = round(self._load.warmup_s * 1e9)
        return Counts.of_values(passed_ns - due for due in self._left(result) if warm_ns <= due <= passed_ns)

    def _left(self, result: RunResult) -> Iterator[int]:
        """When the records that are not finished are due, after the begin of the run."""
        assert self._schedule is not None
        for shard, end in self._part.ends.items():
            first = result.resumes_at.get(shard, self._part.starts[shard])
            if first < end:
                yield from self._schedule.shard(shard).due(first, range(end - first))


def _every_second(marks: Sequence[_Mark]) -> list[_Mark]:
    """An odd number of marks with every second one left out; the first and the last stay."""
    kept = [marks[0]]
    for left_out, mark in zip(marks[1::2], marks[2::2], strict=True):
        shares = [share for share in (left_out.others, mark.others) if share is not None]
        kept.append(mark._replace(others=sum(shares) / len(shares) if shares else None))
    return kept
