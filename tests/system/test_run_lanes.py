"""Several lanes of one shard, over the whole engine: order by key, one that waits, ends of every kind, restarts."""

import json
from collections import defaultdict

import pytest
from run_rig import until

from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.log.segment.segment import list_segments
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.upkeep.reshard import split_shard
from streamfn.state.store import Store
from streamfn.types import NewChange, NewRecord

FACTOR = "--parallelization-factor"
RETRIES = "--maximum-retry-attempts"
SHARD = "shardId-000000000000"


def noted(place):
    path = place.notes / "noted"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def by_key(place):
    """What was delivered of each key, in order."""
    found = defaultdict(list)
    for row in noted(place):
        for key, content in zip(row["keys"], row["contents"], strict=True):
            found[key].append(content)
    return dict(found)


def put(place, records):
    """Records as (key, content), in messages of up to 50."""
    with Producer(place.opened()) as producer:
        for first in range(0, len(records), 50):
            producer.submit([NewRecord(content.encode(), key) for key, content in records[first : first + 50]]).result()


def dealt(count, keys=20):
    return [(f"key-{number % keys}", str(number)) for number in range(count)]


def expected(records):
    found = defaultdict(list)
    for key, content in records:
        found[key].append(content)
    return dict(found)


@pytest.mark.conformance(
    "lanes/order-by-key",
    source="documented",
    rule="With ParallelizationFactor several batches of a shard run at a time; records of one partition key stay in "
    "order.",
)
def test_every_record_is_delivered_once_and_in_order_for_each_key(place):
    place.stream()
    records = dealt(1000)
    put(place, records)
    done = place.caught_up("failing.keyed", FACTOR, "4", "--batch-size", "7", "--workers", "2")
    assert (done.code, done.summary["records"], done.summary["remaining"]) == (0, 1000, 0)
    assert by_key(place) == expected(records)
    assert place.checkpoints("failing.keyed@s") == {SHARD: 1000}
    assert all(len(row["keys"]) <= 7 for row in noted(place))


@pytest.mark.conformance(
    "lanes/one-waits",
    source="inferred",
    rule="With ParallelizationFactor a batch that is retried holds up its own lane, and the shard's other lanes go on.",
)
def test_a_key_that_fails_for_ever_holds_up_its_own_lane_only_and_the_checkpoint(place):
    place.stream()
    records = dealt(400)
    records[8] = (records[8][0], "poison")
    put(place, records)
    with place.following("failing.keyed", FACTOR, "4", "--batch-size", "5", "--workers", "2") as run:
        wanted = expected(records)

        def others_are_done():
            seen = by_key(place)
            return sum(seen.get(key) == wanted[key] for key in wanted) >= 10

        until(others_are_done, "the lanes that do not fail")
        assert place.checkpoints("failing.keyed@s")[SHARD] <= 8
        run.signal()
        assert run.wait() == 0
    seen = by_key(place)
    stuck = [key for key in wanted if seen.get(key) != wanted[key]]
    assert records[8][0] in stuck
    assert len(stuck) < 10, "only the keys of one lane wait"
    # A later run begins at the checkpoint, and with another factor.
    done = place.caught_up("failing.keyed", FACTOR, "2", "--batch-size", "5", RETRIES, "0")
    assert done.code == 3
    assert place.checkpoints("failing.keyed@s") == {SHARD: 400}


def test_one_poison_record_is_discarded_and_the_order_of_every_key_is_kept(place):
    place.stream()
    records = dealt(300)
    records[137] = (records[137][0], "poison")
    put(place, records)
    options = ["--batch-size", "50", "--bisect-batch-on-function-error", RETRIES, "1", "--workers", "2"]
    done = place.caught_up("failing.keyed", FACTOR, "4", *options)
    assert (done.code, done.summary["records"], done.summary["discarded"]) == (3, 299, 1)
    with Store.open(place.data / "state.db", create=False) as store:
        (kept,) = [row.discard for row in store.discards(store.mapping("failing.keyed@s").uuid)]
    assert (kept.first_offset, kept.end_offset, kept.failure.attempts) == (137, 138, 2)
    firsts = {key: list(dict.fromkeys(contents)) for key, contents in by_key(place).items()}
    assert firsts == expected(records)
    assert place.checkpoints("failing.keyed@s") == {SHARD: 300}


