"""Time, as something that is passed in.

`Clock` is what the edges read; the core never does: it is told.  A virtual clock with the same two
methods stands in for it in simulations.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two times: one to act by, one to write down."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back: for windows, timeouts and backoff."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970, UTC: for arrival times and log lines."""


class SystemClock:
    """The machine's clocks.  `monotonic_ns` is CLOCK_MONOTONIC, as in the rings."""

    def monotonic_ns(self) -> int:
        """See `Clock`."""
        return time.monotonic_ns()

    def unix_ms(self) -> int:
        """See `Clock`."""
        return time.time_ns() // 1_000_000
