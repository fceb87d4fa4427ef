"""What a failed call of the SDK means, and that half an answer is none."""

import json

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from scripted_endpoint import SESSIONS

from streamfn.capture.client import Access, call, member, open_client, raw_body, server_ms
from streamfn.capture.dynamodb import DynamoDBSource, changes_of
from streamfn.capture.kinesis import KinesisSource
from streamfn.capture.source import Trouble, TroubleKind
from streamfn.capture.target import Target, parse_target
from streamfn.errors import FailedError

DATE = "Wed, 25 Nov 2026 18:47:04 GMT"


class Body:
    def __init__(self, content):
        self._content = content

    def stream(self, **_):
        yield self._content


@pytest.fixture
def answering(monkeypatch):
    """A client of a service whose calls are answered with a status, a body and headers, or fail."""
    monkeypatch.setattr(boto3, "Session", SESSIONS)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    made = []

    def client(service, body=b"{}", status=200, error=None, **headers):
        found = open_client(service, Access(region="eu-west-1", endpoint_url="http://127.0.0.1:9"), connections=1)
        made.append(found)
        asked = found.asked = []

        def send(request, **_):
            asked.append(request)
            if error is not None:
                raise error
            return AWSResponse(request.url, status, {"content-length": str(len(body)), **headers}, Body(body))

        found.meta.events.register("before-send.*", send)
        return found

    yield client
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ProvisionedThroughputExceededException", 400, TroubleKind.THROTTLED),
        ("LimitExceededException", 400, TroubleKind.THROTTLED),
        ("ThrottlingException", 400, TroubleKind.THROTTLED),
        ("SomethingNew", 429, TroubleKind.THROTTLED),
        ("ExpiredIteratorException", 400, TroubleKind.EXPIRED),
        ("TrimmedDataAccessException", 400, TroubleKind.TRIMMED),
        ("ResourceNotFoundException", 400, TroubleKind.GONE),
        ("InternalFailure", 500, TroubleKind.TRANSIENT),
        ("SomethingNew", 503, TroubleKind.TRANSIENT),
        ("AccessDeniedException", 400, TroubleKind.FATAL),
        ("ExpiredTokenException", 400, TroubleKind.FATAL),
        ("InvalidArgumentException", 400, TroubleKind.FATAL),
    ],
)
def test_an_error_code_says_what_to_do_and_the_call_is_made_once(answering, code, status, kind):
    client = answering("kinesis", json.dumps({"__type": code, "message": "two\nlines"}).encode(), status)
    with pytest.raises(Trouble) as caught:
        call(client, "get_records", ShardIterator="i")
    assert (caught.value.kind, caught.value.code, str(caught.value)) == (kind, code, f"{code}: two lines")
    assert len(client.asked) == 1


def test_a_network_failure_passes_and_missing_credentials_do_not(answering):
    with pytest.raises(Trouble) as caught:
        call(answering("kinesis", error=EndpointConnectionError(endpoint_url="x")), "get_records", ShardIterator="i")
    assert caught.value.kind is TroubleKind.TRANSIENT
    with pytest.raises(Trouble) as caught:
        call(answering("kinesis", error=NoCredentialsError()), "get_records", ShardIterator="i")
    assert (caught.value.kind, caught.value.code) == (TroubleKind.FATAL, "NoCredentials")


def test_an_answer_that_was_cut_short_is_none_even_where_the_rest_is_json(answering):
    whole = b'{"Shards": []}                  '
    client = answering("kinesis", whole[:20], **{"content-length": str(len(whole))})
    with pytest.raises(Trouble, match="an answer of 32 bytes was cut short") as caught:
        KinesisSource(client, Target("kinesis", "orders")).shards()
    assert caught.value.kind is TroubleKind.TRANSIENT


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"Records": [', b"{}"])
@pytest.mark.parametrize("service", ["kinesis", "dynamodbstreams"])
def test_what_is_no_answer_of_get_records_is_asked_for_again(answering, service, body):
    client = answering(service, body)
    source = KinesisSource(client, Target("kinesis", "s")) if service == "kinesis" else DynamoDBSource(client, "a" * 40)
    with pytest.raises(Trouble, match="an answer without Records") as caught:
        source.records("i" * 40)
    assert caught.value.kind is TroubleKind.TRANSIENT


def test_the_bytes_of_an_answer_come_with_it_and_an_sdk_that_keeps_them_is_refused(answering):
    body = b'{"Records": [] , "NextShardIterator":"n"}'
    assert raw_body(call(answering("dynamodbstreams", body), "get_records", ShardIterator="i" * 40)) == body
    with pytest.raises(FailedError, match="does not hand over answers as they came: pip install -U"):
        raw_body({"Records": []})
    with pytest.raises(Trouble):
        member({}, "Records")


def test_the_sources_clock_is_in_the_answers_date_and_else_this_machines(answering):
    assert server_ms(call(answering("kinesis", b"{}", date=DATE), "get_records", ShardIterator="i")) == 1795632424000
    assert server_ms({"ResponseMetadata": {"HTTPHeaders": {"date": "soon"}}}) > 1_700_000_000_000


def test_a_change_record_that_is_not_understood_is_shown_and_ends_the_recording():
    with pytest.raises(Trouble, match=r'a record is not understood: .*"eventName":"RENAME"') as caught:
        changes_of(b'{"Records":[{"eventName":"RENAME","dynamodb":{"Keys":{}}}]}')
    assert caught.value.kind is TroubleKind.FATAL


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("kinesis://orders", Target("kinesis", "orders")),
        (
            "arn:aws-cn:kinesis:cn-north-1:1:stream/orders",
            Target("kinesis", "orders", "arn:aws-cn:kinesis:cn-north-1:1:stream/orders", "cn-north-1"),
        ),
        ("dynamodb-stream://customers", Target("dynamodb", "customers")),
        ("arn:aws:dynamodb:eu-west-1:1:table/t", Target("dynamodb", "t", None, "eu-west-1")),
        (
            "dynamodb-stream://arn:aws:dynamodb:eu-west-1:1:table/t/stream/2024-05-06T07:08:09.123",
            Target("dynamodb", "t", "arn:aws:dynamodb:eu-west-1:1:table/t/stream/2024-05-06T07:08:09.123", "eu-west-1"),
        ),
    ],
)
def test_a_target_is_a_name_or_an_arn(text, target):
    assert parse_target(text) == target
