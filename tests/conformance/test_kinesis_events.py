"""The Kinesis event as it was recorded from the service, from the engine's own deliveries."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio
from delivery_rig import FUNCTIONS, Delivered, Log, deliver, put
from trio.testing import trio_test

import streamfn
from streamfn.events.kinesis import KinesisSource, kinesis_event
from streamfn.types import Record

SAMPLE = Path(__file__).parents[1] / "data" / "lambda-kinesis-event.json"


async def record_of(tmp_path: Path, data: str = "hello") -> dict[str, Any]:
    delivered = await deliver(tmp_path, "kinesis", "answering.naps", [data])
    [record] = delivered.events[0]["Records"]
    return dict(record)


@pytest.mark.conformance(
    "events/kinesis-keys",
    source="recorded",
    rule="A Kinesis record's keys, and those of its `kinesis`, in Lambda's order.",
)
@trio_test
async def test_keys_stand_in_the_recorded_order_and_there_are_no_others(tmp_path: Path) -> None:
    record = await record_of(tmp_path)
    assert list(record) == [
        "kinesis", "eventSource", "eventVersion", "eventID", "eventName", "invokeIdentityArn", "awsRegion",
        "eventSourceARN",
    ]  # fmt: skip
    assert list(record["kinesis"]) == [
        "kinesisSchemaVersion", "partitionKey", "sequenceNumber", "data", "approximateArrivalTimestamp",
    ]  # fmt: skip


@pytest.mark.conformance(
    "events/kinesis-no-encryption-type", source="recorded", rule="A Kinesis record has no encryptionType."
)
@trio_test
async def test_there_is_no_encryption_type(tmp_path: Path) -> None:
    assert "encryptionType" not in (await record_of(tmp_path))["kinesis"]


@pytest.mark.conformance(
    "events/kinesis-constants",
    source="recorded",
    rule="eventSource, eventVersion, eventName and kinesisSchemaVersion are the service's constants.",
)
@trio_test
async def test_constants_are_the_services(tmp_path: Path) -> None:
    record = await record_of(tmp_path)
    constants = [record[key] for key in ("eventSource", "eventVersion", "eventName")]
    assert constants == ["aws:kinesis", "1.0", "aws:kinesis:record"]
    assert record["kinesis"]["kinesisSchemaVersion"] == "1.0"


@pytest.mark.conformance(
    "events/kinesis-event-id",
    source="recorded",
    rule="eventID is the shard's id, a colon, and the sequence number, which is text of decimal digits.",
)
@trio_test
async def test_the_event_id_is_shard_and_sequence_number(tmp_path: Path) -> None:
    record = await record_of(tmp_path)
    number = record["kinesis"]["sequenceNumber"]
    assert re.fullmatch(r"[0-9]{56}", number)
    assert record["eventID"] == f"shardId-000000000000:{number}"


@pytest.mark.conformance(
    "events/kinesis-arns",
    source="recorded",
    rule="invokeIdentityArn is the ARN of the function's role, eventSourceARN the stream's, awsRegion its region.",
)
@trio_test
async def test_arns_and_region_are_those_of_role_and_stream(tmp_path: Path) -> None:
    record = await record_of(tmp_path)
    assert record["invokeIdentityArn"] == "arn:aws:iam::000000000000:role/lambda-role"
    assert record["eventSourceARN"] == "arn:aws:kinesis:us-east-1:000000000000:stream/s"
    assert record["awsRegion"] == "us-east-1"


@pytest.mark.conformance(
    "events/kinesis-data",
    source="recorded",
    rule="data is base64 of the raw bytes, standard alphabet, with padding: hello is aGVsbG8=.",
)
@trio_test
async def test_data_is_base64_of_the_raw_bytes(tmp_path: Path) -> None:
    assert (await record_of(tmp_path, "hello"))["kinesis"]["data"] == "aGVsbG8="


@pytest.mark.conformance(
    "events/kinesis-arrival",
    source="recorded",
    rule="approximateArrivalTimestamp is a number: seconds since 1970 with 10 digits before the point, milliseconds "
    "behind it.",
)
@trio_test
async def test_the_arrival_is_a_number_of_seconds(tmp_path: Path) -> None:
    arrival = (await record_of(tmp_path))["kinesis"]["approximateArrivalTimestamp"]
    assert isinstance(arrival, float)
    assert re.fullmatch(r"\d{10}\.\d{1,3}", json.dumps(arrival))


@pytest.mark.conformance(
    "events/kinesis-sample",
    source="documented",
    rule="The developer guide's sample event is what its records make here, to the last key.",
)
def test_the_guides_sample_event_is_what_its_records_make() -> None:
    sample = json.loads(SAMPLE.read_text())
    first = sample["Records"][0]
    shard = first["eventID"].split(":")[0]
    source = KinesisSource(first["eventSourceARN"], first["awsRegion"], shard, first["invokeIdentityArn"])
    records = [
        Record(
            0, one["sequenceNumber"], one["partitionKey"], round(one["approximateArrivalTimestamp"] * 1000),
            base64.b64decode(one["data"]),
        )
        for one in (record["kinesis"] for record in sample["Records"])
    ]  # fmt: skip
    assert json.dumps(kinesis_event(source, records)) == json.dumps(sample)


def numbers_of(delivered: Delivered) -> list[int]:
    return [int(record["kinesis"]["sequenceNumber"]) for event in delivered.events for record in event["Records"]]


@pytest.mark.conformance(
    "events/kinesis-order",
    source="recorded",
    rule="The records of an event are in the order of their sequence numbers and of one shard.",
)
@trio_test
async def test_an_event_is_of_one_shard_and_in_order(tmp_path: Path) -> None:
    async with streamfn.open(tmp_path / "data", log=Log()) as session:
        await session.create_stream("s", shards=4)
        await session.put_many("s", [streamfn.NewRecord(b"x", f"key-{i}") for i in range(100)])
    delivered = await deliver(tmp_path, "kinesis", "answering.naps", [], batch_size=7)
    shards = [{record["eventID"].split(":")[0] for record in event["Records"]} for event in delivered.events]
    assert all(len(of_event) == 1 for of_event in shards)
    assert len(set.union(*shards)) == 4
    for event in delivered.events:
        numbers = [int(record["kinesis"]["sequenceNumber"]) for record in event["Records"]]
        assert numbers == sorted(numbers)
    assert len(numbers_of(delivered)) == 100


@pytest.mark.conformance(
    "batches/two-puts-two-invocations",
    source="recorded",
    rule="Two puts of 10 records on one shard, BatchSize 10: two invocations, the second one begins after the "
    "first one's end.",
)
@trio_test
async def test_two_full_batches_of_a_shard_run_one_after_the_other(tmp_path: Path) -> None:
    texts = [str(number) for number in range(20)]
    delivered = await deliver(tmp_path, "kinesis", "answering.naps", texts, batch_size=10, workers=2)
    assert delivered.batches == [texts[:10], texts[10:]]
    first, second = (one["began"] for one in delivered.invocations)
    assert second - first >= 0.05, "the handler naps for so long"


@pytest.mark.conformance(
    "batches/trim-horizon-20-and-10",
    source="recorded",
    rule="TRIM_HORIZON with 20 records put before the mapping and 10 after it, BatchSize 10: three "
    "invocations of 10, in order.",
)
@trio_test
async def test_records_from_before_and_after_the_mapping_make_three_full_batches(tmp_path: Path) -> None:
    texts = [str(number) for number in range(30)]
    seen = tmp_path / "seen"
    async with streamfn.open(tmp_path / "data", log=Log()) as session:
        await put(session, "kinesis", texts[:20])
        options: Any = {"batch_size": 10, "code_dir": FUNCTIONS, "environment": {"SEEN": str(seen)}, "workers": 1}
        async with session.mapping("answering.naps", "s", starting_position="TRIM_HORIZON", **options) as mapping:
            await put(session, "kinesis", texts[20:])
            await mapping.run_until_caught_up()
    events = [json.loads(line)["event"] for line in seen.read_text().splitlines()]
    batches = [[base64.b64decode(each["kinesis"]["data"]).decode() for each in event["Records"]] for event in events]
    assert batches == [texts[:10], texts[10:20], texts[20:]]


@pytest.mark.conformance(
    "mappings/two-on-one-stream",
    source="recorded",
    rule="Two mappings of different functions on one stream each get every record.",
)
@trio_test
async def test_two_mappings_on_one_stream_each_get_every_record(tmp_path: Path) -> None:
    texts = [str(number) for number in range(10)]
    async with streamfn.open(tmp_path / "data", log=Log()) as session:
        await put(session, "kinesis", texts)
        async with trio.open_nursery() as nursery:
            for handler in ("answering.naps", "answering.posts_nothing"):
                options: Any = {"code_dir": FUNCTIONS, "environment": {"SEEN": str(tmp_path / handler)}, "workers": 1}

                async def run(handler: str = handler, options: Any = options) -> None:
                    await session.run_until_caught_up(handler, "s", **options)

                nursery.start_soon(run)
    for handler in ("answering.naps", "answering.posts_nothing"):
        [event] = [json.loads(line)["event"] for line in (tmp_path / handler).read_text().splitlines()]
        assert [base64.b64decode(each["kinesis"]["data"]).decode() for each in event["Records"]] == texts
