"""What the tests of filters share: streams of all sorts of records, patterns, and what the pure filters select."""

# ruff: noqa: E501 - tables of patterns

import json
import random
from array import array
from heapq import merge

import pytest

from streamfn._native import ffi
from streamfn.core.filter import compile_filters
from streamfn.core.filter.expression import NOT_JSON
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.segment.rows import rows
from streamfn.log.shard.reader import ShardReader
from streamfn.log.shard.writer import ShardWriter
from streamfn.mapping.filtering import constants
from streamfn.mapping.metadata import decide
from streamfn.mapping.scanner import Scan, State
from streamfn.types import NewChange, NewRecord


def stream_of(path, records, *, kind="kinesis", chunk=37, segment_bytes=64 * 1024):
    """A stream whose shard has these records, in messages of `chunk`, in several segments."""
    stream = DataDir.open(path / "data", create=True).create_stream("s", 1, kind=kind)
    with ShardWriter.open(stream.shards[0], segment_bytes=segment_bytes) as writer:
        for at in range(0, len(records), chunk):
            append = writer.append if kind == "kinesis" else writer.append_changes
            append(records[at : at + chunk])
    return stream


def parsed(data):
    try:
        return json.loads(data.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        return NOT_JSON


def refuse(name):
    raise ValueError(name)


def parsed_filters(stream, patterns):
    """The filters that a mapping of the stream would have."""
    alike = constants(stream.kind, stream.arn, stream.region)
    return compile_filters([json.dumps(each) for each in patterns], stream.kind, alike)


def expected(stream, patterns):
    """What the pure filters select, from the rows as they lie in the log."""
    filters, found = parsed_filters(stream, patterns), []
    with ShardReader.open(stream.shards[0], 0) as reader:
        while messages := reader.poll(1 << 20):
            found += [row.offset for message in messages for row in rows(message) if filters.matches(seen(row))]
    return found


def selected(stream, patterns):
    """The offsets that a selector would find, with the scan done here."""
    filters = parsed_filters(stream, patterns)
    scan, found = Scan(State(stream.kind, filters.scan)), []
    with ShardReader.open(stream.shards[0], 0) as reader:
        while messages := reader.poll(1 << 16):
            for message, certain, open_rows in zip(messages, *decide(filters, messages), strict=True):
                content = memoryview(ffi.buffer(message.segment.base, message.segment.size))
                everything = range(message.rows)
                wanted = everything if open_rows is None else open_rows.tolist()
                passed = (
                    scan.selected(message.segment.base, content, message.cdata.column, wanted) if wanted else array("I")
                )
                content.release()
                numbers = everything if certain is None else merge(certain, passed)
                found += [message.first_offset + number for number in numbers]
    return found


def seen(row):
    """A row's fields, as filters see them."""
    if hasattr(row, "data"):
        return {"data": parsed(row.data), "partitionKey": row.partition_key}
    fields = {
        "eventID": row.event_id,
        "eventName": row.event_name,
        "eventVersion": row.event_version,
        "dynamodb.ApproximateCreationDateTime": row.creation_ms / 1000,
        "dynamodb.Keys": parsed(row.keys),
        "dynamodb.SequenceNumber": row.sequence_number,
        "dynamodb.SizeBytes": row.size_bytes,
        "dynamodb.StreamViewType": row.stream_view_type,
    }
    for name, text in (
        ("dynamodb.NewImage", row.new_image),
        ("dynamodb.OldImage", row.old_image),
        ("userIdentity", row.user_identity),
    ):
        if text is not None:
            fields[name] = parsed(text)
    return fields


def some_records(count, seed=1):
    draw = random.Random(seed)
    datas = [
        lambda i: json.dumps({"type": draw.choice("ab"), "n": i, "list": [{"x": i % 3}, {"y": "z"}]}).encode(),
        lambda i: b"plain text %d" % i,
        lambda i: b"",
        lambda i: b"\xff\xfe" + bytes([i % 256]),
        lambda i: b'{"type": "a", "n": NaN}',
        lambda i: json.dumps({"a.type": "a", "n": i}).encode(),
        lambda i: b"[" * 2000,
        lambda i: json.dumps([{"type": "a"}]).encode() + b" " * draw.randrange(3000),
    ]
    return [NewRecord(draw.choice(datas[:1] * 6 + datas)(i), f"key-{i % 7}", i) for i in range(count)]


def some_changes(count, seed=1):
    draw = random.Random(seed)
    made = []
    for i in range(count):
        name = draw.choice(["INSERT", "MODIFY", "REMOVE"])
        image = json.dumps({"id": {"S": f"i{i}"}, "n": {"N": str(i)}, "kind": {"S": draw.choice("xyz")}}).encode()
        made.append(
            NewChange(
                name,
                b'{"id":{"S":"i%d"}}' % i,
                None if name == "REMOVE" else image,
                None if name == "INSERT" else image,
                creation_ms=1_733_418_659_000 + i,
                user_identity=b'{"type":"Service","principalId":"dynamodb.amazonaws.com"}'
                if name == "REMOVE" and i % 2
                else None,
            )
        )
    return made


KINESIS = [
    pytest.param([{"data": {"type": ["a"]}}], id="data"),
    pytest.param([{"data": {"n": [{"exists": False}]}}], id="missing_field"),
    pytest.param([{"partitionKey": ["key-3", {"prefix": "key-1"}]}], id="metadata"),
    pytest.param([{"partitionKey": [{"anything-but": "key-3"}], "data": {"n": [{"numeric": [">", 100]}]}}], id="both"),
    pytest.param([{"partitionKey": ["key-3"]}, {"data": {"type": ["b"]}}], id="one_or_the_other"),
    pytest.param(
        [{"$or": [{"partitionKey": ["key-3"]}, {"data": {"a": {"type": ["a"]}}}], "data": {"n": [{"exists": True}]}}],
        id="mixed_in_a_branch",
    ),
    pytest.param([{"data": {"list": {"x": [1], "y": ["z"]}}}], id="nothing"),
    pytest.param([{"kinesis": {"partitionKey": ["key-3"]}}], id="unknown_field"),
    pytest.param([{"body": {"x": [{"exists": False}]}}], id="everything"),
]
DYNAMODB = [
    pytest.param([{"eventName": ["INSERT"]}], id="event_name"),
    pytest.param([{"eventName": ["INSERT"], "eventSource": ["aws:dynamodb"]}], id="event_source"),
    pytest.param([{"userIdentity": {"type": ["Service"]}}], id="user_identity"),
    pytest.param([{"userIdentity": {"type": [{"exists": False}]}, "eventName": ["REMOVE"]}], id="no_user_identity"),
    pytest.param([{"dynamodb": {"NewImage": {"kind": {"S": ["x"]}}}}], id="new_image"),
    pytest.param([{"dynamodb": {"OldImage": {"kind": {"S": [{"exists": False}]}}}}], id="no_old_image"),
    pytest.param([{"dynamodb": {"Keys": {"id": {"S": [{"suffix": "7"}]}}, "SizeBytes": [{"numeric": [">", 0]}]}}], id="keys"),
    pytest.param(
        [{"dynamodb": {"ApproximateCreationDateTime": [{"numeric": ["<", 1_733_418_659.1]}]}}], id="creation_time"
    ),
    pytest.param(
        [{"eventName": ["MODIFY"], "dynamodb": {"NewImage": {"kind": {"S": ["x"]}}, "OldImage": {"kind": {"S": ["x"]}}}}],
        id="both_images",
    ),
    pytest.param(
        [{"eventName": ["REMOVE"]}, {"eventName": ["INSERT"], "dynamodb": {"NewImage": {"n": {"N": [{"prefix": "1"}]}}}}],
        id="one_or_the_other",
    ),
    pytest.param([{"eventSource": ["aws:kinesis"]}], id="another_source"),
]  # fmt: skip
