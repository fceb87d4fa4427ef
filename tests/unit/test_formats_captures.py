"""Captured records: GetRecords output, Lambda events, logs; what they carry, and what is wrong with bad ones."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest

from streamfn.formats.captures import read_captures
from streamfn.formats.documents import events_in, is_logged, logged_events, whole_documents
from streamfn.formats.fields import key_of
from streamfn.formats.lines import split_lines
from streamfn.formats.rows import BadRecord, Changes, Reading, Rows

DATA = Path(__file__).parent.parent / "data"
FIRST = 49590338271490256608559692538361571095921575989136588898
PLAIN = Reading(key_of(None))


def kinesis(number: object = "1", data: bytes = b"x", **more: Any) -> dict[str, Any]:
    return {
        "SequenceNumber": number,
        "ApproximateArrivalTimestamp": 1.5,
        "Data": base64.b64encode(data).decode(),
        "PartitionKey": "k",
        **more,
    }


def event(number: str = "1", shard: str = "shardId-000000000000", **more: Any) -> dict[str, Any]:
    inner = {"partitionKey": "k", "sequenceNumber": number, "data": "eA==", "approximateArrivalTimestamp": 1.5}
    arn = "arn:aws:kinesis:eu-west-1:1:stream/s"
    made = {"kinesis": inner, "eventID": f"{shard}:{number}", "eventSource": "aws:kinesis", "eventSourceARN": arn}
    return made | more


def read(content: bytes | object, reading: Reading = PLAIN, form: str | None = None) -> list[Rows | Changes]:
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    return list(read_captures(whole_documents([content], skip_bad=reading.skip_bad), reading, form))


def refused(content: bytes | object, reading: Reading = PLAIN, form: str | None = None) -> BadRecord:
    with pytest.raises(BadRecord) as raised:
        read(content, reading, form)
    return raised.value


# ---- what files carry ----


def test_get_records_output_of_both_clis_is_read_with_numbers_times_and_bytes() -> None:
    (first,) = read((DATA / "kinesis-get-records-v1.json").read_bytes())
    assert isinstance(first, Rows)
    assert first.numbers == [str(FIRST + i * 3) for i in range(4)]
    assert first.data == [b'{"n": 0}', b"\xff\x00\xfe", b"", "Grüße".encode()]
    assert first.keys == ["alice", "Bjørn", "alice", "Bjørn"]
    assert first.arrivals == [1545084650987, 1545084651987, 1545084649987, 1545084653987], "not monotone, as they came"
    (second,) = read((DATA / "kinesis-get-records-v2.json").read_bytes())
    assert isinstance(second, Rows)
    assert second.arrivals == [1545084652987, 1545084653987, 1545084654987, 1545084655987]


def test_a_lambda_event_names_stream_and_shard() -> None:
    (rows,) = read((DATA / "lambda-kinesis-event.json").read_bytes())
    assert rows.origin is not None
    assert rows.origin.arn == "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream"
    assert rows.origin.shard_id == "shardId-000000000006"


def test_events_are_found_in_a_log_as_json_as_python_prints_them_and_inside_json_lines() -> None:
    log = (DATA / "lambda-log.txt").read_bytes()
    assert is_logged(log)
    found = list(read_captures(logged_events(split_lines([log])), PLAIN, "lambda-event"))
    numbers = [number for rows in found if isinstance(rows, Rows) for number in rows.numbers or ()]
    assert numbers == [str(FIRST + i) for i in (0, 1, 10, 11, 20)]
    assert [rows.origin.shard_id for rows in found if rows.origin] == ["shardId-000000000006", "shardId-000000000007"]


def test_a_line_of_a_log_whose_event_was_cut_is_bad() -> None:
    line = b"INFO " + json.dumps({"Records": [event()]}).encode()[:-20] + b"\n"
    with pytest.raises(BadRecord, match="whole event") as raised:
        list(read_captures(logged_events(split_lines([b"before\n" + line])), PLAIN))
    assert raised.value.where == "in the event in line 2"


def test_several_events_may_stand_in_one_line() -> None:
    one, two = json.dumps({"Records": [event("1")]}), json.dumps({"Records": [event("2")]})
    assert len(list(events_in(f"a {one} b {two} c".encode()))) == 2


def test_changes_are_read_to_the_letter() -> None:
    (from_stream,) = read((DATA / "dynamodb-get-records.json").read_bytes())
    (from_lambda,) = read((DATA / "lambda-dynamodb-event.json").read_bytes())
    assert isinstance(from_stream, Changes)
    assert isinstance(from_lambda, Changes)
    assert from_stream.changes == from_lambda.changes
    insert, modify, remove = from_stream.changes
    assert insert.keys == b'{"id":{"N":"1.50"}}'
    assert insert.new_image is not None
    assert b'{"N":"1E+3"}' in insert.new_image
    assert b'"Ada \\u00e9 \\"x\\""' in insert.new_image, "escapes as they came"
    assert (modify.event_name, modify.sequence_number) == ("MODIFY", "700000000000888747039")
    assert remove.user_identity == b'{"type":"Service","principalId":"dynamodb.amazonaws.com"}'
    assert remove.new_image is None


@pytest.mark.parametrize("between", ["", "\n", " , "])
def test_documents_may_follow_one_another_in_any_way(between: str) -> None:
    documents = [{"Records": [kinesis("1"), kinesis("2")]}, {"Records": []}, [kinesis("3")], kinesis("4")]
    rows = read(between.join(map(json.dumps, documents)).encode())
    assert [number for some in rows if isinstance(some, Rows) for number in some.numbers or ()] == ["1", "2", "3", "4"]
    assert rows[-1].last_line == 4


def test_records_of_several_shards_are_handed_on_shard_by_shard_as_they_change() -> None:
    rows = read({"Records": [event("1", "a"), event("2", "a"), event("1", "b"), event("3", "a")]})
    assert [(r.origin and r.origin.shard_id, r.last_line) for r in rows] == [("a", 2), ("b", 3), ("a", 4)]


def test_a_record_of_ours_says_its_shard_and_the_number_of_the_one_it_was_in() -> None:
    (rows,) = read(kinesis("5", ShardId="s", SourceSequenceNumber="4", SourceSubsequenceNumber=0))
    assert isinstance(rows, Rows)
    assert (rows.origin and rows.origin.shard_id, rows.sources, rows.subsources) == ("s", ["4"], [0])


def test_the_arn_of_a_consumer_is_that_of_its_stream() -> None:
    arn = "arn:aws:kinesis:eu-west-1:1:stream/s"
    (rows,) = read({"Records": [event(eventSourceARN=f"{arn}/consumer/c:1545084650")]})
    assert rows.origin is not None
    assert rows.origin.arn == arn


def test_an_event_of_a_tumbling_window_says_its_shard_beside_its_records() -> None:
    change = json.loads((DATA / "lambda-dynamodb-event.json").read_text())
    (rows,) = read(change | {"window": {}, "state": {}, "shardId": "shardId-00000001733418659000-abcdef01"})
    assert rows.origin is not None
    assert rows.origin.shard_id == "shardId-00000001733418659000-abcdef01"


def test_with_new_numbers_nothing_of_the_source_is_left() -> None:
    (rows,) = read({"Records": [event()]}, Reading(key_of(None), new_numbers=True))
    assert isinstance(rows, Rows)
    assert (rows.numbers, rows.origin, rows.arrivals) == (None, None, [1500])


def test_a_sequence_number_of_129_digits_is_one_and_of_130_is_none() -> None:
    (rows,) = read(kinesis("9" * 129))
    assert isinstance(rows, Rows)
    assert rows.numbers == ["9" * 129]
    assert "129 decimal digits" in refused(kinesis("9" * 130)).reason


# ---- what is bad ----


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (kinesis(5), "SequenceNumber is not what it should be"),
        (kinesis("-1"), "decimal digits"),
        (kinesis("007"), "begins with 0"),
        (kinesis(Data="no base64"), "not base64"),
        (kinesis(Data="eA"), "not base64"),
        (kinesis(PartitionKey=""), "partition key has 1 to 256"),
        (kinesis(PartitionKey=None), "has no PartitionKey"),
        (kinesis(ApproximateArrivalTimestamp=None), "has no ApproximateArrivalTimestamp"),
        (kinesis(ApproximateArrivalTimestamp="yesterday"), "not a time"),
        (kinesis(ShardId=7), "not the id of a shard"),
        (event(eventID="shardId-000000000000:2"), "eventID"),
        (event(eventSourceARN="stream"), "not an ARN"),
        ({"kinesis": {}}, "has no sequenceNumber"),
        ({"body": "a message"}, "no captured record"),
        ("text", "no captured record"),
        ({"eventName": "INSERT", "dynamodb": {"Keys": {"id": {"X": "1"}}}}, "X"),
        ({"eventName": "INSERT", "dynamodb": {"Keys": {"id": {"S": "1"}}}}, "SequenceNumber"),
    ],
)
def test_a_bad_record_ends_it_behind_the_good_ones_and_is_named(record: object, reason: str) -> None:
    good = event("1") if isinstance(record, dict) and "eventID" in record else kinesis("1")
    if isinstance(record, dict) and "dynamodb" in record:
        good = json.loads((DATA / "dynamodb-get-records.json").read_text())["Records"][0]
    content = json.dumps({"Records": [good, record]}).encode()
    read_so_far = []
    with pytest.raises(BadRecord, match=reason) as raised:
        for rows in read_captures(whole_documents([content], skip_bad=False), PLAIN):
            read_so_far.append(rows)
    assert raised.value.line == 2
    assert raised.value.where == "in the document at byte 0"
    assert [rows.last_line for rows in read_so_far] == [1]


def test_bad_records_are_counted_one_by_one_when_they_are_to_be_skipped() -> None:
    reading = Reading(key_of(None), skip_bad=True)
    documents = [{"Records": [kinesis("1"), {}, kinesis("2")]}, {"Records": 5}, {"Records": [kinesis("3")]}]
    rows = read("\n".join([*map(json.dumps, documents), "{broken", json.dumps(kinesis("4"))]).encode(), reading)
    assert sum(some.bad for some in rows) == 3
    assert [n for some in rows if isinstance(some, Rows) for n in some.numbers or ()] == ["1", "2", "3", "4"]


def test_records_are_skipped_by_their_number_through_all_documents() -> None:
    documents = json.dumps({"Records": [kinesis("1"), kinesis("2")]}) + json.dumps({"Records": [kinesis("3"), {}]})
    bad = refused(documents.encode(), Reading(key_of(None), skip_lines=2))
    assert (bad.line, bad.where.split()[-1]) == (4, str(documents.index('{"Records"', 5)))


def test_a_file_has_records_of_one_kind_and_of_the_format_it_was_said_to_have() -> None:
    change = json.loads((DATA / "dynamodb-get-records.json").read_text())["Records"][0]
    assert "other kind" in refused([kinesis(), change]).reason
    assert "is of format kinesis-get-records" in refused(kinesis(), form="lambda-event").reason


def test_changes_cannot_be_taken_apart() -> None:
    pytest.importorskip("google.protobuf")
    content = (DATA / "dynamodb-get-records.json").read_bytes()
    assert "not aggregated" in refused(content, Reading(key_of(None), deaggregate=True)).reason


TOKENS = [b"{", b"}", b"[", b"]", b'"', b"\\", b",", b"null", b"\xff", b"1e999", b'"Records"', b"\n", b"'", b"\\ud800"]


def test_damaged_captures_have_bad_records_and_nothing_else_happens() -> None:
    files = [path.read_bytes() for path in sorted(DATA.iterdir()) if path.is_file()]
    rng = random.Random(5)
    outcomes = set()
    for _ in range(1500):
        content = bytearray(rng.choice(files))
        for _ in range(rng.choice([1, 1, 3])):
            at = rng.randrange(len(content))
            if rng.random() < 0.4:
                content[at] ^= 1 << rng.randrange(8)
            else:
                content[at : at + rng.randrange(3)] = rng.choice(TOKENS)
        reading = Reading(key_of(None), skip_bad=rng.random() < 0.5)
        blocks = [bytes(content[at : at + 500]) for at in range(0, len(content), 500)]
        for documents in (
            whole_documents(blocks, skip_bad=reading.skip_bad),
            logged_events(split_lines(blocks)),
        ):
            try:
                list(read_captures(documents, reading))
                outcomes.add("read")
            except BadRecord:
                outcomes.add("bad")
    assert outcomes == {"read", "bad"}
