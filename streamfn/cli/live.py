"""What `run` shows while it runs, and at its end.

Rendering only: `line`, `picture` and `summary_text` are pure functions of plain values.  `LiveDisplay` puts
them on standard error, as one line that changes where that is a terminal, and as a line now and then where
it is not.  Log lines go through it too, so that they do not run into the changing one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamfn.cli.output import count_of, printable, shown_age
from streamfn.functions import prices
from streamfn.mapping.result import RunResult

# A plain line at most so often: seldom enough for a log file, often enough to see that it lives.
PLAIN_INTERVAL_S = 5.0
# Shards that wait for a retry are shown one by one, up to so many.
RETRYING_SHOWN = 4
_REASON_CHARS = 100
_REFRESH_PER_SECOND = 8


class Rate:
    """Records a second, of late: each new look counts for three tenths.  Times are seconds of one monotonic clock."""

    def __init__(self, now_s: float) -> None:
        self._looked_s = now_s
        self._records = 0
        self._per_second = 0.0

    def update(self, records: int, now_s: float) -> float:
        """Return the rate, now that there are so many records in all."""
        fresh = (records - self._records) / (now_s - self._looked_s)
        self._records, self._looked_s = records, now_s
        self._per_second = fresh if not self._per_second else 0.7 * self._per_second + 0.3 * fresh
        return self._per_second


@dataclass(frozen=True, slots=True)
class RetryingShard:
    """A shard that waits to try its failed batch again.

    `attempt` counts the attempts that have failed; `next_attempt_s` is how far off the next one is, 0 while
    it is running; `reason` is the error's type and message.
    """

    shard_id: str
    attempt: int
    reason: str
    next_attempt_s: float
    first_offset: int
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A running mapping at one moment.

    Attributes:
        elapsed_s: since the start of the run.
        records: finished by this run.
        records_per_second: of late, not over the whole run.
        lag_records: not finished yet: up to the committed end, or to where a run until caught up ends.
        lag_ms: age of the oldest record that is not finished (iterator age); None if there is none.
        errors: failed invocations.
        workers: ready to work, and how many there should be.
        total_records: what this run has to do in all; None if it follows the stream.
        retrying: shards that wait for a retry.
        discarded: records that this run has given up.
        paused: why hand-over pauses (no disk space), if it does.
        draining: whether a signal has asked it to end.
    """

    elapsed_s: float
    records: int
    records_per_second: float
    lag_records: int
    lag_ms: int | None
    errors: int
    workers: tuple[int, int]
    total_records: int | None = None
    retrying: Sequence[RetryingShard] = ()
    discarded: int = 0
    paused: str | None = None
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary(RunResult):
    """What a run did, and of which mapping.

    `remaining` is what is not finished.  `resumed` says that an earlier run had left a checkpoint; `position_ignored`
    that a starting position was given and therefore not looked at.
    """

    name: str
    stream: str
    remaining: int = 0
    resumed: bool = False
    position_ignored: bool = False

    def to_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return {
            "mapping": self.name,
            "stream": self.stream,
            "records": self.records,
            "batches": self.batches,
            "errors": self.errors,
            "discarded": self.discarded,
            "trimmed": self.trimmed,
            "lost": self.lost,
            "on_failure_pending": self.on_failure_pending,
            "filtered": self.filtered,
            "windows_closed": self.windows_closed,
            "windows_given_up": self.windows_given_up,
            "open_windows": dict(self.open_windows),
            "seconds": round(self.seconds, 3),
            "records_per_second": round(self.records_per_second),
            "billed_duration_ms": self.billed_duration_ms,
            "gb_seconds": None if self.gb_seconds is None else round(self.gb_seconds, 6),
            "estimated_price_usd": None if self.estimated_price_usd is None else round(self.estimated_price_usd, 9),
            "remaining": self.remaining,
            "resumed": self.resumed,
        }


