"""The DynamoDB Streams event as it was recorded from the service, from the engine's own deliveries."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from delivery_rig import FUNCTIONS, Log
from trio.testing import trio_test

import streamfn

KEY = {"id": {"S": "id1"}}
ITEM = {
    **KEY,
    "presentKey": {"S": "presentValue"},
    "number": {"N": "42"},
    "flag": {"BOOL": False},
    "bytes": {"B": "Zm9vYmFy"},
}
NEW = {**ITEM, "number": {"N": "43"}}


async def records_of(tmp_path: Path, *changes: dict[str, Any], view_type: Any = None) -> list[dict[str, Any]]:
    """What a function is given of these changes."""
    seen = tmp_path / "seen"
    async with streamfn.open(tmp_path / "data", log=Log()) as session:
        for change in changes:
            assert await session.put_change("table", change, view_type=view_type) is not None
        options: Any = {"workers": 1, "code_dir": FUNCTIONS, "environment": {"SEEN": str(seen)}}
        await session.run_until_caught_up("answering.naps", "table", **options)
    [line] = seen.read_text().splitlines()
    return list(json.loads(line)["event"]["Records"])


@pytest.mark.conformance(
    "events/dynamodb-keys",
    source="recorded",
    rule="A DynamoDB record's keys, and those of its `dynamodb`, in Lambda's order.",
)
@trio_test
async def test_keys_stand_in_the_recorded_order(tmp_path: Path) -> None:
    [record] = await records_of(tmp_path, {"Keys": KEY, "NewImage": NEW, "OldImage": ITEM})
    assert list(record) == [
        "eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb", "eventSourceARN",
    ]  # fmt: skip
    assert list(record["dynamodb"]) == [
        "ApproximateCreationDateTime", "Keys", "NewImage", "OldImage", "SequenceNumber", "SizeBytes", "StreamViewType",
    ]  # fmt: skip


@pytest.mark.conformance(
    "events/dynamodb-version", source="recorded", rule="eventVersion is 1.1, where the guide's sample has 1.0."
)
@trio_test
async def test_the_version_is_1_1_and_the_source_aws_dynamodb(tmp_path: Path) -> None:
    [record] = await records_of(tmp_path, {"Keys": KEY, "NewImage": ITEM})
    assert (record["eventVersion"], record["eventSource"]) == ("1.1", "aws:dynamodb")


@pytest.mark.conformance(
    "events/dynamodb-event-id", source="recorded", rule="eventID is 32 hexadecimal digits in lower case."
)
@trio_test
async def test_the_event_id_is_32_hexadecimal_digits(tmp_path: Path) -> None:
    one, other = await records_of(tmp_path, {"Keys": KEY, "NewImage": ITEM}, {"Keys": KEY, "OldImage": ITEM})
    assert re.fullmatch(r"[0-9a-f]{32}", one["eventID"])
    assert one["eventID"] != other["eventID"]


@pytest.mark.conformance(
    "events/dynamodb-names",
    source="recorded",
    rule="eventName is INSERT, MODIFY or REMOVE; an image that a record does not have is left out, not null.",
)
@trio_test
async def test_names_follow_from_the_images_and_absent_images_are_left_out(tmp_path: Path) -> None:
    records = await records_of(
        tmp_path,
        {"Keys": KEY, "NewImage": ITEM},
        {"Keys": KEY, "NewImage": NEW, "OldImage": ITEM},
        {"Keys": KEY, "OldImage": NEW},
    )
    images = [[key for key in record["dynamodb"] if key.endswith("Image")] for record in records]
    assert [record["eventName"] for record in records] == ["INSERT", "MODIFY", "REMOVE"]
    assert images == [["NewImage"], ["NewImage", "OldImage"], ["OldImage"]]


@pytest.mark.conformance(
    "events/dynamodb-values",
    source="recorded",
    rule="Keys and images are DynamoDB JSON: numbers as text, binaries as base64, booleans as they are.",
)
@trio_test
async def test_values_are_dynamodb_json(tmp_path: Path) -> None:
    [record] = await records_of(tmp_path, {"Keys": KEY, "NewImage": ITEM})
    assert (record["dynamodb"]["Keys"], record["dynamodb"]["NewImage"]) == (KEY, ITEM)


@pytest.mark.conformance(
    "events/dynamodb-creation",
    source="recorded",
    rule="ApproximateCreationDateTime is a number of seconds with a point: 1733418659.0.",
)
@trio_test
async def test_the_creation_time_is_a_number_of_seconds(tmp_path: Path) -> None:
    given = {
        "dynamodb": {"ApproximateCreationDateTime": 1733418659, "Keys": KEY, "NewImage": ITEM},
        "eventName": "INSERT",
    }
    [record] = await records_of(tmp_path, given)
    created = record["dynamodb"]["ApproximateCreationDateTime"]
    assert isinstance(created, float)
    assert json.dumps(created) == "1733418659.0"


@pytest.mark.conformance(
    "events/dynamodb-sequence-number",
    source="recorded",
    rule="SequenceNumber is text of at least 21 decimal digits, and rises within a shard.",
)
@trio_test
async def test_sequence_numbers_are_digits_and_rise(tmp_path: Path) -> None:
    records = await records_of(tmp_path, {"Keys": KEY, "NewImage": ITEM}, {"Keys": KEY, "OldImage": ITEM})
    one, other = (record["dynamodb"]["SequenceNumber"] for record in records)
    assert re.fullmatch(r"\d{21,40}", one)
    assert int(one) < int(other)


@pytest.mark.conformance(
    "events/dynamodb-size-bytes",
    source="inferred",
    rule="SizeBytes is the sum over keys and images of names and values in UTF-8; a number takes half a byte a "
    "digit and one.",
)
@pytest.mark.parametrize(
    ("change", "size"),
    [
        # 2 + 3 for the key, twice, and what else the image has
        pytest.param({"Keys": KEY, "NewImage": {**KEY, "data": {"S": "foobar"}}}, 20, id="text"),
        pytest.param({"Keys": KEY, "NewImage": {**KEY, "n": {"N": "42"}}}, 13, id="number"),
        pytest.param({"Keys": KEY, "NewImage": {**KEY, "b": {"BOOL": False}}}, 12, id="boolean"),
        pytest.param({"Keys": KEY, "NewImage": {**KEY, "b": {"B": "Zm9vYmFy"}}}, 17, id="binary"),
    ],
)
@trio_test
async def test_the_size_is_that_of_names_and_values(tmp_path: Path, change: dict[str, Any], size: int) -> None:
    [record] = await records_of(tmp_path, change)
    assert record["dynamodb"]["SizeBytes"] == size


@pytest.mark.conformance(
    "events/dynamodb-view-types",
    source="recorded",
    rule="StreamViewType is the stream's, and decides which images a record has.",
)
@pytest.mark.parametrize(
    ("view_type", "images"),
    [
        ("KEYS_ONLY", []),
        ("NEW_IMAGE", ["NewImage"]),
        ("OLD_IMAGE", ["OldImage"]),
        ("NEW_AND_OLD_IMAGES", ["NewImage", "OldImage"]),
    ],
)
@trio_test
async def test_the_view_type_decides_which_images_there_are(tmp_path: Path, view_type: str, images: list[str]) -> None:
    [record] = await records_of(tmp_path, {"Keys": KEY, "NewImage": NEW, "OldImage": ITEM}, view_type=view_type)
    assert record["dynamodb"]["StreamViewType"] == view_type
    assert [key for key in record["dynamodb"] if key.endswith("Image")] == images


@pytest.mark.conformance(
    "events/dynamodb-time-to-live",
    source="documented",
    rule="A deletion by time to live carries the service's userIdentity.",
)
@trio_test
async def test_a_deletion_by_time_to_live_says_who_did_it(tmp_path: Path) -> None:
    identity = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
    change = {"eventName": "REMOVE", "userIdentity": identity, "dynamodb": {"Keys": KEY, "OldImage": ITEM}}
    [record] = await records_of(tmp_path, change)
    assert record["userIdentity"] == identity
