"""The work behind `streamfn replay`: a run over a part of a stream, at a pace, with checkpoints of its own."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import trio

from streamfn.cli.app import EXIT_FAILED
from streamfn.cli.execute import EXIT_DISCARDED, Run, carry_out, gave_up, summary_of
from streamfn.cli.heed import Heed
from streamfn.cli.live import LiveDisplay, RunSummary, summary_text
from streamfn.cli.options import Settings
from streamfn.cli.output import count_of
from streamfn.cli.stepping import SteppingFlags, stepping_of
from streamfn.doors.apart import store_apart
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.reader import horizon
from streamfn.mapping.logs import LogWriter
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.options import RunOptions
from streamfn.mapping.result import RunResult
from streamfn.mapping.runtime import Runtime
from streamfn.replay.planning import Pace, schedule_of
from streamfn.replay.selection import Selection, first_left


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What `replay` was asked for, checked. `checkpoint`: the mapping of that name replays, in the data's own store."""

    options: RunOptions
    code_dir: Path | None
    selection: Selection
    pace: Pace
    loop: bool
    checkpoint: bool
    stepping: SteppingFlags
    metrics_port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySummary(RunSummary):
    """What a replay did.

    `apart`: its checkpoints were its own. `left` is the `--from` that goes on with what is left; empty: nobody knows.
    """

    rounds: int
    speed: float | None
    apart: bool
    left: str = ""

    def to_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return {**RunSummary.to_json(self), "speed": self.speed, "rounds": self.rounds}


def replay_really(request: ReplayRequest, settings: Settings) -> int:
    """Replay, and return the exit code of the help.

    Raises:
        StreamfnError: it could not be started, or a shard is damaged; the exit code is the error's.
    """
    data = DataDir.open(settings.data_dir, create=False)
    display = LiveDisplay(enabled=not request.options.debug)
    with ExitStack() as stack:
        store = None if request.checkpoint else stack.enter_context(store_apart())
        run = carry_out(
            lambda writer, heed: Replay(request, store, data, writer, display, heed),
            display,
            json_output=settings.json_output,
            metrics_port=request.metrics_port,
        )
        return run.end(settings.json_output)


