"""On-failure destinations, over the whole engine: what a run discards is there, once, in the form asked for."""

import base64
import json
import time

import pytest
from run_rig import FUNCTIONS, error_line, until

from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import DYNAMODB
from streamfn.log.shard.writer import ShardWriter
from streamfn.state.store import Store
from streamfn.sync import open_sync
from streamfn.types import NewRecord

ONCE = ["--maximum-retry-attempts", "0", "--batch-size", "2"]
NAME = "failing.poison@s"
CHANGE = '{"eventName": "INSERT", "dynamodb": {"Keys": {"id": {"S": "1"}}, "NewImage": {"id": {"S": "1"}}}}'
SHARD = "shardId-000000000000"


def tailed(place, name="failed"):
    """What a user sees of a destination stream: (partition key, Lambda's record) of each record."""
    process = place.run("tail", name, "--from", "TRIM_HORIZON", "--json")
    assert process.code == 0, process.err
    rows = [json.loads(line) for line in process.out.splitlines()]
    return [(row["PartitionKey"], json.loads(base64.b64decode(row["Data"]))) for row in rows]


def failures(place, *options, name=NAME):
    process = place.run("failures", name, "--json", *options)
    assert process.code == 0, process.err
    return [json.loads(line) for line in process.out.splitlines()]


def pending(place, name=NAME):
    with Store.open(place.data / "state.db", create=False) as store:
        return store.pending_count(store.mapping(name).uuid)


def data_of(rows):
    return [base64.b64decode(row["Data"]).decode() for row in rows]


@pytest.mark.conformance("discards/partition-key")
def test_a_discarded_batch_is_one_record_of_the_destination_and_is_listed_with_its_records(place):
    place.stream(contents=["a", "b", "c", "poison", "d"])
    done = place.caught_up("failing.poison", *ONCE, "--on-failure", "failed")
    assert (done.code, done.summary["discarded"], done.summary["on_failure_pending"]) == (3, 2, 0), done.err
    ((key, record),) = tailed(place)
    numbers = place.log()[SHARD]
    assert key == SHARD
    assert list(record) == ["requestContext", "responseContext", "version", "timestamp", "KinesisBatchInfo"]
    assert record["requestContext"]["functionArn"] == "arn:aws:lambda:us-east-1:000000000000:function:failing-poison"
    assert record["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 1
    info = record["KinesisBatchInfo"]
    assert (info["startSequenceNumber"], info["endSequenceNumber"]) == (numbers[2], numbers[3])
    assert (info["batchSize"], info["streamArn"]) == (2, place.opened().arn)

    (listed,) = failures(place)
    assert listed["OnFailureRecord"] == record
    assert (listed["Destination"], listed["RecordsGone"], data_of(listed["Records"])) == ("failed", 0, ["c", "poison"])
    assert listed["DeliveredAt"] is not None
    assert [row["SequenceNumber"] for row in listed["Records"]] == numbers[2:4]
    shown = place.run("failures", NAME)
    assert "RetryAttemptsExhausted: 2 records from offset 2, 1 attempt, delivered to failed" in shown.out
    assert "ValueError: poisoned" in shown.out
    assert shown.out.rstrip().endswith("poison")
    assert failures(place, "--pending") == []


def test_without_a_destination_discards_are_kept_and_listed_all_the_same(place):
    place.stream(contents=["poison"])
    assert place.caught_up("failing.poison", *ONCE).code == 3
    (listed,) = failures(place)
    assert (listed["Destination"], listed["DeliveredAt"], data_of(listed["Records"])) == (None, None, ["poison"])
    assert pending(place) == 0
    assert [stream.name for stream in place.streams()] == ["s"]


def test_records_that_retention_took_since_are_counted_and_not_shown(place):
    place.stream(contents=["poison", "a", "b"])
    assert place.caught_up("failing.poison", *ONCE).code == 3
    place.run("compact", "s")
    assert place.run("trim", "s", "--before-offset", "3").code == 0
    (listed,) = failures(place)
    assert (listed["Records"], listed["RecordsGone"]) == ([], 2)
    assert "2 records no longer in the log" in place.run("failures", NAME).out


@pytest.mark.conformance("discards/record-of-a-dynamodb-batch")
def test_a_batch_of_changes_is_a_ddb_stream_batch_and_its_payload_the_changes(place):
    assert place.run("put-change", "s", CHANGE).code == 0
    out = place.root / "bucket"
    done = place.caught_up("unruly.raises", *ONCE, "--on-failure", f"s3:{out}")
    assert done.code == 3, done.err
    (path,) = (path for path in out.rglob("*") if path.is_file())
    record = json.loads(path.read_bytes())
    assert list(record)[-2:] == ["DDBStreamBatchInfo", "payload"]
    (only,) = record["payload"]["Records"]
    assert (only["eventName"], only["dynamodb"]["NewImage"]) == ("INSERT", {"id": {"S": "1"}})
    (listed,) = failures(place, name="unruly.raises@s")
    assert [row["eventName"] for row in listed["Records"]] == ["INSERT"]


def test_the_destination_config_of_lambda_names_it_too(place):
    place.stream(contents=["poison"])
    config = "OnFailure={Destination=arn:aws:sqs:us-east-1:000000000000:failed}"
    assert place.caught_up("failing.poison", *ONCE, "--destination-config", config).code == 3
    assert len(tailed(place)) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--on-failure", "s"], "is the stream that the mapping reads"),
        (["--on-failure", "changes"], "of kind dynamodb"),
        (["--on-failure", "file:/proc/version/x"], "is not a directory"),
        (
            ["--destination-config", "OnSuccess={Destination=y}"],
            "Unsupported DestinationConfig parameter for given event source mapping type.",
        ),
    ],
)
def test_a_destination_that_cannot_be_is_refused_before_anything_is_made(place, options, words):
    place.stream(contents=["poison"])
    DataDir.open(place.data, create=False).create_stream("changes", kind=DYNAMODB)
    done = place.caught_up("failing.poison", *ONCE, *options)
    assert done.code == 2
    assert words in error_line(done)
    assert not place.seen.exists()
    assert [stream.name for stream in place.streams()] == ["changes", "s"]
    assert not (place.data / "state.db").exists() or place.mapping(NAME) is None


