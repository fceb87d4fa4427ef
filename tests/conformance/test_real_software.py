"""What people run on Lambda runs unchanged: Powertools' batch processor, event classes and models; aws_kinesis_agg."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aws_kinesis_agg.aggregator import RecordAggregator
from delivery_rig import FUNCTIONS, Delivered, Log, deliver
from trio.testing import trio_test

import streamfn

REPORTING: dict[str, Any] = {"function_response_types": ["ReportBatchItemFailures"]}
PROCESSORS = [
    ("kinesis", "toolkit.kinesis_batch"),
    ("kinesis", "toolkit.async_batch"),
    ("dynamodb", "toolkit.dynamodb_batch"),
]


class Toolkit:
    """Runs a handler of functions/toolkit.py; `said` is what it told."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.log = Log()
        self._said = tmp_path / "said"

    @property
    def said(self) -> list[Any]:
        return [json.loads(line) for line in self._said.read_text().splitlines()] if self._said.exists() else []

    def environment(self, failing: list[str]) -> dict[str, str]:
        return {"SAID": str(self._said), "SEEN": str(self.tmp_path / "seen"), "FAILING": json.dumps(failing)}

    async def batches(self, kind: str, handler: str, data: list[str], failing: list[str], **options: Any) -> Delivered:
        return await deliver(
            self.tmp_path, kind, handler, data, environment=self.environment(failing), **REPORTING, **options
        )

    async def run(self, stream: str, handler: str, session: streamfn.Session, **options: Any) -> None:
        wanted: Any = {"workers": 1, "code_dir": FUNCTIONS, "environment": self.environment([]), **options}
        result = await session.run_until_caught_up(handler, stream, maximum_retry_attempts=0, **wanted)
        assert (result.errors, result.discarded) == (0, 0), self.log.text


@pytest.fixture
def toolkit(tmp_path: Path) -> Toolkit:
    return Toolkit(tmp_path)


# ---- the batch processor


@pytest.mark.conformance(
    "responses/powertools-batch-processor",
    source="documented",
    rule="AWS Lambda Powertools' batch processor runs unchanged: all records processed, some not, none.",
)
@pytest.mark.parametrize(("kind", "handler"), PROCESSORS)
@trio_test
async def test_a_batch_that_the_processor_gets_through_is_done_once(toolkit: Toolkit, kind: str, handler: str) -> None:
    texts = [f"{number}" for number in range(6)]
    delivered = await toolkit.batches(kind, handler, texts, [], batch_size=3)
    assert delivered.batches == [texts[:3], texts[3:]]
    assert toolkit.said == texts
    assert (delivered.result.discarded, delivered.result.errors) == (0, 0)


@pytest.mark.conformance("responses/powertools-batch-processor")
@pytest.mark.parametrize(("kind", "handler"), PROCESSORS)
@trio_test
async def test_from_the_first_record_that_the_processor_could_not_do_the_batch_goes_again(
    toolkit: Toolkit, kind: str, handler: str
) -> None:
    texts = ["a", "bad", "b", "worse", "c"]
    delivered = await toolkit.batches(
        kind,
        handler,
        texts,
        ["bad", "worse"],
        batch_size=5,
        maximum_retry_attempts=1,
        bisect_batch_on_function_error=True,
    )
    assert delivered.batches[:2] == [texts, texts[1:]]
    assert delivered.result.discarded == 2, "halves single out the two that fail"
    assert sorted(set(toolkit.said)) == ["a", "b", "c"]


@pytest.mark.conformance("responses/powertools-batch-processor")
@pytest.mark.parametrize(("kind", "handler"), PROCESSORS)
@trio_test
async def test_where_the_processor_could_do_nothing_it_raises_and_the_batch_is_retried_and_given_up(
    toolkit: Toolkit, kind: str, handler: str
) -> None:
    texts = ["x", "y"]
    delivered = await toolkit.batches(kind, handler, texts, texts, batch_size=2, maximum_retry_attempts=2)
    assert delivered.batches == [texts] * 3
    assert (delivered.result.discarded, toolkit.said) == (2, [])


