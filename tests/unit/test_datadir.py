"""The data directory: made whole or not at all, and every refusal says why."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from streamfn.errors import BusyError, FailedError, RefusedError, ShardClosed
from streamfn.log.catalog import description
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import HASH_KEYS, CapturedShard, Stream, shard_id, uniform_ranges
from streamfn.log.shard.reader import ShardReader
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.disk import Disk
from streamfn.types import NewRecord


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir.open(tmp_path / "data", create=True)


def test_an_unknown_directory_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no streamfn data directory"):
        DataDir.open(tmp_path / "data", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(RefusedError, match="not a streamfn data directory"):
        DataDir.open(tmp_path, create=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes"]


def test_a_newer_format_is_refused_with_the_way_out(data_dir: DataDir) -> None:
    (data_dir.path / "format").write_text('{"streamfn": 3}')
    with pytest.raises(FailedError, match=r"has format 3, newer than the 2 .* upgrade streamfn") as caught:
        DataDir.open(data_dir.path, create=True)
    assert caught.value.exit_code == 1


def test_a_damaged_description_is_no_matter_of_other_streams(data_dir: DataDir) -> None:
    sound = data_dir.create_stream("sound")
    (data_dir.create_stream("damaged").directory / "stream.json").write_text("{")
    assert data_dir.stream("sound").id == data_dir.open_or_create_stream("sound").id == sound.id
    for name in ("damaged", "new"):  # which may be what it said
        with pytest.raises(FailedError, match=r"stream\.json is damaged"):
            data_dir.stream(name)
        with pytest.raises(FailedError, match=r"stream\.json is damaged"):
            data_dir.open_or_create_stream(name)


def test_a_damaged_format_is_an_error(data_dir: DataDir) -> None:
    (data_dir.path / "format").write_text("{")
    with pytest.raises(FailedError, match="is damaged"):
        DataDir.open(data_dir.path, create=False)


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(FailedError, match="cannot use data directory"):
        DataDir.open(tmp_path / "data", create=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_names_path_and_uid(data_dir: DataDir) -> None:
    data_dir.path.chmod(0o555)
    try:
        with pytest.raises(FailedError, match=f"{data_dir.path} .* uid {os.geteuid()}"):
            DataDir.open(data_dir.path, create=True)
    finally:
        data_dir.path.chmod(0o755)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "x" * 129, "a\n", "ä"])
def test_names_that_break_the_rule_are_refused_with_the_rule(data_dir: DataDir, name: str) -> None:
    for call in (
        data_dir.create_stream,
        data_dir.stream,
        data_dir.delete_stream,
        data_dir.open_or_create_stream,
    ):
        with pytest.raises(RefusedError, match="must match"):
            call(name)
    assert data_dir.streams() == []


@pytest.mark.parametrize("name", [".", "..", "a" * 128, "A", "a", "shardId-000000000000"])
def test_any_valid_name_is_a_stream_and_never_a_path(data_dir: DataDir, name: str) -> None:
    made = data_dir.create_stream(name, 2)
    assert data_dir.stream(name).id == made.id
    assert made.directory.parent == data_dir.path / "streams"
    assert len(made.id) == 16
    int(made.id, 16)


def test_names_that_differ_in_case_only_are_two_streams(data_dir: DataDir) -> None:
    assert data_dir.create_stream("a").id != data_dir.create_stream("A").id
    assert [stream.name for stream in data_dir.streams()] == ["A", "a"]


def test_a_taken_name_and_impossible_shard_counts_are_refused(data_dir: DataDir) -> None:
    data_dir.create_stream("a", 2)
    with pytest.raises(RefusedError, match="exists already"):
        data_dir.create_stream("a", 2)
    for shards in (0, -1, 1025):
        with pytest.raises(RefusedError, match="1 to 1024 shards"):
            data_dir.create_stream("b", shards)


def test_open_or_create_takes_an_existing_stream_only_with_its_own_number_of_shards(
    data_dir: DataDir,
) -> None:
    made = data_dir.open_or_create_stream("a", 2)
    assert data_dir.open_or_create_stream("a", 2).id == made.id
    assert data_dir.open_or_create_stream("a").id == made.id
    with pytest.raises(RefusedError, match="has 2 open shards, not 3"):
        data_dir.open_or_create_stream("a", 3)


def test_an_unknown_stream_is_refused_with_those_that_are_there(data_dir: DataDir) -> None:
    with pytest.raises(RefusedError, match="there is none yet"):
        data_dir.stream("flights")
    data_dir.create_stream("flights")
    with pytest.raises(RefusedError, match=r"unknown stream 'flihgts' .* did you mean flights\?"):
        data_dir.stream("flihgts")
    with pytest.raises(RefusedError, match="there is flights"):
        data_dir.stream("zzz")


def test_a_stream_keeps_the_arn_it_was_made_with(data_dir: DataDir) -> None:
    arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
    data_dir.create_stream("a", arn=arn)
    assert data_dir.stream("a").arn == arn
    assert data_dir.stream("a").region == "eu-west-1"
    assert data_dir.create_stream("b").arn == "arn:aws:kinesis:us-east-1:000000000000:stream/b"


def test_a_deleted_stream_is_gone_and_its_name_free_for_another_id(data_dir: DataDir) -> None:
    first = data_dir.create_stream("a")
    with ShardWriter.open(first.shards[0]) as writer:
        writer.append([NewRecord(b"x", "k")])
    data_dir.delete_stream("a")
    assert data_dir.streams() == []
    assert not first.directory.exists()
    assert data_dir.create_stream("a").id != first.id
    with pytest.raises(FailedError, match="cannot write"):
        ShardWriter.open(first.shards[0])
    with pytest.raises(FailedError, match="cannot read"):
        ShardReader.open(first.shards[0], 0)


def id_of(found: Stream | None) -> str | None:
    return found and found.id


def test_a_stream_that_was_found_before_is_found_without_looking_at_the_others(
    data_dir: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [data_dir.create_stream(f"s{number}") for number in range(20)]
    for stream in streams:
        assert data_dir.stream(stream.name).id == stream.id
    looked_at: list[Path] = []
    read = description.read

    def noting(directory: Path, disk: Disk) -> Stream:
        looked_at.append(directory)
        return read(directory, disk)

    monkeypatch.setattr(description, "read", noting)
    for stream in streams:
        assert id_of(data_dir.find(stream.name)) == stream.id
    assert looked_at == [stream.directory for stream in streams]


def test_a_name_is_found_where_it_is_now_by_whoever_saw_it_elsewhere(data_dir: DataDir) -> None:
    another = DataDir.open(data_dir.path, create=True)
    first = data_dir.create_stream("a")
    assert id_of(another.find("a")) == first.id
    data_dir.delete_stream("a")
    assert another.find("a") is None
    second = data_dir.create_stream("a")
    assert id_of(another.find("a")) == second.id


def test_a_stream_that_is_written_to_is_not_deleted(data_dir: DataDir) -> None:
    stream = data_dir.create_stream("a", 3)
    with ShardWriter.open(stream.shards[2]), pytest.raises(BusyError, match=f"process {os.getpid()}"):
        data_dir.delete_stream("a")
    assert data_dir.stream("a").id == stream.id
    data_dir.delete_stream("a")


def test_what_a_crash_left_half_made_or_half_deleted_is_swept_up(data_dir: DataDir) -> None:
    for leftover in (".new-0123456789abcdef", ".deleted-0123456789abcdef"):
        (data_dir.path / "streams" / leftover / "shardId-000000000000").mkdir(parents=True)
    assert data_dir.streams() == []
    data_dir.create_stream("a")
    assert sorted(entry.name for entry in (data_dir.path / "streams").iterdir() if entry.name != "lock") == [
        data_dir.stream("a").id
    ]


def test_reading_a_data_directory_changes_nothing_in_it(data_dir: DataDir) -> None:
    stream = data_dir.create_stream("a")
    with ShardWriter.open(stream.shards[0]) as writer:
        writer.append([NewRecord(b"x", "k")])
    before = {path: path.stat().st_mtime_ns for path in data_dir.path.rglob("*")}
    with ShardReader.open(DataDir.open(data_dir.path, create=False).stream("a").shards[0], 0) as reader:
        assert reader.poll(1)[0].rows == 1
    assert {path: path.stat().st_mtime_ns for path in data_dir.path.rglob("*")} == before


def test_a_directory_of_format_1_is_read_and_becomes_format_2_when_it_is_opened_for_writing(data_dir: DataDir) -> None:
    made = data_dir.create_stream("a", 2)
    described = {
        "name": "a",
        "arn": made.arn,
        "created_ms": 5,
        "shards": [
            {"id": s.id, "start_hash": str(s.start_hash), "end_hash": str(s.end_hash)} for s in made.shards
        ],
    }
    (made.directory / "stream.json").write_text(json.dumps(described))
    (data_dir.path / "format").write_text('{"streamfn": 1}\n')

    found = DataDir.open(data_dir.path, create=False).stream("a")
    assert [(s.id, s.directory, s.parents, s.open, s.created_ms) for s in found.shards] == [
        (s.id, s.directory, (), True, 5) for s in made.shards
    ]
    assert json.loads((data_dir.path / "format").read_text()) == {"streamfn": 1}

    DataDir.open(data_dir.path, create=True)
    assert json.loads((data_dir.path / "format").read_text()) == {"streamfn": 2}


CAPTURED = [
    CapturedShard("shardId-000000000007", 0, 9, ("shardId-000000000001",), "4" * 56),
    CapturedShard("../../evil", 10, HASH_KEYS - 1, ("shardId-000000000001",)),
]


def test_a_captured_stream_keeps_its_shards_and_their_ids_are_no_paths(data_dir: DataDir) -> None:
    made = data_dir.create_captured_stream("c", "arn:aws:kinesis:eu-west-1:1:stream/c", "kinesis", CAPTURED)
    found = data_dir.stream("c")
    assert found.shards == made.shards
    assert [(s.number, s.id, s.directory.name, s.start_hash, s.parents) for s in found.shards] == [
        (0, "shardId-000000000007", "shardId-000000000000", 0, ("shardId-000000000001",)),
        (1, "../../evil", "shardId-000000000001", 10, ("shardId-000000000001",)),
    ]
    with ShardWriter.open(found.shards[1]) as writer:
        writer.append([NewRecord(b"x", "k")])
    assert sorted(entry.name for entry in found.directory.iterdir()) == [
        "shardId-000000000000", "shardId-000000000001", "stream.json",
    ]  # fmt: skip


def test_shards_that_the_source_got_since_are_added_once(data_dir: DataDir) -> None:
    made = data_dir.create_captured_stream("c", "arn:aws:kinesis:eu-west-1:1:stream/c", "kinesis", CAPTURED)
    child = CapturedShard("shardId-000000000008", 0, 4, ("shardId-000000000007",))
    first = data_dir.add_captured_shards(made, [CAPTURED[0], child])
    again = data_dir.add_captured_shards(made, [child, CAPTURED[1]])
    assert first.shards == again.shards == data_dir.stream_by_id(made.id).shards
    assert [s.id for s in again.shards] == [*(s.id for s in CAPTURED), child.id]
    assert again.shards[2].parents == ("shardId-000000000007",)


def test_open_shards_without_hash_keys_divide_them_evenly(data_dir: DataDir) -> None:
    shards = [CapturedShard(f"shardId-{n:020d}-abc") for n in range(3)]
    made = data_dir.create_captured_stream("d", "arn:aws:dynamodb:eu-west-1:1:table/T/stream/x", "dynamodb", shards)
    assert made.kind == "dynamodb"
    assert [(s.start_hash, s.end_hash) for s in made.open_shards] == uniform_ranges(3)

    def closed(now: Stream) -> Stream:
        return now.with_shards([now.shards[0]._replace(end_offset=0), *now.shards[1:]])

    after = data_dir.change_stream(made.id, closed)
    assert [(s.id, s.start_hash, s.end_hash) for s in after.open_shards] == [
        (shards[1].id, *uniform_ranges(2)[0]),
        (shards[2].id, *uniform_ranges(2)[1]),
    ]
    assert data_dir.stream("d").shards == after.shards


def test_a_change_that_raises_leaves_the_stream_as_it_was(data_dir: DataDir) -> None:
    made = data_dir.create_stream("a")
    before = (made.directory / "stream.json").read_text()
    with pytest.raises(ZeroDivisionError):
        data_dir.change_stream(made.id, lambda now: 1 / 0)  # type: ignore[arg-type, return-value]
    assert (made.directory / "stream.json").read_text() == before
    with pytest.raises(RefusedError, match="was deleted"):
        data_dir.change_stream("0" * 16, lambda now: now)


def test_the_directory_of_a_shard_that_no_description_names_is_swept_up(data_dir: DataDir) -> None:
    made = data_dir.create_stream("a")
    for number in (1, 2):
        (made.directory / shard_id(number)).mkdir()
        (made.directory / shard_id(number) / "lock").write_text("")
    after = data_dir.add_captured_shards(made, [CapturedShard("x")])
    assert sorted(entry.name for entry in made.directory.iterdir()) == [
        shard_id(0), shard_id(1), "stream.json",
    ]  # fmt: skip
    with ShardWriter.open(after.shards[1]) as writer:
        assert writer.end_offset == 0


def test_nothing_is_appended_to_a_closed_shard_by_whoever_has_an_older_description(data_dir: DataDir) -> None:
    made = data_dir.create_stream("a", 2)
    with ShardWriter.open(made.shards[0]) as writer:
        writer.append([NewRecord(b"x", "k")])
    data_dir.change_stream(made.id, lambda now: now.with_shards([now.shards[0]._replace(end_offset=1), now.shards[1]]))
    with pytest.raises(ShardClosed, match="closed at offset 1"):
        ShardWriter.open(made.shards[0])
    ShardWriter.open(made.shards[1]).close()
    with ShardReader.open(made.shards[0], 0) as reader:
        assert reader.committed().end_offset == 1
