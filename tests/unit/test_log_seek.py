"""Seeking by time: exact in every form of segment, whatever order the times are in, and without reading the rest."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from streamfn.errors import LogDamaged
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.shard import gaps
from streamfn.log.shard.chain import read_chain
from streamfn.log.shard.compact import compact
from streamfn.log.shard.gaps import DAMAGED, Gap
from streamfn.log.shard.numbers import offset_of, sequence_numbers
from streamfn.log.shard.reader import ShardReader
from streamfn.log.shard.seek import offset_at_time
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord

SEGMENT = 16 * 1024
LATER_MS = 5_000_000_000_000


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return DataDir.open(tmp_path / "data", create=True).create_stream("s").shards[0]


def fill(shard: Shard, times: list[int], *, seal: bool) -> None:
    """Append records of those times in messages of three; a segment holds about fifteen of them."""
    with ShardWriter.open(shard, segment_bytes=SEGMENT, threaded=False) as writer:
        if not seal:
            writer._sealer.seal = lambda first, end, *_: None  # type: ignore[method-assign]
        for start in range(0, len(times), 3):
            writer.append([NewRecord(bytes(100), "k", at) for at in times[start : start + 3]])


def expected(times: list[int], ms: int) -> int:
    return next((offset for offset, at in enumerate(times) if at >= ms), len(times))


@pytest.mark.parametrize("form", ["sealed", "awaiting sealing", "merged", "cold"])
@pytest.mark.parametrize("order", ["rising", "any", "equal"])
def test_the_first_record_in_log_order_is_found(shard: Shard, form: str, order: str) -> None:
    chance = random.Random(3)
    times = [chance.randrange(2000) for _ in range(300)]
    times = sorted(times) if order == "rising" else [7] * 300 if order == "equal" else times
    fill(shard, times, seal=form != "awaiting sealing")
    if form in ("merged", "cold"):
        with ShardWriter.open(shard, segment_bytes=SEGMENT, threaded=False) as writer:
            writer.roll()
            compact(shard, LATER_MS, segment_bytes=6 * SEGMENT, cold_after_s=0 if form == "cold" else None)
    for ms in {*times, *(at + 1 for at in times), 0, 1999, 2001}:
        assert offset_at_time(shard, ms) == expected(times, ms)


def test_what_is_not_committed_is_not_found(shard: Shard) -> None:
    with ShardWriter.open(shard) as writer:
        writer.append([NewRecord(b"x", "k", 5)])
        writer.commit()
        writer.append([NewRecord(b"x", "k", 9)])
        assert offset_at_time(shard, 7) == 1


def test_damage_matters_only_where_the_record_lies(shard: Shard) -> None:
    times = list(range(300))
    fill(shard, times, seal=True)
    third = read_chain(shard).links[2]
    with third.file.path.open("r+b") as file:
        file.seek(third.footer.groups[0].position + 900 if third.footer else 0)
        file.write(b"damaged")
    first, end = third.file.first_offset, third.end_offset
    assert end is not None
    for ms in (0, first - 1, end, 299):
        assert offset_at_time(shard, ms) == ms
    with pytest.raises(LogDamaged, match=third.file.path.name):
        offset_at_time(shard, first + 2)
    gaps.record(shard, Gap(first, end, DAMAGED))  # somebody decided to go on without it
    assert offset_at_time(shard, first + 2) == end


def test_a_reader_enters_a_sealed_segment_at_its_row_group(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamfn import limits

    monkeypatch.setattr(limits, "SEALED_GROUP_BYTES", 2000)
    fill(shard, list(range(300)), seal=True)
    link = read_chain(shard).links[1]
    assert link.footer is not None
    assert len(link.footer.groups) > 3
    with link.file.path.open("r+b") as file:
        file.seek(link.footer.groups[1].position + 700)
        file.write(b"damaged")
    group = link.footer.groups[-1]
    with ShardReader.open(shard, group.first_offset + 1) as reader:
        assert reader.poll(1)[0].first_offset == group.first_offset


@pytest.mark.parametrize("form", ["sealed", "awaiting sealing"])
def test_a_record_is_found_by_its_sequence_number(shard: Shard, form: str) -> None:
    times = [LATER_MS] * 60
    fill(shard, times, seal=form == "sealed")
    numbers: list[str] = []
    while len(numbers) < 60:
        with ShardReader.open(shard, len(numbers)) as reader:
            numbers += [number for message in reader.poll(1 << 30) for number in sequence_numbers(message)]
    assert [offset_of(shard, number) for number in numbers] == list(range(60))
    assert offset_of(shard, str(int(numbers[-1]) + 1)) is None
    assert offset_of(shard, str(int(numbers[0]) - 1)) is None
    assert offset_of(shard, numbers[0] + "0") is None


def test_an_empty_shard_has_no_sequence_number(shard: Shard) -> None:
    assert offset_of(shard, "4" * 56) is None
