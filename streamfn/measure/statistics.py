"""How sure a figure is, and whether two results differ in it: bootstrap over blocks of intervals, or over runs.

What is measured in one interval says something about the next one (a cache fills, a neighbour compiles), so intervals
are not drawn one by one: each run is cut into blocks of consecutive intervals, and blocks are drawn. That sees what
changes within a run and nothing of what differs between runs (where the kernel put the workers, how the clock stood),
which is often more. With three runs a side or more, whole runs are drawn instead; and where the runs of two builds were
taken in turns, pairs of them, so that what was slow for both counts for neither.

    units drawn      from                         sees
    blocks           one or two runs a side       changes within a run
    runs             three and more               what differs between runs
    pairs of runs    as many, taken in turns      the same, less what a pair shares

A figure is estimated on what was drawn, 500 times; the spread of its logarithm is its error. Few units make an
error that is itself uncertain, so the interval takes Student's t with as many degrees of freedom as there are units,
less one a side (Welch). Everything here is pure, and the same input gives the same answer.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import mul
from statistics import NormalDist, stdev

from streamfn.measure.counts import Counts, highest_of, index_of
from streamfn.measure.result import Sample

DRAWS = 500
BLOCKS = 20  # of a run, where it has as many intervals
RUNS_MIN = 3  # from so many on, runs are drawn instead of blocks

Draw = Sequence[int]  # how often each unit was drawn
Statistic = Callable[[Draw], float]


@dataclass(frozen=True, slots=True)
class Unit:
    """What is drawn as a whole: a block of intervals, or a run."""

    records: int
    seconds: float
    cpu_s: float | None
    latency: Counts

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Unit:
        """These intervals together."""
        return cls.together([cls(each.records, each.seconds, each.cpu_s, each.latency) for each in samples])

    @classmethod
    def together(cls, units: Sequence[Unit]) -> Unit:
        """Several of them as one."""
        cpu = [unit.cpu_s for unit in units if unit.cpu_s is not None]
        return cls(
            sum(unit.records for unit in units),
            sum(unit.seconds for unit in units),
            sum(cpu) if len(cpu) == len(units) else None,
            Counts.merged(unit.latency for unit in units),
        )


def blocks(run: Sequence[Sample], number: int = BLOCKS) -> list[Unit]:
    """The intervals of one run in so many blocks of consecutive ones, or as many as there are intervals."""
    number = min(number, len(run))
    edges = [round(place * len(run) / max(1, number)) for place in range(number + 1)]
    return [Unit.of(run[first:end]) for first, end in pairwise(edges)]


@dataclass(frozen=True, slots=True)
class Ratio:
    """B by A: `value`, and the interval that it lies in with the confidence that was asked for."""

    value: float
    low: float
    high: float


# ---- figures


def rate(units: Sequence[Unit]) -> Statistic:
    """Records per second."""
    records, seconds = [unit.records for unit in units], [unit.seconds for unit in units]

    def read(draw: Draw) -> float:
        return _sum(draw, records) / _sum(draw, seconds)

    return read


def cpu(units: Sequence[Unit]) -> Statistic:
    """CPU seconds for a record; every unit knows its own."""
    records, used = [unit.records for unit in units], [unit.cpu_s or 0.0 for unit in units]

    def read(draw: Draw) -> float:
        drawn = _sum(draw, records)
        return _sum(draw, used) / drawn if drawn else math.nan

    return read


def percentile(units: Sequence[Unit], percent: float) -> Statistic:
    """A percentile of the latency in nanoseconds, of all that was drawn together."""
    indexes = sorted({index for unit in units for index in unit.latency.indexes})
    # For each bucket, how many values each unit has in it and below.
    running: list[Sequence[int]] = list(zip(*(_cumulated(unit.latency, indexes) for unit in units), strict=True))
    totals = [unit.latency.total for unit in units]
    # What several units have together lies between what they have alone, but for how counts are rounded: look there.
    own = [index_of(unit.latency.percentile(percent)) for unit in units if unit.latency.total]
    low, high = (bisect_left(indexes, bound) for bound in (min(own, default=0), max(own, default=0)))

    def read(draw: Draw) -> float:
        def below(row: Sequence[int]) -> int:
            found: int = sum(map(mul, draw, row))
            return found

        total = _sum(draw, totals)
        if not total:
            return math.nan
        wanted = max(1, int(percent * total / 100 + 0.5))
        place = bisect_left(running, wanted, low, high + 1, key=below)
        if place in (low, high + 1):
            place = bisect_left(running, wanted, key=below)
        return float(highest_of(indexes[place]))

    return read


def typical(units: Sequence[Unit], percent: float) -> Statistic:
    """The same percentile of a unit in the middle: the median of what each of those drawn has alone.

    A burst in a few of them moves a percentile of all, and not this.
    """
    order = sorted((float(unit.latency.percentile(percent)), place) for place, unit in enumerate(units))

    def read(draw: Draw) -> float:
        half, passed = _sum(draw, [1] * len(order)) / 2, 0
        for value, place in order:
            passed += draw[place]
            if passed >= half:
                return value
        return math.nan

    return read


def _sum(draw: Draw, values: Sequence[float]) -> float:
    found: float = sum(map(mul, draw, values))
    return found


def _cumulated(counts: Counts, indexes: Sequence[int]) -> list[int]:
    own = dict(zip(counts.indexes, counts.counts, strict=True))
    return list(accumulate(own.get(index, 0) for index in indexes))


# ---- errors


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure of everything that was measured, the error of its logarithm, and the degrees of freedom that has."""

    value: float
    error: float
    freedom: int


