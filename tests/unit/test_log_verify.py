"""Verifying a shard: whatever is not as it was written is named, with its file, bytes, offsets; and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.format import changes
from streamfn.log.segment.segment import list_segments
from streamfn.log.shard import gaps
from streamfn.log.shard.gaps import Gap
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.commit import decode
from streamfn.log.upkeep.deep import look_into
from streamfn.log.upkeep.upkeep import compact_shard
from streamfn.log.upkeep.verify import Finding, shard_bytes, verify_shard
from streamfn.types import NewChange, NewRecord

RECORDS = 60


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    """One shard of 60 records: several sealed segments and an active one."""
    stream = DataDir.open(tmp_path / "data", create=True).create_stream("s")
    fill(stream.shards[0], RECORDS)
    return stream


@pytest.fixture
def shard(stream: Stream) -> Shard:
    return stream.shards[0]


def fill(shard: Shard, records: int) -> None:
    with ShardWriter.open(shard, segment_bytes=16 * 1024) as writer:
        for i in range(records):
            writer.append([NewRecord(b"%d" % i + bytes(1000), f"key {i}", i)])


def flip(path: Path, position: int) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 0x10]))


def only_finding(shard: Shard) -> Finding:
    (finding,) = verify_shard(shard).findings
    return finding


def test_a_sound_shard_has_no_findings_and_everything_in_it_was_looked_at(shard: Shard) -> None:
    told: list[int] = []
    report = verify_shard(shard, told.append)
    assert (report.findings, report.notes, report.gaps) == ([], [], ())
    assert report.records == RECORDS
    assert report.segments == len(list_segments(shard)) > 3
    assert sum(told) == report.bytes > RECORDS * 1000
    assert shard_bytes(shard) > RECORDS * 1000


def test_an_empty_shard_is_sound(tmp_path: Path) -> None:
    shard = DataDir.open(tmp_path / "data", create=True).create_stream("s").shards[0]
    assert verify_shard(shard).findings == []
    fill(shard, 0)
    assert verify_shard(shard).findings == []


def test_a_flipped_bit_in_a_message_names_file_bytes_offsets_and_sequence_numbers(shard: Shard) -> None:
    first, second, *_ = list_segments(shard)
    flip(first.path, os.stat(first.path).st_size // 2)
    finding = only_finding(shard)
    assert finding.path == first.path
    assert finding.byte < os.stat(first.path).st_size // 2 < finding.end_byte
    assert (finding.first_offset, finding.end_offset) == (0, second.first_offset)  # it is one row group
    assert finding.first_sequence_number == f"{shard.sequence_base}{0:020d}"
    assert finding.last_sequence_number == f"{shard.sequence_base}{second.first_offset - 1:020d}"


def test_damage_to_a_footer_loses_no_record(shard: Shard) -> None:
    first = list_segments(shard)[0]
    flip(first.path, os.stat(first.path).st_size - 3)
    finding = only_finding(shard)
    assert (finding.path, finding.records) == (first.path, 0)


@given(where=st.floats(0, 1, exclude_max=True), number=st.integers(0, 2))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_byte_of_a_sealed_segment_is_changed_it_is_found_in_that_segment(
    shard: Shard, where: float, number: int
) -> None:
    path = list_segments(shard)[number].path
    position = int(where * os.stat(path).st_size)
    flip(path, position)
    try:
        findings = verify_shard(shard).findings
        assert findings
        assert {finding.path for finding in findings} == {path}
    finally:
        flip(path, position)
    assert not verify_shard(shard).findings


def test_a_missing_segment_is_named_with_what_it_held(shard: Shard) -> None:
    _, second, third, *_ = list_segments(shard)
    second.path.unlink()
    finding = only_finding(shard)
    assert (finding.first_offset, finding.end_offset) == (second.first_offset, third.first_offset)
    assert finding.path == second.path


def test_a_missing_first_segment_is_damage_unless_it_was_trimmed(shard: Shard) -> None:
    first, second, *_ = list_segments(shard)
    first.path.unlink()
    finding = only_finding(shard)
    assert (finding.first_offset, finding.end_offset) == (0, second.first_offset)
    gaps.record_trim(shard, second.first_offset)
    report = verify_shard(shard)
    assert report.findings == []
    assert [(gap.first_offset, gap.end_offset, gap.why) for gap in report.gaps] == [(0, second.first_offset, "trimmed")]


def test_a_hole_that_the_ledger_names_is_no_finding(shard: Shard) -> None:
    _, second, third, *_ = list_segments(shard)
    second.path.unlink()
    gaps.record(shard, Gap(second.first_offset, third.first_offset, gaps.DAMAGED))
    report = verify_shard(shard)
    assert report.findings == []
    assert report.records == RECORDS - (third.first_offset - second.first_offset)


def test_all_segments_missing(shard: Shard) -> None:
    for file in list_segments(shard):
        file.path.unlink()
    finding = only_finding(shard)
    assert (finding.first_offset, finding.end_offset) == (0, RECORDS)


def test_acknowledged_records_that_are_cut_away_at_a_messages_edge_are_missed(shard: Shard) -> None:
    active = list_segments(shard)[-1]
    with open(active.path, "rb") as file:
        content = file.read().rstrip(b"\0")
    last = content.rindex(b"\xff\xff\xff\xff")
    with open(active.path, "r+b") as file:
        file.seek(last)
        file.write(bytes(len(content) - last))
    finding = only_finding(shard)
    assert (finding.path, finding.byte) == (active.path, last)
    assert (finding.first_offset, finding.end_offset) == (RECORDS - 1, RECORDS)


def test_a_torn_append_that_nobody_acknowledged_is_no_finding(shard: Shard) -> None:
    active = list_segments(shard)[-1]
    commit = decode((shard.directory / "commit").read_bytes())
    assert commit is not None
    with open(active.path, "r+b") as file:
        file.seek(commit.length)
        file.write(b"\xff\xff\xff\xff torn")
    assert verify_shard(shard).findings == []


def test_a_damaged_commit_file_is_a_finding_and_the_records_are_checked_all_the_same(shard: Shard) -> None:
    flip(shard.directory / "commit", 20)
    report = verify_shard(shard)
    (finding,) = report.findings
    assert finding.path == shard.directory / "commit"
    assert report.records == RECORDS
    (shard.directory / "commit").unlink()
    assert "no commit file" in only_finding(shard).why


def test_a_damaged_ledger_is_a_finding(shard: Shard) -> None:
    second = list_segments(shard)[1]
    list_segments(shard)[0].path.unlink()
    gaps.record_trim(shard, second.first_offset)
    path = shard.directory / gaps.FILE_NAME
    path.write_text(path.read_text().replace("trimmed", "lost"))
    first, hole = verify_shard(shard).findings
    assert first.path == path
    assert (hole.first_offset, hole.end_offset) == (0, second.first_offset)


def test_a_segment_in_both_forms_is_a_note(shard: Shard) -> None:
    first = list_segments(shard)[0]
    first.path.with_suffix(".arrows").write_bytes(b"left over")
    report = verify_shard(shard)
    assert report.findings == []
    assert any("left over from sealing" in note for note in report.notes)


def test_looking_into_records_finds_what_a_checksum_cannot(stream: Stream) -> None:
    assert list(look_into(stream, stream.shards[0])) == []


def test_looking_into_changes_finds_images_that_are_not_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "check_change", lambda change: None)  # an append refuses them
    stream = DataDir.open(tmp_path / "data", create=True).create_stream("s", kind="dynamodb")
    good = NewChange("INSERT", b'{"id":{"N":"1"}}', b'{"id":{"N":"1"}}')
    with ShardWriter.open(stream.shards[0]) as writer:
        writer.append_changes([good])
        writer.append_changes([good, good._replace(new_image=b"{nonsense", size_bytes=9)])
    (nonsense,) = look_into(stream, stream.shards[0])
    assert (nonsense.first_offset, nonsense.end_offset, nonsense.why) == (1, 3, "new_image is not JSON")


def test_segments_that_a_killed_compaction_left_beside_the_merged_one_are_notes(shard: Shard) -> None:
    before = {file.path: file.path.read_bytes() for file in list_segments(shard) if file.sealed}
    compact_shard(shard, cold_after_s=None)
    merged = next(file for file in list_segments(shard) if file.sealed)
    left = [path for path in before if not path.exists()]
    assert len(left) > 2
    sound = verify_shard(shard)
    for path in left[:-1]:  # the last one was unlinked before the kill
        path.write_bytes(before[path])
    report = verify_shard(shard)
    assert report.findings == []
    assert (report.records, report.segments) == (sound.records, sound.segments)
    assert [str(path) in note for path, note in zip(left[:-1], report.notes, strict=True)] == [True] * (len(left) - 1)
    flip(merged.path, os.stat(merged.path).st_size - 3)  # its footer does not say any more how far it reaches
    assert {(finding.path, finding.records) for finding in verify_shard(shard).findings} == {(merged.path, 0)}
