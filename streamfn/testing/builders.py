"""Events and contexts as Lambda makes them, out of as little as a test wants to say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast

from streamfn.events import dynamodb, kinesis
from streamfn.events.arrow import batch_of_event
from streamfn.events.dynamodb import DynamoDBSource
from streamfn.events.kinesis import KinesisSource
from streamfn.limits import ACCOUNT, ROLE_ARN
from streamfn.mapping.context import LambdaContext
from streamfn.testing.clock import VirtualClock
from streamfn.types import Change, NewChange, NewRecord, Record

if TYPE_CHECKING:
    import pyarrow as pa

REGION = "us-east-1"
START_MS = 1_700_000_000_000
"""When virtual time begins unless a test says otherwise: 2023-11-14T22:13:20Z."""

# In the range of the service's own, which have 56 digits.
_NUMBER_BASE = 49590338271490256608559692538361571095921575989136588898
_CHANGE_NUMBER_BASE = 700000000000888747038


class KinesisData(TypedDict):
    """What `kinesis` is in a record of a Kinesis event."""

    kinesisSchemaVersion: str
    partitionKey: str
    sequenceNumber: str
    data: str
    approximateArrivalTimestamp: float


class KinesisEventRecord(TypedDict):
    """One record of a Kinesis event."""

    kinesis: KinesisData
    eventSource: str
    eventVersion: str
    eventID: str
    eventName: str
    invokeIdentityArn: str
    awsRegion: str
    eventSourceARN: str


class KinesisEvent(TypedDict):
    """What a handler of a Kinesis stream is given."""

    Records: list[KinesisEventRecord]


class DynamoDBData(TypedDict, total=False):
    """What `dynamodb` is in a record of a DynamoDB Streams event; images that there are none of are absent."""

    ApproximateCreationDateTime: float
    Keys: dict[str, Any]
    NewImage: dict[str, Any]
    OldImage: dict[str, Any]
    SequenceNumber: str
    SizeBytes: int
    StreamViewType: str


class DynamoDBEventRecord(TypedDict):
    """One record of a DynamoDB Streams event."""

    eventID: str
    eventName: str
    eventVersion: str
    eventSource: str
    awsRegion: str
    dynamodb: DynamoDBData
    eventSourceARN: str


class DynamoDBEvent(TypedDict):
    """What a handler of a DynamoDB stream is given."""

    Records: list[DynamoDBEventRecord]


Data: TypeAlias = "bytes | str | dict[str, Any] | list[Any] | NewRecord"
"""A record as tests give it: bytes, text (UTF-8), what becomes JSON, or the whole record."""


def record(data: Data, partition_key: str | None = None, arrival_ms: int | None = None) -> NewRecord:
    """Return a Kinesis record.

    Args:
        data: bytes, text in UTF-8, or an object or list that becomes compact JSON.
        partition_key: without one, the hexadecimal MD5 of the data, as `streamfn put` has it.
        arrival_ms: when it arrives, in milliseconds since 1970; None: at the start.
    """
    if isinstance(data, NewRecord):
        return data
    if isinstance(data, str):
        data = data.encode()
    elif not isinstance(data, bytes):
        data = json.dumps(data, separators=(",", ":")).encode()
    key = hashlib.md5(data, usedforsecurity=False).hexdigest() if partition_key is None else partition_key
    return NewRecord(data, key, arrival_ms)


def change(
    event_name: str,
    keys: Mapping[str, Any],
    *,
    new_image: Mapping[str, Any] | None = None,
    old_image: Mapping[str, Any] | None = None,
    creation_ms: int | None = None,
    stream_view_type: str = "NEW_AND_OLD_IMAGES",
) -> NewChange:
    """Return a DynamoDB change.

    `change("INSERT", {"id": {"S": "7"}}, new_image={"id": {"S": "7"}, "n": {"N": "1"}})`; keys and images are DynamoDB
    JSON.
    """
    return NewChange(
        event_name,
        _compact(keys),
        None if new_image is None else _compact(new_image),
        None if old_image is None else _compact(old_image),
        stream_view_type,
        creation_ms=creation_ms,
    )


def kinesis_event(
    records: Iterable[Data],
    *,
    stream: str = "stream",
    shard_id: str = "shardId-000000000000",
    region: str = REGION,
    start_ms: int = START_MS,
) -> KinesisEvent:
    """Return the event that a handler of the Kinesis stream `stream` is given with these records.

    Keys, their order and the forms of the values are those of the service.  Records without a sequence number get
    rising ones, those without an arrival time arrive at `start_ms`.
    """
    source = kinesis_source(stream, shard_id, region)
    stored = [stored_record(record(each), offset, start_ms) for offset, each in enumerate(records)]
    return cast("KinesisEvent", kinesis.kinesis_event(source, stored))


def dynamodb_event(
    changes: Iterable[NewChange], *, table: str = "table", region: str = REGION, start_ms: int = START_MS
) -> DynamoDBEvent:
    """Return the event that a handler of the table's stream is given with these changes (see `change`).

    Event ids are made from the sequence numbers, so that they are the same in every run; SizeBytes is counted as
    DynamoDB counts it.

    Raises:
        RefusedError: keys or images are not DynamoDB JSON.
    """
    stored = [stored_change(each, offset, start_ms) for offset, each in enumerate(changes)]
    return cast("DynamoDBEvent", dynamodb.dynamodb_event(dynamodb_source(table, region), stored))


def kinesis_batch(
    records: Iterable[Data],
    *,
    stream: str = "stream",
    shard_id: str = "shardId-000000000000",
    region: str = REGION,
    start_ms: int = START_MS,
) -> pa.RecordBatch:
    """Return the record batch that an Arrow handler of the Kinesis stream is given with these records, at least one.

    As `kinesis_event` otherwise.
    """
    event = kinesis_event(records, stream=stream, shard_id=shard_id, region=region, start_ms=start_ms)
    return batch_of_event(cast("dict[str, Any]", event))


def dynamodb_batch(
    changes: Iterable[NewChange], *, table: str = "table", region: str = REGION, start_ms: int = START_MS
) -> pa.RecordBatch:
    """Return the record batch that an Arrow handler of the table's stream is given with these changes, at least one.

    As `dynamodb_event` otherwise.
    """
    event = dynamodb_event(changes, table=table, region=region, start_ms=start_ms)
    return batch_of_event(cast("dict[str, Any]", event))


def lambda_context(
    function_name: str = "handler",
    *,
    timeout_seconds: float = 3.0,
    memory_limit_in_mb: int = 128,
    aws_request_id: str = "00000000-0000-4000-8000-000000000000",
    clock: VirtualClock | None = None,
) -> LambdaContext:
    """Return a context as Lambda passes it; its remaining time follows `clock` (None: a clock that stands still)."""
    return context_type(function_name, memory_limit_in_mb, VirtualClock() if clock is None else clock)(
        aws_request_id, timeout_seconds
    )


def context_type(function_name: str, memory_limit_in_mb: int, clock: VirtualClock) -> type[VirtualContext]:
    """Return the class of one function's contexts."""
    constants = {
        "function_name": function_name,
        "invoked_function_arn": function_arn(function_name),
        "memory_limit_in_mb": str(memory_limit_in_mb),
        "log_group_name": f"/aws/lambda/{function_name}",
        "log_stream_name": "2023/11/14/[$LATEST]00000000000000000000000000000000",
        "_clock": clock,
        "__module__": __name__,
    }
    return type("LambdaContext", (VirtualContext,), constants)


