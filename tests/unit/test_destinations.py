"""Names of on-failure destinations: which are taken, for what, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamfn.errors import RefusedError
from streamfn.mapping.destinations import check_destination, resolve_destination

CODE = Path("/code")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("", ""),
        ("failed", "failed"),
        ("file:out", "file:/code/out"),
        ("file:/var/out", "file:/var/out"),
        ("s3:bucket", "s3:/code/bucket"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("kafka://failed", "failed"),
    ],
)
def test_a_relative_directory_begins_at_the_code_directory(given: str, meant: str) -> None:
    check_destination(given, "orders")
    assert resolve_destination(given, CODE) == meant


@pytest.mark.conformance(
    "discards/arn-of-a-destination",
    source="ours",
    rule="The last part of a destination's ARN names it: a queue, a topic and a Kinesis stream are streams, "
    "a bucket is a directory with Lambda's keys.",
)
@pytest.mark.parametrize(
    ("arn", "meant"),
    [
        ("arn:aws:sqs:us-east-1:000000000000:failed", "failed"),
        ("arn:aws:sns:us-east-1:000000000000:failed", "failed"),
        ("arn:aws:kinesis:us-east-1:000000000000:stream/failed", "failed"),
        ("arn:aws:s3:::my-bucket", "s3:/code/my-bucket"),
        ("arn:aws-cn:s3:::my-bucket", "s3:/code/my-bucket"),
    ],
)
def test_the_last_part_of_an_arn_names_the_stream_or_the_bucket(arn: str, meant: str) -> None:
    check_destination(arn, "orders")
    assert resolve_destination(arn, CODE) == meant


@pytest.mark.conformance(
    "discards/fifo-is-refused",
    source="documented",
    rule="A FIFO queue or topic cannot be an on-failure destination of a stream.",
)
@pytest.mark.parametrize("service", ["sqs", "sns"])
def test_fifo_queues_and_topics_are_refused(service: str) -> None:
    with pytest.raises(RefusedError, match=rf"arn:aws:{service}.*\.fifo is invalid.*standard"):
        check_destination(f"arn:aws:{service}:us-east-1:000000000000:failed.fifo", "orders")


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:lambda:us-east-1:000000000000:function:other",
        "arn:aws:events:us-east-1:000000000000:event-bus/default",
        "arn:aws:sqs",
        "arn:aws:sqs:us-east-1:000000000000:",
    ],
)
def test_other_arns_are_refused_with_what_can_be_one(arn: str) -> None:
    with pytest.raises(RefusedError, match=rf"The destination ARN {arn} is invalid.*an SQS queue"):
        check_destination(arn, "orders")


@pytest.mark.parametrize("destination", ["orders", "arn:aws:sqs:us-east-1:000000000000:orders", "kafka://orders"])
def test_the_stream_that_is_read_is_no_destination_under_any_of_its_names(destination: str) -> None:
    with pytest.raises(RefusedError, match="is the stream that the mapping reads.*name another one"):
        check_destination(destination, "orders")


@pytest.mark.parametrize("destination", ["file:", "s3:", "s3://", "file:a\0b"])
def test_a_directory_without_a_name_is_refused(destination: str) -> None:
    with pytest.raises(RefusedError, match="name a directory"):
        check_destination(destination, "orders")


@pytest.mark.parametrize(
    "destination", ["a b", "http://x", "kafka://", "arn:aws:sqs:us-east-1:000000000000:a b", "x" * 129]
)
def test_what_names_no_stream_is_refused(destination: str) -> None:
    with pytest.raises(RefusedError, match=r"is not valid: it is a stream's name"):
        check_destination(destination, "orders")
