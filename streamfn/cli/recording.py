"""The work behind `streamfn record`: options, signals, the live line, the summary, the exit code."""

from __future__ import annotations

import re
import time
from contextlib import closing, suppress
from dataclasses import dataclass

import click
import trio
from rich.console import Group, RenderableType
from rich.text import Text

from streamfn.capture.captured import CapturedStream
from streamfn.capture.client import Access
from streamfn.capture.opening import Opened, open_source
from streamfn.capture.outcome import Bounds, RecordResult, ShardTrouble
from streamfn.capture.reading import Beginning, Until
from streamfn.capture.recorder import Recorder
from streamfn.capture.target import Target, parse_target
from streamfn.cli.heed import ENDING
from streamfn.cli.live import LiveDisplay
from streamfn.cli.options import Settings
from streamfn.cli.output import count_of, print_json, printable, shown_age, shown_size
from streamfn.doors.openfiles import allow_open_files
from streamfn.errors import RefusedError
from streamfn.formats.times import parse_time_ms
from streamfn.log.catalog.datadir import DataDir, check_name
from streamfn.log.storage.durability import FSYNC, Durability
from streamfn.measure.recent import Rate

REFRESH_S = 0.2
_SHARDS_SHOWN = 4
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRequest:
    """What `record` was asked for, as it was typed."""

    source: str
    stream: str | None = None
    begin: str = "TRIM_HORIZON"
    until: str | None = None
    duration: str | None = None
    limit: int | None = None
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    durability: Durability = FSYNC


def run_record(settings: Settings, request: RecordRequest) -> int:
    """Record as `streamfn record` does, and return the exit code.

    Raises:
        RefusedError: an option, the source or the stream does not fit; nothing was made.
        FailedError: access is denied, the source or the disk failed; what was recorded is durable.
    """
    target = parse_target(request.source)
    name = request.stream or target.name
    check_name(name)
    parse_beginning(request.begin, 0)
    parse_until(request.until, 0)
    duration_s = parse_duration_s(request.duration)
    access = Access(endpoint_url=request.endpoint_url, region=request.region, profile=request.profile)
    opened = open_source(target, access)
    with closing(opened.source):
        now_ms = opened.described.server_ms
        beginning = parse_beginning(request.begin, now_ms)
        bounds = Bounds(until=parse_until(request.until, now_ms), duration_s=duration_s, limit=request.limit)
        data_dir = DataDir.open(settings.data_dir, create=True)
        captured = CapturedStream.open(
            data_dir,
            name,
            str(target),
            opened.described,
            opened.listed,
            beginning,
            request.durability,
        )
        with closing(captured):
            recording = Recording(target, opened, captured, bounds)
            recording.run(asked=beginning, json_output=settings.json_output)
            return recording.exit_code()


