"""The synchronous door: any thread, beside asyncio, several at once, and Ctrl-C."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio
from library_rig import FUNCTIONS, children, count_fds, nothing_left, wait_for

import streamfn

QUICK = {"workers": 1, "code_dir": FUNCTIONS}


@pytest.fixture
def session(tmp_path):
    with nothing_left(), streamfn.open_sync(tmp_path / "d") as session:
        yield session


def test_a_script_puts_reads_runs_and_deletes(session):
    session.create_stream("s", shards=2)
    put = session.put("s", "text", partition_key="k")
    session.put_many("s", [b"bytes", "more text", streamfn.NewRecord(b"record", "k")])
    assert session.streams() == ["s"]
    records = list(session.records("s"))
    assert sorted(record.data for record in records) == [b"bytes", b"more text", b"record", b"text"]
    assert put in [(record.shard_id, record.sequence_number) for record in records]
    assert session.run_until_caught_up("library.count", "s", **QUICK).records == 4
    assert session.run("library.count", "s", limit=3, name="m", **QUICK).records == 3
    assert [mapping.name for mapping in session.mappings()] == ["library.count@s", "m"]
    session.delete_mapping("m")
    session.delete_stream("s")
    assert session.streams() == []


def test_outcomes_are_iterated_while_the_mapping_runs(session):
    session.put_many("s", [b"%d" % number for number in range(50)])
    with session.mapping(lambda event, context: context.aws_request_id, "s", batch_size=5, workers=1) as mapping:
        with mapping.outcomes() as outcomes:
            found = [(outcome.request_id, outcome.result) for outcome in outcomes]
        assert len(found) == 10
        assert all(request_id == result for request_id, result in found)
        assert outcomes.result.records == 50
        assert mapping.resumed is False
        with mapping.outcomes(until_caught_up=False):
            pass  # left at once: drained
        session.put_many("s", [b"more"] * 20)
        with mapping.outcomes(until_caught_up=False) as outcomes:
            assert next(outcomes).records <= 5
        with pytest.raises(RuntimeError, match="of the block"), mapping.outcomes(until_caught_up=False):
            raise RuntimeError("of the block")
        assert mapping.run_until_caught_up().errors == 0


def test_records_are_followed_from_another_thread(session):
    session.create_stream("s")
    with session.records("s", start="LATEST", follow=True) as records, ThreadPoolExecutor(1) as other:
        found = other.submit(lambda: [next(records).data for _ in range(3)])
        for number in range(3):
            session.put("s", str(number))
        assert found.result(10) == [b"0", b"1", b"2"]


def test_one_session_is_used_from_many_threads_at_once(session):
    def one(number):
        stream = f"s{number}"
        session.put_many(stream, [b"x"] * 100)
        return session.run_until_caught_up("library.count", stream, batch_size=10, **QUICK).records

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(one, range(6))) == [100] * 6


def test_several_sessions_in_one_process_at_the_same_time_and_one_after_the_other(tmp_path):
    def one(number):
        with streamfn.open_sync(tmp_path / f"d{number % 3}") as session:
            session.put(f"s{number}", b"x")
            return session.run_until_caught_up("library.count", f"s{number}", **QUICK).records

    with nothing_left():
        for _ in range(2):
            with ThreadPoolExecutor(3) as threads:
                assert list(threads.map(one, range(3))) == [1] * 3
        assert one(5) == 1


def test_it_runs_beside_a_running_asyncio_loop(tmp_path):
    ticks = []

    async def tick():
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.005)

    async def main():
        ticking = asyncio.create_task(tick())
        # In the loop's own thread, as a notebook does it, and in another one, as a server does.
        with streamfn.open_sync(tmp_path / "d") as session:
            session.put("s", b"x")
            assert session.run_until_caught_up(lambda event, context: 1, "s", name="here", workers=1).records == 1
            before = len(ticks)
            run = asyncio.to_thread(session.run_until_caught_up, "library.count", "s", **QUICK)
            assert (await run).records == 1
            assert len(ticks) > before + 3
            child = await asyncio.create_subprocess_exec("true")  # asyncio's own children are left alone
            assert await child.wait() == 0
        ticking.cancel()

    with nothing_left():
        asyncio.run(main())


def test_it_may_be_used_inside_a_trio_program_too(tmp_path):
    def work():
        with streamfn.open_sync(tmp_path / "d") as session:
            return session.put("s", b"x")

    assert trio.run(trio.to_thread.run_sync, work).shard_id == "shardId-000000000000"


# ---- errors


def test_errors_of_ours_are_bare_and_come_in_the_calling_thread(session, tmp_path):
    session.put("s", b"x")
    with pytest.raises(streamfn.RefusedError, match="did you mean batch_size"):
        session.run("library.count", "s", batchsize=1)
    with pytest.raises(streamfn.RefusedError, match="unknown stream"):
        session.run("library.count", "none", **QUICK)
    with pytest.raises(streamfn.RefusedError, match="unknown stream"):
        session.records("none")
    with pytest.raises(streamfn.HandlerImportError, match="Unable to import module 'missing'"):
        session.run("missing.handler", "s")
    with session.mapping("library.count", "s", **QUICK), pytest.raises(streamfn.BusyError, match=str(os.getpid())):
        session.run("library.count", "s", **QUICK)
    with (
        streamfn.open_sync(tmp_path / "d") as other,
        session.mapping("library.count", "s", **QUICK),
        pytest.raises(streamfn.BusyError, match="is not deleted"),
    ):
        other.delete_stream("s")


def test_a_data_directory_that_cannot_be_opened_is_one_error_and_leaves_no_thread(tmp_path):
    (tmp_path / "file").write_text("")
    before = threading.active_count()
    with pytest.raises(streamfn.FailedError, match="cannot use data directory"):
        streamfn.open_sync(tmp_path / "file" / "d")
    assert [thread for thread in threading.enumerate() if thread.name == "streamfn"] == []
    assert threading.active_count() <= before + 1  # Trio keeps a worker thread for some seconds


def test_calls_that_wait_when_the_session_is_closed_are_told(tmp_path):
    with nothing_left(), ThreadPoolExecutor(2) as threads:
        session = streamfn.open_sync(tmp_path / "d")
        session.put("s", b"x")
        run = threads.submit(session.run, "library.sleeper", "s", **QUICK)
        following = threads.submit(next, session.records("s", start="LATEST", follow=True))
        wait_for(lambda: len(children()) >= 2)
        session.close()
        for waiting in (run, following):
            with pytest.raises(streamfn.PoolClosed, match="session was closed"):
                waiting.result(5)
        session.close()
        with pytest.raises(streamfn.PoolClosed, match="session is closed"):
            session.put("s", b"x")


def test_a_session_is_not_used_in_a_process_forked_from_its_own(session):
    session.put("s", b"x")
    child = os.fork()
    if child == 0:
        try:
            session.put("s", b"x")
        except streamfn.PoolClosed as error:
            os._exit(7 if "forked from" in str(error) else 8)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_log_that_is_passed_in_gets_the_lines_and_may_fail(tmp_path):
    class Log:
        text = ""

        def write(self, text):
            self.text += text
            raise OSError("nobody reads this")

    def handler(event, context):
        print("said by the handler")

    log = Log()
    with streamfn.open_sync(tmp_path / "d", log=log) as session:
        session.put("s", b"x")
        session.run_until_caught_up(handler, "s", workers=1)
        session.put("s", b"x")
        session.run_until_caught_up(handler, "s", workers=1)
    assert log.text.splitlines()[1] == "said by the handler"
    assert log.text.startswith("START RequestId: ")


# ---- interrupts

INTERRUPTED = """
import sys, threading, streamfn
def sleeper(event, context):
    import time
    time.sleep(60)
{before}
try:
    with streamfn.open_sync("d") as session:
        session.put("s", b"x")
        print("ready", flush=True)
        try:
            {call}
        finally:
            print("processes:", session_processes(), flush=True)
            print("still usable:", session.put("s", b"y").shard_id, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
PROCESSES = """
import pathlib
def session_processes():
    return len(pathlib.Path("/proc/self/task/{}/children".format(__import__("os").getpid())).read_text().split())
"""
CALLS = {
    "a run": "session.run(sleeper, 's')",
    "a named run": "session.run('library.sleeper', 's')",
    "a start": "session.run('slow.handler', 's')",
    "outcomes": "with session.mapping(sleeper, 's') as m, m.outcomes() as outcomes: list(outcomes)",
    "records": "list(session.records('s', follow=True))",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_an_interrupt_ends_the_call_and_what_it_started(tmp_path, call):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FUNCTIONS), *sys.path])}
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(before=PROCESSES, call=call)],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "ready\n"
    if "records" in call:
        time.sleep(0.3)
    else:
        wait_for(lambda: len(children(child.pid)) >= (1 if "slow" in call else 2))
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert out == "processes: 0\nstill usable: shardId-000000000000\ninterrupted\n"
    assert err == ""


def test_a_session_that_is_never_closed_ends_with_the_program(tmp_path):
    script = """
import streamfn
def handler(event, context): ...
session = streamfn.open_sync("d")
session.put("s", b"x")
print(session.run_until_caught_up(handler, "s").records)
mapping = session.mapping(handler, "s")
mapping.__enter__()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=10
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


def test_a_hundred_sessions_leave_nothing_behind(tmp_path):
    with streamfn.open_sync(tmp_path / "d") as session:
        session.put("s", b"x")
    before = count_fds(), children()
    for _ in range(100):
        with streamfn.open_sync(tmp_path / "d") as session:
            session.put("s", b"x")
    assert children() == before[1]
    assert count_fds() <= before[0]
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(("streamfn", "put "))] == []
