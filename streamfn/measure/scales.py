"""Axes for what is plotted: which ticks, how they are written, and the scale on which percentiles lie.

Times are nanoseconds. A percentile's place is -log10(1 - p): 90 % lies at 1, 99 % at 2, so that the tail has the room
that it needs; it is the scale of HdrHistogram's own plots.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamfn.measure.counts import Counts

_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
# Beyond five nines a run has too few records to say anything, whatever it has recorded.
NINES_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Axis:
    """From a value to its place, 0.0 (the lowest) to 1.0 (the highest), on a linear or a logarithmic scale."""

    low: float
    high: float
    log: bool
    ticks: Sequence[float]

    def place(self, value: float) -> float:
        """Where a value lies; what is outside lies at the border."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear(high: float, ticks: int = 5) -> Axis:
    """From 0 to a round number at or above `high`, with some `ticks` round numbers between."""
    high = high if high > 0 else 1.0
    step = _round_up(high / ticks)
    number = math.ceil(high / step - 1e-9)
    return Axis(0.0, step * number, False, [step * place for place in range(number + 1)])


def logarithmic(low: float, high: float) -> Axis:
    """Between powers of ten, or 1-2-5 steps where that is less than three of them, around `low` and `high`."""
    low = max(low, 1.0)
    high = max(high, low)
    steps = (1.0, 2.0, 5.0)
    found = [mantissa * 10.0**power for power in range(-1, 19) for mantissa in steps]
    first = max(place for place, tick in enumerate(found) if tick <= low)
    last = min(place for place, tick in enumerate(found) if tick >= high)
    if last == first:
        last += 1
    low, high = found[first], found[last]
    ticks = found[first : last + 1]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if math.log10(tick) == round(math.log10(tick))]
    return Axis(low, high, True, ticks)


def times(histograms: Iterable[Counts]) -> Axis:
    """An axis for the times in these, logarithmic where they differ more than tenfold; they hold some.

    What is far below the median is no reason for another decade: it lies at the border.
    """
    shown = [counts for counts in histograms if counts.total]
    low = min(max(counts.percentile(0), counts.percentile(50) / 1000) for counts in shown)
    high = max(counts.max for counts in shown)
    return logarithmic(low, high) if low > 0 and high / low > 10 else linear(high)


def shown_time(nanoseconds: float) -> str:
    """Three significant figures and a unit: 0, 850 ns, 12.3 µs, 4.56 ms, 1.2 s."""
    if not nanoseconds:
        return "0"
    for size, unit in _UNITS:
        if nanoseconds >= 0.9995 * size or size == 1.0:
            return f"{_figures(nanoseconds / size)} {unit}"
    raise AssertionError("the last unit takes everything")


def shown_number(value: float) -> str:
    """Three significant figures, thousands as k, millions as M: 0, 950, 12.5k, 3.21M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{_figures(value / size)}{unit}"
    return _figures(value)


def nines(counts: Counts) -> float:
    """How far to the right a histogram's curve goes on the percentiles' scale: as far as its records tell apart."""
    return min(max(math.log10(counts.total), 1.0), NINES_MAX) if counts.total else 1.0


def percent_at(place: float) -> float:
    """The percentile, 0 to 100, at a place on the percentiles' scale."""
    return 100.0 * (1.0 - math.pow(10.0, -place))


def percentile_ticks(highest: float) -> list[tuple[float, str]]:
    """Places on the percentiles' scale up to `highest`, with their names."""
    named = [(0.0, "0 %"), (-math.log10(0.5), "50 %"), (1.0, "90 %")]
    named += [(float(number), f"99{'.' if number > 2 else ''}{'9' * (number - 2)} %") for number in range(2, 6)]
    return [(place, name) for place, name in named if place <= highest + 1e-9]


def _figures(value: float) -> str:
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.0f}"


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * power >= value * (1 - 1e-9))
