"""What a mapping's invocations would have been billed for: all of them, those too that nobody was told of one by one.

The sum of those that a worker answered is kept in C, beside the histogram of their durations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from streamfn._native import lib
from streamfn.functions import prices
from streamfn.mapping.logs import billed_ms
from streamfn.pool.confine.limits import Limits
from streamfn.pool.lane import FailureKind

if TYPE_CHECKING:
    from streamfn.pool.worker import Worker

# Ends that no worker has answered for. What we end for reasons of our own is not billed.
ENDED = (FailureKind.TIMEOUT, FailureKind.CRASHED, FailureKind.OUT_OF_MEMORY)


class Billed(NamedTuple):
    """Milliseconds, each invocation's rounded up; without a memory size there are neither GB-seconds nor a price."""

    billed_duration_ms: int
    gb_seconds: float | None
    estimated_price_usd: float | None


class Bill:
    """The bill of one mapping's run."""

    def __init__(self, durations: Any, limits: Limits) -> None:
        """`durations`: the `sf_histogram *` that the pool records them in."""
        self._durations = durations
        self._limits = limits
        self._more_ms = 0
        self._more_requests = 0

    def ended(self, duration_ns: int) -> None:
        """An invocation was ended from outside after so long."""
        self._more_ms += billed_ms(max(0, duration_ns))
        self._more_requests += 1

    def initialised(self, worker: Worker) -> None:
        """The mapping has a seat in an environment; the first one to do so is billed for its Init."""
        if not worker.is_init_billed:
            worker.is_init_billed = True
            self._more_ms += billed_ms(worker.init_ns)

    @property
    def requests(self) -> int:
        """How many invocations ended, whoever ended them."""
        return int(lib.sf_histogram_total(self._durations)) + self._more_requests

    def total(self) -> Billed:
        """What it comes to so far."""
        total_ms = int(lib.sf_histogram_whole_ms(self._durations)) + self._more_ms
        requests = self.requests
        memory_mb = self._limits.memory_mb
        if memory_mb is None:
            return Billed(total_ms, None, None)
        usd = prices.estimate_usd(
            prices.rates(),
            requests=requests,
            billed_ms=total_ms,
            memory_mb=memory_mb,
            storage_mb=self._limits.ephemeral_storage_mb,
        )
        return Billed(total_ms, prices.gb_seconds(total_ms, memory_mb), usd)
