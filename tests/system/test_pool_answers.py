"""What lanes hear of their batches, with real workers."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
import toy_worker as toy
import trio
from pool_rig import Lane, config, extent, tell, until
from trio.testing import trio_test

from streamfn import limits
from streamfn._native import ffi, lib
from streamfn.errors import PoolClosed
from streamfn.pool.lane import FailureKind
from streamfn.pool.pool import open_pool


@trio_test
async def test_every_batch_is_answered_and_successes_come_folded() -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        lane = Lane(function.workers[0])
        for _ in range(20):
            done = 0
            while done < 100:
                done += lane.order(toy.OK, batches=100 - done)
                await trio.lowlevel.checkpoint()
            await lane.answered()
        assert lane.count("succeeded") == 2000
        assert len(lane.heard) < 1000
        assert function.workers[0].in_flight == 0


@trio_test
async def test_the_ring_takes_as_many_as_it_has_room_for() -> None:
    async with open_pool() as pool:
        [worker] = (await pool.start(config())).workers
        lane = Lane(worker)
        assert worker.room == limits.RING_CAPACITY
        assert lane.order(toy.SLEEP_MS, 1, batches=1000) == limits.RING_CAPACITY
        assert worker.room == 0
        assert not lane.seat.submit(extent(toy.OK), 1, time.monotonic_ns())
        await lane.answered()
        assert worker.room == limits.RING_CAPACITY


@trio_test
async def test_after_a_failure_the_rest_of_the_epoch_comes_back_and_the_next_epoch_runs() -> None:
    async with open_pool() as pool:
        [worker] = (await pool.start(config())).workers
        lane, other = Lane(worker), Lane(worker)
        lane.order(toy.OK)
        lane.order(toy.FAIL, 7)
        lane.order(toy.OK, batches=5)
        other.order(toy.OK, batches=3)
        await lane.answered()
        await other.answered()
        assert [event[0] for event in lane.heard] == ["succeeded", "failed"] + ["returned"] * 5
        [(kind, answer)] = lane.failures
        assert kind is FailureKind.HANDLER
        assert answer.payload == b"ValueError('number 7')"
        assert answer.submitted_ns <= answer.started_ns <= answer.finished_ns
        assert other.count("succeeded") == 3
        lane.seat.renew()
        assert await lane.ask(toy.OK) == ("succeeded", 1)


@trio_test
async def test_a_response_that_is_no_certain_success_is_told_with_its_payload_and_ends_the_epoch() -> None:
    async with open_pool() as pool:
        [worker] = (await pool.start(config())).workers
        lane = Lane(worker)
        lane.order(toy.OK)
        lane.order(toy.SAY_PARTLY, rows=7)
        lane.order(toy.OK, batches=2)
        await lane.answered()
        assert [event[0] for event in lane.heard] == ["succeeded", "failed", "returned", "returned"]
        [(kind, answer)] = lane.failures
        assert (kind, answer.payload, answer.records) == (FailureKind.RESPONSE, b"7", 7)
        assert answer.submitted_ns <= answer.started_ns <= answer.finished_ns
        lane.seat.renew()
        assert await lane.ask(toy.OK) == ("succeeded", 1)


@trio_test
async def test_without_folding_every_response_is_told() -> None:
    async with open_pool(fold=False) as pool:
        [worker] = (await pool.start(config())).workers
        lane = Lane(worker)
        lane.order(toy.OK, rows=3, batches=4)
        await lane.answered()
        answers = [event[1] for event in lane.heard]
        assert [answer.payload for answer in answers] == [b"3"] * 4
        first = answers[0].invocation
        assert [answer.invocation for answer in answers] == list(range(first, first + 4))
        assert {answer.records for answer in answers} == {3}


@pytest.mark.parametrize("size", [256, 257, 100_000, limits.RESPONSE_BYTES_MAX])
@trio_test
async def test_responses_of_every_size_arrive_whole(size: int) -> None:
    async with open_pool(fold=False) as pool:
        lane = Lane((await pool.start(config())).workers[0])
        for _ in range(3):
            _, answer = await lane.ask(toy.LONG, size)
            assert answer.payload == b"y" * size


@trio_test
async def test_a_payload_of_any_length_is_read_up_to_a_bound_only() -> None:
    async with open_pool(fold=False) as pool:
        lane = Lane((await pool.start(config())).workers[0])
        _, answer = await lane.ask(toy.LONG, 20 * limits.MIB)
        assert len(answer.payload) == limits.RESPONSE_BYTES_MAX + 64 * 1024


@trio_test
async def test_a_batch_of_several_extents_is_one_invocation() -> None:
    async with open_pool(fold=False) as pool:
        [worker] = (await pool.start(config())).workers
        lane = Lane(worker)
        extents = ffi.new("sf_extent[]", 10_000)
        for i in range(10_000):
            extents[i].rows = 1
        for _ in range(3):
            assert lane.seat.submit(extents, 10_000, time.monotonic_ns())
            lane.seat.publish()
            await lane.answered()
        assert [event[1].payload for event in lane.heard] == [b"10000"] * 3


@trio_test
async def test_what_has_not_begun_can_be_taken_back() -> None:
    async with open_pool() as pool:
        lane = Lane((await pool.start(config())).workers[0])
        lane.order(toy.SLEEP_MS, 50, batches=10)
        await until(lambda: lib.sf_port_running_since(lane.seat.worker.port))
        assert lane.seat.revoke() == 9
        await lane.answered()
        assert lane.count("succeeded") == 1
        assert lane.count("returned") == 9
        assert await lane.ask(toy.OK) == ("succeeded", 1)


@trio_test
async def test_segments_are_handed_over_and_retired(tmp_path: Path) -> None:
    (tmp_path / "segment").write_bytes(b"content")
    async with open_pool(fold=False) as pool:
        [worker] = (await pool.start(config())).workers
        lane = Lane(worker)
        fd = os.open(tmp_path / "segment", os.O_RDONLY)
        worker.introduce(77, fd, b'{"a": 1}')
        os.close(fd)
        assert worker.knows(77)
        _, answer = await lane.ask(toy.SEGMENT)
        assert answer.payload == b'77 {"a": 1} content'
        worker.let_go(77)
        assert not worker.knows(77)
        await until(lambda: worker.chores == 0)
        assert worker.room == limits.RING_CAPACITY


@trio_test
async def test_a_full_control_socket_is_said(tmp_path: Path) -> None:
    async with open_pool() as pool:
        [worker] = (await pool.start(config())).workers
        fd = os.open(os.devnull, os.O_RDONLY)
        sent = iter(range(100_000))

        def fill() -> None:
            for segment in sent:
                worker.introduce(segment, fd, b"x" * 60_000)

        with pytest.raises(trio.WouldBlock):
            fill()
        os.close(fd)
        refused = next(sent) - 1
        assert worker.knows(refused - 1)
        assert not worker.knows(refused)


@trio_test
async def test_histograms_take_every_invocation() -> None:
    latency = ffi.gc(lib.sf_histogram_new(), lib.sf_histogram_free)
    duration = ffi.gc(lib.sf_histogram_new(), lib.sf_histogram_free)
    async with open_pool() as pool:
        [worker] = (await pool.start(config())).workers
        lane = Lane()
        lane.seat = worker.seat_lane(lane, latency, duration)
        lane.order(toy.OK, batches=40)
        await lane.answered()
    assert lib.sf_histogram_total(latency) == lib.sf_histogram_total(duration) == 40


@trio_test
async def test_seats_are_given_back_and_run_out() -> None:
    async with open_pool() as pool:
        [worker] = (await pool.start(config())).workers
        lanes = [Lane(worker) for _ in range(limits.RING_CAPACITY)]
        with pytest.raises(trio.WouldBlock):
            Lane(worker)
        assert worker.lanes == limits.RING_CAPACITY
        epoch = lanes[5].seat.epoch
        lanes[5].seat.leave()
        again = Lane(worker)
        assert again.seat.epoch > epoch
        assert await again.ask(toy.OK) == ("succeeded", 1)


@trio_test
async def test_a_round_is_told_once_after_its_answers() -> None:
    async with open_pool() as pool:
        rounds: list[int] = []
        lane = Lane()
        pool.on_round = lambda: rounds.append(lane.count("succeeded"))
        function = await pool.start(config())
        await until(lambda: rounds)
        lane.sit(function.workers[0])
        rounds.clear()
        lane.order(toy.OK)
        await lane.answered()
        assert rounds == [1]


@trio_test
async def test_rounds_that_submit_keep_the_worker_busy() -> None:
    async with open_pool() as pool:
        [worker] = (await pool.start(config())).workers
        lane = Lane(worker)
        left = 20_000

        def feed() -> None:
            nonlocal left
            left -= lane.order(toy.OK, batches=min(left, worker.room)) if left else 0

        pool.on_round = feed
        feed()
        await until(lambda: left == 0 and lane.seat.in_flight == 0)
        assert lane.count("succeeded") == 20_000


@trio_test
async def test_one_pool_serves_several_functions(tmp_path: Path) -> None:
    async with open_pool(fold=False) as pool:
        one = await pool.start(config(workers=2))
        two = await pool.start(config(tmp_path))
        assert one.zygote_pid != two.zygote_pid
        assert (await tell(one.workers[0]))["cwd"] == "/tmp"
        assert (await tell(two.workers[0]))["cwd"] == str(tmp_path)
        await one.stop()
        assert one.workers == []
        assert (await tell(two.workers[0]))["cwd"] == str(tmp_path)


@trio_test
async def test_invocations_are_counted_over_the_pool_and_have_ids_in_uuid_shape() -> None:
    async with open_pool(fold=False) as pool:
        function = await pool.start(config(workers=2))
        seen = [(await Lane(worker).ask(toy.OK))[1].invocation for worker in function.workers * 2]
        assert seen == sorted(set(seen))
        ids = {pool.request_id(invocation) for invocation in seen}
        assert len(ids) == 4
        shape = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
        assert all(re.fullmatch(shape, one) for one in ids)


@trio_test
async def test_a_closed_pool_starts_nothing() -> None:
    async with open_pool() as pool:
        pass
    with pytest.raises(PoolClosed):
        await pool.start(config())


@trio_test
async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    async def fail() -> None:
        async with open_pool() as pool:
            await pool.start(config())
            raise KeyError("mine")

    with pytest.raises(KeyError):
        await fail()
