"""What `streamfn bench` says at its end, for people: the table, where the time went, the percentiles as a plot.

Pure functions of a result; every figure is one of the result document's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from streamfn.cli.output import count_of, shown_size
from streamfn.measure.counts import Counts
from streamfn.measure.plot import percentiles
from streamfn.measure.result import Result, Row, milliseconds
from streamfn.measure.threshold import Outcome

_PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")

# In the order in which a record meets them, and what each of them is.
STAGES = {
    "waiting": "until its batch was due",
    "queueing": "until a worker took the batch",
    "building": "the event built",
    "handler": "the handler",
    "completion": "until the runtime saw the end",
    "checkpoint": "until that was durable",
}

CLOSED_LOOP = (
    "closed loop: the next record came when there was room, and its latency counts from then. A stall is seen by the "
    "few records that were on their way, not by those that would have come meanwhile: --rate has each record due at a "
    "moment of its own, and counts from there."
)


def render(
    result: Result, console: Console, notes: Sequence[str] = (), thresholds: Sequence[Outcome] = ()
) -> None:
    """Show a result; `notes` are what is to be known of the best row."""
    console.print(Text(heading(result), style="bold"))
    console.print(table(result, console.width))
    row = result.rows[result.best]
    if len(result.rows) > 1:
        console.print(Text(f"the best row, {setting_of(row, result)}:", style="bold"))
    console.print(Text(percentiles({"latency": row.latency}, min(console.width, 100))))
    console.print(_stages(row))
    console.print(Text(_used(row)))
    if row.mode == "closed":
        console.print(Text(CLOSED_LOOP, style="dim"))
    for note in notes:
        console.print(Text(note, style="yellow"))
    for outcome in thresholds:
        verdict = Text("kept  ", style="green") if outcome.met else Text("MISSED", style="bold red")
        console.print(Text.assemble(verdict, f"  {outcome.text}: {outcome.shown}"))


_SWEPT = {"batch size": "batch_size", "workers": "workers", "record size": "record_size"}


def setting_of(row: Row, result: Result) -> str:
    """A row of a sweep in the words of its options: those that differ between the rows."""
    return ", ".join(f"{name} {_shown_setting(row, name)}" for name in _swept(result))


def heading(result: Result) -> str:
    """What was measured: whatever all rows have in common."""
    row, swept = result.rows[result.best], _swept(result)
    rates = {each.rate_offered for each in result.rows}
    offered = "closed loop" if row.mode == "closed" else "open loop"
    if len(rates) == 1 and row.rate_offered is not None:
        offered += f", {shown_rate(row.rate_offered)} records/s offered"
    parts = [row.handler, offered]
    for name, text in (
        ("batch size", f"batch size {row.batch_size:,}"),
        ("workers", count_of(row.workers, "worker")),
        ("record size", f"records of {_size(row.record_size)}"),
    ):
        parts += [] if name in swept else [text]
    return " · ".join(parts)


def _swept(result: Result) -> list[str]:
    return [name for name, field in _SWEPT.items() if len({getattr(row, field) for row in result.rows}) > 1]


def _shown_setting(row: Row, name: str) -> str:
    return _size(row.record_size) if name == "record size" else f"{getattr(row, _SWEPT[name]):,}"


def _size(size: int) -> str:
    return shown_size(size).replace(".0 ", " ")


class _Column(NamedTuple):
    """A column of the table; one whose `rank` is above 0 is left out where there is no room, the highest first."""

    title: str
    cells: list[str]
    rank: int = 0

    @property
    def width(self) -> int:
        return max(map(len, [*self.title.split("\n"), *self.cells])) + 2


def table(result: Result, width: int) -> RenderableType:
    """The rows, the best one marked: what was swept over, rates, latencies, processor time, failures."""
    columns = _columns(result, shown_rate)
    if sum(column.width for column in columns) > width:
        columns = _columns(result, _short)
    while sum(column.width for column in columns) > width and max(column.rank for column in columns):
        columns.remove(max(columns, key=lambda column: column.rank))
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        found.add_column(column.title, justify="right", no_wrap=True)
    for number in range(len(result.rows)):
        best = number == result.best and len(result.rows) > 1
        found.add_row(*(column.cells[number] for column in columns), style="bold green" if best else None)
    return found


def _columns(result: Result, rate: Callable[[float], str]) -> list[_Column]:
    rows = result.rows
    latencies = [milliseconds(row.latency) for row in rows]
    columns = []
    if len(rows) > 1:
        columns.append(_Column("", ["▶" if number == result.best else "" for number in range(len(rows))]))
    for name in _swept(result):
        columns.append(_Column(name.replace(" ", "\n"), [_shown_setting(row, name) for row in rows]))
    if any(row.rate_offered is not None for row in rows):
        offered = ["max" if row.rate_offered is None else rate(row.rate_offered) for row in rows]
        columns.append(_Column("offered\n/s", offered, rank=0 if len(set(offered)) > 1 else 5))
    columns.append(_Column("records\n/s", [rate(row.rate_achieved) for row in rows]))
    ranks = {"p90": 4, "p99.9": 3, "max": 1}
    for name in _PERCENTILES:
        columns.append(_Column(f"{name}\nms", [shown_ms(each[name]) for each in latencies], ranks.get(name, 0)))
    columns.append(
        _Column("CPU\nµs", [_shown_us(row.runtime_us_per_record, row.workers_us_per_record) for row in rows], rank=2)
    )
    if any(row.errors for row in rows):
        columns.append(_Column("errors", [rate(row.errors) if row.errors else "0" for row in rows]))
    return columns


def _stages(row: Row) -> RenderableType:
    """Where a record's time went, in the order in which it went there."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    found.add_column("where the time went", no_wrap=True)
    for name in _PERCENTILES:
        found.add_column(f"{name} ms", justify="right", no_wrap=True)
    for name, counts in [*_in_order(row), ("latency", row.latency)]:
        shown = milliseconds(counts)
        label = STAGES.get(name, "all of it" if name == "latency" else name)
        found.add_row(label, *(shown_ms(shown[each]) for each in _PERCENTILES), end_section=name == "checkpoint")
    return found


