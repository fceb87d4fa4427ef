"""The vocabulary: small immutable values that cross package borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class NewRecord(NamedTuple):
    """A record on its way into a stream.

    `arrival_ms` is milliseconds since 1970, UTC; None takes the time of the append.  `sequence_number` is
    that of a captured record; None lets the shard give one.  A record that was taken out of an aggregated
    one has that one's number in `source_sequence_number`, and its place in it in `source_subsequence_number`.
    """

    data: bytes
    partition_key: str
    arrival_ms: int | None = None
    sequence_number: str | None = None
    source_sequence_number: str | None = None
    source_subsequence_number: int | None = None


class Record(NamedTuple):
    """A record as it lies in a shard.  `offset` is its ordinal in the shard's whole life."""

    offset: int
    sequence_number: str
    partition_key: str
    arrival_ms: int
    data: bytes
    source_sequence_number: str | None = None
    source_subsequence_number: int | None = None


class NewChange(NamedTuple):
    """A DynamoDB change record on its way into a stream.

    `keys`, the images and `user_identity` are JSON in UTF-8, compact, attributes and numbers as they came.
    `creation_ms` is milliseconds since 1970, UTC.  Where `event_id`, `creation_ms`, `sequence_number` or
    `size_bytes` is None the append makes one.
    """

    event_name: str
    keys: bytes
    new_image: bytes | None = None
    old_image: bytes | None = None
    stream_view_type: str = "NEW_AND_OLD_IMAGES"
    event_id: str | None = None
    creation_ms: int | None = None
    sequence_number: str | None = None
    size_bytes: int | None = None
    user_identity: bytes | None = None
    event_version: str = "1.1"


class Change(NamedTuple):
    """A DynamoDB change record as it lies in a shard; see `NewChange`."""

    offset: int
    sequence_number: str
    event_id: str
    event_name: str
    event_version: str
    creation_ms: int
    keys: bytes
    new_image: bytes | None
    old_image: bytes | None
    size_bytes: int
    stream_view_type: str
    user_identity: bytes | None


class Part(NamedTuple):
    """The records of one message that fall into one lane, in order.

    `rows` are their row numbers, ascending, and `first_offset` is the offset of the message's row 0; where `rows` is
    None the records follow one another from `first_offset` on. `prefix_bytes` and `arrivals` are those of these records
    alone, as `core.batcher.Chunk` has them.
    """

    lane: int
    first_offset: int
    rows: Sequence[int] | None
    prefix_bytes: Sequence[int]
    arrivals: Sequence[int] | None = None


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


class Failure(NamedTuple):
    """What Lambda's on-failure record says of a discarded batch, beside its condition, and where it goes.

    `attempts` counts the batch's deliveries, 0 if it was never handed over.  `request_id` is the last
    invocation's (a fresh one without any), `function_error` what `responseContext` says: `Unhandled`, or None
    where the function returned a response that means failure.  `records` are the batch's; `offsets` are theirs
    where they are not all of the discard's range (None: they are).  Times are milliseconds since 1970, UTC;
    `time_ms` is when it was discarded.  `destination` is as `--on-failure` has it; empty: nowhere.
    """

    attempts: int
    request_id: str
    function_arn: str
    function_error: str | None
    records: int
    first_sequence_number: str
    last_sequence_number: str
    first_arrival_ms: int
    last_arrival_ms: int
    time_ms: int
    offsets: tuple[int, ...] | None = None
    destination: str = ""


class Window(NamedTuple):
    """Where the tumbling windows of a shard are; it goes with every checkpoint of it.

    The bounds are milliseconds since 1970, UTC, the second one exclusive.  `state` is JSON as a handler returned it;
    None if this window is closed and no later one has begun.
    """

    start_ms: int
    end_ms: int
    state: bytes | None


class Envelope(NamedTuple):
    """What an invocation is told of its tumbling window, beside the records.

    The bounds are milliseconds since 1970, UTC; `state` is JSON.
    """

    start_ms: int
    end_ms: int
    state: bytes
    is_final: bool
    is_terminated_early: bool
