"""The selector with real scan processes over real messages: what it selects is what the pure filters select."""

# ruff: noqa: E501 - tables of patterns

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import trio_test

from streamfn.core.filter import compile_filters
from streamfn.core.filter.expression import NOT_JSON
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.segment.rows import rows
from streamfn.log.shard.reader import ShardReader
from streamfn.log.shard.writer import ShardWriter
from streamfn.mapping import selector as selecting
from streamfn.mapping.filtering import constants
from streamfn.mapping.selector import open_selector
from streamfn.pool.pool import open_pool
from streamfn.types import NewChange, NewRecord

HERE = str(Path(__file__).parent)


class Rig:
    """A selector over one shard, with what the runtime does for it: rounds of the pool."""

    def __init__(self, pool, shard):
        self.pool = pool
        self.shard = shard
        self.said = []
        self._queue = []
        pool.on_round = self._on_round

    def queue(self, selector):
        selector.queued = True
        self._queue.append(selector)

    def _on_round(self):
        waiting, self._queue = self._queue, []
        for selector in waiting:
            selector.queued = False
            selector.pump()

    async def open(self, stream, patterns, scanners):
        self.selector = await open_selector(
            self.pool,
            [json.dumps(each) for each in patterns],
            name="f",
            kind=stream.kind,
            arn=stream.arn,
            region=stream.region,
            scanners=scanners,
            queue=self.queue,
            say=self.said.append,
        )
        self.shard_selector = self.selector.shard(b"{}")
        self.reader = ShardReader.open(self.shard, 0)

    @property
    def pids(self):
        return [worker.pid for worker in self.selector.function.workers]

    async def all_offsets(self):
        """The offsets of everything that is selected, read after read."""
        found = []
        while messages := self.reader.poll(1 << 16):
            for message, picked in zip(messages, await self.shard_selector.select(messages), strict=True):
                numbers = range(message.rows) if picked is None else picked.tolist()
                found += [message.first_offset + number for number in numbers]
        return found

    def close(self):
        self.shard_selector.close()
        self.reader.close()


@asynccontextmanager
async def rig(stream, patterns, *, scanners=2):
    async with open_pool() as pool:
        made = Rig(pool, stream.shards[0])
        await made.open(stream, patterns, scanners)
        try:
            yield made
        finally:
            made.close()


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
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError):
        return NOT_JSON


def refuse(name):
    raise ValueError(name)


def expected(stream, patterns):
    """What the pure filters select, from the rows as they lie in the log."""
    filters = compile_filters(
        [json.dumps(each) for each in patterns], stream.kind, constants(stream.kind, stream.arn, stream.region)
    )
    found = []
    with ShardReader.open(stream.shards[0], 0) as reader:
        while messages := reader.poll(1 << 20):
            found += [row.offset for message in messages for row in rows(message) if filters.matches(seen(row))]
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


@pytest.mark.parametrize("patterns", KINESIS)
@trio_test
async def test_selected_kinesis_records_are_those_of_the_pure_filters(tmp_path, patterns):
    stream = stream_of(tmp_path, some_records(600))
    async with rig(stream, patterns) as made:
        assert await made.all_offsets() == expected(stream, patterns)


@pytest.mark.parametrize("patterns", DYNAMODB)
@trio_test
async def test_selected_changes_are_those_of_the_pure_filters(tmp_path, patterns):
    stream = stream_of(tmp_path, some_changes(600), kind="dynamodb")
    async with rig(stream, patterns) as made:
        assert await made.all_offsets() == expected(stream, patterns)


@trio_test
async def test_large_messages_are_spread_and_answered_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(selecting, "JOB_ROWS", 50)
    patterns = [{"data": {"type": ["a"]}}]
    stream = stream_of(tmp_path, some_records(3000), chunk=1500, segment_bytes=1 << 24)
    async with rig(stream, patterns) as made:
        assert await made.all_offsets() == expected(stream, patterns)


@pytest.mark.parametrize("patterns", [*KINESIS[:6]])
@trio_test
async def test_small_messages_share_jobs(tmp_path, patterns):
    stream = stream_of(tmp_path, some_records(300), chunk=2)
    async with rig(stream, patterns, scanners=1) as made:
        assert await made.all_offsets() == expected(stream, patterns)


@pytest.mark.parametrize("patterns", [DYNAMODB[2], DYNAMODB[5], DYNAMODB[8]])
@trio_test
async def test_small_messages_of_changes_share_jobs(tmp_path, patterns):
    stream = stream_of(tmp_path, some_changes(300), kind="dynamodb", chunk=2)
    async with rig(stream, patterns, scanners=1) as made:
        assert await made.all_offsets() == expected(stream, patterns)


