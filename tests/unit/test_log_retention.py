"""Retention: by age, which two clocks must agree on, and by bytes; what goes is named first, and stays for users."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from streamfn import limits
from streamfn.log.catalog.age import FILE_NAME, Moment, ShardClock
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Retention, Shard, Stream
from streamfn.log.format.footer import PLAIN, Footer
from streamfn.log.segment.segment import SegmentFile
from streamfn.log.shard import gaps, retention
from streamfn.log.shard.chain import Link, read_chain
from streamfn.log.shard.reader import ShardReader, horizon, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.disk import Space
from streamfn.log.upkeep import upkeep
from streamfn.log.upkeep.reshard import split_shard
from streamfn.types import NewRecord

SEGMENT = 16 * 1024
HOUR_MS = 3_600_000


@dataclasses.dataclass
class Clock:
    """Both clocks of a machine, turned by hand; milliseconds."""

    wall_ms: int = 1_700_000_000_000
    up_ms: int = 50_000

    def monotonic_ns(self) -> int:
        return self.up_ms * 1_000_000

    def unix_ms(self) -> int:
        return self.wall_ms

    def passes(self, ms: int) -> None:
        self.wall_ms += ms
        self.up_ms += ms


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir.open(tmp_path / "data", create=True)


@pytest.fixture
def stream(data: DataDir) -> Stream:
    return data.create_stream("s")


def keep(data: DataDir, stream: Stream, **kept: int) -> None:
    data.change_stream(stream.id, lambda found: found.with_retention(Retention(**kept), found.cold_after_s))


def open_writer(shard: Shard, clock: Clock) -> ShardWriter:
    return ShardWriter.open(shard, wait_s=0, clock=clock, segment_bytes=SEGMENT, threaded=False)


def segment(writer: ShardWriter, size: int = 100) -> None:
    """Append ten records of an arrival time long ago, and have them sealed."""
    at = writer.end_offset
    writer.append([NewRecord(b"%d:" % i + bytes(size), "k", 1000 + i) for i in range(at, at + 10)])
    writer.roll()


def link(number: int, size: int = 100, at: Moment | None = None) -> Link:
    footer = Footer(PLAIN, 10 * number + 10, at.wall_ms, at.lived_ms, ()) if at else None
    file = SegmentFile(10 * number, True, Path(f"{number}.arrow"))
    return Link(file, 10 * number + 10, footer, size, 5 if at is None else at.wall_ms)


def test_without_retention_nothing_goes(data: DataDir, stream: Stream) -> None:
    clock = Clock()
    with open_writer(stream.shards[0], clock) as writer:
        for _ in range(5):
            segment(writer)
            clock.passes(1000 * HOUR_MS)
    assert horizon(stream.shards[0]) == 0


def test_age_counts_from_the_append_not_from_the_arrival(data: DataDir, stream: Stream) -> None:
    shard, clock = stream.shards[0], Clock()
    keep(data, stream, age_s=3600)
    with open_writer(shard, clock) as writer:
        segment(writer)  # arrived in 1970
        clock.passes(HOUR_MS // 2)
        segment(writer)
        assert horizon(shard) == 0
        clock.passes(HOUR_MS // 2 + 2)
        segment(writer)
        assert horizon(shard) == 10
        assert [(gap.first_offset, gap.end_offset, gap.why) for gap in gaps.read(shard).gaps] == [(0, 10, "trimmed")]
        clock.passes(24 * HOUR_MS)
        segment(writer)
        assert horizon(shard) == 30
    with open_writer(shard, clock) as writer:
        assert writer.end_offset == 40


@pytest.mark.parametrize("jump_ms", [365 * 24 * HOUR_MS, -365 * 24 * HOUR_MS])
def test_a_jump_of_the_wall_clock_trims_nothing(data: DataDir, stream: Stream, jump_ms: int) -> None:
    shard, clock = stream.shards[0], Clock()
    keep(data, stream, age_s=3600)
    with open_writer(shard, clock) as writer:
        segment(writer)
        clock.wall_ms += jump_ms
        segment(writer)
        assert horizon(shard) == 0
    with open_writer(shard, clock) as writer:  # nor does a process that knows the wrong time only
        segment(writer)
        assert horizon(shard) == 0
        clock.wall_ms -= jump_ms
        segment(writer)
        clock.passes(2 * HOUR_MS)
        segment(writer)
        assert horizon(shard) >= 10


@pytest.mark.parametrize("kept_before", [True, False], ids=["retention first", "records first"])
def test_records_of_a_process_that_ended_are_as_old_as_they_are(
    data: DataDir, stream: Stream, kept_before: bool
) -> None:
    shard, clock = stream.shards[0], Clock()
    if kept_before:
        keep(data, stream, age_s=3600)
    with open_writer(shard, clock) as writer:
        writer.append([NewRecord(b"x", "k")] * 3)
    if not kept_before:
        keep(data, stream, age_s=3600)
        upkeep.note_age(shard, clock)
    clock.passes(HOUR_MS // 2)
    with open_writer(shard, clock):
        pass  # a writer that appends nothing makes nothing younger
    clock.passes(HOUR_MS // 2 + 1)
    at_ms = clock.wall_ms - HOUR_MS - 1
    for path in shard.directory.glob("*.arrows"):
        os.utime(path, (at_ms / 1000, at_ms / 1000))
    assert upkeep.trim_by_retention(shard, Retention(age_s=3600), clock)[:2] == (1, 3)
    assert horizon(shard) == 3
    assert upkeep.trim_by_retention(shard, Retention(age_s=3600), clock)[:2] == (0, 0)


def test_what_was_appended_after_a_note_is_not_taken_for_older(data: DataDir, stream: Stream) -> None:
    shard, clock = stream.shards[0], Clock()
    upkeep.note_age(shard, clock)
    with open_writer(shard, clock) as writer:
        writer.append([NewRecord(b"x", "k")] * 3)
    clock.passes(2 * HOUR_MS)
    for path in shard.directory.glob("*.arrows"):
        os.utime(path, (1, 1))
    keep(data, stream, age_s=3600)
    assert upkeep.trim_by_retention(shard, Retention(age_s=3600), clock).records == 0
    clock.passes(HOUR_MS + 1)
    assert upkeep.trim_by_retention(shard, Retention(age_s=3600), clock).records == 3


def test_what_cannot_be_noted_is_said_and_holds_nobody_up(
    data: DataDir, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    shard, clock = stream.shards[0], Clock()
    keep(data, stream, age_s=3600)
    with open_writer(shard, clock) as writer:
        writer.append([NewRecord(b"x", "k")])
        described = (stream.directory / "stream.json").read_bytes()
        (stream.directory / "stream.json").write_bytes(b"{")
    assert "its last records are kept longer" in caplog.text
    (stream.directory / "stream.json").write_bytes(described)
    with open_writer(shard, clock) as writer:
        assert writer.end_offset == 1


def test_a_trim_tells_of_what_sealing_the_last_segment_has_trimmed_too(data: DataDir, stream: Stream) -> None:
    shard, clock = stream.shards[0], Clock()
    keep(data, stream, age_s=3600)
    with open_writer(shard, clock) as writer:
        segment(writer)
        writer.append([NewRecord(b"x", "k")] * 5)
    for path in shard.directory.glob("*.arrows"):
        os.utime(path, (1, 1))
    clock.passes(2 * HOUR_MS)
    assert upkeep.trim_by_retention(shard, Retention(age_s=3600), clock)[:2] == (2, 15)


def test_a_disk_too_full_to_seal_is_no_reason_not_to_trim(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    shard, clock = stream.shards[0], Clock()
    with open_writer(shard, clock) as writer:
        writer.append([NewRecord(bytes(1000), "k")] * 10)
        room = Space(free=limits.FREE_BYTES_MIN + 4096, total=1 << 40)
        monkeypatch.setattr(type(shard.disk), "space", lambda self, fd: room)
        writer.roll()
        writer.append([NewRecord(b"x", "k")])
    assert [link.file.sealed for link in read_chain(shard).links] == [False, False]
    assert upkeep.trim(shard, upkeep.below_offset(10), clock)[:2] == (1, 10)
    assert [path.name for path in sorted(shard.directory.glob("*0.arrow*"))] == [f"{10:020d}.arrow"]


def test_the_time_that_a_machine_was_off_does_not_count(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    shard, clock = stream.shards[0], Clock(up_ms=70_000)
    assert ShardClock(shard, clock).now() == Moment(clock.wall_ms, 70_000)
    clock.passes(5000)
    assert ShardClock(shard, clock).now().lived_ms == 75_000
    monkeypatch.setattr(type(shard.disk), "boot_id", lambda self: "another boot")
    clock.wall_ms, clock.up_ms = clock.wall_ms + 1000 * HOUR_MS, 20_000
    assert ShardClock(shard, clock).now().lived_ms == 90_000  # what was noted in the first boot, and this one


def test_a_damaged_clock_begins_behind_what_the_segments_say(stream: Stream) -> None:
    shard, clock = stream.shards[0], Clock(up_ms=10_000)
    ShardClock(shard, clock).now()
    (shard.directory / FILE_NAME).write_bytes(b'{"boot_id": "x", "monotonic_ms": 0, "lived_ms": 1e9, "crc32": 0}')
    assert ShardClock(shard, clock).now(at_least_ms=500_000).lived_ms == 500_000
    clock.passes(10)
    assert ShardClock(shard, clock).now().lived_ms == 500_010


def test_a_segment_expires_when_both_clocks_say_so() -> None:
    now = Moment(100_000, 50_000)
    hour = Retention(age_s=10)
    assert retention.expired([link(0, at=Moment(89_999, 39_999))], hour, now) == 1
    assert retention.expired([link(0, at=Moment(90_000, 39_999))], hour, now) == 0
    assert retention.expired([link(0, at=Moment(89_999, 40_000))], hour, now) == 0
    assert retention.expired([link(0)], hour, now) == 1  # sealed before footers had a time: its file's
    young, old = link(0, at=Moment(95_000, 45_000)), link(1, at=Moment(5, 5))
    assert retention.expired([young, old], hour, now) == 0  # never out of the middle


def test_by_bytes_at_least_so_many_are_kept() -> None:
    links = [link(number, 100) for number in range(5)]
    active = Link(SegmentFile(50, False, Path("50.arrows")), None, None, 30, 5)
    now = Moment(0, 0)
    kept = {size: 5 - retention.expired([*links, active], Retention(bytes=size), now) for size in (1, 30, 31, 130, 230)}
    assert kept == {1: 0, 30: 0, 31: 1, 130: 1, 230: 2}
    assert retention.expired([*links, active], Retention(bytes=531), now) == 0


def test_retention_by_bytes_is_applied_when_a_segment_is_sealed(data: DataDir, stream: Stream) -> None:
    shard = stream.shards[0]
    keep(data, stream, bytes=40_000)
    with open_writer(shard, Clock()) as writer:
        for _ in range(12):
            segment(writer, 800)
        links = read_chain(shard).links
    assert 40_000 <= sum(link.bytes for link in links) < 40_000 + 2 * SEGMENT
    assert gaps.read(shard).horizon == links[0].file.first_offset == horizon(shard) > 0


def test_who_has_a_segment_mapped_keeps_it(data: DataDir, stream: Stream) -> None:
    shard, clock = stream.shards[0], Clock()
    keep(data, stream, age_s=1)
    with open_writer(shard, clock) as writer:
        segment(writer)
        with ShardReader.open(shard, 0) as reader:
            (message,) = reader.poll(1 << 20)
            held = message.segment.retain()
            clock.passes(10_000)
            segment(writer)
            assert horizon(shard) == 10
            assert not held.path.exists()
            assert [record.offset for record in records(message)] == list(range(10))
            held.release()


def test_a_crash_between_ledger_and_unlink_is_finished_by_the_next_writer(stream: Stream) -> None:
    shard, clock = stream.shards[0], Clock()
    with open_writer(shard, clock) as writer:
        for _ in range(4):
            segment(writer)
    gaps.record_trim(shard, 20)
    with open_writer(shard, clock):
        assert horizon(shard) == 20


def test_a_segment_rolls_by_age_also_across_writers(data: DataDir, stream: Stream) -> None:
    shard, clock = stream.shards[0], Clock(wall_ms=stream.created_ms)
    keep(data, stream, age_s=80)
    for _ in range(50):  # a process for every record, as `put` in a script
        with open_writer(shard, clock) as writer:
            writer.append([NewRecord(b"x", "k")])
        active = max(shard.directory.glob("*.arrows"))
        os.utime(active, ns=(0, clock.wall_ms * 1_000_000))  # files know no other clock
        clock.passes(4000)
    starts = [link.file.first_offset for link in read_chain(shard).links]
    assert 5 < len(starts) < 15
    assert starts[0] > 10


def test_a_segment_rolls_by_an_age_that_is_asked_for(stream: Stream) -> None:
    shard, clock = stream.shards[0], Clock()
    with ShardWriter.open(shard, clock=clock, segment_age_s=60, threaded=False) as writer:
        writer.append([NewRecord(b"x", "k")])
        clock.passes(59_999)
        writer.append([NewRecord(b"x", "k")])
        clock.passes(1)
        writer.append([NewRecord(b"x", "k")])
    assert [link.file.first_offset for link in read_chain(shard).links] == [0, 2]


def test_shards_that_were_split_are_trimmed_by_the_writers_of_their_children(data: DataDir, stream: Stream) -> None:
    parent, clock = stream.shards[0], Clock()
    with open_writer(parent, clock) as writer:
        segment(writer)
        segment(writer)
    children = split_shard(data, "s", parent.id).open_shards
    keep(data, stream, age_s=3600)
    with open_writer(children[0], clock) as writer:
        segment(writer)
        assert horizon(parent) == 0
        clock.passes(2 * HOUR_MS)
        segment(writer)
    assert horizon(parent) == 20
    with ShardReader.open(parent, 0) as reader:
        assert reader.poll(1) == []
        assert reader.skip().end_offset == reader.committed().end_offset == 20
