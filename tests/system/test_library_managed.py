"""Event source mappings as things, from a program: both doors."""

import os
import threading
from pathlib import Path

import pytest
import trio
from run_rig import until
from trio.testing import trio_test

import streamfn
from streamfn.state import store

FUNCTIONS = Path(__file__).parent / "functions"


class Quiet:
    def write(self, text):
        pass


@pytest.fixture(autouse=True)
def in_the_code_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(FUNCTIONS)
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("NOTES", str(tmp_path))


@trio_test
async def test_a_mapping_is_made_run_changed_and_deleted(tmp_path):
    async with streamfn.open(tmp_path / "d", log=Quiet()) as session:
        await session.put_many("s", [b"a", b"b", b"c"])
        managed = session.managed
        made = await managed.create("seen.handler", "s", starting_position="TRIM_HORIZON", batch_size=2, name="mine")
        assert (made["BatchSize"], made["State"], made["StateTransitionReason"]) == (2, "Creating", "User action")
        results = await managed.run(until_caught_up=True, workers=1)
        assert {uuid: (one.records, one.batches, one.why) for uuid, one in results.items()} == {
            made["UUID"]: (3, 2, "caught up")
        }
        assert (await managed.metrics("mine"))["InvokedEventCount"] == 3
        assert (await managed.get("mine"))["LastProcessingResult"] == "OK"
        changed = await managed.update("mine", "seen.printer", enabled=False, on_failure="failed")
        assert changed["FunctionArn"].endswith(":seen-printer")
        assert changed["DestinationConfig"] == {"OnFailure": {"Destination": "failed"}}
        assert (await managed.update("mine", on_failure=""))["DestinationConfig"] == {"OnFailure": {}}
        assert [one["State"] for one in await managed.list()] == ["Disabled"]
        assert await managed.reset_checkpoint("mine", "TRIM_HORIZON") == {"shardId-000000000000": 0}
        assert await managed.run(until_caught_up=True, workers=1) == {}
        assert (await managed.delete("mine"))["State"] == "Deleting"
        assert await managed.list() == []


@trio_test
async def test_a_run_follows_requests_of_its_own_program_until_it_is_drained(tmp_path):
    async with streamfn.open(tmp_path / "d", log=Quiet()) as session:
        await session.put("s", b"a")
        managed = session.managed
        results = {}

        async def run():
            results.update(await managed.run(workers=1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            made = await managed.create("seen.handler", "s", starting_position="TRIM_HORIZON")
            with trio.fail_after(15):
                while (await managed.get(made["UUID"]))["LastProcessingResult"] != "OK":
                    await trio.sleep(0.01)
            with pytest.raises(streamfn.RefusedError, match="running already"):
                await managed.run()
            managed.drain()
        assert [(uuid, one.records) for uuid, one in results.items()] == [(made["UUID"], 1)]
        results = await managed.run(until_caught_up=True, workers=1)  # it can be run again
        assert [one.records for one in results.values()] == [0]


@trio_test
async def test_an_idle_run_asks_the_store_nothing_and_hears_of_a_request(tmp_path, monkeypatch):
    asked, real = [], store.translated

    def counted(path):
        asked.append(path)
        return real(path)

    monkeypatch.setattr(store, "translated", counted)
    async with streamfn.open(tmp_path / "d", log=Quiet()) as session:
        await session.put("s", b"a")
        made = await session.managed.create("seen.handler", "s", starting_position="TRIM_HORIZON")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: session.managed.run(workers=1))
            with trio.fail_after(15):
                while (await session.managed.get(made["UUID"]))["LastProcessingResult"] != "OK":
                    await trio.sleep(0.01)
            await trio.sleep(0.2)
            asked.clear()
            await trio.sleep(0.4)
            assert asked == []
            await session.managed.update(made["UUID"], batch_size=5)
            with trio.fail_after(15):
                while (await session.managed.get(made["UUID"]))["State"] != "Enabled":
                    await trio.sleep(0.01)
            session.managed.drain()


@trio_test
async def test_a_run_that_is_cancelled_leaves_nothing_behind(tmp_path):
    async with streamfn.open(tmp_path / "d", log=Quiet()) as session:
        await session.put("s", b"a")
        await session.managed.create("seen.held", "s", starting_position="TRIM_HORIZON")
        with trio.move_on_after(15) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: session.managed.run(workers=1))
                while not os.path.exists(os.environ["SEEN"]):
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert session._runtime.pool.functions == []
        (tmp_path / "go").touch()
        results = await session.managed.run(until_caught_up=True, workers=1)
        assert [one.records for one in results.values()] == [1]


