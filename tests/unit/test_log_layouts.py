"""Shards whose segments have different columns: what is appended is what every reader finds, active or sealed."""

from __future__ import annotations

import io
import random
from pathlib import Path

import orjson
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.format.batch import from_records
from streamfn.log.format.bulk import from_columns
from streamfn.log.format.changes import from_changes
from streamfn.log.format.layout import DYNAMODB, KINESIS, KINESIS_SOURCE
from streamfn.log.format.schema import schema_message
from streamfn.log.segment.segment import list_segments, open_segment
from streamfn.log.shard.reader import ShardReader, changes, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.upkeep.upkeep import compact_shard
from streamfn.types import Change, NewChange, NewRecord, Record

MIB = 1024 * 1024


def make(tmp_path: Path, kind: str = "kinesis") -> Shard:
    return DataDir.open(tmp_path / "data", create=True).create_stream("s", kind=kind).shards[0]


def read(shard: Shard) -> list[Record]:
    with ShardReader.open(shard, 0) as reader:
        return [one for batch in iter(lambda: reader.poll(MIB), []) for message in batch for one in records(message)]


def read_changes(shard: Shard) -> list[Change]:
    with ShardReader.open(shard, 0) as reader:
        return [one for batch in iter(lambda: reader.poll(MIB), []) for message in batch for one in changes(message)]


def files(shard: Shard) -> list[tuple[bool, str, int]]:
    """Of each segment: whether it is sealed, its columns, its first offset."""
    found = []
    for file in list_segments(shard):
        segment = open_segment(shard, file)
        found.append((file.sealed, segment.layout.name, file.first_offset))
        segment.release()
    return found


def tables(shard: Shard) -> list[dict[str, object]]:
    """All rows as pyarrow sees them; Polars must see the same."""
    rows = []
    for file in list_segments(shard):
        with pa.memory_map(str(file.path)) as content:
            table = (pa.ipc.open_file if file.sealed else pa.ipc.open_stream)(content).read_all()
            table.validate(full=True)
            frame = pl.read_ipc(file.path) if file.sealed else pl.read_ipc_stream(file.path)
            assert frame.to_arrow().cast(table.schema).to_pylist() == table.to_pylist()
            rows += table.to_pylist()
    return rows


def record(number: int, source: str | None = None, place: int | None = None) -> NewRecord:
    return NewRecord(b"%d" % number, f"key-{number}", 1000 + number, None, source, place)


def some_changes(count: int, seed: int = 1) -> list[NewChange]:
    chance = random.Random(seed)
    images = [None, b'{"id":{"S":"\xc3\xa9"}}', b"{}", b'{"id":{"B":"AA=="}}']
    return [
        NewChange(
            chance.choice(["INSERT", "MODIFY", "REMOVE"]),
            b'{"id":{"N":"%d"}}' % i,
            chance.choice(images),
            chance.choice(images),
            creation_ms=5000 + i,
            event_id=f"{i:032x}",
            user_identity=chance.choice([None, b'{"type":"Service","principalId":"dynamodb.amazonaws.com"}']),
        )
        for i in range(count)
    ]


def test_a_record_with_a_source_begins_a_segment_with_its_columns(tmp_path: Path) -> None:
    shard = make(tmp_path)
    appended = [record(0), record(1, "123", 0), record(2), record(3, "0" * 129), record(4, None, 7)]
    with ShardWriter.open(shard) as writer:
        for one in appended:
            writer.append([one])
        writer.commit()
    assert files(shard) == [(True, "KINESIS", 0), (False, "KINESIS_SOURCE", 1)]
    found = read(shard)
    assert [(one.data, one.source_sequence_number, one.source_subsequence_number) for one in found] == [
        (one.data, one.source_sequence_number, one.source_subsequence_number) for one in appended
    ]
    assert [row.get("source_subsequence_number") for row in tables(shard)] == [None, 0, None, None, 7]


def test_an_empty_segment_gives_way_to_one_with_the_columns_needed(tmp_path: Path) -> None:
    shard = make(tmp_path)
    with ShardWriter.open(shard), ShardReader.open(shard, 0) as early:
        assert early.poll(MIB) == []
    with ShardWriter.open(shard) as writer, ShardReader.open(shard, 0) as reader:
        assert reader.poll(MIB) == []
        writer.append([record(1, "5", 1)])
        writer.commit()
        assert [message.rows for message in reader.poll(MIB)] == [1]
    assert files(shard) == [(False, "KINESIS_SOURCE", 0)]
    with ShardWriter.open(shard) as again:
        assert (again.recovered.cut_bytes, again.end_offset) == (0, 1)
        again.append([record(2)])
    assert files(shard) == [(False, "KINESIS_SOURCE", 0)]
    assert [one.data for one in read(shard)] == [b"1", b"2"]


