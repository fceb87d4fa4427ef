"""What `streamfn bench` does with its options: the records, the run, what is written and said at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import trio
from rich.console import Console

from streamfn.benchmark.bench import Bench, Done, Job, Watcher
from streamfn.benchmark.plan import Load, Setting
from streamfn.benchmark.records import Recipe
from streamfn.benchmark.sources import Generated, Source, Stored
from streamfn.cli.bench_report import render
from streamfn.cli.execute import EXIT_DISCARDED, FILES_A_SHARD, Run, carry_out
from streamfn.cli.heed import Heed
from streamfn.cli.live import LiveDisplay
from streamfn.cli.options import Settings
from streamfn.cli.output import print_json
from streamfn.cli.run_options import HandlerFlags, run_options
from streamfn.doors.apart import directory_apart
from streamfn.doors.openfiles import allow_open_files
from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.logs import LogWriter
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.options import RunOptions, validate
from streamfn.mapping.runtime import Runtime
from streamfn.measure import machine, noise
from streamfn.measure.files import write_hgrm, write_hlog
from streamfn.measure.result import Result, load
from streamfn.measure.threshold import Threshold, parse

SHARDS_DEFAULT = 4
EXIT_MISSED = 4
_STREAM = "bench"


@dataclass(frozen=True, slots=True)
class Files:
    """Where what is measured goes, beside the terminal; None: nowhere."""

    hgrm: Path | None = None
    hlog: Path | None = None
    html: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for.

    `stream` and `input` say whose records, or `recipes` how they are made: one for each record size. `workers` None:
    what the function has, or one for each processor. `flags` say the rest of how the handler is run.
    """

    handler: str
    stream: str | None
    input: str | None
    format: str | None
    partition_key: str | None
    recipes: Sequence[Recipe]
    records: int | None
    shards: int | None
    load: Load
    batch_sizes: Sequence[int]
    workers: Sequence[int] | None
    runs: int
    flags: Mapping[str, Any]
    thresholds: Sequence[str]
    baseline: Path | None
    files: Files


def execute(request: Request, settings: Settings, metrics_port: int | None = None) -> int:
    """Measure as `streamfn bench` does, and return the exit code of the help. `metrics_port`: see `doors.metrics`.

    Raises:
        StreamfnError: something is refused, or failed; the exit code is the error's.
    """
    thresholds = [parse(text) for text in request.thresholds]
    baseline = None if request.baseline is None else _baseline(request.baseline)
    _check(request.files)
    told, code_dir = _told(request, settings)
    theirs = None if request.stream is None else DataDir.open(settings.data_dir, create=False)
    if theirs is not None:
        theirs.stream(told[0].stream)  # refuse early
    environment, probed = machine.environment(), noise.probe()
    for text in noise.complaints(probed, environment):
        click.echo(f"streamfn: {text}", err=True)
    with directory_apart("streamfn-bench-") as directory:
        data = theirs or DataDir.open(directory / "data", create=True)
        store = directory / "state" / "state.db"
        store.parent.mkdir()
        display = LiveDisplay()
        run = carry_out(
            lambda writer, heed: _BenchRun(request, told, data, writer, display, heed, code_dir, store),
            display,
            json_output=settings.json_output,
            metrics_port=metrics_port,
        )
    if not run.done:
        return run.exit_code()
    return _end(request, settings, run, environment, probed, thresholds, baseline)


# ---- before


def _check(files: Files) -> None:
    """Refuse files that cannot be written, before minutes are spent on what is to be in them."""
    for option, path in (("--hgrm", files.hgrm), ("--hlog", files.hlog), ("--html", files.html)):
        if path is not None and (path.is_dir() or not os.access(path.absolute().parent, os.W_OK)):
            raise RefusedError(f"{option}: cannot write {path}: name a file in a directory that is there and writable")


def _baseline(path: Path) -> list[Result]:
    try:
        return load(path)
    except RefusedError as error:
        raise RefusedError(f"--baseline: {error}") from None


def _told(request: Request, settings: Settings) -> tuple[list[RunOptions], Path | None]:
    """How the handler is run, for each number of workers and batch size, and where its code is."""
    now_ms = time.time_ns() // 1_000_000
    found: list[RunOptions] = []
    code_dir = None
    workers: Sequence[int | None] = request.workers or (None,)
    for some, batch_size in product(workers, request.batch_sizes):
        flags = HandlerFlags(batch_size=batch_size, workers=some, debug=False, **request.flags)
        options, code_dir = run_options(
            settings, request.handler, flags, stream=request.stream or _STREAM, until_caught_up=True, measured=True
        )
        validate(options, now_ms=now_ms)
        found.append(options)
    return found, code_dir


# ---- the records


def _jobs(request: Request, told: Sequence[RunOptions], data: DataDir, progress: Callable[[int], None]) -> list[Job]:
    """What is to be run: for each source of records, whatever is told of the handler. Blocks."""
    return [
        Job(
            Setting(options.batch_size, options.workers, source.record_size if request.recipes else None),
            replace(options, stream=source.stream.name),
            source,
        )
        for source in _sources(request, data, max(options.workers for options in told), progress)
        for options in told
    ]


