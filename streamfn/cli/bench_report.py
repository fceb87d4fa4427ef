"""What `streamfn bench` says at its end, for people: the table, where the time went, the percentiles as a plot.

Pure functions of a result; every figure is one of the result document's.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    console.print(table(result))
    row = result.rows[result.best]
    if len(result.rows) > 1:
        console.print(Text(f"\nthe best row: {setting_of(row, result)}", style="bold"))
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


def setting_of(row: Row, result: Result) -> str:
    """A row of a sweep in the words of its options: those that differ between the rows."""
    columns = _swept(result)
    parts = [f"{name} {_shown_setting(row, name)}" for name in columns] or [f"batch size {row.batch_size}"]
    return ", ".join(parts)


def _swept(result: Result) -> list[str]:
    names = {"batch size": "batch_size", "workers": "workers", "record size": "record_size"}
    return [name for name, field in names.items() if len({getattr(row, field) for row in result.rows}) > 1]


def _shown_setting(row: Row, name: str) -> str:
    if name == "record size":
        return shown_size(row.record_size)
    return str(row.batch_size if name == "batch size" else row.workers)


def table(result: Result) -> RenderableType:
    """The rows, the best one marked: what was swept over, rates, latencies, processor time, failures."""
    swept = _swept(result)
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    if len(result.rows) > 1:
        found.add_column("")
    for name in swept:
        found.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    offered = any(row.rate_offered is not None for row in result.rows)
    if offered:
        found.add_column("offered\n/s", justify="right", no_wrap=True)
    found.add_column("records\n/s", justify="right", no_wrap=True)
    for name in _PERCENTILES:
        found.add_column(f"{name}\nms", justify="right", no_wrap=True)
    found.add_column("CPU\nµs", justify="right", no_wrap=True)
    errors = any(row.errors or row.discarded for row in result.rows)
    if errors:
        found.add_column("errors", justify="right", no_wrap=True)
    for number, row in enumerate(result.rows):
        best = number == result.best and len(result.rows) > 1
        cells = ["▶" if best else ""] if len(result.rows) > 1 else []
        cells += [_shown_setting(row, name) for name in swept]
        if offered:
            cells.append("max" if row.rate_offered is None else shown_rate(row.rate_offered))
        cells.append(shown_rate(row.rate_achieved))
        latency = milliseconds(row.latency)
        cells += [shown_ms(latency[name]) for name in _PERCENTILES]
        cells.append(_shown_us(row.runtime_us_per_record, row.workers_us_per_record))
        if errors:
            cells.append(f"{row.errors:,}")
        found.add_row(*cells, style="bold green" if best else None)
    return found


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

