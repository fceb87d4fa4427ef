"""`import` and `export` as processes: pipes, what is printed where, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

COMMAND = [sys.executable, "-c", "import sys; from streamfn.cli import main; sys.exit(main())"]
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "STREAMFN_DATA_DIR": str(tmp_path / "d"), "PYTHONWARNINGS": "error"}


def run(environment: dict[str, str], *arguments: str | Path, stdin: bytes = b"") -> tuple[int, bytes, str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], input=stdin, capture_output=True, env=environment, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr.decode()


def test_a_stream_goes_through_pipes_and_stays_what_it_was(environment: dict[str, str], tmp_path: Path) -> None:
    captured = (DATA / "kinesis-get-records-v1.json").read_bytes()
    code, out, err = run(environment, "import", "-", "--stream", "a", "--json", stdin=captured)
    assert (code, err) == (0, "")
    assert json.loads(out).items() >= {"records": 4, "already_there": 0, "skipped": 0, "files": 1}.items()
    _, columns, err = run(environment, "export", "a", "--format", "parquet")
    assert err == "", "nothing is lost"
    assert run(environment, "import", "-", "--stream", "b", stdin=columns)[0] == 0
    code, lines, err = run(environment, "export", "b", "--full")
    assert (code, len(lines.splitlines())) == (0, 4)
    assert err == "streamfn: jsonl does not carry the stream's ARN and its shards' hash keys and parents\n"
    code, _, err = run(environment, "import", "-", "--stream", "a", "--json", stdin=lines)
    assert (code, err) == (0, "")


def test_lines_that_look_like_captured_records_are_data_and_that_is_said(
    environment: dict[str, str], tmp_path: Path
) -> None:
    run(environment, "put", "a", "one", "two")
    run(environment, "export", "a", "--full", "-o", tmp_path / "a.jsonl")
    code, out, err = run(environment, "import", tmp_path / "a.jsonl", "--stream", "b", "--json")
    assert (code, json.loads(out)["records"], err.count("\n")) == (0, 2, 1)
    assert "a.jsonl were imported as they are" in err
    assert "--format kinesis-get-records" in err
    code, out, err = run(
        environment, "import", tmp_path / "a.jsonl", "--stream", "c", "--format", "kinesis-get-records"
    )
    assert (code, err) == (0, "")
    assert run(environment, "export", "c")[1] == b"one\ntwo\n"
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n')
    assert run(environment, "import", tmp_path / "b.jsonl", "--stream", "d")[2] == ""


def test_a_flipped_bit_in_the_data_of_an_exported_parquet_file_is_found(
    environment: dict[str, str], tmp_path: Path
) -> None:
    run(environment, "put", "a", *(str(n).zfill(100) for n in range(50)))
    path = tmp_path / "a.parquet"
    run(environment, "export", "a", "-o", path)
    for column in range(4):
        chunk = pq.read_metadata(path).row_group(0).column(column)
        content = bytearray(path.read_bytes())
        content[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 3] ^= 4
        (tmp_path / "b.parquet").write_bytes(content)
        code, _, err = run(environment, "import", tmp_path / "b.parquet", "--stream", f"b{column}")
        assert (code, "b.parquet" in err, "Traceback" in err) == (1, True, False)


def test_export_to_a_file_says_what_it_did(environment: dict[str, str], tmp_path: Path) -> None:
    run(environment, "put", "a", "one", "two", "--partition-key", "k")
    path = tmp_path / "a.jsonl.gz"
    code, out, err = run(environment, "export", "a", "-o", path, "--json")
    assert (code, "does not carry sequence numbers" in err) == (0, True)
    assert json.loads(out).items() >= {"records": 2, "format": "jsonl", "bytes": path.stat().st_size}.items()
    code, out, _ = run(environment, "export", "a", "-o", tmp_path / "a.parquet")
    assert out.startswith(b"a: exported 2 records to ")
    assert run(environment, "export", "a")[1] == b"one\ntwo\n"


def test_an_export_of_a_damaged_stream_is_one_line_and_no_file(environment: dict[str, str], tmp_path: Path) -> None:
    run(environment, "put", "a", "one", "two")
    (segment,) = tmp_path.glob("d/streams/*/*/*.arrows")
    with segment.open("r+b") as file:
        file.seek(700)
        file.write(b"\xff" * 50)
    for name in ("a.parquet", "a.arrow", "a.jsonl"):
        code, out, err = run(environment, "export", "a", "-o", tmp_path / name)
        assert (code, out, err.count("\n")) == (1, b"", 1), err
        assert "is damaged at byte" in err
        assert not (tmp_path / name).exists()


def test_what_cannot_be_exported_is_one_line_and_no_file(environment: dict[str, str], tmp_path: Path) -> None:
    run(environment, "put", "a", "two\nlines")
    code, out, err = run(environment, "export", "a", "-o", tmp_path / "a.jsonl")
    assert (code, out, err.count("\n")) == (1, b"", 1)
    assert "holds a line feed" in err
    assert run(environment, "export", "nosuch")[0] == 2
    assert run(environment, "export", "a", "--json")[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]


def test_a_reader_that_has_seen_enough_ends_an_export_quietly(environment: dict[str, str]) -> None:
    lines = b"".join(b'{"n":%d,"filler":"%s"}\n' % (n, b"x" * 200) for n in range(5000))
    run(environment, "import", "-", "--stream", "a", stdin=lines)
    process = subprocess.Popen(
        [*COMMAND, "export", "a"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b'{"n":0')
    process.stdout.close()
    err = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(30), "error" in err) == (0, False)


def test_an_import_that_was_killed_can_be_repeated_and_has_nothing_twice(
    environment: dict[str, str], tmp_path: Path
) -> None:
    rows = 50_000
    table = pa.table(
        {
            "sequence_number": [str(10**30 + number) for number in range(rows)],
            "partition_key": ["k"] * rows,
            "approximate_arrival_timestamp": pa.array(range(rows), pa.timestamp("ms", "UTC")),
            "data": pa.array([b"%d" % number * 40 for number in range(rows)], pa.binary()),
        }
    )
    path = tmp_path / "t.arrow"
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    killed = subprocess.Popen([*COMMAND, "import", str(path), "--stream", "a"], env=environment, stdout=subprocess.PIPE)
    with contextlib.suppress(subprocess.TimeoutExpired):
        killed.wait(0.6)
    killed.kill()
    killed.communicate()
    code, out, _ = run(environment, "import", path, "--stream", "a", "--json")
    report = json.loads(out)
    assert (code, report["records"] + report["already_there"]) == (0, rows)
    run(environment, "export", "a", "-o", tmp_path / "all.parquet")
    stored = pq.read_table(tmp_path / "all.parquet")
    assert all(stored.column(name).equals(table.column(name)) for name in ("sequence_number", "data"))
