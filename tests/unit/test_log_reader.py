"""Reading: positions, shared segments, rolling and sealing underneath, and being told of news."""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path

import pytest

from streamfn.errors import LogDamaged, LogError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.segment.segment import Segment
from streamfn.log.shard import gaps
from streamfn.log.shard.reader import Message, ShardReader, horizon, records, segments
from streamfn.log.shard.seek import offset_at_time
from streamfn.log.shard.watch import CommitWatch
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage import commit
from streamfn.log.upkeep.reshard import split_shard
from streamfn.types import NewRecord

SEGMENT = 64 * 1024


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return DataDir.open(tmp_path / "data", create=True).create_stream("s", 2)


@pytest.fixture
def shard(stream: Stream) -> Shard:
    return stream.shards[0]


def still_open(shard: Shard) -> list[Segment]:
    """What this process has open of the shard; another test's threads may not have let theirs go yet."""
    return [segment for segment in Segment._open.values() if segment.path.parent == shard.directory]


def numbered(start: int, stop: int) -> list[NewRecord]:
    return [NewRecord(b"%d" % i, f"key {i}", i) for i in range(start, stop)]


def offsets(messages: list[Message]) -> list[int]:
    return [record.offset for message in messages for record in records(message)]


def test_a_shard_without_records_reads_as_empty(shard: Shard) -> None:
    for _ in range(2):
        with ShardReader.open(shard, 0) as reader:
            assert reader.poll(1000) == []
            assert reader.committed().end_offset == 0
        assert horizon(shard) == offset_at_time(shard, 0) == 0
        assert sum(info.records for info in segments(shard)) == 0
        ShardWriter.open(shard).close()  # and once more with a segment that holds its header only


def test_what_is_not_committed_is_not_read(shard: Shard) -> None:
    with ShardWriter.open(shard) as writer, ShardReader.open(shard, 0) as reader:
        writer.append(numbered(0, 3))
        assert reader.poll(1000) == []
        writer.commit()
        assert offsets(reader.poll(1000)) == [0, 1, 2]
        assert reader.poll(1000) == []
        assert reader.position == reader.committed().end_offset == 3


def test_a_position_inside_a_message_returns_the_message_whole(shard: Shard) -> None:
    with ShardWriter.open(shard) as writer:
        for start in (0, 5, 10):
            writer.append(numbered(start, start + 5))
    with ShardReader.open(shard, 7) as reader:
        assert reader.position == 7
        (first, second) = reader.poll(1 << 20)
        assert (first.first_offset, first.rows, second.first_offset) == (5, 5, 10)
        assert [record.offset for record in records(first, 2)] == [7, 8, 9]
        assert [record.data for record in records(first, 1, 2)] == [b"6", b"7"]
        assert reader.position == 15


def test_a_position_past_the_end_is_an_error_not_a_wait(shard: Shard) -> None:
    with pytest.raises(LogDamaged, match="ends at offset 0, before 1"):
        ShardReader.open(shard, 1)


def test_reading_stops_before_until_offset_and_goes_on_later(shard: Shard) -> None:
    with ShardWriter.open(shard) as writer:
        for start in range(0, 30, 5):
            writer.append(numbered(start, start + 5))
    with ShardReader.open(shard, 0) as reader:
        assert offsets(reader.poll(1 << 20, until_offset=12)) == list(range(15))
        assert reader.poll(1 << 20, until_offset=15) == []
        assert offsets(reader.poll(1 << 20, messages_max=1)) == list(range(15, 20))
        assert offsets(reader.poll(0)) == list(range(20, 25))
        assert offsets(reader.poll(1 << 20)) == list(range(25, 30))


def test_readers_of_one_process_share_a_mapping_and_let_it_go(shard: Shard) -> None:
    with ShardWriter.open(shard) as writer:
        writer.append(numbered(0, 3))
    one, two = ShardReader.open(shard, 0), ShardReader.open(shard, 0)
    (first,), (second,) = one.poll(1), two.poll(1)
    assert first.segment is second.segment
    assert first.segment.proven == first.cdata.position + first.bytes
    segment = first.segment.retain()
    one.close()
    two.close()
    assert offsets([first]) == [0, 1, 2]
    os.fstat(segment.fd)
    segment.release()
    assert segment.address == 0
    assert not still_open(shard)
    with ShardReader.open(shard, 0) as again:
        assert again.poll(1)[0].segment.id != segment.id