def test_changes_are_read_as_they_were_appended_active_and_sealed(tmp_path: Path) -> None:
    shard = make(tmp_path, "dynamodb")
    appended = some_changes(300)
    with ShardWriter.open(shard, segment_bytes=32 * 1024) as writer:
        for start in range(0, 300, 7):
            writer.append_changes(appended[start : start + 7])
        writer.commit()
    segments = files(shard)
    assert len(segments) > 2
    assert {layout for _, layout, _ in segments} == {"DYNAMODB"}
    assert [sealed for sealed, _, _ in segments] == [True] * (len(segments) - 1) + [False]
    found = read_changes(shard)
    assert [one.offset for one in found] == list(range(300))
    assert [one.sequence_number for one in found] == [f"{shard.sequence_base}{i:020d}" for i in range(300)]
    for got, wanted in zip(found, appended, strict=True):
        for field in set(NewChange._fields) - {"sequence_number", "size_bytes"}:
            assert getattr(got, field) == getattr(wanted, field)
    rows = tables(shard)
    assert list(rows[0]) == list(DYNAMODB.names)
    assert [row["new_image"] for row in rows] == [one.new_image and one.new_image.decode() for one in appended]


def test_captured_numbers_are_kept_and_must_rise(tmp_path: Path) -> None:
    shard = make(tmp_path)
    numbers = ["9", "10", "49590338271490256608559692538361571095921575989136588898", "1" * 129]
    appended = [NewRecord(b"x", "k", 1, number) for number in numbers]
    with ShardWriter.open(shard) as writer:
        writer.append(appended)
        with pytest.raises(RefusedError, match="10 follows 11"):
            writer.append([NewRecord(b"x", "k", 1, number) for number in ("11", "10")])
        with pytest.raises(RefusedError, match="1 of 2 records bring a sequence number"):
            writer.append([NewRecord(b"x", "k", 1, "1"), NewRecord(b"x", "k", 1)])
        with pytest.raises(RefusedError, match="decimal digits, not '1x'"):
            writer.append([NewRecord(b"x", "k", 1, "1x")])
        writer.commit()
    assert [one.sequence_number for one in read(shard)] == numbers


@pytest.mark.parametrize("first", [0, 3])
def test_columns_and_records_make_the_same_messages(first: int) -> None:
    made = [
        NewRecord(b"d%d" % i, f"k{i}", i, str(10**i), str(i) if i % 3 else None, i if i % 2 else None)
        for i in range(20)
    ]
    data, keys, arrival, numbers, sources, places = (
        pa.array(list(column))[first:] for column in zip(*made, strict=True)
    )
    (of_columns,) = from_columns(
        data, keys, arrival, sequence=numbers, source_sequence=sources, source_subsequence=places
    )
    (of_records,) = from_records(made[first:], 0)
    assert of_columns.layout is of_records.layout is KINESIS_SOURCE
    assert of_columns.captured == of_records.captured == (str(10**first), str(10**19))
    assert of_columns.draft(5, b"1", 1).finish(1, 2) == of_records.draft(5, b"1", 1).finish(1, 2)


def test_columns_that_no_record_could_have_are_refused() -> None:
    data, keys = pa.array([b"a", b"b"]), pa.array(["k", "k"])
    with pytest.raises(RefusedError, match="12 follows 12"):
        from_columns(data, keys, None, sequence=pa.array(["12", "12"]))
    with pytest.raises(RefusedError, match="decimal digits, not '-1'"):
        from_columns(data, keys, None, source_sequence=pa.array([None, "-1"]))
    with pytest.raises(RefusedError, match="sub-sequence number is 0 or more"):
        from_columns(data, keys, None, source_subsequence=pa.array([-1, None]))
    with pytest.raises(RefusedError, match="differ in length"):
        from_columns(data, keys, None, sequence=pa.array(["1"]))
    (rows,) = from_columns(data, keys, None, source_subsequence=pa.array([None, None], pa.int64()))
    assert rows.layout is KINESIS_SOURCE
    (plain,) = from_columns(data, keys, None)
    assert plain.layout is KINESIS
    wide, same = plain.widened(KINESIS_SOURCE), rows
    assert wide.draft(0, b"1", 1).finish(1, 0) == same.draft(0, b"1", 1).finish(1, 0)


