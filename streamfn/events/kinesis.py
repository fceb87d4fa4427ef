"""The Kinesis Lambda event in plain Python: slow, obvious, and what the native builder is measured against.

    {"Records": [{"kinesis": {...}, "eventSource": "aws:kinesis", ...}, ...]}

Keys stand in the order that the service writes them in.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from typing import NamedTuple

from streamfn.types import Record


class KinesisSource(NamedTuple):
    """What all records of one shard have in common: stream ARN, region, shard, ARN of the function's role."""

    arn: str
    region: str
    shard_id: str
    identity_arn: str


def kinesis_event(source: KinesisSource, records: Iterable[Record]) -> dict[str, list[dict[str, object]]]:
    """Return the event of `records`, which are of the one shard that `source` names, in their order.

    `streamfn._events.build` makes an equal one from mapped columns.
    """
    return {"Records": [kinesis_record(source, record) for record in records]}


def kinesis_record(source: KinesisSource, record: Record) -> dict[str, object]:
    """Return one record of an event.  The arrival time is in seconds, with milliseconds as decimals."""
    return {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": record.partition_key,
            "sequenceNumber": record.sequence_number,
            "data": b64encode(record.data).decode("ascii"),
            "approximateArrivalTimestamp": record.arrival_ms / 1000,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{source.shard_id}:{record.sequence_number}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": source.identity_arn,
        "awsRegion": source.region,
        "eventSourceARN": source.arn,
    }
