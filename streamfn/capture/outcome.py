"""What a recording is bounded by, what can be seen of it, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from streamfn.capture.reading import Until


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """When a recording ends by itself: each is None for "not because of that"."""

    until: Until | None = None
    duration_s: float | None = None
    limit: int | None = None


class ShardTrouble(NamedTuple):
    """A shard whose calls fail: how often in a row, why, and when the next one is (seconds from now)."""

    shard_id: str
    failures: int
    reason: str
    next_call_s: float


@dataclass(slots=True)
class Counts:
    """What has been stored by this run; `losses` are ranges that the source had trimmed away before."""

    records: int = 0
    bytes: int = 0
    losses: int = 0
    shards: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordResult:
    """What a recording did.

    `why` it ended: "until", "limit", "duration", "stopped" or "source ended".  So many `shards` were read, and so
    many ranges (`losses`) had been trimmed away before.  `resumes_at` is the last sequence number stored of each
    shard that is not finished, None where there is none yet.
    """

    why: str
    records: int
    bytes: int
    shards: int
    losses: int
    seconds: float
    resumes_at: dict[str, str | None]
