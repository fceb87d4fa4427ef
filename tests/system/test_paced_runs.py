"""Runs under a schedule: records are handed over when they are due, and everything counts from then."""

import pytest
import trio
from engine_rig import PATIENCE_S, Log, one_mapping
from library_rig import FUNCTIONS
from package_rig import snapshot
from trio.testing import trio_test

import streamfn
from streamfn._native import lib
from streamfn.core.schedule import AsFast, FixedRate, Recorded, Stretch
from streamfn.mapping.stages import STAGES, Stages

MS = 1_000_000


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTES", str(tmp_path))
    return tmp_path


def numbered(count):
    return [streamfn.NewRecord(str(number).encode(), f"key-{number}") for number in range(count)]


def stamps(notes):
    """When each number was given to the handler, in the order in which it was."""
    found = {}
    for line in (notes / "stamped").read_text().splitlines():
        at_ns, *numbers = line.split()
        for number in numbers:
            assert number not in found, "delivered twice"
            found[int(number)] = int(at_ns)
    return found


def wanted(operator, value):
    return {"Filters": [{"Pattern": f'{{"partitionKey": [{{"{operator}": "{value}"}}]}}'}]}


def rate_of(mapping, per_second, records):
    (shard,) = mapping._inner.stream.shards
    return FixedRate(per_second, {shard.id: Stretch(0, records)})


async def run(mapping, schedule, stages=None):
    with trio.fail_after(PATIENCE_S):
        return await mapping._inner.run(until_caught_up=True, schedule=schedule, stages=stages)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 10},
        {"batch_size": 10, "parallelization_factor": 3, "workers": 2},
        {"batch_size": 1},
        {"batch_size": 50, "maximum_batching_window_in_seconds": 1},
        {"batch_size": 10, "filter_criteria": wanted("prefix", "key-")},
        {"batch_size": 7, "filter_criteria": wanted("suffix", "2"), "parallelization_factor": 2},
    ],
    ids=["one lane", "three lanes", "single records", "a batch window", "all pass a filter", "a filter and two lanes"],
)
@trio_test
async def test_no_record_is_handed_over_before_it_is_due(tmp_path, notes, options):
    async with one_mapping(tmp_path, "stamped", numbered(200), log=Log(), **options) as (_, mapping):
        stages = Stages()
        result = await run(mapping, rate_of(mapping, 500.0, 200), stages)
        began_ns = mapping._inner.timeline.began_ns
    found = stamps(notes)
    suffix = "2" if "suffix" in str(options) else ""
    assert sorted(found) == [number for number in range(200) if str(number).endswith(suffix)]
    assert all(at_ns >= began_ns + number * 2 * MS for number, at_ns in found.items())
    assert result.records == len(found) == lib.sf_histogram_total(stages["latency"])
    if "parallelization_factor" not in options:
        assert list(found) == sorted(found)
    for stage in set(STAGES) - {"building"}:
        assert lib.sf_histogram_total(stages[stage]), stage


@trio_test
async def test_recorded_times_pace_several_shards_by_one_clock(tmp_path, notes):
    async with streamfn.open(tmp_path / "d", log=Log()) as session:
        await session.create_stream("s", shards=3)
        for number in range(30):
            await session.put_many("s", [streamfn.NewRecord(str(number).encode(), f"key-{number}")])
            await trio.sleep(0.004)
        arrived = {int(record.data): record.arrival_ms for record in [one async for one in session.records("s")]}
        origin = min(arrived.values())
        async with session.mapping("engine.stamped", "s", workers=2, code_dir=FUNCTIONS) as mapping:
            await run(mapping, Recorded(origin, speed=0.5))
            began_ns = mapping._inner.timeline.began_ns
    found = stamps(notes)
    assert sorted(found) == list(range(30))
    assert all(at_ns >= began_ns + (arrived[number] - origin) * 2 * MS for number, at_ns in found.items())


@trio_test
async def test_a_stall_is_charged_to_what_was_due_meanwhile(tmp_path):
    async with one_mapping(tmp_path, "stalls_once", numbered(400), log=Log(), batch_size=1) as (_, mapping):
        stages, lags = Stages(), []

        async def look():
            while True:
                lags.append((mapping._inner.lag, mapping._inner.remaining))
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await run(mapping, rate_of(mapping, 500.0, 400), stages)
            nursery.cancel_scope.cancel()
        latency = snapshot(stages["latency"])
    # Half a second of stall is 250 of 400 records that were due meanwhile; 200 of them waited for longer than 100 ms.
    assert latency.get_total_count() == 400
    assert latency.get_value_at_percentile(51) > 100 * MS
    # What is not due is no lag, although it has been read.
    assert any(lag < 100 and left > 300 for lag, left in lags)
    assert 100 < max(lags)[0] < 400


@pytest.mark.parametrize("paced", [True, False])
@trio_test
async def test_a_record_ages_from_when_it_is_due_not_from_when_it_was_captured(tmp_path, paced):
    async with streamfn.open(tmp_path / "d", log=Log()) as session:
        await session.put_many("s", numbered(20))
        async with session.mapping(
            "engine.noop", "s", workers=1, code_dir=FUNCTIONS, maximum_record_age_in_seconds=60
        ) as mapping:
            inner = mapping._inner
            inner.time_ms = lambda: 4_000_000_000_000  # in the year 2096 every one of them is too old
            schedule = rate_of(mapping, 1_000.0, 20) if paced else AsFast()
            result = await run(mapping, schedule)
    assert (result.records, result.discarded) == (20, 0)