@trio_test
async def test_what_lambda_refuses_is_refused_in_its_words_and_unknown_options_by_name(tmp_path):
    async with streamfn.open(tmp_path / "d", log=Quiet()) as session:
        await session.put("s", b"a")
        managed = session.managed
        for options, reason in [
            ({}, "Value null at 'startingPosition' failed to satisfy constraint: Member must not be null."),
            ({"starting_position": "LATEST", "batch_size": 0}, "Value '0' at 'batchSize'"),
            ({"starting_position": "LATEST", "BatchSize": 1}, "did you mean batch_size?"),
            ({"starting_position": "LATEST", "enabled": 1}, "option enabled takes True or False"),
            ({"starting_position": "LATEST", "filter_criteria": {"Filters": [{"Pattern": "null"}]}}, "Invalid filter"),
            ({"starting_position": "LATEST", "code_dir": "/nowhere"}, "is not a directory"),
        ]:
            with pytest.raises(streamfn.RefusedError) as raised:
                await managed.create("seen.handler", "s", **options)
            assert reason in str(raised.value)
        with pytest.raises(streamfn.RefusedError, match="Function does not exist"):
            await managed.create("no.such", "s", starting_position="LATEST")
        with pytest.raises(streamfn.RefusedError, match="Stream not found"):
            await managed.create("seen.handler", "t", starting_position="LATEST")
        for ask in (managed.get, managed.update, managed.delete, managed.metrics):
            with pytest.raises(streamfn.RefusedError, match="The resource you requested does not exist."):
                await ask("nobody")
        with pytest.raises(streamfn.RefusedError, match="'workers'"):
            await managed.run(workers=0)
        with pytest.raises(streamfn.RefusedError, match="unknown option 'batch_size'"):
            await managed.run(batch_size=3)
        assert await managed.list() == []
    with pytest.raises(streamfn.PoolClosed):
        await managed.list()


@trio_test
async def test_a_handler_that_cannot_be_loaded_ends_the_run_and_stops_what_was_started(tmp_path):
    async with streamfn.open(tmp_path / "d", log=Quiet()) as session:
        await session.put("s", b"a")
        await session.managed.create("seen.handler", "s", starting_position="LATEST")
        bad = await session.managed.create("broken.raises.handler", "s", starting_position="LATEST")
        with pytest.raises(streamfn.HandlerImportError):
            await session.managed.run(workers=1)
        assert session._runtime.pool.functions == []
        await session.managed.delete(bad["UUID"])
        assert len(await session.managed.run(until_caught_up=True, workers=1)) == 1


def test_the_synchronous_door_does_the_same_call_by_call(tmp_path):
    with streamfn.open_sync(tmp_path / "d", log=Quiet()) as session:
        session.put("s", b"a")
        made = session.managed.create("seen.handler", "s", starting_position="TRIM_HORIZON")
        uuid = made["UUID"]
        results = []
        runner = threading.Thread(target=lambda: results.append(session.managed.run(workers=1)))
        runner.start()
        until(lambda: session.managed.get(uuid)["LastProcessingResult"] == "OK", "the record to be processed")
        assert session.managed.update(uuid, batch_size=5)["BatchSize"] == 5
        until(lambda: session.managed.get(uuid)["State"] == "Enabled", "the update to take effect")
        session.managed.drain()
        runner.join(15)
        assert [[one.records for one in each.values()] for each in results] == [[1]]
        assert session.managed.metrics(uuid)["InvokedEventCount"] == 1
        assert session.managed.reset_checkpoint(uuid, "LATEST") == {"shardId-000000000000": 1}
        assert [one["UUID"] for one in session.managed.list()] == [uuid]
        session.managed.delete(uuid)
        assert session.managed.list() == []
