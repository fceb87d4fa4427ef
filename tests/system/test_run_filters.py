"""Filter criteria over the whole engine: what is delivered, counted, and where the checkpoint is."""

import json
import os
import signal
from pathlib import Path

import pytest
import trio
from library_rig import FUNCTIONS
from run_rig import error_line, until
from test_run_failures import RETRIES, batches, discards, noted
from test_run_windows import COLLECT, WINDOW, put, story
from trio.testing import trio_test

import streamfn
from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.log.segment.segment import list_segments
from streamfn.log.shard import gaps
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.upkeep.reshard import split_shard
from streamfn.mapping.lane import ShardLane
from streamfn.mapping.poller import Poller
from streamfn.mapping.selector import ShardSelector
from streamfn.types import NewChange, NewRecord

SHARD = "shardId-000000000000"


def criteria(*patterns):
    filters = [{"Pattern": json.dumps(pattern)} for pattern in patterns]
    return ["--filter-criteria", json.dumps({"Filters": filters})]


BUY = criteria({"data": {"type": ["buy"]}})


def orders(count, every=3):
    """Orders of which every third is to buy."""
    return [json.dumps({"type": "sell" if number % every else "buy", "n": number}) for number in range(count)]


def order(number, every, key="k"):
    """An order as a record."""
    kind = "sell" if number % every else "buy"
    return NewRecord(json.dumps({"type": kind, "n": number, "text": "x" * 200}).encode(), key)


def numbers(deliveries):
    return [[json.loads(content)["n"] for content in batch] for batch in deliveries]


@pytest.mark.conformance(
    "filters/batches-hold-matches",
    source="documented",
    rule="Filters are evaluated while a batch is filled: BatchSize counts what matches, and batches hold nothing else.",
)
def test_batches_are_filled_with_what_matches(place):
    place.stream(contents=orders(30))
    done = place.caught_up("failing.poison", "--batch-size", "4", *BUY)
    assert done.code == 0
    assert numbers(batches(place)) == [[0, 3, 6, 9], [12, 15, 18, 21], [24, 27]]
    assert (done.summary["records"], done.summary["filtered"], done.summary["remaining"]) == (10, 20, 0)
    assert place.checkpoints("failing.poison@s") == {SHARD: 30}


@pytest.mark.conformance(
    "filters/filtered-out-moves-on",
    source="documented",
    rule="The iterator passes records that are filtered out: they cost no invocation and go to no destination.",
)
def test_a_range_that_is_filtered_out_whole_costs_nothing_and_moves_the_checkpoint(place):
    place.stream(shards=2, contents=orders(400))
    done = place.caught_up("failing.poison", *criteria({"data": {"type": ["lend"]}}))
    assert done.code == 0
    assert batches(place) == []
    assert (done.summary["records"], done.summary["batches"], done.summary["filtered"]) == (0, 0, 400)
    assert place.checkpoints("failing.poison@s") == {SHARD: 200, "shardId-000000000001": 200}
    again = place.caught_up("failing.poison")
    assert (again.summary["records"], again.summary["resumed"]) == (0, True)


@pytest.mark.conformance("filters/data-that-is-no-json")
def test_data_that_is_no_json_is_dropped_and_what_is_delivered_is_unchanged(place):
    spelled = '{"n": 1,   "type":"b\\u0075y"}'
    place.stream(contents=["plain text", spelled, '{"type": "buy"'])
    done = place.caught_up("failing.poison", *BUY)
    assert batches(place) == [[spelled]]
    assert done.summary["filtered"] == 2


def test_the_partition_key_alone_is_filtered_without_scan_processes(place):
    place.stream(shards=2, contents=["a", "b", "c", "d"])
    with ShardReader.open(place.opened().shards[0], 0) as reader:
        (message,) = reader.poll(1 << 20)
        key = records(message)[0].partition_key
    done = place.caught_up("failing.poison", *criteria({"partitionKey": [key]}))
    assert done.code == 0
    assert done.summary["records"] == done.summary["filtered"] == 2


