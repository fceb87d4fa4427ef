"""The work behind `streamfn redrive`: what is left is said, or delivered as a run delivers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import fields, replace
from typing import Any

import click
import trio

from streamfn.cli.execute import EXIT_DISCARDED, Run, say_summary, summary_of
from streamfn.cli.heed import Heed
from streamfn.cli.live import LiveDisplay
from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, printable
from streamfn.errors import RefusedError, StreamfnError
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.logs import LogWriter
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.options import RunOptions
from streamfn.mapping.result import Counts, RunResult
from streamfn.mapping.runtime import Runtime
from streamfn.replay.leftover import Plan, plan
from streamfn.replay.redriving import Redrive
from streamfn.state.store import Store


def print_plan(settings: Settings, which: str) -> int:
    """Say what a redrive of the mapping would deliver; 0.

    Raises:
        RefusedError: there is no such mapping, or its stream was deleted.
    """
    data = _opened(settings, which)
    with Store.open(data.state_path, create=False, read_only=True) as store:
        found = plan(data, store, which)
    if settings.json_output:
        click.echo(json.dumps({**_identity(found), "dry_run": True, "records": found.records, **_counts(found)}))
        return 0
    click.echo(_left_text(found))
    for shard_id, records in found.shards.items():
        click.echo(f"  {printable(shard_id)}  {count_of(records, 'record')}")
    for line in _asides(found):
        click.echo(line)
    return 0


def execute(settings: Settings, which: str, ours: Mapping[str, Any]) -> int:
    """Redrive the mapping, and return the exit code of contract and help.

    Raises:
        StreamfnError: it could not be started, or a shard is damaged; the exit code is the error's.
    """
    data = _opened(settings, which)
    data.require_writable()
    display = LiveDisplay()
    try:
        with Heed() as heed, display, closing(LogWriter(display.write)) as writer:
            run = _RedriveRun(data, writer, display, heed, which, ours)
            trio.run(run.main)
    except* StreamfnError:
        run.tell(settings.json_output)  # what it did until then
        raise
    return run.end(settings.json_output)


def _opened(settings: Settings, which: str) -> DataDir:
    data = DataDir.open(settings.data_dir, create=False)
    if not data.state_path.exists():
        raise RefusedError(f"unknown mapping {which!r} in {data.path}: there is none yet")
    return data


class _RedriveRun(Run):
    """Signals, the live line and the summary are those of a run of a mapping until it has caught up."""

    def __init__(
        self, data: DataDir, writer: LogWriter, display: LiveDisplay, heed: Heed, which: str, ours: Mapping[str, Any]
    ) -> None:
        everything = RunOptions(handler="", stream="", name="redrive", until_caught_up=True)
        super().__init__(everything, data, writer, display, heed)
        self._which = which
        self._ours = ours
        self._redrive: Redrive | None = None

    async def _serve(self, runtime: Runtime) -> None:
        redrive = self._redrive = Redrive(runtime, self._which, self._ours)
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

    def before(self) -> Counts:
        """What the passes have done that are over."""
        assert self._redrive is not None
        done = self._redrive.before
        return Counts(**{each.name: getattr(done, each.name) for each in fields(Counts)})

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
        found = self._plan
        if found is None:
            return
        nothing = self.result is None
        result = RunResult(0, 0, 0, 0, 0.0, "caught up") if self.result is None else self.result
        name = f"redrive of {found.mapping.title}"
        resumed = any(each.under_way for each in found.passes)
        summary = replace(summary_of(name, found.stream.name, result, self._remaining), resumed=resumed)
        if json_output:
            click.echo(json.dumps({**summary.to_json(), **_identity(found), "dry_run": False, **_counts(found)}))
            return
        if nothing and found.is_empty:
            _say(_left_text(found))
        else:
            say_summary(summary)
        for line in _asides(found):
            _say(line)

    def exit_code(self) -> int:
        """The exit code of the reference page."""
        code = super().exit_code()
        found = self._plan
        return EXIT_DISCARDED if not code and found is not None and found.gone else code


def _identity(found: Plan) -> dict[str, object]:
    return {"mapping": found.mapping.title, "stream": found.stream.name}


def _counts(found: Plan) -> dict[str, object]:
    return {
        "on_failure_records": found.on_failure_records,
        "gone": found.gone,
        "too_large": found.too_large,
        "shards": found.shards,
    }


def _left_text(found: Plan) -> str:
    title = printable(found.mapping.title)
    if found.is_empty:
        return f"{title}: nothing left to redrive"
    told = count_of(found.on_failure_records, "on-failure record")
    return f"{title}: {count_of(found.records, 'record')} of {told} to redrive"


def _asides(found: Plan) -> list[str]:
    lines = []
    if found.gone:
        lines.append(f"{count_of(found.gone, 'record')} gone from the log since: retention or a crash took them")
    if found.too_large:
        lines.append(f"{count_of(found.too_large, 'record')} too large for any event: left where they are")
    return lines


def _say(text: str) -> None:
    with suppress(OSError):
        click.echo(text, err=True)
    sys.stderr.flush()
