"""The report's tables: the rows of a sweep, and what they say as a map of two of its settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from statistics import median

from streamfn.measure.result import Row
from streamfn.measure.scales import shown_number, shown_time


@dataclass(frozen=True, slots=True)
class Setting:
    """Something that differs between rows: its name, its value in a row, and how a value is written."""

    name: str
    of: Callable[[Row], float | None]
    shown: Callable[[float | None], str]


def shown_bytes(size: float | None) -> str:
    """A size in bytes, KiB, MiB or GiB."""
    if size is None:
        return "–"
    for limit, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= limit:
            return f"{size / limit:.3g} {unit}"
    return f"{size:.0f} B"


def _whole(value: float | None) -> str:
    return f"{value or 0:,.0f}"


def _rate(value: float | None) -> str:
    return "max" if value is None else f"{shown_number(value)}/s"


SETTINGS = (
    Setting("batch size", lambda row: row.batch_size, _whole),
    Setting("workers", lambda row: row.workers, _whole),
    Setting("record size", lambda row: row.record_size, shown_bytes),
    Setting("offered", lambda row: row.rate_offered, _rate),
)


def named(row: Row) -> str:
    """What tells a row from others, in words: batch size 100, workers 2, record size 1 KiB, offered 50k/s."""
    return ", ".join(f"{setting.name} {setting.shown(setting.of(row))}" for setting in SETTINGS)


def differing(rows: Sequence[Row]) -> list[Setting]:
    """The settings that were swept, that with the most values first."""
    found = [setting for setting in SETTINGS if len({setting.of(row) for row in rows}) > 1]
    return sorted(found, key=lambda setting: -len({setting.of(row) for row in rows}))


def rows_table(rows: Sequence[Row], best: int) -> str:
    """All rows with their figures, the best one marked; what matters most comes first, as a phone shows no more."""
    offered = [SETTINGS[-1]] if any(row.rate_offered is not None for row in rows) else []
    settings, last = SETTINGS[:-1], ("p50", "p99.9", "max", "errors", "CPU/record")
    heads = ["", *(s.name for s in settings), "records/s", "p99", *(s.name for s in offered), *last]
    body = []
    for number, row in enumerate(rows):
        mark, kind = ("★", ' class="best"') if number == best else ("", "")
        cells = [mark, *(s.shown(s.of(row)) for s in settings), shown_number(row.rate_achieved), _time(row, 99)]
        cells += [s.shown(s.of(row)) for s in offered]
        cells += [_time(row, 50), _time(row, 99.9), _time(row, 100), f"{row.errors:,}", cpu_per_record(row)]
        body.append(f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    head, content = "".join(f"<th>{escape(head)}</th>" for head in heads), "".join(body)
    table = f'<table class="wide"><thead><tr>{head}</tr></thead><tbody>{content}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def cpu_per_record(row: Row) -> str:
    """CPU time of runtime and workers for one record."""
    parts = [us for us in (row.runtime_us_per_record, row.workers_us_per_record) if us is not None]
    return shown_time(sum(parts) * 1000) if parts else "–"


def heat_maps(rows: Sequence[Row], best: int) -> list[tuple[str, str]]:
    """Titles and maps, records per second first and then p99, for each combination of what a map has no axis for."""
    settings = differing(rows)
    if not settings:
        return []
    across, down, rest = settings[0], settings[1] if len(settings) > 1 else None, settings[2:]
    found = []
    for figure in FIGURES:
        values = [figure.of(row) for row in rows]
        heat = _heat([value for value in values if value is not None])
        for combination in product(*(_values(setting, rows) for setting in rest)):
            fixed = list(zip(rest, combination, strict=True))
            places: dict[Place, list[int]] = {}
            for number, row in enumerate(rows):
                if values[number] is not None and all(setting.of(row) == value for setting, value in fixed):
                    places.setdefault((across.of(row), down.of(row) if down else None), []).append(number)
            cells = {}
            for place, numbers in places.items():
                value = median(value for number in numbers if (value := values[number]) is not None)
                cells[place] = Cell(figure.shown(value), heat(value), best in numbers)
            where = "".join(f" · {setting.name} {setting.shown(value)}" for setting, value in fixed)
            found.append((figure.title + where, _map(figure.kind, across, down, rows, cells)))
    return found


Place = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """What a map shows: title, look in the style sheet, value in a row (None: there is none), and how it is written."""

    title: str
    kind: str
    of: Callable[[Row], float | None]
    shown: Callable[[float], str]


FIGURES = (
    Figure("Records per second", "more", lambda row: row.rate_achieved, shown_number),
    Figure("p99 latency", "longer", lambda row: row.latency.percentile(99) if row.latency.total else None, shown_time),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A field of a map: its text, how dark it is (0 to 1), and whether the best row is in it."""

    text: str
    heat: float
    best: bool


def _map(kind: str, across: Setting, down: Setting | None, rows: Sequence[Row], cells: Mapping[Place, Cell]) -> str:
    columns = _values(across, rows)
    above = f'<tr><th></th><th colspan="{len(columns)}">{escape(across.name)}</th></tr>'
    values = "".join(f"<th>{escape(across.shown(value))}</th>" for value in columns)
    head = f"{above}<tr><th>{escape(down.name) if down else ''}</th>{values}</tr>"
    body = []
    for line in _values(down, rows) if down else [None]:
        found = [f"<th>{escape(down.shown(line)) if down else ''}</th>"]
        for column in columns:
            cell = cells.get((column, line))
            if cell is None:
                found.append('<td class="none">–</td>')
            else:
                mark = ' class="best"' if cell.best else ""
                found.append(f'<td{mark} style="--heat:{cell.heat:.2f}">{escape(cell.text)}</td>')
        body.append(f"<tr>{''.join(found)}</tr>")
    return (
        f'<div class="scroll"><table class="heat {kind}"><thead>{head}</thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _values(setting: Setting, rows: Sequence[Row]) -> list[float | None]:
    """In ascending order; as fast as possible is faster than any rate."""
    return sorted({setting.of(row) for row in rows}, key=lambda value: math.inf if value is None else value)


def _heat(values: Sequence[float]) -> Callable[[float], float]:
    """How dark a value is among these: by its logarithm where they differ more than tenfold."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low > 0 and high > 10 * low:
        return lambda value: math.log(value / low) / math.log(high / low)
    return lambda value: (value - low) / (high - low) if high > low else 0.5


def _time(row: Row, percent: float) -> str:
    return shown_time(row.latency.percentile(percent)) if row.latency.total else "–"
