"""A snapshot as text: one line of it, and the picture that is drawn on a terminal. Pure functions of plain values.

The picture is put together from lines that are padded by hand: rich's tables measure every cell in every frame, which
costs four times as much (1.5 ms of a processor), and a frame is drawn while handlers want the processors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from streamfn.cli.output import count_of, printable, shown_age
from streamfn.mapping.observing import RetryingShard, Snapshot

# Shards that wait for a retry are shown one by one, up to so many.
RETRYING_SHOWN = 4
_REASON_CHARS = 100
# From so many columns on, four things stand beside each other instead of two.
_WIDE = 150
_LABELS = (9, 14)  # how wide labels are, in the first column and the second
_SPARKS = "▁▂▃▄▅▆▇█"
_IN_ASCII = str.maketrans({"━": "=", "─": "-", "·": "|", "…": "~"})
# With fewer columns than this nothing can be read any more, and lines are cut.
_NARROWEST = 40


def line(snapshot: Snapshot) -> str:
    """Return a snapshot as one line of plain text."""
    workers = snapshot.workers
    parts = [
        count_of(snapshot.records, "record"),
        f"{snapshot.records_per_second:,.0f}/s",
        f"lag {snapshot.lag_records:,}" + ("" if snapshot.lag_ms is None else f" ({shown_age(snapshot.lag_ms)})"),
    ]
    if snapshot.left_s is not None:
        parts.append(_left(snapshot, snapshot.left_s))
    if snapshot.latency_ms:
        parts.append(f"p50 {_shown_ms(snapshot.latency_ms['p50'])}, p99 {_shown_ms(snapshot.latency_ms['p99'])}")
    parts.append(count_of(snapshot.errors, "error"))
    short = workers.ready != workers.maximum
    parts.append(f"{workers.ready}/{workers.maximum} workers" if short else count_of(workers.maximum, "worker"))
    if snapshot.note:
        parts.append(printable(snapshot.note))
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
    return ", ".join(_waiting(shard))


def _waiting(shard: RetryingShard) -> tuple[str, str]:
    """What has failed; and when it is tried again, and why it failed."""
    when = "now" if shard.next_attempt_s <= 0 else f"in {shown_age(round(shard.next_attempt_s * 1000))}"
    what = f"{count_of(shard.records, 'record')} from offset" if shard.records else "the window before offset"
    failed = f"{shard.shard_id}: {what} {shard.first_offset} failed {count_of(shard.attempt, 'time')}"
    return failed, f"again {when}: {_reason(shard.reason)}"


class Picture:
    """A snapshot as it is drawn on a terminal, in as many columns as there are just then."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text in lines(self._snapshot, options.max_width, sparks="" if options.ascii_only else _SPARKS):
            if options.ascii_only:  # a character for each, so that the colours stay where they are
                text.plain = text.plain.translate(_IN_ASCII)
            yield text


def lines(snapshot: Snapshot, width: int, sparks: str = _SPARKS) -> Iterator[Text]:
    """Yield the picture's lines, for so many columns; `sparks` are the characters of a history, "": it is left out."""
    width = max(width, _NARROWEST)
    if snapshot.name:
        yield from _heading(snapshot, width)
    if snapshot.total_records:
        yield _bar(snapshot, snapshot.total_records, width)
    cells = _cells(snapshot, sparks)
    columns = 4 if width >= _WIDE else 2
    column = width // columns
    if columns == 4:
        yield _row([cells["records"], cells["rate"], cells["lag"], cells["iterator age"]], [column] * 4)
        yield _row([cells["latency"], cells["workers"]], [2 * column, width - 2 * column])
        yield _row([cells["errors"]], [width])
    else:
        yield _row([cells["records"], cells["rate"]], [column, width - column])
        yield _row([cells["lag"], cells["iterator age"]], [column, width - column])
        for name in ("latency", "errors", "workers"):
            yield _row([cells[name]], [width])
    yield from _news(snapshot, width)


def _heading(snapshot: Snapshot, width: int) -> Iterator[Text]:
    clock = _shown_clock(snapshot.elapsed_s)
    name, note = printable(snapshot.name), printable(snapshot.note)
    beside = bool(note) and cell_len(name) + 2 + cell_len(note) < width - len(clock)
    text = Text(overflow="ellipsis", no_wrap=True).append(name, style="bold")
    if beside:
        text.append(f"  {note}", style="dim")
    text.truncate(width - len(clock) - 1, overflow="ellipsis", pad=True)
    yield text.append(f" {clock}", style="dim")
    if note and not beside:
        yield Text(f"  {note}", style="dim", overflow="ellipsis", no_wrap=True)


def _bar(snapshot: Snapshot, total: int, width: int) -> Text:
    share = min(snapshot.records / total, 1.0)
    percent = f" {int(100 * share):3d}%"
    left = "" if snapshot.left_s is None else f"  {_left(snapshot, snapshot.left_s)}"
    room = width - len(percent) - 24
    full = int(room * share)
    text = Text(overflow="ellipsis", no_wrap=True).append("━" * full, style="cyan")
    text.append("─" * (room - full), style="bright_black")  # another stroke: there may be no colours
    return text.append(percent, style="bold").append(left)


