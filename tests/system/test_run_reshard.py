"""Splits and merges under a running mapping: children after their parents, whatever fails or dies in between."""

import json
import random
import subprocess
import sys
import threading
import time

import pytest
from run_rig import until
from witness import deliveries, first_deliveries, invocations

from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.log.upkeep.reshard import merge_shards, split_shard, update_shard_count
from streamfn.log.upkeep.upkeep import below_offset, trim
from streamfn.types import NewRecord

KEYS = [f"key-{number}" for number in range(40)]


def data_of(place):
    return DataDir.open(place.data, create=True)


def put(place, count, keys=KEYS):
    """Records for all keys in turn, in an order that their sequence numbers tell."""
    with Producer(place.opened()) as producer:
        producer.submit([NewRecord(b"%d" % n, keys[n % len(keys)]) for n in range(count)]).result()


def judge(place):
    """Everything was delivered; a shard in its own order, and no record of a child before all of its parents'."""
    log, found = place.log(), deliveries(place.seen)
    for shard, numbers in log.items():
        assert sorted(set(found.get(shard, []))) == sorted(numbers), shard
        assert first_deliveries(found.get(shard, [])) == numbers, shard
    moments = [(shard, number) for shard, _, numbers in invocations(place.seen) for number in numbers]
    first, done = {}, {}
    for moment, (shard, number) in enumerate(moments):
        first.setdefault(shard, moment)
        done.setdefault((shard, number), moment)
    stream = place.opened()
    for shard in stream.shards:
        for ancestor in ancestors(stream, shard):
            for number in log[ancestor]:
                assert shard.id not in first or done[ancestor, number] < first[shard.id]


def ancestors(stream, shard):
    found = set(shard.parents)
    for parent in shard.parents:
        found |= ancestors(stream, stream.shard(parent))
    return found


def seen(place):
    return {number for _, _, numbers in invocations(place.seen) for number in numbers}


def stored(place):
    return sum(map(len, place.log().values()))


def test_a_split_is_followed_while_the_mapping_runs(place):
    place.stream(shards=2, contents=range(100))
    with place.following("seen.handler", "--batch-size", "7", "--maximum-batching-window-in-seconds", "1") as process:
        until(lambda: len(seen(place)) == 100, "the first records")
        put(place, 90)
        split_shard(data_of(place), "s", "shardId-000000000000")
        put(place, 200)
        merge_shards(data_of(place), "s", "shardId-000000000002", "shardId-000000000003")
        put(place, 100)
        update_shard_count(data_of(place), "s", 3)
        put(place, 100)
        until(lambda: len(seen(place)) == 590, "all records")
        process.signal()
        assert process.wait() == 0, process.err
    assert len(place.opened().open_shards) == 3
    judge(place)
    checkpoints = place.checkpoints("seen.handler@s")
    for shard in place.opened().shards:
        assert checkpoints.get(shard.id, 0) == len(place.log()[shard.id])


def test_until_caught_up_includes_every_generation_that_is_there(place):
    place.stream(shards=1)
    for target in (2, 3, 2, 1, 2):
        put(place, 50)
        update_shard_count(data_of(place), "s", target)
    put(place, 50)
    process = place.caught_up("seen.handler", "--batch-size", "8")
    assert process.code == 0, process.err
    assert process.summary["records"] == 300
    judge(place)
    again = place.caught_up("seen.handler")
    assert (again.code, again.summary["records"]) == (0, 0), again.err


def test_a_limit_ends_the_run_in_the_middle_of_a_generation_and_the_next_run_goes_on_there(place):
    place.stream(shards=1)
    put(place, 50)
    split_shard(data_of(place), "s", "shardId-000000000000")
    put(place, 50)
    for limit in (30, 20, 30, 20):
        process = place.run("run", "seen.handler", "--stream", "s", "--json", "--limit", limit, "--batch-size", "4")
        assert (process.code, process.summary["records"]) == (0, limit), process.err
    judge(place)


def test_children_wait_while_their_parent_is_retried_and_the_other_shards_go_on(place):
    place.stream(shards=2)
    place.put(["fine", "poison", "fine"], shard=0)
    split_shard(data_of(place), "s", "shardId-000000000000")
    put(place, 80)
    process = place.caught_up("seen.poison", "--batch-size", "1")
    assert process.code == 0, process.err
    assert process.summary["errors"] == 3
    judge(place)
    order = [shard for shard, _, _ in invocations(place.seen)]
    last = len(order) - 1 - order[::-1].index("shardId-000000000000")
    assert "shardId-000000000001" in order[:last], "the other shard did not wait"
    assert "shardId-000000000002" not in order[:last]


