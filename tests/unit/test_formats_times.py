"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.formats.times import format_time, parse_seconds_ms, parse_time_ms
from streamfn.limits import ARRIVAL_MS_MAX

TEN_O_CLOCK = 1_357_034_400_000  # 2013-01-01T10:00:00Z


@pytest.mark.parametrize(
    "written",
    [
        "2013-01-01T10:00:00Z",
        "2013-01-01T10:00:00.000Z",
        "2013-01-01 10:00",
        "2013-01-01T11:00:00+01:00",
        " 2013-01-01T10:00:00 ",
        1357034400,
        1357034400.0,
        1357034400000,
        1.3570344e12,
        "1357034400",
        "1357034400.000",
        "1357034400000",
        datetime(2013, 1, 1, 10),
        datetime(2013, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_ten_o_clock_is_understood_however_it_is_written(written: object) -> None:
    assert parse_time_ms(written) == TEN_O_CLOCK


def test_eight_digits_of_text_are_a_date_and_the_same_number_is_seconds() -> None:
    assert parse_time_ms("20130101") == TEN_O_CLOCK - 36_000_000
    assert parse_time_ms(20130101) == 20_130_101_000


def test_the_border_between_seconds_and_milliseconds() -> None:
    assert parse_time_ms(99_999_999_999) == 99_999_999_999_000
    assert parse_time_ms(100_000_000_000) == 100_000_000_000


def test_fractions_of_milliseconds_are_cut_off() -> None:
    assert parse_time_ms("2013-01-01T10:00:00.123999Z") == TEN_O_CLOCK + 123
    assert parse_time_ms(1357034400.001) == TEN_O_CLOCK + 1
    assert parse_time_ms("1357034400.9999") == TEN_O_CLOCK + 999


@pytest.mark.parametrize(
    "written",
    [
        "",
        "soon",
        "2013-13-01",
        "10:00",
        True,
        None,
        [],
        {},
        float("nan"),
        float("inf"),
        "nan",
        -1,
        "1969-12-31",
    ],
)
def test_what_is_no_time_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"time|between"):
        parse_time_ms(written)


@pytest.mark.parametrize(
    "micros_or_nanos", [1_357_034_400_000_000, 1_357_034_400_000_000_000, "9999999999999999"]
)
def test_microseconds_and_nanoseconds_are_refused_rather_than_misread(micros_or_nanos: object) -> None:
    with pytest.raises(ValueError, match="between the years 1970 and 9999"):
        parse_time_ms(micros_or_nanos)


@given(st.integers(0, ARRIVAL_MS_MAX))
def test_a_formatted_time_is_parsed_to_itself(ms: int) -> None:
    assert parse_time_ms(format_time(ms)) == ms


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))
def test_any_iso_time_is_its_milliseconds(moment: datetime) -> None:
    exact = moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 1000 * 1000)
    assert parse_time_ms(moment.isoformat()) == (exact - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        milliseconds=1
    )


@given(st.integers(0, ARRIVAL_MS_MAX))
def test_every_millisecond_survives_as_a_float_of_seconds(ms: int) -> None:
    assert parse_seconds_ms(ms / 1000) == ms
    assert parse_seconds_ms(repr(ms / 1000)) == ms


def test_eight_characters_are_a_date_only_if_they_are_eight_digits() -> None:
    assert parse_time_ms("100000.5") == 100_000_500
    assert parse_time_ms("19700102") == 86_400_000


def test_what_aws_says_in_numbers_is_seconds_whatever_its_size() -> None:
    assert parse_seconds_ms(100_000_000_000) == 100_000_000_000_000
    assert parse_time_ms(100_000_000_000) == 100_000_000_000
    assert parse_seconds_ms("2018-12-17T22:10:50.987000+00:00") == 1_545_084_650_987
