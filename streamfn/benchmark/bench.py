"""A whole benchmark: row after row on one runtime, each on fresh workers.

    fixed rate, ramp   as many records as are due ─▶ one run
    as fast as it goes a first short run says how fast ─▶ as many records as that takes, or less, again and again
    the highest rate   the same, as a guess ─▶ trials as `search` wants them ─▶ the last one that kept the limit

Every run is of a mapping of its own, in the store of the runtime, that begins with the first record.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import trio

from streamfn.benchmark.measuring import Measured, Measurement
from streamfn.benchmark.part import Part
from streamfn.benchmark.plan import Load, Outcome, Setting, best_of
from streamfn.benchmark.search import Search
from streamfn.benchmark.sources import Source
from streamfn.limits import MIB
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.options import RunOptions
from streamfn.mapping.runtime import Runtime
from streamfn.measure.result import Row
from streamfn.pool.function import Function

# The first short run: long enough to be past what only the beginning costs.
_PILOT_RECORDS, _PILOT_RECORDS_MIN = 100_000, 1_000
_PILOT_BYTES = 128 * MIB
_PILOT = Load(warmup_s=0.1, duration_s=0.5)
# A run is somewhat faster than its pilot was: so many more records are made than that would take. Making them takes
# longer than delivering them to a handler that does little, so there is an end to it: they are delivered again then.
_PILOT_MARGIN = 1.2
_RECORDS_MAX = 1_000_000
_BYTES_MAX = 512 * MIB
# What is left of the time when it is over: not worth another run. Where there are few records, most of the time goes
# into beginning again: it may be so many times as long.
_WHOLE = 0.98
_PATIENCE = 2.0
# A rate that is not kept up with: less than this part of it is finished in the time.
_KEPT_UP = 0.95
# A search begins below the rate of the closed loop, which never waits for a batch to fill.
_SEARCH_FROM = 0.7
# No mapping has the name of an earlier one: it would go on from that one's checkpoint.
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Job:
    """One row: what is run, with which records."""

    setting: Setting
    options: RunOptions
    source: Source


@dataclass
class Done:
    """What a row came to.

    `told` is what a row of a result says beside what was measured, `notes` are what a reader of the figures has to
    know, `missed`: no rate kept the limit.
    """

    measured: Measured
    told: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
    missed: bool = False

    @cached_property
    def row(self) -> Row:
        """The row of the result."""
        return self.measured.row(**self.told)

    @classmethod
    def joined(cls, runs: Sequence[Done]) -> Done:
        """Runs of the same row, as one."""
        measured = [done.measured.numbered(number) for number, done in enumerate(runs)]
        notes = list(dict.fromkeys(note for done in runs for note in done.notes))
        return cls(Measured.joined(measured), runs[0].told, notes, any(done.missed for done in runs))


class Watcher:
    """Told how a benchmark goes; this one does not care."""

    def began(self, mapping: EventSourceMapping, note: str) -> None:
        """A run of a mapping is about to begin; `note` says which one."""

    def ended(self, mapping: EventSourceMapping) -> None:
        """It has ended."""

    def say(self, text: str) -> None:
        """Something worth a line."""

    def making(self, records: int) -> Callable[[int], None]:
        """So many records are about to be made; returns what is told how many more there are, in another thread."""
        return lambda made: None


class _Stopped(Exception):
    """The benchmark was stopped before a row was begun."""


class Bench:
    """Runs jobs one after the other. `stop` ends it at the edge of a batch; what was done until then is in `done`."""

    def __init__(
        self, runtime: Runtime, load: Load, *, code_dir: Path | None, watcher: Watcher, runs: int = 1
    ) -> None:
        self._runtime = runtime
        self._load = load
        self._code_dir = code_dir
        self._watcher = watcher
        self._runs = runs
        self._measurement: Measurement | None = None
        self.done: list[Done] = []
        self.stopped = False

    async def run(self, jobs: Sequence[Job]) -> None:
        """Run them all.

        Cancellation: the run that goes on is stopped at once, and is in no row.

        Raises:
            HandlerImportError: the handler cannot be loaded.
            FailedError: the records cannot be made or read.
        """
        for number, job in enumerate(jobs, 1):
            if self.stopped:
                return
            where = f"row {number} of {len(jobs)}: {_shown(job.setting)}; " if len(jobs) > 1 else ""
            runs: list[Done] = []
            for run in range(1, self._runs + 1):
                done = await self._row(job, f"{where}run {run} of {self._runs}: " if self._runs > 1 else where)
                runs += [] if done is None else [done]
                if self.stopped:
                    break
            if runs:
                self.done.append(Done.joined(runs))

    async def _row(self, job: Job, where: str) -> Done | None:
        function = await self._runtime.start(job.options, code_dir=self._code_dir, follow=False)
        try:
            return await _RowRun(self, job, function, where).run()
        except _Stopped:
            return None
        finally:
            await self._runtime.stop(function)

    def stop(self) -> None:
        """End what runs at the edge of a batch, and begin nothing more."""
        self.stopped = True
        if self._measurement is not None:
            self._measurement.stop()

    @property
    def best(self) -> int:
        """Which row is the best one."""
        found = [
            Outcome(done.row.rate_achieved, done.row.rate_offered, _p99_ms(done.measured)) for done in self.done
        ]
        return best_of(found)

    # ---- for its rows

    @property
    def load(self) -> Load:
        """What is offered in each of them."""
        return self._load

    async def prepared(self, source: Source, records: int) -> Part:
        """So many records of a source, made if need be.

        Cancellation: some MiB of them are waited for.

        Raises:
            _Stopped: nothing more is to be begun.
        """
        told = self._watcher.making(records)

        def progress(made: int) -> None:
            if self.stopped:
                raise _Stopped
            told(made)

        if self.stopped:
            raise _Stopped
        return await trio.to_thread.run_sync(source.prepare, records, progress)

    async def measured(
        self, job: Job, function: Function, load: Load, part: Part, note: str, limit_ns: int | None = None
    ) -> Measured:
        """One run, of a mapping of its own."""
        async with self._opened(job, function, part) as mapping:
            self._watcher.began(mapping, note)
            self._measurement = Measurement(mapping, load, part, limit_ns=limit_ns)
            try:
                return await self._measurement.run()
            finally:
                self._measurement = None
                self._watcher.ended(mapping)

    def say(self, text: str) -> None:
        """Something worth a line."""
        self._watcher.say(text)

    @asynccontextmanager
    async def _opened(self, job: Job, function: Function, part: Part) -> AsyncIterator[EventSourceMapping]:
        options = replace(job.options, name=f"bench-{next(_NUMBERS)}")
        mapping = await self._runtime.mapping(
            options, code_dir=self._code_dir, shared=function, starts=part.starts, follow=False
        )
        try:
            yield mapping
        finally:
            with trio.CancelScope(shield=True):
                await self._runtime.part(mapping)


class _RowRun:
    """One row."""

    def __init__(self, bench: Bench, job: Job, function: Function, where: str) -> None:
        self._bench = bench
        self._job = job
        self._function = function
        self._where = where

    async def run(self) -> Done | None:
        """Run it; None if the benchmark was stopped before there was anything to show.

        Raises:
            _Stopped: likewise.
        """
        load = self._bench.load
        if load.limit_ms is not None:
            return await self._searched(load.limit_ms)
        if load.is_closed:
            records = await self._enough()
            note = f"{self._where}as fast as it goes"
        else:
            records, note = load.records, f"{self._where}{_offered(load)}"
            load = self._fitting(load)
        part = await self._bench.prepared(self._job.source, records)
        if load.is_closed and not self._job.source.once:
            return self._done(load, await self._again(load, part, note))
        return self._done(load, await self._measured(load, part, note))

    async def _again(self, load: Load, part: Part, note: str) -> Measured:
        """Deliver the same records again and again, until the time is over."""
        runs: list[Measured] = []
        seconds, patience_s = 0.0, time.monotonic() + _PATIENCE * load.seconds
        while not runs or (seconds < _WHOLE * load.duration_s and time.monotonic() < patience_s):
            left = replace(load, duration_s=load.duration_s - seconds)
            run = await self._measured(left if not runs else replace(left, warmup_s=0.0), part, note)
            runs.append(run)
            seconds += run.seconds
            if self._bench.stopped or run.result.why != "caught up":
                break
        return Measured.joined([run for run in runs if run.records] or runs)  # one may not have got past its warm-up

    async def _measured(self, load: Load, part: Part, note: str, limit_ns: int | None = None) -> Measured:
        return await self._bench.measured(self._job, self._function, load, part, note, limit_ns)

    async def _pilot(self) -> float:
        """About how many records a second are handled, as fast as it goes; at least a tenth of one."""
        source = self._job.source
        records = min(_PILOT_RECORDS, max(_PILOT_RECORDS_MIN, _PILOT_BYTES // max(1, source.record_size)), source.most)
        part = await self._bench.prepared(source, records)
        measured = await self._measured(_PILOT, part, f"{self._where}a first short run")
        return max(measured.rate, 0.1)

    async def _enough(self) -> int:
        """How many records last as long as is to be measured, as fast as it goes."""
        source, load = self._job.source, self._bench.load
        if source.once or source.description["kind"] != "generated":
            return source.most
        rate = await self._pilot()
        most = max(_PILOT_RECORDS_MIN, min(_RECORDS_MAX, _BYTES_MAX // max(1, source.record_size)))
        return min(source.most, most, max(_PILOT_RECORDS_MIN, math.ceil(rate * load.seconds * _PILOT_MARGIN)))

    def _fitting(self, load: Load) -> Load:
        """The same load for as long as there are records; a ramp keeps its time, and ends early."""
        most = self._job.source.most
        if load.records <= most or load.ramp_to is not None:
            return load
        seconds = most / load.rate
        warmup_s = min(load.warmup_s, seconds / 10)
        return replace(load, warmup_s=warmup_s, duration_s=seconds - warmup_s)

    # ---- the highest rate

    async def _searched(self, limit_ms: float) -> Done | None:
        search = Search(_SEARCH_FROM * await self._pilot())
        kept: dict[float, tuple[Load, Measured]] = {}
        last = None
        while search.rate is not None and not self._bench.stopped:
            load = self._fitting(replace(self._bench.load, rate=search.rate))
            part = await self._bench.prepared(self._job.source, load.records)
            note = f"{self._where}trial {search.trials + 1}: {_offered(load)}"
            measured = await self._measured(load, part, note, round(limit_ms * 1e6))
            if self._bench.stopped:
                break
            p99_ms = _p99_ms(measured)
            keeps = not measured.cut_short and not measured.overdue and p99_ms is not None and p99_ms <= limit_ms
            found = "of nothing" if p99_ms is None else f"{p99_ms:.3g} ms"
            early = " early" if measured.cut_short else ""
            self._bench.say(f"{note}: p99 {found}, {'kept' if keeps else 'missed'}{early}")
            last = load, measured
            if keeps:
                kept[load.rate] = last
            search.told(keeps)
        best = search.best
        chosen = last if best is None or best not in kept else kept[best]
        if chosen is None:  # stopped before there was anything
            return None
        done = self._done(*chosen)
        if best is None:
            done.missed = True
            done.notes.append(f"no rate keeps a p99 of {limit_ms:g} ms: this is the lowest one that was tried")
        elif not search.confirmed:
            done.notes.append("the search was ended before the highest rate had kept its limit twice")
        return done

    # ---- what it came to

    def _done(self, load: Load, measured: Measured) -> Done:
        job = self._job
        offered = None if load.is_closed else load.rate
        if load.ramp_to is not None:
            offered = (load.rate + load.ramp_to) / 2
        told = {
            "handler": job.options.target,
            "source": dict(job.source.description),
            "mode": "closed" if load.is_closed else "open",
            "rate_offered": offered,
            "ramp": None if load.ramp_to is None else (load.rate, load.ramp_to),
            "batch_size": job.setting.batch_size,
            "workers": job.setting.workers,
            "record_size": job.source.record_size,
        }
        return Done(measured, told, self._said_of(load, measured))

    def _said_of(self, load: Load, measured: Measured) -> list[str]:
        """What a reader has to know."""
        wanted, filtered = self._bench.load, measured.result.filtered
        notes = []
        if filtered:
            notes.append(f"{filtered:,} records were wanted by no filter: they are in no figure")
        if measured.cut_short:
            notes.append("it was ended early: these are figures of what had been done")
        elif (
            measured.seconds < 0.9 * wanted.duration_s
            and measured.result.why == "caught up"
            and not (load.is_closed and self._job.source.once)
        ):
            bound = self._job.source.bound
            notes.append(f"{measured.seconds:.2f} s were measured instead of {wanted.duration_s:g}: {bound}")
        if measured.overdue:
            notes.append(
                f"{measured.overdue:,} records that were due were not finished when the run was given up: they are in "
                "the latencies with what they had waited by then"
            )
        elif load.ramp_to is None and not load.is_closed and measured.rate < _KEPT_UP * load.rate and not filtered:
            notes.append(f"the handler does not keep up: {measured.rate:,.0f} of {load.rate:,.0f} records a second")
        if measured.errors:
            notes.append(f"{measured.errors:,} invocations failed, the last one with {measured.last_error}")
        return notes


def _p99_ms(measured: Measured) -> float | None:
    return measured.latency.percentile(99) / 1e6 if measured.latency.total else None


def _offered(load: Load) -> str:
    if load.ramp_to is not None:
        return f"{load.rate:,.0f} to {load.ramp_to:,.0f} records/s offered"
    return f"{load.rate:,.6g} records/s offered" if load.rate < 1000 else f"{load.rate:,.0f} records/s offered"


def _shown(setting: Setting) -> str:
    size = "" if setting.record_size is None else f", record size {setting.record_size}"
    return f"batch size {setting.batch_size}, workers {setting.workers}{size}"
