"""What an on-failure destination is told, key for key, against what was recorded from the service."""

from __future__ import annotations

import json

import pytest

from streamfn.events.failure_record import encode, failure_record, object_key
from streamfn.types import Failure

ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
TABLE_ARN = "arn:aws:dynamodb:us-east-1:000000000000:table/orders/stream/2025-11-25T10:00:00.000"
FUNCTION_ARN = "arn:aws:lambda:us-east-1:000000000000:function:app-handler"
NOV_25 = 1_764_065_472_000  # 2025-11-25T10:11:12Z


def failed(**changes: object) -> Failure:
    given: dict[str, object] = {
        "attempts": 3,
        "request_id": "4b5c2f2e-0001-4c1a-9a57-6f1d2b3c4d5e",
        "function_arn": FUNCTION_ARN,
        "function_error": "Unhandled",
        "records": 2,
        "first_sequence_number": "49590338271490256608559692538361571095921575989136588898",
        "last_sequence_number": "49590338271490256608559692540925702759324208523137515618",
        "first_arrival_ms": NOV_25 - 11_000,
        "last_arrival_ms": NOV_25 - 10_877,
        "time_ms": NOV_25 + 345,
    }
    return Failure(**(given | changes))  # type: ignore[arg-type]


def written(failure: Failure, condition: str, kind: str = "kinesis", payload: object = None) -> str:
    shard_id, arn = "shardId-000000000000", ARN if kind == "kinesis" else TABLE_ARN
    record = failure_record(failure, condition=condition, kind=kind, stream_arn=arn, shard_id=shard_id, payload=payload)
    return encode(record).decode()


@pytest.mark.conformance(
    "discards/record-of-an-error",
    source="recorded",
    rule="The on-failure record of a batch whose retries are used up has Lambda's keys in Lambda's order; "
    "functionError is Unhandled where the function raised.",
)
def test_retries_exhausted_by_an_error_is_recorded_key_for_key_and_in_order() -> None:
    expected = {
        "requestContext": {
            "requestId": "4b5c2f2e-0001-4c1a-9a57-6f1d2b3c4d5e",
            "functionArn": FUNCTION_ARN,
            "condition": "RetryAttemptsExhausted",
            "approximateInvokeCount": 3,
        },
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "version": "1.0",
        "timestamp": "2025-11-25T10:11:12.345Z",
        "KinesisBatchInfo": {
            "shardId": "shardId-000000000000",
            "startSequenceNumber": "49590338271490256608559692538361571095921575989136588898",
            "endSequenceNumber": "49590338271490256608559692540925702759324208523137515618",
            "approximateArrivalOfFirstRecord": "2025-11-25T10:11:01.000Z",
            "approximateArrivalOfLastRecord": "2025-11-25T10:11:01.123Z",
            "batchSize": 2,
            "streamArn": ARN,
        },
    }
    # The text, because the order of the keys is part of it.
    assert written(failed(), "RetryAttemptsExhausted") == json.dumps(expected, separators=(",", ":"))


@pytest.mark.conformance(
    "discards/record-of-a-response-failure",
    source="recorded",
    rule="Where no error but the response failed the batch, functionError is there and null.",
)
def test_a_response_that_means_failure_has_a_null_function_error() -> None:
    record = json.loads(written(failed(function_error=None), "RetryAttemptsExhausted"))
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": None}


@pytest.mark.conformance(
    "discards/record-of-an-aged-record",
    source="recorded",
    rule="The record of RecordAgeExceeded has no responseContext.",
)
def test_record_age_exceeded_has_no_response_context() -> None:
    record = json.loads(written(failed(attempts=8), "RecordAgeExceeded"))
    assert list(record) == ["requestContext", "version", "timestamp", "KinesisBatchInfo"]
    assert list(record["requestContext"]) == ["requestId", "functionArn", "condition", "approximateInvokeCount"]
    assert record["requestContext"]["approximateInvokeCount"] == 8


