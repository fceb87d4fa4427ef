"""Points in time as people and files write them.

    2013-01-01T10:00:00Z, 2013-01-01 10:00:00.250+01:00, 2013-01-01, 20130101
                            ISO 8601; without a zone it is UTC, without a time of day it is midnight
    1357034400, 1357034400.25, 1.3570344e9
                            seconds since 1970, where the number is below 100,000,000,000
    1357034400000           milliseconds since 1970, where it is not

The border between seconds and milliseconds is the year 5138 read as seconds and March 1973 read as
milliseconds.  Text of nothing but eight digits is a date.  Nothing before 1970 or after the year 9999 is
taken, so microseconds and nanoseconds are refused rather than misread.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

from streamfn.limits import ARRIVAL_MS_MAX

SECONDS_BELOW = 100_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)
_MILLISECOND = timedelta(milliseconds=1)
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_DATE_DIGITS = 8


def parse_time_ms(value: object) -> int:
    """Return milliseconds since 1970, UTC, rounded down; see the top of the file.

    Raises:
        ValueError: it is no time, or out of range; the text says which.
    """
    if isinstance(value, str):
        text = value.strip()
        if _is_number(text):
            return _from_number(float(text) if not text.isdecimal() else int(text))
        return _from_iso(text)
    if isinstance(value, datetime):
        return _in_range(_since_epoch(value), value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _from_number(value)
    raise ValueError(f"{_shown(value)} is not a time")


def parse_seconds_ms(value: object) -> int:
    """The same where AWS says it, whose numbers are always seconds since 1970; texts are ISO 8601, or such numbers.

    Raises:
        ValueError: as `parse_time_ms`.
    """
    if isinstance(value, str) and _is_number(value):
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _from_seconds(value)
    return parse_time_ms(value)


def format_time(ms: int) -> str:
    """Return ISO 8601 with milliseconds, UTC; the inverse of `parse_time_ms`."""
    seconds, rest = divmod(ms, 1000)
    return f"{_NAIVE_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def _is_number(text: str) -> bool:
    """Whether a text is a number: eight digits and nothing else are a date."""
    return _NUMBER.fullmatch(text) is not None and not (len(text) == _DATE_DIGITS and text.isdecimal())


def _from_iso(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{_shown(text)} is not a time (ISO 8601, or seconds or milliseconds since 1970)"
        ) from None
    return _in_range(_since_epoch(moment), text)


def _since_epoch(moment: datetime) -> int:
    # Integers all the way: datetime.timestamp() is a float and rounds.
    return (moment - (_NAIVE_EPOCH if moment.tzinfo is None else _EPOCH)) // _MILLISECOND


def _from_number(number: float) -> int:
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a time")
    if abs(number) >= SECONDS_BELOW:
        return _in_range(math.floor(number), number)
    return _from_seconds(number)


def _from_seconds(number: float) -> int:
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a time")
    if isinstance(number, int):
        return _in_range(number * 1000, number)
    # A float of seconds is off by its own resolution: a millisecond within that is meant, so .001 does not become .000.
    ms = number * 1000
    nearest = round(ms)
    meant = abs(ms - nearest) <= max(0.0005, 1000 * math.ulp(number))
    return _in_range(nearest if meant else math.floor(ms), number)


def _in_range(ms: int, given: object) -> int:
    if not 0 <= ms <= ARRIVAL_MS_MAX:
        raise ValueError(f"{_shown(given)} is not between the years 1970 and 9999")
    return ms


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