@trio_test
async def test_several_calls_may_be_under_way(tmp_path):
    patterns = [{"data": {"type": ["a"]}}]
    stream = stream_of(tmp_path, some_records(900))
    async with rig(stream, patterns) as made:
        found = {}

        async def one(number, messages):
            found[number] = await made.shard_selector.select(messages)

        reads = []
        async with trio.open_nursery() as nursery:
            while messages := made.reader.poll(1 << 14):
                for message in messages:
                    message.segment.retain()
                nursery.start_soon(one, len(reads), messages)
                reads.append(messages)
        offsets = [
            message.first_offset + number
            for place, messages in enumerate(reads)
            for message, picked in zip(messages, found[place], strict=True)
            for number in (range(message.rows) if picked is None else picked.tolist())
        ]
        assert offsets == expected(stream, patterns)
        for messages in reads:
            for message in messages:
                message.segment.release()


@trio_test
async def test_killed_scan_processes_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(selecting, "JOB_ROWS", 20)
    patterns = [{"data": {"type": ["a"]}}]
    stream = stream_of(tmp_path, some_records(4000), chunk=200, segment_bytes=1 << 20)
    async with rig(stream, patterns) as made:
        killed = 0

        async def kill():
            nonlocal killed
            while True:
                await trio.sleep(0.01)
                for pid in made.pids[:1]:
                    with contextlib.suppress(ProcessLookupError):  # killed before, and not noticed yet
                        os.kill(pid, signal.SIGKILL)
                        killed += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            while killed < 3:  # again from the start until some were killed in the middle
                made.reader.close()
                made.reader = ShardReader.open(stream.shards[0], 0)
                offsets = await made.all_offsets()
                assert offsets == expected(stream, patterns)
            nursery.cancel_scope.cancel()
        assert made.said == []


@pytest.mark.conformance(
    "filters/record-that-cannot-be-filtered",
    source="ours",
    rule="A record whose filtering ends the scan process three times is delivered: dropped it would be lost, and "
    "retried for ever it would hold up its shard.",
)
@pytest.mark.parametrize("chunk", [64, 1])
@trio_test
async def test_record_that_kills_scan_processes_is_selected_and_said(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(selecting, "SCANNER_MAIN", "deadly_scanner")
    monkeypatch.setenv("PYTHONPATH", HERE)
    records = [NewRecord(json.dumps({"type": "ab"[i % 2]}).encode(), "k", i) for i in range(64)]
    records[21] = NewRecord(b'{"type": "b", "x": "deadly"}', "k", 21)
    stream = stream_of(tmp_path, records, chunk=chunk)
    async with rig(stream, [{"data": {"type": ["a"]}}]) as made:
        assert await made.all_offsets() == sorted([*range(0, 64, 2), 21])
        (said,) = made.said
        assert "offset 21 could not be filtered and is delivered" in said


@trio_test
async def test_cancelled_call_leaves_the_selector_usable(tmp_path):
    patterns = [{"data": {"type": ["a"]}}]
    stream = stream_of(tmp_path, some_records(2000), chunk=500, segment_bytes=1 << 24)
    async with rig(stream, patterns, scanners=1) as made:
        messages = made.reader.poll(1 << 30)
        with trio.CancelScope() as scope:
            scope.cancel()
            await made.shard_selector.select(messages)
        assert scope.cancelled_caught
        picked = await made.shard_selector.select(messages)
        offsets = [m.first_offset + n for m, part in zip(messages, picked, strict=True) for n in part.tolist()]
        assert offsets == expected(stream, patterns)


@trio_test
async def test_passed_segments_are_let_go(tmp_path):
    stream = stream_of(tmp_path, some_records(2000))
    async with rig(stream, [{"data": {"type": ["a"]}}], scanners=1) as made:
        seen_ids = set()
        while messages := made.reader.poll(1 << 16):
            seen_ids.add(messages[0].segment.id)
            await made.shard_selector.select(messages)
        (worker,) = made.selector.function.workers
        assert len(seen_ids) > 3
        assert sum(worker.knows(segment_id) for segment_id in seen_ids) == 1
        with trio.fail_after(5):
            while worker.chores:
                await trio.sleep(0.001)
        with open(f"/proc/{worker.pid}/maps") as maps:
            assert sum(".arrow" in line for line in maps) <= 1


@trio_test
async def test_metadata_filter_needs_no_process(tmp_path):
    stream = stream_of(tmp_path, some_changes(10), kind="dynamodb")
    async with rig(stream, [{"eventName": ["INSERT"]}]) as made:
        assert made.selector.function is None
        assert not made.pool.functions


@pytest.mark.parametrize(("module", "loaded"), [("selector", False), ("scanner", False), ("metadata", True)])
def test_pyarrow_is_loaded_only_for_metadata_filters(module, loaded):
    script = f"import sys, streamfn.mapping.{module}; sys.exit('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == loaded
