"""Repairing a shard: what can be read stays, what cannot is named, and the backup has every byte of before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamfn.clock import SystemClock
from streamfn.errors import BusyError, LogDamaged
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard, sequence_order
from streamfn.log.segment.segment import list_segments
from streamfn.log.shard import gaps
from streamfn.log.shard.compact import compact
from streamfn.log.shard.reserve import BLOCK
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.upkeep.repair import Repaired, repair_shard
from streamfn.log.upkeep.upkeep import sealed
from streamfn.log.upkeep.verify import verify_shard
from streamfn.types import NewRecord

RECORDS = 60


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return make(tmp_path / "data")


def make(data: Path, *, cold: bool = False, source: str | None = None) -> Shard:
    """A shard of 60 records in several sealed segments and an active one.

    `cold` ones are compressed; records with a `source` have columns for its numbers.
    """
    shard = DataDir.open(data, create=True).create_stream("s").shards[0]
    with ShardWriter.open(shard, segment_bytes=16 * 1024) as writer:
        for i in range(RECORDS):
            record = NewRecord(b"%d:" % i + bytes(1000), f"key {i}", i)
            writer.append([record._replace(source_sequence_number=source, source_subsequence_number=source and i)])
    if cold:
        with sealed(shard, SystemClock()):
            compact(shard, 1 << 62, cold_after_s=0, segment_bytes=0)
    return shard


def repair(shard: Shard) -> tuple[Repaired, Path]:
    backup = shard.directory.parents[2] / "backups" / str(len(list(shard.directory.parents[2].glob("backups/*"))))
    return repair_shard(shard, backup, now_ms=1_700_000_000_000), backup


def damage(path: Path, position: int, length: int = 1) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        content = file.read(length)
        file.seek(position)
        file.write(bytes(byte ^ 0xA5 for byte in content))


def readable(shard: Shard) -> list[int]:
    """The offsets of the records that a stock Arrow reader finds, in the order of the segments."""
    found: list[int] = []
    for file in list_segments(shard):
        with pa.memory_map(str(file.path)) as content:
            opened = pa.ipc.open_file(content) if file.sealed else pa.ipc.open_stream(content)
            table = opened.read_all()
        for number, data in zip(table["sequence_number"].to_pylist(), table["data"].to_pylist(), strict=True):
            assert int(data[: data.index(b":")]) == int(number[-20:])
            found.append(int(number[-20:]))
    return found


def lost(shard: Shard) -> list[int]:
    return [offset for gap in gaps.read(shard).gaps for offset in range(gap.first_offset, gap.end_offset)]


def test_a_sound_shard_is_left_alone_and_no_backup_is_made(shard: Shard) -> None:
    before = {path: path.read_bytes() for path in shard.directory.iterdir()}
    repaired, backup = repair(shard)
    assert repaired == Repaired([], [], [])
    assert not backup.exists()
    assert {path: path.read_bytes() for path in shard.directory.iterdir()} == before


def test_a_damaged_sealed_segment_is_written_anew_without_what_cannot_be_read(shard: Shard) -> None:
    file = list_segments(shard)[1]
    before = file.path.read_bytes()
    damage(file.path, len(before) // 2)
    broken = file.path.read_bytes()
    repaired, backup = repair(shard)
    assert repaired.left == []
    assert (backup / f"{file.path.name}.bak").read_bytes() == broken
    (gap,) = gaps.read(shard).gaps
    assert (gap.why, gap.file, gap.at_ms) == (gaps.DAMAGED, file.path.name, 1_700_000_000_000)
    assert sorted(readable(shard) + lost(shard)) == list(range(RECORDS))
    assert readable(shard) == sorted(readable(shard))


def test_damage_in_the_active_segment_keeps_what_lies_behind_it(shard: Shard) -> None:
    active = list_segments(shard)[-1]
    damage(active.path, 1500, 40)
    repaired, _ = repair(shard)
    assert repaired.left == []
    assert len(lost(shard)) in (1, 2)
    assert lost(shard)[0] == active.first_offset or lost(shard)[0] == active.first_offset + 1
    assert sorted(readable(shard) + lost(shard)) == list(range(RECORDS))


def test_damage_to_header_or_footer_loses_nothing(shard: Shard) -> None:
    first, second, *_ = list_segments(shard)
    damage(first.path, os.stat(first.path).st_size - 5, 3)
    damage(second.path, 100, 3)
    damage(list_segments(shard)[-1].path, 60, 3)
    repaired, _ = repair(shard)
    assert len(repaired.findings) >= 3
    assert (repaired.left, lost(shard), readable(shard)) == ([], [], list(range(RECORDS)))


def test_a_missing_segment_is_named_as_lost(shard: Shard) -> None:
    _, second, third, *_ = list_segments(shard)
    second.path.unlink()
    repaired, _ = repair(shard)
    assert repaired.left == []
    assert lost(shard) == list(range(second.first_offset, third.first_offset))
    assert [gap.why for gap in gaps.read(shard).gaps] == [gaps.LOST]


def test_after_a_repair_new_records_go_on_above_everything_that_was_ever_there(shard: Shard) -> None:
    for file in list_segments(shard):
        file.path.unlink()
    assert repair(shard)[0].left == []
    with ShardWriter.open(shard) as writer:
        assert writer.append([NewRecord(b"60:", "k")]) == range(RECORDS, RECORDS + 1)
    assert readable(shard) == [RECORDS]
    assert verify_shard(shard).findings == []


@pytest.mark.parametrize("content", [b"", b"junk", bytes(1024)], ids=["empty", "junk", "zeros"])
def test_a_damaged_reserve_is_written_anew_and_numbers_stay_above_captured_ones(shard: Shard, content: bytes) -> None:
    captured = "9" * 60
    with ShardWriter.open(shard) as writer:
        writer.append([NewRecord(b"captured", "k", 1, captured)])
    (shard.directory / "reserve").write_bytes(content)
    with pytest.raises(LogDamaged, match="reserve is damaged"):
        ShardWriter.open(shard)
    repaired, backup = repair(shard)
    assert [(finding.path.name, finding.records) for finding in repaired.findings] == [("reserve", 0)]
    assert (repaired.left, (backup / "reserve.bak").read_bytes()) == ([], content)
    with ShardWriter.open(shard) as writer:
        (offset,) = writer.append([NewRecord(b"after", "k")])
        assert offset == RECORDS + 1
        assert sequence_order(writer.sequence_number(offset)) > sequence_order(captured)


def test_behind_a_damaged_reserve_of_an_earlier_run_of_the_machine_offsets_are_passed_over(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shard.directory / "reserve").write_bytes(b"junk")
    monkeypatch.setattr(type(shard.disk), "boot_id", lambda self: "another run")
    repaired, _ = repair(shard)
    assert ([finding.path.name for finding in repaired.findings], repaired.left) == (["reserve"], [])
    with ShardWriter.open(shard) as writer:
        assert writer.append([NewRecord(b"after", "k")])[0] == RECORDS + 2 * BLOCK
    assert [(gap.first_offset, gap.why) for gap in gaps.read(shard).gaps] == [(RECORDS, "lost")]


def test_a_last_record_that_ends_in_zeros_is_kept_where_nothing_says_where_the_segment_ends(shard: Shard) -> None:
    with ShardWriter.open(shard) as writer:
        writer.roll()
        writer.finish_sealing()
        for i in range(RECORDS, RECORDS + 3):
            writer.append([NewRecord(b"%d:" % i + bytes(1000), "k")])
            writer.commit()
    damage(list_segments(shard)[-1].path, 1000)
    (shard.directory / "commit").unlink()
    repaired, _ = repair(shard)
    assert [(found.first_offset, found.end_offset) for found in repaired.findings] == [(0, 0), (RECORDS, RECORDS + 1)]
    assert repaired.left == []
    assert readable(shard) == [offset for offset in range(RECORDS + 3) if offset != RECORDS]


def test_a_damaged_commit_file_is_written_anew(shard: Shard) -> None:
    damage(shard.directory / "commit", 20, 4)
    repaired, backup = repair(shard)
    assert (repaired.left, lost(shard), readable(shard)) == ([], [], list(range(RECORDS)))
    assert (backup / "commit.bak").exists()


def test_a_damaged_ledger_is_written_anew_with_the_holes_as_lost(shard: Shard) -> None:
    first, second, third, *_ = list_segments(shard)
    first.path.unlink()
    gaps.record_trim(shard, second.first_offset)
    damage(shard.directory / gaps.FILE_NAME, 30, 4)
    repaired, backup = repair(shard)
    assert repaired.left == []
    assert lost(shard) == list(range(second.first_offset))
    assert (backup / f"{gaps.FILE_NAME}.bak").exists()
    assert third.path.exists()


def test_a_shard_that_somebody_appends_to_is_not_repaired(shard: Shard) -> None:
    damage(list_segments(shard)[0].path, 3000)
    with ShardWriter.open(shard), pytest.raises(BusyError, match=str(os.getpid())):
        repair_shard(shard, shard.directory.parents[2] / "backup", now_ms=0, wait_s=0)
    assert not (shard.directory.parents[2] / "backup").exists()


parts = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("kind", [{"cold": True}, {"source": "77"}, {"cold": True, "source": "77"}], ids=str)
def test_segments_of_every_make_are_repaired_wherever_they_are_damaged(tmp_path: Path, kind: dict[str, Any]) -> None:
    shard = make(tmp_path / "data", **kind)
    first, second, third, *_ = (file for file in list_segments(shard) if file.sealed)
    assert len(list_segments(shard)) > 5
    assert (os.stat(second.path).st_size < 5_000) == ("cold" in kind)
    damage(first.path, os.stat(first.path).st_size - 5, 3)  # the footer
    damage(second.path, 100, 3)  # the header
    damage(third.path, os.stat(third.path).st_size // 2, 3)
    assert {finding.path for finding in verify_shard(shard).findings} == {first.path, second.path, third.path}
    repaired, _ = repair(shard)
    assert repaired.left == []
    assert 0 < len(lost(shard)) <= 10
    assert sorted(readable(shard) + lost(shard)) == list(range(RECORDS))
    assert {offset for file in (first, second) for offset in (file.first_offset,)} <= set(readable(shard))


@given(
    st.lists(st.tuples(parts, parts, st.integers(1, 3000)), max_size=4),
    st.sets(st.integers(0, 4), max_size=2),
    st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_was_damaged_afterwards_everything_is_there_or_named_and_nothing_is_invented(
    tmp_path_factory: pytest.TempPathFactory, smears: list[tuple[float, float, int]], missing: set[int], cold: bool
) -> None:
    shard = make(tmp_path_factory.mktemp("repair") / "data", cold=cold)
    files = list_segments(shard)
    for which, where, length in smears:
        path = files[int(which * len(files))].path
        damage(path, int(where * min(os.stat(path).st_size, 16_000)), length)
    for number in missing:
        files[number].path.unlink()
    repaired, _ = repair(shard)
    assert repaired.left == []
    assert verify_shard(shard).findings == []
    found = readable(shard)
    assert sorted(found + lost(shard)) == list(range(RECORDS))
    assert found == sorted(set(found))
    with ShardWriter.open(shard) as writer:
        assert writer.end_offset == RECORDS
