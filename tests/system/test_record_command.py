"""`streamfn record` as a command: options, output, signals, errors, and what a mapping then delivers."""

import base64
import json
import signal
import sys
import time

import boto3
import pytest
import record_rig
import trio
from live_stream import ACCOUNT, REGION
from record_rig import numbers, record, unlimited, until
from run_rig import error_line
from run_rig import until as until_true
from scripted_endpoint import SESSIONS, Endpoint
from witness import deliveries

from streamfn.capture import opening
from streamfn.capture.captured import ShardLog
from streamfn.cli.app import run
from streamfn.log.catalog.datadir import DataDir


@pytest.fixture
def endpoint(monkeypatch, place):
    with Endpoint() as endpoint:
        for name, value in endpoint.environment.items():
            monkeypatch.setenv(name, value)
        place.environment.update(endpoint.environment)
        yield endpoint


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Run `streamfn record ARGUMENTS` in this process; the exit code and the one line that it says."""
    monkeypatch.setattr(boto3, "Session", SESSIONS)
    monkeypatch.setattr(opening, "_BACKOFF", record_rig.QUICK["transient"])

    def refuse(*arguments):
        code = run(["record", *arguments, "--data-dir", str(tmp_path / "none")])
        [line] = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "none").exists(), "nothing was to be made"
        return code, line.removeprefix("streamfn: error: ")

    return refuse


# ---- output


def test_json_is_one_object_with_what_was_recorded(endpoint, place):
    live = endpoint.kinesis(shards=2)
    for shard in live.shards:
        live.put(shard, b"12345", b"123", key="k")
    done = place.run("record", "kinesis://orders", "--until", "now", "--json", "--stream", "copy")
    assert (done.code, done.err) == (0, "")
    summary = done.summary
    assert summary.pop("seconds") > 0
    assert summary == {
        "stream": "copy", "source": "kinesis://orders", "records": 4, "shards": 2, "bytes": 20, "losses": 0,
        "ended": "until", "resumed": False, "resumes_at": {shard: live.numbers(shard)[-1] for shard in live.shards},
    }  # fmt: skip
    assert live.refused == []


def test_by_arn_the_region_is_the_arns_and_a_later_from_is_ignored_aloud(endpoint, place):
    live = endpoint.kinesis()
    [shard] = live.shards
    live.put(shard, "one")
    without = dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), "")
    assert place.run("record", live.arn, "--until", "now", env=without).code == 0
    live.put(shard, "two")
    done = place.run("record", live.arn, "--until", "now", "--from", "LATEST")
    assert done.code == 0
    assert done.err.splitlines()[0] == "streamfn: --from is ignored: the recording goes on where it was"
    assert done.err.splitlines()[1].startswith("orders: recorded 1 record (4 B) of 1 shard in ")
    assert done.err.splitlines()[2] == f"resumes: {shard} after {live.numbers(shard)[-1]}"
    assert numbers(place.data, "orders") == {shard: live.numbers(shard)}


# ---- signals


def test_a_first_signal_ends_it_at_a_durable_edge_and_says_where_it_resumes(endpoint, place):
    live = endpoint.kinesis()
    [shard] = live.shards
    live.put(shard, *range(30))
    process = place.start("record", "kinesis://orders")
    endpoint.wait_for_reads(2)
    endpoint.delay_s = 30  # a call in flight is not waited for
    process.signal(signal.SIGINT)
    assert process.wait() == 0, process.err
    last = live.numbers(shard)[-1]
    assert process.err.endswith(f"\nresumes: {shard} after {last}\n")
    assert numbers(place.data, "orders") == {shard: live.numbers(shard)}


def test_a_signal_before_the_bound_was_reached_shows_in_the_exit_code(endpoint, place):
    live = endpoint.kinesis()
    live.put(next(iter(live.shards)), *range(30))
    process = place.start("record", "kinesis://orders", "--limit", "1000", "--json")
    endpoint.wait_for_reads(1)
    process.signal(signal.SIGTERM)
    assert process.wait() == 143
    assert process.summary["ended"] == "stopped"
    assert process.summary["records"] == len(next(iter(numbers(place.data, "orders").values())))


def test_a_second_request_does_not_wait_even_for_the_disk(endpoint, place, monkeypatch):
    live = unlimited(endpoint.kinesis())
    live.put(next(iter(live.shards)), *range(30))
    began = []

    def stuck(self, captured):
        began.append(time.monotonic())
        time.sleep(8)

    monkeypatch.setattr(ShardLog, "append", stuck)

    async def twice(recorder):
        await until(lambda: began)
        recorder.stop()
        await trio.sleep(0.2)
        recorder.abandon()

    done = record(endpoint.url, "kinesis://orders", place.data, until=None, scenario=twice)
    assert time.monotonic() - began[0] < 6
    assert (done.result.why, done.result.records) == ("abandoned", 0)


# ---- what a mapping delivers of it


def test_a_recorded_stream_delivers_lambda_events_with_the_sources_arn_shards_and_numbers(endpoint, place):
    live = endpoint.kinesis(shards=2)
    first, second = live.shards
    live.put(first, "a", "b", key="left")
    live.put(second, "c", key="right")
    third, _ = live.split(first)
    live.put(third, "d", key="left")
    assert place.run("record", "kinesis://orders", "--stream", "s", "--until", "now").code == 0
    assert place.caught_up("events.keep").code == 0
    events = [json.loads(line) for line in place.seen.read_text().splitlines()]
    records = [one for event in events for one in event["Records"]]
    assert {one["eventSourceARN"] for one in records} == {f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/orders"}
    assert {one["awsRegion"] for one in records} == {REGION}
    delivered = {}
    for one in records:
        shard, number = one["eventID"].split(":")
        assert one["kinesis"]["sequenceNumber"] == number
        delivered.setdefault(shard, []).append((number, base64.b64decode(one["kinesis"]["data"])))
    assert delivered == {
        shard.id: [(str(kept["seq"]), kept["data"]) for kept in shard.records]
        for shard in live.listed()
        if shard.records
    }
    arrivals = {one["kinesis"]["sequenceNumber"]: one["kinesis"]["approximateArrivalTimestamp"] for one in records}
    assert arrivals == {str(kept["seq"]): kept["at_ms"] / 1000 for s in live.listed() for kept in s.records}
    order = [one["eventID"].split(":")[0] for one in records]
    assert order.index(third) > max(at for at, shard in enumerate(order) if shard == first)


def test_a_recorded_table_stream_delivers_lambda_events_with_the_images_as_they_were(endpoint, place):
    live = endpoint.dynamodb()
    [first] = live.shards
    images = ['{"id":{"S":"k"},"n":{"N":"1.50"}}', '{"id":{"S":"k"},"z":{"B":"AAA="},"a":{"NULL":true}}']
    given = live.put(first, *images)
    second = live.roll(first)
    given += live.put(second, '{"id":{"S":"k"}}')
    assert place.run("record", live.arn, "--stream", "s", "--until", "now").code == 0
    assert place.caught_up("events.keep").code == 0
    events = [json.loads(line) for line in place.seen.read_text().splitlines()]
    records = [one for event in events for one in event["Records"]]
    assert {(one["eventSourceARN"], one["eventSource"], one["awsRegion"]) for one in records} == {
        (live.arn, "aws:dynamodb", REGION)
    }
    assert [one["dynamodb"]["SequenceNumber"] for one in records] == given
    assert [json.dumps(one["dynamodb"]["NewImage"], separators=(",", ":")) for one in records][:2] == images
    assert [one["eventID"] for one in records] == [f"{int(number):032x}" for number in given]


def test_a_mapping_follows_what_is_being_recorded_through_a_split(endpoint, place):
    live = endpoint.kinesis(shards=2)
    first, second = live.shards
    live.put(first, *range(50)), live.put(second, *range(50))
    recording = place.start("record", "kinesis://orders", "--stream", "s")
    endpoint.wait_for_reads(2)
    until_true(lambda: numbers(place.data, "s") == {s.id: live.numbers(s.id) for s in live.listed()}, "the records")
    with place.following("seen.handler") as mapping:
        until_true(lambda: sum(map(len, deliveries(place.seen).values())) == 100, "the first deliveries")
        with endpoint.lock:
            low, high = live.split(first)
            live.put(low, *range(30)), live.put(high, *range(20)), live.put(second, *range(10))
        until_true(lambda: sum(map(len, deliveries(place.seen).values())) == 160, "those of the children")
        assert deliveries(place.seen) == {s.id: live.numbers(s.id) for s in live.listed()}
        mapping.signal()
        assert mapping.wait() == 0
    recording.signal()
    assert recording.wait() == 0, recording.err


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["s3://bucket"], "s3:// cannot be recorded: it is kinesis://NAME or dynamodb-stream://TABLE"),
        (["orders"], "'orders' names no source: it is kinesis://NAME, dynamodb-stream://TABLE, or the ARN of one"),
        (["kinesis://a/b"], "'a/b' is not the name of a Kinesis data stream"),
        (["arn:aws:sqs:eu-west-1:1:q"], "arn:aws:sqs:eu-west-1:1:q is not the ARN of a stream"),
        (
            ["kinesis://arn:aws:dynamodb:eu-west-1:1:table/t"],
            "arn:aws:dynamodb:eu-west-1:1:table/t is not the ARN of a Kinesis data stream",
        ),
        (
            ["arn:aws:kinesis:eu-west-1:1:stream/s/consumer/c:1"],
            "arn:aws:kinesis:eu-west-1:1:stream/s/consumer/c:1 is a consumer's: record the stream itself, "
            "arn:aws:kinesis:eu-west-1:1:stream/s",
        ),
        (["kinesis://s", "--from", "AGO"], "--from takes TRIM_HORIZON, LATEST or a time: 'AGO' is not a time"),
        (["kinesis://s", "--until", "then"], "--until takes now or a time: 'then' is not a time"),
        (
            ["kinesis://s", "--duration", "long"],
            "--duration takes a number of s, m, h or d, such as 90s or 10m, not 'long'",
        ),
        (["kinesis://s", "--stream", "a b"], "stream name 'a b' is not valid"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(refused, arguments, text):
    code, line = refused(*arguments)
    assert code == 2
    assert line.startswith(text)


def test_without_boto3_the_extra_is_named(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    expected = "record reads AWS through boto3, which is not installed: pip install 'streamfn[aws]'"
    assert refused("kinesis://orders") == (2, expected)


def test_without_credentials_it_says_where_they_may_come_from(endpoint, refused, monkeypatch):
    monkeypatch.setattr(boto3, "Session", sys.modules["boto3.session"].Session)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    code, line = refused("kinesis://orders")
    assert code == 2
    assert line == (
        "cannot record kinesis://orders: Unable to locate credentials: set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or give --profile"
    )


def test_without_region_it_says_how_to_name_one(endpoint, refused, monkeypatch):
    monkeypatch.setattr(boto3, "Session", sys.modules["boto3.session"].Session)
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    code, line = refused("kinesis://orders")
    assert code == 2
    assert line == "no region: give --region, set AWS_REGION, or record an ARN, which names its region"
    assert refused("kinesis://orders", "--profile", "nobody")[1] == (
        "cannot reach AWS: The config profile (nobody) could not be found"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("kinesis://orders", "there is no stream 'orders' in region eu-west-1"),
        ("dynamodb-stream://customers", "there is no table 'customers' in region eu-west-1"),
    ],
)
def test_a_source_that_is_not_there_is_refused_with_the_region_that_was_asked(endpoint, refused, source, text):
    assert refused(source) == (2, text)


def test_a_denied_call_is_said_as_aws_says_it_with_what_is_needed(endpoint, refused):
    live = endpoint.kinesis()
    live.faults.append(("list", "AccessDeniedException"))
    assert refused("kinesis://orders") == (
        1,
        "cannot record kinesis://orders: AccessDeniedException: AccessDeniedException (needed are "
        "kinesis:DescribeStreamSummary, ListShards, GetShardIterator and GetRecords)",
    )


def test_an_endpoint_that_does_not_answer_is_given_up_after_some_attempts(endpoint, refused):
    code, line = refused("kinesis://orders", "--endpoint-url", "http://127.0.0.1:9")
    assert code == 1
    assert line.startswith("cannot record kinesis://orders: Could not connect to the endpoint URL")


def test_throttles_at_the_start_are_waited_out(endpoint, place):
    live = endpoint.kinesis()
    live.put(next(iter(live.shards)), "x")
    live.faults += [("describe", "LimitExceededException"), ("list", "LimitExceededException")]
    done = place.run("record", "kinesis://orders", "--until", "now", "--json")
    assert (done.code, done.summary["records"]) == (0, 1)


def test_a_stream_of_another_kind_is_left_alone(endpoint, place):
    endpoint.kinesis()
    place.stream("orders")
    done = place.run("record", "kinesis://orders", "--until", "now")
    assert done.code == 2
    assert error_line(done) == (
        "stream 'orders' exists and is arn:aws:kinesis:us-east-1:000000000000:stream/orders, not "
        f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/orders: choose another --stream"
    )
    assert len(DataDir.open(place.data, create=False).streams()) == 1
