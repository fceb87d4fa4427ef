"""What is exported and imported again is what it was, as far as the format can carry it.

A captured stream is made of records that are as odd as they may be: sequence numbers of up to 129 digits, times that
are not monotone, keys of any letters, data of any bytes, records out of aggregated ones.  It is exported, imported into
a new stream, and both are compared record by record; imported once more, everything is there already.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamfn.doors.exporting import ExportReport, ExportRequest, run_export
from streamfn.doors.importing import ImportReport, ImportRequest, run_import
from streamfn.doors.selecting import Selection
from streamfn.errors import FailedError, RefusedError
from streamfn.limits import ARRIVAL_MS_MAX
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import CapturedShard, Stream
from streamfn.log.shard.columns import scan
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.upkeep.reshard import split_shard
from streamfn.types import NewChange, NewRecord

ARN = "arn:aws:kinesis:eu-west-1:123456789012:stream/source"
TABLE_ARN = "arn:aws:dynamodb:eu-west-1:123456789012:table/t/stream/2024-12-05T17:00:00.000"
NUMBERS = st.integers(1, 10**129 - 1) | st.integers(10**55, 10**55 + 9) | st.integers(0, 9)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5) | st.just("\U0001f600" * 256)
RECORDS = st.tuples(
    st.binary(max_size=30) | st.sampled_from([b"", b"\n", b'{"a": 1.0}', "Grüße".encode(), b"\xff\x00"]),
    KEYS,
    st.integers(0, ARRIVAL_MS_MAX) | st.integers(0, 3),
).map(lambda fields: NewRecord(*fields))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
LINES = st.tuples(TEXTS.filter(lambda text: "\n" not in text).map(str.encode), KEYS, st.just(7)).map(
    lambda fields: NewRecord(*fields)
)


@st.composite
def shards_of(
    draw: st.DrawFn, records: st.SearchStrategy[Any], *, shards: int = 3, sourced: bool = True
) -> list[list[Any]]:
    """Draw the records of up to three shards, each with rising numbers."""
    made = []
    for _ in range(draw(st.integers(1, shards))):
        numbers = sorted(draw(st.sets(NUMBERS, max_size=8)))
        shard = [draw(records)._replace(sequence_number=str(number)) for number in numbers]
        if sourced and draw(st.booleans()):
            places = [draw(st.none() | st.just(place)) for place in range(len(shard))]
            shard = [
                record._replace(source_sequence_number=str(number), source_subsequence_number=place)
                for number, (record, place) in enumerate(zip(shard, places, strict=True))
            ]
        made.append(shard)
    return made


@contextmanager
def data_of(shards: list[list[Any]], kind: str = "kinesis") -> Iterator[tuple[DataDir, Path]]:
    """Make the stream `a` in a data directory of its own."""
    with tempfile.TemporaryDirectory() as directory:
        data = DataDir.open(Path(directory) / "d", create=True)
        captured = [CapturedShard(f"shardId-00000001733418659000-{number:08x}") for number in range(len(shards))]
        stream = data.create_captured_stream("a", ARN if kind == "kinesis" else TABLE_ARN, kind, captured)
        for shard, records in zip(stream.shards, shards, strict=True):
            with ShardWriter.open(shard) as writer:
                for start in range(0, len(records), 3):
                    (writer.append if kind == "kinesis" else writer.append_changes)(records[start : start + 3])
        yield data, Path(directory)


def rows_of(stream: Stream) -> dict[str, list[dict[str, Any]]]:
    """Return what each shard holds, column by column, without what only this log gave it."""
    found: dict[str, list[dict[str, Any]]] = {shard.id: [] for shard in stream.shards}
    for batch in scan(stream):
        times = [name for name in batch.schema.names if name.startswith("approximate_")]
        rows = batch.drop_columns(times).to_pylist()
        for name in times:
            for row, at in zip(rows, batch.column(name).view(pa.int64()).to_pylist(), strict=True):
                row[name] = at
        for row in rows:
            found[batch.schema.metadata[b"shard_id"].decode()].append({k: v for k, v in row.items() if v is not None})
    return found


def exported(data: DataDir, path: Path, **options: Any) -> ExportReport:
    return run_export(data, ExportRequest(stream="a", file=str(path), **options))


def imported(data: DataDir, path: Path, stream: str = "b", **options: Any) -> ImportReport:
    return run_import(data.path, ImportRequest(files=(str(path),), stream=stream, **options))


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.arrows", "t.arrow.zst"])
@settings(max_examples=8, deadline=None)
@given(shards=shards_of(RECORDS))
@example(shards=[[NewRecord(b"streamfn.format", "looks like a segment's schema")]])
def test_columns_carry_everything(name: str, shards: list[list[NewRecord]]) -> None:
    with data_of(shards) as (data, directory):
        report = exported(data, directory / name)
        assert report.lost == ()
        total = sum(map(len, shards))
        assert (imported(data, directory / name).records, report.records) == (total, total)
        before, after = data.stream("a"), data.stream("b")
        assert rows_of(after) == rows_of(before)
        assert (after.arn, after.kind) == (before.arn, before.kind)
        assert [(s.id, s.ranged) for s in after.shards] == [(s.id, s.ranged) for s in before.shards]
        again = imported(data, directory / name)
        assert (again.records, again.already_there) == (0, total)


@settings(max_examples=8, deadline=None)
@given(shards=shards_of(RECORDS))
def test_full_lines_carry_every_record_and_its_shard(shards: list[list[NewRecord]]) -> None:
    with data_of(shards) as (data, directory):
        assert exported(data, directory / "t.jsonl.gz", full=True).lost[0] == "the stream's ARN"
        imported(data, directory / "t.jsonl.gz", format="kinesis-get-records", stream_arn=ARN)
        after = rows_of(data.stream("b"))
        assert {shard: rows for shard, rows in after.items() if rows} == {
            shard: rows for shard, rows in rows_of(data.stream("a")).items() if rows
        }


@settings(max_examples=8, deadline=None)
@given(shards=shards_of(RECORDS, shards=1, sourced=False))
def test_get_records_output_carries_every_record_of_a_shard(shards: list[list[NewRecord]]) -> None:
    with data_of(shards) as (data, directory):
        shard_id = data.stream("a").shards[0].id
        assert exported(data, directory / "t.json").lost == ("the shard", "the stream's ARN")
        imported(data, directory / "t.json", format="kinesis-get-records", shard_id=shard_id)
        assert rows_of(data.stream("b")) == rows_of(data.stream("a"))


@settings(max_examples=8, deadline=None)
@given(shards=shards_of(LINES, shards=1))
def test_lines_carry_the_data_to_the_letter(shards: list[list[NewRecord]]) -> None:
    with data_of(shards) as (data, directory):
        assert len(exported(data, directory / "t.jsonl.zst").lost) == 4
        imported(data, directory / "t.jsonl.zst", format="lines")
        before, after = (
            [row["data"] for rows in rows_of(data.stream(name)).values() for row in rows] for name in ("a", "b")
        )
        assert after == before


ITEMS = st.dictionaries(TEXTS.filter(lambda t: t != "id"), TEXTS.map(lambda t: {"S": t}), max_size=3)


@st.composite
def change(draw: st.DrawFn) -> NewChange:
    """Draw a change whose text is not what a JSON library would write."""
    key = {"id": {"N": draw(st.sampled_from(["1", "1.50", "1E+3", "-0"]))}}

    def written(item: Any) -> bytes:
        ascii_only = draw(st.booleans())
        return json.dumps(item, ensure_ascii=ascii_only, separators=(",", ":")).encode()

    name = draw(st.sampled_from(["INSERT", "MODIFY", "REMOVE"]))
    new = written(draw(ITEMS) | key) if name != "REMOVE" else None
    old = written(draw(ITEMS) | key) if name != "INSERT" else None
    return NewChange(
        name,
        written(key),
        new,
        old,
        event_id=draw(st.sampled_from(["a" * 32, "0" * 32])),
        creation_ms=draw(st.integers(0, ARRIVAL_MS_MAX)),
        size_bytes=draw(st.integers(0, 400_000)),
        user_identity=draw(st.none() | st.just(b'{"type":"Service","principalId":"dynamodb.amazonaws.com"}')),
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [("t.parquet", {}), ("t.arrow.gz", {}), ("t.jsonl", {"format": "dynamodb-get-records", "stream_arn": TABLE_ARN})],
)
@settings(max_examples=7, deadline=None)
@given(shards=shards_of(change(), sourced=False))
def test_changes_are_carried_to_the_letter(name: str, options: dict[str, Any], shards: list[list[NewChange]]) -> None:
    with data_of(shards, "dynamodb") as (data, directory):
        exported(data, directory / name)
        imported(data, directory / name, **options)
        after = {shard: rows for shard, rows in rows_of(data.stream("b")).items() if rows}
        assert after == {shard: rows for shard, rows in rows_of(data.stream("a")).items() if rows}
        assert data.stream("b").kind == "dynamodb"


def test_get_records_output_of_changes_goes_round(tmp_path: Path) -> None:
    item = b'{"id":{"S":"a"}}'
    changes = [NewChange("INSERT", item, item, creation_ms=5, sequence_number=number) for number in "12"]
    with data_of([changes], "dynamodb") as (data, directory):
        exported(data, directory / "t.json")
        assert "MillisBehindLatest" not in (directory / "t.json").read_text()
        imported(data, directory / "t.json", shard_id=data.stream("a").shards[0].id)
        assert rows_of(data.stream("b")) == rows_of(data.stream("a"))


def test_lineage_goes_along_and_what_was_closed_is_closed_again(tmp_path: Path) -> None:
    data = DataDir.open(tmp_path / "d", create=True)
    stream = data.create_stream("a")
    with ShardWriter.open(stream.shards[0]) as writer:
        writer.append([NewRecord(b"x", "k")])
    stream = split_shard(data, "a", stream.shards[0].id)
    with ShardWriter.open(stream.open_shards[0]) as writer:
        writer.append([NewRecord(b"y", "k")])
    exported(data, tmp_path / "t.parquet")
    for _ in range(2):
        imported(data, tmp_path / "t.parquet")
        after = data.stream("b")
        shape = [(s.id, s.start_hash, s.end_hash, s.parents, s.end_offset) for s in data.stream("a").shards]
        assert [(s.id, s.start_hash, s.end_hash, s.parents, s.end_offset) for s in after.shards] == shape
        assert rows_of(after) == rows_of(data.stream("a"))


# ---- selections ----

SELECTED = [
    NewRecord(b"0", "alice", 1_000, "5"),
    NewRecord(b"1", "bob", 9_000, "70000000000000000"),
    NewRecord(b"2", "alice", 2_000, "70000000000000001"),
    NewRecord(b"3", "carol", 3_000, "1" + "0" * 128),
]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, "0123"),
        ({"start": "1970-01-01T00:00:02Z"}, "123"),
        ({"end": "3"}, "02"),
        ({"start": "2", "end": "9"}, "23"),
        ({"start": "70000000000000001"}, "23"),
        ({"end": "70000000000000001"}, "01"),
        ({"start": "0000000000000000"}, "0123"),
        ({"start": "1" + "0" * 128}, "3"),
        ({"partition_keys": ("alice",)}, "02"),
        ({"partition_keys": ("alice", "carol"), "start": "2"}, "23"),
        ({"partition_keys": ("nobody",)}, ""),
    ],
)
def test_a_selection_is_by_time_number_and_key(tmp_path: Path, selection: dict[str, Any], expected: str) -> None:
    with data_of([SELECTED]) as (data, directory):
        report = exported(data, directory / "t.jsonl", selection=Selection(**selection))
        assert (directory / "t.jsonl").read_text().split() == list(expected)
        assert report.records == len(expected)


def test_changes_are_selected_by_their_keys(tmp_path: Path) -> None:
    items = [("42", "a"), ("42.0", "b"), ("43", "a")]
    changes = []
    for place, (number, text) in enumerate(items):
        keys = json.dumps({"id": {"N": number}, "kind": {"S": text}}, separators=(",", ":")).encode()
        changes.append(NewChange("INSERT", keys, keys, creation_ms=5, sequence_number=str(place)))
    with data_of([changes], "dynamodb") as (data, directory):
        for keys, expected in ((("id=42",), 2), (("id=42", "kind=a"), 1), (("id=42", "id=43"), 3), (("no=1",), 0)):
            assert exported(data, directory / "t.parquet", selection=Selection(keys=keys)).records == expected


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"file": "t.xml"}, "--format"),
        ({"file": "t.parquet.gz"}, "compresses its columns itself"),
        ({"file": "t.arrow", "full": True}, "--full is of jsonl"),
        ({"file": "t.json"}, "--shard-id"),
        ({"file": "t.arrow", "selection": Selection(shard_ids=("nosuch",))}, "no shard 'nosuch'"),
        ({"file": "t.arrow", "selection": Selection(start="yesterday")}, "--from takes a time or a sequence number"),
        ({"file": "t.arrow", "selection": Selection(keys=("id=1",))}, "--key is of DynamoDB"),
        ({"file": "nodir/t.arrow"}, "cannot write"),
    ],
)
def test_what_does_not_go_together_is_refused_and_writes_nothing(options: dict[str, Any], reason: str) -> None:
    with data_of([SELECTED, []]) as (data, directory):
        options = options | {"file": str(directory / options["file"])}
        with pytest.raises(RefusedError, match=reason):
            run_export(data, ExportRequest(stream="a", **options))
        assert [path.name for path in directory.iterdir()] == ["d"]


@pytest.mark.parametrize(("data", "why"), [(b"two\nlines", "holds a line feed"), (b"\xff", "is not UTF-8")])
def test_data_that_is_no_line_is_named_and_no_file_is_there(data: bytes, why: str) -> None:
    with data_of([[NewRecord(b"good", "k", 1, "8"), NewRecord(data, "k", 1, "9")]]) as (directory_of, directory):
        with pytest.raises(FailedError, match=f"sequence number 9 {why}.*--full"):
            exported(directory_of, directory / "t.jsonl")
        assert [path.name for path in directory.iterdir()] == ["d"]