def line(snapshot: Snapshot) -> str:
    """Return a snapshot as one line of plain text."""
    ready, wanted = snapshot.workers
    parts = [
        count_of(snapshot.records, "record"),
        f"{snapshot.records_per_second:,.0f}/s",
        f"lag {snapshot.lag_records:,}" + ("" if snapshot.lag_ms is None else f" ({shown_age(snapshot.lag_ms)})"),
        count_of(snapshot.errors, "error"),
        f"{ready}/{wanted} workers" if ready != wanted else count_of(wanted, "worker"),
    ]
    if snapshot.discarded:
        parts.append(f"{snapshot.discarded:,} discarded")
    if snapshot.retrying:
        parts.append(f"{count_of(len(snapshot.retrying), 'shard')} waiting to retry")
    if snapshot.paused is not None:
        parts.append(f"paused: {snapshot.paused}")
    if snapshot.draining:
        parts.append("stopping at the edge of a batch")
    return " · ".join(parts)


def retry_line(shard: RetryingShard) -> str:
    """Return why a shard waits, and for what, as one line of plain text."""
    reason = printable(shard.reason)
    reason = reason if len(reason) <= _REASON_CHARS else reason[: _REASON_CHARS - 1] + "…"
    when = "now" if shard.next_attempt_s <= 0 else f"in {shown_age(round(shard.next_attempt_s * 1000))}"
    what = f"{count_of(shard.records, 'record')} from offset" if shard.records else "the window before offset"
    return (
        f"{shard.shard_id}: {what} {shard.first_offset} failed "
        f"{count_of(shard.attempt, 'time')}, again {when}: {reason}"
    )


def picture(snapshot: Snapshot) -> RenderableType:
    """Return a snapshot as it is drawn on a terminal."""
    rows: list[RenderableType] = []
    status = Text(line(snapshot), overflow="ellipsis", no_wrap=True)
    if snapshot.total_records:
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(snapshot.total_records, min(snapshot.records, snapshot.total_records), width=24)
        percent = f"{100 * min(snapshot.records / snapshot.total_records, 1):3.0f}%"
        grid.add_row(bar, percent, status)
        rows.append(grid)
    else:
        rows.append(status)
    for shard in snapshot.retrying[:RETRYING_SHOWN]:
        rows.append(Text("  " + retry_line(shard), style="yellow", overflow="ellipsis", no_wrap=True))
    if len(snapshot.retrying) > RETRYING_SHOWN:
        rows.append(Text(f"  and {len(snapshot.retrying) - RETRYING_SHOWN} more shards", style="yellow"))
    return Group(*rows)


def summary_text(summary: RunSummary) -> str:
    """Return what a run says at its end: one line, or two."""
    counts = (summary.records, summary.errors, summary.discarded, summary.remaining, summary.trimmed, summary.lost)
    if not any(counts) and not summary.filtered and not summary.windows_closed:
        text = f"{summary.name}: nothing left to do"
    else:
        text = (
            f"{summary.name}: {count_of(summary.records, 'record')} "
            f"in {count_of(summary.batches, 'batch', 'batches')}, {summary.seconds:.1f} s, "
            f"{summary.records_per_second:,.0f} records/s, {count_of(summary.errors, 'error')}"
        )
    if summary.discarded:
        text += f", {count_of(summary.discarded, 'record')} discarded"
    if summary.trimmed:
        text += f", {count_of(summary.trimmed, 'record')} trimmed before they were handed over"
    if summary.lost:
        text += f", {count_of(summary.lost, 'record')} lost"
    if summary.filtered:
        text += f", {count_of(summary.filtered, 'record')} filtered out"
    if summary.windows_closed:
        text += f", {count_of(summary.windows_closed, 'window')} closed"
    if summary.windows_given_up:
        text += f", {count_of(summary.windows_given_up, 'window')} given up"
    if summary.remaining:
        text += f"; {count_of(summary.remaining, 'record')} left, run it again to go on there"
    if summary.on_failure_pending:
        pending = count_of(summary.on_failure_pending, "on-failure record")
        text += f"\n{pending} pending: the next run carries what its destination did not take"
    if summary.open_windows:
        text += f"\nopen windows, which go on with the next run: {_ends_of(summary.open_windows)}"
    if summary.billed_duration_ms and summary.gb_seconds is not None:
        text += f"\n{_bill_of(summary)}"
    if summary.position_ignored:
        text += "\nthe starting position was ignored: the mapping went on from its checkpoint"
    return text


