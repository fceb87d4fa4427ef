"""The report's charts as SVG: what is drawn, and where. What it looks like is the style sheet's.

A chart is 560 units wide and is scaled to the room there is, down to half of it on a phone, where the sheet makes the
letters larger; so ticks are few and margins wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from streamfn.measure.counts import Counts
from streamfn.measure.result import Sample
from streamfn.measure.scales import Axis, linear, nines, percent_at, percentile_ticks, shown_number, shown_time, times

WIDTH = 560
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 10, 34
CURVE_STEPS = 160
CROWDED = 3.5  # nines, from which on there is no room for the names of both 0 % and 50 %
BUCKETS_MAX = 150  # of a chart over time; more would be thinner than a line


@dataclass(frozen=True, slots=True)
class Frame:
    """The field of a chart: from values to units."""

    height: int
    across: Axis
    up: Axis

    def x(self, value: float) -> float:
        """Where a value lies, in units from the left."""
        return LEFT + self.across.place(value) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Where a value lies, in units from the top."""
        return self.height - BOTTOM - self.up.place(value) * (self.height - BOTTOM - TOP)

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """A line through the points, as a path's `d`."""
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)


def percentile_chart(best: Counts, others: Mapping[str, Counts]) -> str:
    """Latency by percentile: the best row's curve in front of the others', which have their names as tool tips."""
    everything = [best, *others.values()]
    highest = max(nines(counts) for counts in everything)
    names = _percentile_names(highest)
    frame = Frame(330, Axis(0.0, highest, False, list(names)), times(everything))
    parts = _grid(frame, shown_time, names)
    for name, counts in others.items():
        line = frame.path(_curve(counts, highest))
        parts.append(f'<path class="curve other" d="{line}"><title>{escape(name)}</title></path>')
    parts.append(f'<path class="curve" d="{frame.path(_curve(best, highest))}"/>')
    return _svg(frame.height, f"Latency by percentile, up to {shown_time(best.max)}", parts)


def _percentile_names(highest: float) -> dict[float, str]:
    """What stands under which place; not what would run into its neighbour."""
    names = {place: name for place, name in percentile_ticks(highest) if place < highest * 0.84}
    if highest > CROWDED:
        del names[0.0]
    return {**names, highest: "max"}


def throughput_chart(samples: Sequence[Sample], offered: tuple[float, float] | None) -> str:
    """Records per second over time, and what was offered, at the beginning and at the end, as a dashed line."""
    series = [(start, end, sum(s.records for s in part) / (end - start)) for start, end, part in _buckets(samples)]
    up = linear(max(*(offered or (0.0,)), *(rate for _, _, rate in series)))
    frame = Frame(250, _span(series[-1][1]), up)
    parts = _grid(frame, shown_number, _seconds(frame.across))
    steps = [(moment, rate) for start, end, rate in series for moment in (start, end)]
    ground = [(series[-1][1], 0.0), (0.0, 0.0)]
    parts.append(f'<path class="area" d="{frame.path([*steps, *ground])}Z"/>')
    parts.append(f'<path class="curve" d="{frame.path(steps)}"/>')
    if offered is not None:
        parts.append(f'<path class="offered" d="{frame.path([(0.0, offered[0]), (series[-1][1], offered[1])])}"/>')
    return _svg(frame.height, "Records per second over time", parts)


def latency_chart(samples: Sequence[Sample]) -> str:
    """p50 and p99 of each stretch of time; nothing where nothing was finished."""
    series = [(start, end, Counts.merged(s.latency for s in part)) for start, end, part in _buckets(samples)]
    frame = Frame(250, _span(series[-1][1]), times(counts for _, _, counts in series))
    parts = _grid(frame, shown_time, _seconds(frame.across))
    for percent, kind in ((50, "curve"), (99, "curve second")):
        for stretch in _unbroken(series):
            points = [(moment, counts.percentile(percent)) for start, end, counts in stretch for moment in (start, end)]
            parts.append(f'<path class="{kind}" d="{frame.path(points)}"/>')
    return _svg(frame.height, "Latency over time, p50 and p99", parts)


