"""What an acknowledgement means: chosen by name, per producer.

    fsync          on the disk: survives a killed process, a crashed system, a power cut
    interval(MS)   written; on the disk at the latest MS milliseconds later
    os             written; on the disk when the operating system pleases
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from streamfn.errors import RefusedError

# An hour: beyond it `os` is what is meant.
INTERVAL_MS_MAX = 3_600_000


class Durability(NamedTuple):
    """One of the three modes; `interval_ms` is None but for `interval`."""

    name: str
    interval_ms: int | None = None

    def __str__(self) -> str:
        return self.name if self.interval_ms is None else f"{self.name}({self.interval_ms})"

    @property
    def synced(self) -> bool:
        """Whether an acknowledged record is on the disk."""
        return self.name == "fsync"

    @classmethod
    def parse(cls, text: str) -> Durability:
        """Return the mode that a user names: `fsync`, `interval(100)`, `interval:100` or `os`.

        Raises:
            RefusedError: it is none; the text lists them.
        """
        if text in ("fsync", "os"):
            return cls(text)
        found = re.fullmatch(r"interval(?:\((\d{1,9})\)|:(\d{1,9}))", text)
        if found is None:
            raise RefusedError(f"durability {text!r} is none of fsync, interval(MS), os")
        return interval(int(found[1] or found[2]))


FSYNC = Durability("fsync")
OS = Durability("os")


def interval(ms: int) -> Durability:
    """Return the mode that syncs every `ms` milliseconds.

    Raises:
        RefusedError: it is less than 1 or more than INTERVAL_MS_MAX.
    """
    if not 1 <= ms <= INTERVAL_MS_MAX:
        raise RefusedError(f"durability interval({ms}): the interval is 1 to {INTERVAL_MS_MAX} ms")
    return Durability("interval", ms)


def strongest(modes: Iterable[Durability]) -> Durability:
    """Return the one that satisfies all of them; there is at least one."""
    return min(modes, key=lambda mode: (not mode.synced, mode.interval_ms or math.inf))