@pytest.mark.conformance("responses/powertools-batch-processor")
@trio_test
async def test_a_processor_that_reports_every_record_fails_the_whole_batch(toolkit: Toolkit) -> None:
    texts = ["x", "y"]
    delivered = await toolkit.batches(
        "kinesis", "toolkit.batch_that_never_raises", texts, texts, batch_size=2, maximum_retry_attempts=1
    )
    assert delivered.batches == [texts] * 2
    assert delivered.result.discarded == 2


# ---- event classes and models


@pytest.mark.conformance(
    "events/powertools",
    source="documented",
    rule="Powertools' event source data classes and parser models read the events that are delivered here.",
)
@trio_test
async def test_the_kinesis_data_classes_find_everything_in_an_event(toolkit: Toolkit) -> None:
    async with streamfn.open(toolkit.tmp_path / "data", log=toolkit.log) as session:
        record = streamfn.NewRecord(b'{"order": 7}', "customer-1", 1_545_084_650_987)
        [placed] = await session.put_many("s", [record])
        await toolkit.run("s", "toolkit.kinesis_classes", session)
    assert toolkit.said == [
        {
            "id": f"shardId-000000000000:{placed.sequence_number}",
            "name": "aws:kinesis:record",
            "source": "aws:kinesis",
            "arn": "arn:aws:kinesis:us-east-1:000000000000:stream/s",
            "version": "1.0",
            "role": "arn:aws:iam::000000000000:role/lambda-role",
            "region": "us-east-1",
            "arrival": 1_545_084_650.987,
            "schema": "1.0",
            "key": "customer-1",
            "number": placed.sequence_number,
            "json": {"order": 7},
        }
    ]


@pytest.mark.conformance("events/powertools")
@trio_test
async def test_the_dynamodb_data_classes_find_everything_in_an_event(toolkit: Toolkit) -> None:
    key = {"id": {"S": "id1"}}
    image = {**key, "n": {"N": "42.5"}, "flag": {"BOOL": True}, "tags": {"SS": ["a"]}, "list": {"L": [{"NULL": True}]}}
    identity = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
    change = {
        "eventName": "MODIFY",
        "userIdentity": identity,
        "dynamodb": {"ApproximateCreationDateTime": 1733418659, "Keys": key, "NewImage": image, "OldImage": key},
    }
    async with streamfn.open(toolkit.tmp_path / "data", log=toolkit.log) as session:
        await session.put_change("t", change)
        stream = session._runtime.data.stream("t")
        await toolkit.run("t", "toolkit.dynamodb_classes", session)
    [said] = toolkit.said
    assert (said["name"], said["source"], said["version"], said["region"]) == (
        "MODIFY", "aws:dynamodb", "1.1", "us-east-1",
    )  # fmt: skip
    assert (said["arn"], said["view"], said["created"]) == (stream.arn, "NEW_AND_OLD_IMAGES", 1733418659.0)
    assert (said["keys"], said["old"]) == ({"id": "id1"}, {"id": "id1"})
    assert said["new"] == {"id": "id1", "n": str(Decimal("42.5")), "flag": "True", "tags": "{'a'}", "list": "[None]"}
    assert said["user"] == identity
    assert said["number"].isdecimal()


@pytest.mark.conformance("events/powertools")
@trio_test
async def test_the_kinesis_parser_models_accept_an_event_and_read_the_data(toolkit: Toolkit) -> None:
    async with streamfn.open(toolkit.tmp_path / "data", log=toolkit.log) as session:
        placed = await session.put_many("s", [streamfn.NewRecord(b'{"order": %d}' % i, f"k{i}") for i in range(3)])
        await toolkit.run("s", "toolkit.kinesis_models", session)
    assert toolkit.said == [
        {"order": i, "key": f"k{i}", "number": each.sequence_number, "id": f"{each.shard_id}:{each.sequence_number}"}
        for i, each in enumerate(placed)
    ]


