"""The end: whatever happens to the runtime, nothing of it is left a second later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_worker as toy
from pool_rig import HERE, Lane, config, count_fds, is_alive
from trio.testing import trio_test

from streamfn.pool import linux
from streamfn.pool.pool import open_pool

RUNTIME = """
import sys, trio
from pool_rig import Lane, config
import toy_worker as toy
from streamfn.pool.pool import open_pool

async def main():
    async with open_pool() as pool:
        if sys.argv[1] == "init":
            print("ready", flush=True)
        extra = {"callable": print} if sys.argv[1] == "forked" else {}
        settings = {"init": "hang"} if sys.argv[1] == "init" else {}
        function = await pool.start(config(workers=2, timeout_s=None, settings=settings, **extra))
        daemon = Lane(function.workers[0])
        await daemon.ask(toy.ORPHAN)
        await daemon.ask(toy.CHILD)
        for worker in function.workers:
            Lane(worker).order(toy.SPIN, batches=3)
        print("ready", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def descendants(pid: int) -> set[int]:
    """Everything below a process, daemons too as long as their ancestors live."""
    table = list(linux.processes())
    found = {pid}
    while True:
        more = {entry.pid for entry in table if entry.parent in found} | found
        if more == found:
            return found - {pid}
        found = more


@pytest.mark.parametrize("how", ["exec'd", "forked", "init"])
@pytest.mark.parametrize("group", [False, True], ids=["runtime", "group"])
def test_a_killed_runtime_leaves_nothing_after_a_second(how: str, group: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{Path(HERE).parents[1]}"}
    with subprocess.Popen(
        [sys.executable, "-c", RUNTIME, how], env=environment, stdout=subprocess.PIPE, process_group=0
    ) as runtime:
        assert runtime.stdout is not None
        assert runtime.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 5
        expected = 1 if how == "init" else 1 + 2 + 2
        while len(below := descendants(runtime.pid)) < expected:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if how == "init":  # it takes a moment before a new process can watch us
            time.sleep(0.2)
        if group:
            os.killpg(runtime.pid, signal.SIGKILL)
        else:
            runtime.kill()
        runtime.wait()
    deadline = time.monotonic() + 1
    while left := [pid for pid in below if is_alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@trio_test
async def test_leaving_the_pool_takes_under_a_second_and_leaves_nothing() -> None:
    fds = count_fds()
    async with open_pool() as pool:
        one, two = await pool.start(config(workers=2)), await pool.start(config())
        lane = Lane(one.workers[0])
        await lane.ask(toy.ORPHAN)
        for worker in [*one.workers, *two.workers]:
            Lane(worker).order(toy.SPIN, batches=3)
        below = descendants(os.getpid())
        assert len(below) >= 6
        began = time.monotonic()
    assert time.monotonic() - began < 1
    assert not [pid for pid in below if is_alive(pid)]
    assert count_fds() == fds


@trio_test
async def test_a_pool_can_be_opened_again_and_again() -> None:
    fds = None
    for _ in range(3):
        async with open_pool() as pool:
            function = await pool.start(config())
            assert await Lane(function.workers[0]).ask(toy.OK) == ("succeeded", 1)
        fds = fds or count_fds()
        assert count_fds() == fds
