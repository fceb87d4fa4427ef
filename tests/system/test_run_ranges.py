"""A run of a part of a stream: where each shard begins and ends, and which shards are in it."""

import pytest
from range_rig import Said, ranged
from test_run_windows import put, story
from trio.testing import trio_test
from witness import deliveries, invocations

from streamfn.errors import RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard import gaps
from streamfn.log.upkeep.reshard import split_shard
from streamfn.state.store import Store

FIRST, SECOND, THIRD, FOURTH = (f"shardId-{number:012d}" for number in range(4))


@trio_test
async def test_exactly_what_lies_between_start_and_end_is_delivered(place):
    place.stream(shards=3, contents=range(90))
    log = place.log()
    async with ranged(place, starts={FIRST: 3, SECOND: 30, THIRD: 0}, batch_size=4) as mapping:
        result = await mapping.run(ends={FIRST: 20, SECOND: 30})
    assert deliveries(place.seen) == {FIRST: log[FIRST][3:20]}
    assert (result.records, result.why, result.resumes_at) == (17, "caught up", {FIRST: 20, SECOND: 30})


@trio_test
async def test_with_a_store_apart_nothing_is_written_to_the_data_directory(place):
    place.stream(contents=range(10))
    before = sorted(path for path in place.data.rglob("*"))
    async with ranged(place, starts={FIRST: 0}) as mapping:
        assert (await mapping.run(until_caught_up=True)).records == 10
    assert sorted(path for path in place.data.rglob("*")) == before
    with Store.open(place.root / "apart" / "state.db", create=False) as store:
        (stored,) = store.mappings()
        assert store.checkpoints(stored.uuid)[FIRST].offset == 10


@trio_test
async def test_a_mapping_that_has_a_checkpoint_goes_on_there_whatever_the_starts(place):
    place.stream(contents=range(10))
    async with ranged(place, starts={FIRST: 2}) as mapping:
        await mapping.run(ends={FIRST: 5})
    async with ranged(place, starts={FIRST: 0}) as mapping:
        assert mapping.resumed
        assert (await mapping.run(ends={FIRST: 9})).records == 4
        assert (await mapping.run(ends={FIRST: 7})).records == 0
    assert deliveries(place.seen)[FIRST] == place.log()[FIRST][2:9]


@trio_test
async def test_children_come_after_the_part_of_their_parents_that_is_wanted(place):
    place.stream(contents=range(40))
    split_shard(DataDir.open(place.data, create=False), "s", FIRST)
    place.put(range(40))
    log = place.log()
    async with ranged(place, "seen.slow", starts={FIRST: 10}, batch_size=5) as mapping:
        await mapping.run(ends={FIRST: 30, THIRD: 8})
    assert deliveries(place.seen) == {FIRST: log[FIRST][10:30], THIRD: log[THIRD][:8]}
    assert [shard for shard, *_ in invocations(place.seen)] == [FIRST] * 4 + [THIRD] * 2


@trio_test
async def test_order_holds_across_a_generation_of_which_nothing_is_wanted(place):
    place.stream(contents=range(20))
    data = DataDir.open(place.data, create=False)
    split_shard(data, "s", FIRST)
    split_shard(data, "s", SECOND)
    place.put(range(12))
    async with ranged(place, "seen.slow", batch_size=5) as mapping:
        assert (await mapping.run(ends={FOURTH: 4, FIRST: 20})).records == 24
    assert [shard for shard, *_ in invocations(place.seen)] == [FIRST] * 4 + [FOURTH]


@trio_test
async def test_filters_and_lanes_end_there_too(place):
    place.stream(contents=[f'{{"n": {number}}}' for number in range(60)])
    log = place.log()
    wanted = '{"data": {"n": [{"numeric": [">=", 20]}]}}'
    options = {"filters": (wanted,), "parallelization_factor": 3}
    async with ranged(place, starts={FIRST: 10}, **options) as mapping:
        result = await mapping.run(ends={FIRST: 50})
    assert (result.records, result.filtered, result.resumes_at) == (30, 10, {FIRST: 50})
    assert sorted(deliveries(place.seen)[FIRST]) == sorted(log[FIRST][20:50])


@trio_test
async def test_a_window_is_left_open_where_the_shard_is_cut_off_and_its_child_goes_on(place):
    place.stream()
    put(place, (1, "a"), (61, "b"), (62, "c"), (121, "d"))
    split_shard(DataDir.open(place.data, create=False), "s", FIRST)
    put(place, (123, "e"))
    async with ranged(place, "windowed.collect", tumbling_window_in_seconds=60) as mapping:
        result = await mapping.run(ends={FIRST: 2, SECOND: 1})
        assert result.open_windows == {FIRST: "2020-12-09T12:02:00Z"}
    assert [row[:3] for row in story(place)] == [
        (0, "batch", ["a"]),
        (0, "final", []),
        (1, "batch", ["b"]),
        (2, "batch", ["e"]),
        (2, "final", []),
    ]


@trio_test
async def test_of_a_gap_only_what_lies_before_the_end_is_counted(place):
    made = place.stream()
    for number in range(3):
        place.put(range(10 * number, 10 * number + 10))
    gaps.record_trim(made.shards[0], 20)
    async with ranged(place, starts={FIRST: 5}) as mapping:
        result = await mapping.run(ends={FIRST: 15})
        assert (result.records, result.trimmed, result.resumes_at) == (0, 10, {FIRST: 15})
        result = await mapping.run(ends={FIRST: 30})
    assert (result.records, result.trimmed, result.resumes_at) == (10, 5, {FIRST: 30})


@trio_test
async def test_a_shard_that_is_not_there_is_named(place):
    place.stream(contents=range(3))
    said = Said()
    async with ranged(place, said=said) as mapping:
        with pytest.raises(RefusedError, match=r"the stream 's' has no shard 'shardId-7'"):
            await mapping.run(ends={"shardId-7": 3})
