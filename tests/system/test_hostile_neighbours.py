"""Two functions in one runtime: whatever one does to what it shares with the runtime, the other one does not notice."""

import io
import random
import statistics

import hostile
import pytest
import trio
from hostile import BEHAVIOURS, RINGS
from library_rig import FUNCTIONS, nothing_left
from trio.testing import trio_test

import streamfn


@pytest.fixture
def witness(tmp_path, monkeypatch):
    """Where the handlers of this test write."""
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setenv("NOTES", str(notes))
    monkeypatch.setenv("SEEN", str(notes / "seen"))
    monkeypatch.setenv("STREAMFN_TEST_MARK", str(tmp_path))
    return notes


def mapping_of(session, stream, **options):
    wanted = {"workers": 2, "code_dir": FUNCTIONS, "timeout": 1, "maximum_retry_attempts": 0, "batch_size": 1}
    return session.mapping("hostile.handler", stream, name=stream, **{**wanted, **options})


async def healthy_beside(tmp_path, witness, deeds, *, healthy):
    """Run the deeds in one function, and the healthy records in another.

    What comes of the deeds is not asked: their function's own batches may have been written over.
    """
    async with streamfn.open(tmp_path / "d", log=io.StringIO()) as session:
        await session.create_stream("good", shards=2)
        records = [streamfn.NewRecord(b"%d" % n, f"key-{n}") for n in range(healthy)]
        await session.put_many("good", records)
        await session.put_many("bad", [streamfn.NewRecord(f"deed:{deed}".encode(), "k") for deed in deeds])
        async with mapping_of(session, "good") as good, mapping_of(session, "bad") as bad:
            results = {}

            async def run(name, mapping):
                results[name] = await mapping.run_until_caught_up()

            with trio.fail_after(60 + healthy):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run, "good", good)
                    nursery.start_soon(run, "bad", bad)
        assert (results["good"].records, results["good"].errors, results["good"].discarded) == (healthy, 0, 0)
        assert results["bad"].records + results["bad"].discarded == len(deeds)
    told = [hostile.json.loads(line) for line in (witness / "seen").read_text().splitlines()]
    seen = [each["numbers"] for each in told if "seen" in each and each["deed"].isdigit()]
    assert len(seen) == healthy, "each once, by the handlers' own word"


@trio_test
async def test_rings_that_a_handler_writes_over_are_its_own_functions_trouble(tmp_path, witness, soak):
    dice = random.Random()
    deeds = RINGS + [dice.choice(RINGS) for _ in range(2000 if soak else 40)]
    with nothing_left():
        await healthy_beside(tmp_path, witness, deeds, healthy=5_000 if soak else 500)


@trio_test
async def test_a_timeout_fires_soon_whatever_the_handler_is_in(tmp_path, witness):
    """Within 100 ms of its deadline, and of what this machine itself is late by meanwhile."""
    hanging = [each.name for each in BEHAVIOURS.values() if each.error == hostile.TIMED_OUT and not each.apart]
    assert len(hanging) > 5
    late_s, own_s = [], []
    async with streamfn.open(tmp_path / "d", log=io.StringIO()) as session:
        await session.create_stream("bad", shards=4)
        await session.put_many("bad", [streamfn.NewRecord(f"deed:{name}".encode(), name) for name in hanging])
        async with mapping_of(session, "bad", workers=3) as bad, trio.open_nursery() as nursery:

            async def watch(*, task_status):
                async with bad.outcomes() as outcomes:
                    task_status.started()
                    async for outcome in outcomes:
                        assert outcome.fault.error_type == hostile.TIMED_OUT
                        late_s.append((outcome.finished_ns - outcome.started_ns) / 1e9 - 1)

            async def sleep():
                while True:
                    began = trio.current_time()
                    await trio.sleep(0.02)
                    own_s.append(trio.current_time() - began - 0.02)

            await nursery.start(watch)
            nursery.start_soon(sleep)
            await bad.run_until_caught_up()
            nursery.cancel_scope.cancel()
    assert len(late_s) == len(hanging)
    assert min(late_s) >= 0
    assert statistics.median(late_s) < 0.1 + max(own_s)
    assert max(late_s) < 0.1 + 3 * max(own_s)