def test_a_slow_reader_keeps_its_place_while_segments_roll_and_are_sealed_and_unlinked(shard: Shard) -> None:
    writer = ShardWriter.open(shard, segment_bytes=SEGMENT)
    readers = [ShardReader.open(shard, 0) for _ in range(3)]
    seen: list[list[int]] = [[] for _ in readers]
    for start in range(0, 5000, 10):
        writer.append(numbered(start, start + 10))
        writer.commit()
        for pace, reader in enumerate(readers):
            if start % (10 * 7**pace) == 0:
                seen[pace] += offsets(reader.poll(1, messages_max=7**pace))
    writer.close()
    assert len(list(shard.directory.glob("*.arrow"))) > 5
    for reader, found in zip(readers, seen, strict=True):
        # A sealed segment has larger messages: the first one may begin before the position.
        while got := reader.poll(1 << 20):
            found += [offset for offset in offsets(got) if not found or offset > found[-1]]
        assert sorted(set(found)) == list(range(5000))
        reader.close()
    assert not still_open(shard)


def test_a_flipped_bit_is_reported_with_file_byte_and_offset(shard: Shard) -> None:
    with ShardWriter.open(shard, segment_bytes=SEGMENT) as writer:
        writer.append(numbered(0, 3))
        position = writer._position
        writer.append(numbered(3, 6))
    path = max(shard.directory.glob("*.arrows"))
    content = bytearray(path.read_bytes())
    content[position + 600] ^= 4
    path.write_bytes(content)
    with ShardReader.open(shard, 0) as reader:
        assert offsets(reader.poll(1)) == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(LogDamaged, match=rf"{path} is damaged at byte {position}: .* offset 3,"):
                reader.poll(1)
    assert not still_open(shard)


def test_a_missing_segment_in_the_middle_is_damage_not_a_skip(shard: Shard) -> None:
    with ShardWriter.open(shard, segment_bytes=SEGMENT) as writer:
        for start in range(0, 2000, 10):
            writer.append(numbered(start, start + 10))
    files = sorted(shard.directory.glob("*.arrow"))
    files[1].unlink()
    with ShardReader.open(shard, 0) as reader:
        with pytest.raises(LogDamaged, match="the next segment begins at"):
            list(iter(lambda: reader.poll(1 << 20), []))
        assert reader.position == int(files[1].stem)
    files[0].unlink()
    with (
        pytest.raises(LogDamaged, match="has no segment with offset 0"),
        ShardReader.open(shard, 0) as reader,
    ):
        reader.poll(1)


def test_a_damaged_commit_file_is_an_error_for_who_reads_and_restored_by_who_opens(shard: Shard) -> None:
    with ShardWriter.open(shard) as writer:
        writer.append(numbered(0, 3))
    with ShardReader.open(shard, 0) as reader:
        reader.poll(1)
        (shard.directory / "commit").write_bytes(b"\1" * 300)
        with pytest.raises(LogDamaged, match="commit is damaged"):
            reader.poll(1)
    with ShardReader.open(shard, 0) as reader:
        assert offsets(reader.poll(1)) == [0, 1, 2]
    (shard.directory / "commit").unlink()
    with pytest.raises(LogError, match="cannot read shard"):
        ShardReader.open(shard, 0)


def test_a_reader_under_a_live_writer_never_recovers(shard: Shard) -> None:
    with ShardWriter.open(shard) as writer:
        writer.append(numbered(0, 3))
        writer.commit()
        path = shard.directory / "commit"
        known = commit.decode(path.read_bytes())
        assert known is not None
        path.write_bytes(commit.encode(known._replace(boot_id="an earlier boot")))
        writer.append(numbered(3, 4))
        with ShardReader.open(shard, 0) as reader:
            assert offsets(reader.poll(1)) == [0, 1, 2]
            assert reader.poll(1) == []
            writer.commit()
            assert offsets(reader.poll(1)) == [3]


def test_polling_from_changing_threads(shard: Shard) -> None:
    found: list[int] = []
    with ShardWriter.open(shard) as writer, ShardReader.open(shard, 0) as reader:
        for start in range(0, 50, 5):
            writer.append(numbered(start, start + 5))
            writer.commit()
            thread = threading.Thread(target=lambda: found.extend(offsets(reader.poll(1 << 20))))
            thread.start()
            thread.join()
    assert found == list(range(50))


