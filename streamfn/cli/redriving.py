"""The work behind `streamfn redrive`: what is left is said, or delivered as a run delivers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import click

from streamfn.cli.execute import EXIT_DISCARDED, Run, carry_out, say_summary, summary_of
from streamfn.cli.heed import Heed
from streamfn.cli.live import LiveDisplay
from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, printable
from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.logs import LogWriter
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.options import RunOptions
from streamfn.mapping.result import RunResult
from streamfn.mapping.runtime import Runtime
from streamfn.replay.leftover import Plan, found, plan
from streamfn.replay.redriving import Redrive
from streamfn.replay.told import Told, known_of, read_told
from streamfn.state.store import Store

# On-failure records whose batch cannot be told are named, up to so many.
SHOWN = 10


def print_plan(settings: Settings, which: str, source: str) -> int:
    """Say what a redrive of the mapping would deliver; 0. `source`: see `Redrive`.

    Raises:
        RefusedError: there is no such mapping, or its stream was deleted.
    """
    data = _opened(settings, which)
    with Store.open(data.state_path, create=False, read_only=True) as store:
        mapping, stream = found(data, store, which)
        told = read_told(data, stream, mapping, source, known_of(store, stream.id)) if source else Told()
        left = plan(data, store, which, told.discards)
    if settings.json_output:
        click.echo(json.dumps({**_identity(left), "dry_run": True, "records": left.records, **_counts(left, told)}))
        return 0
    click.echo(_left_text(left))
    for shard_id, records in left.shards.items():
        click.echo(f"  {printable(shard_id)}  {count_of(records, 'record')}")
    for line in _asides(left, told):
        click.echo(line)
    return 0


def execute(
    settings: Settings, which: str, ours: Mapping[str, Any], source: str, metrics_port: int | None = None
) -> int:
    """Redrive the mapping, and return the exit code of contract and help. `ours`, `source`: see `Redrive`.

    Raises:
        StreamfnError: it could not be started, or a shard is damaged; the exit code is the error's.
    """
    data = _opened(settings, which)
    data.require_writable()
    display = LiveDisplay()
    run = carry_out(
        lambda writer, heed: _RedriveRun(data, writer, display, heed, which, ours, source),
        display,
        json_output=settings.json_output,
        metrics_port=metrics_port,
    )
    return run.end(settings.json_output)


def _opened(settings: Settings, which: str) -> DataDir:
    data = DataDir.open(settings.data_dir, create=False)
    if not data.state_path.exists():
        raise RefusedError(f"unknown mapping {which!r} in {data.path}: there is none yet")
    return data


class _RedriveRun(Run):
    """Signals, the live line and the summary are those of a run of a mapping until it has caught up."""

    def __init__(
        self,
        data: DataDir,
        writer: LogWriter,
        display: LiveDisplay,
        heed: Heed,
        which: str,
        ours: Mapping[str, Any],
        source: str,
    ) -> None:
        everything = RunOptions(handler="", stream="", name="redrive", until_caught_up=True)
        super().__init__(everything, data, writer, display, heed)
        self._which = which
        self._ours = ours
        self._source = source
        self._redrive: Redrive | None = None

    async def _serve(self, runtime: Runtime) -> None:
        redrive = self._redrive = Redrive(runtime, self._which, self._ours, self._source)
        try:
            if await redrive.open() is not None:
                await super()._serve(runtime)
        finally:
            self._remaining = redrive.remaining
            await redrive.close()

    async def opened(self, runtime: Runtime) -> EventSourceMapping:
        """The redrive's own mapping, which is open by now."""
        assert self._redrive is not None
        assert self._redrive.mapping is not None
        return self._redrive.mapping

    def begun(self, mapping: EventSourceMapping) -> None:
        """The live view says what it is."""
        self.observer.name = mapping.name

    async def deliver(self, mapping: EventSourceMapping) -> RunResult:
        """Pass after pass."""
        assert self._redrive is not None
        try:
            return await self._redrive.run()
        finally:
            self.result = self._redrive.result()

    def drain(self) -> None:
        """Ask the pass that is under way, and begin no other."""
        assert self._redrive is not None
        self._redrive.drain()

    # ---- the end

    @property
    def _plan(self) -> Plan | None:
        return None if self._redrive is None else self._redrive.plan

    def tell(self, json_output: bool) -> None:
        """Print what was done, and what could not be; nothing if it never came to that."""
        left = self._plan
        if left is None or self._redrive is None or (self.result is None and not left.is_empty):
            return
        told = self._redrive.told
        nothing = self.result is None
        result = RunResult(0, 0, 0, 0, 0.0, "caught up") if self.result is None else self.result
        name = f"redrive of {left.mapping.title}"
        resumed = any(each.under_way for each in left.passes)
        summary = replace(summary_of(name, left.stream.name, result, self._remaining), resumed=resumed)
        if json_output:
            click.echo(json.dumps({**summary.to_json(), **_identity(left), "dry_run": False, **_counts(left, told)}))
            return
        if nothing and left.is_empty:
            _say(_left_text(left))
        else:
            say_summary(summary)
        for line in _asides(left, told):
            _say(line)

    def exit_code(self) -> int:
        """The exit code of the reference page."""
        code = super().exit_code()
        left = self._plan
        unresolved = self._redrive is not None and self._redrive.told.unresolved
        return EXIT_DISCARDED if not code and ((left is not None and left.gone) or unresolved) else code


def _identity(left: Plan) -> dict[str, object]:
    return {"mapping": left.mapping.title, "stream": left.stream.name}


def _counts(left: Plan, told: Told) -> dict[str, object]:
    return {
        "on_failure_records": left.on_failure_records,
        "gone": left.gone,
        "too_large": left.too_large,
        "unresolved": len(told.unresolved),
        "shards": left.shards,
    }


def _left_text(left: Plan) -> str:
    title = printable(left.mapping.title)
    if left.is_empty:
        return f"{title}: nothing left to redrive"
    told = count_of(left.on_failure_records, "on-failure record")
    return f"{title}: {count_of(left.records, 'record')} of {told} to redrive"


def _asides(left: Plan, told: Told) -> list[str]:
    lines = []
    if left.gone:
        lines.append(f"{count_of(left.gone, 'record')} gone from the log since: retention or a crash took them")
    if left.too_large:
        lines.append(f"{count_of(left.too_large, 'record')} too large for any event: left where they are")
    for where in told.unresolved[:SHOWN]:
        lines.append(f"left alone: which records {printable(where)} speaks of cannot be told")
    if len(told.unresolved) > SHOWN:
        lines.append(f"and {count_of(len(told.unresolved) - SHOWN, 'on-failure record')} more")
    if told.others:
        lines.append(f"{count_of(told.others, 'on-failure record')} of other streams or functions left alone")
    if told.no_records:
        lines.append(f"{told.no_records} things in the source are no on-failure records")
    return lines


def _say(text: str) -> None:
    with suppress(OSError):
        click.echo(text, err=True)
    sys.stderr.flush()
