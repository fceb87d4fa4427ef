"""The highest rate that keeps a limit, found by trials: a pure machine that is told how each trial went.

    raise it while it is kept ─▶ halve the span between kept and missed ─▶ confirm the highest one kept
         (lower it while it is missed)   (as a ratio, down to PRECISION)        (kept twice, or the next lower one)

Machines have bad moments, and a rate is not missed because of one: a miss counts when the same rate misses twice, and
the answer is a rate that has kept the limit twice.
"""

from __future__ import annotations

import math

PRECISION = 0.05
_RAISE, _LOWER = 1.5, 0.5
_LEAST = 1.0  # records a second
TRIALS_MAX = 40  # far above what any search takes; it ends whatever the machine does


class Search:
    """Ask `rate` what to try next, and tell it by `told` how that went; None: it is over, and `best` the answer."""

    def __init__(self, start: float, *, precision: float = PRECISION) -> None:
        """Begin at a rate that is likely near the answer, in records a second."""
        self.rate: float | None = _rounded(max(start, _LEAST))
        self.trials = 0
        self._precision = precision
        self._kept: dict[float, int] = {}
        self._missed: dict[float, int] = {}

    @property
    def best(self) -> float | None:
        """The highest rate that kept the limit and is below each that missed it; None if there is none."""
        ceiling = self._ceiling()
        return max((rate for rate in self._kept if rate < ceiling), default=None)

    @property
    def confirmed(self) -> bool:
        """The best rate kept the limit twice."""
        return self.best is not None and self._kept[self.best] > 1

    def told(self, kept: bool) -> None:
        """The trial at `rate` kept the limit, or missed it."""
        rate = self.rate
        assert rate is not None, "the search is over"
        self.trials += 1
        if kept:
            self._kept[rate] = self._kept.get(rate, 0) + 1
        else:
            self._missed[rate] = self._missed.get(rate, 0) + 1
            if self._missed[rate] > 1:
                self._kept.pop(rate, None)
        self.rate = self._next(rate) if self.trials < TRIALS_MAX else None

    def _ceiling(self) -> float:
        """The lowest rate that is believed to miss."""
        return min((rate for rate, times in self._missed.items() if times > 1), default=math.inf)

    def _next(self, last: float) -> float | None:
        if self._missed.get(last) == 1 and last not in self._kept:
            return last  # once may be an accident
        best, ceiling = self.best, self._ceiling()
        if best is None:
            return None if ceiling <= _LEAST else _rounded(max(ceiling * _LOWER, _LEAST))
        if math.isinf(ceiling):
            return _rounded(best * _RAISE)
        if ceiling / best > 1 + self._precision:
            middle = _rounded(math.sqrt(best * ceiling))
            if best < middle < ceiling:
                return middle
        return None if self._kept[best] > 1 else best


def _rounded(rate: float) -> float:
    """Three figures are as many as anybody wants to read of a rate."""
    digits = 2 - math.floor(math.log10(rate))
    return round(rate, max(0, digits)) if digits > 0 else float(round(rate, digits))