def test_a_watch_tells_which_shards_were_committed_to(stream: Stream) -> None:
    first, second = stream.shards
    with CommitWatch[str]() as watch, ShardWriter.open(first) as one, ShardWriter.open(second) as two:
        watch.add(first, "a")
        watch.add(first, "b")
        watch.add(second, "c")
        assert watch.drain() == set()
        one.append(numbered(0, 1))
        assert watch.drain() == set()
        one.commit()
        assert select.select([watch], [], [], 5)[0] == [watch]
        assert watch.drain() == {"a", "b"}
        watch.remove("a")
        watch.remove("nobody")
        for _ in range(3):
            for writer in (one, two):
                writer.append(numbered(0, 1))
                writer.commit()
        assert watch.drain() == {"b", "c"}
        watch.remove("b")
        one.append(numbered(0, 1))
        one.commit()
        assert watch.drain() == set()


def test_a_watch_tells_when_a_stream_is_described_anew_and_of_nothing_else_there(
    tmp_path: Path, stream: Stream
) -> None:
    with CommitWatch[str]() as watch:
        watch.add(stream, "s")
        (tmp_path / "other").write_text("")
        (tmp_path / "other").rename(stream.directory / "capture.json")
        with ShardWriter.open(stream.shards[0]) as writer:
            writer.append(numbered(0, 1))
        assert watch.drain() == set()
        split_shard(DataDir.open(tmp_path / "data", create=False), "s", stream.shards[0].id)
        assert watch.drain() == {"s"}
        watch.remove("s")
        split_shard(DataDir.open(tmp_path / "data", create=False), "s", stream.shards[1].id)
        assert watch.drain() == set()


def test_a_watch_tells_of_a_deleted_stream_once(tmp_path: Path, stream: Stream) -> None:
    with CommitWatch[int]() as watch:
        watch.add(stream.shards[0], 7)
        DataDir.open(tmp_path / "data", create=False).delete_stream("s")
        assert watch.drain() == {7}
        assert watch.drain() == set()
        watch.remove(7)
        with pytest.raises(LogError, match="cannot watch"):
            watch.add(stream.shards[0], 7)


def test_a_reader_keeps_one_descriptor_open_and_none_where_there_is_nothing_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a process a few more: the first commit files that it reads stay open."""
    monkeypatch.setattr(commit, "READ_OPEN_MAX", commit.CommitFile._read_open + 5)
    stream = DataDir.open(tmp_path / "data", create=True).create_stream("wide", 40)
    for shard in stream.shards[:20]:
        with ShardWriter.open(shard) as writer:
            writer.append(numbered(0, 3))
    before = len(os.listdir("/proc/self/fd"))
    readers = [ShardReader.open(shard, 0) for shard in stream.shards]
    assert [len(offsets(reader.poll(1000))) for reader in readers] == [3] * 20 + [0] * 20
    assert len(os.listdir("/proc/self/fd")) == before + 20 + 5
    for reader in readers:
        reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("segment_bytes", [SEGMENT, 64 * SEGMENT])
def test_a_reader_passes_over_what_nobody_wants(shard: Shard, segment_bytes: int) -> None:
    with ShardWriter.open(shard, segment_bytes=segment_bytes, threaded=False) as writer:
        for start in range(0, 3000, 5):
            writer.append([NewRecord(b"%04d" % i * 20, "key", i) for i in range(start, start + 5)])
        writer.commit()
    assert (len(segments(shard)) > 2) == (segment_bytes == SEGMENT)  # sealed ones and an active one, or that alone
    with ShardReader.open(shard, 0) as reader:
        for offset in (12, 700, 1500, 2999):  # each in a message of its own, sealed or not
            reader.pass_to(offset)
            reader.pass_to(3)  # an earlier one: it stays
            assert reader.position == offset
            (message,) = reader.poll(1, messages_max=1)
            assert message.first_offset <= offset < message.first_offset + message.rows
            (record,) = records(message, offset - message.first_offset, 1)
            assert record.data == b"%04d" % offset * 20
        reader.pass_to(3000)
        assert reader.poll(1 << 20) == []


def test_a_reader_that_stands_before_a_gap_may_pass_to_behind_it(shard: Shard) -> None:
    with ShardWriter.open(shard) as writer:
        writer.append(numbered(0, 10))
        writer.commit()
    gaps.record_trim(shard, 7)
    with ShardReader.open(shard, 2) as reader:
        assert reader.poll(1000) == []
        assert reader.gap is not None
        reader.pass_to(8)
        assert reader.gap is None
        (message,) = reader.poll(1000)
        assert (message.first_offset, reader.position) == (0, 10)
