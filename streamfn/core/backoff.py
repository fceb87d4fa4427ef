"""How long a failed batch waits before it is tried again: exponential, with full jitter.

AWS documents no pacing.  One recording shows eight invocations of a handler that fails at once within 60
seconds; the defaults here do the same on average (waits of 0.25, 0.5, 1, 2, 4, 8 and 16 s).  Full jitter
(uniform between nothing and the bound) keeps shards that failed together from coming back together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Draw: TypeAlias = Callable[[], float]
"""Uniform random numbers in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before what failed is tried again; the times are nanoseconds.

    `initial_ns` bounds the first wait, every further failure in a row multiplies it by `factor`, and it never passes
    `max_ns`. Of each wait the share `jitter` is drawn: 1 means uniformly between nothing and the bound, 0 always the
    bound, 0.5 uniformly between half of it and all of it.
    """

    initial_ns: int = 500_000_000
    factor: int = 2
    max_ns: int = 60_000_000_000
    jitter: float = 1.0

    def __post_init__(self) -> None:
        assert 0 <= self.initial_ns <= self.max_ns
        assert self.factor >= 1
        assert 0 <= self.jitter <= 1

    def bound_ns(self, failures: int) -> int:
        """The longest wait after the `failures`-th failure in a row (1 for the first)."""
        assert failures >= 1
        # 64 doublings are past any limit; the exponent is bounded because retries are not.
        growth: int = self.factor ** min(failures - 1, 64)
        return min(self.max_ns, self.initial_ns * growth)

    def delay_ns(self, failures: int, draw: Draw) -> int:
        """The wait after the `failures`-th failure in a row, drawn once."""
        return int(self.bound_ns(failures) * (1 - self.jitter * (1 - draw())))