def _in_order(row: Row) -> list[tuple[str, Counts]]:
    known = [name for name in STAGES if name in row.stages]
    ordered = [*known, *(name for name in row.stages if name not in STAGES)]
    return [(name, row.stages[name]) for name in ordered if row.stages[name].total]


def _used(row: Row) -> str:
    """What it took beside time."""
    parts = []
    if row.runtime_us_per_record is not None and row.workers_us_per_record is not None:
        parts.append(
            f"CPU {row.runtime_us_per_record:.2f} µs a record in the runtime, "
            f"{row.workers_us_per_record:.2f} µs in the workers"
        )
    if row.peak_memory_bytes:
        memory = row.peak_memory_bytes
        parts.append(f"memory {shown_size(memory['runtime'])} and {shown_size(memory['workers'])} at most")
    if row.context_switches:
        switches, faults = row.context_switches, row.page_faults
        parts.append(
            f"{count_of(switches['voluntary'], 'context switch', 'context switches')} wanted, "
            f"{switches['involuntary']:,} not; page faults {faults['minor']:,} minor, {faults['major']:,} major"
        )
    cold = row.cold_starts
    if cold.total:
        parts.append(
            f"{count_of(cold.total, 'cold start')}, p50 {shown_ms(cold.percentile(50) / 1e6)} ms, "
            f"at most {shown_ms(cold.max / 1e6)} ms"
        )
    return "\n".join(parts)


def shown_rate(rate: float) -> str:
    """Records a second, in as many figures as mean something: 0.52, 14.2, 905, 12,340, 1,234,000."""
    if rate < 10:
        return f"{rate:.2f}"
    if rate < 100:
        return f"{rate:.1f}"
    return f"{round(rate):,}"


def _short(rate: float) -> str:
    """The same in three figures: 0.52, 905, 12.3k, 1.23M."""
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if rate >= 999.5 * factor / 1e3:
            scaled = rate / factor
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{unit}"
    return shown_rate(rate)


def shown_ms(ms: float | None) -> str:
    """Milliseconds in three figures or a little more: 0.042, 1.23, 45.6, 1,234; - for none."""
    if ms is None:
        return "-"
    if ms < 1:
        return f"{ms:.3f}"
    if ms < 10:
        return f"{ms:.2f}"
    return f"{ms:.1f}" if ms < 100 else f"{round(ms):,}"


def _shown_us(*parts: float | None) -> str:
    known = [part for part in parts if part is not None]
    return f"{sum(known):.2f}" if known else "-"