def test_what_a_busy_destination_does_not_take_is_pending_and_the_next_run_carries_it(place):
    place.stream(contents=["poison"])
    held = place.stream("failed")
    with ShardWriter.open(held.shards[0]):  # it writes for itself alone
        done = place.caught_up("failing.poison", *ONCE, "--on-failure", "failed")
        assert (done.code, done.summary["discarded"], done.summary["on_failure_pending"]) == (3, 1, 1)
        assert "on-failure records for failed wait, and are tried again: " in done.err
        (listed,) = failures(place, "--pending")
        assert (listed["DeliveredAt"], listed["Destination"]) == (None, "failed")
        assert "pending to failed" in place.run("failures", NAME).out
        place.caught_up("failing.poison", "--name", "other", *ONCE, "--on-failure", "failed")
        dropped = place.run("mapping", "delete", "other")
        assert dropped.err == "streamfn: 1 pending on-failure record dropped with it\n"
    done = place.caught_up("failing.poison", *ONCE)  # which names no destination any more
    assert (done.code, done.summary["discarded"], done.summary["on_failure_pending"]) == (0, 0, 0)
    assert len(tailed(place)) == 1
    assert failures(place, "--pending") == []


def test_a_run_that_goes_on_carries_what_waited_as_soon_as_it_can(place):
    place.stream(contents=["poison"])
    held = place.stream("failed")
    with place.following("failing.poison", *ONCE, "--on-failure", "failed") as process:
        with ShardWriter.open(held.shards[0]):
            process.says("wait, and are tried again")
            place.put(["a", "b"])  # the mapping goes on meanwhile
            until(lambda: place.checkpoints(NAME)[SHARD] == 3, "the mapping goes on")
        process.says("on-failure records for failed go on")
        assert pending(place) == 0
        assert len(tailed(place)) == 1
        process.signal()
        assert process.wait() == 0 or process.code == 3


