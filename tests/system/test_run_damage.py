"""Damage on disk, and disks that are full: what is sound is delivered, the rest is named, nothing is made up."""

import re
import subprocess

import pytest
from run_rig import Place, error_line, until
from witness import deliveries

from streamfn.errors import DiskFull
from streamfn.limits import SEGMENT_BYTES
from streamfn.log.shard import retention
from streamfn.log.shard.chain import read_chain
from streamfn.log.shard.reader import ShardReader
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord


def append_messages(place, shard_number, messages, segment_bytes=SEGMENT_BYTES):
    """One message of ten records each."""
    shard = place.opened().shards[shard_number]
    writer = ShardWriter.open(shard, segment_bytes=segment_bytes)
    for number in range(messages):
        writer.append([NewRecord(b"%d-%d" % (number, row), "k") for row in range(10)])
    writer.commit()
    writer.close()
    return shard


def flip(shard, offset, sealed=False):
    """Flip a byte in the data of an offset's message. Gives path, the message's position and its first offset."""
    with ShardReader.open(shard, offset) as reader:
        found = reader.poll(1)[0]
        path, position, offset = found.segment.path, found.cdata.position, found.first_offset
        assert found.segment.sealed == sealed
        at = found.cdata.column[6]
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x10]))
    return path, position, offset


@pytest.mark.parametrize("sealed", [False, True], ids=["active", "sealed"])
def test_a_damaged_segment_stops_its_shard_there_and_no_other(place, sealed):
    place.stream(shards=3)
    shards = [append_messages(place, number, 6, 4096 if sealed else SEGMENT_BYTES) for number in range(3)]
    log = place.log()
    path, position, offset = flip(shards[1], 30, sealed)
    assert 0 < offset <= 30
    done = place.caught_up("seen.handler", "--batch-size", "7")
    assert done.code == 1
    line = error_line(done)
    assert str(path) in line
    assert re.search(rf"\b{position}\b", line)
    assert re.search(rf"offset {offset}\b", line)
    found = deliveries(place.seen)
    assert found[shards[0].id] == log[shards[0].id]
    assert found[shards[2].id] == log[shards[2].id]
    assert found.get(shards[1].id, []) == log[shards[1].id][:offset]
    assert place.checkpoints("seen.handler@s") == {shards[0].id: 60, shards[1].id: offset, shards[2].id: 60}
    assert done.summary["records"] == 120 + offset
    again = place.caught_up("seen.handler")
    assert again.code == 1
    assert error_line(again) == line
    assert deliveries(place.seen) == found


def test_a_followed_run_names_the_damage_when_it_meets_it_and_serves_the_others(place):
    place.stream(shards=2)
    shards = [append_messages(place, number, 6) for number in range(2)]
    path, _, offset = flip(shards[0], 40)
    with place.following("seen.handler") as run:
        run.says(re.escape(str(path)))
        place.put(["later"], shard=1)
        until(lambda: len(deliveries(place.seen)[shards[1].id]) == 61, "the other shard's new record")
        run.signal()
        assert run.wait() == 1
    assert len(deliveries(place.seen)[shards[0].id]) == offset


@pytest.mark.parametrize("what", ["segment gone", "segment cut"])
def test_other_damage_is_one_line_and_the_other_shard_is_served(place, what):
    place.stream(shards=2)
    shards = [append_messages(place, number, 6) for number in range(2)]
    (segment,) = shards[0].directory.glob("*.arrows")
    if what == "segment gone":
        segment.unlink()
    else:
        with open(segment, "r+b") as file:
            file.truncate(2000)
    done = place.caught_up("seen.handler")
    assert done.code == 1
    assert str(shards[0].directory) in error_line(done)
    assert len(deliveries(place.seen)[shards[1].id]) == 60


