"""Histograms as the runtime reads them: figures, and the package's own object."""

from __future__ import annotations

import random

from package_rig import snapshot

from streamfn._native import lib
from streamfn.measure.histogram import milliseconds, new_histogram, total


def recorded(*values_ns: int):  # type: ignore[no-untyped-def]
    histogram = new_histogram()
    for value in values_ns:
        lib.sf_histogram_record(histogram, value)
    return histogram


def drawn(number: int, seed: int = 1):  # type: ignore[no-untyped-def]
    dice = random.Random(seed)
    return recorded(*(int(dice.lognormvariate(11, 2)) for _ in range(number)))


def test_figures_are_in_milliseconds_and_those_of_the_package() -> None:
    ours = drawn(5000)
    theirs = snapshot(ours)
    asked = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9, "max": 100}
    expected = {name: theirs.get_value_at_percentile(percentile) / 1e6 for name, percentile in asked.items()}
    assert milliseconds(ours) == expected


def test_no_percentile_is_above_the_maximum() -> None:
    found = milliseconds(recorded(10_000_001, 10_000_002))
    assert found["p99.9"] == found["max"]


def test_nothing_recorded_is_zero_everywhere() -> None:
    assert set(milliseconds(new_histogram()).values()) == {0.0}
    assert total(new_histogram()) == snapshot(new_histogram()).get_total_count() == 0


def test_the_packages_object_has_what_was_recorded() -> None:
    theirs = snapshot(recorded(0, 5, 5, 2**40 + 12345))
    assert theirs.get_total_count() == 4
    assert theirs.get_min_value() == 0
    assert theirs.get_max_value() == theirs.get_highest_equivalent_value(2**40 + 12345)
    assert theirs.get_count_at_value(5) == 2
