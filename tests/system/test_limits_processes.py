"""Processes, descriptors and the CPU of an execution environment."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import greedy_worker as greedy
import pytest
from pool_rig import Lane, config, replaced, until
from trio.testing import trio_test

from streamfn.pool.confine import cgroup
from streamfn.pool.confine.environment import Environments
from streamfn.pool.confine.limits import Limits
from streamfn.pool.confine.rlimits import count_tasks
from streamfn.pool.pool import open_pool


def needs(controller: str) -> None:
    lacking = cgroup.survey().lacking
    if controller in lacking:
        pytest.skip(f"no control group with {controller}: {lacking[controller]}")


@trio_test
async def test_a_fork_bomb_goes_no_further_than_its_environment_and_ends_with_its_worker() -> None:
    needs(cgroup.PIDS)
    limits = Limits(memory_mb=512, processes=40)  # version 2 has a group for each worker only where memory is limited
    async with open_pool(fold=False) as pool:
        function = await pool.start(config(main="greedy_worker", workers=2, limits=limits))
        worker, other = function.workers
        lane = Lane(worker)
        _, answer = await lane.ask(greedy.FORK_BOMB, 200)
        assert 30 <= int(answer.payload) < 40
        _, answer = await Lane(other).ask(greedy.FORK_BOMB, 5)
        assert answer.payload == b"5", "what one has used up is not missing to another"
        bombs = [pid for pid in worker.environment.processes() if pid != worker.pid]
        assert len(bombs) == int((lane.heard[0][1]).payload)
        await lane.ask(greedy.CRASH)
        await replaced(function, worker.pid)
        await until(lambda: not any(Path(f"/proc/{pid}/status").exists() for pid in bombs))


@trio_test
async def test_without_groups_an_ordinary_user_has_a_limit_above_what_he_has_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cgroup, "survey", lambda: cgroup.Hierarchies([], dict.fromkeys(cgroup.CONTROLLERS, "none")))
    others = count_tasks(os.geteuid())
    async with open_pool(fold=False) as pool:
        function = await pool.start(config(main="greedy_worker", workers=2, limits=Limits(processes=100)))
        _, answer = await Lane(function.workers[0]).ask(greedy.TELL)
        soft, hard = json.loads(answer.payload)["processes"]
    assert soft == hard
    if os.geteuid() == 0:
        assert [soft, hard] == list(resource.getrlimit(resource.RLIMIT_NPROC)), "it would not bind root"
    else:
        assert others <= soft - 200 <= others + 1000


@trio_test
async def test_descriptors_are_limited_and_our_own_are_out_of_their_way() -> None:
    async with open_pool(fold=False) as pool:
        function = await pool.start(config(main="greedy_worker", limits=Limits(descriptors=300)))
        lane = Lane(function.workers[0])
        _, answer = await lane.ask(greedy.OPEN)
        assert answer.payload == b"299"
        _, answer = await lane.ask(greedy.TELL)
        told = json.loads(answer.payload)
        assert told["descriptors"] == [300, 300]
        assert told["core"] == [0, 0]


@trio_test
async def test_a_quarter_of_the_memory_of_a_vcpu_is_a_quarter_of_the_cpu() -> None:
    needs(cgroup.CPU)
    async with open_pool(fold=False) as pool:
        function = await pool.start(config(main="greedy_worker", limits=Limits(memory_mb=1769 // 4)))
        _, answer = await Lane(function.workers[0]).ask(greedy.SPIN_MS, 600)
        assert 0.05 < float(answer.payload) < 0.33


def test_what_is_not_held_is_said_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = dict.fromkeys(cgroup.CONTROLLERS, "/sys/fs/cgroup may not be written to")
    monkeypatch.setattr(cgroup, "survey", lambda: cgroup.Hierarchies([], lacking))
    environments = Environments()
    assert environments.shortcomings(Limits()) == []
    memory, share = environments.shortcomings(Limits(memory_mb=128))
    assert memory == (
        "the memory of 128 MB is looked after every 20 ms and by RLIMIT_DATA, not by a control group: "
        "/sys/fs/cgroup may not be written to"
    )
    assert share.startswith("the share of the CPU that goes with the memory is not limited: ")
    environments.close()