def test_large_appends_are_cut_into_messages_of_every_layout(tmp_path: Path) -> None:
    shard = make(tmp_path)
    made = [record(i, str(i) if i % 2 else None, i if i % 3 else None) for i in range(70_000)]
    with ShardWriter.open(shard) as writer:
        writer.append(made)
        writer.commit()
    with ShardReader.open(shard, 0) as reader:
        assert len(reader.poll(100 * MIB)) > 2
    found = read(shard)
    assert [one[-2:] for one in found] == [one[-2:] for one in made]


@pytest.mark.parametrize("cold_after_s", [None, 0])
@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_compaction_and_compression_keep_every_column(tmp_path: Path, kind: str, cold_after_s: int | None) -> None:
    shard = make(tmp_path, kind)
    with ShardWriter.open(shard, segment_bytes=16 * 1024) as writer:
        for start in range(0, 280, 7):
            if kind == "dynamodb":
                writer.append_changes(some_changes(7, start))
            else:
                sourced = start >= 140  # from here on, other columns: those segments are not merged with the others
                made = [record(i, str(i) if sourced and i % 2 else None) for i in range(start, start + 7)]
                writer.append(made)
    before: object = read_changes(shard) if kind == "dynamodb" else read(shard)
    rows = tables(shard)
    sealed = len(files(shard))
    assert sealed > 3
    done = compact_shard(shard, cold_after_s=cold_after_s)
    assert done.segments_after < sealed
    assert done.compressed == 0 if cold_after_s is None else done.compressed > 0
    assert (read_changes(shard) if kind == "dynamodb" else read(shard)) == before
    assert tables(shard) == rows


numbers = st.none() | st.integers(0, 10**129 - 1).map(str)
any_record = st.builds(
    NewRecord,
    data=st.binary(max_size=20),
    partition_key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    arrival_ms=st.integers(0, 10**13),
    sequence_number=st.none(),
    source_sequence_number=numbers,
    source_subsequence_number=st.none() | st.integers(0, 2**63 - 1),
)
document = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.integers(0, 9), max_size=3)
any_change = st.builds(
    NewChange,
    event_name=st.sampled_from(["INSERT", "MODIFY", "REMOVE"]),
    keys=document.map(orjson.dumps),
    new_image=st.none() | document.map(orjson.dumps),
    old_image=st.none() | document.map(orjson.dumps),
    stream_view_type=st.just("NEW_AND_OLD_IMAGES"),
    event_id=st.just("e"),
    sequence_number=st.none(),
    event_version=st.just("1.1"),
    creation_ms=st.integers(0, 10**13),
    size_bytes=st.integers(0, 2**63 - 1),
    user_identity=st.none() | document.map(orjson.dumps),
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(any_record, min_size=1, max_size=20) | st.lists(any_change, min_size=1, max_size=20))
def test_any_rows_are_the_same_to_pyarrow_to_polars_and_to_us(rows: list[NewRecord] | list[NewChange]) -> None:
    changed = [row for row in rows if isinstance(row, NewChange)]
    plain = [row for row in rows if isinstance(row, NewRecord)]
    (made,) = from_changes(changed, 0) if changed else from_records(plain, 0)
    encoded = bytes(made.draft(3, b"49", 0).finish(1, 0))
    segment = schema_message("0123456789abcdef/shardId-000000000000", made.layout) + encoded
    table = pa.ipc.open_stream(segment).read_all()
    table.validate(full=True)
    assert pl.read_ipc_stream(io.BytesIO(segment)).to_arrow().cast(table.schema).to_pylist() == table.to_pylist()
    seen = table.to_pydict()
    assert seen["sequence_number"] == [f"49{3 + i:020d}" for i in range(len(rows))]
    if changed:
        for name in ("keys", "new_image", "old_image", "user_identity"):
            assert seen[name] == [value and value.decode() for value in (getattr(row, name) for row in changed)]
        assert seen["size_bytes"] == [row.size_bytes for row in changed]
        return
    assert seen["data"] == [row.data for row in plain]
    assert seen["partition_key"] == [row.partition_key for row in plain]
    sourced = made.layout is KINESIS_SOURCE
    assert sourced == any(row[-2:] != (None, None) for row in plain)
    for name in made.layout.names[4:]:
        assert seen[name] == [getattr(row, name) for row in plain]
