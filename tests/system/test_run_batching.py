"""What batches are made of, as the handlers see them: sizes, windows, bytes, positions, limits, the growing log."""

import json
import threading
import time
from pathlib import Path

import pytest
from run_rig import keys_of, until
from witness import deliveries

from streamfn.limits import EVENT_BYTES_MAX
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord


def noted(place):
    path = place.notes / "noted"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def check_all(place):
    assert deliveries(place.seen) == place.log()


def test_batches_are_full_up_to_the_last_one_whatever_the_messages_of_the_log(place):
    place.stream()
    for start in range(0, 250, 25):
        place.put(range(start, start + 25))
    done = place.caught_up("unruly.noted", "--batch-size", "40")
    assert done.code == 0
    assert [row["records"] for row in noted(place)] == [40] * 6 + [10]
    check_all(place)


@pytest.mark.conformance(
    "batches/batch-size",
    source="documented",
    rule="A batch has at most BatchSize records, 1 to 10,000.",
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_the_smallest_and_the_largest_batch(place, size):
    place.stream(contents=range(300 if size == 1 else 10_050))
    done = place.caught_up("unruly.noted", "--batch-size", str(size))
    assert done.code == 0
    assert [row["records"] for row in noted(place)] == ([1] * 300 if size == 1 else [10_000, 50])
    check_all(place)


def test_a_batch_of_ten_thousand_single_record_messages(place):
    place.stream()
    writer = ShardWriter.open(place.opened().shards[0])
    for number in range(10_000):
        writer.append([NewRecord(b"%d" % number, "k")])
    writer.commit()
    writer.close()
    done = place.caught_up("unruly.noted", "--batch-size", "10000")
    assert done.code == 0
    assert [row["records"] for row in noted(place)] == [10_000]
    check_all(place)


def test_a_batch_closes_before_its_event_would_be_over_6_mb(place):
    place.stream(contents=[b"x" * (1 << 20)] * 13)
    done = place.caught_up("unruly.noted", "--batch-size", "100", "--timeout", "20")
    assert done.code == 0
    rows = noted(place)
    assert [row["records"] for row in rows] == [4, 4, 4, 1]
    assert all(row["bytes"] <= EVENT_BYTES_MAX for row in rows)
    check_all(place)


def test_a_record_whose_event_is_over_6_mb_is_discarded_and_its_shard_goes_on(place):
    place.stream(shards=2)
    place.put(["a", "b", b"x" * 5_000_000, "c"], shard=0)
    place.put(range(10), shard=1)
    done = place.caught_up("seen.handler")
    assert done.code == 3
    assert "shardId-000000000000 discards 1 record at offset 2, RecordTooLarge" in done.err
    assert (done.summary["records"], done.summary["discarded"], done.summary["errors"]) == (13, 1, 0)
    assert {shard: len(numbers) for shard, numbers in deliveries(place.seen).items()} == {
        "shardId-000000000000": 3, "shardId-000000000001": 10,
    }  # fmt: skip


def test_a_window_gathers_what_comes_while_it_is_open_and_a_full_batch_does_not_wait_for_it(place):
    place.stream()
    window = ["--batch-size", "10", "--maximum-batching-window-in-seconds", "1"]
    with place.following("unruly.noted", *window) as run:
        until(lambda: place.data.joinpath("state.db").exists() and place.mapping("unruly.noted@s"), "the mapping")
        with Producer(place.opened()) as producer:
            until(lambda: put_one(producer) and noted(place), "a first batch")
            time_of_first = noted(place)[-1]["at"]
            producer.submit([NewRecord(b"n", "k")] * 3).result()
            until(lambda: sum(row["records"] for row in noted(place)[1:]) >= 3, "a batch by its window")
            waited = noted(place)[1]["at"] - time_of_first
            assert 0.8 < waited < 1.6, noted(place)
            began = time.time()
            producer.submit([NewRecord(b"n", "k")] * 10).result()
            until(lambda: any(row["records"] == 10 for row in noted(place)), "a full batch")
            assert noted(place)[-1]["at"] - began < 0.5
        run.signal()
        assert run.wait() == 0
    check_all(place)


def put_one(producer):
    """One record, only once."""
    if not getattr(producer, "begun", False):
        producer.begun = True
        producer.submit([NewRecord(b"first", "k")]).result()
    return True


@pytest.mark.conformance(
    "shards/starting-positions",
    source="documented",
    rule="TRIM_HORIZON begins with the oldest record, LATEST behind the newest one, AT_TIMESTAMP with the first one "
    "at or after the time.",
)
def test_trim_horizon_latest_and_a_time_begin_where_they_say(place):
    place.stream(shards=2)
    stream = place.opened()
    with Producer(stream) as producer:
        for second in range(10):
            producer.submit([NewRecord(b"%d" % second, key, 1_700_000_000_000 + 1000 * second)
                             for key in keys_of(stream)]).result()  # fmt: skip
    oldest = place.caught_up("seen.handler", "--name", "oldest", "--starting-position", "TRIM_HORIZON")
    assert oldest.summary["records"] == 20
    at = ["--starting-position", "AT_TIMESTAMP", "--starting-position-timestamp"]
    assert place.caught_up("seen.handler", "--name", "at", *at, "1700000007").summary["records"] == 6
    assert place.caught_up("seen.handler", "--name", "between", *at, "1700000007.5").summary["records"] == 4
    assert place.caught_up("seen.handler", "--name", "latest", "--starting-position", "LATEST").summary["records"] == 0
    place.put(["new"])
    later = place.caught_up("seen.handler", "--name", "latest", "--starting-position", "TRIM_HORIZON")
    assert later.summary["records"] == 1
    ignored = place.caught_up("seen.handler", "--name", "latest", "--starting-position", "LATEST")
    assert ignored.err.count("starting position is ignored") == 1
    assert "starting position was ignored" not in ignored.err


def test_a_limit_hands_over_exactly_so_many_across_shards_and_the_next_run_goes_on_behind_them(place):
    place.stream(shards=4, contents=range(400))
    total = 0
    for limit in (1, 37, 150):
        done = place.caught_up("seen.handler", "--limit", str(limit), "--batch-size", "10", "--workers", "2")
        assert done.code == 0
        assert done.summary["records"] == limit
        total += limit
        assert sum(map(len, deliveries(place.seen).values())) == total
    assert place.run("run", "seen.handler", "--stream", "s", "--limit", "100").code == 0
    assert sum(map(len, deliveries(place.seen).values())) == total + 100
    rest = place.caught_up("seen.handler", "--limit", "1000")
    assert rest.code == 0
    assert rest.summary["records"] == 400 - total - 100
    check_all(place)


def test_a_limit_counts_no_retry(place):
    place.stream(contents=["deed", *range(50)])
    done = place.caught_up("unruly.raises", "--limit", "20", "--batch-size", "8")
    assert (done.summary["records"], done.summary["errors"]) == (20, 1)
    assert len(deliveries(place.seen)["shardId-000000000000"]) == 20


def test_until_caught_up_ends_where_the_log_ended_when_it_began_although_it_grows(place):
    place.stream(contents=range(100))
    run = place.start("run", "seen.slow", "--stream", "s", "--until-caught-up", "--batch-size", "5", "--json")
    until(place.seen.exists, "a first delivery")
    place.put(range(1000))
    assert run.wait() == 0
    assert run.summary["records"] == 100


@pytest.mark.conformance(
    "shards/polling",
    source="documented",
    rule="Lambda polls a Kinesis shard once a second, and a DynamoDB shard four times.",
    differs="A record is read as soon as it is in the log.",
)
def test_a_record_that_another_process_puts_reaches_the_handler_within_milliseconds(place):
    place.stream(shards=2)
    with place.following("unruly.noted") as run:
        until(lambda: place.data.joinpath("state.db").exists() and place.mapping("unruly.noted@s"), "the mapping")
        taken = []
        with Producer(place.opened()) as producer:
            for number in range(40):
                producer.submit([NewRecord(b"%d" % number, f"key-{number}")]).result()
                acknowledged = time.time()
                until(lambda n=number: len(noted(place)) > n, "the delivery")
                taken.append(noted(place)[number]["at"] - acknowledged)
        run.signal()
        assert run.wait() == 0
    assert sorted(taken)[len(taken) // 2] < 0.02, sorted(taken)
    check_all(place)


def test_an_idle_followed_run_takes_no_processor_time(place):
    place.stream(shards=4, contents=range(10))
    with place.following("seen.handler") as run:
        until(lambda: sum(map(len, deliveries(place.seen).values())) == 10, "the deliveries")

        def ticks():
            fields = Path(f"/proc/{run.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        before, began = ticks(), time.monotonic()
        threading.Event().wait(1.0)  # what is measured is this second
        assert ticks() - before < 20 * (time.monotonic() - began)


def test_segments_roll_and_are_sealed_under_a_running_mapping(place):
    place.stream(shards=2)
    shards = place.opened().shards
    with place.following("seen.handler", "--batch-size", "50", "--workers", "2") as run:
        until(lambda: place.data.joinpath("state.db").exists() and place.mapping("seen.handler@s"), "the mapping")
        writers = [ShardWriter.open(shard, segment_bytes=65536) for shard in shards]
        for number in range(200):
            for writer in writers:
                writer.append([NewRecord(b"%d-%d" % (number, row) + b"x" * 100, "k") for row in range(20)])
                writer.commit()
        for writer in writers:
            writer.close()
        until(lambda: sum(map(len, deliveries(place.seen).values())) == 8000, "every record")
        mapped = Path(f"/proc/{run.pid}/maps").read_text().count(".arrow")
        run.signal()
        assert run.wait() == 0
    sealed = [path for shard in shards for path in shard.directory.glob("*.arrow")]
    assert len(sealed) > 10
    assert mapped <= 6
    check_all(place)


def test_a_deleted_and_remade_stream_is_begun_anew(place):
    place.stream(contents=range(10))
    assert place.caught_up("seen.handler").summary["records"] == 10
    DataDir.open(place.data, create=False).delete_stream("s")
    place.stream(contents=range(5))
    assert place.caught_up("seen.handler").summary["records"] == 5
