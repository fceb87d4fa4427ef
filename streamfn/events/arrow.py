"""Batches as Arrow columns: what handlers are called with that work on whole columns instead of on records.

    @streamfn.arrow_handler
    def handler(batch, context):
        total = pyarrow.compute.sum(batch["price"])

`batch` is a pyarrow.RecordBatch with the columns of the shard log (docs/log.md). Its schema's metadata has what all
records of an event have in common, in Lambda's words: `eventSource`, `eventSourceARN`, `awsRegion`, of a Kinesis stream
also `invokeIdentityArn` and `shardId`.

A worker makes the batch over the mapped segment (native/events/arrow.h). Called with a Lambda event, the decorated
handler makes the batch out of that itself: so it runs in Lambda, in a test, and with `streamfn invoke`.

pyarrow is imported when the first batch is made, or by `prepare`.
"""

from __future__ import annotations

import base64
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import pyarrow as pa

    from streamfn import _events

F = TypeVar("F", bound="Callable[..., Any]")

MARK = "__streamfn_arrow__"
"""The attribute by which a handler is known that wants columns."""

WINDOWED = (
    "an Arrow handler cannot be used with TumblingWindowInSeconds: a record batch has no place for the window and its "
    "state; use a handler that takes the event"
)


def arrow_handler(handler: F) -> F:
    """Have a handler called with a record batch and the context, in place of the event and the context.

    For functions, coroutine functions, methods, and classes whose instances are called. Called with a Lambda event of a
    Kinesis or DynamoDB stream, what this returns makes the batch from it; called with a batch, it just calls `handler`:
    so it can be tested without a runtime. What the handler returns means what it always means; `batchItemFailures` name
    sequence numbers, which are a column.

    The batch may be kept for as long as it is wanted: the segment it lies in stays mapped meanwhile, and takes its
    place on the disk even when it has been deleted there.

    Raises:
        TypeError: `handler` cannot be called, or is a class whose instances cannot be.
    """
    if isinstance(handler, type):
        call = inspect.getattr_static(handler, "__call__", None)
        if not inspect.isfunction(call):
            raise TypeError(f"an Arrow handler class has a method __call__(self, batch, context); {handler!r} has none")
        setattr(handler, "__call__", arrow_handler(call))  # noqa: B010 - mypy takes it for a method's definition
        return cast("F", handler)
    if not callable(handler):
        raise TypeError(f"an Arrow handler is a function or a class, not {handler!r}")
    named = handler.func if isinstance(handler, functools.partial) else handler
    wrapper: Any
    if inspect.iscoroutinefunction(handler):

        @functools.wraps(named)
        async def wrapper(*arguments: Any, **keywords: Any) -> Any:
            return await handler(*_with_batch(arguments), **keywords)

    else:

        @functools.wraps(named)
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            return handler(*_with_batch(arguments), **keywords)

    wrapper.__wrapped__ = handler
    setattr(wrapper, MARK, True)
    return cast("F", wrapper)


