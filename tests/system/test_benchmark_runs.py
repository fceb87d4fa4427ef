"""Measured runs: what is counted, from when, and what a stall looks like with a schedule and without."""

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from range_rig import Said
from run_rig import FUNCTIONS, PATIENCE_S
from trio.testing import trio_test

from streamfn.benchmark.bench import Bench, Job, Watcher
from streamfn.benchmark.measuring import Measurement, _every_second, _Mark
from streamfn.benchmark.part import Part
from streamfn.benchmark.plan import Load, Setting
from streamfn.benchmark.records import Maker, Recipe
from streamfn.benchmark.sources import Stored
from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.options import RunOptions
from streamfn.mapping.runtime import open_runtime
from streamfn.measure.counts import Counts

MS = 1e6


def mapping_options(handler, **options):
    return RunOptions(handler=f"benched.{handler}", stream="s", **{"workers": 1, "measured": True} | options)


@asynccontextmanager
async def opened(place, handler, records, *, shards=1, environment=None, **options):
    """An open mapping of generated records, and which they are."""
    data = DataDir.open(place / "data", create=True)
    stream = data.create_stream("s", shards)
    Maker(Recipe(size=64), stream).make(records)
    part = Part.of(stream)
    told = mapping_options(handler, environment=environment or {}, **options)
    store = place / "apart" / "state.db"
    store.parent.mkdir()
    async with open_runtime(data, Said(), store_path=store) as runtime:
        yield await runtime.mapping(told, code_dir=FUNCTIONS, starts=part.starts, follow=False), part


async def measured(mapping, part, load):
    with trio.fail_after(PATIENCE_S):
        return await Measurement(mapping, load, part).run()


def p99_ms(measured):
    return measured.latency.percentile(99) / MS


# ---- coordinated omission

STALL_S = 0.25
GIVEN = Load(rate=2000, duration_s=3.0, warmup_s=0.25)


async def stalled(place):
    """What was measured of a handler that stalls once: with records due on a clock, and in a closed loop."""
    found = {}

    async def run(name, load, records):
        (place / name).mkdir(parents=True)
        told = {"batch_size": 10, "environment": {"STALL_AT": "1500", "STALL_S": str(STALL_S)}}
        async with opened(place / name, "stalls", records, **told) as (mapping, part):
            found[name] = await measured(mapping, part, load)

    async with trio.open_nursery() as nursery:  # both handlers sleep: beside each other they take half as long
        nursery.start_soon(run, "open", GIVEN, GIVEN.records)
        nursery.start_soon(run, "closed", Load(duration_s=3.5, warmup_s=0.05), 60_000)
    return found


@trio_test
async def test_a_stall_is_charged_to_all_that_were_due_meanwhile_and_a_closed_loop_hides_it(tmp_path):
    """What queueing theory says of one stall of S seconds in T, with records due every 1/rate and handled at `top`:

    a record that is due t seconds into the stall waits S - t, and less by what has been caught up: the backlog melts
    at 1 - rate/top, so the waits fall evenly from S to 0 over S / (1 - rate/top) seconds. Of all records the part
    (S - w) / (1 - rate/top) / T waits longer than w.

    A machine that stalls by itself, for longer than the handler, is tried again.
    """
    for attempt in range(3):
        found = await stalled(tmp_path / str(attempt))
        # Both met it.
        assert found["open"].latency.max > STALL_S * 1e9 < found["closed"].latency.max
        top = found["closed"].records / (found["closed"].seconds - STALL_S)
        expected_ms = 1000 * (STALL_S - 0.01 * GIVEN.duration_s * (1 - GIVEN.rate / top))
        if p99_ms(found["open"]) < 1.1 * expected_ms:
            break
    assert p99_ms(found["open"]) == pytest.approx(expected_ms, rel=0.1)
    # There it is one batch and what was staged behind it, 25 ms of work: less than a hundredth of the whole time.
    assert p99_ms(found["closed"]) < expected_ms / 2


# ---- what is counted


@trio_test
async def test_what_is_measured_adds_up(tmp_path):
    load = Load(rate=4000, duration_s=0.5, warmup_s=0.25)
    async with opened(tmp_path, "noop", load.records, shards=3, batch_size=50, workers=2) as (mapping, part):
        found = await measured(mapping, part, load)
    assert found.result.records == load.records == 3000
    # Those that were due in the measured time, and no others; shards begin a little apart.
    assert found.latency.total == pytest.approx(2000, abs=3)
    assert 0 < found.records <= 3000  # what was finished in that time; how much depends on the machine
    assert 0.49 < found.seconds < PATIENCE_S
    assert 3 <= len(found.samples) <= 6
    assert sum(sample.records for sample in found.samples) == found.records
    assert Counts.merged(sample.latency for sample in found.samples) == found.latency
    assert not found.overdue
    assert not found.cut_short
    assert len(found.cold_starts) == 2
    for stage in ("waiting", "queueing", "building", "handler", "completion", "checkpoint"):
        assert found.stages[stage].total
    # What all records waited for together is the whole of it.
    assert found.stages["waiting"].mean < found.latency.mean
    for used in (found.runtime, found.workers):
        assert used.cpu_s > 0
        assert used.voluntary > 0
    assert found.runtime_peak > found.workers_peak > 1 << 20


@trio_test
async def test_without_a_schedule_it_ends_with_its_time(tmp_path):
    async with opened(tmp_path, "naps", 40_000, batch_size=10) as (mapping, part):
        found = await measured(mapping, part, Load(duration_s=0.2, warmup_s=0.05))
    assert 0.19 < found.seconds < PATIENCE_S
    assert found.result.why == "drained"
    assert 0 < found.records < found.result.records < 40_000


