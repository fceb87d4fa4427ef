"""How long a batch takes on a worker, measured over all of a mapping's workers together.

It says how many batches are some milliseconds of work. One figure for all lanes, because what is staged decides how a
worker divides itself between its lanes: a lane that staged more would get more, and look faster for it.
"""

from __future__ import annotations

# Measured over at least so long, and smoothed over a few such spans.
SPAN_NS = 5_000_000
_WEIGHT = 0.5


class Pace:
    """A running estimate. `batch_ns` is 0 until there is one."""

    def __init__(self) -> None:
        self.batch_ns = 0.0
        self._batches = 0
        self._since_ns = 0

    def done(self, batches: int, now_ns: int, workers: int) -> None:
        """These many batches were completed; `workers` have been working."""
        self._batches += batches
        elapsed = now_ns - self._since_ns
        if elapsed < SPAN_NS or not self._batches:
            return
        if self._since_ns:
            each = elapsed * max(1, workers) / self._batches
            self.batch_ns = each if not self.batch_ns else (1 - _WEIGHT) * self.batch_ns + _WEIGHT * each
        self._since_ns = now_ns
        self._batches = 0

    def batches_in(self, span_ns: int) -> int:
        """How many batches one worker does in that time; 0 where that is not known."""
        return int(span_ns / self.batch_ns) if self.batch_ns else 0
