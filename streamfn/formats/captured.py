"""Captured Kinesis records, one by one: as GetRecords gives them, and as they stand in Lambda events.

Data is base64; times are numbers (seconds since 1970) or ISO 8601; what else there is, is passed over
(`EncryptionType`).  A record of ours, as `tail --json` and `export` write it, also says its shard (`ShardId`).
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any, NamedTuple

from streamfn.formats.fields import checked_key
from streamfn.formats.rows import Origin
from streamfn.formats.times import parse_seconds_ms
from streamfn.limits import RECORD_BYTES_MAX, SEQUENCE_DIGITS_MAX
from streamfn.types import NewRecord

GET_RECORDS = "kinesis-get-records"
DYNAMODB_GET_RECORDS = "dynamodb-get-records"
LAMBDA_EVENT = "lambda-event"
CAPTURES = (GET_RECORDS, DYNAMODB_GET_RECORDS, LAMBDA_EVENT)

class Captured(NamedTuple):
    """One record of a capture, and what it says of where it comes from."""

    record: NewRecord
    origin: Origin


def form_of(value: object) -> str:
    """Return the format of a parsed record.

    Raises:
        ValueError: it is no captured record.
    """
    if isinstance(value, Mapping):
        if "kinesis" in value:
            return LAMBDA_EVENT
        if "dynamodb" in value:
            return LAMBDA_EVENT if "eventSourceARN" in value else DYNAMODB_GET_RECORDS
        if "SequenceNumber" in value and "Data" in value:
            return GET_RECORDS
    raise ValueError("it is no captured record: it has neither SequenceNumber and Data, nor kinesis, nor dynamodb")


def get_records_record(value: Mapping[str, Any]) -> Captured:
    """Read a record as GetRecords gives it; ValueError says what is wrong with it."""
    record = NewRecord(
        _data(_member(value, "Data", str)),
        checked_key(_member(value, "PartitionKey", str), "PartitionKey"),
        _time(value, "ApproximateArrivalTimestamp"),
        sequence_number(_member(value, "SequenceNumber", str), "SequenceNumber"),
    )
    if "SourceSequenceNumber" in value or "SourceSubsequenceNumber" in value:
        record = _with_source(record, value)
    shard = value.get("ShardId")
    return Captured(record, Origin(shard_id(shard) if shard is not None else None))


def _with_source(record: NewRecord, value: Mapping[str, Any]) -> NewRecord:
    number, place = value.get("SourceSequenceNumber"), value.get("SourceSubsequenceNumber")
    if number is not None:
        number = sequence_number(number, "SourceSequenceNumber")
    if place is not None and (not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < 2**63):
        raise ValueError(f"SourceSubsequenceNumber is not a number from 0: {place!r}")
    return record._replace(source_sequence_number=number, source_subsequence_number=place)


def lambda_record(value: Mapping[str, Any]) -> Captured:
    """Read a record of a Kinesis Lambda event; ValueError says what is wrong with it."""
    kinesis = _member(value, "kinesis", Mapping)
    number = sequence_number(_member(kinesis, "sequenceNumber", str), "kinesis.sequenceNumber")
    record = NewRecord(
        _data(_member(kinesis, "data", str)),
        checked_key(_member(kinesis, "partitionKey", str), "kinesis.partitionKey"),
        _time(kinesis, "approximateArrivalTimestamp"),
        number,
    )
    shard, _, labelled = _member(value, "eventID", str).rpartition(":")
    if labelled != number:
        raise ValueError(f"its eventID is not SHARD:{number}")
    return Captured(record, Origin(shard_id(shard), stream_arn(_member(value, "eventSourceARN", str))))


def stream_arn(arn: str) -> str:
    """Return the ARN of the stream, also where it is that of a consumer of it; ValueError unless it is one."""
    if not arn.startswith("arn:") or arn.count(":") < 5:
        raise ValueError(f"{arn[:100]!r} is not an ARN")
    stream, consumer, _ = arn.partition("/consumer/")
    return stream if consumer and ":kinesis:" in arn else arn


def sequence_number(text: object, what: str) -> str:
    """Return a sequence number, which is 1 to 129 decimal digits; ValueError unless it is."""
    if isinstance(text, str) and 1 <= len(text) <= SEQUENCE_DIGITS_MAX and text.isascii() and text.isdigit():
        if text[0] == "0" and len(text) > 1:
            raise ValueError(f"{what} {text!r} begins with 0")
        return text
    raise ValueError(f"{what} is 1 to {SEQUENCE_DIGITS_MAX} decimal digits, not {str(text)[:140]!r}")


def shard_id(text: object) -> str:
    """Return the id of a shard; ValueError unless it can be one."""
    if isinstance(text, str) and 1 <= len(text) <= 128 and text.isascii() and text.isprintable():
        return text
    raise ValueError(f"{str(text)[:140]!r} is not the id of a shard")


def _member(value: Mapping[str, Any], name: str, kind: type) -> Any:
    found = value.get(name)
    if not isinstance(found, kind):
        raise ValueError(f"it has no {name}" if found is None else f"its {name} is not what it should be")
    return found


def _data(text: str) -> bytes:
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"its data is not base64: {error}") from None
    if len(data) > RECORD_BYTES_MAX:
        raise ValueError(f"it has more than {RECORD_BYTES_MAX} bytes, and a record may not")
    return data


def _time(value: Mapping[str, Any], name: str) -> int:
    found = value.get(name)
    if found is None:
        raise ValueError(f"it has no {name}")
    try:
        return parse_seconds_ms(found)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