def _cells(snapshot: Snapshot, sparks: str) -> dict[str, tuple[str, str, str]]:
    """Label, text and style of each thing that is shown."""
    records = f"{snapshot.records:,}"
    if snapshot.total_records:
        records += f" of {snapshot.total_records:,}"
    lag = f"{snapshot.lag_records:,}"
    if not snapshot.total_records and snapshot.left_s is not None:
        lag += f", {_left(snapshot, snapshot.left_s)}"
    latency = " · ".join(f"{name} {_shown_ms(value)}" for name, value in snapshot.latency_ms.items())
    errors = [f"{snapshot.errors:,}"]
    if snapshot.retries or snapshot.retrying:
        errors.append(count_of(snapshot.retries, "retry", "retries"))
    if snapshot.discarded:
        errors.append(f"{snapshot.discarded:,} discarded")
    census = snapshot.workers
    states = {
        "busy": census.busy,
        "held up": census.held_up,
        "idle": census.idle,
        "starting": census.starting,
        "retiring": census.retiring,
    }
    workers = " · ".join(f"{count:,} {state}" for state, count in states.items() if count) or "none"
    if census.ready < census.maximum:
        workers += f" (of {census.maximum:,})"
    bad = bool(snapshot.errors or snapshot.discarded)
    return {
        "records": ("records", records, ""),
        "rate": ("throughput", f"{snapshot.records_per_second:,.0f}/s {_sparkline(snapshot.history, sparks)}", "green"),
        "lag": ("lag", lag, ""),
        "iterator age": ("iterator age", "none" if snapshot.lag_ms is None else shown_age(snapshot.lag_ms), ""),
        "latency": ("latency", latency or "none", ""),
        "errors": ("errors", " · ".join(errors), "red" if bad else ""),
        "workers": ("workers", workers, "" if census.ready else "yellow"),
    }


def _row(cells: Sequence[tuple[str, str, str]], widths: Sequence[int]) -> Text:
    text = Text(overflow="ellipsis", no_wrap=True)
    for index, ((label, value, style), width) in enumerate(zip(cells, widths, strict=True)):
        room = width - (label_width := _LABELS[index > 0])
        last = index == len(cells) - 1
        text.append(label.ljust(label_width), style="dim")
        if len(value) > room - (not last):
            value = value[: room - 1 - (not last)] + "…"
        text.append(value if last else value.ljust(room), style=style or "none")
    return text


def _news(snapshot: Snapshot, width: int) -> Iterator[Text]:
    """Yield what somebody should know of who looks: what waits for what, and the last error."""
    shown = list(snapshot.retrying[:RETRYING_SHOWN])
    for shard in shown:
        whole = [f"  {retry_line(shard)}"]
        if cell_len(whole[0]) > width:  # the reason must not be what is cut off
            what, why = _waiting(shard)
            whole = [f"  {what}", f"    {why}"]
        for text in whole:
            yield Text(text, style="yellow", overflow="ellipsis", no_wrap=True)
    if len(snapshot.retrying) > len(shown):
        yield Text(f"  and {count_of(len(snapshot.retrying) - len(shown), 'more shard')}", style="yellow")
    error = snapshot.last_error
    if error is not None and not any(shard.reason == error.reason for shard in shown):
        ago = shown_age(max(0, snapshot.now_ns - error.at_ns) // 1_000_000)
        where = f"{error.shard_id}, offset {error.offset}"
        text = f"  last error {ago} ago: {_reason(error.reason)} ({where})"
        yield Text(text, style="red", overflow="ellipsis", no_wrap=True)
    if snapshot.no_worker is not None:
        text = f"  no new worker, tried again: {_reason(snapshot.no_worker)}"
        yield Text(text, style="yellow", overflow="ellipsis", no_wrap=True)
    if snapshot.paused is not None:
        yield Text(f"  paused: {_reason(snapshot.paused)}", style="yellow", overflow="ellipsis", no_wrap=True)
    if snapshot.draining:
        yield Text("  stopping at the edge of a batch", style="yellow", overflow="ellipsis", no_wrap=True)


def _left(snapshot: Snapshot, left_s: float) -> str:
    """When it is over: of a run that ends, what is left; of one that follows the stream, when it has caught up."""
    about = "under 1 s" if left_s < 1 else f"{left_s:.0f} s" if left_s < 59.5 else shown_age(round(left_s) * 1000)
    return f"{about} left" if snapshot.total_records else f"caught up in {about}"


def _sparkline(history: Sequence[float], sparks: str) -> str:
    """The history as far as there is room for it; the highest point is the highest of those shown."""
    shown = history[-12:]
    most = max(shown, default=0)
    if not sparks or len(shown) < 2 or most <= 0:
        return ""
    return "".join(sparks[round(max(0, value) / most * (len(sparks) - 1))] for value in shown)


def _shown_ms(ms: float) -> str:
    """A latency with two or three digits that mean something: 0.012 ms, 0.85 ms, 8.1 ms, 120 ms, 1.2 s."""
    if ms >= 999.5:
        return shown_age(round(ms))
    return f"{ms:.0f} ms" if ms >= 9.95 else f"{ms:.1f} ms" if ms >= 0.995 else f"{ms:.2g} ms"


def _shown_clock(seconds: float) -> str:
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"


def _reason(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= _REASON_CHARS else shown[: _REASON_CHARS - 1] + "…"