class Recording:
    """One recording, from its first line to its last."""

    def __init__(self, target: Target, opened: Opened, captured: CapturedStream, bounds: Bounds) -> None:
        self._target = target
        self._captured = captured
        self._bounds = bounds
        self._display = LiveDisplay()
        self._opened = opened
        self._recorder: Recorder | None = None
        self._signals: list[int] = []

    def run(self, *, asked: Beginning, json_output: bool) -> None:
        """Record to the end, and print what was done, also where it failed."""
        allow_open_files(4 * len(self._captured.stream.shards))
        try:
            with self._display:
                if self._captured.resumed and asked.type != "TRIM_HORIZON":
                    self.say("--from is ignored: the recording goes on where it was")
                trio.run(self._main)
        finally:
            self._tell(json_output=json_output)

    async def _main(self) -> None:
        """Record; a first signal stops at a durable edge, a second one at once."""
        opened = self._opened
        recorder = self._recorder = Recorder(
            opened.source,
            self._captured,
            opened.described,
            opened.listed,
            opened.pace,
            self._bounds,
            self.say,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(self._heed_signals, recorder)
            nursery.start_soon(self._show, recorder)
            await recorder.run()
            nursery.cancel_scope.cancel()

    async def _heed_signals(self, recorder: Recorder, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*ENDING) as receiver:
            task_status.started()
            async for number in receiver:
                self._signals.append(number)
                if len(self._signals) > 1:
                    recorder.abandon()
                else:
                    self.say("stopping when what has come is durable; again to stop at once")
                    recorder.stop()

    async def _show(self, recorder: Recorder) -> None:
        began = time.monotonic()
        rate = Rate(began)
        while True:
            await trio.sleep(REFRESH_S)
            now = time.monotonic()
            per_second = rate.update(recorder.counts.records, now)
            allow_open_files(4 * len(recorder.lineage.shards))
            text = status_line(recorder, per_second, stopping=bool(self._signals))
            self._display.show(now - began, picture(text, recorder.troubles()), text)

    def say(self, text: str) -> None:
        """Say one line, above the live one."""
        self._display.write(f"streamfn: {printable(text)}\n")

    # ---- the end

    def _tell(self, *, json_output: bool) -> None:
        """Print the summary; nothing if nothing was begun."""
        if self._recorder is None:
            return
        result, name = self._recorder.result(), self._captured.stream.name
        if json_output:
            print_json(self._as_json(result))
            return
        with suppress(OSError):  # that nobody reads it is no failure of the recording
            click.echo(summary_text(name, result), err=True)

    def _as_json(self, result: RecordResult) -> dict[str, object]:
        return {
            "stream": self._captured.stream.name,
            "source": str(self._target),
            "records": result.records,
            "shards": result.shards,
            "bytes": result.bytes,
            "seconds": round(result.seconds, 3),
            "losses": result.losses,
            "ended": result.why,
            "resumed": self._captured.resumed,
            "resumes_at": result.resumes_at,
        }

    def exit_code(self) -> int:
        """The exit code of the reference page."""
        bounded = self._bounds.until is not None or self._bounds.limit is not None
        why = self._recorder.result().why if self._recorder is not None else "abandoned"
        if self._signals and (why == "abandoned" or (bounded and why == "stopped")):
            return 128 + self._signals[-1]
        return 0


# ---- options


def parse_beginning(text: str, now_ms: int) -> Beginning:
    """Return where `--from` begins; `now_ms` is the source's clock, 0 while it is not known.

    Raises:
        RefusedError: it is no position and no time, or a time to come.
    """
    if text.upper() in ("TRIM_HORIZON", "LATEST"):
        return Beginning(text.upper(), now_ms if text.upper() == "LATEST" else None)
    at_ms = _time_ms("--from", text, "TRIM_HORIZON, LATEST or a time")
    if now_ms and at_ms > now_ms:
        raise RefusedError(f"--from {text} is yet to come")
    return Beginning("AT_TIMESTAMP", at_ms)


def parse_until(text: str | None, now_ms: int) -> Until | None:
    """Return where `--until` ends; the source's clock is rounded down to a second, so "now" lasts to its end.

    Raises:
        RefusedError: it is neither now nor a time.
    """
    if text is None:
        return None
    if text.lower() == "now":
        return Until(now_ms + 999, now_ms)
    at_ms = _time_ms("--until", text, "now or a time")
    return Until(at_ms, at_ms)


def parse_duration_s(text: str | None) -> float | None:
    """Return seconds.

    Raises:
        RefusedError: it is no duration, or none at all.
    """
    if text is None:
        return None
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or not float(found[1]):
        raise RefusedError(f"--duration takes a number of s, m, h or d, such as 90s or 10m, not {text!r}")
    return float(found[1]) * _SECONDS[found[2]]


def _time_ms(option: str, text: str, choices: str) -> int:
    try:
        return parse_time_ms(text)
    except ValueError as error:
        raise RefusedError(f"{option} takes {choices}: {error}") from None


# ---- what is shown


def status_line(recorder: Recorder, rate: float, *, stopping: bool) -> str:
    """Return the recording's state as one line of plain text."""
    counts = recorder.counts
    troubled, behind = recorder.troubles(), recorder.behind_ms
    parts = [
        count_of(counts.records, "record"),
        f"{rate:,.0f}/s",
        shown_size(counts.bytes),
        f"{count_of(recorder.reading, 'shard')} of {len(recorder.lineage.shards)}",
    ]
    if behind:
        parts.append(f"{shown_age(behind)} behind")
    elif behind == 0 and not troubled:
        parts.append("caught up")
    if troubled:
        parts.append(f"{count_of(len(troubled), 'shard')} waiting to try again")
    if counts.losses:
        parts.append(f"{count_of(counts.losses, 'range')} trimmed away")
    if stopping:
        parts.append("stopping")
    return " · ".join(parts)


def picture(text: str, troubles: list[ShardTrouble]) -> RenderableType:
    """Return the state as it is drawn on a terminal."""
    rows = [Text(text, overflow="ellipsis", no_wrap=True)]
    for trouble in troubles[:_SHARDS_SHOWN]:
        when = "now" if trouble.next_call_s <= 0 else f"in {shown_age(round(trouble.next_call_s * 1000))}"
        shown = (
            f"  {trouble.shard_id}: {count_of(trouble.failures, 'failure')}, again {when}: {printable(trouble.reason)}"
        )
        rows.append(Text(shown, style="yellow", overflow="ellipsis", no_wrap=True))
    return Group(*rows)


def summary_text(name: str, result: RecordResult) -> str:
    """Return what a recording says at its end."""
    rate = result.records / result.seconds if result.seconds else 0
    text = (
        f"{name}: recorded {count_of(result.records, 'record')} ({shown_size(result.bytes)}) of "
        f"{count_of(result.shards, 'shard')} in {result.seconds:.1f} s ({rate:,.0f} records/s)"
    )
    if result.losses:
        text += f"; {count_of(result.losses, 'range')} had been trimmed away"
    resumes = [f"{shard} {_after(at)}" for shard, at in list(result.resumes_at.items())[:_SHARDS_SHOWN]]
    if resumes:
        more = len(result.resumes_at) - len(resumes)
        text += "\nresumes: " + ", ".join(resumes) + (f" and {more} more shards" if more > 0 else "")
    return text


def _after(sequence_number: str | None) -> str:
    return "at its beginning" if sequence_number is None else f"after {sequence_number}"
