"""The histogram's counts, as the `hdrhistogram` package reads them."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from streamfn._native import ffi, lib

HIGHEST = 2**42
PERCENTILES = [0, 1, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99, 99.999, 100]


def recorded(values: Iterable[int]):  # type: ignore[no-untyped-def]
    histogram = ffi.gc(lib.sf_histogram_new(), lib.sf_histogram_free)
    for value in values:
        lib.sf_histogram_record(histogram, value)
    return histogram


def counts(histogram) -> list[int]:  # type: ignore[no-untyped-def]
    found: list[int] = ffi.unpack(lib.sf_histogram_counts(histogram), lib.sf_histogram_counts_len(histogram))
    return found


def loaded(histogram) -> HdrHistogram:  # type: ignore[no-untyped-def]
    """The package's histogram with our counts put into it as they stand."""
    theirs = HdrHistogram(1, HIGHEST, 3)
    nonzero = [index for index, count in enumerate(counts(histogram)) if count]
    for index in nonzero:
        theirs.counts[index] = lib.sf_histogram_counts(histogram)[index]
    if nonzero:
        theirs.set_internal_tacking_values(nonzero[0], nonzero[-1], lib.sf_histogram_total(histogram))
    return theirs


def test_the_layout_has_the_packages_length() -> None:
    assert lib.sf_histogram_counts_len(recorded([])) == HdrHistogram(1, HIGHEST, 3).counts_len


def test_every_bucket_border_falls_where_the_package_puts_it() -> None:
    theirs = HdrHistogram(1, HIGHEST, 3)
    borders = {max(0, 2**power + step) for power in range(43) for step in (-2, -1, 0, 1, 2)}
    for value in sorted(border for border in borders if border <= HIGHEST):
        ours = counts(recorded([value]))
        assert ours.index(1) == theirs._counts_index_for(value), value


@given(st.lists(st.one_of(st.integers(0, 5000), st.integers(0, HIGHEST)), max_size=50))
def test_counts_are_the_packages_counts(values: list[int]) -> None:
    theirs = HdrHistogram(1, HIGHEST, 3)
    for value in values:
        assert theirs.record_value(value)
    ours = recorded(values)
    assert counts(ours) == list(theirs.counts)
    assert lib.sf_histogram_total(ours) == len(values)
    assert lib.sf_histogram_max(ours) == max(values, default=0)


def test_percentiles_are_the_packages_percentiles() -> None:
    dice = random.Random(1)
    values = [int(dice.lognormvariate(11, 3)) % HIGHEST for _ in range(20_000)]
    theirs = HdrHistogram(1, HIGHEST, 3)
    for value in values:
        theirs.record_value(value)
    ours = loaded(recorded(values))
    for percentile in PERCENTILES:
        assert ours.get_value_at_percentile(percentile) == theirs.get_value_at_percentile(percentile)
    assert ours.get_total_count() == theirs.get_total_count()
    assert ours.get_mean_value() == theirs.get_mean_value()
    assert ours.encode() == theirs.encode()


@pytest.mark.parametrize("value", [HIGHEST + 1, 2**63, 2**64 - 1])
def test_what_is_above_the_highest_value_counts_as_the_highest(value: int) -> None:
    ours = recorded([value])
    assert counts(ours) == counts(recorded([HIGHEST]))
    assert lib.sf_histogram_max(ours) == HIGHEST
