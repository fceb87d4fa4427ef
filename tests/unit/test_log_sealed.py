"""Sealed files: no byte without a checksum, the index, files that were sealed before there was one."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from streamfn._native import ffi
from streamfn.errors import LogDamaged
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.format import footer
from streamfn.log.format.schema import schema_message
from streamfn.log.segment.check import Check, check_segment
from streamfn.log.segment.sealed import read_end, walk
from streamfn.log.segment.segment import SegmentFile, header, list_files, open_segment
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord

SEGMENT = 16 * 1024
RECORDS = 40


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    """A shard with one sealed segment of 40 records in a few messages, and an active one."""
    found = DataDir.open(tmp_path / "data", create=True).create_stream("s").shards[0]
    with ShardWriter.open(found, segment_bytes=SEGMENT) as writer:
        for start in range(0, RECORDS, 10):
            writer.append([NewRecord(b"%d" % i, f"key {i}", 1000 + i) for i in range(start, start + 10)])
        writer.commit()
        writer._roll()
        writer.append([NewRecord(b"active", "k", 5)] * 3)
    return found


@pytest.fixture
def sealed(shard: Shard) -> SegmentFile:
    (file,) = (file for file in list_files(shard) if file.sealed)
    return file


def checked(shard: Shard, file: SegmentFile, **options: int) -> Check:
    return check_segment(shard, file, **options)


def rewrite(file: SegmentFile, change: Callable[[bytearray], None]) -> None:
    """Put a changed copy in the file's place, as another file: what is mapped stays what it was."""
    content = bytearray(file.path.read_bytes())
    change(content)
    file.path.unlink()
    file.path.write_bytes(content)


def end_of(shard: Shard, file: SegmentFile) -> int:
    with file.path.open("rb") as opened:
        return read_end(shard.disk, opened.fileno(), file.path, file.path.stat().st_size).position


def read_all(shard: Shard) -> list[bytes]:
    with ShardReader.open(shard, 0) as reader:
        return [r.data for got in iter(lambda: reader.poll(1 << 30), []) for m in got for r in records(m)]


