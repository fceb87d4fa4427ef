"""Appends of columns that go straight into sealed segments: written once, whole or not at all, nothing beside them."""

from __future__ import annotations

import errno
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from streamfn import limits
from streamfn.errors import DiskFull
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.format import batch, bulk, schema
from streamfn.log.segment.check import check_segment
from streamfn.log.segment.sealed_writer import SealedWriter
from streamfn.log.segment.segment import list_files
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord

SEGMENT = 64 * 1024


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shard:
    monkeypatch.setattr(limits, "STRAIGHT_BYTES", 32 * 1024)
    monkeypatch.setattr(limits, "SEALED_GROUP_BYTES", 8 * 1024)
    return DataDir.open(tmp_path / "data", create=True).create_stream("s").shards[0]


def columns(start: int, stop: int, size: int = 200) -> dict[str, pa.Array]:
    return {
        "data": pa.array([b"%d:" % i + bytes(size) for i in range(start, stop)]),
        "keys": pa.array([f"key {i}" for i in range(start, stop)]),
        "arrival": pa.array(list(range(start, stop)), pa.int64()),
    }


def contents(shard: Shard) -> list[int]:
    with ShardReader.open(shard, 0) as reader:
        found = [r for got in iter(lambda: reader.poll(1 << 30), []) for m in got for r in records(m)]
    assert [record.offset for record in found] == list(range(len(found)))
    assert all(one.sequence_number < two.sequence_number for one, two in pairwise(found))
    return [int(record.data.split(b":")[0]) for record in found]


def sealed(shard: Shard) -> list[int]:
    return [file.first_offset for file in list_files(shard) if file.sealed]


def open_writer(shard: Shard) -> ShardWriter:
    return ShardWriter.open(shard, wait_s=0, segment_bytes=SEGMENT)


def test_a_large_append_lies_in_sealed_segments_at_once(shard: Shard) -> None:
    with open_writer(shard) as writer:
        assert writer.append_columns(**columns(0, 1000)) == range(1000)
        assert writer.committed_offset == 1000
        assert len(sealed(shard)) > 3
        assert [file.first_offset for file in list_files(shard) if not file.sealed] == [1000]
        for file in list_files(shard):
            assert not check_segment(shard, file).findings
            assert not file.sealed or file.path.stat().st_size <= SEGMENT + 4096
        assert pa.ipc.open_file(list_files(shard)[0].path).num_record_batches > 3
        assert contents(shard) == list(range(1000))


def test_what_was_there_before_and_what_comes_after_stay_in_order(shard: Shard) -> None:
    with open_writer(shard) as writer:
        writer.append([NewRecord(b"%d:" % i, "k") for i in range(5)])
        writer.append_columns(**columns(5, 300))
        writer.append([NewRecord(b"%d:" % i, "k") for i in range(300, 305)])
        writer.append_columns(**columns(305, 600))
        writer.append_columns(**columns(600, 605))
    with open_writer(shard) as writer:
        assert writer.end_offset == 605
    assert contents(shard) == list(range(605))


def test_a_reader_that_follows_is_led_through(shard: Shard) -> None:
    with open_writer(shard) as writer, ShardReader.open(shard, 0) as reader:
        seen = []
        for start in range(0, 900, 300):
            writer.append([NewRecord(b"%d:" % start, "k")])
            writer.commit()
            seen += [r.offset for m in reader.poll(1 << 30) for r in records(m)]
            writer.append_columns(**columns(start + 1, start + 300))
            while got := reader.poll(1 << 30):
                seen += [r.offset for m in got for r in records(m)]
        assert seen == list(range(900))


def test_loose_pieces_are_the_bytes_of_a_draft() -> None:
    base = b"49" * 18
    for rows in bulk.from_columns(*columns(0, 777).values(), message_bytes=20_000):
        draft = rows.draft(17, base, 5)
        pieces = schema.loose_message(rows.layout, 17, rows.rows, rows.loose(17, base, 5), 3, 9)
        assert b"".join(pieces) == draft.finish(3, 9)
    (rows,) = batch.from_records([NewRecord(b"", "k", 1), NewRecord(b"x" * 9, "kk")], 5)
    pieces = schema.loose_message(rows.layout, 17, rows.rows, rows.loose(17, base, 5), 3, 9)
    assert b"".join(pieces) == rows.draft(17, base, 5).finish(3, 9)


def test_an_append_that_fails_half_way_leaves_whole_segments(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = SealedWriter.finish
    finished: list[Path] = []

    def third_fails(self: SealedWriter, *arguments: Any) -> Path:
        if len(finished) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        finished.append(finish(self, *arguments))
        return finished[-1]

    with open_writer(shard) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(SealedWriter, "finish", third_fails)
            with pytest.raises(DiskFull):
                writer.append_columns(**columns(0, 1000))
        kept = writer.end_offset
        assert writer.committed_offset == kept
        assert 0 < kept < 1000
        assert sorted(finished) == sorted(file.path for file in list_files(shard) if file.sealed)
        assert not list(shard.directory.glob("*.sealing"))
        writer.append([NewRecord(b"%d:" % kept, "k")])
    assert contents(shard) == list(range(kept + 1))


def test_a_process_that_dies_before_it_says_so_has_appended_whole_segments(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_writer(shard)
    with monkeypatch.context() as patch:

        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(ShardWriter, "_leave_empty", dies)
        with pytest.raises(KeyboardInterrupt):
            writer.append_columns(**columns(0, 1000))
    writer._abandon()
    assert (shard.directory / f"{0:020d}.arrows").exists()  # the active segment that had no records
    with open_writer(shard) as writer:
        assert writer.end_offset == 1000
        assert writer.recovered.kept_records > 0
        writer.append([NewRecord(b"1000:", "k")])
    assert not (shard.directory / f"{0:020d}.arrows").exists()
    assert contents(shard) == list(range(1001))


def test_chunked_columns_are_taken_as_they_are(shard: Shard) -> None:
    whole = columns(0, 900)
    edges = {"data": [0, 400, 900], "keys": [0, 100, 400, 900], "arrival": [0, 900]}
    chunked = {
        name: pa.chunked_array([column[start:stop] for start, stop in pairwise(edges[name])])
        for name, column in whole.items()
    }
    with open_writer(shard) as writer:
        assert writer.append_columns(**chunked) == range(900)
        assert writer.append_columns(**{name: column[:5] for name, column in chunked.items()}) == range(900, 905)
    assert contents(shard) == [*range(900), *range(5)]
    with ShardReader.open(shard, 0) as reader:
        found = [r for got in iter(lambda: reader.poll(1 << 30), []) for m in got for r in records(m)]
    assert [(r.partition_key, r.arrival_ms) for r in found[:900]] == [(f"key {i}", i) for i in range(900)]
