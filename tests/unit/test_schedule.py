"""When records are due: rates, ramps, recorded times."""

from array import array
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.core.release import Release
from streamfn.core.schedule import AsFast, FixedRate, Ramp, Recorded, Silence, Stretch, silences_of

SECOND = 1_000_000_000


def test_a_rate_is_exact_to_the_nanosecond_however_long_it_runs():
    schedule = FixedRate(3.0, {"s": Stretch(0, 10**9)}).shard("s")
    for first in (0, 1, 299_999_999, 8_999_999_999):
        due = schedule.due(first, [0] * 3)
        assert list(due) == [(first + i) * SECOND // 3 for i in range(3)]


def test_shards_share_a_rate_by_their_records_and_end_together():
    shards = {"a": Stretch(100, 3_000), "b": Stretch(7, 1_000), "empty": Stretch(5, 0)}
    rate = FixedRate(1_000.0, shards)
    a, b = rate.shard("a").due(100, [0] * 3_000), rate.shard("b").due(7, [0] * 1_000)
    assert b[1] - b[0] == 4_000_000
    assert a[3] - a[0] == 4_000_000
    assert abs(a[-1] - b[-1]) < 4_000_000
    merged = sorted([*a, *b])
    assert sum(each < SECOND for each in merged) == pytest.approx(1_000, abs=3)


def test_shards_of_equal_size_take_turns():
    rate = FixedRate(1_000.0, {name: Stretch(0, 100) for name in "abcd"})
    firsts = [rate.shard(name).due(0, [0])[0] for name in "abcd"]
    assert firsts == [0, 1_000_000, 2_000_000, 3_000_000]


@given(
    low=st.floats(0, 1_000),
    high=st.floats(0.5, 1_000),
    seconds=st.floats(0.1, 100),
)
def test_a_ramp_has_let_go_as_many_as_the_area_below_it(low, high, seconds):
    ramp = Ramp(low, high, seconds, {"s": Stretch(0, 100)}).shard("s")
    due = ramp.due(0, [0] * 500)
    assert list(due) == sorted(due)
    assert due[0] == 0
    for number, at_ns in enumerate(due):
        t = at_ns / SECOND
        inside = min(t, seconds)
        area = low * inside + (high - low) * inside**2 / (2 * seconds) + high * (t - inside)
        assert area == pytest.approx(number, rel=1e-6, abs=1e-5 * (1 + high))


def test_recorded_times_are_scaled_from_their_beginning():
    recorded = Recorded(1_000, speed=10.0)
    assert list(recorded.shard("s").due(0, [1_000, 1_000, 1_500, 3_000])) == [0, 0, 50_000_000, 200_000_000]


def test_arrival_times_that_go_back_do_not_change_the_order():
    shard = Recorded(0).shard("s")
    assert list(shard.due(0, [5, 3, 9])) == [5_000_000, 5_000_000, 9_000_000]
    assert list(shard.due(3, [7, 10])) == [9_000_000, 10_000_000]


def test_a_silence_is_cut_to_the_longest_one_allowed():
    arrivals = [0, 100, 10_100, 10_200, 50_000]
    cut = silences_of(arrivals, 1_000)
    assert cut == [Silence(1_100, 9_000), Silence(11_200, 38_800)]
    due = Recorded(0, silences=cut).shard("s").due(0, arrivals)
    assert [each // 1_000_000 for each in due] == [0, 100, 1_100, 1_200, 2_200]


@given(st.lists(st.integers(0, 10_000_000), min_size=2).map(sorted), st.integers(1, 5_000))
def test_no_silence_is_longer_than_allowed_and_none_shorter_is_touched(arrivals, longest):
    due = Recorded(arrivals[0], silences=silences_of(arrivals, longest)).shard("s").due(0, arrivals)
    for (a, b), (x, y) in zip(pairwise(arrivals), pairwise(due), strict=True):
        assert y - x == min(b - a, longest) * 1_000_000


def test_as_fast_as_possible_nothing_is_waited_for():
    assert list(AsFast().shard("s").due(12, [5, 6])) == [0, 0]
    assert not AsFast().paced


@given(
    chunks=st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), max_size=6),
    looks=st.lists(st.integers(0, 3_000), max_size=20).map(sorted),
)
def test_records_are_released_once_in_order_and_neither_early_nor_late(chunks, looks):
    release, offset, at, expected = Release(), 0, 0, []
    for steps in chunks:
        times = array("q")
        for step in steps:
            at += step
            times.append(at)
        release.hold(offset, times)
        expected += [(offset + i, each) for i, each in enumerate(times)]
        offset += len(times)
    released = []
    for now in looks:
        for first, times in release.take(now):
            released += [(first + i, each) for i, each in enumerate(times)]
        assert released == [each for each in expected if each[1] <= now]
        assert release.records == len(expected) - len(released)
        left = expected[len(released) :]
        assert release.first_offset == (left[0][0] if left else None)
        for ahead in range(4):
            wanted = left[min(ahead, len(left) - 1)][1] if left else None
            assert release.due_ns(ahead) == wanted


def test_a_rate_that_is_no_whole_number_loses_nothing():
    schedule = FixedRate(0.1, {"s": Stretch(0, 10)}).shard("s")
    period = SECOND / Fraction(0.1)
    assert schedule.due(1_000, [0])[0] == pytest.approx(float(1_000 * period), abs=2)


def test_what_is_held_may_be_due_later() -> None:
    release = Release()
    release.hold(0, array("q", [10, 20, 30]))
    assert [due.first_offset for due in release.take(10)] == [0]
    release.delay(5)
    assert list(release.take(24)) == []
    assert release.due_ns() == 25
    assert [(due.first_offset, list(due.times)) for due in release.take(35)] == [(1, [25, 35])]