def test_a_discarded_batch_of_a_lane_keeps_its_own_offsets(place):
    place.stream()
    records = dealt(60, keys=8)
    records[30] = (records[30][0], "poison")
    put(place, records)
    done = place.caught_up("failing.keyed", FACTOR, "3", "--batch-size", "5", RETRIES, "0")
    assert done.code == 3
    with Store.open(place.data / "state.db", create=False) as store:
        (kept,) = [row.discard for row in store.discards(store.mapping("failing.keyed@s").uuid)]
    (failed,) = [row for row in noted(place) if "poison" in row["contents"]]
    offsets = kept.failure.offsets or range(kept.first_offset, kept.end_offset)
    assert [records[offset] for offset in offsets] == list(zip(failed["keys"], failed["contents"], strict=True))
    assert kept.failure.records == len(failed["keys"])
    assert kept.failure.first_sequence_number == place.log()[SHARD][offsets[0]]


def test_a_limit_hands_over_exactly_so_many_records_over_all_lanes(place):
    place.stream()
    records = dealt(500)
    put(place, records)
    done = place.run(
        "run", "failing.keyed", "--stream", "s", FACTOR, "5", "--limit", "123", "--json", "--batch-size", "10",
    )  # fmt: skip
    assert (done.code, done.summary["records"]) == (0, 123)
    assert sum(len(row["keys"]) for row in noted(place)) == 123
    again = place.caught_up("failing.keyed", FACTOR, "5", "--batch-size", "10")
    assert again.code == 0
    firsts = {key: list(dict.fromkeys(contents)) for key, contents in by_key(place).items()}
    assert firsts == expected(records)
    assert place.checkpoints("failing.keyed@s") == {SHARD: 500}


def test_what_is_gone_is_skipped_when_every_lane_has_come_up_to_it(place):
    shard = place.stream().shards[0]
    records = dealt(600)
    with ShardWriter.open(shard, segment_bytes=8192) as writer:
        for first in range(0, 600, 10):
            writer.append([NewRecord(content.encode(), key) for key, content in records[first : first + 10]])
        writer.commit()
    _, second, third, *_ = list_segments(shard)
    second.path.unlink()
    options = ["--batch-size", "4", "--workers", "2", "--on-damage", "salvage"]
    done = place.caught_up("failing.keyed", FACTOR, "3", *options)
    lost = third.first_offset - second.first_offset
    assert (done.code, done.summary["lost"], done.summary["records"]) == (3, lost, 600 - lost)
    assert by_key(place) == expected(records[: second.first_offset] + records[third.first_offset :])
    before = [n for n, row in enumerate(noted(place)) if int(row["contents"][0]) < second.first_offset]
    assert before == list(range(len(before))), "a batch from behind the gap ran before one in front of it"
    assert place.checkpoints("failing.keyed@s") == {SHARD: 600}


def test_it_follows_the_stream_and_its_children_after_a_split(place):
    place.stream()
    records = dealt(200)
    put(place, records[:100])
    with place.following("failing.keyed", FACTOR, "3", "--batch-size", "8", "--workers", "2") as run:
        until(lambda: sum(len(row["keys"]) for row in noted(place)) == 100, "the first half")
        split_shard(DataDir.open(place.data, create=False), "s", SHARD)
        put(place, records[100:])
        until(lambda: sum(len(row["keys"]) for row in noted(place)) == 200, "the second half")
        run.signal()
        assert run.wait() == 0
    assert by_key(place) == expected(records)
    assert {row["shard"] for row in noted(place)} == {SHARD, "shardId-000000000001", "shardId-000000000002"}


@pytest.mark.conformance(
    "lanes/items",
    source="documented",
    rule="Of a DynamoDB stream the changes of one item (partition and sort key) stay in order, however its keys are "
    "written.",
)
def test_changes_of_one_item_stay_in_order(place):
    stream = DataDir.open(place.data, create=True).create_stream("s", 1, kind="dynamodb")
    spellings = [b'{"pk":{"S":"%d"},"sk":{"N":"1"}}', b'{"sk":{"N":"1"},"pk":{"S":"%d"}}']
    with Producer(stream) as producer:
        for number in range(300):
            keys = spellings[number // 10 % 2] % (number % 10)
            image = b'{"n":{"N":"%d"}}' % number
            producer.submit([NewChange("MODIFY", keys, image, b'{"n":{"N":"-1"}}')]).result()
    done = place.caught_up("failing.items", FACTOR, "4", "--batch-size", "4", "--workers", "2")
    assert (done.code, done.summary["records"]) == (0, 300)
    found = defaultdict(list)
    for row in noted(place):
        for item, number in row["items"]:
            found[item].append(number)
    assert found == {str(item): list(range(item, 300, 10)) for item in range(10)}
