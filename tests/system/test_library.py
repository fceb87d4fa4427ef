"""The library's door from Trio, as a program would use it."""

import logging
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import orjson
import pytest
import trio
from library_rig import FUNCTIONS, children, nothing_left, wait_for
from trio.testing import trio_test

import streamfn
from streamfn.doors.mapping import OUTCOMES_MAX
from streamfn.doors.putting import IDLE_S


@pytest.fixture(autouse=True)
def functions_on_the_path(monkeypatch):
    """The callables are importable here by `sys.path` alone."""
    monkeypatch.syspath_prepend(str(FUNCTIONS))


QUICK = {"workers": 1, "code_dir": FUNCTIONS}


def numbered(count, keys=7):
    return [streamfn.NewRecord(b"%d" % number, f"key-{number % keys}") for number in range(count)]


async def until(true, seconds=10.0):
    """Poll until `true()`; fail after a deadline."""
    with trio.fail_after(seconds):
        while not true():
            await trio.lowlevel.checkpoint()


async def collected(records):
    return [record async for record in records]


async def results(session, handler, stream="s", **options):
    """What the handler returned, batch by batch."""
    found = []
    async with (
        session.mapping(handler, stream, **options) as mapping,
        mapping.outcomes() as outcomes,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(mapping.run_until_caught_up)
        async for outcome in outcomes:
            assert outcome.succeeded, outcome.fault
            found.append(outcome.result)
    return found


# ---- streams and records


@trio_test
async def test_streams_are_made_listed_and_deleted(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        assert await session.streams() == []
        await session.create_stream("b", shards=3)
        await session.create_stream("b", shards=3)
        await session.put("a", b"x")
        assert await session.streams() == ["a", "b"]
        with pytest.raises(streamfn.RefusedError, match="3 open shards, not 2"):
            await session.create_stream("b", shards=2)
        await session.delete_stream("a")
        assert await session.streams() == ["b"]
        with pytest.raises(streamfn.RefusedError, match="unknown stream 'a'"):
            await session.delete_stream("a")


@pytest.mark.parametrize("name", ["../x", "", "a/b", "ü"])
@trio_test
async def test_a_name_that_is_none_is_refused_and_nothing_made(tmp_path, name):
    async with streamfn.open(tmp_path / "d") as session:
        with pytest.raises(streamfn.RefusedError, match="stream name"):
            await session.put(name, b"x")
        assert await session.streams() == []


@trio_test
async def test_records_come_back_in_the_order_of_each_shard(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.create_stream("s", shards=4)
        put = await session.put_many("s", numbered(2000))
        found = await collected(session.records("s"))
        assert sorted((record.shard_id, record.sequence_number) for record in found) == sorted(put)
        for shard in {record.shard_id for record in found}:
            own = [record for record in found if record.shard_id == shard]
            assert [record.offset for record in own] == list(range(len(own)))
            assert [record.sequence_number for record in own] == [each[1] for each in put if each[0] == shard]
        by_key = {}
        for record in found:
            by_key.setdefault(record.partition_key, []).append(int(record.data))
        assert all(numbers == sorted(numbers) for numbers in by_key.values())


@trio_test
async def test_reading_may_start_at_a_time_or_at_the_end(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", [streamfn.NewRecord(b"%d" % ms, "k", ms) for ms in (1000, 2000, 3000)])
        for start in (2, 2.0, datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC), "1970-01-01T00:00:02Z"):
            assert [r.data for r in await collected(session.records("s", start=start))] == [b"2000", b"3000"]
        async with session.records("s", start="LATEST", follow=True) as records:
            await session.put("s", "new")
            assert (await anext(records)).data == b"new"
        with pytest.raises(streamfn.RefusedError, match="'noon' is not a time"):
            session.records("s", start="noon")
        with pytest.raises(streamfn.RefusedError, match="unknown stream 'none'"):
            await collected(session.records("none"))


@trio_test
async def test_following_sees_what_is_put_later_and_says_when_the_stream_is_deleted(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.create_stream("s", shards=2)
        found = []

        async def follow():
            async for record in session.records("s", follow=True):
                found.append(int(record.data))

        with trio.fail_after(10), pytest.RaisesGroup(pytest.RaisesExc(streamfn.FailedError, match="deleted")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                for number in range(20):
                    await session.put("s", str(number))
                await until(lambda: len(found) == 20)
                await session.delete_stream("s")
        assert sorted(found) == list(range(20))


@trio_test
async def test_an_iterator_that_is_dropped_or_cancelled_holds_nothing_open(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.create_stream("s", shards=4)
        await session.put_many("s", numbered(2000))
        with nothing_left():
            async for _ in session.records("s"):
                break
        with nothing_left():
            with trio.move_on_after(0.05):
                async with session.records("s", start="LATEST", follow=True) as records:
                    await anext(records)


@trio_test
async def test_a_cancelled_reader_loses_no_record(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", numbered(3000))
        found, records = [], session.records("s")
        while len(found) < 3000:
            with trio.CancelScope() as scope:
                async for record in records:
                    found.append(int(record.data))
                    if len(found) % 100 == 0:
                        scope.cancel()
        assert found == list(range(3000))


@trio_test
async def test_an_idle_session_does_not_keep_others_from_putting(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"mine")
        command = [sys.executable, "-m", "streamfn", "put", "s", "theirs", "--data-dir", str(tmp_path / "d")]
        with trio.fail_after(IDLE_S + 5):
            await trio.run_process(command, capture_stdout=True)
        await session.put("s", b"mine again")
        assert [record.data for record in await collected(session.records("s"))] == [b"mine", b"theirs", b"mine again"]


@pytest.mark.parametrize("data", [5, None, {"n": 1}, ["x"]])
@trio_test
async def test_what_is_no_data_is_refused(tmp_path, data):
    async with streamfn.open(tmp_path / "d") as session:
        with pytest.raises(streamfn.RefusedError, match="data is bytes or text"):
            await session.put("s", data)
        with pytest.raises(streamfn.RefusedError, match="put_many takes several"):
            await session.put_many("s", "a text is not a list of records")
        assert await session.streams() == []


# ---- mappings


@trio_test
async def test_a_run_until_caught_up_delivers_everything_once_and_the_next_one_nothing(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.create_stream("s", shards=4)
        await session.put_many("s", numbered(1000))
        first = await session.run_until_caught_up("library.count", "s", batch_size=10, **QUICK)
        assert (first.records, first.errors, first.why) == (1000, 0, "caught up")
        assert (await session.run_until_caught_up("library.count", "s", **QUICK)).records == 0
        [state] = await session.mappings()
        assert (state.name, state.stream, state.handler) == ("library.count@s", "s", "library.count")
        assert sum(state.checkpoints.values()) == 1000
        await session.delete_mapping(state.name)
        assert (await session.run_until_caught_up("library:count", "s", name=state.name, **QUICK)).records == 1000


@trio_test
async def test_outcomes_carry_the_request_id_and_the_response(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", numbered(50))
        async with session.mapping("library.echo", "s", batch_size=10, **QUICK) as mapping:
            for _ in range(2):  # the second time there is nothing: the iterator ends none the less
                seen = []
                async with mapping.outcomes() as outcomes, trio.open_nursery() as nursery:
                    nursery.start_soon(mapping.run_until_caught_up)
                    async for outcome in outcomes:
                        seen.append(outcome)
                if seen:
                    assert [outcome.records for outcome in seen] == [10] * 5
                    assert [outcome.result["request_id"] for outcome in seen] == [each.request_id for each in seen]
                    assert orjson.loads(seen[0].response) == seen[0].result
                    assert seen[0].result["cwd"] == str(FUNCTIONS)
            assert seen == []


@trio_test
async def test_a_consumer_that_stops_taking_outcomes_holds_the_mapping_up(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", numbered(3 * OUTCOMES_MAX))
        async with (
            session.mapping("library.count", "s", batch_size=1, **QUICK) as mapping,
            mapping.outcomes() as outcomes,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(mapping.run_until_caught_up)
            await until(lambda: outcomes.waiting >= OUTCOMES_MAX)
            await trio.sleep(0.2)
            assert outcomes.waiting < 2 * OUTCOMES_MAX
            assert len([outcome async for outcome in outcomes]) == 3 * OUTCOMES_MAX


@trio_test
async def test_one_function_serves_several_mappings(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        for stream in ("a", "b"):
            await session.put_many(stream, numbered(100))
        async with session.function("library.echo", workers=2, code_dir=FUNCTIONS) as function:
            before, pids = children(), set()
            assert len(function.workers) == 2
            for stream in ("a", "b"):
                pids |= {result["pid"] for result in await results(session, function, stream, batch_size=10)}
            assert pids <= set(function.workers)
            assert children() == before
            with pytest.raises(streamfn.RefusedError, match="option workers belongs to the function"):
                await session.run_until_caught_up(function, "a", workers=3)
        with pytest.raises(streamfn.PoolClosed, match="is closed"):
            await session.run_until_caught_up(function, "a", name="another")


@trio_test
async def test_a_stream_on_which_a_mapping_runs_is_not_deleted(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        async with session.mapping("library.count", "s", **QUICK) as mapping:
            match = f"'s' is not deleted: mapping 'library.count@s' is already running in process {os.getpid()}"
            with pytest.raises(streamfn.BusyError, match=match):
                await session.delete_stream("s")
            with pytest.raises(streamfn.BusyError, match="is not deleted: it is already running"):
                await session.delete_mapping(mapping.name)
            with pytest.raises(streamfn.BusyError, match="already running"):
                await session.run("library.count", "s", **QUICK)
            assert (await mapping.run_until_caught_up()).records == 1
        await session.delete_stream("s")


@trio_test
async def test_a_run_that_is_drained_stops_at_a_batch_edge(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", numbered(100))
        async with session.mapping("library.count", "s", batch_size=10, **QUICK) as mapping:
            mapping.drain()  # nothing runs: nothing happens
            async with trio.open_nursery() as nursery, mapping.outcomes() as outcomes:
                nursery.start_soon(mapping.run)
                await anext(outcomes)
                with pytest.raises(streamfn.RefusedError, match="is running already"):
                    await mapping.run()
                mapping.drain()
        [state] = await session.mappings()
        assert state.checkpoints["shardId-000000000000"] % 10 == 0


@trio_test
async def test_a_limit_hands_over_so_many_records(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", numbered(100))
        result = await session.run("library.count", "s", limit=25, batch_size=10, **QUICK)
        assert (result.records, result.why) == (25, "limit")
        for limit in (0, -1, "3", 2.5, True):
            with pytest.raises(streamfn.RefusedError, match="option limit takes"):
                await session.run("library.count", "s", limit=limit, **QUICK)


# ---- what is refused, and how it fails

REFUSED = [
    ({"batchsize": 1}, "unknown option 'batchsize': did you mean batch_size"),
    ({"BatchSize": 1}, "unknown option 'BatchSize': did you mean batch_size"),
    ({"colour": "red"}, "unknown option 'colour': there is allow_network, batch_size, bisect_batch_on"),
    ({"handler": "x.y"}, "multiple values|unknown option 'handler'"),
    ({"timeout_s": 3}, "unknown option 'timeout_s': did you mean timeout"),
    ({"batch_size": "10"}, "option batch_size takes a whole number, not '10'"),
    ({"batch_size": 0}, "Value '0' at 'batchSize' failed to satisfy constraint"),
    ({"batch_size": 10001}, "Member must have value less than or equal to 10000"),
    ({"timeout": 2.5}, "option timeout takes a whole number"),
    ({"timeout": None}, "option timeout takes a whole number"),
    ({"name": 5}, "option name takes a text"),
    ({"starting_position": "EARLIEST"}, "at 'startingPosition' failed to satisfy constraint"),
    ({"starting_position": "AT_TIMESTAMP"}, "needs a starting position timestamp"),
    ({"starting_position": "AT_TIMESTAMP", "starting_position_timestamp": "noon"}, "'noon' is not a time"),
    ({"environment": {"A": 1}}, "option environment takes a mapping of texts"),
    ({"environment": {"_HANDLER": "x"}}, "reserved keys"),
    ({"code_dir": "/does/not/exist"}, "is not a directory"),
    ({"logs": "some"}, "at 'logs' failed to satisfy constraint"),
    ({"maximum_retry_attempts": -2}, "at 'maximumRetryAttempts' failed to satisfy constraint"),
    ({"bisect_batch_on_function_error": 1}, "takes True or False, not 1"),
    ({"function_response_types": "ReportBatchItemFailures"}, "takes a list of texts"),
    ({"function_response_types": ["All"]}, "Member must satisfy enum value set"),
]


@trio_test
async def test_an_option_that_is_unknown_or_out_of_range_is_refused_in_words(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        for options, words in REFUSED:
            if "handler" in options:
                continue  # Python itself says so
            with nothing_left(), pytest.raises(streamfn.RefusedError, match=words):
                await session.run("library.count", "s", **options)
        for handler, words in [(5, "a handler is a name"), (None, "a handler is a name"), ("nothing", "is no handler")]:
            with pytest.raises(streamfn.RefusedError, match=words):
                await session.run(handler, "s")
        with pytest.raises(streamfn.RefusedError, match="unknown option 'batch_size': there is allow"):
            await session.open_function("library.count", batch_size=1)
        assert await session.mappings() == []


@trio_test
async def test_a_handler_that_cannot_be_loaded_is_one_bare_error_with_its_own_traceback(tmp_path):
    (tmp_path / "broken.py").write_text("print('on the way')\nimport json\njson.loads('{')\n")
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        with nothing_left():
            with pytest.raises(streamfn.HandlerImportError, match="Expecting property name") as caught:
                await session.run_until_caught_up("broken.handler", "s", code_dir=tmp_path)
            notes = "\n".join(caught.value.__notes__)
            assert "on the way" in notes
            assert "broken.py" in notes
            assert "streamfn" not in notes.replace(str(tmp_path), "")
            with pytest.raises(streamfn.HandlerImportError, match="Unable to import module 'missing'"):
                await session.run("missing.handler", "s")
            with pytest.raises(streamfn.HandlerImportError, match="Handler 'nothing' missing"):
                await session.run("library.nothing", "s", code_dir=FUNCTIONS)
        assert await session.mappings() == []


@trio_test
async def test_damage_comes_out_bare_after_the_other_shards_were_served(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.create_stream("s", shards=2)
        await session.put_many("s", numbered(200))
        counts = {}
        async for record in session.records("s"):
            counts[record.shard_id] = counts.get(record.shard_id, 0) + 1
    damaged, sound = sorted(counts)
    [segment] = (tmp_path / "d").glob(f"streams/*/{damaged}/*.arrows")
    raw = bytearray(segment.read_bytes()[:100_000])
    raw[3000] ^= 255
    os.pwrite(fd := os.open(segment, os.O_WRONLY), raw, 0)
    os.close(fd)
    async with streamfn.open(tmp_path / "d") as session:
        with pytest.raises(streamfn.LogDamaged, match=segment.name):
            await session.run_until_caught_up("library.count", "s", **QUICK)
        with pytest.raises(streamfn.LogDamaged, match=segment.name):
            await collected(session.records("s"))
        [state] = await session.mappings()
        assert state.checkpoints == {damaged: 0, sound: counts[sound]}


@trio_test
async def test_a_data_directory_that_is_none_is_one_bare_error(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "format").write_text('{"streamfn": 99}')
    for name, words in [("file/d", "cannot use"), ("newer", "newer than"), (".", "is not a streamfn data directory")]:
        with pytest.raises(streamfn.StreamfnError, match=words):
            async with streamfn.open(tmp_path / name):
                pytest.fail("it was opened")


@trio_test
async def test_what_the_block_raises_comes_out_as_it_is(tmp_path):
    async def raising(error):
        async with streamfn.open(tmp_path / "d") as session:
            await session.put("s", b"x")
            async with session.mapping("library.count", "s", **QUICK):
                raise error

    for error in (ZeroDivisionError, SystemExit, KeyboardInterrupt):
        with nothing_left(), pytest.raises(error):
            await raising(error)


@trio_test
async def test_everything_used_after_its_end_says_so(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        async with session.mapping("library.count", "s", **QUICK) as mapping:
            pass
        with pytest.raises(streamfn.PoolClosed, match=r"mapping 'library\.count@s' is closed"):
            await mapping.run()
    for call in (
        partial(session.put, "s", b"x"),
        partial(session.create_stream, "t"),
        partial(session.run, "library.count", "s"),
        partial(session.streams),
        partial(session.mappings),
    ):
        with pytest.raises(streamfn.PoolClosed, match="the session is closed"):
            await call()


# ---- cancellation


@trio_test
async def test_a_cancelled_start_leaves_no_process_and_no_mapping(tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        with nothing_left(), trio.move_on_after(0.3) as scope:
            await session.run("slow.handler", "s", code_dir=tmp_path)
        assert scope.cancelled_caught
        assert await session.mappings() == []


@trio_test
async def test_a_cancelled_run_kills_what_runs_and_the_next_one_delivers_it_again(tmp_path, capfd):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", numbered(100))
        options = {"batch_size": 10, "name": "m", "timeout": 60, **QUICK}
        with nothing_left():
            async with session.mapping("library.sleeper", "s", **options) as mapping:
                for _ in range(2):
                    with trio.move_on_after(0.3) as scope:
                        await mapping.run_until_caught_up()
                    assert scope.cancelled_caught
        result = await session.run_until_caught_up("library.count", "s", **options)
        assert (result.records, result.errors) == (100, 0)
    assert capfd.readouterr().err == ""


@trio_test
async def test_a_mapping_that_is_closed_while_it_runs_ends_its_run(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        with nothing_left(), pytest.RaisesGroup(pytest.RaisesExc(streamfn.PoolClosed, match="closed while it ran")):
            async with trio.open_nursery() as nursery, session.mapping("library.sleeper", "s", **QUICK) as mapping:
                nursery.start_soon(mapping.run)
                await trio.sleep(0.1)


@trio_test
async def test_leaving_the_session_with_a_handler_that_fails_for_ever_takes_less_than_a_second(tmp_path, capsys):
    with nothing_left():
        async with streamfn.open(tmp_path / "d") as session:
            await session.put("s", b"x")
            with trio.move_on_after(0.5):
                await session.run_until_caught_up("library.often_fails", "s", **QUICK)
            before = trio.current_time()
        assert trio.current_time() - before < 1
    assert "[ERROR] RuntimeError: never works" in capsys.readouterr().err


def test_a_keyboard_interrupt_leaves_no_process(tmp_path):
    script = """
import os, streamfn, trio
async def main():
    async with streamfn.open("d") as session:
        await session.put("s", b"x")
        print("ready", flush=True)
        await session.run("library.sleeper", "s")
try:
    trio.run(main)
except* KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FUNCTIONS), *sys.path])}
    child = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    wait_for(lambda: len(children(child.pid)) >= 2)
    left = children(child.pid)
    child.send_signal(2)
    assert child.communicate(timeout=5)[0] == "interrupted\n"
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), 1)


# ---- callables


@trio_test
async def test_a_function_of_an_importable_module_is_imported_anew(tmp_path, monkeypatch):
    import library

    monkeypatch.setattr(library, "SECRET", "as changed here")
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        [result] = await results(session, library.echo, workers=1)
        assert result["secret"] == "as imported"
        assert result["cwd"] == os.getcwd()
        assert [mapping.name for mapping in await session.mappings()] == ["library:echo@s"]


@trio_test
async def test_what_cannot_be_imported_runs_in_a_forked_process_and_sees_what_was_there(tmp_path, capsys):
    import library

    offset = 1000
    log = []

    def closure(event, context):
        log.append(event)
        print("from the closure")
        return offset + len(event["Records"])

    class Counter:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, event, context):
            return self.factor * len(event["Records"])

        def method(self, event, context):
            return -len(event["Records"])

    handlers = {
        "closure": (closure, 1003),
        "lambda": (lambda event, context: offset, 1000),
        "object": (Counter(5), 15),
        "method": (Counter(5).method, -3),
        "partial": (partial(lambda more, event, context: more, "bound"), "bound"),
        "static": (library.Tool.used, "static"),
    }
    async with streamfn.open(tmp_path / "d") as session:
        await session.put_many("s", numbered(3))
        for name, (handler, expected) in handlers.items():
            with nothing_left():
                assert await results(session, handler, name=name, workers=1) == [expected]
        assert log == []
        stored = {mapping.name: mapping.handler for mapping in await session.mappings()}
        assert stored["lambda"].endswith("_locals_lambda")
    assert "from the closure\n" in capsys.readouterr().err


@trio_test
async def test_a_forked_handler_has_lambdas_logging_and_clock_not_the_programs(tmp_path, capsys, monkeypatch):
    def handler(event, context):
        logging.getLogger().error("once")
        return time.strftime("%H:%M", time.localtime(0))

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    mine = logging.StreamHandler()
    logging.getLogger().addHandler(mine)
    try:
        async with streamfn.open(tmp_path / "d") as session:
            await session.put("s", b"x")
            assert await results(session, handler, workers=1) == ["00:00"]
    finally:
        logging.getLogger().removeHandler(mine)
        monkeypatch.undo()
        time.tzset()
    [line] = [line for line in capsys.readouterr().err.splitlines() if "once" in line]
    assert line.startswith("[ERROR]\t")


def test_mappings_of_two_scripts_do_not_share_a_checkpoint(tmp_path):
    script = """
import streamfn
def handler(event, context): ...
if __name__ == "__main__":
    with streamfn.open_sync("d") as session:
        session.create_stream("s")
        if not list(session.records("s")):
            session.put("s", b"x")
        print(session.run_until_caught_up(handler, "s", workers=1).records, [m.name for m in session.mappings()])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = []
    for name in ("first", "second", "first"):
        (tmp_path / f"{name}.py").write_text(script)
        command = [sys.executable, f"{name}.py"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20, check=True
        )
        said.append(done.stdout.strip())
    assert said == ["1 ['first:handler@s']", "1 ['first:handler@s', 'second:handler@s']",
                    "0 ['first:handler@s', 'second:handler@s']"]  # fmt: skip


@trio_test
async def test_a_module_that_was_never_a_file_is_forked_not_imported(tmp_path, monkeypatch):
    import types

    made = types.ModuleType("made_up")
    exec("def handler(event, context):\n    return 'made up'", made.__dict__)
    monkeypatch.setitem(sys.modules, "made_up", made)
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        assert await results(session, made.handler, workers=1) == ["made up"]


@trio_test
async def test_another_module_of_the_same_name_in_the_current_directory_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "library.py").write_text("def count(event, context):\n    return 'the wrong one'\n")
    monkeypatch.chdir(tmp_path)
    import library

    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        assert await results(session, library.count, workers=1) == [{"records": 1}]
        assert await results(session, "library.count", workers=1) == ["the wrong one"]


@trio_test
async def test_the_environment_is_the_programs_and_what_is_added(tmp_path, monkeypatch):
    import library

    monkeypatch.setenv("LIBRARY_TEST", "from the program")
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        assert await results(session, library.environment, name="a", workers=1) == ["from the program"]
        added = {"LIBRARY_TEST": "added"}
        for name, handler in {"b": library.environment, "c": lambda e, c: os.environ["LIBRARY_TEST"]}.items():
            assert await results(session, handler, name=name, environment=added, workers=1) == ["added"]


STUCK = """
import os, threading, streamfn, streamfn.pool.function
streamfn.pool.function.FORK_INIT_S = 0.5  # instead of 5 s
lock = threading.Lock()
held = threading.Event()
def hold():
    with lock:
        held.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
os.register_at_fork(after_in_child=lock.acquire)  # as a library does that guards its state
def handler(event, context): ...
with streamfn.open_sync("d") as session:
    session.put("s", b"x")
    try:
        session.run_until_caught_up(handler, "s")
    except streamfn.RefusedError as error:
        print(error)
    print(session.mappings())
"""


def test_a_fork_that_does_not_come_up_is_refused_naming_the_callable_and_the_remedy(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", STUCK], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=15
    )
    assert done.stderr == ""
    refusal, mappings = done.stdout.splitlines()
    assert refusal.startswith("handler cannot be run in worker processes")
    assert "within 0.5 s" in refusal
    assert refusal.endswith("put it into a module and name it")
    assert mappings == "[]"


# ---- nothing global


@trio_test
async def test_a_session_changes_nothing_global(tmp_path, monkeypatch):
    import resource
    import signal
    import threading
    import warnings

    def state():
        return (
            [signal.getsignal(number) for number in range(1, 30)],
            dict(os.environ), os.getcwd(), list(sys.path), sys.excepthook, threading.excepthook,
            logging.getLogger().handlers[:], logging.Formatter.converter, list(warnings.filters),
            resource.getrlimit(resource.RLIMIT_NOFILE), sys.stdout, sys.stderr, os.umask(os.umask(0o22)),
        )  # fmt: skip

    os.umask(0o22)
    before = state()
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"x")
        assert await results(session, lambda event, context: 1, workers=1) == [1]
        assert state() == before
    assert state() == before


@trio_test
async def test_a_call_ends_when_its_function_is_closed(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        function = await session.open_function("library.sleeper", **QUICK, timeout=60)

        async def call():
            with pytest.raises(streamfn.PoolClosed, match="was stopped"):
                await session.invoke(function, {"Records": []})

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await trio.sleep(0.5)
                await session.close_function(function)
