"""A stream as columns: what `scan` and `dataset` give to whoever computes over it."""

from __future__ import annotations

import gc
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from streamfn.errors import LogDamaged, RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Stream
from streamfn.log.segment.segment import list_segments
from streamfn.log.shard import gaps
from streamfn.log.shard.columns import dataset, scan
from streamfn.log.shard.gaps import Gap
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    """Two shards; the first has sealed segments and an active one, the second an active one only."""
    stream = DataDir.open(tmp_path / "data", create=True).create_stream("s", 2)
    for number, (shard, records) in enumerate(zip(stream.shards, (40, 3), strict=True)):
        with ShardWriter.open(shard, segment_bytes=16 * 1024) as writer:
            for i in range(records):
                writer.append([NewRecord(b"%d:%d:" % (number, i) + bytes(1000), f"key {i}", i)])
    return stream


def prefixes(column: pa.ChunkedArray) -> list[bytes]:
    return [value[: value.rindex(b":")] for value in column.to_pylist()]


EXPECTED = [b"0:%d" % i for i in range(40)] + [b"1:%d" % i for i in range(3)]


def test_scan_gives_every_committed_record_shard_by_shard_in_order(stream: Stream) -> None:
    batches = list(scan(stream))
    assert [value for batch in batches for value in prefixes(batch.column("data"))] == EXPECTED
    assert {batch.schema.metadata[b"shard_id"].decode() for batch in batches} == {shard.id for shard in stream.shards}
    rows = 0
    for batch in batches:
        if batch.schema.metadata[b"shard_id"] == stream.shards[0].id.encode():
            assert batch.schema.metadata[b"first_offset"] == b"%d" % rows
            rows += batch.num_rows
        batch.validate(full=True)


def test_scan_begins_where_the_first_record_of_a_time_stands(stream: Stream) -> None:
    with ShardWriter.open(stream.shards[1], segment_bytes=16 * 1024) as writer:
        writer.append([NewRecord(b"1:late:", "k", 30), NewRecord(b"1:early:", "k", 2), NewRecord(b"1:last:", "k", 31)])
    batches = list(scan(stream, from_ms=31))
    assert [value for batch in batches for value in prefixes(batch.column("data"))] == [*EXPECTED[31:40], b"1:last"]
    assert batches[-1].schema.metadata[b"first_offset"] == b"5"
    whole = list(scan(stream, [stream.shards[1].id], from_ms=30))
    assert [value for batch in whole for value in prefixes(batch.column("data"))] == [b"1:late", b"1:early", b"1:last"]


def test_scan_and_dataset_copy_nothing(stream: Stream) -> None:
    gc.collect()
    before = pa.total_allocated_bytes()
    batches = list(scan(stream))
    assert pa.total_allocated_bytes() == before
    table = dataset(stream).to_table(columns=["data"])
    assert table.nbytes > 43_000
    # What dataset adds for segments that are not sealed yet: the shard's id, for each row.
    assert pa.total_allocated_bytes() - before < 43 * 64
    assert len(batches) >= 4


def test_a_batch_outlives_its_scan_its_reader_and_its_file(stream: Stream) -> None:
    batches = list(scan(stream))
    kept = batches[0].slice(0, 1)
    expected = batches[0].column("data")[0].as_py()
    del batches
    gc.collect()
    for segment in stream.shards[0].directory.glob("*.arrow*"):
        segment.unlink()
    assert kept.column("data")[0].as_py() == expected


def test_scan_of_one_shard_and_of_one_that_is_not_there(stream: Stream) -> None:
    only = list(scan(stream, [stream.shards[1].id]))
    assert [value for batch in only for value in prefixes(batch.column("data"))] == EXPECTED[40:]
    with pytest.raises(RefusedError, match="no shard 'shardId-x'.*shardId-000000000001"):
        list(scan(stream, ["shardId-x"]))


def test_dataset_has_all_forms_of_segment_in_one_with_the_shard_as_a_column(stream: Stream) -> None:
    table = dataset(stream).to_table()
    assert sorted(prefixes(table["data"])) == sorted(EXPECTED)
    assert pc.unique(table["shard_id"]).to_pylist() == [shard.id for shard in stream.shards]
    first = pc.field("shard_id") == stream.shards[0].id
    late = dataset(stream).to_table(filter=first & (pc.field("partition_key") == "key 39"))
    assert prefixes(late["data"]) == [b"0:39"]


def test_a_stream_without_records_is_an_empty_dataset(tmp_path: Path) -> None:
    empty = DataDir.open(tmp_path / "data", create=True).create_stream("s", 2)
    assert list(scan(empty)) == []
    assert dataset(empty).count_rows() == 0
    assert "partition_key" in dataset(empty).schema.names


def test_what_is_gone_is_left_out_of_both(stream: Stream) -> None:
    shard = stream.shards[0]
    first, second, third, *_ = list_segments(shard)
    gaps.record_trim(shard, second.first_offset)
    gaps.record(shard, Gap(second.first_offset, third.first_offset, gaps.LOST))
    first.path.unlink()
    second.path.unlink()
    left = EXPECTED[third.first_offset :]
    assert [value for batch in scan(stream) for value in prefixes(batch.column("data"))] == left
    assert sorted(prefixes(dataset(stream).to_table()["data"])) == sorted(left)


def test_a_gap_in_the_middle_is_passed(stream: Stream) -> None:
    shard = stream.shards[0]
    _, second, third, *_ = list_segments(shard)
    second.path.unlink()
    with pytest.raises(LogDamaged, match=f"offsets {second.first_offset} to "):
        list(scan(stream))
    gaps.record(shard, Gap(second.first_offset, third.first_offset, gaps.DAMAGED))
    found = [value for batch in scan(stream, [shard.id]) for value in prefixes(batch.column("data"))]
    assert found == EXPECTED[: second.first_offset] + EXPECTED[third.first_offset : 40]
