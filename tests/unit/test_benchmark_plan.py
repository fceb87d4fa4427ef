"""What a benchmark is to do, as it is said: loads, sweeps, which row is best; rates, durations and sizes as text."""

import math
import re

import click
import pytest

from streamfn.benchmark.plan import Load, Outcome, Setting, best_of, settings
from streamfn.cli.quantities import Duration, Listed, Rate, RecordSize


def read(kind, text):
    return kind.convert(text, None, None)


def test_a_load_knows_how_many_records_are_due():
    assert Load(rate=50_000, duration_s=10, warmup_s=1).records == 550_000
    assert Load(rate=100, ramp_to=300, duration_s=10, warmup_s=0).records == 2_000
    assert Load(rate=0.5, duration_s=1, warmup_s=0).records == 1


def test_a_sweep_is_every_combination_with_the_batch_size_changing_fastest():
    assert settings((1, 10), (1, 2), (128, 1024)) == [
        Setting(1, 1, 128), Setting(10, 1, 128), Setting(1, 2, 128), Setting(10, 2, 128),
        Setting(1, 1, 1024), Setting(10, 1, 1024), Setting(1, 2, 1024), Setting(10, 2, 1024),
    ]  # fmt: skip


def test_without_a_given_rate_the_fastest_row_is_best():
    assert best_of([Outcome(100, None, 5.0), Outcome(300, None, 9.0), Outcome(200, None, 1.0)]) == 1


def test_with_a_given_rate_the_lowest_p99_of_those_that_kept_it_is_best():
    rows = [Outcome(600, 1000, 0.5), Outcome(999, 1000, 9.0), Outcome(1000, 1000, 7.0), Outcome(0, 1000, None)]
    assert best_of(rows) == 2


def test_where_no_row_kept_the_rate_the_fastest_is_best():
    assert best_of([Outcome(300, 1000, 50.0), Outcome(500, 1000, 90.0)]) == 1


def test_rates_that_were_searched_for_are_compared_as_rates():
    assert best_of([Outcome(300, 300, 9.0), Outcome(500, 500, 9.9)]) == 1


@pytest.mark.parametrize(
    ("text", "rate"),
    [("500", 500), ("50k", 50_000), ("1.5M", 1_500_000), ("0.5", 0.5), ("2k/s", 2_000), ("MAX", math.inf)],
)
def test_rates_are_read(text, rate):
    assert read(Rate(), text) == rate


@pytest.mark.parametrize("text", ["", "0", "-5", "fast", "5kk", "1e3"])
def test_what_is_no_rate_is_named(text):
    with pytest.raises(click.BadParameter, match=re.escape(f"{text!r} is not a rate")):
        read(Rate(), text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("10s", 10), ("50ms", 0.05), ("250us", 0.00025), ("1.5m", 90), ("1h", 3600), (".5", 0.5)],
)
def test_durations_are_read(text, seconds):
    assert read(Duration(), text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"), [("128", 128), ("1k", 1024), ("16K", 16_384), ("1kB", 1000), ("1m", 1 << 20)]
)
def test_record_sizes_are_read(text, size):
    assert read(RecordSize(), text) == size


def test_lists_keep_their_order_and_name_the_value_that_is_wrong():
    assert read(Listed(RecordSize()), "128, 1k,16k,128") == (128, 1024, 16_384)
    with pytest.raises(click.BadParameter, match="'big' is not a size"):
        read(Listed(RecordSize()), "128,big")
