"""Resharding on the disk: what Kinesis refuses is refused, and a crash at any moment leaves all or nothing."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamfn.errors import BusyError, RefusedError, ShardClosed
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import HASH_KEYS, CapturedShard, Shard, Stream, sequence_order, uniform_ranges
from streamfn.log.segment.segment import list_segments
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.commit import CommitFile
from streamfn.log.storage.disk import SystemDisk
from streamfn.log.upkeep.reshard import close_shard, merge_shards, split_shard, update_shard_count
from streamfn.log.upkeep.upkeep import below_offset, trim
from streamfn.types import NewRecord, Record

FIRST, SECOND, THIRD, FOURTH = (f"shardId-{number:012d}" for number in range(4))
HALF = HASH_KEYS // 2


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir.open(tmp_path / "data", create=True)


def put(shard: Shard, *contents: str) -> list[str]:
    with ShardWriter.open(shard) as writer:
        offsets = writer.append([NewRecord(content.encode(), content) for content in contents])
        return [writer.sequence_number(offset) for offset in offsets]


def content(shard: Shard) -> list[Record]:
    found: list[Record] = []
    with ShardReader.open(shard, 0) as reader:
        while messages := reader.poll(1 << 20):
            for message in messages:
                found += records(message)
    return found


def test_a_split_closes_the_parent_and_opens_two_children(data_dir: DataDir) -> None:
    before = data_dir.create_stream("s")
    numbers = put(before.shards[0], "a", "b", "c")
    after = split_shard(data_dir, "s", FIRST)
    assert after.shards == data_dir.stream("s").shards
    parent, low, high = after.shards
    assert (parent.end_offset, parent.ending_sequence_number) == (3, numbers[-1])
    assert [(s.id, s.start_hash, s.end_hash, s.parents, s.open) for s in (low, high)] == [
        (SECOND, 0, HALF - 1, (FIRST,), True),
        (THIRD, HALF, HASH_KEYS - 1, (FIRST,), True),
    ]
    assert after.open_shards == (low, high)
    assert [record.data for record in content(parent)] == [b"a", b"b", b"c"]
    with pytest.raises(ShardClosed):
        put(before.shards[0], "d")


def test_what_a_closed_shard_holds_is_sealed_and_retention_can_take_all_of_it(data_dir: DataDir) -> None:
    before = data_dir.create_stream("s")
    put(before.shards[0], "a", "b", "c")
    parent = split_shard(data_dir, "s", FIRST).shards[0]
    sealed, active = list_segments(parent)
    assert (sealed.sealed, active.sealed, active.first_offset) == (True, False, 3)
    commit_file = CommitFile.open(parent.disk, parent.directory, write=False)
    commit = commit_file.read()
    commit_file.close()
    assert commit is not None
    assert (commit.closed, commit.end_offset) == (True, 3)
    trimmed = trim(parent, below_offset(3))
    assert (trimmed.records, trimmed.horizon) == (3, 3)
    assert content(parent) == []


def test_a_split_where_it_is_wanted(data_dir: DataDir) -> None:
    data_dir.create_stream("s")
    after = split_shard(data_dir, "s", FIRST, 1000)
    assert [(s.start_hash, s.end_hash) for s in after.open_shards] == [(0, 999), (1000, HASH_KEYS - 1)]


def test_a_merge_of_two_has_both_as_parents_in_the_order_they_were_named(data_dir: DataDir) -> None:
    stream = data_dir.create_stream("s", 3)
    put(stream.shards[1], "x")
    after = merge_shards(data_dir, "s", SECOND, FIRST)
    child = after.shards[3]
    assert child.parents == (SECOND, FIRST)
    assert (child.start_hash, child.end_hash) == (0, uniform_ranges(3)[1][1])
    assert [s.id for s in after.open_shards] == [FOURTH, THIRD]
    assert [s.end_offset for s in after.shards] == [0, 1, None, None]


def test_keys_go_to_the_child_that_took_over_their_range(data_dir: DataDir) -> None:
    data_dir.create_stream("s", 2)
    after = update_shard_count(data_dir, "s", 4)
    for number in range(200):
        shard = after.shard_for(f"key {number}")
        assert shard.open
        assert after.open_shards[after.shard_index(f"key {number}")] is shard


def test_sequence_numbers_of_children_are_above_their_parents(data_dir: DataDir) -> None:
    stream = data_dir.create_stream("s")
    last = put(stream.shards[0], "a", "b")[-1]
    for _ in range(3):
        stream = split_shard(data_dir, "s", stream.shards[-1].id)
        number = put(stream.shards[-1], "c")[-1]
        assert sequence_order(number) > sequence_order(last)
        last = number
    stream = merge_shards(data_dir, "s", stream.shards[-1].id, stream.shards[-2].id)
    assert sequence_order(put(stream.shards[-1], "d")[-1]) > sequence_order(last)


def test_children_of_a_captured_shard_begin_above_its_numbers(data_dir: DataDir) -> None:
    start = "9" * 60
    captured = [CapturedShard("shardId-000000000041", 0, HASH_KEYS - 1, (), start)]
    stream = data_dir.create_captured_stream("c", "arn:aws:kinesis:eu-west-1:1:stream/c", "kinesis", captured)
    last = put(stream.shards[0], "a")[-1]
    assert sequence_order(last) >= sequence_order(start)
    after = split_shard(data_dir, "c", "shardId-000000000041")
    assert [s.id for s in after.shards[1:]] == ["shardId-000000000042", "shardId-000000000043"]
    first, second = (put(shard, "b")[0] for shard in after.shards[1:])
    assert sequence_order(last) < sequence_order(first) < sequence_order(second)


def test_a_shard_whose_captured_numbers_are_the_highest_there_can_be_takes_nothing_and_is_not_split(
    data_dir: DataDir,
) -> None:
    captured = [CapturedShard("shardId-000000000041", 0, HASH_KEYS - 1, (), "9" * 129)]
    stream = data_dir.create_captured_stream("c", "arn:aws:kinesis:eu-west-1:1:stream/c", "kinesis", captured)
    with pytest.raises(RefusedError, match="has none left"):
        put(stream.shards[0], "a")
    with pytest.raises(RefusedError, match="has none left"):
        split_shard(data_dir, "c", "shardId-000000000041")
    assert [shard.open for shard in data_dir.stream("c").shards] == [True]


@pytest.mark.parametrize(("count", "target"), [(2, 3), (4, 5), (4, 2), (10, 13), (5, 3), (1, 2), (3, 3)])
def test_the_shard_count_is_updated_in_one_step_to_even_ranges(data_dir: DataDir, count: int, target: int) -> None:
    stream = data_dir.create_stream("s", count)
    put(stream.shards[-1], "x")
    after = update_shard_count(data_dir, "s", target)
    assert [(s.start_hash, s.end_hash) for s in after.open_shards] == uniform_ranges(target)
    assert after.shards == data_dir.stream("s").shards
    for shard in after.shards[count:]:
        assert all(not parent.open for name in shard.parents if (parent := after.shard(name)) is not None)
        assert content(shard) == []
    for shard in after.open_shards:
        put(shard, "y")


Q = HASH_KEYS // 4
REFUSED = {
    "a shard that is not there": (lambda d: split_shard(d, "s", "shardId-9"), "Could not find shard shardId-9"),
    "a key below the range": (lambda d: split_shard(d, "s", SECOND, 5), f"greater than one plus .* {Q} and"),
    "the range's second key": (lambda d: split_shard(d, "s", SECOND, Q + 1), "is not both greater than one plus"),
    "the range's last key": (lambda d: split_shard(d, "s", SECOND, 2 * Q - 1), f"EndingHashKey {2 * Q - 1}"),
    "a closed shard": (lambda d: split_shard(d, "s", FIRST), f"Shard {FIRST} in .* already been merged or split"),
    "a merge with a closed one": (lambda d: merge_shards(d, "s", SECOND, FIRST), "already been merged or split"),
    "shards with one between": (lambda d: merge_shards(d, "s", SECOND, FOURTH), "not an adjacent pair of shards"),
    "a shard with itself": (lambda d: merge_shards(d, "s", SECOND, SECOND), "not an adjacent pair of shards"),
    "more than double": (lambda d: update_shard_count(d, "s", 11), "over double .* count: 5, Target shard count: 11"),
    "less than half": (lambda d: update_shard_count(d, "s", 2), "below half .* count: 5, Target shard count: 2"),
    "none": (lambda d: update_shard_count(d, "s", 0), "greater than or equal to 1"),
    "too many": (lambda d: update_shard_count(d, "s", 1025), "cannot be greater than 1024"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_what_kinesis_refuses_is_refused_and_changes_nothing(
    data_dir: DataDir, call: Callable[[DataDir], Stream], text: str
) -> None:
    data_dir.create_stream("s", 4)
    stream = split_shard(data_dir, "s", FIRST)
    before = (stream.directory / "stream.json").read_text()
    with pytest.raises(RefusedError, match=text):
        call(data_dir)
    assert (stream.directory / "stream.json").read_text() == before


def test_a_dynamodb_stream_has_no_hash_keys_to_split(data_dir: DataDir) -> None:
    data_dir.create_captured_stream("d", "arn:aws:dynamodb:eu-west-1:1:table/T", "dynamodb", [CapturedShard("a")])
    with pytest.raises(RefusedError, match="no hash keys of their own"):
        split_shard(data_dir, "d", "a")


def test_a_writer_that_goes_on_is_waited_for_and_named(data_dir: DataDir) -> None:
    stream = data_dir.create_stream("s", 2)
    with ShardWriter.open(stream.shards[0]):
        with pytest.raises(BusyError, match=f"process {os.getpid()}"):
            split_shard(data_dir, "s", FIRST, wait_s=0.05)
        split_shard(data_dir, "s", SECOND)
    assert [s.open for s in split_shard(data_dir, "s", FIRST).shards] == [False, False, True, True, True, True]


def test_a_captured_shard_is_closed_when_its_source_says_so(data_dir: DataDir) -> None:
    stream = data_dir.create_captured_stream("c", "arn:aws:kinesis:x:1:stream/c", "kinesis", [CapturedShard("a")])
    put(stream.shards[0], "x", "y")
    for _ in range(2):
        after = close_shard(data_dir, stream, "a", ending_sequence_number="77")
        assert (after.shards[0].end_offset, after.shards[0].ending_sequence_number) == (2, "77")
    with pytest.raises(RefusedError, match="no open shard"):
        after.shard_for("k")


class MortalDisk(SystemDisk):
    """A disk whose process ends at the call with that number."""

    def __init__(self, dies_at: int) -> None:
        self.calls = 0
        self.dies_at = dies_at

    def __getattribute__(self, name: str) -> Any:
        if name in CHANGING:
            self.calls += 1
            if self.calls >= self.dies_at:
                os._exit(9)
        return super().__getattribute__(name)


CHANGING = {"pwrite", "truncate", "punch_hole", "sync", "sync_directory", "rename", "unlink", "make_directory"}


def dies(call: Callable[[], object]) -> bool:
    """Call it in a process of its own; whether that ended before it was done."""
    pid = os.fork()
    if not pid:
        try:
            call()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0


@pytest.mark.parametrize(
    ("reshard", "stride"),
    [
        pytest.param(lambda data: split_shard(data, "s", FIRST), 1, id="split"),
        pytest.param(lambda data: merge_shards(data, "s", FIRST, SECOND), 1, id="merge"),
        pytest.param(lambda data: update_shard_count(data, "s", 3), 4, id="update"),
    ],
)
def test_a_death_at_any_moment_leaves_the_stream_as_it_was_or_as_it_was_to_be(
    tmp_path: Path, reshard: Callable[[DataDir], Stream], stride: int
) -> None:
    outcomes = []
    for dies_at in itertools.count(1, stride):
        root = tmp_path / f"{dies_at}"
        before = DataDir.open(root, create=True).create_stream("s", 2)
        put(before.shards[0], "a", "b")
        if not dies(lambda root=root, dies_at=dies_at: reshard(DataDir(root, MortalDisk(dies_at)))):
            break
        data = DataDir.open(root, create=True)
        found = data.stream("s")
        done = len(found.shards) > 2
        outcomes.append(done)
        assert [record.data for record in content(found.shards[0])] == [b"a", b"b"]
        if done:
            assert all(shard.directory.is_dir() for shard in found.shards)
            assert found.shards[0].end_offset == 2
            with pytest.raises(ShardClosed):
                ShardWriter.open(before.shards[0], wait_s=0)
        else:
            assert found.shards == before.shards
            found = reshard(data)
        names = {entry.name for entry in found.directory.iterdir() if entry.is_dir()}
        assert names == {shard.directory.name for shard in found.shards}
        for shard in found.open_shards:
            put(shard, "c")
    assert outcomes == sorted(outcomes), "once it is done it stays done"
    assert True in outcomes
    assert False in outcomes


def test_the_description_is_replaced_when_what_it_names_is_durable(data_dir: DataDir) -> None:
    data_dir.create_stream("s")
    calls: list[tuple[str, str]] = []

    class Watched(SystemDisk):
        def sync_directory(self, path: Path) -> None:
            super().sync_directory(path)
            calls.append(("synced", path.name))

        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            calls.append(("renamed", target.name))

    stream = split_shard(DataDir(data_dir.path, Watched()), "s", FIRST)
    moment = calls.index(("renamed", "stream.json"))
    assert calls.index(("synced", FIRST)) < moment
    for name in (SECOND, THIRD, stream.id):
        assert ("synced", name) in calls[:moment]
    assert ("synced", stream.id) in calls[moment:]
