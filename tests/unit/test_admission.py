"""Captured records that a shard has are skipped, new ones taken, others refused: none is lost or out of order."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn.clock import SystemClock
from streamfn.doors import admission
from streamfn.doors.admission import Admission, Run
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import CapturedShard, Shard, Stream
from streamfn.log.shard.numbers import Membership, last_sequence_number
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.upkeep import upkeep
from streamfn.types import NewRecord

BIG = 10**128


class World:
    """A captured stream of one shard, and what is put into it."""

    def __init__(self, directory: Path, numbers: list[int]) -> None:
        data = DataDir.open(directory, create=True)
        arn = "arn:aws:kinesis:x:1:stream/s"
        self.stream: Stream = data.create_captured_stream("s", arn, "kinesis", [CapturedShard("a")])
        self.shard: Shard = self.stream.shards[0]
        self.waiting: list[int] = []
        self.flushes = 0
        self.append(numbers)

    def append(self, numbers: list[int]) -> None:
        with ShardWriter.open(self.shard) as writer:
            for start in range(0, len(numbers), 3):  # several messages
                writer.append([NewRecord(b"x", "k", 1, str(number)) for number in numbers[start : start + 3]])

    def flush(self) -> None:
        self.flushes += 1
        self.append(self.waiting)
        self.waiting = []


def texts(numbers: list[int]) -> pa.Array:
    return pa.array(list(map(str, numbers)), pa.string())


def admitted(world: World, batches: list[list[int]]) -> tuple[list[int], list[int], list[int]]:
    """Offer batches; return what was new, what was there already, and what was refused."""
    door = Admission(world.stream, world.shard, world.flush)
    new: list[int] = []
    there: list[int] = []
    refused: list[int] = []
    for numbers in batches:
        for run in door.admit(texts(numbers)):
            part = numbers[run.start : run.stop]
            (refused if run.fell else new if run.new else there).extend(part)
            if run.new:
                world.waiting += part
    return new, there, refused


def test_an_import_can_be_repeated_and_go_on(tmp_path: Path) -> None:
    numbers = [5, 7, 99, 100, 10**55, BIG]
    world = World(tmp_path, numbers)
    assert admitted(world, [numbers[:2], [*numbers[2:], BIG + 1]]) == ([BIG + 1], numbers, [])


def test_what_is_below_the_highest_and_not_there_is_refused_not_lost(tmp_path: Path) -> None:
    world = World(tmp_path, [10, 20, 30])
    assert admitted(world, [[5, 10, 15, 20, 25, 30, 40]]) == ([40], [10, 20, 30], [5, 15, 25])


def test_captures_may_overlap_within_one_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, [])
    assert admitted(world, [[1, 2, 3], [2, 3, 4], [4, 4, 5]]) == ([1, 2, 3, 4, 5], [2, 3, 4, 4], [])
    assert world.flushes == 0, "what was just taken is remembered"


def test_numbers_of_long_ago_are_asked_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_REMEMBERED", 1)
    world = World(tmp_path, [])
    assert admitted(world, [[1, 2], [3, 4], [2], [5], [1, 4]]) == ([1, 2, 3, 4, 5], [2, 1, 4], [])


def test_what_came_in_behind_a_question_is_found_by_the_next_one(tmp_path: Path) -> None:
    world = World(tmp_path, [0])
    assert admitted(world, [[0, BIG, 0, BIG]]) == ([BIG], [0, 0, BIG], [])


def test_what_retention_has_taken_counts_as_there(tmp_path: Path) -> None:
    world = World(tmp_path, [1, 2, 3])
    with upkeep.sealed(world.shard, SystemClock()):
        pass
    world.append([5, 6])
    upkeep.trim(world.shard, upkeep.below_offset(3))
    assert admitted(world, [[1, 3, 4, 5, 7]]) == ([7], [1, 3, 4, 5], [])


def test_a_reason_names_the_number_and_the_remedy(tmp_path: Path) -> None:
    world = World(tmp_path, [10, 20])
    (run,) = Admission(world.stream, world.shard, world.flush).admit(texts([15]))
    assert run[:3] == Run(0, 1, new=False)[:3]
    assert "15 is not above 20" in run.fell
    assert "--new-sequence-numbers" in run.fell


def test_the_last_number_is_that_of_the_last_record(tmp_path: Path) -> None:
    world = World(tmp_path, [])
    assert last_sequence_number(world.shard) is None
    world.append([3, BIG])
    assert last_sequence_number(world.shard) == str(BIG)


NUMBERS = st.integers(0, 60) | st.integers(BIG, BIG + 20)


@settings(max_examples=15, deadline=None)
@given(st.sets(NUMBERS, max_size=20), st.lists(st.lists(NUMBERS, max_size=8), max_size=5))
def test_admission_equals_a_naive_model(held: set[int], batches: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory), sorted(held))
        inside, highest = set(held), max(held, default=-1)
        new, there, refused = [], [], []
        for number in [number for batch in batches for number in batch]:
            if number > highest:
                new.append(number)
                inside.add(number)
                highest = number
            elif number in inside:
                there.append(number)
            else:
                refused.append(number)
        assert admitted(world, batches) == (new, there, refused)


@settings(max_examples=15, deadline=None)
@given(st.sets(NUMBERS, min_size=1, max_size=20), st.lists(st.sets(NUMBERS, max_size=8), max_size=4))
def test_membership_equals_a_set(held: set[int], questions: list[set[int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory), sorted(held))
        membership = Membership(world.stream, world.shard)
        for asked in map(sorted, questions):
            missing = next((place for place, number in enumerate(asked) if number not in held), None)
            assert membership.missing(texts(asked)) == missing