def _with_batch(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments (of a method, self is in front) with the event, if there is one, made a batch."""
    if len(arguments) >= 2 and isinstance(arguments[-2], dict):
        return (*arguments[:-2], batch_of_event(arguments[-2]), arguments[-1])
    return arguments


# ---- schemas


def prepare() -> None:
    """Import what batches need: where that is done before a fork, workers share it."""
    schema(changes=False)


@lru_cache
def schema(*, changes: bool) -> pa.Schema:
    """Return the schema of a Kinesis stream's batches, or of those of a DynamoDB stream."""
    import pyarrow as pa

    def column(name: str, kind: Any = "string", *, nullable: bool = False) -> pa.Field:
        return pa.field(name, kind, nullable=nullable)

    time = pa.timestamp("ms", "UTC")
    if not changes:
        return pa.schema(
            [
                column("sequence_number"),
                column("partition_key"),
                column("approximate_arrival_timestamp", time),
                column("data", pa.binary()),
            ]
        )
    return pa.schema(
        [
            column("event_id"),
            column("event_name"),
            column("event_version"),
            column("sequence_number"),
            column("approximate_creation_date_time", time),
            column("keys"),
            column("new_image", nullable=True),
            column("old_image", nullable=True),
            column("size_bytes", pa.int64()),
            column("stream_view_type"),
            column("user_identity", nullable=True),
        ]
    )


def schema_of(source: _events.Source) -> pa.Schema:
    """Return the schema, with metadata, of the batches of one shard."""
    about = {
        "eventSource": "aws:dynamodb" if source.changes else "aws:kinesis",
        "eventSourceARN": source.arn,
        "awsRegion": source.region,
    }
    if not source.changes:
        about |= {"invokeIdentityArn": source.identity_arn, "shardId": source.shard_id}
    return schema(changes=source.changes).with_metadata(about)


def importer() -> Callable[[int, _events.Source], pa.RecordBatch]:
    """Return what makes the batch of the `struct ArrowArray` at an address, which it takes over, and its source."""
    import pyarrow as pa

    schemas: dict[tuple[str, str], pa.Schema] = {}
    take_over = pa.RecordBatch._import_from_c

    def import_batch(array: int, source: _events.Source) -> pa.RecordBatch:
        key = (source.arn, source.shard_id)
        found = schemas.get(key)
        if found is None:
            found = schemas[key] = schema_of(source)
        return take_over(array, found)

    return import_batch


# ---- from a Lambda event


def batch_of_event(event: Mapping[str, Any]) -> pa.RecordBatch:
    """Return the records of a Lambda event of a Kinesis or DynamoDB stream as a record batch.

    Keys and images, which the log keeps to the letter, come as compact JSON. An event does not tell a DynamoDB
    stream's shard, nor a batch.

    Raises:
        ValueError: it is no such event, has no records, or is that of a tumbling window.
    """
    records = event.get("Records")
    if not isinstance(records, list) or not records or not isinstance(records[0], dict):
        raise ValueError("an Arrow handler takes a record batch, or a Lambda event with Records of a stream")
    if "window" in event:
        raise ValueError(WINDOWED)
    source = records[0].get("eventSource")
    try:
        if source == "aws:kinesis":
            return _records(records)
        if source == "aws:dynamodb":
            return _changes(records)
    except (KeyError, TypeError) as error:
        raise ValueError(f"a record of the event is not as those of {source} are: {error!r}") from error
    raise ValueError(f"an Arrow handler takes the records of Kinesis and DynamoDB streams, not of {source!r}")


def _records(records: list[dict[str, Any]]) -> pa.RecordBatch:
    first, inner = records[0], [record["kinesis"] for record in records]
    columns = [
        [record["sequenceNumber"] for record in inner],
        [record["partitionKey"] for record in inner],
        [round(record["approximateArrivalTimestamp"] * 1000) for record in inner],
        [base64.b64decode(record["data"]) for record in inner],
    ]
    about = {key: first[key] for key in ("eventSource", "eventSourceARN", "awsRegion", "invokeIdentityArn")}
    about["shardId"] = first["eventID"].partition(":")[0]
    return _batch(columns, about, changes=False)


def _changes(records: list[dict[str, Any]]) -> pa.RecordBatch:
    first, inner = records[0], [record["dynamodb"] for record in records]
    columns = [
        [record["eventID"] for record in records],
        [record["eventName"] for record in records],
        [record["eventVersion"] for record in records],
        [change["SequenceNumber"] for change in inner],
        [round(change["ApproximateCreationDateTime"] * 1000) for change in inner],
        [_text(change["Keys"]) for change in inner],
        [_text(change.get("NewImage")) for change in inner],
        [_text(change.get("OldImage")) for change in inner],
        [change["SizeBytes"] for change in inner],
        [change["StreamViewType"] for change in inner],
        [_text(record.get("userIdentity")) for record in records],
    ]
    return _batch(columns, {key: first[key] for key in ("eventSource", "eventSourceARN", "awsRegion")}, changes=True)


def _batch(columns: list[list[Any]], about: dict[str, str], *, changes: bool) -> pa.RecordBatch:
    import pyarrow as pa

    kind = schema(changes=changes).with_metadata(about)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, kind, strict=True)]
    return pa.record_batch(arrays, schema=kind)


def _text(document: Any) -> str | None:
    return None if document is None else json.dumps(document, separators=(",", ":"), ensure_ascii=False)
