"""Rates and percentiles of late."""

from __future__ import annotations

import pytest

from streamfn._native import lib
from streamfn.measure.histogram import new_histogram
from streamfn.measure.recent import SPAN_S, Rate, Recent


def test_a_rate_follows_what_came_of_late_and_does_not_jump() -> None:
    rate = Rate(10.0)
    assert rate.update(100, 11.0) == 100.0
    assert rate.update(400, 12.0) == pytest.approx(0.7 * 100 + 0.3 * 300)
    assert rate.update(400, 14.0) == pytest.approx(0.7 * 160)


def test_two_looks_at_one_moment_are_one() -> None:
    rate = Rate(10.0)
    rate.update(100, 11.0)
    assert rate.update(200, 11.0) == 100.0


def test_percentiles_are_of_all_histograms_together_and_only_of_what_came_of_late() -> None:
    slow, quick, recent = new_histogram(), new_histogram(), Recent()
    for _ in range(100):
        lib.sf_histogram_record(slow, 1_000_000_000)
    recent.look([slow, quick], 0.0)
    assert recent.milliseconds([50])["p50"] == pytest.approx(1000, rel=0.001)
    for second in range(1, 10):
        lib.sf_histogram_record(quick, 1_000_000)
        recent.look([slow, quick], float(second))
        found = recent.milliseconds([50])
        assert found["max"] == pytest.approx(1000 if second < SPAN_S else 1, rel=0.001)
    assert found["p50"] == pytest.approx(1, rel=0.001)


def test_when_nobody_has_looked_for_long_everything_before_is_forgotten() -> None:
    histogram, recent = new_histogram(), Recent()
    lib.sf_histogram_record(histogram, 5_000_000)
    recent.look([histogram], 0.0)
    recent.look([histogram], 1_000_000.0)
    assert recent.milliseconds([50]) == {}


def test_a_histogram_that_is_gone_stays_counted_until_it_is_old() -> None:
    histogram, recent = new_histogram(), Recent()
    lib.sf_histogram_record(histogram, 5_000_000)
    recent.look([histogram], 0.0)
    recent.look([], 1.0)
    assert recent.milliseconds([50])
    recent.look([], SPAN_S + 1)
    assert not recent.milliseconds([50])
