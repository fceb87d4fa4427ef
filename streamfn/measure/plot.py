"""A percentile plot in characters.

Every column is a percentile, on the scale of HdrHistogram's plots; the last one is the maximum. A curve of its own mark
for each histogram; where one climbs by more than a line, the column between is filled.

     10 ms ┤                                          ••
           │                          ••••••••••••••••
           │         •••••••••••••••••
      1 ms ┤    •••••
           │••••
           └┬────┬────────────┬────────────┬───────────┐
           0 % 50 %         90 %         99 %        max
"""

from __future__ import annotations

from collections.abc import Mapping

from streamfn.measure.counts import Counts
from streamfn.measure.scales import Axis, nines, percent_at, percentile_ticks, shown_time, times

HEIGHT = 12
WIDTH_MIN = 40
MARKS = "•+×o#*"


def percentiles(histograms: Mapping[str, Counts], width: int = 80, height: int = HEIGHT) -> str:
    """Latencies by percentile, in lines of at most `width` characters; nothing where nothing was recorded.

    Args:
        histograms: by label, of nanoseconds; with more than one, a last line says which mark is whose.
        width: columns there are, from 40 on.
        height: lines of the plot itself, its axis not among them.
    """
    shown = {label: counts for label, counts in histograms.items() if counts.total}
    if not shown:
        return ""
    highest = max(nines(counts) for counts in shown.values())
    axis = times(shown.values())
    names = _labels(axis, height)
    margin = max(len(name) for name in names.values()) + 1
    columns = max(width, WIDTH_MIN) - margin - 1
    field = [[" "] * columns for _ in range(height)]
    for mark, counts in reversed(list(zip(MARKS * len(shown), shown.values(), strict=False))):
        _draw(field, mark, counts, axis, highest)
    lines = []
    for row in range(height - 1, -1, -1):
        lines.append(f"{names.get(row, ''):>{margin - 1}} {'┤' if row in names else '│'}{''.join(field[row])}".rstrip())
    lines += _bottom(columns, margin, highest)
    if len(shown) > 1:
        lines.append(_legend(list(shown), margin, width))
    return "\n".join(lines)


def _labels(axis: Axis, height: int) -> dict[int, str]:
    """What stands beside which line; of ticks that fall on the same one, the lowest."""
    found: dict[int, str] = {}
    for tick in axis.ticks:
        found.setdefault(_line(axis, tick, height), shown_time(tick))
    return found


def _line(axis: Axis, value: float, height: int) -> int:
    return round(axis.place(value) * (height - 1))


def _draw(field: list[list[str]], mark: str, counts: Counts, axis: Axis, highest: float) -> None:
    columns, before = len(field[0]), None
    for column in range(columns):
        last = column == columns - 1
        value = counts.max if last else counts.percentile(percent_at(highest * column / (columns - 1)))
        line = _line(axis, value, len(field))
        first = line if before is None or line <= before else before + 1
        for row in range(first, line + 1):
            field[row][column] = mark
        before = line


def _bottom(columns: int, margin: int, highest: float) -> list[str]:
    """The axis of percentiles: its line and its names, those left out for which there is no room."""
    line, names = ["─"] * columns, [" "] * (columns + margin + 1)
    line[-1] = "┐"
    free_from, end = 0, columns + margin + 1
    names[end - 3 :] = "max"
    ticks = [(round(place / highest * (columns - 1)), name) for place, name in percentile_ticks(highest)]
    if len(ticks) > 1 and ticks[1][0] + 1 - len(ticks[1][1]) // 2 <= len(ticks[0][1]):
        del ticks[0]  # who looks for 0 % finds it by itself
    for column, name in ticks:
        at = min(max(margin + 1 + column - len(name) // 2, margin), end)
        if at < free_from or at + len(name) > end - 4:
            continue
        line[column] = "┬"
        names[at : at + len(name)] = name
        free_from = at + len(name) + 1
    return [" " * margin + "└" + "".join(line), "".join(names).rstrip()]


def _legend(labels: list[str], margin: int, width: int) -> str:
    """Which mark is whose."""
    text = "  ".join(f"{mark} {label}" for mark, label in zip(MARKS * len(labels), labels, strict=False))
    room = width - margin - 1
    return " " * (margin + 1) + (text if len(text) <= room else text[: room - 1] + "…")
