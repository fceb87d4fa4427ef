"""What `run` shows while it runs, and at its end.

`LiveDisplay` puts a snapshot on standard error: as a picture that changes (`cli.picture`) where that is a terminal, and
as a line now and then where it is not.  Log lines go through it too, so that they do not run into the picture.
`summary_text` is what is said at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from streamfn.cli.output import count_of
from streamfn.cli.picture import RETRYING_SHOWN, Picture, line, retry_line
from streamfn.functions import prices
from streamfn.mapping.observing import Snapshot
from streamfn.mapping.result import RunResult

# A plain line at most so often: seldom enough for a log file, often enough to see that it lives.
PLAIN_INTERVAL_S = 5.0


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
            "retries": self.retries,
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
        # A dumb terminal cannot go back up: it gets lines, as a file does.
        self._drawing = self._enabled and self._console.is_terminal and not self._console.is_dumb_terminal
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
        self.show(snapshot.elapsed_s, Picture(snapshot), line(snapshot))
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
