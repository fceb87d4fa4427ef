"""What `run_mapping` gives back: everything that happened, as plain values.  Times are seconds since the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

OutcomeName: TypeAlias = Literal["succeeded", "partly", "failed", "timed out", "died", "throttled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One invocation.

    Attributes:
        event: what the handler was given; None where it was throttled before.
        shard_id: the shard that its records are from.
        sequence_numbers: those of its records; none in an invocation that only ends a window.
        attempt: deliveries of this batch that count, this one included.
        started: when the handler was called.
        ended: when it was over.
        seconds: how long it took.
        outcome: how it went; "partly": the response reported records as failed.
        request_id: what the handler saw as `context.aws_request_id`.
        done: how many of its first records succeeded.
        response: what the handler returned, after a trip through JSON.
        error: the error document that Lambda would have given, parsed; None after a success.
    """

    event: Any
    shard_id: str
    sequence_numbers: tuple[str, ...]
    attempt: int
    started: float
    ended: float
    seconds: float
    outcome: OutcomeName
    request_id: str
    done: int
    response: Any = None
    error: dict[str, Any] | None = None

    @property
    def records(self) -> list[Any]:
        """The event's records."""
        return list(self.event["Records"]) if self.event else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded:
    """Records that were given up: why, after how many deliveries, and what an on-failure destination is told."""

    shard_id: str
    sequence_numbers: tuple[str, ...]
    condition: str
    attempts: int
    at: float
    failure_record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that became durable: everything before this record of the shard is done."""

    shard_id: str
    offset: int
    at: float


@dataclass(frozen=True, slots=True)
class MappingResult:
    """What a mapping did with its records.

    Attributes:
        batches: every invocation, in the order in which they began.
        discarded: what was given up, in the order in which it became durable.
        checkpoints: in the order in which they became durable.
        caught_up: everything was done, and durably; False: the time given was over before.
        seconds: virtual time that passed.
    """

    batches: Sequence[Batch] = field(default_factory=list)
    discarded: Sequence[Discarded] = field(default_factory=list)
    checkpoints: Sequence[Checkpoint] = field(default_factory=list)
    caught_up: bool = False
    seconds: float = 0.0

    @property
    def failure_records(self) -> list[dict[str, Any]]:
        """What an on-failure destination would have been given."""
        return [each.failure_record for each in self.discarded]

    @property
    def delivered(self) -> list[tuple[str, ...]]:
        """The sequence numbers of every batch."""
        return [batch.sequence_numbers for batch in self.batches]