@pytest.fixture
def small(tmp_path):
    """A place on a file system of a few megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip("a small tmpfs cannot be mounted here: " + made.stderr.strip())
    yield Place(tmp_path, disk / "data")
    subprocess.run(["umount", "-l", disk], check=True)


def fill(place):
    """Take every byte that is left. Gives the file to remove."""
    path = place.data.parent / "filler"
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return path


def test_a_full_disk_pauses_hand_over_and_it_goes_on_by_itself(small):
    shard = small.stream(contents=range(3000)).shards[0].id
    with small.following("seen.slow", "--batch-size", "10") as run:
        until(lambda: deliveries(small.seen)[shard], "a first delivery")
        filler = fill(small)
        run.says(r"streamfn: seen\.slow@s pauses, and goes on by itself: no space left")
        held = len(deliveries(small.seen)[shard])
        assert held < 3000
        filler.unlink()
        run.says("seen.slow@s goes on")
        until(lambda: len(deliveries(small.seen)[shard]) > held + 100, "more deliveries")
        run.signal()
        assert run.wait() == 0, run.err
    (offset,) = small.checkpoints("seen.slow@s").values()
    numbers = deliveries(small.seen)[shard]
    assert numbers == small.log()[shard][:offset]  # each once, in order, none behind the checkpoint


def test_where_appends_are_refused_for_space_a_run_still_delivers_and_checkpoints_and_a_trim_makes_room(small):
    shard = small.stream().shards[0]
    with ShardWriter.open(shard, segment_bytes=256 * 1024, threaded=False) as writer:
        with pytest.raises(DiskFull, match="bytes are free"):
            while True:
                writer.append([NewRecord(b"%06d" % (writer.end_offset + i) * 200, "k") for i in range(50)])
        writer.commit()
        end = writer.end_offset
        assert end > 1000
        done = small.caught_up("seen.handler", "--batch-size", "1000")
        assert done.code == 0, done.err
        assert len(deliveries(small.seen)[shard.id]) == end
        assert small.checkpoints("seen.handler@s") == {shard.id: end}
        with pytest.raises(DiskFull):
            writer.append([NewRecord(b"still full", "k")] * 50)
        links = retention.removable(read_chain(shard).links)
        retention.trim(shard, links[: len(links) // 2], 0)
        assert writer.append([NewRecord(b"there is room", "k")]) == range(end, end + 1)
    assert small.caught_up("seen.handler").code == 0
    assert len(deliveries(small.seen)[shard.id]) == end + 1


def test_a_run_that_catches_up_on_a_full_disk_waits_with_its_end_until_the_checkpoint_is_durable(small):
    small.stream(contents=range(300))
    with small.following("seen.slow", "--until-caught-up", "--batch-size", "10") as run:
        until(lambda: deliveries(small.seen), "a first delivery")
        filler = fill(small)
        run.says("pauses")
        filler.unlink()
        assert run.wait() == 0, run.err
    assert set(small.checkpoints("seen.slow@s").values()) == {300}


def test_a_second_signal_ends_a_run_that_waits_for_space_and_the_next_one_repeats_what_was_not_committed(small):
    shard = small.stream(contents=range(3000)).shards[0].id
    with small.following("seen.slow", "--batch-size", "10") as run:
        until(lambda: deliveries(small.seen), "a first delivery")
        filler = fill(small)
        run.says("pauses")
        run.signal()
        run.says("again to stop at once")
        run.signal()
        assert run.wait() == 130
    (offset,) = small.checkpoints("seen.slow@s").values()
    held = deliveries(small.seen)[shard]
    assert offset < len(held)
    filler.unlink()
    assert small.caught_up("seen.handler", "--name", "seen.slow@s").code == 0
    log = small.log()[shard]
    assert deliveries(small.seen)[shard] == held + log[offset:]


def test_a_full_disk_at_the_start_is_one_line_and_makes_nothing(small):
    small.stream(contents=range(3))
    fill(small)
    done = small.caught_up("seen.handler")
    assert done.code == 1
    assert "no space left" in error_line(done).lower()
    assert not small.seen.exists()
    assert not (small.data / "state.db").exists()