@trio_test
async def test_a_rate_that_cannot_keep_its_limit_is_given_up_and_counted_with_what_was_waited(tmp_path):
    load = Load(rate=20_000, duration_s=5.0, warmup_s=0.1)
    async with opened(tmp_path, "naps", load.records, batch_size=1) as (mapping, part):
        with trio.fail_after(load.duration_s):
            found = await Measurement(mapping, load, part, limit_ns=50_000_000).run()
    assert found.cut_short
    assert found.overdue > 0
    assert found.latency.total < load.records
    assert p99_ms(found) > 50


@trio_test
async def test_a_handler_that_always_fails_ends_with_its_time_and_its_records_count_as_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr("streamfn.benchmark.measuring._GRACE_S", 0.2)
    load = Load(rate=1000, duration_s=0.3, warmup_s=0.0)
    async with opened(tmp_path, "fails", load.records) as (mapping, part):
        found = await measured(mapping, part, load)
    assert found.errors > 0
    assert found.last_error == "ValueError: it always does"
    assert found.records == 0
    assert found.overdue == found.latency.total == 300
    assert Counts.merged(sample.latency for sample in found.samples) == found.latency
    assert p99_ms(found) > 300


# ---- rows


@trio_test
async def test_rows_are_runs_of_their_own_and_few_records_come_again_until_the_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr("streamfn.benchmark.bench._PATIENCE", 100)
    said = []

    class Told(Watcher):
        def began(self, mapping, note):
            said.append((mapping.name, note))

    async with opened(tmp_path, "naps", 300) as (mapping, _):
        source = Stored(mapping.stream, {"kind": "stream", "stream": "s"})
        jobs = [
            Job(Setting(size, 1, None), replace(mapping_options("naps"), batch_size=size), source) for size in (1, 2)
        ]
        load = Load(duration_s=0.3, warmup_s=0.0)
        bench = Bench(mapping.runtime, load, code_dir=FUNCTIONS, watcher=Told(), runs=2)
        with trio.fail_after(PATIENCE_S):
            await bench.run(jobs)
    assert [(done.row.batch_size, done.row.record_size) for done in bench.done] == [(1, 64), (2, 64)]
    for done in bench.done:
        assert done.row.records > 300
        assert 0.58 < done.row.seconds < PATIENCE_S
        assert {sample.run for sample in done.row.samples} == {0, 1}
        assert done.row.cold_starts.total == 2
    names = [name for name, _ in said]
    assert len(set(names)) == len(names) > 4  # each run has a mapping of its own, whose begin is the first record
    assert said[0][1] == "row 1 of 2: batch size 1, workers 1; run 1 of 2: as fast as it goes"
    assert bench.best in (0, 1)


def test_of_many_ticks_every_second_one_goes_and_the_ends_stay():
    marks = [_Mark(at, at * 10, 0, 0, 0, 0.0, share, b"") for at, share in enumerate([None, 0.1, 0.3, 0.0, 0.2])]
    kept = _every_second(marks)
    assert [mark.at_ns for mark in kept] == [0, 2, 4]
    assert [mark.others for mark in kept] == [None, pytest.approx(0.2), pytest.approx(0.1)]


@trio_test
async def test_a_long_run_has_longer_ticks_and_no_more_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("streamfn.benchmark.measuring.TICK_S", 0.01)
    monkeypatch.setattr("streamfn.benchmark.measuring.TICKS_MAX", 10)
    monkeypatch.setattr("streamfn.benchmark.measuring._SLACK_NS", 5_000_000_000)
    load = Load(rate=1000, duration_s=0.5, warmup_s=0.0)
    async with opened(tmp_path, "noop", load.records) as (mapping, part):
        found = await measured(mapping, part, load)
    assert 5 <= len(found.samples) <= 11
    assert found.records == load.records  # those that were on their way at the end are waited for
    assert sum(sample.records for sample in found.samples) == found.records
    assert sum(sample.seconds for sample in found.samples) == pytest.approx(found.seconds)
    assert Counts.merged(sample.latency for sample in found.samples) == found.latency
    assert found.latency.total == load.records


# ---- parts


def test_the_first_of_several_shards_are_the_same_part_of_each():
    part = Part({"a": 10, "b": 0}, {"a": 110, "b": 300})
    assert part.records == 400
    assert part.first(40) == Part({"a": 10, "b": 0}, {"a": 20, "b": 30})
    assert part.first(1000) is part
    assert sum(Part({"a": 0, "b": 0, "c": 0}, {"a": 7, "b": 5, "c": 1}).first(6).ends.values()) == 6


@trio_test
async def test_more_records_than_a_rate_needs_are_left_and_fewer_shorten_the_time(tmp_path):
    async with opened(tmp_path, "noop", 1000) as (mapping, _):
        source = Stored(mapping.stream, {"kind": "stream", "stream": "s"})
        job = Job(Setting(100, 1, None), mapping_options("noop"), source)
        found = []
        for rate in (2000, 10_000):
            load = Load(rate=rate, duration_s=0.2, warmup_s=0.1)
            bench = Bench(mapping.runtime, load, code_dir=FUNCTIONS, watcher=Watcher())
            await bench.run([job])
            found += bench.done
    enough, short = found
    assert enough.measured.result.records == 600
    assert short.measured.result.records == 1000
    assert enough.notes == []
    assert short.notes == ["0.09 s were measured instead of 0.2: there are 1,000 records"]