@pytest.mark.conformance(
    "shards/children-begin-at-the-horizon",
    source="documented",
    rule="Children that come up later are read from their first record, even where the mapping began at "
    "LATEST.",
)
def test_latest_counts_closed_parents_as_finished_and_later_children_begin_at_their_first_record(place):
    place.stream(shards=1)
    put(place, 30)
    split_shard(data_of(place), "s", "shardId-000000000000")
    put(place, 30)
    before = {number for numbers in place.log().values() for number in numbers}
    with place.following("seen.handler", "--starting-position", "LATEST", "--name", "m") as process:
        until(lambda: (place.data / "state.db").exists() and place.mapping("m"), "the mapping")
        put(place, 30)
        split_shard(data_of(place), "s", "shardId-000000000001")
        put(place, 30)  # children of a LATEST mapping begin at TRIM_HORIZON
        until(lambda: len(seen(place)) == 60, "what came after the mapping")
        process.signal()
        assert process.wait() == 0, process.err
    assert not seen(place) & before


def test_a_start_in_time_skips_what_came_before_in_every_generation(place):
    place.stream(shards=1)
    put(place, 20)
    split_shard(data_of(place), "s", "shardId-000000000000")
    put(place, 20)
    time.sleep(0.01)
    moment = time.time()
    time.sleep(0.01)
    before = {number for numbers in place.log().values() for number in numbers}
    put(place, 20)
    merge_shards(data_of(place), "s", "shardId-000000000001", "shardId-000000000002")
    put(place, 20)
    process = place.caught_up("seen.handler", "--starting-position", "AT_TIMESTAMP",
                              "--starting-position-timestamp", moment)  # fmt: skip
    assert (process.code, process.summary["records"]) == (0, 40), process.err
    assert not seen(place) & before


def test_a_parent_that_retention_has_taken_is_finished_and_what_a_mapping_missed_of_it_is_counted(place):
    place.stream(shards=1)
    put(place, 20)
    first = place.run("run", "seen.handler", "--stream", "s", "--json", "--limit", 5)
    assert first.code == 0, first.err
    split_shard(data_of(place), "s", "shardId-000000000000")
    put(place, 20)
    trim(place.opened().shards[0], below_offset(20))
    process = place.caught_up("seen.handler")
    assert (process.summary["records"], process.summary["trimmed"]) == (20, 15), process.err
    assert set(deliveries(place.seen)) == {f"shardId-{number:012d}" for number in range(3)}
    another = place.caught_up("seen.handler", "--name", "another")  # all that is there begins behind it
    assert (another.code, another.summary["records"], another.summary["trimmed"]) == (0, 20, 0), another.err


def test_damage_in_a_parent_holds_its_children_up_and_nothing_else(place):
    place.stream(shards=2)
    place.put(["x" * 2000] * 20, shard=0)
    split_shard(data_of(place), "s", "shardId-000000000000")
    put(place, 60)
    parent = place.opened().shards[0]
    (segment,) = parent.directory.glob("*.arrow")
    with open(segment, "r+b") as file:
        file.seek(segment.read_bytes().index(b"xxxx") + 100)
        file.write(b"y")
    process = place.caught_up("seen.handler", "--batch-size", "1")
    assert process.code == 1
    assert segment.name in process.err
    found = deliveries(place.seen)
    assert set(found) == {"shardId-000000000001"}
    assert len(found["shardId-000000000001"]) == process.summary["records"]


def test_kills_in_between_lose_nothing_and_bring_no_child_forward(place):
    chance = random.Random(27)
    place.stream(shards=1)
    stop = threading.Event()
    failures = []

    def reshard_and_put():
        """Splits and merges by the commands of their own processes, and records between them."""
        try:
            for target in (2, 3, 4, 2, 3, 4, 2):
                put(place, 120)
                done = subprocess.run(
                    place.command("update-shard-count", "s", "--target-shard-count", target, "--json"),
                    capture_output=True, check=False,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
                assert len(json.loads(done.stdout)["Shards"]) >= 1
            put(place, 120)
        except BaseException as error:
            failures.append(error)
        finally:
            stop.set()

    writer = threading.Thread(target=reshard_and_put)
    writer.start()
    killed = 0
    while not stop.is_set():
        with place.following("seen.slow", "--batch-size", "5", "--workers", "2") as process:
            try:
                process.popen.wait(chance.uniform(0.3, 0.6))
                raise AssertionError(process.err)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
    writer.join()
    assert not failures, failures
    assert killed >= 2
    process = place.caught_up("seen.handler", "--name", "seen.slow@s")
    assert process.code == 0, process.err
    judge(place)


def test_a_killed_split_leaves_a_stream_that_can_be_split_and_delivered(place):
    place.stream(shards=1)
    chance = random.Random(5)
    for attempt in range(6):
        put(place, 20)
        stream = place.opened()
        command = [sys.executable, "-c", SPLIT, str(place.data), stream.open_shards[0].id]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 0.02))
            child.kill()
        after = place.opened()
        assert len(after.shards) in (len(stream.shards), len(stream.shards) + 2), attempt
    split_shard(data_of(place), "s", place.opened().open_shards[0].id)
    put(place, 20)
    process = place.caught_up("seen.handler")
    assert (process.code, process.summary["records"]) == (0, 140), process.err
    judge(place)


SPLIT = """
import sys
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.log.upkeep.reshard import split_shard
data = DataDir.open(sys.argv[1], create=True)
print("ready", flush=True)
split_shard(data, "s", sys.argv[2])
"""
