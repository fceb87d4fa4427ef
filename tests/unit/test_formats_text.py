"""Files of records as rows: lines, fields, formats."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from hashlib import md5
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.errors import RefusedError
from streamfn.formats import lines as lines_module
from streamfn.formats.detect import format_of
from streamfn.formats.fields import field, key_of, time_of
from streamfn.formats.lines import read_blocks, split_lines
from streamfn.formats.opening import Input
from streamfn.formats.rows import BadRecord, Reading, Rows
from streamfn.formats.tables import open_table, read_objects
from streamfn.formats.text import read_csv, read_jsonl, read_plain

Reader = Callable[[Iterable[list[bytes]], Reading], Iterator[Rows]]
BY_DATA = Reading(key_of(None))


def rows_of(reader: Reader, content: bytes, reading: Reading = BY_DATA) -> list[Rows]:
    return list(reader(split_lines([content]), reading))


def data_of(reader: Reader, content: bytes, reading: Reading = BY_DATA) -> list[bytes]:
    return [data for rows in rows_of(reader, content, reading) for data in rows.data]


def until_bad(
    reader: Reader, content: bytes, reading: Reading = BY_DATA
) -> tuple[list[bytes], int, BadRecord]:
    """Return the good records before the bad one, the last line of those, and what was raised."""
    good: list[bytes] = []
    last_line = 0
    rows = reader(split_lines([content]), reading)
    try:
        for some in rows:
            good += some.data
            last_line = some.last_line
    except BadRecord as error:
        return good, last_line, error
    pytest.fail("nothing was bad")


# ---- lines ----


@given(st.lists(st.binary(max_size=5)), st.integers(0, 4))
def test_lines_do_not_depend_on_how_the_bytes_came(blocks: list[bytes], skip: int) -> None:
    content = b"".join(blocks)
    expected = content.split(b"\n")
    if not expected[-1]:
        expected.pop()
    found = [line for group in split_lines([b for b in blocks if b], skip) for line in group]
    assert found == expected[skip:]


def test_an_empty_block_says_that_the_pipe_is_quiet() -> None:
    assert list(split_lines([b"a\nb", b"", b"c\n"])) == [[b"a"], [], [b"bc"]]


def test_an_endless_line_is_not_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "LINE_BYTES_KEPT", 10)
    (group,) = split_lines([b"x" * 8] * 100)
    assert group == [b"x" * 16]


def test_what_a_pipe_holds_so_far_is_told_before_its_end() -> None:
    reading_end, writing_end = os.pipe()
    try:
        os.write(writing_end, b"one\n")
        blocks = read_blocks(reading_end)
        assert [next(blocks), next(blocks)] == [b"one\n", b""]
        os.write(writing_end, b"two")
        os.close(writing_end)
        assert b"".join(blocks) == b"two"
    finally:
        os.close(reading_end)


def test_a_pipe_that_is_never_quiet_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "GATHER_S", 0.05)
    reading_end, writing_end = os.pipe()
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.001):
            os.write(writing_end, b"x\n")
        os.close(writing_end)

    writer = threading.Thread(target=trickle)
    writer.start()
    try:
        blocks = read_blocks(reading_end)
        assert len([next(blocks) for _ in range(3)]) == 3
    finally:
        stop.set()
        writer.join()
        os.close(reading_end)


# ---- fields ----


def test_a_field_is_itself_before_it_is_a_path() -> None:
    assert field({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert field({"a": {"b": {"c": 3}}}, "a.b.c") == 3


@pytest.mark.parametrize("value", [{}, {"a": None}, {"a": 1}, [], "a", 1, None])
def test_a_field_that_is_not_there_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="field"):
        field(value, "a.b")


@pytest.mark.parametrize(
    ("written", "key"),
    [('"x"', "x"), ("42", "42"), ("true", "true"), ("1.0", "1.0"), ("123456789012345678901234567890",) * 2],
)
def test_a_partition_key_is_the_fields_text_as_written(written: str, key: str) -> None:
    data = b'{"k":%s}' % written.encode()
    assert key_of("k")(data, orjson.loads(data)) == key


@pytest.mark.parametrize("value", ["", "x" * 257, [1], {"a": 1}, "\ud800"])
def test_what_kinesis_would_not_take_as_a_key_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="'k'"):
        key_of("k")(b"", {"k": value})


def test_256_characters_of_any_width_are_a_partition_key() -> None:
    assert key_of("k")(b"", {"k": "\U0001f600" * 256}) == "\U0001f600" * 256


def test_without_a_field_the_key_is_the_md5_of_the_data() -> None:
    assert key_of(None)(b"abc", None) == md5(b"abc").hexdigest()


# ---- jsonl and lines ----


def test_a_json_lines_bytes_are_kept_as_they_are() -> None:
    content = b' {"a" : 1.0} \r\n"text"\n\n[1]'
    assert data_of(read_jsonl, content) == [b' {"a" : 1.0} \r', b'"text"', b"[1]"]


def test_every_line_is_a_record_of_format_lines_and_an_empty_one_too() -> None:
    assert data_of(read_plain, b"a\n\n\xff\r\n") == [b"a", b"", b"\xff\r"]


@pytest.mark.parametrize("bad", [b'{"a":}', b"\xff", b"\xef\xbb\xbf{}", b"{} {}", b"NaN", b"x" * 100])
def test_a_bad_line_ends_it_behind_the_good_ones(bad: bytes) -> None:
    good, last_line, error = until_bad(read_jsonl, b'{"n":1}\n\n{"n":2}\n' + bad + b'\n{"n":3}\n')
    assert good == [b'{"n":1}', b'{"n":2}']
    assert (last_line, error.line) == (3, 4)
    assert "not JSON" in error.reason


def test_bad_lines_are_counted_when_they_are_to_be_skipped() -> None:
    reading = Reading(key_of("k"), time_of("t"), skip_bad=True)
    content = b'{"k":"a","t":1}\nnonsense\n{"k":"b"}\n{"t":1}\n{"k":"c","t":"2020-01-01"}\n'
    (rows,) = rows_of(read_jsonl, content, reading)
    assert rows == Rows(
        [b'{"k":"a","t":1}', b'{"k":"c","t":"2020-01-01"}'], ["a", "c"], [1000, 1_577_836_800_000], 5, 3
    )


def test_lines_are_numbered_from_the_files_first_one_when_some_are_skipped() -> None:
    reading = Reading(key_of(None), skip_lines=2)
    rows = read_jsonl(split_lines([b"bad\nbad\n1\nbad\n"], 2), reading)
    assert next(rows).last_line == 3
    with pytest.raises(BadRecord, match="line 4"):
        next(rows)


def test_a_record_over_the_limit_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamfn.formats.rows.RECORD_BYTES_MAX", 5)
    good, _, error = until_bad(read_plain, b"12345\n123456\n")
    assert good == [b"12345"]
    assert "more than 5 bytes" in error.reason


@given(st.lists(st.one_of(st.just(b"{}"), st.just(b""), st.just(b"bad"), st.just(b'{"k":"x"}')), max_size=12))
def test_reading_many_lines_at_once_equals_one_by_one(content: list[bytes]) -> None:
    reading = Reading(key_of("k"), skip_bad=True)
    together = list(read_jsonl([content], reading)) if content else []
    apart = list(read_jsonl([[line] for line in content], reading))
    assert [d for rows in together for d in rows.data] == [d for rows in apart for d in rows.data]
    assert (
        sum(rows.bad for rows in together)
        == sum(rows.bad for rows in apart)
        == content.count(b"bad") + content.count(b"{}")
    )


# ---- csv ----


def test_a_csv_row_becomes_an_object_of_strings() -> None:
    content = b'\xef\xbb\xbfid,name\r\n007,"a ""b""\nc"\r\n\r\n8,\xc3\xa9\r\n'
    assert data_of(read_csv, content) == [
        b'{"id":"007","name":"a \\"b\\"\\nc"}',
        '{"id":"8","name":"é"}'.encode(),
    ]


@pytest.mark.parametrize("bad", [b"1", b"1,2,3", b"1,\xff", b'1,"x" y', b'1,"never closed'])
def test_a_bad_csv_row_ends_it_behind_the_good_ones(bad: bytes) -> None:
    good, last_line, error = until_bad(read_csv, b'a,b\n1,"x\ny"\n' + bad + b"\n2,z\n")
    assert good == [b'{"a":"1","b":"x\\ny"}']
    assert last_line == 3
    assert error.line >= 4


def test_csv_goes_on_behind_any_durable_line() -> None:
    content = b'a,b\n1,"x\ny"\n2,z\n3,w\n'
    everything = data_of(read_csv, content)
    for done, last_line in enumerate([1, 3, 4, 5]):
        assert data_of(read_csv, content, Reading(key_of(None), skip_lines=last_line)) == everything[done:]


def test_bad_csv_rows_are_counted_when_they_are_to_be_skipped() -> None:
    (rows,) = rows_of(read_csv, b"a,b\n1\n2,x\n3,\xff\n", Reading(key_of("a"), skip_bad=True))
    assert (rows.keys, rows.bad, rows.last_line) == (["2"], 2, 4)


@pytest.mark.parametrize("header", [b"", b"\n1,2\n", b"a,a\n1,2\n", b"a,\xff\n1,2\n", b'"a\n'])
def test_csv_without_a_usable_header_is_refused(header: bytes) -> None:
    with pytest.raises(RefusedError, match="first line"):
        rows_of(read_csv, header)


# ---- parquet ----


def test_a_parquet_row_becomes_a_compact_object(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": [1, 2, 3],
            "at": pa.array([0, 1_500_000_000, 2_000_000_000_000_000_001], pa.timestamp("ns")),
            "raw": pa.array([b"\xff", None, b""], pa.binary()),
            "x": [0.5, float("nan"), 2.0],
        }
    )
    path = tmp_path / "t.parquet"
    pq.write_table(table, path)
    (rows,) = read_objects(open_table(Input(str(path)), "parquet"), Reading(key_of("id"), time_of("at")))
    assert rows.keys == ["1", "2", "3"]
    assert rows.arrivals == [0, 1500, 2_000_000_000_000]
    assert json.loads(rows.data[1]) == {"id": 2, "at": "1970-01-01T00:00:01.500000Z", "raw": None, "x": None}
    assert b'"raw":"/w=="' in rows.data[0]
    (rest,) = read_objects(open_table(Input(str(path)), "parquet"), Reading(key_of("id"), skip_lines=2))
    assert (rest.keys, rest.last_line) == (["3"], 3)


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"no")
    with pytest.raises(RefusedError, match="not a Parquet file"):
        open_table(Input(str(path)), "parquet")


# ---- names ----


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/B.JSONL", "jsonl"),
        ("x.ndjson", "jsonl"),
        ("x.csv", "csv"),
        ("x.log", "lines"),
        ("x.parquet", "parquet"),
        ("x.arrows", "arrow"),
        ("x.feather", "arrow"),
    ],
)
def test_a_files_name_says_its_format_whatever_it_holds(name: str, expected: str) -> None:
    assert format_of(name, b'{"Records": [{"kinesis": {}}]}') == expected


@pytest.mark.parametrize("head", [b"", b"plain text", b"{broken", b"a,b\n1,2\n"])
def test_a_name_and_a_content_that_do_not_say_need_the_option(head: bytes) -> None:
    with pytest.raises(RefusedError, match="--format"):
        format_of("x.json", head)
    assert format_of("-", head, piped=True) == "jsonl"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"ARROW1\0\0...", "arrow"),
        (b"\xff\xff\xff\xff\x78\0\0\0", "arrow"),
        (b"PAR1...", "parquet"),
        (b'{"a":1}\n{"a":2}\n', "jsonl"),
        (b'{"a":1}{"a":2}', "firehose"),
        (b'{\n "a": 1\n}\n', "firehose"),
        (b'{"Records":[{"SequenceNumber":"1","Data":"","PartitionKey":"k"}]}', "kinesis-get-records"),
        (b'{"SequenceNumber":"1","Data":"","PartitionKey":"k"}\n', "kinesis-get-records"),
        (b'{"Records":[],"MillisBehindLatest":0}', "kinesis-get-records"),
        (b'{"Records":[{"eventID":"1","dynamodb":{},"eventSource":"aws:dynamodb"}]}', "dynamodb-get-records"),
        (b'{"Records":[{"eventID":"1","dynamodb":{},"eventSourceARN":"arn:..."}]}', "lambda-event"),
        (b'{"Records":[{"kinesis":{},"eventSource":"aws:kinesis"}, {"cut off', "lambda-event"),
        (b'START\n2024-01-01 {"Records": [{"kinesis": {}}]}\nEND\n', "lambda-event"),
        (b'{"Records":[{"body":"of SQS"}]}\n', "jsonl"),
    ],
)
def test_content_says_the_format_where_the_name_does_not(head: bytes, expected: str) -> None:
    assert format_of("x", head) == expected
