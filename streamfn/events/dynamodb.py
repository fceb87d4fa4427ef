"""The DynamoDB Streams Lambda event in plain Python: what the native builder is measured against.

    {"Records": [{"eventID": ..., "eventName": "INSERT", ..., "dynamodb": {...}, "eventSourceARN": ...}, ...]}

Keys stand in the order that the service writes them in.  Images that a record does not have are left out.  Where a
`userIdentity` stands has not been recorded; it is behind `dynamodb`, as in the SDK's model of a record.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import orjson

from streamfn.types import Change


class DynamoDBSource(NamedTuple):
    """What all records of one shard have in common: stream ARN and region."""

    arn: str
    region: str


def dynamodb_event(source: DynamoDBSource, changes: Iterable[Change]) -> dict[str, list[dict[str, object]]]:
    """Return the event of `changes`, which are of one shard of the stream that `source` names, in their order.

    `streamfn._events.build` makes an equal one from mapped columns.
    """
    return {"Records": [dynamodb_record(source, change) for change in changes]}


def dynamodb_record(source: DynamoDBSource, change: Change) -> dict[str, object]:
    """Return one record of an event.  The creation time is in seconds, with milliseconds as decimals."""
    dynamodb: dict[str, object] = {
        "ApproximateCreationDateTime": change.creation_ms / 1000,
        "Keys": orjson.loads(change.keys),
    }
    if change.new_image is not None:
        dynamodb["NewImage"] = orjson.loads(change.new_image)
    if change.old_image is not None:
        dynamodb["OldImage"] = orjson.loads(change.old_image)
    dynamodb["SequenceNumber"] = change.sequence_number
    dynamodb["SizeBytes"] = change.size_bytes
    dynamodb["StreamViewType"] = change.stream_view_type
    record: dict[str, object] = {
        "eventID": change.event_id,
        "eventName": change.event_name,
        "eventVersion": change.event_version,
        "eventSource": "aws:dynamodb",
        "awsRegion": source.region,
        "dynamodb": dynamodb,
    }
    if change.user_identity is not None:
        record["userIdentity"] = orjson.loads(change.user_identity)
    record["eventSourceARN"] = source.arn
    return record
