"""What handlers print, and where it goes."""

from __future__ import annotations

import os

import toy_worker as toy
from pool_rig import Lane, config, until
from trio.testing import trio_test

from streamfn import limits
from streamfn.pool.lane import FailureKind
from streamfn.pool.pool import open_pool


@trio_test
async def test_output_comes_with_the_invocation_that_printed_it() -> None:
    async with open_pool() as pool:
        lane = Lane((await pool.start(config())).workers[0])
        lane.order(toy.OK, batches=3)
        lane.order(toy.PRINT, 1)
        lane.order(toy.PRINT, 2)
        lane.order(toy.OK, batches=3)
        lane.order(toy.FAIL, 3)
        await lane.answered()
        logs = [event[1].log for event in lane.heard if event[0] == "completed"]
        assert logs == [b"line 1\nno newline\xff\x00raw", b"line 2\nno newline\xff\x00raw"]
        assert lane.count("succeeded") == 6
        assert lane.failures[0][1].log == b""


@trio_test
async def test_a_hundred_mebibytes_of_output_are_bounded_and_counted() -> None:
    async with open_pool() as pool:
        worker = (await pool.start(config())).workers[0]
        lane = Lane(worker)
        what, answer = await lane.ask(toy.PRINT_MUCH, 100)
        assert what == "completed"
        kept = len(answer.log) + sum(len(text) for _, text in lane.output)
        assert kept <= limits.MIB
        assert kept + answer.log_dropped == 100 * limits.MIB
        assert os.fstat(worker._log_fd).st_blocks * 512 < limits.MIB
        _, answer = await lane.ask(toy.PRINT, 1)
        assert answer.log == b"line 1\nno newline\xff\x00raw"
        assert answer.log_dropped == 0


@trio_test
async def test_a_long_invocation_is_heard_while_it_runs() -> None:
    async with open_pool() as pool:
        lane = Lane((await pool.start(config())).workers[0])
        lane.order(toy.OK)
        await lane.answered()
        lane.heard.clear()
        lane.order(toy.CHATTER, 12)
        await until(lambda: len(lane.output) >= 2)
        assert lane.seat.in_flight == 1
        await lane.answered()
        answer = lane.heard[0][1]
        assert {invocation for invocation, _ in lane.output} == {answer.invocation}
        whole = b"".join(text for _, text in lane.output) + answer.log
        assert whole.decode().split() == [word for i in range(12) for word in ("tick", str(i))]


@trio_test
async def test_what_a_killed_worker_printed_is_kept() -> None:
    async with open_pool() as pool:
        lane = Lane((await pool.start(config(timeout_s=1.0))).workers[0])
        lane.order(toy.CHATTER, 10_000)
        await until(lambda: lane.output)
        await lane.answered()
        kind, answer = lane.failures[0]
        assert kind is FailureKind.TIMEOUT
        whole = b"".join(text for _, text in lane.output) + answer.log
        assert whole.startswith(b"tick 0\ntick 1\n")
        assert whole.count(b"\n") >= 15
