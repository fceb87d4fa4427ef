"""What was measured of late, and not since the beginning: rates that follow, percentiles of the last seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from streamfn._native import lib
from streamfn.measure.histogram import milliseconds, new_histogram, total

# Percentiles are of the last SPAN_S seconds, forgotten in steps of STEP_S: long enough for a p99 to mean something,
# short enough to show what is going on now.
SPAN_S = 5.0
STEP_S = 1.0
_WEIGHT = 0.3


class Rate:
    """So many a second, of late: each new look counts for three tenths.  Times are seconds of one monotonic clock."""

    def __init__(self, now_s: float, count: float = 0) -> None:
        self._looked_s = now_s
        self._count = count
        self._per_second = 0.0

    def update(self, count: float, now_s: float) -> float:
        """Return the rate, now that there are so many in all."""
        seconds = now_s - self._looked_s
        if seconds > 0:
            fresh = (count - self._count) / seconds
            self._count, self._looked_s = count, now_s
            self._per_second = fresh if not self._per_second else (1 - _WEIGHT) * self._per_second + _WEIGHT * fresh
        return self._per_second


class Recent:
    """What several `sf_histogram *`s have recorded in the last SPAN_S seconds, as one.

    A look costs some ten microseconds for each of them that has recorded anything since the last one.  Call it in the
    thread that records.
    """

    def __init__(self) -> None:
        self._steps = [new_histogram() for _ in range(round(SPAN_S / STEP_S))]
        self._step = 0
        self._began_s: float | None = None
        self._all = new_histogram()
        self._known: dict[Any, Any] = {}

    def look(self, histograms: Iterable[Any], now_s: float) -> None:
        """Take over what they have recorded since the last look; what was recorded long ago is forgotten."""
        if self._began_s is None:
            self._began_s = now_s
        while now_s - self._began_s >= STEP_S:
            gone = now_s - self._began_s >= 2 * SPAN_S  # nobody has looked for long: everything is old
            self._began_s = now_s if gone else self._began_s + STEP_S
            for _ in self._steps if gone else (0,):
                self._step = (self._step + 1) % len(self._steps)
                lib.sf_histogram_clear(self._steps[self._step])
        # Of a thousand mappings most may never have recorded anything: those need no copy.
        known = {each: self._known.get(each) or new_histogram() for each in histograms if total(each)}
        for histogram, before in known.items():
            lib.sf_histogram_advance(self._steps[self._step], histogram, before)
        self._known = known

    def milliseconds(self, percentiles: Sequence[float]) -> dict[str, float]:
        """Percentiles by name (`p50`, `p99.9`) and `max`, in milliseconds; nothing where nothing was recorded."""
        lib.sf_histogram_clear(self._all)
        for step in self._steps:
            lib.sf_histogram_add(self._all, step)
        return milliseconds(self._all, percentiles) if total(self._all) else {}
