"""Compaction, compression and retention beside running mappings: they go on, in order, and count what was taken."""

import json

from run_rig import until
from witness import deliveries

from streamfn.log.format.footer import ZSTD
from streamfn.log.shard import gaps
from streamfn.log.shard.chain import read_chain
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord


def sealed_segments(place, count, records=20):
    """Append so many sealed segments."""
    (shard,) = place.opened().shards
    with ShardWriter.open(shard) as writer:
        for _ in range(count):
            at = writer.end_offset
            writer.append([NewRecord(b"%d " % number * 50, f"key {number}") for number in range(at, at + records)])
            writer.roll()
    return shard


def test_a_mapping_in_the_middle_of_a_log_that_is_compacted_and_compressed_goes_on(place):
    place.stream()
    shard = sealed_segments(place, 12)
    log = place.log()
    with place.following("seen.slow", "--batch-size", "3", "--json") as run:
        until(lambda: len(deliveries(place.seen).get(shard.id, ())) > 20, "some deliveries")
        done = place.run("compact", "s", "--zstd", "--json")
        assert (done.code, json.loads(done.out)["merged"]) == (0, 12)
        assert [link.footer.codec for link in read_chain(shard).links if link.footer] == [ZSTD]
        sealed_segments(place, 2)  # it has found its way into what came after
        until(lambda: len(deliveries(place.seen)[shard.id]) == 280, "all deliveries")
        run.signal()
        assert run.wait() == 0
    found = deliveries(place.seen)[shard.id]
    assert found == place.log()[shard.id]
    assert found[:240] == log[shard.id]
    assert (run.summary["records"], run.summary["trimmed"]) == (280, 0)


def test_a_new_mapping_reads_a_cold_log_from_its_begin_and_from_a_time(place):
    place.stream()
    shard = sealed_segments(place, 3)
    assert place.run("compact", "s", "--zstd").code == 0
    assert place.caught_up("seen.handler", "--batch-size", "7").summary["records"] == 60
    assert deliveries(place.seen)[shard.id] == place.log()[shard.id]
    assert place.run("verify", "s", "--deep").code == 0


def test_retention_takes_nothing_that_a_running_mapping_has_read_and_the_mapping_counts_the_rest(place):
    place.stream()
    shard = sealed_segments(place, 8)
    assert place.run("retention", "s", "--bytes", "30kB").code == 0
    with place.following("seen.slow", "--batch-size", "2", "--json") as run:
        until(lambda: len(deliveries(place.seen).get(shard.id, ())) > 3, "some deliveries")
        assert place.run("trim", "s").code == 0
        horizon = gaps.read(shard).horizon
        assert horizon > 40
        until(lambda: deliveries(place.seen)[shard.id][-1:] == place.log()[shard.id][-1:], "the last delivery")
        run.signal()
        assert run.wait() == 0
    found = [int(number[-20:]) for number in deliveries(place.seen)[shard.id]]
    first_left = next(offset for offset in found if offset >= horizon)
    before = [offset for offset in found if offset < first_left]
    assert found == [*range(len(before)), *range(horizon, 160)]
    assert run.summary["trimmed"] == horizon - len(before)
    assert run.summary["records"] == len(found)
