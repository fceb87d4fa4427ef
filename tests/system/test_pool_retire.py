"""Retiring a worker: at a batch edge, with nothing lost on the way."""

from __future__ import annotations

import toy_worker as toy
import trio
from pool_rig import Lane, config, is_alive, replaced, until
from trio.testing import trio_test

from streamfn.pool.lane import FailureKind
from streamfn.pool.pool import open_pool
from streamfn.pool.worker import State


@trio_test
async def test_an_idle_worker_that_is_retired_ends_and_is_replaced() -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        [worker] = function.workers
        worker.retire("to see")
        assert not worker.ready
        assert function.workers == []
        assert await Lane(await replaced(function, worker.pid)).ask(toy.OK) == ("succeeded", 1)
        assert worker.retired_for == "to see"
        assert not is_alive(worker.pid)


@trio_test
async def test_what_runs_is_waited_for_and_what_is_staged_comes_back() -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        [worker] = function.workers
        lane = Lane(worker)
        lane.order(toy.SLEEP_MS, 200)
        await trio.sleep(0.05)
        lane.order(toy.OK, batches=3)
        worker.retire("to see")
        assert worker.state is State.RETIRING
        assert lane.order(toy.OK) == 0
        await lane.answered()
        assert lane.count("succeeded") == 1
        assert lane.count("returned") == 3
        assert ("recalled", 0) in lane.heard
        await until(lambda: not is_alive(worker.pid))


@trio_test
async def test_a_retired_worker_is_still_held_to_its_timeout() -> None:
    async with open_pool() as pool:
        function = await pool.start(config(timeout_s=0.3))
        [worker] = function.workers
        lane = Lane(worker)
        lane.order(toy.SPIN)
        await trio.sleep(0.05)
        worker.retire("to see")
        await lane.answered()
        [(kind, _)] = lane.failures
        assert kind is FailureKind.TIMEOUT
        assert await Lane(await replaced(function, worker.pid)).ask(toy.OK) == ("succeeded", 1)