def _sources(request: Request, data: DataDir, workers: int, progress: Callable[[int], None]) -> list[Source]:
    """Where the records are; those of a file are imported."""
    if request.stream is not None:
        said = {"kind": "stream", "stream": request.stream}
        return [Stored(data.stream(request.stream), said, request.records)]
    shards = request.shards or max(SHARDS_DEFAULT, workers)
    if request.input is not None:
        _import(request, data.path, shards, progress)
        return [Stored(data.stream(_STREAM), {"kind": "file", "file": request.input}, request.records)]
    return [Generated(data, recipe, shards, request.records) for recipe in request.recipes]


def _import(request: Request, data_dir: Path, shards: int, progress: Callable[[int], None]) -> None:
    from streamfn.doors.importing import ImportRequest, run_import
    from streamfn.doors.sources import Source as Read
    from streamfn.log.storage.durability import OS

    assert request.input is not None
    asked = ImportRequest(
        files=(request.input,),
        stream=_STREAM,
        shards=shards,
        partition_key=request.partition_key,
        format=request.format,
        durability=OS,
    )
    if request.shards is None and request.input != "-":
        with closing(Read(request.input, asked, 0)) as read:
            if read.captured:  # its records know their shards
                asked = replace(asked, shards=None)
    run_import(data_dir, asked, lambda read, records, size: progress(records))


# ---- the run


class _BenchRun(Run, Watcher):
    """All rows, behind the live view, until a signal."""

    def __init__(
        self,
        request: Request,
        told: Sequence[RunOptions],
        data: DataDir,
        writer: LogWriter,
        display: LiveDisplay,
        heed: Heed,
        code_dir: Path | None,
        store_path: Path,
    ) -> None:
        super().__init__(told[0], data, writer, display, heed, code_dir)
        self._request = request
        self._told = told
        self._store_path = store_path
        self._bench: Bench | None = None
        self.observer.name = f"bench {told[0].target}"

    @property
    def store_path(self) -> Path:
        """A temporary one: whatever is measured, no checkpoint of the user's is touched."""
        return self._store_path

    async def _serve(self, runtime: Runtime) -> None:
        asked = self._request
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.show)
            jobs = await trio.to_thread.run_sync(_jobs, asked, self._told, self._data, self.making(0))
            allow_open_files(2 * FILES_A_SHARD * max(len(job.source.stream.open_shards) for job in jobs))
            self._bench = Bench(runtime, asked.load, code_dir=self._code_dir, watcher=self, runs=asked.runs)
            await self._bench.run(jobs)
            nursery.cancel_scope.cancel()

    @property
    def done(self) -> list[Done]:
        """The rows that there are."""
        return [] if self._bench is None else self._bench.done

    @property
    def best(self) -> int:
        """Which of them is the best one."""
        assert self._bench is not None
        return self._bench.best

    @property
    def can_drain(self) -> bool:
        """A row is being measured."""
        return self._bench is not None

    def drain(self) -> None:
        """End it, and begin no other."""
        assert self._bench is not None
        self._bench.stop()

    @property
    def interrupted(self) -> bool:
        """A signal ended it: rows are missing, or the last one was cut short."""
        return bool(self._signals)

    # ---- what the benchmark tells

    def began(self, mapping: EventSourceMapping, note: str) -> None:
        """Show that one."""
        self.mapping = mapping
        self.observer.note = note
        self.observer.begin()

    def ended(self, mapping: EventSourceMapping) -> None:
        """Show none."""
        self.mapping = None

    def say(self, text: str) -> None:
        """A line among the log lines."""
        self._say(text)

    def making(self, records: int) -> Callable[[int], None]:
        """Show how many records there are by now."""
        made = 0

        def more(some: int) -> None:
            nonlocal made
            trio.from_thread.check_cancelled()
            made += some
            self.observer.note = f"writing records: {made:,}"

        return more


# ---- after


def _end(
    request: Request,
    settings: Settings,
    run: _BenchRun,
    environment: Mapping[str, object],
    probed: Mapping[str, object],
    thresholds: Sequence[Threshold],
    baseline: Sequence[Result] | None,
) -> int:
    """Write and say what was measured, and return the exit code."""
    done = run.done
    result = Result([each.row for each in done], run.best, environment, probed)
    outcomes = [threshold.check(result) for threshold in thresholds]
    result = replace(result, thresholds=[outcome.document() for outcome in outcomes])
    best = done[run.best]
    files = request.files
    if files.hgrm is not None:
        write_hgrm(files.hgrm, best.row.latency)
    if files.hlog is not None:
        write_hlog(files.hlog, best.row.samples, best.measured.begun_s)
    if files.html is not None:
        from streamfn.measure.report import write_html

        write_html(files.html, result)
    compared, refused = None, None
    if not settings.json_output:
        render(result, Console(), best.notes, outcomes)
    if baseline is not None:
        from streamfn.cli.bench_compare import say

        try:
            compared = say(str(request.baseline), baseline, result, quiet=settings.json_output)
        except RefusedError as error:  # they have nothing in common: what was measured is said nevertheless
            refused = error
    if settings.json_output:
        document = result.document() | {"notes": [each.notes for each in done]}
        print_json(document if compared is None else document | {"comparison": compared.document()})
    if run.interrupted:
        return run.exit_code()
    if refused is not None:
        raise refused
    if any(not outcome.met for outcome in outcomes) or any(each.missed for each in done):
        return EXIT_MISSED
    if compared is not None and compared.exit_code:
        return compared.exit_code
    return EXIT_DISCARDED if any(each.row.discarded for each in done) else 0
