"""A /tmp of its own for each execution environment: limited, kept while it lasts, gone with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import greedy_worker as greedy
import pytest
from pool_rig import HERE, Lane, config, replaced
from trio.testing import trio_test

from streamfn.pool.confine import cgroup, storage
from streamfn.pool.confine.limits import Limits
from streamfn.pool.function import FunctionConfig
from streamfn.pool.lane import FailureKind
from streamfn.pool.pool import open_pool

SIZE_MB = 8
LIMITS = Limits(ephemeral_storage_mb=SIZE_MB)


def of_its_own(**more: Any) -> FunctionConfig:
    return config(main="greedy_worker", limits=more.pop("limits", LIMITS), **more)


def without_namespaces(size: int, code_dir: str) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.fixture(params=["namespaces", "directories"])
def own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FunctionConfig]:
    """Configurations of functions whose environments have a /tmp of their own, or directories for want of those."""
    if request.param == "namespaces":
        if not namespaces():
            pytest.skip("there are no mount namespaces to be had")
        return of_its_own
    # A zygote that is forked has what the test has changed.
    monkeypatch.setattr(storage, "Spaces", without_namespaces)
    return lambda **more: of_its_own(callable=print, **more)


def namespaces() -> bool:
    """Whether a child of ours can have a mount namespace."""
    pid = os.fork()
    if pid == 0:
        try:
            storage.Spaces("/", 1 << 20)
        except OSError:
            os._exit(1)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def files(lane: Lane) -> list[str]:
    _, answer = await lane.ask(greedy.READ_TMP)
    found: list[str] = json.loads(answer.payload)
    return found


@trio_test
async def test_files_are_the_environments_own_and_outlive_a_process_that_died(
    own: Callable[..., FunctionConfig],
) -> None:
    async with open_pool(fold=False) as pool:
        function = await pool.start(own(workers=2))
        worker, other = function.workers
        lane = Lane(worker)
        _, answer = await lane.ask(greedy.WRITE_TMP, 2)
        assert answer.payload == b"2"
        assert await files(lane) == ["filled"]
        assert await files(Lane(other)) == []
        assert not Path("/tmp/filled").exists()
        await lane.ask(greedy.CRASH)
        heir = await replaced(function, worker.pid)
        assert heir.index == worker.index
        assert await files(Lane(heir)) == ["filled"], "Lambda's reset after a crash keeps /tmp"


@trio_test
async def test_a_retired_environments_files_go_with_it(own: Callable[..., FunctionConfig]) -> None:
    async with open_pool(fold=False) as pool:
        function = await pool.start(own())
        [worker] = function.workers
        lane = Lane(worker)
        await lane.ask(greedy.WRITE_TMP, 2)
        lane.seat.leave()
        worker.retire("for the test")
        assert await files(Lane(await replaced(function, worker.pid))) == []


@trio_test
async def test_the_size_is_the_limit() -> None:
    if not namespaces():
        pytest.skip("there are no mount namespaces to be had")
    async with open_pool(fold=False) as pool:
        function = await pool.start(of_its_own())
        _, answer = await Lane(function.workers[0]).ask(greedy.WRITE_TMP, 3 * SIZE_MB)
        assert answer.payload == b"%d" % SIZE_MB, "what does not fit is refused: ENOSPC"
        assert function.shortcomings == []


@trio_test
async def test_a_directory_that_has_grown_too_large_ends_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "Spaces", without_namespaces)
    monkeypatch.setattr("streamfn.pool.confine.environment.FOLDER_LOOK_S", 0.05)
    async with open_pool(fold=False) as pool:
        function = await pool.start(of_its_own(callable=print))
        [said] = function.shortcomings
        assert "instead of a /tmp of its own" in said
        assert "a mount namespace is refused: Operation not permitted" in said
        lane = Lane(function.workers[0])
        lane.order(greedy.WRITE_TMP, 3 * SIZE_MB)
        lane.order(greedy.SPIN_MS, 3000)
        await lane.answered()
        [(kind, answer)] = lane.failures
        assert (kind, answer.detail) == (FailureKind.CRASHED, "its ephemeral storage is used up")
        heir = await replaced(function, lane.seat.worker.pid)
        assert await files(Lane(heir)) == []


@trio_test
async def test_what_lies_in_the_machines_tmp_is_seen_and_what_init_wrote_is_there(tmp_path: Path) -> None:
    if not namespaces() or not str(tmp_path).startswith("/tmp/"):
        pytest.skip("there are no mount namespaces to be had, or this test has no directory in /tmp")
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    async with open_pool(fold=False) as pool:
        settings = {"init_file": "/tmp/model", "mark": str(evidence / "mark")}
        function = await pool.start(of_its_own(code_dir=str(tmp_path), settings=settings))
        lane = Lane(function.workers[0])
        assert await files(lane) == ["model"]
        await lane.ask(greedy.MARK)
        assert (evidence / "mark").read_text() == str(tmp_path)
        assert not Path("/tmp/model").exists()


def test_nothing_is_left_of_a_runtime_that_was_killed(tmp_path: Path) -> None:
    """Its directories are there until somebody starts another one; its processes are not."""
    script = f"""
import sys, trio
sys.path.insert(0, {HERE!r})
import test_limits_storage as here
from streamfn.pool.confine import storage
storage.Spaces = here.without_namespaces
async def main():
    async with here.open_pool() as pool:
        function = await pool.start(here.of_its_own(callable=print))
        print(function.zygote_pid, function.workers[0].pid, function.shortcomings[0], flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE) as runtime:
        assert runtime.stdout is not None
        zygote, worker, *_ = runtime.stdout.readline().split()
        runtime.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{int(pid)}").exists() for pid in (zygote, worker)):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.01)
    assert len(list(tmp_path.glob(f"{storage.PREFIX}*"))) == 1
    places = [place.path for place in cgroup.survey().places]
    cgroup.Groups().close()
    assert not any(list(place.glob(f"{cgroup.PREFIX}{runtime.pid}-*")) for place in places)
    subprocess.run(
        [sys.executable, "-c", "from streamfn.pool.confine import storage; storage.sweep_folders()"],
        env=environment,
        check=True,
    )
    assert list(tmp_path.iterdir()) == []


@trio_test
async def test_directories_go_with_their_zygote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storage, "Spaces", without_namespaces)
    monkeypatch.setattr(storage, "folder_home", lambda: tmp_path / "home")
    async with open_pool(fold=False) as pool:
        function = await pool.start(of_its_own(callable=print))
        await Lane(function.workers[0]).ask(greedy.WRITE_TMP, 1)
        assert (tmp_path / "home" / "0" / "filled").exists()
        await function.stop()
        assert not (tmp_path / "home").exists()
