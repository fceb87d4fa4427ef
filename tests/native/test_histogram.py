"""The histogram's counts, as the `hdrhistogram` package reads them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from array import array
from collections.abc import Iterable

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
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


def test_a_value_recorded_many_times_is_that_many_records() -> None:
    ours = recorded([7, 1500, 3_000_001])
    at_once = recorded([7])
    lib.sf_histogram_record_times(at_once, 1500, 1)
    lib.sf_histogram_record_times(at_once, 3_000_001, 1)
    assert counts(at_once) == counts(ours)
    lib.sf_histogram_record_times(at_once, 2_000_001, 999)
    lib.sf_histogram_record_times(at_once, HIGHEST, 0)
    assert lib.sf_histogram_total(at_once) == 1002
    assert lib.sf_histogram_max(at_once) == 3_000_001
    assert lib.sf_histogram_whole_ms(at_once) == 1 + 1 + 4 + 999 * 3


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_values_recorded_at_once_are_those_recorded_one_by_one(values: list[int]) -> None:
    ours = recorded([])
    lib.sf_histogram_record_each(ours, ffi.from_buffer("uint64_t[]", array("Q", values)), len(values))
    assert same(ours, recorded(values))


def same(one, other) -> bool:  # type: ignore[no-untyped-def]
    """Whether everything that can be read is alike."""
    facts = (lib.sf_histogram_total, lib.sf_histogram_max, lib.sf_histogram_whole_ms, lib.sf_histogram_mean)
    return counts(one) == counts(other) and all(fact(one) == fact(other) for fact in facts)


@given(st.lists(st.integers(0, HIGHEST), max_size=30), st.lists(st.integers(0, HIGHEST), max_size=30))
def test_what_is_added_is_as_if_it_had_been_recorded_here(some: list[int], more: list[int]) -> None:
    ours = recorded(some)
    lib.sf_histogram_add(ours, recorded(more))
    assert same(ours, recorded(some + more))


def test_buckets_begin_and_end_where_the_package_has_them() -> None:
    theirs = HdrHistogram(1, HIGHEST, 3)
    for index in range(0, theirs.counts_len - 1, 7):
        value = theirs.get_value_from_index(index)
        if value > HIGHEST:
            break
        ours = recorded([value])
        assert lib.sf_histogram_percentile(ours, 0) == value
        assert lib.sf_histogram_percentile(ours, 100) == theirs.get_highest_equivalent_value(value)


@settings(max_examples=30)
@given(st.lists(st.one_of(st.integers(0, 5000), st.integers(0, HIGHEST)), max_size=40), st.floats(0, 120))
def test_percentiles_and_mean_in_c_are_the_packages(values: list[int], percentile: float) -> None:
    theirs = HdrHistogram(1, HIGHEST, 3)
    for value in values:
        theirs.record_value(value)
    ours = recorded(values)
    for asked in (percentile, 0, 50, 99.9, 100):
        assert lib.sf_histogram_percentile(ours, asked) == theirs.get_value_at_percentile(asked), asked
    assert lib.sf_histogram_mean(ours) == theirs.get_mean_value()


def test_ten_million_values_are_counted_as_the_package_counts_them(soak: bool) -> None:
    """Without --soak 100,000: the package takes some microseconds for each."""
    number = 10_000_000 if soak else 100_000
    dice = random.Random(8)
    drawn = array("Q", (int(dice.lognormvariate(13, 3)) % HIGHEST for _ in range(number)))
    theirs = HdrHistogram(1, HIGHEST, 3)
    for value in drawn:
        theirs.record_value(value)
    ours = recorded([])
    lib.sf_histogram_record_each(ours, ffi.from_buffer("uint64_t[]", drawn), number)
    assert counts(ours) == list(theirs.counts)
    assert sum(counts(ours)) == lib.sf_histogram_total(ours) == number
    assert lib.sf_histogram_max(ours) == theirs.max_value
    assert lib.sf_histogram_mean(ours) == theirs.get_mean_value()


@given(st.lists(st.integers(0, HIGHEST), max_size=30), st.lists(st.integers(0, HIGHEST), max_size=30))
def test_what_came_since_a_copy_is_taken_over_and_the_copy_keeps_up(earlier: list[int], later: list[int]) -> None:
    running, copy, news = recorded(earlier), recorded([]), recorded([])
    lib.sf_histogram_advance(recorded([]), running, copy)
    for value in later:
        lib.sf_histogram_record(running, value)
    lib.sf_histogram_advance(news, running, copy)
    assert counts(news) == counts(recorded(later))
    assert counts(copy) == counts(running)
    assert lib.sf_histogram_total(news) == len(later)
    assert max(later, default=0) <= lib.sf_histogram_max(news) <= max(later, default=0) * 1.001 + 1
    lib.sf_histogram_clear(news)
    assert counts(news) == counts(recorded([]))
    assert lib.sf_histogram_max(news) == lib.sf_histogram_total(news) == 0


@given(st.lists(st.integers(0, HIGHEST), max_size=30), st.lists(st.integers(0, 2**64 - 1), max_size=10))
def test_counts_up_to_several_values_are_those_up_to_each(values: list[int], bounds: list[int]) -> None:
    histogram, found = recorded(values), ffi.new("uint64_t[]", len(bounds))
    lib.sf_histogram_cumulate(histogram, sorted(bounds), len(bounds), found)
    package = HdrHistogram(1, HIGHEST, 3)
    tops = [package.get_highest_equivalent_value(min(bound, HIGHEST)) for bound in sorted(bounds)]
    assert list(found) == [sum(value <= top for value in values) for top in tops]


MANY = """
import os
from streamfn._native import ffi, lib

def own_kib():
    with open("/proc/self/status") as status:
        return sum(int(line.split()[1]) for line in status if line.startswith(("RssAnon:", "RssShmem:")))

before = own_kib()
found = [ffi.gc(lib.sf_histogram_new(), lib.sf_histogram_free) for _ in range(300)]
for histogram in found:
    lib.sf_histogram_record(histogram, 60_000)
    lib.sf_histogram_record(histogram, 2_000_000)
print((own_kib() - before) / len(found))
"""


def test_a_histogram_takes_the_memory_that_its_latencies_fall_into() -> None:
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    }  # as it is after large blocks have come and gone
    done = subprocess.run([sys.executable, "-c", MANY], env=environment, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 32
