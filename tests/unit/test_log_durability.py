"""The three durabilities on a disk that forgets: what stays, what is lost, and where the log goes on."""

from __future__ import annotations

import errno
import logging
import random
from itertools import pairwise
from pathlib import Path

import pytest

from streamfn.errors import DiskFull, LogError, RefusedError
from streamfn.log.catalog.datadir import make_shard_directories
from streamfn.log.catalog.stream import Shard, Stream, sequence_order, uniform_shards
from streamfn.log.shard import gaps, reserve
from streamfn.log.shard.cursor import ShardCursor
from streamfn.log.shard.gaps import LOST, Gap
from streamfn.log.shard.reader import ShardReader, horizon, records, segments
from streamfn.log.shard.seek import offset_at_time
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage import commit
from streamfn.log.storage.commit import Commit
from streamfn.log.storage.durability import FSYNC, OS, Durability, interval
from streamfn.testing.disk import SimDisk
from streamfn.types import NewRecord, Record

SEGMENT = 16 * 1024
WEAK = [OS, interval(50)]


class Machine:
    """One shard on a disk that can lose its power; every record that was acknowledged, by offset."""

    def __init__(self) -> None:
        self.disk = SimDisk()
        directory = Path("/00c0ffee00c0ffee")
        self.disk.make_directory(directory)
        stream = Stream(directory, "s", "arn", 0, uniform_shards(directory, 1, disk=self.disk), disk=self.disk)
        make_shard_directories(stream, directory, stream.shards)
        (self._shard,) = stream.shards
        self.disk.sync_directory(directory)
        self.disk.sync_directory(Path("/"))
        self.given: dict[int, str] = {}

    @property
    def shard(self) -> Shard:
        return self._shard._replace(disk=self.disk)

    def open(self, durability: Durability = FSYNC) -> ShardWriter:
        return ShardWriter.open(self.shard, wait_s=0, segment_bytes=SEGMENT, durability=durability, threaded=False)

    def put(self, writer: ShardWriter, count: int, size: int = 50) -> range:
        offsets = writer.append([NewRecord(b"%d:" % i + b"x" * size, "k", i) for i in range(count)])
        writer.commit()
        self.given.update((offset, writer.sequence_number(offset)) for offset in offsets)
        return offsets

    def power_cut(self, *, keep: float = 0.0, seed: int = 0) -> None:
        """Lose what was not synced, all of it or each part by chance."""
        crash = self.disk.crash()
        chance = random.Random(seed)
        self.disk = SimDisk(
            crash.image([chance.randrange(count) if chance.random() < keep else 0 for count in crash.choices])
        )

    def kill(self) -> None:
        self.disk = SimDisk(self.disk.crash().killed())

    def read(self, offset: int = 0) -> tuple[list[Record], list[Gap]]:
        found: list[Record] = []
        passed: list[Gap] = []
        with ShardReader.open(self.shard, offset) as reader:
            while (got := reader.poll(1 << 20)) or reader.gap is not None:
                found += [record for message in got for record in records(message) if record.offset >= offset]
                if reader.gap is not None:
                    passed.append(reader.skip())
                offset = reader.position
        return found, passed


def test_fsync_keeps_everything_acknowledged_and_reserves_nothing() -> None:
    machine = Machine()
    writer = machine.open()
    machine.put(writer, 5)
    assert writer.synced_offset == writer.committed_offset == 5
    machine.power_cut()
    assert [record.offset for record in machine.read()[0]] == list(range(5))
    assert machine.open().end_offset == 5
    assert reserve.read(machine.shard) == reserve.NOTHING


