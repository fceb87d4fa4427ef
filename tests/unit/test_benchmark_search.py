"""The search for the highest rate that keeps a limit, against machines that are steady, noisy, or hopeless."""

import random

import pytest

from streamfn.benchmark.search import PRECISION, TRIALS_MAX, Search


def searched(start, keeps):
    """A search to its end, on a machine that `keeps` a rate or does not."""
    search = Search(start)
    tried = []
    while search.rate is not None:
        tried.append(search.rate)
        search.told(keeps(search.rate))
    return search, tried


@pytest.mark.parametrize("limit", [3.0, 99.0, 1234.0, 40_000.0, 777_777.0])
@pytest.mark.parametrize("off", [0.05, 0.7, 1.0, 3.0, 50.0])
def test_it_comes_within_its_precision_wherever_it_begins(limit, off):
    search, tried = searched(limit * off, lambda rate: rate <= limit)
    assert search.best <= limit
    assert search.best * (1 + PRECISION) * 1.011 >= limit  # rates have three figures
    assert search.confirmed
    assert len(tried) <= 36


def test_from_a_good_guess_it_takes_a_dozen_trials():
    _, tried = searched(70_000, lambda rate: rate <= 93_000)
    assert len(tried) <= 12


def test_the_answer_has_kept_the_limit_twice_and_what_is_above_has_missed_it_twice():
    search, tried = searched(100, lambda rate: rate <= 170)
    assert tried.count(search.best) == 2
    ceiling = min(rate for rate in tried if rate > 170)
    assert tried.count(ceiling) == 2


def test_one_bad_moment_costs_a_trial_and_not_the_answer():
    machine = random.Random(11)
    for _ in range(50):
        left = [machine.randrange(8)]

        def keeps(rate, left=left):
            left[0] -= 1
            return rate <= 50_000 and left[0] != 0

        search, _ = searched(35_000, keeps)
        assert 50_000 / (1 + PRECISION) / 1.011 <= search.best <= 50_000


def test_on_a_machine_without_a_sharp_border_it_ends_where_most_trials_are_kept():
    machine = random.Random(12)

    def keeps(rate):
        return machine.random() < (1.0 if rate < 9_000 else 0.0 if rate > 11_000 else (11_000 - rate) / 2_000)

    for _ in range(100):
        search, tried = searched(7_000, keeps)
        assert len(tried) < TRIALS_MAX
        assert 8_000 < search.best < 11_000


def test_where_no_rate_keeps_the_limit_it_says_so():
    search, tried = searched(10_000, lambda rate: False)
    assert search.best is None
    assert not search.confirmed
    assert tried[-1] == 1


def test_where_every_rate_keeps_it_it_ends_nevertheless():
    search, tried = searched(10, lambda rate: True)
    assert len(tried) == TRIALS_MAX
    assert search.best == tried[-1]


def test_rates_are_numbers_that_can_be_read():
    _, tried = searched(12_345.678, lambda rate: rate < 54_321)
    assert all(float(f"{rate:.3g}") == rate for rate in tried)
