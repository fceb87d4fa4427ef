"""Arrival times that do not rise, made to, and as little as can be."""

import random
from array import array
from itertools import pairwise

from streamfn.core.rising import Steps, is_rising, risen, steps_of


def least(times):
    """The least sum of differences that times which rise can have: by trying each of the values there are."""
    values = sorted(set(times))
    best = [0] * len(values)
    for time in times:
        total, sums = None, []
        for value, before in zip(values, best, strict=True):
            total = before if total is None else min(total, before)
            sums.append(total + abs(value - time))
        best = sums
    return min(best)


def test_the_result_rises_and_nothing_that_rises_is_nearer():
    chance = random.Random(2)
    for _ in range(500):
        times = [chance.randint(0, 20) for _ in range(chance.randint(1, 14))]
        found = risen(times)
        assert is_rising(found)
        assert sum(abs(one - other) for one, other in zip(times, found, strict=True)) == least(times)


def test_what_rises_stays_as_it_is():
    times = sorted(random.Random(1).randint(0, 1000) for _ in range(200))
    assert risen(times) == array("q", times)
    assert risen([]) == array("q")
    assert [is_rising(one) for one in ([], [3], [3, 3], [3, 2])] == [True, True, True, False]


def test_one_time_that_is_far_off_holds_nobody_up_and_hurries_nobody():
    assert list(risen([1, 2, 900, 3, 4, 5])) == [1, 2, 3, 3, 4, 5]
    assert list(risen([10, 20, 30, 1, 40])) in ([10, 20, 30, 30, 40], [10, 20, 20, 20, 40])


def test_steps_give_back_the_times_wherever_one_begins():
    chance = random.Random(4)
    for _ in range(100):
        runs, offset = [], 0
        for _ in range(chance.randint(1, 5)):
            offset += chance.randint(1, 4)
            runs.append((offset, chance.randint(1, 6)))
            offset += runs[-1][1]
        offsets = [at for first, count in runs for at in range(first, first + count)]
        times = sorted(chance.randint(0, 9) for _ in offsets)
        steps = steps_of(runs, times)
        for at, time in zip(offsets, times, strict=True):
            assert list(steps.at(at, 1)) == [time]
        whole = list(steps.at(0, offset))
        assert [whole[at] for at in offsets] == times
        assert all(before <= after for before, after in pairwise(whole))


def test_one_step_is_enough_for_one_time():
    assert steps_of([(5, 3), (9, 2)], [7, 7, 7, 7, 8]) == Steps(array("q", [5, 10]), array("q", [7, 8]))
