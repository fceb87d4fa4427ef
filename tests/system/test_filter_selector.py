"""The selector with real scan processes over real messages: what it selects is what the pure filters select."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from filter_rig import DYNAMODB, KINESIS, expected, some_changes, some_records, stream_of
from trio.testing import trio_test

from streamfn.log.shard.reader import ShardReader
from streamfn.mapping import selector as selecting
from streamfn.mapping.selector import open_selector
from streamfn.pool.pool import open_pool
from streamfn.types import NewRecord

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


@pytest.mark.parametrize("patterns", [KINESIS[0], KINESIS[3], KINESIS[4]])
@trio_test
async def test_selected_kinesis_records_are_those_of_the_pure_filters(tmp_path, patterns):
    stream = stream_of(tmp_path, some_records(600))
    async with rig(stream, patterns) as made:
        assert await made.all_offsets() == expected(stream, patterns)


@pytest.mark.parametrize("patterns", [DYNAMODB[2], DYNAMODB[9]])
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


@pytest.mark.parametrize("patterns", [KINESIS[0], KINESIS[4]])
@trio_test
async def test_small_messages_share_jobs(tmp_path, patterns):
    stream = stream_of(tmp_path, some_records(300), chunk=2)
    async with rig(stream, patterns, scanners=1) as made:
        assert await made.all_offsets() == expected(stream, patterns)


@pytest.mark.parametrize("patterns", [DYNAMODB[8]])
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
            while killed < 3:  # a machine that is slow enough would see every process killed, and deliver in the end
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


@pytest.mark.parametrize("lie", ["nothing", "odd", "more", "endless", "far", "twice", "back"])
@trio_test
async def test_what_a_scan_process_says_is_not_believed_if_it_cannot_be(tmp_path, monkeypatch, lie):
    monkeypatch.setattr(selecting, "SCANNER_MAIN", "lying_scanner")
    monkeypatch.setenv("PYTHONPATH", HERE)
    records = [NewRecord(json.dumps({"type": "ab"[i % 2]}).encode(), "k", i) for i in range(64)]
    records[21] = NewRecord(json.dumps({"type": "b", "x": f"lie:{lie}"}).encode(), "k", 21)
    stream = stream_of(tmp_path, records, chunk=64)
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


@pytest.mark.parametrize(
    ("module", "heavy", "loaded"),
    [
        ("selector", {"pyarrow"}, False),
        ("metadata", {"pyarrow"}, True),
        ("scanner", {"pyarrow", "trio", "click"}, False),
    ],
)
def test_who_has_no_metadata_filter_does_not_load_pyarrow_and_a_scan_process_no_runtime(module, heavy, loaded):
    script = f"import sys, streamfn.mapping.{module}; sys.exit(bool({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == loaded
