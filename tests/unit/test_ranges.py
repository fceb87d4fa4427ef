"""Ranges of offsets say what sets of offsets would."""

from hypothesis import given
from hypothesis import strategies as st

from streamfn.core.ranges import Ranges

OFFSETS = st.integers(0, 40)
RANGES = st.lists(st.tuples(OFFSETS, OFFSETS), max_size=6)


def offsets(ranges):
    return {offset for first, end in ranges for offset in range(first, end)}


@given(RANGES, OFFSETS, OFFSETS)
def test_they_answer_as_a_set_of_offsets_would(given_ranges, first, end):
    ranges, plain = Ranges(given_ranges), offsets(given_ranges)
    assert offsets(ranges) == plain
    assert len(ranges) == len(plain)
    assert ranges.end == max(plain, default=-1) + 1
    assert ranges.count(first, end) == len(plain & set(range(first, end)))
    assert ranges.next_at(first) == min((one for one in plain if one >= first), default=None)
    assert offsets(ranges.clipped(first)) == {one for one in plain if one >= first}
    assert offsets(ranges.clipped(first, end)) == plain & set(range(first, end))
    assert Ranges.of(plain) == ranges


@given(RANGES, RANGES)
def test_one_without_the_other_and_both_together(one, other):
    assert offsets(Ranges(one).without(Ranges(other))) == offsets(one) - offsets(other)
    assert Ranges(one).without(Ranges(other)) == Ranges(Ranges(one).without(Ranges(other)))  # canonical
    assert offsets(Ranges(one) | Ranges(other)) == offsets(one) | offsets(other)


@given(RANGES)
def test_ranges_are_sorted_and_neither_overlap_nor_touch(given_ranges):
    flat = [bound for each in Ranges(given_ranges) for bound in each]
    assert flat == sorted(set(flat))


@given(RANGES, OFFSETS, st.integers(1, 20))
def test_the_rows_of_a_message_are_those_whose_offsets_are_in_it(given_ranges, first, count):
    wanted = [row for row in range(count) if first + row in offsets(given_ranges)]
    rows = Ranges(given_ranges).rows(first, count)
    assert (list(range(count)) if rows is None else rows.tolist()) == wanted
    assert (rows is None) == (len(wanted) == count)


@given(RANGES, OFFSETS, st.integers(0, 10))
def test_a_run_ends_before_the_first_hole_that_is_wider_than_allowed(given_ranges, offset, apart):
    later = sorted(one for one in offsets(given_ranges) if one >= offset)
    end = Ranges(given_ranges).end_of_run(offset, apart)
    if not later:
        assert end == offset
        return
    run = [later[0]]
    for one in later[1:]:
        if one - run[-1] - 1 > apart:
            break
        run.append(one)
    assert end == run[-1] + 1
