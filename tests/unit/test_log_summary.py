"""What is told of a shard without reading it agrees with what reading it tells."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from streamfn.errors import LogDamaged
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.shard import gaps
from streamfn.log.shard.reader import segments
from streamfn.log.shard.summary import arrival_ms, stored_records, summarize
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return DataDir.open(tmp_path / "data", create=True).create_stream("s").shards[0]


def fill(shard: Shard, seed: int = 1) -> list[int]:
    """Messages over several segments, sealed ones among them; returns the arrival times, which rise."""
    draw = Random(seed)
    times: list[int] = []
    with ShardWriter.open(shard, segment_bytes=40_000, threaded=False) as writer:
        for _ in range(120):
            made = [NewRecord(draw.randbytes(draw.randint(0, 2000)), "k", 1000 + len(times) + n) for n in range(3)]
            times += [record.arrival_ms or 0 for record in made]
            writer.append(made)
    return times


def test_the_summary_of_a_shard_says_what_reading_it_says(shard: Shard) -> None:
    times = fill(shard)
    found = summarize(shard)
    assert len(found.segments) > 5
    assert any(segment.sealed for segment in found.segments)
    assert found.segments == segments(shard)
    assert (found.horizon, found.end_offset) == (0, len(times))
    assert found.bytes == sum(segment.bytes for segment in found.segments)
    assert stored_records(shard) == len(times)


def test_every_record_tells_when_it_arrived(shard: Shard) -> None:
    times = fill(shard)
    assert [arrival_ms(shard, offset) for offset in range(len(times))] == times
    assert arrival_ms(shard, len(times)) is None


def test_an_empty_shard_has_nothing_to_tell(shard: Shard) -> None:
    assert summarize(shard).segments == []
    ShardWriter.open(shard).close()
    (only,) = summarize(shard).segments
    assert (only.records, only.first_ms, only.last_ms) == (0, None, None)
    assert arrival_ms(shard, 0) is None
    assert stored_records(shard) == 0


def test_what_was_not_committed_is_not_told(shard: Shard) -> None:
    with ShardWriter.open(shard) as writer:
        writer.append([NewRecord(b"a", "k", 5)])
        writer.commit()
        writer.append([NewRecord(b"b", "k", 9)])
        (only,) = summarize(shard).segments
        assert (only.records, only.last_ms) == (1, 5)


def test_bytes_that_are_no_message_are_named(shard: Shard) -> None:
    fill(shard)
    first = summarize(shard).segments[-1]
    with open(first.path, "r+b") as file:
        content = file.read()
        at = content.index(b"SFN1:")
        file.seek(at)
        file.write(b"XXXX")
    with pytest.raises(LogDamaged, match=Path(first.path).name):
        summarize(shard)


def test_what_is_gone_is_not_counted(shard: Shard) -> None:
    times = fill(shard)
    second = summarize(shard).segments[1].first_offset
    gaps.record_trim(shard, second)
    gaps.record(shard, gaps.Gap(second + 3, second + 5, gaps.DAMAGED))
    found = summarize(shard)
    assert (found.horizon, found.held(0)) == (second, len(times) - second - 2)
    assert stored_records(shard) == len(times) - second - 2
    assert found.segments[1].records == found.segments[2].first_offset - second - 2