def test_the_limit_counts_what_is_delivered(place):
    place.stream(contents=orders(300))
    done = place.run("run", "failing.poison", "--stream", "s", "--limit", "7", "--batch-size", "5", "--json", *BUY)
    assert done.code == 0
    assert numbers(batches(place)) == [[0, 3, 6, 9, 12], [15, 18]]
    assert place.checkpoints("failing.poison@s") == {SHARD: 21}


def test_a_batch_of_selected_records_is_delivered_again_as_it_was(place):
    contents = orders(12)
    contents[6] = json.dumps({"type": "buy", "n": 6, "text": "poison"})
    place.stream(contents=contents)
    done = place.caught_up("failing.poison", "--batch-size", "2", RETRIES, "1", *BUY)
    assert done.code == 3
    assert numbers(batches(place)) == [[0, 3], [6, 9], [6, 9]]
    assert (done.summary["records"], done.summary["discarded"], done.summary["filtered"]) == (2, 2, 8)
    (kept,) = discards(place, "failing.poison@s")
    assert (kept.first_offset, kept.end_offset, kept.failure.records) == (6, 10, 2)
    assert kept.failure.offsets == (6, 9)
    assert place.checkpoints("failing.poison@s") == {SHARD: 12}


def test_a_filtered_mapping_resumes_where_it_was(place):
    place.stream(contents=orders(30))
    place.run("run", "failing.poison", "--stream", "s", "--limit", "3", "--json", *BUY)
    place.put(orders(3))
    place.caught_up("failing.poison", *BUY)
    assert [number for batch in numbers(batches(place)) for number in batch] == [*range(0, 30, 3), 0]


def test_several_shards_with_several_filters(place):
    place.stream(shards=3, contents=orders(900))
    both = criteria({"data": {"type": ["buy"]}}, {"data": {"n": [{"numeric": ["<", 10]}]}})
    done = place.caught_up("failing.poison", "--workers", "2", *both)
    delivered = sorted(number for batch in numbers(batches(place)) for number in batch)
    assert delivered == sorted({*range(10), *range(0, 900, 3)})
    assert done.summary["filtered"] == 900 - len(delivered)


def test_what_is_put_while_it_runs_is_filtered_although_scan_processes_are_killed(place):
    place.stream(contents=orders(3))
    with place.following("failing.poison", "--workers", "1", *BUY) as run:
        until(lambda: batches(place), "the first batch")
        for turn in range(3):
            for pid in scanners_of(run.pid):
                os.kill(pid, signal.SIGKILL)
            place.put(orders(6), shard=0)
            until(lambda turn=turn: sum(map(len, batches(place))) == 3 + 2 * turn, "what was put")
        run.popen.send_signal(signal.SIGTERM)
        run.wait()
    assert [number for batch in numbers(batches(place)) for number in batch] == [0, *[0, 3] * 3]
    assert place.checkpoints("failing.poison@s") == {SHARD: 21}