def test_the_footer_has_an_index_of_its_row_groups(shard: Shard, sealed: SegmentFile) -> None:
    segment = open_segment(shard, sealed)
    found = segment.footer
    segment.release()
    assert found is not None
    assert (found.codec, found.end_offset) == (footer.PLAIN, RECORDS)
    assert [(group.first_offset, group.latest_ms) for group in found.groups] == [(0, 1000 + RECORDS - 1)]
    assert abs(found.appended_ms - sealed.path.stat().st_mtime_ns // 1_000_000) < 60_000


def test_what_is_whole_has_no_findings(shard: Shard, sealed: SegmentFile) -> None:
    told: list[int] = []
    assert check_segment(shard, sealed, progress=told.append) == ([], RECORDS, RECORDS, sealed.path.stat().st_size)
    assert sum(told) == sealed.path.stat().st_size
    (active,) = (file for file in list_files(shard) if not file.sealed)
    assert checked(shard, active) == ([], 3, RECORDS + 3, SEGMENT)
    with ShardReader.open(shard, 0) as reader:
        commit = reader.committed()
    found = checked(shard, active, committed_bytes=commit.length, end_offset=commit.end_offset)
    assert found == ([], 3, RECORDS + 3, commit.length)


def test_every_bit_of_a_sealed_file_is_covered(shard: Shard, sealed: SegmentFile) -> None:
    """All bits from the end-of-stream mark on, where this file is all there is; one bit of each byte elsewhere."""
    whole = sealed.path.read_bytes()
    end = end_of(shard, sealed)
    chance = random.Random(5)
    flips = [(at, chance.randrange(8)) for at in range(end)]
    flips += [(at, bit) for at in range(end, len(whole)) for bit in range(8)]
    content = bytearray(whole)
    with sealed.path.open("r+b", buffering=0) as file:
        for at, bit in flips:
            content[at] ^= 1 << bit
            file.seek(at)
            file.write(content[at : at + 1])
            assert checked(shard, sealed).findings, f"bit {bit} of byte {at}"
            content[at] ^= 1 << bit
            file.seek(at)
            file.write(content[at : at + 1])
    assert not checked(shard, sealed).findings


def test_a_flipped_bit_in_the_footer_stops_the_reader(shard: Shard, sealed: SegmentFile) -> None:
    end = end_of(shard, sealed)
    size = sealed.path.stat().st_size
    for at in range(end, size, 7):

        def flip(content: bytearray, at: int = at) -> None:
            content[at] ^= 0x10

        rewrite(sealed, flip)
        with pytest.raises(LogDamaged, match=sealed.path.name):
            open_segment(shard, sealed)
        rewrite(sealed, flip)
    assert len(read_all(shard)) == RECORDS + 3


def test_a_cut_anywhere_is_found(shard: Shard, sealed: SegmentFile) -> None:
    whole = sealed.path.read_bytes()
    for length in range(0, len(whole), 11):
        sealed.path.write_bytes(whole[:length])
        assert checked(shard, sealed, end_offset=RECORDS).findings, length


def test_a_finding_names_bytes_and_offsets(shard: Shard, sealed: SegmentFile) -> None:
    (active,) = (file for file in list_files(shard) if not file.sealed)
    data_at = len(header(shard, sealed=False))
    with active.path.open("r+b") as file:
        file.seek(data_at + 700)
        file.write(b"\xff\xff")
    (found,) = checked(shard, active, end_offset=RECORDS + 3).findings
    assert (found.path, found.byte, found.first_offset, found.end_offset) == (
        active.path,
        data_at,
        RECORDS,
        RECORDS + 3,
    )
    assert found.end_byte > data_at + 700


def test_damage_between_good_messages_is_named_alone(tmp_path: Path) -> None:
    shard = DataDir.open(tmp_path / "data", create=True).create_stream("s").shards[0]
    with ShardWriter.open(shard) as writer:
        for i in range(5):
            writer.append([NewRecord(b"%d" % i, "k")] * 2)
    (active,) = list_files(shard)
    segment = open_segment(shard, active)
    messages = walk(segment.base, segment.data_at, segment.size)
    segment.release()
    for damaged in (b"\0" * 500, b"\1"):
        with active.path.open("r+b") as file:
            file.seek(messages[2].position)
            kept = file.read(len(damaged))
            file.seek(messages[2].position)
            file.write(damaged)
        found = checked(shard, active, end_offset=10)
        assert (found.records, found.end_offset) == (8, 10)
        assert [tuple(finding)[1:5] for finding in found.findings] == [
            (messages[2].position, messages[3].position, 4, 6)
        ]
        with active.path.open("r+b") as file:
            file.seek(messages[2].position)
            file.write(kept)


def test_missing_records_are_named(shard: Shard, sealed: SegmentFile) -> None:
    (found,) = checked(shard, sealed, end_offset=RECORDS + 5).findings
    assert (found.first_offset, found.end_offset) == (RECORDS, RECORDS + 5)


def old_footer(shard: Shard, file: SegmentFile) -> None:
    """Give a sealed file the end that it would have had before footers had a checksum."""
    end = end_of(shard, file)
    content = file.path.read_bytes()
    base = ffi.from_buffer("uint8_t[]", content)
    groups = walk(base, len(header(shard, sealed=True)), end)
    old = footer.encode_old(schema_message(shard.name), groups)
    rewrite(file, lambda whole: whole.__setitem__(slice(end, None), old))


def test_files_sealed_before_there_was_a_checksum_are_read_and_checked(shard: Shard, sealed: SegmentFile) -> None:
    old_footer(shard, sealed)
    assert pa.ipc.open_file(pa.memory_map(str(sealed.path))).read_all().num_rows == RECORDS
    segment = open_segment(shard, sealed)
    assert segment.footer is None
    segment.release()
    assert len(read_all(shard)) == RECORDS + 3
    assert not checked(shard, sealed, end_offset=RECORDS).findings
    end = end_of(shard, sealed)
    for at in range(end, sealed.path.stat().st_size):

        def flip(content: bytearray, at: int = at) -> None:
            content[at] ^= 1 << at % 8

        rewrite(sealed, flip)
        assert checked(shard, sealed).findings, f"byte {at}"
        with pytest.raises(LogDamaged):
            open_segment(shard, sealed)
        rewrite(sealed, flip)


@pytest.mark.parametrize("where", ["mark", "footer", "magic"])
def test_salvage_reads_the_records_of_a_file_whose_end_is_damaged(
    shard: Shard, sealed: SegmentFile, where: str
) -> None:
    end, size = end_of(shard, sealed), sealed.path.stat().st_size
    at = {"mark": end, "footer": (end + size) // 2, "magic": size - 1}[where]
    rewrite(sealed, lambda content: content.__setitem__(at, content[at] ^ 1))
    found = []
    with ShardReader.open(shard, 0, salvage=True) as reader:
        while got := reader.poll(1 << 30):
            found += [r.offset for m in got for r in records(m)]
        assert reader.gap is None
        with ShardReader.open(shard, 0) as strict, pytest.raises(LogDamaged, match=sealed.path.name):
            strict.poll(1)  # also while somebody else has it mapped
    assert found == list(range(RECORDS + 3))
