"""Ages and sizes as people write them on a command line."""

from __future__ import annotations

import re
from typing import Any

import click

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b?)", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


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
