"""`streamfn run` without a handler: all mappings that `mapping create` made, from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import trio

from streamfn.cli.execute import EXIT_DISCARDED, Run, carry_out, gave_up, say_summary, summary_of
from streamfn.cli.heed import Heed
from streamfn.cli.live import LiveDisplay, RunSummary
from streamfn.doors.openfiles import allow_open_files
from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.logs import LogWriter
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.options import RunOptions
from streamfn.mapping.result import Counts, RunResult
from streamfn.mapping.runtime import Runtime
from streamfn.mapping.service import Service, Serving
from streamfn.state.store import Store

_FILES = 4096  # mappings may come, and their streams be split, while this runs


def serve(
    data_dir: Path, json_output: bool, *, until_caught_up: bool, metrics_port: int | None = None, **ours: Any
) -> int:
    """Run every enabled mapping, and return the exit code of contract and help. `metrics_port`: see `doors.metrics`.

    Raises:
        StreamfnError: they could not be started, or one could not go on; the exit code is the error's.
    """
    data = DataDir.open(data_dir, create=False)
    _require_mappings(data)
    allow_open_files(_FILES)
    display = LiveDisplay()
    run = carry_out(
        lambda writer, heed: _ServiceRun(data, writer, display, heed, until_caught_up, ours),
        display,
        json_output=json_output,
        metrics_port=metrics_port,
    )
    return run.end(json_output)


def _require_mappings(data: DataDir) -> None:
    if data.state_path.exists():
        with Store.open(data.state_path, create=False, read_only=True) as store:
            if store.all_managed():
                return
    raise RefusedError(
        f"there is no mapping to run in {data.path}: make one (streamfn mapping create), or name a handler and a "
        "stream (streamfn run app.handler --stream orders)"
    )


class _ServiceRun(Run):
    """The run of all: signals and the live line are those of a run of one."""

    def __init__(
        self,
        data: DataDir,
        writer: LogWriter,
        display: LiveDisplay,
        heed: Heed,
        until_caught_up: bool,
        ours: dict[str, Any],
    ) -> None:
        everything = RunOptions(handler="", stream="", name="all", until_caught_up=until_caught_up)
        super().__init__(everything, data, writer, display, heed)
        self.observer.name = "all enabled mappings"
        self._ours = ours
        self._service: Service | None = None

    async def _serve(self, runtime: Runtime) -> None:
        service = Service(runtime, until_caught_up=self._options.until_caught_up, **self._ours)
        await service.open()
        self._service = service
        if not service.served:
            self._say("no mapping is enabled" + ("" if self._options.until_caught_up else ": waiting for one"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.show)
            await service.run()
            nursery.cancel_scope.cancel()

    @property
    def can_drain(self) -> bool:
        """Everything has been opened."""
        return self._service is not None

    def drain(self) -> None:
        """Ask all of them."""
        assert self._service is not None
        self._service.drain()

    # ---- what is shown

    def watched(self) -> list[EventSourceMapping]:
        """The mappings that are open now."""
        served = [] if self._service is None else self._service.served.values()
        return [serving.mapping for serving in served if serving.mapping is not None]

    def before(self) -> Counts:
        """What runs before a reload count as well."""
        served = [] if self._service is None else self._service.served.values()
        return sum((serving.result.counts for serving in served), Counts())

    # ---- the end

    def end(self, json_output: bool) -> int:
        """Print the summary; the exit code, unless a mapping could not go on.

        Raises:
            StreamfnError: what stopped the first of those.
        """
        self.tell(json_output)
        assert self._service is not None
        for serving in self._service.served.values():
            if serving.error is not None and not self.interrupted:
                raise serving.error
        return self.exit_code()

    def tell(self, json_output: bool) -> None:
        """Print what was done: one object, or a line for each mapping; nothing if nothing was run."""
        if self._service is None:
            return
        served = list(self._service.served.values())
        if json_output:
            click.echo(json.dumps(_totals(served)))
            return
        for serving in served:
            say_summary(_summary(serving))

    @property
    def interrupted(self) -> bool:
        """A signal ended it before it was done."""
        if not self._signals:
            return False
        served = [] if self._service is None else list(self._service.served.values())
        caught_up = self._service is not None and all(one.result.why == "caught up" for one in served)
        return not caught_up and (self._options.until_caught_up or len(self._signals) > 1 or self._service is None)

    def exit_code(self) -> int:
        """The exit code of the reference page."""
        if self.interrupted:
            return 128 + self._signals[-1]
        served = [] if self._service is None else self._service.served.values()
        return EXIT_DISCARDED if any(gave_up(one.result) for one in served) else 0


def _summary(serving: Serving) -> RunSummary:
    summary = summary_of(serving.name, serving.stream, serving.result, serving.remaining)
    return replace(summary, resumed=serving.resumed)


def _totals(served: list[Serving]) -> dict[str, object]:
    """One object: the sums, from the first hand-over to the last durable checkpoint of any, and each mapping's own."""
    each = [{**_summary(serving).to_json(), "UUID": serving.uuid} for serving in served]
    nothing = summary_of("", "", RunResult(0, 0, 0, 0, 0.0, ""), 0).to_json()
    counts = [name for name, value in nothing.items() if isinstance(value, int) and not isinstance(value, bool)]
    totals: dict[str, object] = {name: sum(int(str(one[name])) for one in each) for name in counts}
    begun = [serving.first_ns for serving in served if serving.first_ns]
    seconds = max(0, max(serving.last_ns for serving in served) - min(begun)) / 1e9 if begun else 0.0
    records = sum(serving.result.records for serving in served)
    totals["seconds"] = round(seconds, 3)
    totals["records_per_second"] = round(records / seconds) if seconds else 0
    return {**totals, "mappings": each}
