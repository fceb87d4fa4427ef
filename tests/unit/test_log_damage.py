"""Damage: found wherever it lies, named with its range, never delivered; passed over only by who asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from streamfn.errors import LogDamaged
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.segment.scan import Scan
from streamfn.log.segment.segment import list_segments, open_segment
from streamfn.log.shard import gaps
from streamfn.log.shard.gaps import DAMAGED, Gap
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage import commit
from streamfn.types import NewRecord

SEGMENT = 8 * 1024
RECORDS = 60
PER_MESSAGE = 3


def content(offset: int) -> bytes:
    return b"%d:" % offset + bytes([offset]) * 150


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    """A shard of several sealed segments and an active one, closed in order."""
    shard = DataDir.open(tmp_path / "data", create=True).create_stream("s").shards[0]
    with open_writer(shard) as writer:
        for first in range(0, RECORDS, PER_MESSAGE):
            writer.append([NewRecord(content(at), "k", at) for at in range(first, first + PER_MESSAGE)])
            writer.commit()
    assert len(list_segments(shard)) >= 3
    return shard


def open_writer(shard: Shard) -> ShardWriter:
    return ShardWriter.open(shard, wait_s=0, segment_bytes=SEGMENT)


def reboot(shard: Shard) -> None:
    path = shard.directory / "commit"
    known = commit.decode(path.read_bytes())
    assert known is not None
    path.write_bytes(commit.encode(known._replace(boot_id="an earlier boot")))


def messages(shard: Shard, index: int) -> list[tuple[int, int, int]]:
    """File position, length and first offset of each message of a segment; the last segment is -1."""
    segment = open_segment(shard, list_segments(shard)[index])
    try:
        scan = Scan(segment, segment.data_at, segment.first_offset)
        _, found, count = scan.step(segment.size, 100, 1 << 30)
        return [(found[i].position, found[i].length, found[i].first_offset) for i in range(count)]
    finally:
        segment.release()


def overwrite(path: Path, position: int, what: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(what)


def read(shard: Shard, offset: int = 0, *, salvage: bool = False) -> tuple[list[int], list[Gap]]:
    """Read to the end; what is delivered has to be what was written."""
    found: list[int] = []
    passed: list[Gap] = []
    with ShardReader.open(shard, offset, salvage=salvage) as reader:
        while (got := reader.poll(1 << 20)) or reader.gap is not None:
            for message in got:
                for record in records(message):
                    assert record.data == content(record.offset)
                    found.append(record.offset)
            if reader.gap is not None:
                passed.append(reader.skip())
        assert reader.position == RECORDS
    return found, passed


def zero_the_last_message(shard: Shard) -> range:
    position, length, first = messages(shard, -1)[-1]
    overwrite(list_segments(shard)[-1].path, position, bytes(length))
    return range(first, RECORDS)


def cut_at_the_last_message(shard: Shard) -> range:
    position, _, first = messages(shard, -1)[-1]
    path = list_segments(shard)[-1].path
    path.write_bytes(path.read_bytes()[:position])
    return range(first, RECORDS)


def lose_the_last_segment(shard: Shard) -> range:
    last = list_segments(shard)[-1]
    last.path.unlink()
    return range(last.first_offset, RECORDS)


def flip_in_the_last_segment(shard: Shard) -> range:
    position, length, first = messages(shard, -1)[1]
    path = list_segments(shard)[-1].path
    overwrite(path, position + length - 9, bytes([path.read_bytes()[position + length - 9] ^ 4]))
    return range(first, first + PER_MESSAGE)


def zero_in_the_middle_of_the_last_segment(shard: Shard) -> range:
    position, length, first = messages(shard, -1)[0]
    overwrite(list_segments(shard)[-1].path, position, bytes(length))
    return range(first, first + PER_MESSAGE)


def flip_in_a_sealed_segment(shard: Shard) -> range:
    first, second, *_ = list_segments(shard)
    position, length, _ = messages(shard, 0)[-1]
    overwrite(first.path, position + length - 1, b"\xff")
    return range(second.first_offset)


def lose_the_first_segment(shard: Shard) -> range:
    first, second, *_ = list_segments(shard)
    first.path.unlink()
    return range(second.first_offset)


def lose_a_segment_in_the_middle(shard: Shard) -> range:
    _, second, third, *_ = list_segments(shard)
    second.path.unlink()
    return range(second.first_offset, third.first_offset)


def damage_a_header(shard: Shard) -> range:
    _, second, third, *_ = list_segments(shard)
    overwrite(second.path, 40, b"\x01\x02\x03")
    return range(second.first_offset, third.first_offset)


def damage_the_header_of_the_last_segment(shard: Shard) -> range:
    last = list_segments(shard)[-1]
    overwrite(last.path, 0, b"\0\0\0\0")
    return range(last.first_offset, RECORDS)


def cut_a_sealed_segment(shard: Shard) -> range:
    _, second, third, *_ = list_segments(shard)
    second.path.write_bytes(second.path.read_bytes()[: second.path.stat().st_size // 2])
    return range(second.first_offset, third.first_offset)


TAIL = [
    zero_the_last_message,
    cut_at_the_last_message,
    lose_the_last_segment,
    flip_in_the_last_segment,
    zero_in_the_middle_of_the_last_segment,
    damage_the_header_of_the_last_segment,
]
MIDDLE = [
    flip_in_a_sealed_segment,
    lose_the_first_segment,
    lose_a_segment_in_the_middle,
    damage_a_header,
    cut_a_sealed_segment,
]
Damage = Callable[[Shard], range]


def name(damage: object) -> str:
    return getattr(damage, "__name__", str(damage))


@pytest.mark.parametrize("rebooted", [False, True], ids=["same boot", "another boot"])
@pytest.mark.parametrize("damage", TAIL + MIDDLE, ids=name)
def test_a_strict_reader_stops_there_with_the_range_and_delivers_what_lies_before(
    shard: Shard, damage: Damage, rebooted: bool
) -> None:
    lost = damage(shard)
    if rebooted:
        reboot(shard)
    found: list[int] = []
    with pytest.raises(LogDamaged) as caught, ShardReader.open(shard, 0) as reader:
        while got := reader.poll(1 << 20):
            found += [record.offset for message in got for record in records(message)]
    assert found in (list(range(lost.start)), [])
    error = caught.value
    assert error.first_offset == lost.start
    assert error.end_offset == lost.stop
    assert str(error.path) in str(error)
    assert f"offsets {lost.start} to {lost.stop - 1} cannot be read" in str(error)


@pytest.mark.parametrize("rebooted", [False, True], ids=["same boot", "another boot"])
@pytest.mark.parametrize("damage", TAIL + MIDDLE, ids=name)
def test_salvage_delivers_everything_else_and_names_the_range(
    shard: Shard, damage: Damage, rebooted: bool
) -> None:
    lost = damage(shard)
    if rebooted:
        reboot(shard)
    found, passed = read(shard, salvage=True)
    assert found == [offset for offset in range(RECORDS) if offset not in lost]
    assert [(gap.first_offset, gap.end_offset, gap.why) for gap in passed] == [(lost.start, lost.stop, DAMAGED)]


@pytest.mark.parametrize("rebooted", [False, True], ids=["same boot", "another boot"])
@pytest.mark.parametrize("damage", TAIL, ids=name)
def test_a_writer_refuses_a_log_whose_end_is_damaged_and_cuts_nothing(
    shard: Shard, damage: Damage, rebooted: bool
) -> None:
    lost = damage(shard)
    if rebooted:
        reboot(shard)
    before = {path.name: path.read_bytes() for path in shard.directory.glob("*.arrow*")}
    unread = (zero_the_last_message, flip_in_the_last_segment, zero_in_the_middle_of_the_last_segment)
    if damage in unread and not rebooted:
        pytest.skip("what was committed since the machine was started is not read again; readers find it")
    with pytest.raises(LogDamaged) as caught:
        open_writer(shard)
    assert caught.value.first_offset == lost.start
    assert caught.value.end_offset == lost.stop
    assert {path.name: path.read_bytes() for path in shard.directory.glob("*.arrow*")} == before


@pytest.mark.parametrize("damage", TAIL + MIDDLE, ids=name)
def test_what_the_ledger_names_is_passed_by_everybody_and_the_log_goes_on(shard: Shard, damage: Damage) -> None:
    lost = damage(shard)
    reboot(shard)
    gaps.record(shard, Gap(lost.start, lost.stop, DAMAGED))
    if damage is damage_the_header_of_the_last_segment:
        list_segments(shard)[-1].path.unlink()  # as repair does: there is no way to go on in it
    found, passed = read(shard)
    assert found == [offset for offset in range(RECORDS) if offset not in lost]
    assert [gap[:3] for gap in passed] == [(lost.start, lost.stop, DAMAGED)]
    with open_writer(shard) as writer:
        assert writer.end_offset == RECORDS
        writer.append([NewRecord(b"after", "k", 1)])
    with ShardReader.open(shard, RECORDS) as reader:
        assert [record.data for message in reader.poll(1 << 20) for record in records(message)] == [b"after"]


def test_a_reader_behind_the_damage_is_not_held_up_by_it(shard: Shard) -> None:
    lost = flip_in_the_last_segment(shard)
    assert read(shard, lost.stop) == (list(range(lost.stop, RECORDS)), [])


def test_a_reader_inside_the_damage_stands_before_the_rest_of_it(shard: Shard) -> None:
    lost = flip_in_the_last_segment(shard)
    found, (gap,) = read(shard, lost.start + 1, salvage=True)
    assert found == list(range(lost.stop, RECORDS))
    assert (gap.first_offset, gap.end_offset) == (lost.start + 1, lost.stop)


def test_a_salvaging_reader_follows_a_log_whose_end_is_damaged(shard: Shard) -> None:
    """The damage lies at the committed end; what comes after it is delivered when it comes."""
    with open_writer(shard) as writer, ShardReader.open(shard, 0, salvage=True) as reader:
        lost = zero_the_last_message(shard)
        found: list[int] = []
        for _ in range(2):
            while (got := reader.poll(1 << 20)) or reader.gap is not None:
                found += [record.offset for message in got for record in records(message)]
                if reader.gap is not None:
                    assert reader.skip()[:3] == (lost.start, lost.stop, DAMAGED)
            writer.append([NewRecord(b"next", "k", 1)])
            writer.commit()
        assert found == [*range(lost.start), RECORDS]


def test_the_sequence_numbers_of_damaged_records_are_named_where_the_shard_gave_them(shard: Shard) -> None:
    lost = flip_in_the_last_segment(shard)
    first, last = (f"{shard.sequence_base}{offset:020d}" for offset in (lost.start, lost.stop - 1))
    with pytest.raises(LogDamaged, match=f"sequence numbers {first} to {last}"):
        read(shard)
    _, (gap,) = read(shard, salvage=True)
    assert (gap.first_sequence_number, gap.last_sequence_number) == (first, last)
    position, length, _ = messages(shard, -1)[0]
    assert (gap.file, gap.byte) == (list_segments(shard)[-1].path.name, position + length)


def test_no_sequence_numbers_are_named_where_the_shard_has_captured_ones(shard: Shard) -> None:
    with open_writer(shard) as writer:
        writer.append([NewRecord(b"captured", "k", 1, "9" * 60)])
        writer.commit()
        lost = flip_in_a_sealed_segment(shard)
    with pytest.raises(LogDamaged) as caught, ShardReader.open(shard, 0) as reader:
        reader.poll(1 << 20)
    assert (caught.value.first_offset, caught.value.end_offset) == (lost.start, lost.stop)
    assert "sequence numbers" not in str(caught.value)


def test_what_was_trimmed_is_a_gap_and_no_damage(shard: Shard) -> None:
    lost = lose_the_first_segment(shard)
    gaps.record_trim(shard, lost.stop)
    found, (gap,) = read(shard, lost.start + 2)
    assert found == list(range(lost.stop, RECORDS))
    assert gap[:3] == (2, lost.stop, "trimmed")
