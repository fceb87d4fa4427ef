"""Arrow files of whatever origin: what other tools write, what was cut, and segments, whose checksums are checked."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from streamfn.clock import SystemClock
from streamfn.errors import FailedError
from streamfn.formats.fields import key_of
from streamfn.formats.log_columns import read_records
from streamfn.formats.opening import Input
from streamfn.formats.rows import Reading, Rows
from streamfn.formats.tables import open_table
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.upkeep import upkeep
from streamfn.types import NewRecord

PLAIN = Reading(key_of(None))
RECORDS = 9


def read(path: Path) -> list[bytes]:
    source = Input(str(path))
    try:
        table = open_table(source, "arrow")
        return [value for rows in read_records(table, PLAIN) for value in rows.data.to_pylist()]
    finally:
        source.close()


def until_damage(path: Path) -> tuple[list[bytes], str]:
    """Return the records before the damage, and what was said of it."""
    source = Input(str(path))
    found: list[Rows] = []
    try:
        with pytest.raises(FailedError) as raised:
            for rows in read_records(open_table(source, "arrow"), PLAIN):
                found.append(rows)
    finally:
        source.close()
    return [value for rows in found for value in rows.data.to_pylist()], str(raised.value)


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
@pytest.mark.parametrize("suffix", [".arrow", ".arrows", ".arrow.gz"])
def test_what_polars_writes_is_read(tmp_path: Path, compression: str, suffix: str) -> None:
    frame = pl.DataFrame({"partition_key": ["a", "b"], "data": [b"1", b"\xff"]})
    path = tmp_path / f"t{suffix.removesuffix('.gz')}"
    (frame.write_ipc_stream if suffix == ".arrows" else frame.write_ipc)(path, compression=compression)
    if suffix.endswith(".gz"):
        packed = path.with_name("t.arrow.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    assert read(path) == [b"1", b"\xff"]


@pytest.fixture(params=["active", "sealed"])
def segment(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A segment of three messages of three records, copied out of its shard."""
    shard = DataDir.open(tmp_path / "d", create=True).create_stream("s").shards[0]
    with ShardWriter.open(shard, segment_bytes=1 << 16) as writer:
        for start in range(0, RECORDS, 3):
            writer.append([NewRecord(b"record %d" % number, "k") for number in range(start, start + 3)])
    if request.param == "sealed":
        with upkeep.sealed(shard, SystemClock()):
            pass
    found = sorted(shard.directory.glob("*.arrow" if request.param == "sealed" else "*.arrows"))[0]
    copy = tmp_path / found.name
    copy.write_bytes(found.read_bytes())
    return copy


EXPECTED = [b"record %d" % number for number in range(RECORDS)]


def test_a_segment_is_read_as_it_stands(segment: Path) -> None:
    assert read(segment) == EXPECTED


def test_every_flipped_bit_of_a_segments_records_is_found(segment: Path) -> None:
    whole = segment.read_bytes()
    place = whole.index(b"record 4")
    for at in range(place, place + 8):
        for bit in range(8):
            segment.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            before, said = until_damage(segment)
            assert before in (EXPECTED[:3], []), "what is before the message, and nothing of it"
            assert "checksum of the message at offset" in said


def test_a_hole_between_messages_is_found(tmp_path: Path) -> None:
    shard = DataDir.open(tmp_path / "d", create=True).create_stream("s").shards[0]
    with ShardWriter.open(shard, segment_bytes=1 << 16) as writer:
        for number in range(3):
            writer.append([NewRecord(b"same length %d" % number, "k")])
    (active,) = shard.directory.glob("*.arrows")
    content = active.read_bytes()
    marks = [at for at in range(len(content)) if content.startswith(b"\xff\xff\xff\xff", at)]
    schema, first, second, third = marks[:4]
    path = tmp_path / "hole.arrows"
    path.write_bytes(content[schema:second] + content[third:])
    before, said = until_damage(path)
    assert (before, "offsets 1 to 1 are missing" in said) == ([b"same length 0"], True)
    assert first < second


@pytest.mark.parametrize("where", ["footer", "message"])
def test_a_file_that_was_cut_says_so_behind_what_is_left(tmp_path: Path, where: str) -> None:
    table = pa.table({"partition_key": ["k"] * 3, "data": pa.array([b"a", b"b", b"c"], pa.binary())})
    path = tmp_path / "t.arrow"
    ends = []
    with open(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        for row in range(3):
            writer.write_table(table.slice(row, 1))
            ends.append(file.tell())
    cut = ends[-1] if where == "footer" else ends[1] + 20
    path.write_bytes(path.read_bytes()[:cut])
    before, said = until_damage(path)
    assert before == ([b"a", b"b", b"c"] if where == "footer" else [b"a", b"b"])
    assert f"cannot be read behind row {len(before)}" in said


def test_a_copy_of_a_segment_by_another_tool_has_no_checksums_and_is_read(tmp_path: Path, segment: Path) -> None:
    with pa.memory_map(str(segment)) as mapped:
        if segment.suffix == ".arrow":
            table = pa.ipc.open_file(mapped).read_all()
        else:
            table = pa.ipc.open_stream(mapped).read_all()
        path = tmp_path / "copy.arrow"
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    assert read(path) == EXPECTED