def scanners_of(pid):
    """The scan processes of a run; they start at the root, handlers where their code is."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    return [
        worker
        for zygote in children.get(pid, ())
        for worker in children.get(zygote, ())
        if os.readlink(f"/proc/{worker}/cwd") == "/"
    ]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (criteria({"data": {"a": "x"}}), '(pattern 1, at data.a: "a" must be an object or an array)'),
        (criteria({"data": ["x"]}), "the pattern for data must be an object"),
        (["--filter-criteria", 'Filters=[{Pattern="null"}]'], "(pattern 1: Filter is not an object)"),
        (["--filter-criteria", '{"Filters": [{}]}'], "it is not JSON"),
    ],
)
@pytest.mark.conformance("filters/refusals")
def test_a_bad_pattern_is_refused_in_lambdas_words_and_nothing_is_made(place, given, reason):
    place.stream(contents=["a"])
    done = place.caught_up("failing.poison", *given)
    assert done.code == 2
    assert "Invalid filter pattern definition." in error_line(done)
    assert reason in error_line(done)
    assert not (place.data / "state.db").exists()


def test_criteria_of_another_shape_are_refused(place):
    place.stream(contents=["a"])
    done = place.caught_up("failing.poison", "--filter-criteria", '{"Filter": []}')
    assert done.code == 2
    assert 'Unknown parameter in FilterCriteria: "Filter"' in error_line(done)


def test_a_pattern_that_is_wrong_for_the_streams_kind_is_refused_when_that_is_known(place):
    made = DataDir.open(place.data, create=True).create_stream("s", 1, kind="dynamodb")
    with ShardWriter.open(made.shards[0]) as writer:
        writer.append_changes([NewChange("INSERT", b'{"id":{"S":"1"}}')])
    done = place.caught_up("events.keep", *criteria({"data": ["x"]}))
    assert done.code == 2


@pytest.mark.conformance("filters/dynamodb-event-name")
@trio_test
async def test_changes_are_filtered_by_event_name_and_image(tmp_path):
    changes = [
        NewChange(
            ["INSERT", "MODIFY", "REMOVE"][number % 3],
            b'{"id":{"S":"%d"}}' % number,
            b'{"id":{"S":"%d"},"n":{"N":"%d"}}' % (number, number) if number % 3 < 2 else None,
        )
        for number in range(90)
    ]
    async with streamfn.open(tmp_path / "d") as session:
        await session.create_stream("t", kind="dynamodb")
        for change in changes:
            await session.put_change("t", change)
        for patterns, expected in (
            ([{"eventName": ["INSERT"]}], 30),
            ([{"eventName": ["INSERT", "REMOVE"], "eventSource": ["aws:dynamodb"]}], 60),
            ([{"eventName": ["MODIFY"], "dynamodb": {"NewImage": {"n": {"N": ["4"]}}}}], 1),
            ([{"dynamodb": {"NewImage": {"n": {"N": [{"numeric": [">", 4]}]}}}}], 0),
        ):
            result = await session.run_until_caught_up(
                "engine.noop",
                "t",
                name=json.dumps(patterns),
                workers=1,
                code_dir=FUNCTIONS,
                filter_criteria={"Filters": [{"Pattern": json.dumps(each)} for each in patterns]},
            )
            assert (result.records, result.filtered) == (expected, 90 - expected)
        assert not session._runtime.pool.functions


@pytest.mark.parametrize("follows", [True, False])
@trio_test
async def test_a_due_batch_does_not_wait_for_ever_for_the_filters(tmp_path, monkeypatch, follows):
    """Behind it there may always be something that is not filtered yet; and waiting for that is waiting, not asking."""
    began, held = trio.Event(), trio.Event()
    calls, turns = 0, 0
    select, wake_at = ShardSelector.select, ShardLane.wake_at

    async def hold_up(self, messages):
        nonlocal calls
        calls += 1
        call, rows = calls, await select(self, messages)
        if call == 1:
            await began.wait()
        elif call == 2:
            began.set()
            await held.wait()
        return rows

    def counted(self):
        nonlocal turns
        turns += 1
        return wake_at(self)

    monkeypatch.setattr(ShardSelector, "select", hold_up)
    monkeypatch.setattr(ShardLane, "wake_at", counted)
    if not follows:
        monkeypatch.setattr(Poller, "behind", True)
    criteria = {"Filters": [{"Pattern": '{"partitionKey": ["k"]}'}]}
    async with streamfn.open(tmp_path / "d", log=None) as session:
        await session.create_stream("s")
        async with (
            session.mapping("engine.noop", "s", workers=1, code_dir=FUNCTIONS, filter_criteria=criteria) as mapping,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(mapping._inner.run)
            with trio.fail_after(30):
                await session.put("s", b"1", partition_key="k")
                while calls < 1:
                    await trio.sleep(0.001)
                await session.put("s", b"2", partition_key="k")
                while mapping._inner.counts.records < 1:
                    await trio.sleep(0.001)
                assert not held.is_set()
                assert turns < 100
                held.set()
                while mapping._inner.counts.records < 2:
                    await trio.sleep(0.001)
            mapping._inner.drain()


@trio_test
async def test_the_library_refuses_bad_criteria(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.create_stream("s")
        for wrong in ({"Filters": [{"Pattern": "x"}]}, {"Filters": "x"}, [], {"Filters": [{"Pattern": 5}]}):
            with pytest.raises(RefusedError):
                await session.run_until_caught_up("engine.noop", "s", code_dir=FUNCTIONS, filter_criteria=wrong)


def test_children_follow_a_parent_whose_records_were_all_filtered_out(place):
    made = place.stream(contents=orders(40, every=1000)[1:])
    split_shard(DataDir.open(place.data, create=True), "s", made.shards[0].id)
    place.put(orders(12))
    done = place.caught_up("failing.poison", *BUY)
    assert done.code == 0
    assert sorted(number for batch in numbers(batches(place)) for number in batch) == [0, 3, 6, 9]
    assert done.summary["filtered"] == 39 + 8
    assert place.checkpoints("failing.poison@s")[SHARD] == 39


def test_a_gap_between_filtered_records_is_counted_once(place):
    made = place.stream()
    with ShardWriter.open(made.shards[0], segment_bytes=1 << 16) as writer:
        for first in range(0, 600, 50):
            writer.append([order(number, 3) for number in range(first, first + 50)])
    second, third = [file.first_offset for file in list_segments(made.shards[0])][1:3]
    gaps.record(made.shards[0], gaps.Gap(second, third, gaps.LOST))
    done = place.caught_up("failing.poison", *BUY)
    assert done.code == 3
    expected = [n for n in range(0, 600, 3) if not second <= n < third]
    assert [number for batch in numbers(batches(place)) for number in batch] == expected
    assert (done.summary["lost"], done.summary["filtered"]) == (third - second, 600 - (third - second) - len(expected))
    assert place.checkpoints("failing.poison@s") == {SHARD: 600}


def test_filters_and_lanes_keep_each_keys_order(place):
    place.stream()
    with Producer(place.opened()) as producer:
        producer.submit([order(number, 2, f"k{number % 7}") for number in range(400)]).result()
    lanes = ["--parallelization-factor", "3", "--workers", "2", "--batch-size", "10"]
    done = place.caught_up("failing.keyed", *lanes, *BUY)
    assert (done.code, done.summary["records"], done.summary["filtered"]) == (0, 200, 200)
    per_key = {}
    for row in noted(place):
        for key, content in zip(row["keys"], row["contents"], strict=True):
            per_key.setdefault(key, []).append(json.loads(content)["n"])
    assert per_key == {f"k{key}": [n for n in range(0, 400, 2) if n % 7 == key] for key in range(7)}
    assert place.checkpoints("failing.keyed@s") == {SHARD: 400}


def test_windows_hold_what_the_filters_leave(place):
    place.stream()
    kinds = [(1, "buy"), (2, "sell"), (61, "sell"), (122, "buy"), (123, "sell"), (200, "sell")]
    put(place, *((at, json.dumps({"type": kind, "at": at})) for at, kind in kinds))
    done = place.caught_up(COLLECT, *WINDOW, *BUY)
    assert done.code == 0, done.err
    told = [(minute, what, [json.loads(each)["at"] for each in contents]) for minute, what, contents, _ in story(place)]
    assert told == [(0, "batch", [1]), (0, "final", []), (2, "batch", [122]), (2, "final", [])]
    assert done.summary["filtered"] == 4
