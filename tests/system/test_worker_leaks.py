"""Workers that end, very often and in every way: nothing of them is left, in runtime, zygote or machine."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import toy_worker as toy
import trio
from library_rig import children
from pool_rig import Lane, config, replaced, until
from trio.testing import trio_test

from streamfn._native import lib
from streamfn.pool.confine import cgroup
from streamfn.pool.confine.limits import Limits
from streamfn.pool.function import Function
from streamfn.pool.lane import FailureKind
from streamfn.pool.pool import open_pool

# How a worker ends: by its handler, by a kill while it runs, while it idles, or while something is staged behind.
ENDS = [
    *("kill", "kill", "kill idle", "kill"),
    *(toy.EXIT, toy.HARD_EXIT, toy.SEGFAULT, toy.CLOSE_ALL, toy.ORPHAN, toy.CHILD),
]


class Held(NamedTuple):
    """What is there of a pool, by counts."""

    descriptors: int
    mappings: int
    zygotes_descriptors: int
    zygotes_mappings: int
    processes: int
    groups: int
    directories: int


def held(function: Function) -> Held:
    return Held(
        len(os.listdir("/proc/self/fd")),
        memory_files("self"),
        len(os.listdir(f"/proc/{function.zygote_pid}/fd")),
        memory_files(function.zygote_pid),
        len(children()),
        len(groups()),
        len(list(Path("/tmp").glob(f"{cgroup.PREFIX}{os.getpid()}-*/*"))),
    )


def memory_files(pid: object) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:")


def groups() -> list[Path]:
    """The control groups of this process' pools."""
    found: list[Path] = []
    for place in cgroup.survey().places:
        for home in place.path.glob(f"{cgroup.PREFIX}{os.getpid()}-*"):
            found += [path for path in home.iterdir() if path.is_dir()]
    return found


async def end_one(function: Function, how: Any) -> None:
    worker = function.workers[0]
    lane = Lane(worker)
    if how == "kill":
        lane.order(toy.SPIN, batches=2)
        await until(lambda: lib.sf_port_running_since(worker.port))
    elif isinstance(how, int):
        lane.order(how, 3, batches=2)
        await lane.answered()
    if how in ("kill", "kill idle", toy.ORPHAN, toy.CHILD):
        os.kill(worker.pid, signal.SIGKILL)
    await replaced(function, worker.pid)
    await lane.answered()
    kinds = {kind for kind, _ in lane.failures}
    assert kinds <= {FailureKind.CRASHED}, kinds


async def settled(function: Function) -> Held:
    """What is there when nothing has changed for a while.

    A group whose last process is still dying is removed when the next worker has ended.
    """
    await end_one(function, "kill idle")
    alike, last = 0, held(function)
    for _ in range(1000):
        await trio.sleep(0.02)
        alike, last = alike + 1 if held(function) == last else 0, held(function)
        if alike == 25:
            return last
    raise AssertionError(f"it does not come to rest: {last}")


async def is_again(function: Function, before: Held) -> Held:
    """What is there, at the latest when some more have ended: what one is late with, the next one takes along."""
    for _ in range(5):
        now = await settled(function)
        if now == before:
            break
    return now


async def end_many(count: int, limits: Limits) -> Counter[str]:
    ended: Counter[str] = Counter()
    async with open_pool() as pool:
        function = await pool.start(config(workers=2, limits=limits, timeout_s=60))
        for i in range(count + len(ENDS)):
            if i == len(ENDS):
                before = await settled(function)
            how = ENDS[i % len(ENDS)]
            await end_one(function, how)
            ended[str(how)] += i >= len(ENDS)
        assert await is_again(function, before) == before
    assert not groups()
    assert not list(Path("/tmp").glob(f"{cgroup.PREFIX}{os.getpid()}-*"))
    return ended


@pytest.mark.parametrize(
    "limits", [Limits(), Limits(memory_mb=1769, ephemeral_storage_mb=512)], ids=["as it is", "limited"]
)
@trio_test
async def test_two_hundred_ended_workers_leave_nothing(limits: Limits) -> None:
    await end_many(100, limits)


@pytest.mark.soak
@trio_test
async def test_ten_thousand_ended_workers_leave_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    ended = await end_many(5000, Limits())
    ended += await end_many(5000, Limits(memory_mb=1769, ephemeral_storage_mb=512))
    with capsys.disabled():
        print(f"\n{sum(ended.values())} workers ended, nothing is left of them")
