"""Ages, sizes, rates and durations as people write them on a command line, and lists of any of them."""

from __future__ import annotations

import math
import re
from typing import Any

import click

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b?)", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(us|µs|ms|s|m|h|)")
_UNITS_S = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_RATE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([km]?)(?:/s)?")


class Age(click.ParamType):  # type: ignore[type-arg]
    """A number of s (the default), m, h, d or w: seconds, rounded up."""

    name = "AGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return seconds."""
        found = _AGE.fullmatch(str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is not an age: give a number of s, m, h, d or w, such as 90m or 7d", param, ctx)
        return -int(-float(found[1]) * _SECONDS[found[2]] // 1)


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, or of kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of 1024)."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        found = _SIZE.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a size: give bytes, or a number of MB or GiB, such as 10GB", param, ctx)
        base = 1024 if found[3] else 1000
        return int(float(found[1]) * base ** (_POWERS[found[2].lower()] if found[2] else 0))


class RecordSize(Size):
    """The same, and a bare k or m is 1,024 or 1,048,576, as where block sizes are given: 128, 1k, 64KiB, 1m."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        text = str(value).strip()
        return super().convert(f"{text}iB" if text[-1:] in ("k", "K", "m", "M") else text, param, ctx)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A number of us, ms, s (the default), m or h."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is not a duration: give a number of ms, s, m or h, such as 500ms or 2m", param, ctx)
        return float(found[1]) * _UNITS_S[found[2]]


class Rate(click.ParamType):  # type: ignore[type-arg]
    """Records a second: a number, of k (thousands) or M (millions), or `max`."""

    name = "RATE"

    def __init__(self, *, or_max: bool = True) -> None:
        self._or_max = or_max

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return records a second; infinite for `max`."""
        if isinstance(value, float):
            return value
        text = str(value).strip().lower()
        if self._or_max and text == "max":
            return math.inf
        found = _RATE.fullmatch(text)
        rate = float(found[1]) * 1000 ** ("", "k", "m").index(found[2]) if found is not None else 0.0
        if rate <= 0:
            what = ", or max" if self._or_max else ""
            self.fail(f"{value!r} is not a rate: give records a second, such as 500, 50k or 1.5M{what}", param, ctx)
        return rate


class Listed(click.ParamType):  # type: ignore[type-arg]
    """Several values of another kind, with commas between."""

    def __init__(self, kind: click.ParamType) -> None:  # type: ignore[type-arg]
        self._kind = kind
        self.name = f"{kind.name}[,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return the values, each once, in the order in which they are given."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        return tuple(dict.fromkeys(self._kind.convert(part.strip(), param, ctx) for part in parts))
