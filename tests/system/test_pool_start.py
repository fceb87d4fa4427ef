"""Init: how it fails, what cannot be forked, callables without a name."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import toy_worker as toy
import trio
from pool_rig import HERE, Lane, config, count_fds, replaced, tell, until
from trio.testing import trio_test

from streamfn import limits
from streamfn.errors import FailedError, HandlerImportError, RefusedError
from streamfn.pool import function as function_module
from streamfn.pool import linux, protocol
from streamfn.pool.config import FunctionConfig
from streamfn.pool.pool import open_pool


def own_children() -> set[int]:
    return {entry.pid for entry in linux.processes() if entry.parent == os.getpid()}


@contextmanager
def nothing_left() -> Iterator[None]:
    before = count_fds(), own_children()
    yield
    assert (count_fds(), own_children()) == before


async def refused(config: FunctionConfig) -> HandlerImportError:
    with nothing_left(), pytest.raises(HandlerImportError) as caught:
        async with open_pool() as pool:
            await pool.start(config)
    return caught.value


@trio_test
async def test_a_failed_init_is_an_import_error_with_its_document_and_output() -> None:
    error = await refused(config(settings={"init": "fail"}))
    assert str(error) == "no such handler"
    assert error.document["errorType"] == "Runtime.HandlerNotFound"
    assert error.log == b"init prints\n"


@trio_test
async def test_an_exit_during_init_is_said_in_lambdas_words() -> None:
    error = await refused(config(settings={"init": "exit"}))
    assert error.document["errorMessage"] == "Runtime exited with error: exit status 3"


@trio_test
async def test_a_main_that_raises_or_is_not_there_is_told_with_its_trace() -> None:
    error = await refused(config(settings={"init": "raise"}))
    assert (str(error), error.document["errorType"]) == ("a bug in main", "RuntimeError")
    assert "toy_worker.py" in str(error.document["stackTrace"])
    assert "no_such_main" in str(await refused(config(main="no_such_main")))


@trio_test
async def test_an_init_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INIT_TIMEOUT_S", 0.3)
    error = await refused(config(timeout_s=0.2, settings={"init": "hang"}))
    assert error.document["errorType"] == "Sandbox.Timedout"


@trio_test
async def test_a_code_directory_that_is_not_there_is_named() -> None:
    with pytest.raises(FailedError, match="/no/such/dir"):
        async with open_pool() as pool:
            await pool.start(config(code_dir="/no/such/dir"))


@pytest.mark.parametrize(
    ("how", "text"), [("no fork", "Resource temporarily unavailable"), ("deadly fork", "ended while it started")]
)
@trio_test
async def test_a_start_that_gets_no_workers_fails(how: str, text: str) -> None:
    with nothing_left():
        async with open_pool() as pool:
            with pytest.raises(FailedError, match=text):
                await pool.start(config(workers=2, settings={"init": how}))


@trio_test
async def test_a_start_without_descriptors_fails_and_leaves_nothing() -> None:
    with nothing_left():
        async with open_pool() as pool:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            fillers = [os.open(os.devnull, os.O_RDONLY) for _ in range(100)]  # no number below them is free
            failures = 0
            for spare in range(30):
                resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + spare, hard))
                try:
                    function = await pool.start(config())
                except FailedError:
                    failures += 1
                else:
                    await function.stop()
                    break
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            protocol.close_all(fillers)
            assert 5 < failures < 30


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("thread", "its import started 1 Python thread(s)"),
        ("native thread", "its import started a native thread"),
        ("named thread", "its import started the native thread 'somebodys'"),
        ("socket", "its import left a socket open"),
        ("epoll", "its import left an epoll (an event loop's, perhaps) open"),
        ("database", "its import left the SQLite database "),
    ],
)
@trio_test
async def test_what_forks_badly_is_initialised_in_each_worker(how: str, why: str, tmp_path: Path) -> None:
    async with open_pool() as pool:
        settings = {"init": how, "database": str(tmp_path / "database")}
        function = await pool.start(config(workers=2, settings=settings))
        assert function.shortcomings[0].startswith(why)
        assert function.init_log == b"init prints\n"
        for worker in function.workers:
            assert await Lane(worker).ask(toy.OK) == ("succeeded", 1)
        worker = function.workers[0]
        worker.kill()
        assert await Lane(await replaced(function, worker.pid)).ask(toy.OK) == ("succeeded", 1)


@trio_test
async def test_the_threads_of_numpy_survive_a_fork() -> None:
    async with open_pool() as pool:
        function = await pool.start(config(settings={"init": "numpy"}))
        assert function.shortcomings == []
        assert await Lane(function.workers[0]).ask(toy.OK) == ("succeeded", 1)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("thread-fail", "fails in the worker"),
        ("thread-exit", "Init: Runtime exited with error: exit status 4"),
        ("thread-hang", "Init: Task timed out after 2.00 seconds"),
    ],
)
@trio_test
async def test_an_init_that_fails_in_the_worker_fails_the_start(
    how: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "thread-hang":
        monkeypatch.setattr(limits, "INIT_TIMEOUT_S", 2.0)
    error = await refused(config(timeout_s=0.3, settings={"init": how, "count": str(tmp_path / "count")}))
    assert str(error) == text
    assert error.log == b"init prints\n"


@trio_test
async def test_a_later_init_that_fails_is_a_fault_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "later_main.py").write_text(
        "import os\n"
        "from streamfn.pool.protocol import InitFailed\n"
        "from toy_worker import main\n"
        "def init(settings):\n"
        "    if os.path.exists(settings['path']):\n"
        "        raise InitFailed(b'{\"errorMessage\": \"gone bad\"}')\n"
        "    return settings\n"
    )
    start = config(tmp_path, main="later_main")
    start = replace(start, environment={**start.environment, "PYTHONPATH": f"{HERE}:{tmp_path}"})
    async with open_pool() as pool:
        function = await pool.start(start)
        (tmp_path / "written").touch()
        assert function.zygote_pid is not None
        os.kill(function.zygote_pid, 9)
        await until(lambda: function.fault is not None)
        assert str(function.fault) == "gone bad"
        (tmp_path / "written").unlink()
        await until(lambda: function.workers)
        assert function.fault is None
        assert await Lane(function.workers[0]).ask(toy.OK) == ("succeeded", 1)


@trio_test
async def test_the_environment_is_the_functions_own_and_paths_are_not_ours(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": HERE, "ONLY": "this", "LC_CTYPE": "C.UTF-8"}
    if "LD_PRELOAD" in os.environ:  # tests/sanitize.sh: what it has built cannot be loaded without
        environment["LD_PRELOAD"] = os.environ["LD_PRELOAD"]
    start = replace(config(tmp_path), environment=environment)
    async with open_pool(fold=False) as pool:
        told = await tell((await pool.start(start)).workers[0])
    assert told["environ"] == environment
    assert told["path"][0] == str(tmp_path)
    assert "" not in told["path"]


# ---- spawn ----


@trio_test
async def test_a_spawned_worker_is_a_fresh_interpreter_that_does_init_itself(tmp_path: Path) -> None:
    (tmp_path / "own_init.py").write_text(
        "import os, sys\n"
        "from toy_worker import main\n"
        "def init(settings):\n"
        "    print('init of', os.getpid(), flush=True)\n"
        "    open(settings['path'], 'a').write(f'{os.getpid()}\\n')\n"
        "    return settings\n"
    )
    start = config(tmp_path, main="own_init", workers=2, start_method="spawn", settings={"secret": "in no argument"})
    start = replace(start, environment={**start.environment, "PYTHONPATH": f"{HERE}:{tmp_path}"})
    async with open_pool(fold=False) as pool:
        function = await pool.start(start)
        pids = [worker.pid for worker in function.workers]
        assert sorted((tmp_path / "written").read_text().split()) == sorted(map(str, pids))
        assert function.init_log == b"init of %d\n" % pids[-1]
        for worker in function.workers:
            command = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
            assert b"birth" in command
            assert b"in no argument" not in command
            told = await tell(worker)
            assert told["path"][0] == str(tmp_path)
            assert told["core"] == 0
            assert set(told["fds"].values()) >= {"/dev/null"}
            assert not [name for name in told["fds"].values() if "streamfn-birth" in name]
        worker = function.workers[0]
        worker.kill()
        assert await Lane(await replaced(function, worker.pid)).ask(toy.OK)
    assert not own_children()


@trio_test
async def test_a_spawned_worker_whose_init_fails_fails_the_start() -> None:
    error = await refused(config(start_method="spawn", settings={"init": "fail"}))
    assert (str(error), error.log) == ("no such handler", b"init prints\n")
    error = await refused(config(start_method="spawn", settings={"init": "exit"}))
    assert str(error) == "Init: Runtime exited with error: exit status 3"
    assert "no_such_main" in str(await refused(config(start_method="spawn", main="no_such_main")))


@trio_test
async def test_a_callable_cannot_be_spawned_and_the_remedy_is_said() -> None:
    async with open_pool() as pool:
        with pytest.raises(RefusedError, match="print cannot be imported .* put it into a module"):
            await pool.start(config(callable=print, start_method="spawn"))


# ---- callables ----


@trio_test
async def test_a_closure_runs_in_workers_forked_from_here(tmp_path: Path) -> None:
    seen: list[int] = []

    def handler(number: int) -> tuple[int, int, str]:
        seen.append(number)
        return os.getpid(), len(seen), os.getcwd()

    before = own_children()
    async with open_pool(fold=False) as pool:
        function = await pool.start(config(tmp_path, workers=2, callable=handler))
        for worker in function.workers:
            lane = Lane(worker)
            for count in (1, 2):
                _, answer = await lane.ask(toy.CALL, 5)
                assert eval(answer.payload) == (worker.pid, count, str(tmp_path))
        function.workers[0].kill()
        await until(lambda: len(function.workers) == 2)
    assert seen == []
    assert own_children() == before


@trio_test
async def test_a_forked_zygote_has_none_of_our_descriptors() -> None:
    mine = os.open(__file__, os.O_RDONLY)
    async with open_pool(fold=False) as pool:
        function = await pool.start(config(callable=print))
        told = await tell(function.workers[0])
        zygote = f"/proc/{function.zygote_pid}/fd"
        held = [os.readlink(f"{zygote}/{fd}") for fd in os.listdir(zygote)]
    os.close(mine)
    assert __file__ not in told["fds"].values()
    assert __file__ not in held
    assert len([target for target in held if target.startswith("socket:")]) == 1


@trio_test
async def test_a_callable_can_run_trio_of_its_own() -> None:
    def handler(number: int) -> int:
        async def double() -> int:
            await trio.sleep(0.001)
            return 2 * number

        return trio.run(double)

    async with open_pool(fold=False) as pool:
        function = await pool.start(config(callable=handler))
        _, answer = await Lane(function.workers[0]).ask(toy.CALL, 21)
        assert answer.payload == b"42"


@trio_test
async def test_a_callable_behind_a_lock_that_is_held_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(function_module, "FORK_INIT_S", 0.3)
    def handler(number: int) -> int:
        return number

    lock = threading.Lock()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    monkeypatch.setattr(toy, "init", lambda settings: lock.acquire() and settings)
    began = time.monotonic()
    try:
        with nothing_left():
            async with open_pool() as pool:
                with pytest.raises(RefusedError, match=r"handler .* put it into a module"):
                    await pool.start(config(callable=handler))
    finally:
        done.set()
        thread.join()
    assert time.monotonic() - began < 2


# ---- debugging ----


def test_a_debugged_worker_has_the_terminal(tmp_path: Path) -> None:
    code = """
import sys, trio, toy_worker as toy
from pool_rig import Lane, config
from streamfn.pool.pool import open_pool

async def main():
    async with open_pool() as pool:
        function = await pool.start(config(timeout_s=None, debug=True))
        print(await Lane(function.workers[0]).ask(toy.ASK_USER), flush=True)

trio.run(main)
"""
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{Path(HERE).parents[1]}"}
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"an answer\n", capture_output=True, check=True, env=environment
    )
    assert done.stdout == b"question: you said an answer\n('succeeded', 1)\n"
