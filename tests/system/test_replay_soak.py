"""Whatever is asked of a replay, exactly that is replayed: random streams, reshardings and requests, for a minute."""

import json
import random
import time

import pytest
import trio
from engine_rig import Log

import streamfn
from streamfn.formats.times import format_time

SECONDS = 60
BEGAN = 1_600_000_000_000


def numbers_of(event, context):
    return [record["kinesis"]["sequenceNumber"] for record in event["Records"]]


async def fill(session, chance):
    """Records by shard, of a stream that was split and merged now and then; arrival times go back now and then."""
    await session.create_stream("s", shards=chance.randint(1, 3))
    now = BEGAN
    for _ in range(chance.randint(1, 4)):
        some = []
        for _ in range(chance.randint(1, 60)):
            now += chance.choice([0, 1, 1000, 60_000])
            data = json.dumps({"n": chance.randint(0, 5)}).encode()
            arrival = now + chance.choice([0, 0, 0, -500, 200_000])
            some.append(streamfn.NewRecord(data, f"k{chance.randint(0, 9)}", arrival))
        await session.put_many("s", some)
        if chance.random() < 0.5:
            open_now = len((await session.stream("s")).open_shards)
            await session.update_shard_count("s", chance.randint(-(-open_now // 2), 2 * open_now))
    found = {}
    async for record in session.records("s"):
        found.setdefault(record.shard_id, []).append(record)
    return found, now


def place(records, at_ms):
    return next((row for row, record in enumerate(records) if record.arrival_ms >= at_ms), len(records))


def asked(chance, by_shard, now):
    """Options of a replay, and the records that are to be replayed, by shard."""
    options = {"parallelization_factor": chance.choice([1, 1, 3]), "batch_size": chance.choice([1, 3, 100])}
    start, to = sorted(chance.sample(range(BEGAN, now + 2000), 2))
    wanted = {}
    for name, records in by_shard.items():
        wanted[name] = records[place(records, start) : max(place(records, start), place(records, to))]
    options |= {"start": format_time(start), "to": to / 1000}
    if chance.random() < 0.5:
        wanted = by_shard
        del options["start"], options["to"]
    if chance.random() < 0.4:
        options["shard_ids"] = chance.sample(list(by_shard), chance.randint(1, len(by_shard)))
        wanted = {name: wanted[name] for name in options["shard_ids"]}
    if chance.random() < 0.4:
        options["partition_keys"] = keys = [f"k{chance.randint(0, 9)}" for _ in range(3)]
        wanted = {name: [one for one in some if one.partition_key in keys] for name, some in wanted.items()}
    if chance.random() < 0.4:
        number = chance.randint(0, 5)
        options["filter_criteria"] = {"Filters": [{"Pattern": json.dumps({"data": {"n": [number]}})}]}
        wanted = {name: [one for one in some if json.loads(one.data)["n"] == number] for name, some in wanted.items()}
    if chance.random() < 0.6:
        options["speed"] = chance.choice([1e5, 1e6, 2e6])
        options |= {"max_gap_seconds": 0.05} if chance.random() < 0.5 else {}
    return options, {name: [one.sequence_number for one in some] for name, some in wanted.items() if some}


async def one_stream(path, seed):
    chance = random.Random(seed)
    async with streamfn.open(path, log=Log()) as session:
        by_shard, now = await fill(session, chance)
        for _ in range(6):
            options, wanted = asked(chance, by_shard, now)
            outcomes, seen = [], {}
            with trio.fail_after(30):
                result = await session.replay(numbers_of, "s", workers=2, watch=outcomes.append, **options)
            for outcome in outcomes:
                seen.setdefault(outcome.shard_id, []).extend(outcome.result)
            if options["parallelization_factor"] > 1:  # in order for each key alone
                seen, wanted = ({name: sorted(some) for name, some in one.items()} for one in (seen, wanted))
            assert seen == wanted, (seed, options)
            assert result.records == sum(map(len, wanted.values())), (seed, options)


@pytest.mark.soak
def test_exactly_what_is_asked_for_is_replayed(tmp_path):
    seed, end = random.SystemRandom().randint(0, 10**9), time.monotonic() + SECONDS
    while time.monotonic() < end:
        trio.run(one_stream, tmp_path / str(seed), seed)
        seed += 1
