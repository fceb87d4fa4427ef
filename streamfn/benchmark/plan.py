"""What a benchmark does: the load that is offered, and the settings that are swept over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from streamfn.errors import RefusedError

DURATION_S_DEFAULT = 10.0
WARMUP_S_DEFAULT = 1.0
TRIAL_S_DEFAULT = 5.0  # of a search for the highest rate: a dozen trials are a minute
DURATION_S_MAX = 86_400.0
# Of a fixed rate's rows, those that kept it: what is missing otherwise is the last batch, still on its way.
_KEPT = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is offered in each run.

    Attributes:
        rate: records a second, due at even distances; infinite: as fast as they are taken (closed loop).
        ramp_to: where the rate rises (or falls) to over `duration_s`; None: it stays.
        duration_s: how long is measured.
        warmup_s: how long the same is done before and not counted.
        limit_ms: the p99 that the highest rate is to keep, which is then searched for; None: the rate is given.
    """

    rate: float = math.inf
    ramp_to: float | None = None
    duration_s: float = DURATION_S_DEFAULT
    warmup_s: float = WARMUP_S_DEFAULT
    limit_ms: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.duration_s <= DURATION_S_MAX:
            raise RefusedError(f"--duration {self.duration_s:g}s is not above 0 and at most {DURATION_S_MAX:g}s")
        if not 0 <= self.warmup_s <= DURATION_S_MAX:
            raise RefusedError(f"--warmup {self.warmup_s:g}s is not 0 to {DURATION_S_MAX:g}s")
        if self.limit_ms is not None and self.limit_ms <= 0:
            raise RefusedError(f"--latency-p99 {self.limit_ms:g}ms must be above 0")

    @property
    def is_closed(self) -> bool:
        """No record has a time at which it is due: the next one comes when there is room."""
        return math.isinf(self.rate)

    @property
    def seconds(self) -> float:
        """Warm-up and measurement together."""
        return self.warmup_s + self.duration_s

    @property
    def records(self) -> int:
        """How many records are due in that time."""
        if self.is_closed:
            raise ValueError("a closed loop takes as many as it can")
        last = self.rate if self.ramp_to is None else self.ramp_to
        return math.ceil(self.rate * self.warmup_s + (self.rate + last) / 2 * self.duration_s)


class Setting(NamedTuple):
    """One row of a sweep; `record_size` None: the records are what they are."""

    batch_size: int
    workers: int
    record_size: int | None


def settings(
    batch_sizes: Sequence[int], workers: Sequence[int], record_sizes: Sequence[int | None]
) -> list[Setting]:
    """Every combination; the batch size changes fastest, the record size least."""
    return [Setting(batch, some, size) for size, some, batch in product(record_sizes, workers, batch_sizes)]


class Outcome(NamedTuple):
    """Of a row, what the rows are ranked by; `p99_ms` None: nothing was finished."""

    rate_achieved: float
    rate_offered: float | None
    p99_ms: float | None


def best_of(rows: Sequence[Outcome]) -> int:
    """Which row is best: with a given rate the lowest p99 of those that kept it, else the highest rate."""

    def rank(index: int) -> tuple[bool, float]:
        achieved, offered, p99_ms = rows[index]
        kept = offered is not None and achieved >= _KEPT * offered and p99_ms is not None
        return (kept, -p99_ms if kept and p99_ms is not None else achieved)

    given = {row.rate_offered for row in rows}
    if len(given) == 1 and None not in given:
        return max(range(len(rows)), key=rank)
    return max(range(len(rows)), key=lambda index: rows[index].rate_achieved)
