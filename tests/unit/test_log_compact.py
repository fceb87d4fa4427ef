"""Compaction and cold segments: fewer files, the same records, for whoever reads meanwhile and after any crash."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from streamfn import limits
from streamfn.errors import LogDamaged
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.format.footer import PLAIN, ZSTD, Footer
from streamfn.log.segment import cold
from streamfn.log.segment.check import check_segment
from streamfn.log.segment.segment import Segment, SegmentFile, open_segment
from streamfn.log.shard.chain import Link, read_chain
from streamfn.log.shard.compact import Compacted, compact, plan
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import Change, NewChange, NewRecord, Record

SEGMENT = 16 * 1024
LATER_MS = 5_000_000_000_000


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir.open(tmp_path / "data", create=True)


@pytest.fixture
def shard(data: DataDir) -> Shard:
    return data.create_stream("s").shards[0]


def fill(shard: Shard, rounds: int = 6) -> None:
    """Make small sealed segments of ten records, each appended by itself."""
    with ShardWriter.open(shard, segment_bytes=SEGMENT, threaded=False) as writer:
        for _ in range(rounds):
            for _ in range(10):
                at = writer.end_offset
                writer.append([NewRecord(b"%d:" % at + b"abc" * (at % 50), f"key {at % 7}", 1000 + at)])
            writer.roll()
        writer.append([NewRecord(b"%d:" % writer.end_offset, "active", 5)])


def run(shard: Shard, **options: Any) -> Compacted:
    with ShardWriter.open(shard, segment_bytes=SEGMENT, threaded=False):
        return compact(shard, LATER_MS, segment_bytes=64 * SEGMENT, **options)


def read_all(shard: Shard, start: int = 0) -> list[Record]:
    with ShardReader.open(shard, start) as reader:
        found = [r for got in iter(lambda: reader.poll(1 << 30), []) for m in got for r in records(m)]
    return [record for record in found if record.offset >= start]


def sealed(shard: Shard) -> list[Link]:
    return [link for link in read_chain(shard).links if link.file.sealed]


def sound(shard: Shard) -> None:
    for link in read_chain(shard).links:
        assert not check_segment(shard, link.file, end_offset=link.end_offset).findings
    assert not read_chain(shard).leftovers


def test_small_segments_become_one_with_large_row_groups(shard: Shard) -> None:
    fill(shard)
    expected = read_all(shard)
    appended = [link.footer.appended_ms for link in sealed(shard) if link.footer]
    done = run(shard)
    assert (done.segments_before, done.segments_after, done.merged, done.compressed) == (7, 2, 6, 0)
    assert done.bytes_after < done.bytes_before
    (link,) = sealed(shard)
    assert link.footer is not None
    assert done.bytes_written == link.file.path.stat().st_size
    assert (link.file.first_offset, link.end_offset) == (0, 60)
    assert link.footer.appended_ms == max(appended)
    assert len(link.footer.groups) == 1
    assert read_all(shard) == expected
    assert pa.ipc.open_file(link.file.path).read_all().num_rows == 60
    sound(shard)
    assert run(shard).bytes_written == 0  # there is nothing more to do


def test_segments_with_other_columns_are_not_merged(shard: Shard) -> None:
    fill(shard, 2)
    with ShardWriter.open(shard, segment_bytes=SEGMENT, threaded=False) as writer:
        for at in range(2):
            writer.append([NewRecord(b"x", "k", source_sequence_number=str(at), source_subsequence_number=None)])
            writer.roll()
    expected = read_all(shard)
    run(shard)
    assert read_all(shard) == expected
    sound(shard)


def link(first: int, end: int, size: int, *, codec: int = PLAIN, is_sealed: bool = True) -> Link:
    return Link(SegmentFile(first, is_sealed, Path("x")), end, Footer(codec, end, 0, 0, ()), size, 0)


def test_what_is_merged() -> None:
    def planned(*links: Link) -> list[list[int]]:
        return [[one.file.first_offset for one in group] for group in plan(links, 100)]

    assert planned(link(0, 1, 10), link(1, 2, 10), link(2, 3, 10, is_sealed=False)) == [[0, 1]]
    assert planned(link(0, 1, 10), link(1, 2, 50), link(2, 3, 10), link(3, 4, 10)) == [[2, 3]]
    assert planned(link(0, 1, 40), link(1, 2, 40), link(2, 3, 40), link(3, 4, 40)) == [[0, 1], [2, 3]]
    assert planned(link(0, 1, 10), link(2, 3, 10)) == []  # a gap lies between
    assert planned(link(0, 1, 10), link(1, 2, 10, codec=ZSTD), link(2, 3, 10)) == []
    assert planned() == []


def test_a_reader_of_the_old_files_is_led_on(shard: Shard) -> None:
    fill(shard)
    expected = [record.offset for record in read_all(shard)]
    for stop in range(0, 60, 7):
        with ShardReader.open(shard, stop) as reader:
            seen = [r.offset for m in reader.poll(1) for r in records(m) if r.offset >= stop]
            run(shard, cold_after_s=0 if stop > 30 else None)
            while got := reader.poll(1):
                seen += [r.offset for m in got for r in records(m) if r.offset > seen[-1]]
            assert seen == expected[stop:]
        fill_more = len(expected)
        fill(shard, 1)
        expected = [record.offset for record in read_all(shard)]
        assert len(expected) == fill_more + 11


class Dying:
    """Lets a process make so many calls that change its disk; then it is dead, and nothing more happens."""

    def __init__(self, patch: pytest.MonkeyPatch, disk: type, calls: int) -> None:
        self.calls = calls
        for name in ("pwrite", "sync", "rename", "sync_directory", "unlink"):
            patch.setattr(disk, name, self.counted(getattr(disk, name)))

    def counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt
            return real(*arguments)

        return call


@pytest.mark.parametrize("zstd", [False, True])
def test_a_crash_at_any_moment_leaves_every_record_once(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, zstd: bool
) -> None:
    fill(shard, 4)
    expected = read_all(shard)
    for calls in range(100):
        writer = ShardWriter.open(shard, segment_bytes=SEGMENT, threaded=False)
        with monkeypatch.context() as patch:
            Dying(patch, type(shard.disk), calls)
            try:
                compact(shard, LATER_MS, cold_after_s=0 if zstd else None, segment_bytes=64 * SEGMENT)
                survived = True
            except KeyboardInterrupt:
                survived = False
            writer._abandon()
        assert read_all(shard) == expected
        ShardWriter.open(shard, segment_bytes=SEGMENT, threaded=False).close()
        assert read_all(shard) == expected
        sound(shard)
        if survived:
            break
    assert survived
    assert calls > 5


def test_a_cold_segment_is_smaller_and_opens_everywhere(shard: Shard) -> None:
    fill(shard)
    run(shard)
    expected = read_all(shard)
    plain = pa.ipc.open_file(sealed(shard)[0].file.path).read_all()
    done = run(shard, cold_after_s=0)
    assert done.compressed == 1
    assert done.bytes_after < done.bytes_before
    (link,) = sealed(shard)
    assert link.footer is not None
    assert link.footer.codec == ZSTD
    path = link.file.path
    assert pa.ipc.open_file(pa.memory_map(str(path))).read_all() == plain
    assert pl.read_ipc(path)["data"].to_list() == plain["data"].to_pylist()
    assert pd.read_feather(path)["partition_key"].tolist() == plain["partition_key"].to_pylist()
    assert read_all(shard) == expected
    assert read_all(shard, 17) == expected[17:]
    sound(shard)
    assert run(shard, cold_after_s=0).compressed == 0


def test_what_is_not_cold_yet_stays(shard: Shard) -> None:
    fill(shard)
    run(shard)
    (link,) = sealed(shard)
    assert link.footer is not None
    with ShardWriter.open(shard, threaded=False):
        assert compact(shard, link.footer.appended_ms + 9_999, cold_after_s=10).compressed == 0
        assert compact(shard, link.footer.appended_ms + 10_000, cold_after_s=10).compressed == 1


def test_a_stream_that_asks_for_it_has_its_cold_segments_compressed(data: DataDir, shard: Shard) -> None:
    stream = data.streams()[0]
    data.change_stream(stream.id, lambda found: found.with_retention(found.retention, 0))
    fill(shard)
    expected = read_all(shard)
    assert {link.footer.codec for link in sealed(shard) if link.footer} == {ZSTD}
    assert len(expected) == 61


def test_damage_to_one_row_group_of_a_cold_segment_costs_that_one_alone(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEALED_GROUP_BYTES", 4096)
    fill(shard)
    run(shard, cold_after_s=0)
    expected = read_all(shard)
    (link,) = sealed(shard)
    assert link.footer is not None
    assert link.footer.codec == ZSTD
    _, bad, after, *_ = link.footer.groups
    with open(link.file.path, "r+b") as file:
        file.seek(bad.end - 9)
        file.write(b"\xff\xff")
    lost = range(bad.first_offset, after.first_offset)
    with ShardReader.open(shard, 0) as reader:
        found = [record for message in reader.poll(1 << 30) for record in records(message)]
        assert [record.offset for record in found] == list(range(bad.first_offset))
        with pytest.raises(LogDamaged, match=f"byte {bad.position}: .*offsets {lost.start} to {lost.stop - 1} cannot"):
            reader.poll(1 << 30)
    for start in (0, lost.start + 1, lost.stop):
        with ShardReader.open(shard, start, salvage=True) as reader:
            found = []
            while (messages := reader.poll(1 << 30)) or reader.gap is not None:
                if not messages:
                    gap = reader.skip()
                    assert (gap.end_offset, gap.byte, gap.file) == (lost.stop, bad.position, link.file.path.name)
                found += [record for message in messages for record in records(message) if record.offset >= start]
            assert found == [record for record in expected if record.offset >= start and record.offset not in lost]


def test_readers_share_what_is_inflated_and_the_last_one_lets_it_go(shard: Shard) -> None:
    fill(shard)
    run(shard, cold_after_s=0)
    (link,) = sealed(shard)
    before = len(os.listdir("/proc/self/fd"))
    first = open_segment(shard, link.file)
    second = open_segment(shard, link.file)
    assert first is second
    assert first.proven == first.size
    assert os.fstat(first.fd).st_nlink == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(first.fd, b"x", 0)  # a worker is handed it
    first.release()
    second.release()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not any(open_.path == link.file.path for open_ in Segment._open.values())


def test_where_a_file_system_has_no_unnamed_files_memory_holds_it(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(shard)
    run(shard, cold_after_s=0)
    expected = read_all(shard)
    real = os.open

    def refuses(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuses)
    assert read_all(shard) == expected


def test_every_bit_of_a_cold_segment_is_covered_and_nothing_damaged_is_decompressed(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(shard, 2)
    run(shard, cold_after_s=0)
    (link,) = sealed(shard)
    content = bytearray(link.file.path.read_bytes())
    assert link.footer is not None
    group = link.footer.groups[0]
    with link.file.path.open("r+b", buffering=0) as file:
        for at in range(len(content)):
            file.seek(at)
            file.write(bytes([content[at] ^ 1 << at % 8]))
            found = check_segment(shard, link.file).findings
            assert found, f"byte {at}"
            if group.position <= at < group.end:
                assert tuple(found[0])[1:5] == (group.position, group.end, 0, 20)
            file.seek(at)
            file.write(content[at : at + 1])
        assert not check_segment(shard, link.file).findings

        def never(*_: object) -> memoryview:
            raise AssertionError("decompressed before its checksum was right")

        monkeypatch.setattr(cold, "_inflated_buffer", never)
        file.seek(group.position + 500)
        file.write(bytes([content[group.position + 500] ^ 1]))
    with ShardReader.open(shard, 0) as reader, pytest.raises(LogDamaged, match=f"byte {group.position}"):
        reader.poll(1 << 30)


def test_changes_are_merged_and_compressed_with_their_nulls(data: DataDir) -> None:
    from streamfn.log.segment.rows import changes

    shard = data.create_stream("d", kind="dynamodb").shards[0]

    def read() -> list[Change]:
        with ShardReader.open(shard, 0) as reader:
            return [c for got in iter(lambda: reader.poll(1 << 30), []) for m in got for c in changes(m)]

    with ShardWriter.open(shard, segment_bytes=SEGMENT, threaded=False) as writer:
        for _ in range(5):
            for number in range(9):
                key = b'{"id":{"N":"%d"}}' % number
                image = key if number % 3 else None
                writer.append_changes([NewChange("MODIFY", key, image, None if number % 2 else key)])
            writer.roll()
    expected = read()
    assert len(expected) == 45
    done = run(shard, cold_after_s=0)
    assert (done.merged, done.compressed) == (5, 1)
    assert read() == expected
    sound(shard)


def test_salvage_reads_a_cold_segment_whose_footer_is_damaged(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEALED_GROUP_BYTES", 4000)
    fill(shard, 4)
    run(shard, cold_after_s=0)
    (link,) = sealed(shard)
    with link.file.path.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"nope!")
    with ShardReader.open(shard, 0) as strict, pytest.raises(LogDamaged, match="does not end as"):
        strict.poll(1)
    with ShardReader.open(shard, 0, salvage=True) as reader:
        found = []
        while got := reader.poll(1 << 30):
            found += [record.offset for message in got for record in records(message)]
        assert reader.gap is None
    assert found == list(range(41))
