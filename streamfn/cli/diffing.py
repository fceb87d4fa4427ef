"""`replay --diff`: both handlers run, and what is said of where they differ."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import click
import orjson
import trio
from click.core import ParameterSource

from streamfn.cli.execute import EXIT_DISCARDED, FILES_A_SHARD, Run, carry_out
from streamfn.cli.heed import Heed
from streamfn.cli.live import LiveDisplay
from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, printable
from streamfn.cli.run_options import HandlerFlags, run_options
from streamfn.doors.apart import store_apart
from streamfn.doors.openfiles import allow_open_files
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.logs import LogWriter
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.options import validate
from streamfn.mapping.runtime import Runtime
from streamfn.replay.diffing import Comparison, Diff, Finding, Said, Side, check
from streamfn.replay.stepping import save

EXIT_DIFFERENT = 5

# Of a result so much is shown: the part where it begins to differ.
_CHARS_SHOWN = 300
_CHARS_BEFORE = 100
_CHARS_OF_RECORD = 1_000


def diff(
    settings: Settings,
    sides: tuple[Side, Side],
    starts: Mapping[str, int],
    ends: Mapping[str, int],
    *,
    limit: int | None = None,
    save_event: Path | None = None,
) -> int:
    """Run both handlers over the same part of a stream, say where they differ, and return the exit code: 5 if they do.

    `starts` and `ends` are offsets by shard id, `save_event` is where the event of the first difference goes. Options
    of the sides have been validated.

    Raises:
        RefusedError: an option does not go with comparing.
        StreamfnError: a handler cannot be started, or a shard is damaged; the exit code is the error's.
    """
    for side in sides:
        check(side.options)
    data = DataDir.open(settings.data_dir, create=False)
    display = LiveDisplay()
    with store_apart() as store:
        run = carry_out(
            lambda writer, heed: _DiffRun(sides, starts, ends, limit, store, data, writer, display, heed),
            display,
            json_output=settings.json_output,
        )
    if save_event is not None:
        run.save(save_event)
    return run.end(settings.json_output)


def sides(settings: Settings, flags: HandlerFlags, first: Side, other: str) -> tuple[Side, Side]:
    """The two sides of a comparison: what is replayed, and another handler or stored function with the same options.

    Log lines are written only where that was asked for.

    Raises:
        RefusedError: there is no such function, or an option is not for it.
    """
    mine = first.options
    if click.get_current_context().get_parameter_source("logs") is not ParameterSource.COMMANDLINE:
        mine = replace(mine, logs="none")
    theirs, code_dir = run_options(settings, other, replace(flags, logs=mine.logs), stream=mine.stream)
    theirs = replace(theirs, filters=mine.filters)
    validate(theirs, now_ms=time.time_ns() // 1_000_000)
    return Side(mine, first.code_dir), Side(theirs, code_dir)


class _DiffRun(Run):
    """Signals and the live line are those of a run; what is shown is the work of both handlers."""

    def __init__(
        self,
        sides: tuple[Side, Side],
        starts: Mapping[str, int],
        ends: Mapping[str, int],
        limit: int | None,
        store: Path,
        data: DataDir,
        writer: LogWriter,
        display: LiveDisplay,
        heed: Heed,
    ) -> None:
        names = " and ".join(side.options.target for side in sides)
        shown = replace(sides[0].options, name=names, until_caught_up=True)
        super().__init__(shown, data, writer, display, heed)
        self._sides = sides
        self._starts = starts
        self._ends = ends
        self._limit = limit
        self._store = store
        self._diff: Diff | None = None
        self._began_s = self._ended_s = 0.0
        self._saved: Path | None = None
        self._done = False

    @property
    def store_path(self) -> Path:
        """One that nothing is left of."""
        return self._store

    async def _serve(self, runtime: Runtime) -> None:
        diff = Diff(runtime, self._sides, self._starts, self._ends, self._limit)
        await diff.open()
        self._diff = diff
        allow_open_files(2 * FILES_A_SHARD * len(self._ends))
        self._began_s = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.show)
            try:
                await diff.run()
                self._done = not diff.drained
            finally:
                self._ended_s = time.monotonic()
            nursery.cancel_scope.cancel()

    @property
    def can_drain(self) -> bool:
        """Both handlers run."""
        return self._diff is not None

    def drain(self) -> None:
        """Ask both."""
        assert self._diff is not None
        self._diff.drain()

    def watched(self) -> list[EventSourceMapping]:
        """Both handlers' mappings."""
        if self._diff is None:
            return []
        found = self._diff.comparison
        self.observer.note = f"{count_of(found.records, 'record')} compared, {_differing(found)}"
        return self._diff.mappings

    # ---- the end

    def save(self, path: Path) -> None:
        """Save the event of the first difference that has one.

        Raises:
            FailedError: it cannot be written.
        """
        findings = [] if self._diff is None else self._diff.findings
        event = next((finding.event for finding in findings if finding.rows), None)
        if event is not None:
            save(path, event)
            self._saved = path

    def tell(self, json_output: bool) -> None:
        """Print what was found; nothing if it never came to that."""
        diff = self._diff
        if diff is None:
            return
        told = Told(
            handlers=(self._sides[0].options.target, self._sides[1].options.target),
            stream=self._sides[0].options.stream,
            region=diff.mappings[0].stream.region,
            comparison=diff.comparison,
            findings=diff.findings,
            seconds=self._ended_s - self._began_s,
            is_complete=self._done,
            lost=self._lost,
            saved=self._saved,
        )
        click.echo(json.dumps(told.to_json()) if json_output else told.text(), nl=json_output)

    @property
    def interrupted(self) -> bool:
        """A signal ended it before everything was compared."""
        return bool(self._signals) and not self._done

    @property
    def _lost(self) -> int:
        """Records that damage has taken."""
        return 0 if self._diff is None else max(mapping.counts.lost for mapping in self._diff.mappings)

    def exit_code(self) -> int:
        """The exit code of the reference page."""
        if self.interrupted:
            return 128 + self._signals[-1]
        if self._diff is not None and self._diff.comparison.different:
            return EXIT_DIFFERENT
        return EXIT_DISCARDED if self._lost else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a comparison came to.

    `region` is the stream's; `lost` counts records that damage has taken from both; `saved` is where the event of the
    first difference is.
    """

    handlers: tuple[str, str]
    stream: str
    region: str
    comparison: Comparison
    findings: list[Finding]
    seconds: float
    is_complete: bool = True
    lost: int = 0
    saved: Path | None = None

    def to_json(self) -> dict[str, object]:
        """For programs."""
        found = self.comparison
        return {
            "handler": self.handlers[0],
            "other": self.handlers[1],
            "stream": self.stream,
            "records": found.records,
            "batches": found.batches,
            "different": found.different,
            "uncompared": found.uncompared,
            "lost": self.lost,
            "complete": self.is_complete,
            "differences": [self._finding_json(finding) for finding in self.findings],
            "saved_event": None if self.saved is None else str(self.saved),
            "seconds": round(self.seconds, 3),
        }

    def _finding_json(self, finding: Finding) -> dict[str, object]:
        from streamfn.cli.tailing import json_line

        shard_id, first_offset, end_offset, records = finding.place
        only = finding.rows[0] if len(finding.rows) == 1 else None
        one, other = finding.said
        return {
            "shard_id": shard_id,
            "first_offset": first_offset,
            "end_offset": end_offset,
            "records": records,
            "record": None if only is None else orjson.loads(json_line(self.region, shard_id, only)),
            "again": finding.alone,
            "result": None if one is None else one.to_json(),
            "other_result": None if other is None else other.to_json(),
        }

    def text(self) -> str:
        """For people: whole lines."""
        found = self.comparison
        first, second = map(printable, self.handlers)
        head = (
            f"{first} and {second}: {count_of(found.records, 'record')} in "
            f"{count_of(found.batches, 'batch', 'batches')}, {_differing(found)}, {self.seconds:.1f} s"
        )
        if found.uncompared:
            why = "what one of them was given was gone for the other" if self.is_complete else "it was stopped"
            head += f"; {count_of(found.uncompared, 'record')} not compared: {why}"
        if self.lost:
            head += f"; {count_of(self.lost, 'record')} lost"
        lines = [head]
        for finding in self.findings:
            lines += self._finding_lines(finding)
        more = found.different - len(self.findings)
        if more > 0 and self.findings:
            lines.append(f"and {count_of(more, 'more batch', 'more batches')} for which they differ")
        if self.saved is not None:
            lines.append(f"the event of the first is in {self.saved}: streamfn invoke {first} -e {self.saved}")
        return "".join(f"{line}\n" for line in lines)

    def _finding_lines(self, finding: Finding) -> list[str]:
        from streamfn.cli.tailing import text_line

        shard_id, first_offset, _, records = finding.place
        where = f"{shard_id}, offset {first_offset}"
        if not finding.alone:
            what = f"{where}, {count_of(records, 'record')}: they differ there, and agree when called with that again"
            return [what, "  what came before counts for one of them, or time or chance does"]
        if len(finding.rows) == 1:
            line = text_line(shard_id, finding.rows[0]).decode()
            lines = [f"{where}, sequence number {finding.rows[0].sequence_number}", f"  {line[:_CHARS_OF_RECORD]}"]
        else:
            lines = [f"{where}, {count_of(records, 'record')}, of which no half differs by itself"]
        width = max(map(len, self.handlers))
        texts = contrasted(*(_said_text(said) for said in finding.said))
        return lines + [
            f"  {printable(handler):{width}}  {text}" for handler, text in zip(self.handlers, texts, strict=True)
        ]


def contrasted(one: str, other: str) -> tuple[str, str]:
    """Two long texts, cut to where they begin to differ."""
    same = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        same += 1
    return _cut(one, same), _cut(other, same)


def _cut(text: str, same: int) -> str:
    first = max(0, same - _CHARS_BEFORE) if len(text) > _CHARS_SHOWN else 0
    part = text[first : first + _CHARS_SHOWN]
    return ("…" if first else "") + part + ("…" if first + len(part) < len(text) else "")


def _said_text(said: Said | None) -> str:
    if said is None:
        return "(nothing: it was given no record)"
    if said.error_type is not None:
        return printable(f"{said.error_type}: {said.message}")
    return printable(said.response.decode("utf-8", "backslashreplace"))


def _differing(found: Comparison) -> str:
    if not found.different:
        return "no difference"
    return "1 batch differs" if found.different == 1 else f"{found.different:,} batches differ"
