"""Lambda's on-failure record: what a destination is told of a batch that was given up.

    {"requestContext": {"requestId", "functionArn", "condition", "approximateInvokeCount"},
     "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled" | null},
     "version": "1.0",
     "timestamp": "2025-11-25T10:11:12.345Z",
     "KinesisBatchInfo": {"shardId", "startSequenceNumber", "endSequenceNumber", "approximateArrivalOfFirstRecord",
                          "approximateArrivalOfLastRecord", "batchSize", "streamArn"}}

Keys and their order are those recorded from the service. `responseContext` is there only where an invocation's answer
is the reason: not for RecordAgeExceeded, and not for our RecordTooLarge. A DynamoDB stream's `DDBStreamBatchInfo` has
the same keys, and arrivals in whole seconds, where Kinesis' have milliseconds. An S3 object has `payload` at the end:
the event as the handler would have been given it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from streamfn.types import Failure

RETRY_ATTEMPTS_EXHAUSTED = "RetryAttemptsExhausted"
RECORD_AGE_EXCEEDED = "RecordAgeExceeded"
# Ours: Lambda documents nothing for a record whose event alone is over 6 MB.
RECORD_TOO_LARGE = "RecordTooLarge"
# Ours: somebody who was asked about a failed batch has given it up.
SKIPPED = "Skipped"

# The part of a record that speaks of its batch, by the kind of the stream.
BATCH_INFO = {"kinesis": "KinesisBatchInfo", "dynamodb": "DDBStreamBatchInfo"}


def failure_record(
    failure: Failure, *, condition: str, kind: str, stream_arn: str, shard_id: str, payload: object = None
) -> dict[str, Any]:
    """Return the record of a discarded batch.

    `kind` is the stream's, `kinesis` or `dynamodb`; `payload`, for S3, the event of the records.
    """
    # A record that was too old before it was handed over counts as one invocation there, as recorded.
    count = max(1, failure.attempts) if condition == RECORD_AGE_EXCEEDED else failure.attempts
    record: dict[str, Any] = {
        "requestContext": {
            "requestId": failure.request_id,
            "functionArn": failure.function_arn,
            "condition": condition,
            "approximateInvokeCount": count,
        }
    }
    if condition in (RETRY_ATTEMPTS_EXHAUSTED, SKIPPED):
        record["responseContext"] = {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            "functionError": failure.function_error,
        }
    record["version"] = "1.0"
    record["timestamp"] = _stamp(failure.time_ms, "milliseconds")
    precision = "milliseconds" if kind == "kinesis" else "seconds"
    record[BATCH_INFO[kind]] = {
        "shardId": shard_id,
        "startSequenceNumber": failure.first_sequence_number,
        "endSequenceNumber": failure.last_sequence_number,
        "approximateArrivalOfFirstRecord": _stamp(failure.first_arrival_ms, precision),
        "approximateArrivalOfLastRecord": _stamp(failure.last_arrival_ms, precision),
        "batchSize": failure.records,
        "streamArn": stream_arn,
    }
    if payload is not None:
        record["payload"] = payload
    return record


def encode(record: dict[str, Any]) -> bytes:
    """Return a record as the bytes that go to a destination."""
    return orjson.dumps(record)


def object_key(mapping_uuid: str, shard_id: str, time_ms: int, object_id: str) -> str:
    """Return the key of a record's S3 object; `object_id`, a UUID, is what tells objects of one second apart.

    The time is the record's own `timestamp`.
    """
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"aws/lambda/{mapping_uuid}/{shard_id}/{moment:%Y/%m/%d}/{moment:%Y-%m-%dT%H.%M.%S}-{object_id}"


def _stamp(time_ms: int, precision: str) -> str:
    # In whole numbers: a time in seconds as a float would be cut to the millisecond below now and then.
    moment = datetime.fromtimestamp(time_ms // 1000, UTC).replace(microsecond=time_ms % 1000 * 1000)
    return moment.replace(tzinfo=None).isoformat(timespec=precision) + "Z"
