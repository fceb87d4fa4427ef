"""Running a mapping from the command line: signals, the live line, the summary, the exit code."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import click
import trio

from streamfn.cli.heed import Heed
from streamfn.cli.live import LiveDisplay, RunSummary, summary_text
from streamfn.doors.metrics import MetricsPort, metered, metrics_at
from streamfn.doors.openfiles import allow_open_files
from streamfn.errors import StreamfnError
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.logs import LogWriter
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.observing import Observer
from streamfn.mapping.options import RunOptions
from streamfn.mapping.result import Counts, RunResult
from streamfn.mapping.runtime import Runtime, open_runtime

R = TypeVar("R", bound="Run")

REFRESH_S = 0.25
# Of a core, how much goes into looking at how things are: with many mappings or shards it is done less often.
LOOKING_SHARE = 0.005
# A commit file, the segment that is read, and the one before it that some batch still needs.
FILES_A_SHARD = 4
EXIT_DISCARDED = 3


def execute(
    options: RunOptions,
    data_dir: Path,
    json_output: bool,
    code_dir: Path | None = None,
    metrics_port: int | None = None,
) -> int:
    """Run a mapping as `streamfn run` does, and return the exit code of contract and help.

    `code_dir` is where the handler's code is; None: in the current directory. `metrics_port`: see `doors.metrics`.

    Raises:
        StreamfnError: it could not be started, or a shard is damaged; the exit code is the error's.
    """
    data = DataDir.open(data_dir, create=False)
    data.stream(options.stream)  # refuse early, before a worker is started
    display = LiveDisplay(enabled=not options.debug)
    run = carry_out(
        lambda writer, heed: Run(options, data, writer, display, heed, code_dir),
        display,
        json_output=json_output,
        metrics_port=metrics_port,
    )
    return run.end(json_output)


def carry_out(
    make: Callable[[LogWriter, Heed], R], display: LiveDisplay, *, json_output: bool, metrics_port: int | None = None
) -> R:
    """Make a run and run it to its end, with the live view, signals heeded and scrapes answered; returns it.

    Raises:
        StreamfnError: it could not be started, or failed; what it did until then has been told.
    """
    with metrics_at(metrics_port) as metrics:
        try:
            with Heed() as heed, display, closing(LogWriter(display.write)) as writer:
                run = make(writer, heed)
                run.metrics = metrics
                trio.run(run.main)
        except* StreamfnError:
            run.tell(json_output)
            raise
    return run


class Run:
    """One run: `main` is its Trio main, `end` what is said afterwards."""

    def __init__(
        self,
        options: RunOptions,
        data: DataDir,
        writer: LogWriter,
        display: LiveDisplay,
        heed: Heed,
        code_dir: Path | None = None,
    ) -> None:
        self._options = options
        self._heed = heed
        self._code_dir = code_dir
        self._data = data
        self._writer = writer
        self._display = display
        self.mapping: EventSourceMapping | None = None
        self.result: RunResult | None = None
        self._signals: list[int] = []
        self._scope = trio.CancelScope()
        self._remaining = 0
        self.observer = Observer(name=options.name)
        self.metrics: MetricsPort | None = None  # where scrapes are answered; None: nowhere

    async def main(self) -> None:
        """Open the runtime, run the mapping, drain on a first signal, stop at once on a second."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heed_signals)
            with self._scope:
                async with (
                    open_runtime(self._data, self._writer, store_path=self.store_path) as runtime,
                    metered(runtime, self.metrics),
                ):
                    await self._serve(runtime)
            nursery.cancel_scope.cancel()

    async def _serve(self, runtime: Runtime) -> None:
        options = self._options
        mapping = self.mapping = await self.opened(runtime)
        # Twice what the shards need now: they may be split while this runs.
        allow_open_files(2 * FILES_A_SHARD * len(mapping.stream.open_shards))
        self.begun(mapping)
        if mapping.resumed and options.starting_position != "TRIM_HORIZON":
            self._say("the starting position is ignored: the mapping goes on from its checkpoint")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.show)
            try:
                self.result = await self.deliver(mapping)
            finally:
                self.result = self.result or mapping.result()
                self._remaining = mapping.remaining
            nursery.cancel_scope.cancel()

    # ---- what runs of other kinds do in their own way

    @property
    def store_path(self) -> Path | None:
        """Where the mapping and its checkpoints are; None: in the data directory's own store."""
        return None

    async def opened(self, runtime: Runtime) -> EventSourceMapping:
        """Open the mapping, with its function started."""
        return await runtime.mapping(self._options, code_dir=self._code_dir)

    def begun(self, mapping: EventSourceMapping) -> None:
        """The mapping is about to run; for those who want to watch it."""

    async def deliver(self, mapping: EventSourceMapping) -> RunResult:
        """Run it."""
        options = self._options
        return await mapping.run(until_caught_up=options.until_caught_up, limit=options.limit)

    # ---- signals

    async def _heed_signals(self) -> None:
        while True:
            self._signals.append(await self._heed.next())
            if len(self._signals) > 1 or not self.can_drain:
                self._scope.cancel()
            else:
                self._say("stopping at the edge of a batch; again to stop at once")
                self.drain()

    @property
    def can_drain(self) -> bool:
        """Something runs that can be asked to stop at the edge of a batch."""
        return self.mapping is not None

    def drain(self) -> None:
        """Ask it."""
        assert self.mapping is not None
        self.mapping.drain()

    # ---- what is shown

    def _say(self, text: str) -> None:
        self._writer.write(f"streamfn: {text}\n")

    async def show(self) -> None:
        """Show how things are, again and again, until cancelled."""
        pause_s = REFRESH_S
        self.observer.begin()
        while True:
            await trio.sleep(pause_s)
            looked = time.thread_time()
            snapshot = self.observer.look(
                self.watched(),
                before=self.before(),
                total_records=self._options.limit,
                bounded=self._options.until_caught_up,
                draining=bool(self._signals),
            )
            self._writer.show(lambda snapshot=snapshot: self._display.update(snapshot))  # type: ignore[misc]
            # A look at a thousand mappings takes milliseconds, and goes on while none of them does anything.
            pause_s = max(REFRESH_S, (time.thread_time() - looked) / LOOKING_SHARE)

    def watched(self) -> list[EventSourceMapping]:
        """The mappings that are open now."""
        return [] if self.mapping is None else [self.mapping]

    def before(self) -> Counts:
        """What runs that have ended count as well: those of the mapping before this one."""
        return Counts() if self.mapping is None else self.mapping.earlier

    # ---- the end

    def end(self, json_output: bool) -> int:
        """Print the summary, and return the exit code."""
        self.tell(json_output)
        return self.exit_code()

    def tell(self, json_output: bool) -> None:
        """Print the summary; nothing if nothing was run."""
        result = self.result
        if result is not None and self.mapping is not None:
            summary = self.summary(self.mapping, result)
            if json_output:
                click.echo(json.dumps(summary.to_json()))
            else:
                say_summary(summary)

    def summary(self, mapping: EventSourceMapping, result: RunResult) -> RunSummary:
        """What the run did, for people and programs."""
        return replace(
            summary_of(mapping.name, mapping.stream.name, result, self._remaining),
            resumed=mapping.resumed,
            position_ignored=mapping.resumed and self._options.starting_position != "TRIM_HORIZON",
        )

    @property
    def interrupted(self) -> bool:
        """A signal ended it before it was done."""
        result = self.result
        stopped_short = self._options.until_caught_up or len(self._signals) > 1 or result is None
        return bool(self._signals) and stopped_short and not (result is not None and result.why == "caught up")

    def exit_code(self) -> int:
        """The exit code of the reference page."""
        result = self.result
        if self.interrupted:
            return 128 + self._signals[-1]
        return EXIT_DISCARDED if result is not None and gave_up(result) else 0


def gave_up(result: RunResult) -> bool:
    """Something will never be done: records were discarded or lost, or a window's last call was given up."""
    return bool(result.discarded or result.lost or result.windows_given_up)


def summary_of(name: str, stream: str, result: RunResult, remaining: int) -> RunSummary:
    """What a run did, for people and programs."""
    return RunSummary(**asdict(result), name=name, stream=stream, remaining=remaining)


def say_summary(summary: RunSummary) -> None:
    """Say on standard error what a run did, and where it goes on; that nobody reads it is no failure of the run."""
    text = summary_text(summary)
    if summary.why == "drained":
        text += f"\nresumes at {resume_text(summary.resumes_at)}"
    with suppress(OSError):
        click.echo(text, err=True)


def resume_text(offsets: dict[str, int]) -> str:
    """The first offset that the next run delivers, shard by shard; many shards are counted, not listed."""
    shown = [f"{shard} offset {offset}" for shard, offset in list(offsets.items())[:4]]
    more = len(offsets) - len(shown)
    return ", ".join(shown) + (f" and {more} more shards" if more > 0 else "")
