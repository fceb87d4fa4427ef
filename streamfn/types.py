"""The vocabulary: small immutable values that cross package borders."""

from __future__ import annotations

from typing import NamedTuple


class NewRecord(NamedTuple):
    """A record on its way into a stream.

    `arrival_ms` is milliseconds since 1970, UTC; None takes the time of the append.
    """

    data: bytes
    partition_key: str
    arrival_ms: int | None = None


class Record(NamedTuple):
    """A record as it lies in a shard.  `offset` is its ordinal in the shard's whole life."""

    offset: int
    sequence_number: str
    partition_key: str
    arrival_ms: int
    data: bytes


class Run(NamedTuple):
    """`batches` consecutive batches of one lane, of `records` records each, from `first_offset` on.

    `attempt` counts deliveries of these records as this batch: 1 for the first.
    """

    first_offset: int
    records: int
    batches: int
    attempt: int


class Fault(NamedTuple):
    """Why an invocation did not succeed, in Lambda's terms.

    `document` is the error document as bytes of JSON (errorType, errorMessage, stackTrace, requestId).
    """

    error_type: str
    message: str
    document: bytes
