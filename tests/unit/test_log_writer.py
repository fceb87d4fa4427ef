"""Appending: limits, fencing, recovery of torn tails, and damage that is never papered over."""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from streamfn import limits
from streamfn.errors import BusyError, DiskFull, LogDamaged, LogError, RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.shard import active as active_segment
from streamfn.log.shard import writer
from streamfn.log.shard.reader import ShardReader, records, segments
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage import commit
from streamfn.types import NewRecord

SEGMENT = 64 * 1024


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return DataDir.open(tmp_path / "data", create=True).create_stream("s").shards[0]


def numbered(start: int, stop: int, size: int = 100) -> list[NewRecord]:
    return [NewRecord(b"%d:" % i + bytes([i % 256]) * size, f"key {i}", i) for i in range(start, stop)]


def open_writer(shard: Shard) -> ShardWriter:
    return ShardWriter.open(shard, wait_s=0, segment_bytes=SEGMENT)


def contents(shard: Shard) -> list[bytes]:
    with ShardReader.open(shard, 0) as reader:
        return [r.data for got in iter(lambda: reader.poll(1 << 30), []) for m in got for r in records(m)]


def active(shard: Shard) -> Path:
    return max(shard.directory.glob("*.arrows"))


def another_boot(shard: Shard) -> None:
    path = shard.directory / "commit"
    known = commit.decode(path.read_bytes())
    assert known is not None
    path.write_bytes(commit.encode(known._replace(boot_id="an earlier boot")))


@pytest.mark.parametrize(
    "record",
    [
        NewRecord(b"x", ""),
        NewRecord(b"x", "k" * 257),
        NewRecord(b"x", "\ud800"),
        NewRecord(bytes(limits.RECORD_BYTES_MAX + 1), "k"),
        NewRecord(b"x", "k", -1),
        NewRecord(b"x", "k", limits.ARRIVAL_MS_MAX + 1),
    ],
    ids=["no key", "long key", "surrogate", "large", "before 1970", "after 9999"],
)
def test_records_that_break_a_limit_are_refused_and_nothing_is_appended(
    shard: Shard, record: NewRecord
) -> None:
    with open_writer(shard) as writer:
        with pytest.raises(RefusedError):
            writer.append([NewRecord(b"good", "k"), record])
        assert writer.end_offset == 0


def test_records_at_the_limits_are_kept(shard: Shard) -> None:
    at_limits = [
        NewRecord(bytes(limits.RECORD_BYTES_MAX), "k" * 256, limits.ARRIVAL_MS_MAX),
        NewRecord(b"", "\U0001f600" * 256, 0),
    ]
    with ShardWriter.open(shard) as writer:
        assert writer.append(at_limits) == range(2)
    with ShardReader.open(shard, 0) as reader:
        found = [r for got in iter(lambda: reader.poll(1), []) for m in got for r in records(m)]
    assert [NewRecord(r.data, r.partition_key, r.arrival_ms) for r in found] == at_limits


def test_columns_of_any_arrow_type_that_fits_are_taken(shard: Shard) -> None:
    data = pa.array(["a", "bb", "", "dddd"], pa.large_string())
    keys = pa.array(["k", "l", "m", "n"], pa.large_string())
    arrival = pa.array([1_000_000, 2_000_000, 3_999_999, 0], pa.timestamp("us")).cast(
        pa.timestamp("ms"), safe=False
    )
    with open_writer(shard) as writer:
        writer.append_columns(data.slice(1), keys.slice(1), arrival.slice(1))
    with ShardReader.open(shard, 0) as reader:
        found = records(reader.poll(1)[0])
    assert [(r.data, r.partition_key, r.arrival_ms) for r in found] == [
        (b"bb", "l", 2000),
        (b"", "m", 3999),
        (b"dddd", "n", 0),
    ]


@pytest.mark.parametrize(
    ("data", "keys", "arrival"),
    [
        (["a", None], ["k", "k"], None),
        (["a", "b"], ["k", None], None),
        (["a"], ["k", "k"], None),
        (["a"], ["k"], [None]),
        (["a"], ["k"], [-1]),
        (["a"], [""], None),
        (["a"], ["k" * 257], None),
        ([1], ["k"], None),
        (["a"], ["k"], ["yesterday"]),
    ],
)
def test_columns_that_break_a_limit_are_refused(
    shard: Shard, data: list[Any], keys: list[Any], arrival: Any
) -> None:
    with open_writer(shard) as writer:
        with pytest.raises(RefusedError):
            writer.append_columns(
                pa.array(data), pa.array(keys), None if arrival is None else pa.array(arrival)
            )
        assert writer.end_offset == 0


def test_a_second_writer_is_refused_with_the_pid_of_the_first(shard: Shard) -> None:
    with open_writer(shard), pytest.raises(BusyError, match=f"{shard.id} .* in use by process {os.getpid()}"):
        open_writer(shard)
    open_writer(shard).close()