@pytest.mark.conformance("events/powertools")
@trio_test
async def test_the_dynamodb_parser_models_accept_every_kind_of_change(toolkit: Toolkit) -> None:
    key = {"id": {"S": "id1"}}
    old, new = ({**key, "data": {"S": text}} for text in ("old", "new"))
    async with streamfn.open(toolkit.tmp_path / "data", log=toolkit.log) as session:
        for change in ({"NewImage": old}, {"NewImage": new, "OldImage": old}, {"OldImage": new}):
            await session.put_change("t", {"Keys": key, **change})
        await toolkit.run("t", "toolkit.dynamodb_models", session)
    said = toolkit.said
    assert [one["name"] for one in said] == ["INSERT", "MODIFY", "REMOVE"]
    assert [one["keys"] for one in said] == [{"id": "id1"}] * 3
    assert [one["new"] and one["new"]["data"] for one in said] == ["old", "new", None]
    assert [one["old"] and one["old"]["data"] for one in said] == [None, "old", "new"]


@pytest.mark.conformance("events/powertools")
@trio_test
async def test_powertools_reads_windows_and_carries_their_state(toolkit: Toolkit) -> None:
    minute = 1_607_497_440_000  # 2020-12-09T07:04:00Z
    arrivals = [minute, minute + 1_000, minute + 59_999, minute + 60_000]
    records = [streamfn.NewRecord(b"%d" % 10**place, "key", ms) for place, ms in enumerate(arrivals)]
    async with streamfn.open(toolkit.tmp_path / "data", log=toolkit.log) as session:
        await session.put_many("s", records)
        await toolkit.run(
            "s", "toolkit.kinesis_window", session, batch_size=2, tumbling_window_in_seconds=60, **REPORTING
        )
    first = ["2020-12-09T07:04:00Z", "2020-12-09T07:05:00Z"]
    second = ["2020-12-09T07:05:00Z", "2020-12-09T07:06:00Z"]
    said = toolkit.said
    assert [(one["window"], one["numbers"], one["sum"], one["final"]) for one in said[:3]] == [
        (first, [1, 10], 11, False),
        (first, [100], 111, False),
        (first, [], 111, True),
    ]
    assert (said[3]["window"], said[3]["numbers"], said[3]["sum"]) == (second, [1000], 1000)
    assert {(one["early"], one["shard"], one["arn"]) for one in said} == {
        (False, "shardId-000000000000", "arn:aws:kinesis:us-east-1:000000000000:stream/s")
    }


# ---- aggregated records


@pytest.mark.conformance(
    "events/aggregated-records",
    source="documented",
    rule="A KPL-aggregated record is delivered undivided; aws_kinesis_agg takes it apart in the handler.",
)
@trio_test
async def test_aggregated_records_are_delivered_undivided_and_taken_apart_by_the_handler(toolkit: Toolkit) -> None:
    aggregator = RecordAggregator()
    for number in range(3):
        aggregator.add_user_record(f"user-{number}", b"data %d" % number)
    key, _, blob = aggregator.clear_and_get().get_contents()
    async with streamfn.open(toolkit.tmp_path / "data", log=toolkit.log) as session:
        records = [streamfn.NewRecord(blob, key), streamfn.NewRecord(b"plain", "alone")]
        aggregate, plain = await session.put_many("s", records)
        await toolkit.run("s", "toolkit.deaggregates", session)
    [event] = [json.loads(line)["event"] for line in (toolkit.tmp_path / "seen").read_text().splitlines()]
    assert [base64.b64decode(each["kinesis"]["data"]) for each in event["Records"]] == [blob, b"plain"]
    said = toolkit.said
    assert [(one["key"], one["data"]) for one in said] == [
        ("user-0", "data 0"), ("user-1", "data 1"), ("user-2", "data 2"), ("alone", "plain"),
    ]  # fmt: skip
    assert [one["aggregated"] for one in said] == [True, True, True, False]
    assert {one["number"] for one in said} == {aggregate.sequence_number, plain.sequence_number}
