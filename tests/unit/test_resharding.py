"""The arithmetic of splits and merges: nothing of the key space is lost, doubled or uneven."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.core.resharding import Range, Step, merge, middle, split, uniform_steps
from streamfn.log.catalog.stream import HASH_KEYS, uniform_ranges


def apply(ranges: list[Range], steps: list[Step]) -> list[Range]:
    """The oracle: carry the steps out one by one, as Kinesis would."""
    now = {one.number: one for one in ranges}
    numbers = list(now)
    for step in steps:
        assert (len(step.closed), len(step.made)) in ((1, 2), (2, 1))
        for closed in step.closed:
            assert now.pop(closed.number) == closed
        for made in step.made:
            assert made.number == len(numbers), "numbers count on"
            numbers.append(made.number)
            now[made.number] = made
        assert sum(r.end - r.start + 1 for r in step.closed) == sum(r.end - r.start + 1 for r in step.made)
    return sorted(now.values(), key=lambda one: one.start)


def of(starts: list[int]) -> list[Range]:
    ends = [start - 1 for start in starts[1:]] + [HASH_KEYS - 1]
    return [Range(number, start, end) for number, (start, end) in enumerate(zip(starts, ends, strict=True))]


@given(st.sets(st.integers(1, HASH_KEYS - 1), max_size=40), st.integers(1, 60))
def test_uniform_scaling_ends_with_the_ranges_of_a_new_stream(cuts: set[int], target: int) -> None:
    ranges = of([0, *sorted(cuts)])
    after = apply(ranges, uniform_steps(ranges, uniform_ranges(target), len(ranges)))
    assert [(r.start, r.end) for r in after] == uniform_ranges(target)


@given(st.integers(1, 100), st.integers(1, 200))
def test_from_even_ranges_too_and_in_few_steps(count: int, target: int) -> None:
    ranges = [Range(number, *ends) for number, ends in enumerate(uniform_ranges(count))]
    steps = uniform_steps(ranges, uniform_ranges(target), count)
    assert [(r.start, r.end) for r in apply(ranges, steps)] == uniform_ranges(target)
    assert len(steps) <= count + 2 * target


def test_an_even_stream_needs_no_step() -> None:
    ranges = [Range(number, *ends) for number, ends in enumerate(uniform_ranges(7))]
    assert uniform_steps(ranges, uniform_ranges(7), 7) == []


@pytest.mark.parametrize(("count", "target", "total"), [(2, 4, 6), (4, 5, 15), (4, 2, 6), (1, 2, 3), (2, 1, 3)])
def test_as_many_shards_are_made_on_the_way_as_kinesis_makes(count: int, target: int, total: int) -> None:
    ranges = [Range(number, *ends) for number, ends in enumerate(uniform_ranges(count))]
    steps = uniform_steps(ranges, uniform_ranges(target), count)
    assert count + sum(len(step.made) for step in steps) == total


@given(st.integers(0, HASH_KEYS - 4), st.integers(3, 2**100))
def test_halves_differ_by_one_key_at_most(start: int, width: int) -> None:
    parent = Range(0, start, min(start + width, HASH_KEYS - 1))
    first, second = split(parent, middle(parent), 1).made
    assert abs((first.end - first.start) - (second.end - second.start)) <= 1
    for a, b in ((first, second), (second, first)):
        assert merge(a, b, 3).made == (Range(3, parent.start, parent.end),)


@given(st.sets(st.integers(1, HASH_KEYS - 1), max_size=10), st.integers(1, 20))
def test_no_two_ranges_overlap_on_the_way(cuts: set[int], target: int) -> None:
    ranges = of([0, *sorted(cuts)])
    steps = uniform_steps(ranges, uniform_ranges(target), len(ranges))
    for done in range(len(steps) + 1):
        after = apply(ranges, steps[:done])
        assert after[0].start == 0
        assert after[-1].end == HASH_KEYS - 1
        assert all(a.end + 1 == b.start for a, b in pairwise(after))