def stages_chart(stages: Mapping[str, Counts]) -> str:
    """A line a stage: p50 as a dot, up to p99 as a bar, up to the maximum as a thin line."""
    row, top = 40, 8
    height = top + row * len(stages) + BOTTOM
    frame = Frame(height, times(stages.values()), linear(1.0))
    left = 110
    wide = WIDTH - left - RIGHT

    def at(value: float) -> str:
        return f"{left + frame.across.place(value) * wide:.1f}"

    parts = []
    for tick in _thinned(frame.across.ticks, 6):
        parts.append(f'<path class="gridline" d="M{at(tick)} {top}V{height - BOTTOM}"/>')
        parts.append(_text(float(at(tick)), height - 12, shown_time(tick), "middle"))
    for number, (name, counts) in enumerate(stages.items()):
        y = top + row * number + row / 2
        parts.append(_text(left - 12, y + 5, name, "end", "value"))
        if not counts.total:
            continue
        p50, p99 = counts.percentile(50), counts.percentile(99)
        tip = f"{name}: p50 {shown_time(p50)}, p99 {shown_time(p99)}, max {shown_time(counts.max)}"
        parts.append(
            f'<g><title>{escape(tip)}</title><path class="whisker" d="M{at(p99)} {y}H{at(counts.max)}m0 -6v12"/>'
            f'<path class="span" d="M{at(p50)} {y}H{at(p99)}"/><circle class="dot" cx="{at(p50)}" cy="{y}" r="5"/></g>'
        )
    return _svg(height, "Time in each stage: p50, p99 and maximum", parts)


def _curve(counts: Counts, highest: float) -> list[tuple[float, float]]:
    """Points of a percentile curve; those between two equal values are left out."""
    points: list[tuple[float, float]] = []
    for step in range(CURVE_STEPS + 1):
        place = highest * step / CURVE_STEPS
        value = counts.max if step == CURVE_STEPS else counts.percentile(percent_at(place))
        if len(points) > 1 and points[-1][1] == points[-2][1] == value:
            points.pop()
        points.append((place, value))
    return points


def _buckets(samples: Sequence[Sample]) -> list[tuple[float, float, Sequence[Sample]]]:
    """Start, end and samples of stretches of time; neighbours are put together where there are too many."""
    together = -(-len(samples) // BUCKETS_MAX)
    found, start = [], 0.0
    for first in range(0, len(samples), together):
        part = samples[first : first + together]
        end = start + sum(sample.seconds for sample in part)
        if end > start:
            found.append((start, end, part))
        start = end
    return found


def _unbroken(series: Sequence[tuple[float, float, Counts]]) -> list[list[tuple[float, float, Counts]]]:
    """The stretches in which something was recorded."""
    found: list[list[tuple[float, float, Counts]]] = [[]]
    for each in series:
        if each[2].total:
            found[-1].append(each)
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]


def _span(seconds: float) -> Axis:
    """From 0 to the end, wherever that lies; round numbers on the way."""
    return Axis(0.0, seconds, False, [tick for tick in linear(seconds).ticks if tick <= seconds * 1.001])


def _seconds(axis: Axis) -> dict[float, str]:
    return {tick: f"{tick:g} s" if tick else "0" for tick in axis.ticks}


def _grid(frame: Frame, shown: Callable[[float], str], across: Mapping[float, str]) -> list[str]:
    parts = []
    right, ground = WIDTH - RIGHT, frame.height - BOTTOM
    for tick in _thinned(frame.up.ticks, 6):
        y = frame.y(tick)
        parts.append(f'<path class="gridline" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(_text(LEFT - 10, y + 5, shown(tick), "end"))
    for tick, name in across.items():
        x = frame.x(tick)
        parts.append(f'<path class="gridline" d="M{x:.1f} {TOP}V{ground}"/>')
        parts.append(_text(x, frame.height - 10, name, "end" if x > right - 20 else "middle"))
    parts.append(f'<path class="baseline" d="M{LEFT} {ground}H{right}"/>')
    return parts


def _thinned(ticks: Sequence[float], most: int) -> Sequence[float]:
    return ticks[:: -(-len(ticks) // most)]


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: int, name: str, parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'
