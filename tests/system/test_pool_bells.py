"""The doorbells: a handler that misuses its worker's own harms nobody else, and does not hold the runtime up."""

from __future__ import annotations

import json

import pytest
import toy_worker as toy
import trio
from pool_rig import Lane, config, count_fds
from trio.testing import trio_test

from streamfn.pool.bells import Bells
from streamfn.pool.lane import FailureKind
from streamfn.pool.pool import open_pool
from streamfn.pool.worker import Worker


async def bells_of(worker: Worker) -> set[str]:
    lane = Lane(worker)
    _, answer = await lane.ask(toy.BELL_IDS)
    lane.seat.leave()
    return set(json.loads(answer.payload))


@trio_test
async def test_a_worker_has_no_doorbell_but_its_own() -> None:
    async with open_pool(fold=False) as pool:
        function = await pool.start(config(workers=2))
        first, second = [await bells_of(worker) for worker in function.workers]
        if not first:
            pytest.skip("this kernel does not number eventfds")
        assert len(first) == len(second) == 1
        assert first != second


@trio_test
async def test_a_doorbell_that_is_full_and_blocks_holds_up_nobody_else() -> None:
    async with open_pool() as pool:
        function = await pool.start(config(workers=2, timeout_s=1.0))
        hostile, lane = Lane(function.workers[0]), Lane(function.workers[1])
        hostile.order(toy.FILL_BELL)
        await trio.sleep(0.1)
        with trio.fail_after(10):
            for _ in range(50):
                assert await lane.ask(toy.OK) == ("succeeded", 1)
            another = await pool.start(config())
            assert await Lane(another.workers[0]).ask(toy.OK) == ("succeeded", 1)
        await hostile.answered()
        assert [kind for kind, _ in hostile.failures] == [FailureKind.TIMEOUT]


@trio_test
async def test_a_worker_that_only_rings_is_killed() -> None:
    async with open_pool() as pool:
        function = await pool.start(config(workers=2, timeout_s=None))
        hostile, lane = Lane(function.workers[0]), Lane(function.workers[1])
        hostile.order(toy.RING)
        for _ in range(20):
            assert await lane.ask(toy.OK) == ("succeeded", 1)
        await hostile.answered()
        [(kind, answer)] = hostile.failures
        assert kind is FailureKind.CRASHED
        assert "rang" in answer.detail


@trio_test
async def test_a_handler_cannot_fill_the_socket_that_segments_come_through() -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        lane = Lane(function.workers[0])
        _, _, answer = await lane.ask(toy.REPORT)
        assert answer.payload.startswith(b"BrokenPipeError")
        lane.seat.renew()
        assert await lane.ask(toy.OK) == ("succeeded", 1)


@trio_test
async def test_whoever_rings_is_told_once() -> None:
    before = count_fds()
    bells = Bells()
    bells.ring()
    await trio.lowlevel.wait_readable(bells)
    assert bells.answer() == []
    with trio.move_on_after(0.05) as scope:
        await trio.lowlevel.wait_readable(bells)
    assert scope.cancelled_caught
    bells.ring()
    bells.ring()
    await trio.lowlevel.wait_readable(bells)
    trio.lowlevel.notify_closing(bells)
    bells.close()
    assert count_fds() == before