@pytest.mark.parametrize("durability", WEAK, ids=str)
def test_a_weaker_durability_loses_what_was_not_synced_and_goes_on_above_everything_given_out(
    durability: Durability, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine()
    writer = machine.open(durability)
    machine.put(writer, 3)
    writer.sync()
    machine.put(writer, 4)
    assert (writer.synced_offset, writer.committed_offset) == (3, 7)
    highest = max(machine.given.values(), key=sequence_order)
    machine.power_cut()
    with caplog.at_level(logging.WARNING), machine.open(durability) as again:
        assert again.end_offset >= 7
        assert again.recovered.lost_offsets == again.end_offset - 3
        assert "records from offset 3 on were lost" in caplog.text
        (gap,) = gaps.read(machine.shard).gaps
        assert gap[:3] == (3, again.end_offset, LOST)
        (new,) = machine.put(again, 1)
        assert sequence_order(machine.given[new]) > sequence_order(highest)
        found, passed = machine.read()
        assert [record.offset for record in found] == [0, 1, 2, new]
        assert [one[:3] for one in passed] == [gap[:3]]


@pytest.mark.parametrize("durability", WEAK, ids=str)
def test_a_killed_process_loses_nothing_under_any_durability(durability: Durability) -> None:
    machine = Machine()
    writer = machine.open(durability)
    for _ in range(10):  # over several segments
        machine.put(writer, 30, 100)
    machine.kill()
    with machine.open(durability) as again:
        assert again.end_offset == 300
        assert again.recovered.lost_offsets == 0
        machine.put(again, 1)
    assert len(machine.read()[0]) == 301
    assert gaps.read(machine.shard).gaps == ()


def test_after_an_orderly_end_nothing_is_lost_and_no_offset_is_passed_over() -> None:
    machine = Machine()
    with machine.open(OS) as writer:
        machine.put(writer, 9)
    machine.power_cut()
    with machine.open(OS) as again:
        assert again.end_offset == 9
        assert gaps.read(machine.shard).gaps == ()


@pytest.mark.parametrize("seed", range(40))
def test_what_a_weaker_durability_keeps_is_a_prefix(seed: int) -> None:
    """Sectors are kept or lost one by one, again and again; what is left has no hole that the ledger does not name."""
    chance = random.Random(seed)
    machine = Machine()
    alive: set[int] = set()
    for _ in range(3):
        durable = set(alive)
        writer = machine.open(chance.choice(WEAK))
        for _ in range(chance.randrange(1, 12)):
            alive.update(machine.put(writer, chance.randrange(1, 6), chance.randrange(900)))
            if chance.random() < 0.3:
                writer.sync()
                durable = set(alive)
        given = writer.end_offset
        machine.power_cut(keep=0.6, seed=seed)
        reader_first = machine.read() if chance.random() < 0.5 else None
        with machine.open() as again:
            found, passed = machine.read()
            assert again.end_offset >= given
        covered = sorted([(r.offset, r.offset + 1) for r in found] + [gap[:2] for gap in passed])
        assert all(one[1] == two[0] for one, two in pairwise(covered))
        assert all(record.sequence_number == machine.given[record.offset] for record in found)
        kept = {record.offset for record in found}
        assert durable <= kept <= alive
        assert not alive - kept or min(alive - kept) > max(kept, default=-1)  # what is lost is the end
        assert reader_first is None or reader_first[0] == found
        alive = kept


def test_a_reader_ahead_of_a_shortened_log_waits_and_passes_the_gap_when_the_log_goes_on() -> None:
    machine = Machine()
    writer = machine.open(OS)
    machine.put(writer, 6)
    machine.power_cut()
    with ShardReader.open(machine.shard, 6) as reader:  # a mapping whose checkpoint was durable
        assert reader.committed().end_offset == 0
        assert reader.poll(1000) == []
        assert reader.gap is None
        with machine.open() as again:
            machine.put(again, 1)
            assert reader.poll(1000) == []
            assert reader.gap is not None
            assert reader.gap[:3] == (6, again.end_offset - 1, LOST)
            assert reader.skip().end_offset == reader.position == again.end_offset - 1
            assert [r.offset for m in reader.poll(1000) for r in records(m)] == [again.end_offset - 1]


def test_one_shot_readers_know_gaps() -> None:
    machine = Machine()
    writer = machine.open(OS)
    machine.put(writer, 2)
    writer.sync()
    machine.put(writer, 2)
    machine.power_cut()
    with machine.open() as again:
        offset = again.append([NewRecord(b"x", "k", 1000)]).start
        again.commit()
        assert offset_at_time(machine.shard, 500) == offset
        assert sum(info.records for info in segments(machine.shard)) == 3
        gaps.record_trim(machine.shard, 1)
        assert horizon(machine.shard) == 1
        found, passed = machine.read(0)
        assert [record.offset for record in found] == [1, offset]
        assert [gap.why for gap in passed] == ["trimmed", LOST]
        gaps.record_trim(machine.shard, 2)
        assert offset_at_time(machine.shard, 0) == offset


def test_two_losses_in_a_row_are_one_gap() -> None:
    machine = Machine()
    for _ in range(3):
        writer = machine.open(OS)
        machine.put(writer, 2)
        machine.power_cut()
    with machine.open() as writer:
        (gap,) = gaps.read(machine.shard).gaps
        assert (gap.first_offset, gap.end_offset, gap.why) == (0, writer.end_offset, LOST)
        names = [name for name in machine.disk.list_directory(machine.shard.directory) if "arrow" in name]
        assert names == [f"{writer.end_offset:020d}.arrows"]


def test_weak_appends_are_synced_before_a_stronger_writer_calls_them_durable() -> None:
    machine = Machine()
    writer = machine.open(OS)
    machine.put(writer, 4)
    machine.kill()
    with machine.open(FSYNC) as again:
        assert again.synced_offset == 4
        machine.put(again, 1)
        machine.power_cut()
    assert [record.offset for record in machine.read()[0]] == list(range(5))


@pytest.mark.parametrize("durability", [FSYNC, *WEAK], ids=str)
def test_after_a_failed_sync_what_the_next_writer_shows_is_on_the_disk(durability: Durability) -> None:
    """The system takes pages for clean that a failed sync did not write; another sync would do nothing, and succeed."""
    machine = Machine()
    writer = machine.open(durability)
    machine.put(writer, 3)
    writer.sync()

    def fail(call: str) -> None:
        if call == "sync":
            raise OSError(errno.EIO, "Input/output error")

    machine.disk.before = fail
    writer.append([NewRecord(b"x", "k", 1)])
    with pytest.raises(LogError, match="a sync failed: Input/output error"):
        writer.sync()
    with pytest.raises(LogError, match="takes no appends until it is opened again"):
        writer.append([NewRecord(b"y", "k", 1)])
    machine.disk.before = None
    writer.close()
    with machine.open(durability) as again:
        shown = [record.offset for record in machine.read()[0]]
        assert shown == list(range(again.end_offset))
        assert again.synced_offset == again.end_offset
        machine.power_cut()
    found, passed = machine.read()
    assert [record.offset for record in found] == shown
    assert not passed


def test_a_disk_too_full_to_reserve_offsets_refuses_the_append_and_takes_it_later() -> None:
    machine = Machine()
    writer = machine.open(OS)

    def full(call: str) -> None:
        if call == "pwrite":
            raise OSError(errno.ENOSPC, "No space left on device")

    machine.disk.before = full
    with pytest.raises(DiskFull):
        writer.append([NewRecord(b"x", "k", 1)])
    machine.disk.before = None
    assert machine.put(writer, 2) == range(2)
    assert reserve.read(machine.shard).offset >= 2


def test_captured_numbers_are_kept_and_numbers_given_afterwards_are_above_them() -> None:
    machine = Machine()
    captured = ["9" * 30, "1" + "0" * 60, "1" + "0" * 60 + "7"]
    with machine.open() as writer:
        writer.append([NewRecord(b"a", "k", 1, number) for number in captured[:2]])
        with pytest.raises(RefusedError, match=r"sequence number 99+ does not follow 10+"):
            writer.append([NewRecord(b"b", "k", 1, captured[0])])
        writer.append([NewRecord(b"b", "k", 1, captured[2])])
        (offset,) = writer.append([NewRecord(b"c", "k", 1)])
        given = writer.sequence_number(offset)
        writer.commit()
    with machine.open() as writer:
        with pytest.raises(RefusedError, match="does not follow"):
            writer.append([NewRecord(b"d", "k", 1, captured[2])])
        (offset,) = writer.append([NewRecord(b"d", "k", 1)])
        writer.commit()
        numbers = [record.sequence_number for record in machine.read()[0]]
    assert numbers == [*captured, given, writer.sequence_number(offset)]
    assert sorted(numbers, key=sequence_order) == numbers


def test_behind_the_highest_sequence_number_there_can_be_nothing_is_put_and_the_log_stays_whole() -> None:
    machine = Machine()
    highest = "9" * 129
    with machine.open() as writer:
        writer.append([NewRecord(b"a", "k", 1, highest)])
        writer.commit()
        for _ in range(2):
            with pytest.raises(RefusedError, match=r"at most 129 digits.*shardId-0+ has none left.*--new-seq"):
                writer.append([NewRecord(b"b", "k", 1)])
    with machine.open() as writer, pytest.raises(RefusedError, match="has none left"):
        writer.append([NewRecord(b"b", "k", 1)])
    assert [record.sequence_number for record in machine.read()[0]] == [highest]


def test_after_a_loss_numbers_given_are_above_captured_ones_that_nobody_has_any_more() -> None:
    machine = Machine()
    writer = machine.open(OS)
    number = "4" * 56
    writer.append([NewRecord(b"a", "k", 1, number)])
    writer.commit()
    machine.power_cut()
    with machine.open() as again:
        (offset,) = again.append([NewRecord(b"c", "k", 1)])
        assert sequence_order(again.sequence_number(offset)) > sequence_order(number)


def test_a_commit_file_of_the_first_version_is_read_as_all_synced() -> None:
    kept = Commit("boot", 3, 10, 512, 20, "49", 7, 20)
    record = commit._RECORD_1.pack(b"SFCOMMT1", b"boot", 3, 10, 512, 20, 7, b"49")
    content = record + commit._CRC.pack(commit.zlib.crc32(record))
    assert commit.decode(content) == kept
    assert commit.decode(content[:-1] + b"\0\0") is None
    assert commit.decode(commit.encode(kept._replace(closed=True))) == kept._replace(closed=True)


def test_a_cursor_passes_over_gaps_and_says_which() -> None:
    machine = Machine()
    writer = machine.open(OS)
    machine.put(writer, 2)
    writer.sync()
    machine.put(writer, 2)
    machine.power_cut()
    with machine.open() as again:
        (offset,) = machine.put(again, 1)
        with ShardCursor(machine.shard, 0, None) as cursor:
            assert [record.offset for record in cursor] == [0, 1, offset]
            assert [gap[:3] for gap in cursor.gaps] == [(2, offset, LOST)]
