"""`streamfn run` without a handler: all mappings that `mapping create` made, from the command line."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import trio

from streamfn.cli.execute import (
    EXIT_DISCARDED,
    REFRESH_S,
    Run,
    ages_ms,
    gave_up,
    retrying_shards,
    say_summary,
    summary_of,
)
from streamfn.cli.heed import Heed
from streamfn.cli.live import LiveDisplay, Rate, RunSummary, Snapshot
from streamfn.doors.openfiles import allow_open_files
from streamfn.errors import RefusedError, StreamfnError
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.logs import LogWriter
from streamfn.mapping.options import RunOptions
from streamfn.mapping.result import RunResult
from streamfn.mapping.runtime import Runtime
from streamfn.mapping.service import Service, Serving
from streamfn.state.store import Store

# Of a core, how much goes into the line that shows how things are: with many mappings it is drawn less often.
LOOKING_SHARE = 0.005

_FILES = 4096  # mappings may come, and their streams be split, while this runs


def serve(data_dir: Path, json_output: bool, *, until_caught_up: bool, **ours: Any) -> int:
    """Run every enabled mapping, and return the exit code of contract and help.

    Raises:
        StreamfnError: they could not be started, or one could not go on; the exit code is the error's.
    """
    data = DataDir.open(data_dir, create=False)
    _require_mappings(data)
    allow_open_files(_FILES)
    display = LiveDisplay()
    try:
        with Heed() as heed, display, closing(LogWriter(display.write)) as writer:
            run = _ServiceRun(data, writer, display, heed, until_caught_up, ours)
            trio.run(run.main)
    except* StreamfnError:
        run.tell(json_output)
        raise
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
        self._ours = ours
        self._service: Service | None = None

    async def _serve(self, runtime: Runtime) -> None:
        service = Service(runtime, until_caught_up=self._options.until_caught_up, **self._ours)
        await service.open()
        self._service = service
        if not service.served:
            self._say("no mapping is enabled" + ("" if self._options.until_caught_up else ": waiting for one"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._show_all, service)
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

    async def _show_all(self, service: Service) -> None:
        began = time.monotonic()
        rate = Rate(began)
        pause_s = REFRESH_S
        while True:
            await trio.sleep(pause_s)
            now, looked = time.monotonic(), time.thread_time()
            records = _so_far(service, "records")
            snapshot = self._snapshot_of(service, records, now - began, rate.update(records, now))
            self._writer.show(lambda snapshot=snapshot: self._display.update(snapshot))  # type: ignore[misc]
            # A look at a thousand mappings takes milliseconds, and goes on while none of them does anything.
            pause_s = max(REFRESH_S, (time.thread_time() - looked) / LOOKING_SHARE)

    def _snapshot_of(self, service: Service, records: int, elapsed_s: float, rate: float) -> Snapshot:
        open_now = [serving.mapping for serving in service.served.values() if serving.mapping is not None]
        ages = [age for mapping in open_now for age in ages_ms(mapping)]
        remaining = sum(mapping.remaining for mapping in open_now)
        functions = service.functions.all
        return Snapshot(
            elapsed_s=elapsed_s,
            records=records,
            records_per_second=rate,
            lag_records=remaining,
            lag_ms=max(ages) if ages else None,
            errors=_so_far(service, "errors"),
            discarded=_so_far(service, "discarded"),
            workers=(
                sum(len(function.workers) for function in functions),
                sum(function.config.maximum for function in functions),
            ),
            total_records=records + remaining if self._options.until_caught_up else None,
            retrying=[shard for mapping in open_now for shard in retrying_shards(mapping)],
            paused=next((mapping.stuck for mapping in open_now if mapping.stuck is not None), None),
            draining=bool(self._signals),
        )

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


def _so_far(service: Service, count: str) -> int:
    """Add up one of the counts over all mappings, the runs before a reload included."""
    total = 0
    for serving in service.served.values():
        total += getattr(serving.result, count)
        if serving.mapping is not None:
            total += getattr(serving.mapping.counts, count)
    return total


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