def _bill_of(summary: RunSummary) -> str:
    """Return what Lambda would have billed, and by which rates."""
    rates = prices.rates()
    dollars = summary.estimated_price_usd or 0.0
    price = f"about ${dollars:.6f}" if dollars >= 1e-6 else "less than $0.000001"
    return (
        f"billed {summary.billed_duration_ms:,} ms, {summary.gb_seconds:,.3f} GB-seconds: "
        f"{price} in Lambda ({rates.region}, {rates.architecture}, {rates.as_of})"
    )


def _ends_of(open_windows: Mapping[str, str]) -> str:
    """Return when the windows end, shard by shard; many shards are counted, not listed."""
    shown = [f"{shard} until {end}" for shard, end in list(open_windows.items())[:4]]
    if len(open_windows) > len(shown):
        shown.append(f"{len(open_windows) - len(shown)} more")
    return ", ".join(shown)


class LiveDisplay:
    """Shows snapshots on standard error; a context manager.  Not thread-safe.

    `enabled` False shows no snapshots at all, but writes what `write` is given.
    """

    def __init__(self, *, enabled: bool = True, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._enabled = enabled
        self._live: Live | None = None
        self._drawing = False  # between enter and exit, on a terminal
        self._held = False
        self._next_line_s = PLAIN_INTERVAL_S
        self._last_retrying: set[str] = set()

    def __enter__(self) -> LiveDisplay:
        self._drawing = self._enabled and self._console.is_terminal
        self._settle()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drawing = False
        self._settle()

    def hold(self) -> None:
        """Show nothing until `release`: a question is about to be on the terminal.  From any thread.

        What is drawn goes with the next `write`, which still writes.
        """
        self._held = True

    def release(self) -> None:
        """Show again what `update` is given.  From any thread."""
        self._held = False

    def _settle(self) -> None:
        """Draw where that is wanted, and do not where it is not."""
        wanted = self._drawing and not self._held
        if wanted and self._live is None:
            # Redirection off: what is printed meanwhile comes through `write`.
            self._live = Live(
                console=self._console,
                refresh_per_second=_REFRESH_PER_SECOND,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        elif not wanted and self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, snapshot: Snapshot) -> None:
        """Show a snapshot: on a terminal at once, else every PLAIN_INTERVAL_S and when a retry begins."""
        self.show(snapshot.elapsed_s, picture(snapshot), line(snapshot))
        if not self._enabled or self._held or self._live is not None:
            return
        retrying = {shard.shard_id for shard in snapshot.retrying}
        news = [shard for shard in snapshot.retrying if shard.shard_id not in self._last_retrying]
        self._last_retrying = retrying
        for shard in news[:RETRYING_SHOWN]:
            click.echo(retry_line(shard), err=True)

    def show(self, elapsed_s: float, drawn: RenderableType, text: str) -> None:
        """Show `drawn` on a terminal at once; elsewhere `text`, every PLAIN_INTERVAL_S."""
        self._settle()
        if not self._enabled or self._held:
            return
        if self._live is not None:
            self._live.update(drawn, refresh=True)
        elif elapsed_s >= self._next_line_s:
            self._next_line_s = elapsed_s + PLAIN_INTERVAL_S
            click.echo(text, err=True)

    def write(self, text: str) -> None:
        """Write whole lines, of logs or news, above the changing line.  They go out as they are.

        While it is held they may be the beginning of a line, too.
        """
        self._settle()
        if self._live is None:
            sys.stderr.write(text)
            sys.stderr.flush()
        else:
            self._console.print(Text(text.removesuffix("\n")), soft_wrap=True)
