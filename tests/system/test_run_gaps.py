"""What is gone from the log, salvaged over, lost or trimmed: said, counted, durable, and skipped once."""

import re

import pytest
from run_rig import until
from test_run_damage import append_messages, flip
from witness import deliveries

from streamfn.log.segment.segment import list_segments
from streamfn.log.shard import gaps
from streamfn.state.discards import Discard
from streamfn.state.store import Store


def discards(place, name="seen.handler@s"):
    with Store.open(place.data / "state.db", create=False, read_only=True) as store:
        return [one.discard for one in store.discards(store.mapping(name).uuid)]


def trim(shard, segments):
    """What retention does: note it, then unlink the oldest segments.  Returns the first offset that is left."""
    files = list_segments(shard)
    gaps.record_trim(shard, files[segments].first_offset)
    for file in files[:segments]:
        file.path.unlink()
    return files[segments].first_offset


def test_salvage_goes_on_behind_damage_and_says_counts_and_keeps_what_was_lost(place):
    place.stream(shards=2)
    shards = [append_messages(place, number, 6) for number in range(2)]
    log = place.log()
    path, position, offset = flip(shards[1], 30)
    done = place.caught_up("seen.handler", "--batch-size", "7", "--on-damage", "salvage")
    assert done.code == 3
    found = deliveries(place.seen)
    assert found[shards[0].id] == log[shards[0].id]
    assert found[shards[1].id] == log[shards[1].id][:offset] + log[shards[1].id][offset + 10 :]
    assert (done.summary["records"], done.summary["lost"], done.summary["trimmed"]) == (110, 10, 0)
    assert place.checkpoints("seen.handler@s") == {shards[0].id: 60, shards[1].id: 60}
    (row,) = discards(place)
    assert row[:4] == (shards[1].id, offset, offset + 10, gaps.DAMAGED)
    assert path.name in row.detail
    assert str(position) in row.detail
    assert f"offsets {offset} to {offset + 9}" in done.err
    again = place.caught_up("seen.handler", "--on-damage", "salvage")
    assert (again.code, again.summary["lost"]) == (0, 0)
    assert deliveries(place.seen) == found


def test_damage_up_to_the_end_is_salvaged_over_too(place):
    place.stream()
    shard = append_messages(place, 0, 3)
    flip(shard, 20)
    done = place.caught_up("seen.handler", "--on-damage", "salvage")
    assert (done.code, done.summary["records"], done.summary["lost"]) == (3, 20, 10)
    assert place.checkpoints("seen.handler@s") == {shard.id: 30}
    place.put(["later"])
    assert place.caught_up("seen.handler").summary["records"] == 1


def test_a_missing_segment_is_salvaged_over(place):
    place.stream()
    shard = append_messages(place, 0, 60, segment_bytes=8192)
    _, second, third, *_ = list_segments(shard)
    second.path.unlink()
    assert place.caught_up("seen.handler").code == 1
    done = place.caught_up("seen.handler", "--on-damage", "salvage")
    lost = third.first_offset - second.first_offset
    assert (done.code, done.summary["lost"], done.summary["records"]) == (3, lost, 600 - lost - second.first_offset)


def test_what_the_ledger_names_is_skipped_without_being_asked(place):
    place.stream()
    shard = append_messages(place, 0, 60, segment_bytes=8192)
    _, second, third, *_ = list_segments(shard)
    gaps.record(shard, gaps.Gap(second.first_offset, third.first_offset, gaps.LOST))
    second.path.unlink()
    done = place.caught_up("seen.handler")
    lost = third.first_offset - second.first_offset
    assert (done.code, done.summary["lost"], done.summary["records"]) == (3, lost, 600 - lost)
    assert [row.reason for row in discards(place)] == [gaps.LOST]


@pytest.mark.conformance(
    "shards/trimmed-while-stopped",
    source="inferred",
    rule="A mapping whose checkpoint points at records that are gone goes on with the oldest that is left, "
    "and nothing is delivered again.",
    differs="AWS says nothing of them; here they are counted, said, and kept with the checkpoint.",
)
def test_what_a_stopped_mapping_lost_to_retention_is_counted_as_trimmed_and_said(place):
    place.stream()
    shard = append_messages(place, 0, 60, segment_bytes=8192)
    assert place.run("run", "seen.handler", "--stream", "s", "--limit", "5").code == 0
    left = trim(shard, 2)
    done = place.caught_up("seen.handler")
    assert done.code == 0
    assert (done.summary["trimmed"], done.summary["records"], done.summary["lost"]) == (left - 5, 600 - left, 0)
    assert discards(place) == [Discard(shard.id, 5, left, gaps.TRIMMED, discards(place)[0].detail)]
    assert re.search(rf"{left - 5} records are gone, offsets 5 to {left - 1}: trimmed", done.err)


def test_a_new_mapping_begins_at_the_horizon_and_has_lost_nothing(place):
    place.stream()
    shard = append_messages(place, 0, 60, segment_bytes=8192)
    left = trim(shard, 2)
    done = place.caught_up("seen.handler")
    assert (done.code, done.summary["records"], done.summary["trimmed"]) == (0, 600 - left, 0)


def test_what_a_mapping_has_read_already_survives_retention_and_the_rest_is_counted(place):
    place.stream()
    shard = append_messages(place, 0, 60, segment_bytes=8192)
    with place.following("seen.held", "--batch-size", "10", "--timeout", "60") as run:
        until(lambda: deliveries(place.seen)[shard.id], "the first delivery")
        trim(shard, len(list_segments(shard)) - 1)
        (place.notes / "go").touch()
        place.put(["last"])
        until(lambda: place.checkpoints("seen.held@s")[shard.id] == 601, "the end")
        run.signal()
        assert run.wait() == 0
    trimmed = [offset for row in discards(place, "seen.held@s") for offset in range(row.first_offset, row.end_offset)]
    delivered = [int(number[-20:]) for number in deliveries(place.seen)[shard.id]]
    assert sorted(delivered + trimmed) == list(range(601))
    assert delivered[:10] == list(range(10))
