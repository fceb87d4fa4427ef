"""The log is open: the one-liners of docs/log.md, run as they stand, on segments at rest and while they are written."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import streamfn
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Stream
from streamfn.log.segment.segment import list_segments
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord

DOCS = Path(__file__).resolve().parents[2] / "docs" / "log.md"
TOOLS = {"pa": pa, "pl": pl, "pd": pd, "duckdb": duckdb}
RECORDS = 60


def one_liners(heading: str, column: int) -> list[tuple[str, str]]:
    """The code in a column (1: the first behind the tool's name) of the table under a heading row."""
    _, _, table = DOCS.read_text().partition(heading)
    rows = [row.split("|")[1:-1] for row in re.match(r"(?:\|.*\n)+", table.lstrip("\n"))[0].splitlines()[1:]]
    return [(cells[0].strip(), code) for cells in rows for code in re.findall(r"`([^`]+)`", cells[column])]


SEALED = one_liners("| tool | sealed segment (`.arrow`) | active segment (`.arrows`) |", 1)
ACTIVE = one_liners("| tool | sealed segment (`.arrow`) | active segment (`.arrows`) |", 2)
WHOLE = one_liners("| tool | all shards, all segments |", 1)


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    stream = DataDir.open(tmp_path / "data", create=True).create_stream("s")
    with ShardWriter.open(stream.shards[0], segment_bytes=32 * 1024) as writer:
        for i in range(RECORDS):
            writer.append([NewRecord(b'{"n":%d}' % i + b" " * 1000, f"key {i}", i)])
    return stream


def keys(result: object) -> list[str]:
    """The partition keys in whatever a tool returned."""
    if isinstance(result, duckdb.DuckDBPyRelation):
        result = result.to_arrow_table()
    return list(result["partition_key"].to_pylist() if isinstance(result, pa.Table) else result["partition_key"])


def run(code: str, **names: object) -> list[str]:
    return keys(eval(code, {**TOOLS, **names}))


def test_the_documentation_shows_every_tool_for_both_forms() -> None:
    tools = {"pyarrow", "Polars", "pandas", "DuckDB"}
    assert {tool for tool, _ in SEALED} == {tool for tool, _ in ACTIVE} == {tool for tool, _ in WHOLE} == tools


@pytest.mark.parametrize(("tool", "code"), SEALED)
def test_every_tool_reads_a_sealed_segment(stream: Stream, tool: str, code: str) -> None:
    first, second, *_ = (file for file in list_segments(stream.shards[0]) if file.sealed)
    assert run(code, path=str(first.path)) == [f"key {i}" for i in range(second.first_offset)]


@pytest.mark.parametrize(("tool", "code"), ACTIVE)
def test_every_tool_reads_the_active_segment(stream: Stream, tool: str, code: str) -> None:
    active = list_segments(stream.shards[0])[-1]
    assert not active.sealed
    assert run(code, path=str(active.path)) == [f"key {i}" for i in range(active.first_offset, RECORDS)]


@pytest.mark.parametrize(("tool", "code"), WHOLE)
def test_every_tool_reads_a_whole_stream(stream: Stream, tool: str, code: str) -> None:
    assert sorted(run(code, stream=streamfn.Stream(stream))) == sorted(f"key {i}" for i in range(RECORDS))


@pytest.mark.parametrize(("tool", "code"), one_liners("| tool | attributes of items |", 1))
def test_json_functions_look_into_images(tmp_path: Path, tool: str, code: str) -> None:
    with streamfn.open_sync(tmp_path / "data") as session:
        for number, total in ((1, "9.50"), (2, None)):
            image = {"id": {"N": str(number)}, "total": {"N": total}}
            change = {"Keys": {"id": {"N": str(number)}}, "OldImage" if total is None else "NewImage": image}
            if total is None:
                image.pop("total")
            session.put_change("changes", change)
        result = eval(code, {**TOOLS, "stream": session.stream("changes")})
    table = result.to_arrow_table() if isinstance(result, duckdb.DuckDBPyRelation) else result.to_arrow()
    found = [(row["id"], row["total"] and str(row["total"])) for row in table.to_pylist()]
    assert found == [("1", "9.50"), ("2", None)]


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Stream]:
    """A stream that is being appended to, rolled and sealed all the time."""
    stream = DataDir.open(tmp_path / "data", create=True).create_stream("s")
    over = threading.Event()

    def append() -> None:
        with ShardWriter.open(stream.shards[0], segment_bytes=256 * 1024) as writer:
            number = 0
            while not over.is_set():
                writer.append([NewRecord(bytes(1000), f"key {i}", i) for i in range(number, number + 7)])
                writer.commit()
                number += 7

    thread = threading.Thread(target=append)
    thread.start()
    yield stream
    over.set()
    thread.join()


def test_every_tool_sees_whole_batches_of_what_is_being_written(busy: Stream) -> None:
    reads = 0
    while reads < 40:
        for forms, sealed in ((ACTIVE, False), (SEALED, True)):
            for _, code in forms:
                files = [file for file in list_segments(busy.shards[0]) if file.sealed is sealed]
                if not files:
                    continue
                try:
                    found = run(code, path=str(files[-1].path))
                except FileNotFoundError:  # sealed between looking and opening
                    continue
                if found:
                    first = files[-1].first_offset
                    assert found == [f"key {i}" for i in range(first, first + len(found))]
                    assert len(found) % 7 == 0
                    reads += 1


def test_a_dataset_of_a_stream_that_is_being_written_has_no_hole(busy: Stream) -> None:
    for _ in range(10):
        table = streamfn.Stream(busy).dataset().to_table(columns=["sequence_number"]).sort_by("sequence_number")
        offsets = [int(number[-20:]) for number in table["sequence_number"].to_pylist()]
        assert offsets == list(range(len(offsets)))


def test_the_library_gives_a_stream_to_compute_over(stream: Stream) -> None:
    with streamfn.open_sync(stream.directory.parents[1]) as session:
        found = session.stream("s")
        assert found.dataset().count_rows() == RECORDS
        assert sum(batch.num_rows for batch in found.scan()) == RECORDS
        with pytest.raises(streamfn.RefusedError, match="unknown stream 'none'"):
            session.stream("none")