class VirtualContext(LambdaContext):
    """A context whose time is that of a virtual clock."""

    _clock: VirtualClock

    def __init__(self, aws_request_id: str, timeout_seconds: float) -> None:
        """The invocation begins now."""
        super().__init__(aws_request_id, self._clock.monotonic_ns() + int(timeout_seconds * 1e9))

    @property
    def _epoch_deadline_time_in_ms(self) -> int:
        return self._clock.unix_ms() + (self._deadline_ns - self._clock.monotonic_ns()) // 1_000_000

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds of virtual time until the function is stopped; 0 when the time is over, never less."""
        return max(0, (self._deadline_ns - self._clock.monotonic_ns()) // 1_000_000)


# ---- records as they lie in a log


def kinesis_source(stream: str, shard_id: str, region: str = REGION) -> KinesisSource:
    """Return what the events of one shard have in common."""
    return KinesisSource(f"arn:aws:kinesis:{region}:{ACCOUNT}:stream/{stream}", region, shard_id, ROLE_ARN)


def dynamodb_source(table: str, region: str = REGION) -> DynamoDBSource:
    """Return what the events of one table's stream have in common."""
    label = "2023-11-14T22:13:20.000"
    return DynamoDBSource(f"arn:aws:dynamodb:{region}:{ACCOUNT}:table/{table}/stream/{label}", region)


def function_arn(function_name: str) -> str:
    """Return the unqualified ARN of a function."""
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function_name}"


def stored_record(new: NewRecord, offset: int, start_ms: int) -> Record:
    """Return a record as it lies at an offset of a shard."""
    number = str(_NUMBER_BASE + offset) if new.sequence_number is None else new.sequence_number
    arrival_ms = start_ms if new.arrival_ms is None else new.arrival_ms
    return Record(offset, number, new.partition_key, arrival_ms, new.data)


def stored_change(new: NewChange, offset: int, start_ms: int) -> Change:
    """Return a change as it lies at an offset of a shard."""
    from streamfn.log.format.changes import size_bytes

    number = str(_CHANGE_NUMBER_BASE + offset) if new.sequence_number is None else new.sequence_number
    return Change(
        offset,
        number,
        hashlib.md5(number.encode(), usedforsecurity=False).hexdigest() if new.event_id is None else new.event_id,
        new.event_name,
        new.event_version,
        start_ms if new.creation_ms is None else new.creation_ms,
        new.keys,
        new.new_image,
        new.old_image,
        size_bytes(new) if new.size_bytes is None else new.size_bytes,
        new.stream_view_type,
        new.user_identity,
    )


def _compact(item: Mapping[str, Any]) -> bytes:
    return json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode()