def test_the_library_takes_the_same_option(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTES", str(tmp_path))
    with open_sync(tmp_path / "data") as session:
        session.put("s", b"poison")
        options = {"workers": 1, "code_dir": FUNCTIONS, "maximum_retry_attempts": 0}
        done = session.run_until_caught_up("failing.poison", "s", on_failure="failed", **options)
        assert (done.discarded, done.on_failure_pending) == (1, 0)
        (record,) = session.records("failed")
        assert json.loads(record.data)["requestContext"]["condition"] == "RetryAttemptsExhausted"
        with pytest.raises(RefusedError, match="is the stream that the mapping reads"):
            session.run_until_caught_up("failing.poison", "s", on_failure="s", **options)


@pytest.mark.conformance(
    "discards/function-arn",
    source="recorded",
    rule="functionArn is the mapping's FunctionArn as it was given: with a version where one was named.",
)
def test_a_mapping_that_was_created_names_its_function_as_it_was_given(place):
    place.stream(contents=["poison"])
    made = place.run(
        "mapping", "create", "--function-name", "failing.poison:$LATEST", "--event-source-arn", "s",
        "--starting-position", "TRIM_HORIZON", "--maximum-retry-attempts", "0",
        "--destination-config", "OnFailure={Destination=failed}",
    )  # fmt: skip
    assert made.code == 0, made.err
    process = place.start("run")
    try:
        process.says("discards 1 record")
        process.signal()
        assert process.wait() == 3, process.err
    finally:
        process.kill()
    ((_, record),) = tailed(place)
    assert record["requestContext"]["functionArn"] == json.loads(made.out)["FunctionArn"]
    assert record["requestContext"]["functionArn"].endswith(":function:failing-poison:$LATEST")


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A session whose retries wait for nothing, with a stream `s`: told records, returns what `failed` has then."""
    monkeypatch.setenv("NOTES", str(tmp_path))

    def told(handler, records, **options):
        with open_sync(tmp_path / "data") as session:
            session._session._runtime.random = lambda: 0.0
            session.put_many("s", records)
            given = {"workers": 1, "code_dir": FUNCTIONS, "on_failure": "failed", **options}
            session.run_until_caught_up(handler, "s", **given)
            there = "failed" in session.streams()
            return [json.loads(record.data) for record in session.records("failed")] if there else []

    return told


def test_a_second_run_adds_its_own_discards_and_repeats_none(library):
    for number in range(2):
        found = library("failing.poison", [NewRecord(b"poison", "k")], maximum_retry_attempts=0)
        assert len(found) == number + 1
    assert len({json.dumps(record) for record in found}) == 2


@pytest.mark.conformance("discards/s3-payload")
@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_directory_gets_a_file_for_each_discard(library, tmp_path, kind):
    out = tmp_path / "out"
    records = [NewRecord(data, "k") for data in (b"poison", b"a", b"b", b"poison")]
    assert library("failing.poison", records, batch_size=2, maximum_retry_attempts=0, on_failure=f"{kind}:{out}") == []
    files = [path for path in out.rglob("*") if path.is_file()]
    found = [json.loads(path.read_bytes()) for path in files]
    payloads = [record.pop("payload", None) for record in found]
    if kind == "file":
        assert payloads == [None, None]
        return
    with Store.open(tmp_path / "data" / "state.db", create=False) as store:
        uuid = store.mapping(NAME).uuid
    assert all(str(path.relative_to(out)).startswith(f"aws/lambda/{uuid}/{SHARD}/2") for path in files)
    contents = [
        [base64.b64decode(record["kinesis"]["data"]).decode() for record in payload["Records"]] for payload in payloads
    ]
    assert sorted(contents) == [["b", "poison"], ["poison", "a"]]


def test_the_payload_of_a_lanes_batch_has_its_records_and_none_that_lie_between(library, tmp_path):
    """The batch that fails is of one of four lanes: records of others lie among its own."""
    records = [NewRecord(b"poison" if number == 40 else b"fine", f"key-{number % 20}") for number in range(200)]
    options = {"batch_size": 10, "maximum_retry_attempts": 0, "parallelization_factor": 4}
    library("failing.keyed", records, on_failure=f"s3:{tmp_path}/out", **options)
    (path,) = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
    record = json.loads(path.read_bytes())
    info, payload = record["KinesisBatchInfo"], record["payload"]["Records"]
    with Store.open(tmp_path / "data" / "state.db", create=False) as store:
        (row,) = store.discards(store.mapping("failing.keyed@s").uuid)
    assert row.discard.end_offset - row.discard.first_offset > info["batchSize"] == len(payload) == 10
    noted = [json.loads(line)["keys"] for line in (tmp_path / "noted").read_text().splitlines() if "poison" in line]
    assert [each["kinesis"]["partitionKey"] for each in payload] == noted[0]
    numbers = [each["kinesis"]["sequenceNumber"] for each in payload]
    assert (numbers[0], numbers[-1]) == (info["startSequenceNumber"], info["endSequenceNumber"])
    assert numbers == sorted(set(numbers))


@pytest.mark.conformance("retries/fresh-after-progress")
def test_the_destination_counts_the_attempts_of_what_was_left_after_progress(library):
    """Retries 3, batches of 3, the sixth of six records fails: recorded with a count of 4 and a batch size of 1."""
    records = [NewRecord(data, "k") for data in (b"1", b"2", b"3", b"4", b"5", b"poison")]
    (record,) = library(
        "failing.reports", records, batch_size=3, maximum_retry_attempts=3,
        function_response_types=["ReportBatchItemFailures"],
    )  # fmt: skip
    assert record["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 4
    assert record["KinesisBatchInfo"]["batchSize"] == 1
    assert record["responseContext"]["functionError"] is None


@pytest.mark.conformance("age/splits-a-batch")
@pytest.mark.conformance("discards/record-of-an-aged-record")
def test_the_destination_is_told_of_the_old_record_alone_and_of_no_response(library):
    """One record over the age and five fresh ones, read together."""
    now_ms = time.time_ns() // 1_000_000
    old = NewRecord(b"old", "k", arrival_ms=now_ms - 100_000)
    fresh = [NewRecord(b"new", "k", arrival_ms=now_ms) for _ in range(5)]
    (record,) = library(
        "failing.poison", [old, *fresh], batch_size=10, maximum_retry_attempts=0, maximum_record_age_in_seconds=60
    )
    assert list(record) == ["requestContext", "version", "timestamp", "KinesisBatchInfo"]
    assert record["requestContext"]["condition"] == "RecordAgeExceeded"
    assert record["requestContext"]["approximateInvokeCount"] == 1
    assert record["KinesisBatchInfo"]["batchSize"] == 1


@pytest.mark.conformance("discards/too-large")
def test_the_destination_is_told_of_a_record_that_is_too_large_for_any_event(library):
    (record,) = library("failing.poison", [NewRecord(b"a", "k"), NewRecord(bytes(5_000_000), "k")])
    assert record["requestContext"]["condition"] == "RecordTooLarge"
    assert record["requestContext"]["approximateInvokeCount"] == 0


def test_an_unknown_mapping_is_refused_with_those_there_are(place):
    place.stream(contents=["a"])
    assert place.caught_up("failing.poison").code == 0
    done = place.run("failures", "failing.poisn@s")
    assert done.code == 2
    assert f"unknown mapping 'failing.poisn@s' in {place.data}: did you mean {NAME}?" in error_line(done)
    assert "has discarded nothing" in place.run("failures", NAME).err
