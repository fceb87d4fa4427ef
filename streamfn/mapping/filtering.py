"""Fields that filters ask for, as columns of a shard log: which column, and what its values are to a pattern.

Both who asks whole columns (metadata.py) and who looks into single records (scanner.py) take their values from here, so
that they cannot disagree. They are what a handler is shown, with Kinesis data decoded and parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from streamfn.core.filter.expression import NOT_JSON
from streamfn.core.filter.predicate import MISSING

if TYPE_CHECKING:
    from streamfn.log.segment.rows import Row


class Source(NamedTuple):
    """A column, and what makes a field's value of one of its values (never None: that is a missing field)."""

    column: str
    value: Callable[[Any], Any]


def _document(value: Any) -> Any:
    """Parse JSON bytes (or text); NOT_JSON for what is none."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return NOT_JSON


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value, "utf-8", "replace")


def _seconds(milliseconds: int) -> float:
    return milliseconds / 1000


def _number(value: int) -> int:
    return value


SOURCES: Mapping[str, Source] = {
    "data": Source("data", _document),
    "partitionKey": Source("partition_key", _text),
    "eventID": Source("event_id", _text),
    "eventName": Source("event_name", _text),
    "eventVersion": Source("event_version", _text),
    "userIdentity": Source("user_identity", _document),
    "dynamodb.ApproximateCreationDateTime": Source("approximate_creation_date_time", _seconds),
    "dynamodb.Keys": Source("keys", _document),
    "dynamodb.NewImage": Source("new_image", _document),
    "dynamodb.OldImage": Source("old_image", _document),
    "dynamodb.SequenceNumber": Source("sequence_number", _text),
    "dynamodb.SizeBytes": Source("size_bytes", _number),
    "dynamodb.StreamViewType": Source("stream_view_type", _text),
}


def constants(kind: str, arn: str, region: str) -> dict[str, str]:
    """Return the fields that all records of a stream have alike."""
    if kind != "dynamodb":
        return {}
    return {"eventSource": "aws:dynamodb", "awsRegion": region, "eventSourceARN": arn}


def field_value(field: str, value: Any) -> Any:
    """Return what a pattern sees of a column's value; None is null there."""
    return MISSING if value is None else SOURCES[field].value(value)


# Columns that records and changes have under another name.
_ATTRIBUTES = {"approximate_creation_date_time": "creation_ms"}


def row_fields(row: Row, fields: Collection[str]) -> dict[str, Any]:
    """Return what a pattern sees of some fields of one record; those that it has not are left out."""
    found = {}
    for field in fields:
        column = SOURCES[field].column
        value = getattr(row, _ATTRIBUTES.get(column, column), None)
        if value is not None:
            found[field] = SOURCES[field].value(value)
    return found