def estimate(statistic: Statistic, units: int, seed: int = 1) -> Estimate:
    """Work a figure out, and its error by drawing `units` of as many, again and again."""
    value = statistic([1] * units)
    logs = [math.log(found) for draw in _draws(units, seed) if (found := statistic(draw)) > 0]
    if units < 2 or len(logs) < DRAWS // 2 or not value > 0:
        return Estimate(value, math.inf, 0)
    # Units that are drawn from themselves spread less than what they stand for.
    return Estimate(value, stdev(logs) * math.sqrt(units / (units - 1)), units - 1)


def ratio(first: Estimate, second: Estimate, confidence: float) -> Ratio:
    """Second by first, with the interval it lies in; errors that are unknown make it endless."""
    if not (first.value > 0 and second.value > 0):
        return Ratio(math.nan, 0.0, math.inf)
    value = second.value / first.value
    error = math.hypot(first.error, second.error)
    if not math.isfinite(error):
        return Ratio(value, 0.0, math.inf)
    if not error:
        return Ratio(value, value, value)
    freedom = error**4 / sum(each.error**4 / each.freedom for each in (first, second) if each.error)
    return _around(value, error, freedom, confidence)


def paired(first: Statistic, second: Statistic, pairs: int, confidence: float, seed: int = 1) -> Ratio:
    """Second by first where unit i of both belong together: both sides draw the same ones."""
    together = estimate(lambda draw: second(draw) / first(draw), pairs, seed)
    if not together.value > 0 or not math.isfinite(together.error):
        return Ratio(together.value, 0.0, math.inf)
    return _around(together.value, together.error, together.freedom, confidence)


def _around(value: float, error: float, freedom: float, confidence: float) -> Ratio:
    width = math.exp(min(student(confidence, freedom) * error, 700.0))
    return Ratio(value, value / width, value * width)


@lru_cache(maxsize=8)
def _draws(units: int, seed: int) -> list[Draw]:
    chance = random.Random(seed)
    found: list[Draw] = []
    for _ in range(DRAWS):
        draw = [0] * units
        for place in chance.choices(range(units), k=units):
            draw[place] += 1
        found.append(draw)
    return found


def student(confidence: float, freedom: float) -> float:
    """How many errors to either side hold a share of `confidence` of Student's t distribution.

    The distribution's integral, by Simpson's rule after substituting t = sqrt(freedom) tan(x), is searched by halves.
    """
    if freedom > 200:  # the difference is below 1 %, and the integral would want smaller steps
        return NormalDist().inv_cdf(0.5 + confidence / 2)
    norm = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)

    def within(angle: float) -> float:
        steps = 80
        height = angle / steps
        values = [math.pow(math.cos(place * height), freedom - 1) for place in range(steps + 1)]
        weighted = values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2])
        return 2 * norm * height / 3 * weighted

    low, high = 0.0, math.pi / 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(low)
