"""The memory of an execution environment: what it is held to, by control groups and without any."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import greedy_worker as greedy
import pytest
from pool_rig import Lane, config, replaced
from trio.testing import trio_test

from streamfn.errors import HandlerImportError
from streamfn.pool.config import FunctionConfig
from streamfn.pool.confine import cgroup
from streamfn.pool.confine.limits import Limits
from streamfn.pool.lane import FailureKind
from streamfn.pool.pool import open_pool

LIMIT_MB = 64


def greedily(**more: Any) -> FunctionConfig:
    return config(main="greedy_worker", limits=more.pop("limits", Limits(memory_mb=LIMIT_MB)), **more)


@pytest.fixture(params=["groups", "none"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With control groups for memory, where there are any, and without."""
    if request.param == "none":
        lacking = dict.fromkeys(cgroup.CONTROLLERS, "the test has taken them away")
        monkeypatch.setattr(cgroup, "survey", lambda: cgroup.Hierarchies([], lacking))
    elif cgroup.MEMORY in cgroup.survey().lacking:
        pytest.skip(f"no control group for memory: {cgroup.survey().lacking[cgroup.MEMORY]}")
    # A fraction of a CPU would make the tests slow, and is not what they are about.
    monkeypatch.setattr(cgroup.Group, "throttle", lambda self, vcpus: None)
    return request.param


@pytest.mark.parametrize(
    ("deed", "number"),
    [(greedy.PRIVATE, 400), (greedy.SHARED, 400), (greedy.CHILD, 250)],
    ids=["private", "shared and anonymous", "in a forked process"],
)
@trio_test
async def test_who_takes_more_than_the_memory_size_is_ended_for_it(means: str, deed: int, number: int) -> None:
    async with open_pool(fold=False) as pool:
        function = await pool.start(greedily(workers=2))
        worker, other = function.workers
        lane, bystander = Lane(worker), Lane(other)
        before = runtime_memory()
        lane.order(deed, number)
        bystander.order(greedy.SPIN_MS, 100)
        await lane.answered()
        [(kind, answer)] = lane.failures
        assert kind is FailureKind.OUT_OF_MEMORY
        assert worker.environment.peak_mb() == LIMIT_MB
        assert answer.payload == b""
        await bystander.answered()
        assert bystander.count("completed") == 1
        assert runtime_memory() - before < 16 * greedy.MB
        assert (await Lane(await replaced(function, worker.pid)).ask(greedy.TELL))[0] == "completed"


@trio_test
async def test_what_fits_the_memory_size_is_left_alone_and_measured(means: str) -> None:
    async with open_pool(fold=False) as pool:
        function = await pool.start(greedily())
        [worker] = function.workers
        lane = Lane(worker)
        assert (await lane.ask(greedy.PRIVATE, 20))[0] == "completed"
        assert (await lane.ask(greedy.CHILDREN, 10))[0] == "completed", "what forked processes share counts once"
        peak = worker.environment.peak_mb()
        assert peak is not None
        assert 30 <= peak < LIMIT_MB


@trio_test
async def test_what_no_process_maps_is_held_by_the_group(means: str) -> None:
    if means == "none":
        pytest.skip("without a control group nobody sees files in memory that nobody has mapped")
    async with open_pool(fold=False) as pool:
        function = await pool.start(greedily())
        _, kind, answer = await Lane(function.workers[0]).ask(greedy.MEMFD, 400)
        assert kind is FailureKind.OUT_OF_MEMORY
        assert answer.detail == "signal: killed"


@trio_test
async def test_more_than_there_can_be_is_refused_at_once_without_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "survey", lambda: cgroup.Hierarchies([], dict.fromkeys(cgroup.CONTROLLERS, "")))
    async with open_pool(fold=False) as pool:
        function = await pool.start(greedily())
        lane = Lane(function.workers[0])
        _, kind, answer = await lane.ask(greedy.AT_ONCE, 4000)
        assert (kind, answer.payload) == (FailureKind.HANDLER, b"MemoryError")
        lane.seat.renew()
        assert (await lane.ask(greedy.AT_ONCE, 20))[0] == "completed"


@trio_test
async def test_an_init_that_takes_more_is_out_of_memory(means: str) -> None:
    async with open_pool() as pool:
        with pytest.raises(HandlerImportError) as refused:
            await pool.start(greedily(settings={"init_mb": 250}))
    assert refused.value.document == {
        "errorType": "Runtime.OutOfMemory",
        "errorMessage": "Runtime exited with error: signal: killed",
    }


@trio_test
async def test_an_init_of_each_worker_is_watched_too(means: str) -> None:
    async with open_pool() as pool:
        with pytest.raises(HandlerImportError) as refused:
            await pool.start(greedily(settings={"init_mb": 250}, start_method="spawn"))
    assert refused.value.document["errorType"] == "Runtime.OutOfMemory"


@trio_test
async def test_without_a_memory_size_there_is_no_limit_and_still_a_measure() -> None:
    async with open_pool(fold=False) as pool:
        function = await pool.start(greedily(limits=Limits()))
        [worker] = function.workers
        assert (await Lane(worker).ask(greedy.PRIVATE, 100))[0] == "completed"
        peak = worker.environment.peak_mb()
        assert peak is not None
        assert peak >= 100


@trio_test
async def test_when_the_machine_runs_out_a_worker_goes_first() -> None:
    async with open_pool(fold=False) as pool:
        function = await pool.start(greedily(limits=Limits()))
        [worker] = function.workers
        _, answer = await Lane(worker).ask(greedy.TELL)
        told = json.loads(answer.payload)
        zygote = int(Path(f"/proc/{function.zygote_pid}/oom_score_adj").read_text())
        ours = int(Path("/proc/self/oom_score_adj").read_text())
        assert told["oom"] == 1000 > zygote > ours


@trio_test
async def test_groups_go_with_their_workers_and_the_rest_with_the_pool() -> None:
    found = cgroup.survey()
    if not found.places:
        pytest.skip("; ".join(set(found.lacking.values())))

    def homes() -> list[Path]:
        return [home for place in found.places for home in place.path.glob(f"{cgroup.PREFIX}{os.getpid()}-*")]

    assert homes() == []
    async with open_pool(fold=False) as pool:
        function = await pool.start(greedily(workers=2))
        worker = function.workers[0]
        groups = {home: set(home.glob("worker-*")) for home in homes()}
        assert [len(each) for each in groups.values()] == [2] * len(groups)
        await Lane(worker).ask(greedy.CRASH)
        await replaced(function, worker.pid)
        for home, before in groups.items():
            now = set(home.glob("worker-*"))
            assert len(now) == 2
            assert len(now & before) == 1
    assert homes() == []


def runtime_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")