class Replay(Run):
    """One replay: the mapping's run over the selection, or with `loop` one after the other."""

    def __init__(
        self,
        request: ReplayRequest,
        store: Path | None,
        data: DataDir,
        writer: LogWriter,
        display: LiveDisplay,
        heed: Heed,
    ) -> None:
        """`store` is that of the replay's checkpoints; None: the data directory's."""
        super().__init__(request.options, data, writer, display, heed, request.code_dir)
        self._request = request
        self._store = store
        self._rounds = 0
        self._earlier_s = 0.0  # that the rounds before this one took
        self._looking = trio.CancelScope()  # ahead, before anything is delivered
        self._stepping = None
        if request.stepping.stops:
            handler, logs = request.options.target, request.options.logs
            self._stepping = stepping_of(request.stepping, handler, logs, writer, display)

    # ---- as a run does it

    @property
    def store_path(self) -> Path | None:
        """Where the mapping and its checkpoints are; None: in the data directory's own store."""
        return self._store

    async def opened(self, runtime: Runtime) -> EventSourceMapping:
        """Open the mapping, with its function started."""
        request = self._request
        starts = request.selection.starts
        if self._store is None:  # a later `run` of this mapping delivers the other shards from their beginning
            others = [one for one in request.selection.stream.shards if one.id not in starts]
            horizons = await trio.to_thread.run_sync(lambda: {one.id: horizon(one) for one in others})
            starts = {**horizons, **starts}
        return await runtime.mapping(self._options, code_dir=self._code_dir, starts=starts)

    def drain(self) -> None:
        """Stop at the edge of a batch, or at once while nothing is delivered yet."""
        self._looking.cancel()
        super().drain()

    async def deliver(self, mapping: EventSourceMapping) -> RunResult:
        """Look ahead, if the pace wants that, and run; with `loop` again and again."""
        request, selection = self._request, self._request.selection
        if mapping.resumed:
            self._say(f"goes on from the checkpoint of {mapping.name}, wherever --from is")
            checkpoints = await mapping.runtime.disk(mapping.runtime.store.checkpoints, mapping.uuid)
            starts = {name: checkpoints[name].offset if name in checkpoints else 0 for name in selection.starts}
            selection = replace(selection, starts=starts)
        schedule = None
        if request.pace.speed is not None:
            self.observer.note = "reading when its records arrived"
        with self._looking:
            salvage = self._options.on_damage == "salvage"
            schedule = await schedule_of(selection, request.pace, mapping.selector, salvage=salvage)
        limit = self._options.limit
        decide = None if self._stepping is None else self._stepping.decide
        while schedule is not None and not self._signals:
            self._rounds += 1
            self.observer.note = self._note()
            result = await mapping.run(ends=selection.ends, limit=limit, schedule=schedule, decide=decide)
            limit = mapping.budget
            if not request.loop or result.why != "caught up" or not (result.records or result.discarded):
                return result
            # A round that ends shows nothing twice: from here on it counts as an earlier one.
            self._earlier_s += result.seconds
            mapping.count_anew()
            self.result = mapping.result()
            await mapping.runtime.disk(mapping.runtime.store.reset, mapping.uuid, selection.starts)
        return replace(mapping.result(), why="drained")

    def _note(self) -> str:
        """What the live view says beside the name."""
        speed = self._request.pace.speed
        parts = [] if speed is None else [f"at {speed:g}x"]
        if self._request.loop:
            parts.append(f"round {self._rounds:,}")
        return ", ".join(parts)

    # ---- the end

    def _total(self, result: RunResult) -> RunResult:
        """What all rounds did."""
        counts = self.before() + result.counts
        return replace(result, **asdict(counts), seconds=self._earlier_s + result.seconds)

    def summary(self, mapping: EventSourceMapping, result: RunResult) -> RunSummary:
        """What the replay did, for people and programs."""
        found = summary_of(mapping.name, mapping.stream.name, self._total(result), self._remaining)
        left = ""
        if self._remaining and self._store is not None and not self._request.loop:
            left = first_left(self._request.selection, result.resumes_at)
        return ReplaySummary(
            **asdict(replace(found, resumed=mapping.resumed)),
            rounds=self._rounds,
            speed=self._request.pace.speed,
            apart=self._store is not None,
            left=left,
        )

    def tell(self, json_output: bool) -> None:
        """Print the summary; nothing if nothing was run."""
        if self.result is None or self.mapping is None:
            return
        summary = self.summary(self.mapping, self.result)
        assert isinstance(summary, ReplaySummary)
        if json_output:
            stepped = {} if self._stepping is None else self._stepping.to_json()
            click.echo(json.dumps({**summary.to_json(), **stepped}))
        else:
            with suppress(OSError):
                click.echo(replay_text(summary), err=True)

    def exit_code(self) -> int:
        """The exit code of the help."""
        if self._stepping is not None and self._stepping.stopped_at is not None:
            return EXIT_FAILED
        code = super().exit_code()
        if not code and self.result is not None and gave_up(self._total(self.result)):
            return EXIT_DISCARDED
        return code


def replay_text(summary: ReplaySummary) -> str:
    """Return what a replay says at its end: a line, and more where there is more to say."""
    if not summary.apart:
        return summary_text(summary)
    whole = replace(summary, remaining=0, on_failure_pending=0, open_windows={})
    text = summary_text(whole).replace("nothing left to do", "nothing to replay")
    if summary.rounds > 1:
        text += f"\n{summary.rounds:,} rounds"
    if summary.remaining and summary.left:
        text += f"\n{count_of(summary.remaining, 'record')} left: --from {summary.left} goes on there"
    elif summary.remaining and summary.rounds <= 1:
        text += f"\n{count_of(summary.remaining, 'record')} left"
    if summary.open_windows:
        windows = count_of(len(summary.open_windows), "window")
        text += f"\n{windows} without a final invocation: the selection ends before"
    if summary.on_failure_pending:
        pending = count_of(summary.on_failure_pending, "on-failure record")
        text += f"\n{pending} did not reach the destination, and are not kept"
    return text
