"""Compressed files, tables, and what Firehose writes: whole, cut and damaged."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.errors import FailedError, RefusedError
from streamfn.formats import log_columns, tables
from streamfn.formats.change_columns import read_changes
from streamfn.formats.compression import decompressed, split_suffix
from streamfn.formats.fields import key_of
from streamfn.formats.firehose import read_firehose
from streamfn.formats.log_columns import kind_of, read_records
from streamfn.formats.opening import Input
from streamfn.formats.output import Output
from streamfn.formats.rows import BadRecord, Reading, Rows

PLAIN = Reading(key_of(None))
DATA = Path(__file__).parent.parent / "data"




# ---- compression ----


def packed(data: bytes, codec: str) -> bytes:
    if codec == "gzip":
        return gzip.compress(data)
    return bytes(pa.compress(data, codec=codec, asbytes=True))


@given(
    st.lists(st.binary(max_size=2000), min_size=1, max_size=3), st.sampled_from(["gzip", "zstd"]), st.integers(1, 99)
)
def test_compressed_files_in_a_row_are_one_however_the_bytes_come(parts: list[bytes], codec: str, size: int) -> None:
    content = b"".join(packed(part, codec) for part in parts)
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    assert b"".join(decompressed(blocks, codec, "f")) == b"".join(parts)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_compressed_file_that_is_cut_or_damaged_is_named(codec: str) -> None:
    whole = packed(os.urandom(10_000), codec)
    assert len(b"".join(decompressed([whole], codec, "f"))) == 10_000
    damaged = bytes([*whole[:5000], whole[5000] ^ 1, *whole[5001:]]) if codec == "gzip" else whole + b"junk"
    for content in (whole[:-1], whole[:5000], whole[:3], damaged):
        with pytest.raises(FailedError, match=f"f is not whole: its {codec} data"):
            list(decompressed([content], codec, "f"))


def test_the_content_decides_whether_a_file_is_compressed_and_its_name_must_not_lie(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_bytes(gzip.compress(b"{}\n"))
    source = Input(str(path))
    assert (source.head, source.codec, b"".join(source.blocks())) == (b"{}\n", "gzip", b"{}\n")
    source.close()
    path = tmp_path / "lying.jsonl.gz"
    path.write_bytes(b"{}\n")
    with pytest.raises(RefusedError, match="is not gzip"):
        Input(str(path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.csv.gz", ("a.csv", "gzip")), ("A.ZST", ("A", "zstd")), ("a.csv", ("a.csv", None)), ("gz", ("gz", None))],
)
def test_the_last_suffix_names_the_codec(name: str, expected: tuple[str, str | None]) -> None:
    assert split_suffix(name) == expected


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_an_output_is_there_whole_or_not_at_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), Output(str(path)) as output:
        output.sink.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"before"
    with Output(str(path)) as output:
        output.sink.write(b"all of it")
    source = Input(str(path))
    assert source.head == b"all of it"
    source.close()
    assert os.listdir(tmp_path) == [path.name], "nothing else is left behind"


# ---- tables ----


def table_of(tmp_path: Path, content: pa.Table | bytes, name: str) -> tables.Table:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith(".parquet"):
        pq.write_table(content, path)
    elif name.endswith(".feather"):
        pyarrow.feather.write_feather(content, path)
    else:
        with (pa.ipc.new_stream if name.endswith(".arrows") else pa.ipc.new_file)(path, content.schema) as writer:
            writer.write_table(content)
    return tables.open_table(Input(str(path)), "parquet" if name.endswith(".parquet") else "arrow")


RECORDS = pa.table(
    {
        "sequence_number": ["8", "9", "10"],
        "partition_key": ["a", "b", "c"],
        "approximate_arrival_timestamp": pa.array([3, 1, 2], pa.timestamp("ms", "UTC")),
        "data": pa.array([b"\xff", b"", b"x"], pa.binary()),
        "shard_id": ["s1", "s1", "s2"],
    }
)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.arrows", "t.feather"])
def test_a_table_of_the_logs_columns_is_taken_as_columns(tmp_path: Path, name: str) -> None:
    table = table_of(tmp_path, RECORDS, name)
    assert kind_of(table.schema) == "kinesis"
    first, second = read_records(table, PLAIN)
    assert isinstance(first.data, pa.Array), "no Python object was made"
    assert (first.data.to_pylist(), first.keys.to_pylist(), first.arrivals.to_pylist()) == (
        [b"\xff", b""],
        ["a", "b"],
        [3, 1],
    )
    assert [rows.origin and rows.origin.shard_id for rows in (first, second)] == ["s1", "s2"]
    assert (first.last_line, second.last_line) == (2, 3)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_columns_that_arrow_has_compressed_are_taken_too(tmp_path: Path, compression: str) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, RECORDS.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(RECORDS)
    rows = list(read_records(table_of(tmp_path, sink.getvalue().to_pybytes(), "t.arrows"), PLAIN))
    assert [number for some in rows for number in some.numbers.to_pylist()] == ["8", "9", "10"]


def test_rows_are_skipped_by_their_number(tmp_path: Path) -> None:
    rows = list(read_records(table_of(tmp_path, RECORDS, "t.arrow"), Reading(key_of(None), skip_lines=1)))
    assert [(some.numbers.to_pylist(), some.last_line) for some in rows] == [(["9"], 2), (["10"], 3)]


def test_other_tools_types_are_taken_too(tmp_path: Path) -> None:
    table = pa.table(
        {
            "partition_key": pa.array(["a", "b"], pa.large_string()).dictionary_encode(),
            "data": pa.array(["x", "y"], pa.large_string()),
            "approximate_arrival_timestamp": pa.array([1_999_999, 2_000_000], pa.timestamp("ns")),
        }
    )
    (rows,) = read_records(table_of(tmp_path, table, "t.arrow"), PLAIN)
    assert (rows.data.to_pylist(), rows.arrivals.to_pylist(), rows.numbers) == ([b"x", b"y"], [1, 2], None)


@pytest.mark.parametrize("extra", [{"total": [1, 2, 3]}, {"data": [1, 2, 3]}])
def test_a_table_with_another_column_or_type_means_nothing_to_the_log(extra: dict[str, Any]) -> None:
    table = RECORDS
    for name, values in extra.items():
        table = table.drop_columns([name]) if name in table.schema.names else table
        table = table.append_column(name, pa.array(values))
    assert kind_of(table.schema) is None


def with_value(column: str, value: Any) -> pa.Table:
    """The table with that value in its second row."""
    place = RECORDS.schema.names.index(column)
    values = RECORDS.column(column).to_pylist()
    values[1] = value
    return RECORDS.set_column(place, column, pa.array(values, RECORDS.schema.field(column).type))


BAD_ROWS = [
    ("sequence_number", "x", "sequence number"),
    ("sequence_number", "09", "sequence number"),
    ("sequence_number", "", "sequence number"),
    ("sequence_number", None, "sequence number"),
    ("sequence_number", "9" * 130, "sequence number"),
    ("partition_key", "", "partition key"),
    ("partition_key", "x" * 257, "partition key"),
    ("partition_key", None, "partition key"),
    ("data", None, "data"),
    ("shard_id", None, "shard id"),
    ("shard_id", "", "shard id"),
]


@pytest.mark.parametrize(("column", "value", "reason"), BAD_ROWS)
def test_a_bad_row_ends_it_behind_the_good_ones(tmp_path: Path, column: str, value: Any, reason: str) -> None:
    found: list[Rows] = []
    with pytest.raises(BadRecord, match=reason) as raised:
        for rows in read_records(table_of(tmp_path, with_value(column, value), "t.arrow"), PLAIN):
            found.append(rows)
    assert raised.value.line == 2
    assert [rows.numbers.to_pylist() for rows in found] == [["8"]]


@pytest.mark.parametrize(("column", "value", "reason"), BAD_ROWS[:1] + BAD_ROWS[-1:])
def test_bad_rows_are_counted_when_they_are_to_be_skipped(
    tmp_path: Path, column: str, value: Any, reason: str
) -> None:
    table = table_of(tmp_path, with_value(column, value), "t.parquet")
    rows = list(read_records(table, Reading(key_of(None), skip_bad=True)))
    assert [number for some in rows if len(some.data) for number in some.numbers.to_pylist()] == ["8", "10"]
    assert sum(some.bad for some in rows) == 1


def test_an_arrow_file_that_was_cut_is_read_up_to_there(tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, RECORDS.schema) as writer:
        writer.write_table(RECORDS)
        second = sink.tell()
        writer.write_table(RECORDS)
    content = sink.getvalue().to_pybytes()
    rows: list[Rows] = []
    with pytest.raises(FailedError, match="cannot be read behind row 3"):
        for some in read_records(table_of(tmp_path, content[: second + 100], "t.arrow"), PLAIN):
            rows.append(some)
    assert rows[-1].last_line == 3


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.arrows"])
@pytest.mark.parametrize("content", [b"", b"no", b"ARROW1\0\0", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(RefusedError, match=f"{name} is not a"):
        table_of(tmp_path, content, name)


@pytest.mark.parametrize("name", ["t.arrow", "t.parquet"])
def test_a_damaged_table_is_refused_fails_or_has_bad_rows_and_nothing_else(tmp_path: Path, name: str) -> None:
    table = pa.table(
        {
            "sequence_number": [str(10**20 + n) for n in range(200)],
            "partition_key": [f"key-{n}" for n in range(200)],
            "approximate_arrival_timestamp": pa.array(range(200), pa.timestamp("ms", "UTC")),
            "data": pa.array([bytes(n) for n in range(200)], pa.binary()),
        }
    )
    table_of(tmp_path, table, name)
    whole = (tmp_path / name).read_bytes()
    rng = random.Random(7)
    outcomes = set()
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 1, 4])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            del content[rng.randrange(len(content)) :]
        try:
            damaged = table_of(tmp_path, bytes(content), name)
            read = read_records if kind_of(damaged.schema) else tables.read_objects
            assert sum(len(rows.data) for rows in read(damaged, PLAIN)) <= 200
            outcomes.add("read")
        except (RefusedError, FailedError, BadRecord) as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {"read", "RefusedError", "FailedError", "BadRecord"}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("keys", "no JSON", "JSON"),
        ("keys", None, "no keys"),
        ("keys", '{"id":{"L":[]}}', "a key is S, N or B"),
        ("new_image", '{"id":{"N":"2"}}', "not the item's key"),
        ("event_name", "UPSERT", "eventName"),
        ("sequence_number", None, "sequence_number"),
        ("approximate_creation_date_time", None, "approximate_creation_date_time"),
    ],
)
def test_a_bad_change_in_a_table_is_named(tmp_path: Path, column: str, value: Any, reason: str) -> None:
    row = {
        "event_name": "INSERT",
        "sequence_number": "1",
        "keys": '{"id":{"N":"1"}}',
        "new_image": '{"id":{"N":"1"}}',
    }
    rows = [row, row | {"sequence_number": "2", column: value}]
    times = pa.array([5, None if column == "approximate_creation_date_time" else 6], pa.timestamp("ms", "UTC"))
    columns = {name: pa.array([each[name] for each in rows], pa.string()) for name in row}
    table = pa.table(columns | {"approximate_creation_date_time": times})
    with pytest.raises(BadRecord, match=reason) as raised:
        list(read_changes(table_of(tmp_path, table, "t.parquet"), PLAIN))
    assert raised.value.line == 2


def test_large_tables_are_handed_on_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tables, "BATCH_BYTES", 1000)
    table = pa.table({"partition_key": ["k"] * 100, "data": pa.array([b"x" * 100] * 100, pa.binary())})
    rows = list(log_columns.read_records(table_of(tmp_path, table, "t.arrow"), PLAIN))
    assert len(rows) > 10
    assert rows[-1].last_line == 100


# ---- what Firehose writes ----


def test_values_of_any_separation_are_records_with_their_bytes_as_they_are() -> None:
    content = b'{"a": 1}{"a":2}\n[3]\r\n\n{"a":\n4}'
    rows = list(read_firehose([content[:5], content[5:]], PLAIN))
    assert [data for some in rows for data in some.data] == [b'{"a": 1}', b'{"a":2}', b"[3]", b'{"a":\n4}']


@pytest.mark.parametrize(
    ("bad", "reason", "line"),
    [(b"{nonsense}", "not JSON", 2), (b"text", "not a JSON object", 2), (b'{"a":', "ends inside", 2)],
)
def test_a_bad_value_is_named_by_number_and_byte(bad: bytes, reason: str, line: int) -> None:
    found = []
    with pytest.raises(BadRecord, match=reason) as raised:
        for rows in read_firehose([b'{"a":1}' + bad], PLAIN):
            found += list(rows.data)
    assert (raised.value.line, raised.value.where, found) == (line, "at byte 7", [b'{"a":1}'])