@pytest.mark.conformance(
    "discards/count-of-a-record-never-handed-over",
    source="recorded",
    rule="A record that was too old before it was ever handed over has an approximateInvokeCount of 1.",
)
def test_a_record_too_old_before_its_first_invocation_counts_one() -> None:
    record = json.loads(written(failed(attempts=0), "RecordAgeExceeded"))
    assert record["requestContext"]["approximateInvokeCount"] == 1


@pytest.mark.conformance("discards/too-large")
def test_a_record_that_cannot_be_invoked_says_so() -> None:
    record = json.loads(written(failed(attempts=0, records=1), "RecordTooLarge"))
    assert list(record) == ["requestContext", "version", "timestamp", "KinesisBatchInfo"]
    assert record["requestContext"]["condition"] == "RecordTooLarge"
    assert record["requestContext"]["approximateInvokeCount"] == 0


@pytest.mark.conformance(
    "discards/record-of-a-dynamodb-batch",
    source="recorded",
    rule="A DynamoDB stream's batch is DDBStreamBatchInfo, with arrivals in whole seconds; Kinesis' have milliseconds, "
    "and so has the timestamp of both.",
)
@pytest.mark.parametrize("odd_ms", [0, 1, 499, 999])
def test_a_dynamodb_batch_has_its_arrivals_in_whole_seconds(odd_ms: int) -> None:
    failure = failed(first_arrival_ms=NOV_25 + odd_ms, last_arrival_ms=NOV_25 + 1_000 + odd_ms)
    record = json.loads(written(failure, "RetryAttemptsExhausted", "dynamodb"))
    assert list(record)[-1] == "DDBStreamBatchInfo"
    assert list(record["DDBStreamBatchInfo"]) == [
        "shardId",
        "startSequenceNumber",
        "endSequenceNumber",
        "approximateArrivalOfFirstRecord",
        "approximateArrivalOfLastRecord",
        "batchSize",
        "streamArn",
    ]
    assert record["DDBStreamBatchInfo"]["approximateArrivalOfFirstRecord"] == "2025-11-25T10:11:12Z"
    assert record["DDBStreamBatchInfo"]["approximateArrivalOfLastRecord"] == "2025-11-25T10:11:13Z"
    assert record["DDBStreamBatchInfo"]["streamArn"] == TABLE_ARN
    assert record["timestamp"] == "2025-11-25T10:11:12.345Z"
    kinesis = json.loads(written(failure, "RetryAttemptsExhausted"))["KinesisBatchInfo"]
    assert kinesis["approximateArrivalOfFirstRecord"] == f"2025-11-25T10:11:12.{odd_ms:03d}Z"


@pytest.mark.conformance(
    "discards/s3-payload",
    source="recorded",
    rule="An S3 object is the same record with `payload`: the event, with every record in full.",
)
def test_an_s3_object_is_the_same_record_with_the_event_as_payload() -> None:
    event = {"Records": [{"kinesis": {"data": "aGVsbG8="}}]}
    text = written(failed(), "RetryAttemptsExhausted", payload=event)
    record = json.loads(text)
    assert record.pop("payload") == event
    assert json.dumps(record, separators=(",", ":")) == written(failed(), "RetryAttemptsExhausted")


@pytest.mark.conformance(
    "discards/s3-key",
    source="recorded",
    rule="The object's key is aws/lambda/MAPPING-UUID/SHARD/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-UUID, "
    "its time the record's timestamp.",
)
def test_an_s3_object_lies_where_lambda_puts_it() -> None:
    key = object_key("7a1e-uuid", "shardId-000000000003", NOV_25 + 999, "0b1f9a52-2222")
    assert key == "aws/lambda/7a1e-uuid/shardId-000000000003/2025/11/25/2025-11-25T10.11.12-0b1f9a52-2222"


def test_every_millisecond_is_written_as_it_is() -> None:
    for ms in range(1000):
        record = json.loads(written(failed(time_ms=NOV_25 + ms), "RecordAgeExceeded"))
        assert record["timestamp"] == f"2025-11-25T10:11:12.{ms:03d}Z"
