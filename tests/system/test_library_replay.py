"""Replays from a program: the same records and the same promises as on the command line."""

import pytest
import trio
from library_rig import FUNCTIONS, nothing_left
from trio.testing import trio_test

import streamfn

SHARD = "shardId-000000000000"
NOON = 1_607_515_200_000  # 2020-12-09T12:00:00Z


def records(*seconds):
    return [streamfn.NewRecord(b"%d" % at, "k", NOON + 1000 * at) for at in seconds]


def first(event, context):
    return event["Records"][0]["kinesis"]["sequenceNumber"]


def count(event, context):
    return len(event["Records"])


@trio_test
async def test_a_part_of_a_stream_goes_through_a_callable_and_its_answers_are_told(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", records(*range(20)))
        async with session.mapping(count, "s", name="mine") as mapping:
            await mapping.run_until_caught_up(limit=4)
        told = []
        with nothing_left():
            result = await session.replay(
                lambda event, context: [len(event["Records"]), "a closure"],
                "s",
                start="2020-12-09T12:00:05Z",
                to=NOON / 1000 + 15,
                batch_size=4,
                name="mine",
                watch=lambda outcome: told.append(outcome.result),
            )
        assert (result.records, result.batches) == (10, 3)
        assert told == [[4, "a closure"], [4, "a closure"], [2, "a closure"]]
        assert [one.checkpoints for one in await session.mappings()] == [{SHARD: 4}]


def test_a_synchronous_session_replays_at_a_speed_and_by_key(tmp_path):
    with streamfn.open_sync(tmp_path / "d") as session:
        session.put_many("s", [*records(0, 1), streamfn.NewRecord(b"x", "other", NOON + 60_000)])
        numbers = [record.sequence_number for record in session.records("s")]
        told = []
        options = {"partition_keys": ["other"], "watch": told.append}
        result = session.replay(first, "s", speed=10, max_gap_seconds=0.1, **options)
        assert (result.records, result.filtered, [one.result for one in told]) == (1, 2, [numbers[2]])
        result = session.replay(first, "s", start=numbers[1], limit=1, watch=told.append)
        assert (result.records, told[-1].result) == (1, numbers[1])


@trio_test
async def test_what_a_watcher_raises_ends_the_replay(tmp_path):
    def watch(outcome):
        raise LookupError("no more of it")

    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", records(*range(20)))
        with pytest.raises(LookupError, match="no more of it"):
            await session.replay(count, "s", batch_size=1, watch=watch)
        assert (await session.replay(count, "s")).records == 20


@trio_test
async def test_cancelled_nothing_of_it_is_left(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", records(0, 3600))
        with nothing_left():
            with trio.move_on_after(0.5) as scope:
                await session.replay(count, "s", speed=1)
            assert scope.cancelled_caught
        assert await session.mappings() == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start": "soon"}, "option start takes a time or a sequence number: 'soon' is not a time"),
        ({"to": "9" * 200}, "option to takes a sequence number of 1 to 129 digits"),
        ({"start": 5, "to": 5}, "option start 5 is not before option to 5"),
        ({"speed": 0}, "option speed takes a number above 0"),
        ({"speed": "10x"}, "option speed takes a number above 0"),
        ({"max_gap_seconds": 1}, "option max_gap_seconds goes with a speed"),
        ({"shard_ids": "shardId-0"}, "option shard_ids takes a list of texts"),
        ({"shard_ids": ["shardId-0"]}, "has no shard 'shardId-0'"),
        ({"limit": 0}, "option limit takes a number from 1 on"),
        ({"starting_position": "LATEST"}, "option starting_position does not go with a replay"),
        ({"batch_sise": 1}, "unknown option 'batch_sise'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, options, says):
    with streamfn.open_sync(tmp_path / "d") as session:
        session.put("s", b"x")
        with pytest.raises(streamfn.RefusedError, match=says):
            session.replay("library.handler", "s", code_dir=FUNCTIONS, **options)