def test_a_full_segment_is_sealed_and_the_next_begins_where_it_ends(shard: Shard) -> None:
    with open_writer(shard) as writer:
        for start in range(0, 2000, 10):
            writer.append(numbered(start, start + 10))
    assert writer.sealing_problem is None
    found = segments(shard)
    assert len(found) > 3
    assert [info.sealed for info in found] == [True] * (len(found) - 1) + [False]
    assert all(a.first_offset + a.records == b.first_offset for a, b in pairwise(found))
    assert contents(shard) == [record.data for record in numbered(0, 2000)]
    assert not list(shard.directory.glob("*.tmp")) + list(shard.directory.glob("*.sealing"))


def test_after_a_failed_sync_the_writer_takes_nothing_more(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    writer = open_writer(shard)
    writer.append(numbered(0, 3))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fail)
        with pytest.raises(LogError, match="sync failed"):
            writer.commit()
    for call in (lambda: writer.append(numbered(3, 4)), writer.commit):
        with pytest.raises(LogError, match="until it is opened again"):
            call()
    with ShardReader.open(shard, 0) as reader:
        assert reader.committed().end_offset == 0
    writer.close()
    with open_writer(shard) as again:
        assert again.end_offset == 3
        assert again.recovered.kept_records == 3


@pytest.mark.parametrize("good_writes", range(6))
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_leaves_nothing_half_appended(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, good_writes: int, number: int
) -> None:
    """Every second write is cut short, and then one fails."""
    left = [good_writes]

    def short(fd: int, view: memoryview, position: int) -> int:
        if not left[0]:
            raise OSError(number, os.strerror(number))
        left[0] -= 1
        return os.pwrite(fd, bytes(view[: max(1, len(view) // 2)]), position)

    with open_writer(shard) as opened:
        opened.append(numbered(0, 2))
        with monkeypatch.context() as patched:
            patched.setattr(active_segment, "write_all", lambda disk, fd, view, at: _write_with(short, fd, view, at))
            with pytest.raises(DiskFull if number == errno.ENOSPC else LogError):
                opened.append(numbered(2, 4))
        assert opened.end_offset == 2
        assert active(shard).read_bytes()[opened._position :].count(0) == SEGMENT - opened._position
        opened.append(numbered(2, 5))
    assert contents(shard) == [record.data for record in numbered(0, 5)]


def _write_with(write: Any, fd: int, view: memoryview, position: int) -> None:
    while view:
        written = write(fd, view, position)
        view = view[written:]
        position += written


def test_too_little_free_space_refuses_before_writing(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_writer(shard) as opened:
        opened.append(numbered(0, 2))
        with monkeypatch.context() as patched:
            patched.setattr(writer, "floor_bytes", lambda status: 1 << 60)
            with pytest.raises(DiskFull, match="bytes are free"):
                opened.append(numbered(2, 3))
        assert opened.append(numbered(2, 3)) == range(2, 3)


@pytest.mark.parametrize("reboot", [False, True])
def test_a_torn_tail_is_cut_at_every_byte_and_reported(shard: Shard, reboot: bool) -> None:
    with open_writer(shard) as opened:
        opened.append(numbered(0, 2))
        opened.commit()
        start = opened._position
        opened.append(numbered(2, 3, 10))
        end = opened._position
        published = (shard.directory / "commit").read_bytes()
        opened._abandon()
    path = active(shard)
    whole = path.read_bytes()
    for stop in range(start + 1, end):
        (shard.directory / "commit").write_bytes(published)
        if reboot:
            another_boot(shard)
        for torn in (whole[start:stop], bytes(8) + whole[start + 8 : stop]):
            with path.open("r+b") as file:
                file.seek(start)
                file.write(torn + bytes(end - start - len(torn)))
            intact = torn + bytes(end - start - len(torn)) == whole[start:end]
            with open_writer(shard) as again:
                assert again.end_offset == 3 if intact else 2
                assert intact or again.recovered.cut_bytes == len(torn.rstrip(b"\0"))
                again._abandon()
            (shard.directory / "commit").write_bytes(published)
            assert path.read_bytes()[start:].count(0) == SEGMENT - start or intact
    assert path.stat().st_size == SEGMENT


def test_damage_below_what_was_committed_is_never_cut(shard: Shard) -> None:
    with open_writer(shard) as opened:
        opened.append(numbered(0, 2))
        opened.commit()
        middle = opened._position
        opened.append(numbered(2, 4))
    path = active(shard)
    before = bytearray(path.read_bytes())
    for what in (slice(middle, middle + 8), slice(middle + 400, middle + 401)):
        damaged = bytearray(before)
        damaged[what] = bytes(what.stop - what.start)
        assert damaged != before
        path.write_bytes(damaged)
        another_boot(shard)
        for call in (lambda: open_writer(shard), lambda: ShardReader.open(shard, 0)):
            with pytest.raises(
                LogDamaged, match=rf"{path.name} is damaged at byte {middle}: .* offset 2, but 4 records"
            ):
                call()
        assert path.read_bytes() == damaged


def test_damage_before_a_record_known_to_follow_synced_ones_is_never_cut(shard: Shard) -> None:
    """The commit file is lost; only the later message knows that the damaged one was durable."""
    with open_writer(shard) as opened:
        opened.append(numbered(0, 2))
        opened.commit()
        opened.append(numbered(2, 4))
    path = active(shard)
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    (shard.directory / "commit").write_bytes(b"")
    with pytest.raises(LogDamaged, match="offset 0, but records up to 2 were durable"):
        open_writer(shard)
    assert path.read_bytes() == content


def test_a_lost_commit_file_is_restored_from_the_log(shard: Shard) -> None:
    with open_writer(shard) as opened:
        opened.append(numbered(0, 4))
    (shard.directory / "commit").unlink()
    with open_writer(shard) as again:
        assert again.end_offset == again.committed_offset == 4
        assert again.append(numbered(4, 5)) == range(4, 5)
    assert contents(shard) == [record.data for record in numbered(0, 5)]


def test_missing_and_foreign_segments_are_damage(shard: Shard, tmp_path: Path) -> None:
    with open_writer(shard) as opened:
        for start in range(0, 1000, 10):
            opened.append(numbered(start, start + 10))
    path = active(shard)
    path.rename(tmp_path / "away")
    with pytest.raises(LogDamaged, match=f"{path.name} is missing"):
        open_writer(shard)
    content = bytearray((tmp_path / "away").read_bytes())
    path.write_bytes(content[:300])
    with pytest.raises(LogDamaged, match="ends after 300 bytes, inside its header"):
        open_writer(shard)
    path.write_bytes(content.replace(shard.stream_id.encode(), b"0123456789abcdef"))
    with pytest.raises(LogDamaged, match=f"does not begin as a segment of shard {shard.id}"):
        open_writer(shard)
    path.write_bytes(content[: -SEGMENT // 2])
    known = commit.decode((shard.directory / "commit").read_bytes())
    if known is not None and known.length > SEGMENT // 2:
        with pytest.raises(LogDamaged, match="where the file was cut"):
            open_writer(shard)


def test_a_crash_at_any_moment_of_sealing_is_finished_by_the_next_writer(shard: Shard) -> None:
    with open_writer(shard) as opened:
        opened._sealer.seal = lambda first, end, *_: None  # type: ignore[method-assign]
        for start in range(0, 2000, 10):
            opened.append(numbered(start, start + 10))
    unsealed = sorted(shard.directory.glob("*.arrows"))
    assert len(unsealed) > 3
    first = unsealed[0].read_bytes()
    unsealed[0].with_suffix(".sealing").write_bytes(b"half")
    unsealed[1].with_suffix(".tmp").write_bytes(b"half")
    expected = [record.data for record in numbered(0, 2000)]
    assert contents(shard) == expected
    open_writer(shard).close()
    assert len(list(shard.directory.glob("*.arrows"))) == 1
    unsealed[0].write_bytes(first)  # as if the crash came between rename and unlink
    assert contents(shard) == expected
    open_writer(shard).close()
    assert not unsealed[0].exists()
    assert contents(shard) == expected
    assert {path.suffix for path in shard.directory.iterdir()} == {"", ".arrow", ".arrows", ".json"}


def test_a_damaged_segment_is_not_sealed(shard: Shard) -> None:
    with open_writer(shard) as opened:
        opened._sealer.seal = lambda first, end, *_: None  # type: ignore[method-assign]
        for start in range(0, 2000, 10):
            opened.append(numbered(start, start + 10))
    path = min(shard.directory.glob("*.arrows"))
    content = bytearray(path.read_bytes())
    content[SEGMENT // 2] ^= 1
    path.write_bytes(content)
    with open_writer(shard) as again:
        pass
    assert again.sealing_problem is not None
    assert path.name in again.sealing_problem
    assert path.read_bytes() == content
    with pytest.raises(
        LogDamaged, match=rf"{path.name} is damaged at byte \d+: no valid record at offset \d+"
    ):
        contents(shard)


def test_what_a_failed_sync_left_is_written_again_before_it_is_called_durable(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_writer(shard) as first:
        first.append(numbered(0, 2))
        first.commit()
        durable = commit.CommitFile.open(shard.disk, shard.directory, write=False).read()
        assert durable is not None
        first.append(numbered(2, 4))
        monkeypatch.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "sync")))
        with pytest.raises(LogError):
            first.commit()
        monkeypatch.undo()
    written: list[tuple[int, int]] = []
    pwrite = os.pwrite

    def spy(fd: int, data: Any, position: int) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".arrows"):
            written.append((position, position + len(data)))
        return pwrite(fd, data, position)

    monkeypatch.setattr(os, "pwrite", spy)
    with open_writer(shard) as second:
        assert second.committed_offset == 4
    assert written
    assert written[0][0] == durable.length, "from what was durable on, everything is written again"
    assert contents(shard) == [record.data for record in numbered(0, 4)]
