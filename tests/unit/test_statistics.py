"""How sure a figure is: Student's t, blocks, and intervals that hold as often as they say."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from streamfn.measure.counts import Counts
from streamfn.measure.result import Sample
from streamfn.measure.statistics import (
    Estimate,
    Unit,
    blocks,
    cpu,
    estimate,
    paired,
    percentile,
    rate,
    ratio,
    student,
    typical,
)


@pytest.mark.parametrize(
    ("freedom", "confidence", "errors"),
    [(1, 0.95, 12.706), (2, 0.99, 9.925), (9, 0.99, 3.250), (18, 0.95, 2.101), (30, 0.998, 3.385), (1e9, 0.95, 1.960)],
)
def test_student_is_that_of_the_tables(freedom: float, confidence: float, errors: float) -> None:
    assert student(confidence, freedom) == pytest.approx(errors, abs=0.001)


def sample(records: int, values: Sequence[int] = (), *, seconds: float = 0.1, cpu_s: float | None = None) -> Sample:
    return Sample(records, seconds, Counts.of_values(values), cpu_s=cpu_s)


def test_blocks_are_consecutive_and_leave_nothing_out() -> None:
    run = [sample(number) for number in range(25)]
    cut = blocks(run, 10)
    assert len(cut) == 10
    assert sum(block.records for block in cut) == sum(range(25))
    assert [block.records for block in blocks(run[:3], 10)] == [0, 1, 2]
    assert blocks(run, 5)[0].records == 0 + 1 + 2 + 3 + 4
    assert blocks([], 10) == []


def test_a_unit_whose_parts_do_not_all_know_their_cpu_does_not_know_it() -> None:
    assert Unit.of([sample(1, cpu_s=1.0), sample(1, cpu_s=2.0)]).cpu_s == 3.0
    assert Unit.of([sample(1, cpu_s=1.0), sample(1)]).cpu_s is None


def test_figures_are_of_everything_drawn_together() -> None:
    units = blocks([sample(10, [1000] * 10, cpu_s=0.01), sample(30, [2000] * 30, cpu_s=0.09)])
    assert rate(units)([1, 1]) == pytest.approx(200)
    assert rate(units)([2, 0]) == pytest.approx(100)
    assert cpu(units)([1, 1]) == pytest.approx(0.0025)
    assert cpu(units)([0, 2]) == pytest.approx(0.003)
    assert [percentile(units, 25)(draw) for draw in ([1, 1], [4, 1], [0, 2])] == [1000, 1000, 2000]
    assert percentile(units, 28)([1, 1]) == 2000
    assert math.isnan(percentile(blocks([sample(0), sample(0)]), 50)([1, 1]))


def test_a_percentile_of_what_was_drawn_is_that_of_the_merged_histograms() -> None:
    chance = random.Random(7)
    parts = [sample(50, [int(chance.lognormvariate(12, 1)) for _ in range(50)]) for _ in range(6)]
    units = blocks(parts)
    draw = [2, 0, 1, 3, 0, 0]
    together = Counts.merged(part.latency for part, times in zip(parts, draw, strict=True) for _ in range(times))
    for percent in (1, 50, 90, 99, 99.9, 100):
        assert percentile(units, percent)(draw) == together.percentile(percent)


def test_what_a_typical_unit_says_is_not_moved_by_a_burst_in_a_few() -> None:
    units = [Unit.of([sample(10, [value] * 10)]) for value in (1000, 1001, 1002, 90_000, 91_000)]
    assert typical(units, 99)([1] * 5) == 1002
    assert typical(units, 99)([0, 0, 0, 2, 3]) == Counts.of_values([91_000]).max
    assert typical(units, 99)([3, 0, 0, 1, 1]) == 1000


def test_one_unit_says_nothing_of_its_error() -> None:
    one = blocks([sample(10)])
    alone = estimate(rate(one), 1)
    assert alone == Estimate(100.0, math.inf, 0)
    assert ratio(alone, alone, 0.99).high == math.inf
    assert paired(rate(one), rate(one), 1, 0.99).high == math.inf


def test_what_never_varies_has_no_error() -> None:
    steady = blocks([sample(10)] * 20)
    found = ratio(estimate(rate(steady), 10), estimate(rate(steady), 10), 0.99)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_what_was_never_above_nothing_has_no_ratio() -> None:
    idle, busy = blocks([sample(0)] * 20), blocks([sample(5)] * 20)
    found = ratio(estimate(rate(idle), 10), estimate(rate(busy), 10), 0.99)
    assert math.isnan(found.value)
    assert found.high == math.inf


def runs_of(seed: int, *, slower: float = 1.0, wander: float = 0.9) -> list[Sample]:
    """40 intervals of a machine that wanders: each is mostly as quick as the one before."""
    chance = random.Random(seed)
    level = chance.gauss(0, 0.01)
    found = []
    for _ in range(40):
        level = wander * level + chance.gauss(0, 0.01 * math.sqrt(1 - wander**2))
        found.append(sample(round(10_000 * math.exp(level) / slower)))
    return found


def differing(number: int, slower: float, confidence: float, wander: float) -> int:
    """In how many of so many pairs of runs an interval leaves 1 outside."""
    found = 0
    for seed in range(number):
        first, second = (
            blocks(runs_of(2 * seed, wander=wander)),
            blocks(runs_of(2 * seed + 1, slower=slower, wander=wander)),
        )
        interval = ratio(estimate(rate(first), 10), estimate(rate(second), 10), confidence)
        found += not interval.low <= 1 <= interval.high
    return found


def test_an_interval_of_95_percent_is_wrong_about_as_often_as_it_says() -> None:
    assert 1 <= differing(100, 1.0, 0.95, 0.0) <= 11
    # Where an interval is like its neighbours, blocks of four are nearly enough.
    assert differing(100, 1.0, 0.99, 0.6) <= 5


def test_a_slowdown_of_five_percent_is_seen_through_noise_of_one() -> None:
    assert differing(30, 1.05, 0.99, 0.6) >= 28


def test_pairs_see_what_both_sides_share_as_nothing() -> None:
    """The machine is a third slower in one pair than in another; B is 5 % slower in each."""
    levels = [1.0, 0.7, 1.3, 0.9, 1.1]
    first = [Unit.of([sample(round(10_000 * level))]) for level in levels]
    second = [
        Unit.of([sample(round(9_524 * level * wobble))]) for level, wobble in zip(levels, (1, 1.004) * 3, strict=False)
    ]
    apart = ratio(estimate(rate(first), 5), estimate(rate(second), 5), 0.99)
    assert apart.low < 1 < apart.high
    together = paired(rate(first), rate(second), 5, 0.99)
    assert together.high < 0.97
    assert together.low < 0.9524 < together.high * 1.01
