"""The percentile plot in characters, and the scales that it shares with the report."""

from __future__ import annotations

import math
import random

import pytest

from streamfn.measure.counts import Counts
from streamfn.measure.plot import percentiles
from streamfn.measure.scales import linear, logarithmic, percent_at, percentile_ticks, shown_number, shown_time

MS = 1_000_000


def drawn(number: int, spread: float = 0.8) -> Counts:
    dice = random.Random(1)
    return Counts.of_values(int(dice.lognormvariate(14, spread)) for _ in range(number))


def test_a_plot_looks_like_this() -> None:
    counts = Counts.of_values([MS] * 900 + [10 * MS] * 90 + [99 * MS] * 10)
    assert percentiles({"latency": counts}, width=60, height=5) == "\n".join((
        "100 ms ┤                                   •••••••••••••••••",
        "       │                                   •",
        " 10 ms ┤                  •••••••••••••••••",
        "       │                  •",
        "  1 ms ┤••••••••••••••••••",
        "       └┬────┬───────────┬────────────────┬────────────────┐",
        "       0 % 50 %        90 %             99 %             max",
    ))  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("number", [1, 9, 1000, 1_000_000])
def test_no_line_is_longer_than_asked_for(width: int, number: int) -> None:
    counts = Counts({index * 37: number for index in range(1, 400)})
    lines = percentiles({"latency": counts, "a rather long name of another row": drawn(500)}, width).splitlines()
    assert max(map(len, lines)) <= width
    assert len({len(line) for line in lines if line.endswith("┐")}) == 1


def test_curves_do_not_fall_from_left_to_right() -> None:
    lines = percentiles({"latency": drawn(5000, 2.0)}, 80, height=20).splitlines()[:20]
    tops = [next(row for row, line in enumerate(lines) if line[column : column + 1] == "•") for column in range(9, 80)]
    assert tops == sorted(tops, reverse=True)


def test_two_histograms_have_their_own_marks_and_say_which() -> None:
    text = percentiles({"batch 1": drawn(500), "batch 100": Counts.of_values([90 * MS] * 100)})
    assert text.splitlines()[-1].split("  ")[-2:] == ["• batch 1", "+ batch 100"]
    assert text.count("•") > 50
    assert text.count("+") > 50


def test_nothing_recorded_is_no_plot() -> None:
    assert percentiles({"latency": Counts()}) == ""
    assert percentiles({}) == ""


def test_one_value_is_a_line_at_it() -> None:
    lines = percentiles({"latency": Counts.of_values([0] * 5)}, 40, height=6).splitlines()
    assert lines[5].count("•") == len(lines[5]) - lines[5].index("•")


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0"), (1, "1 ns"), (999, "999 ns"), (999.6, "1 µs"), (1234, "1.23 µs"), (85_300, "85.3 µs"),
        (999_700, "1 ms"), (12 * MS, "12 ms"), (999.4 * MS, "999 ms"), (1e9, "1 s"), (4398 * 1e9, "4398 s"),
    ],
)  # fmt: skip
def test_times_have_three_figures_and_a_unit(nanoseconds: float, text: str) -> None:
    assert shown_time(nanoseconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7.25, "7.25"), (950, "950"), (999.9, "1k"), (52_345, "52.3k"), (1.2e6, "1.2M"), (3e9, "3G")],
)
def test_numbers_have_three_figures(value: float, text: str) -> None:
    assert shown_number(value) == text


@pytest.mark.parametrize("high", [0, 0.3, 1, 7, 99, 101, 1e6, 123_456_789])
def test_a_linear_axis_goes_from_zero_to_a_round_number_above(high: float) -> None:
    axis = linear(high)
    assert axis.ticks[0] == axis.low == 0
    assert axis.ticks[-1] == pytest.approx(axis.high)
    assert high <= axis.high <= max(2 * high, 1)
    assert 2 <= len(axis.ticks) <= 7
    assert axis.place(axis.high) == 1


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 50), (3, 4), (999, 1001), (20_000, 90 * MS), (1, 2**42), (0, 5)])
def test_a_logarithmic_axis_has_both_ends_and_a_handful_of_ticks(low: float, high: float) -> None:
    axis = logarithmic(low, high)
    assert axis.low <= max(low, 1)
    assert axis.high >= high
    assert 2 <= len(axis.ticks) <= 14
    assert axis.place(axis.low) == 0
    assert axis.place(axis.high) == 1
    assert 0 < axis.place(math.sqrt(axis.low * axis.high)) < 1


def test_percentiles_lie_where_their_nines_are() -> None:
    assert [(round(percent_at(place), 6), name) for place, name in percentile_ticks(5)] == [
        (0, "0 %"), (50, "50 %"), (90, "90 %"), (99, "99 %"), (99.9, "99.9 %"), (99.99, "99.99 %"),
        (99.999, "99.999 %"),
    ]  # fmt: skip
    assert [name for _, name in percentile_ticks(1.5)] == ["0 %", "50 %", "90 %"]
