"""What handlers and the outside can do to workers, and what becomes of the batches."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import toy_worker as toy
import trio
from pool_rig import Lane, config, extent, is_alive, replaced, tell, until
from trio.testing import trio_test

from streamfn._native import lib
from streamfn.pool import linux
from streamfn.pool.confine import cgroup
from streamfn.pool.lane import FailureKind
from streamfn.pool.pool import open_pool
from streamfn.pool.worker import State, Worker

CRASHED, TIMEOUT = FailureKind.CRASHED, FailureKind.TIMEOUT


async def begun(worker: Worker) -> None:
    await until(lambda: lib.sf_port_running_since(worker.port))


@trio_test
async def test_a_killed_worker_fails_what_it_ran_and_returns_the_rest() -> None:
    async with open_pool() as pool:
        function = await pool.start(config(workers=2))
        worker, other = function.workers
        lane, bystander = Lane(worker), Lane(other)
        bystander.order(toy.SLEEP_MS, 100)
        lane.order(toy.SPIN, batches=5)
        await begun(worker)
        killed = time.monotonic()
        os.kill(worker.pid, signal.SIGKILL)
        await lane.answered()
        assert time.monotonic() - killed < 0.5
        assert [event[0] for event in lane.heard] == ["failed"] + ["returned"] * 4
        [(kind, answer)] = lane.failures
        assert (kind, answer.detail, answer.payload) == (CRASHED, "signal: killed", b"")
        assert worker.state is State.DEAD
        assert lane.seat.submit_run(extent(toy.OK), 1, 1, time.monotonic_ns()) == 0
        lane.seat.leave()
        await bystander.answered()
        assert bystander.heard == [("succeeded", 1)]
        assert await Lane(await replaced(function, worker.pid)).ask(toy.OK) == ("succeeded", 1)


@pytest.mark.parametrize(
    ("deed", "number", "detail"),
    [
        (toy.EXIT, 3, "exit status 3"),
        (toy.EXIT, 0, "exit status 0"),
        (toy.HARD_EXIT, 9, "exit status 9"),
        (toy.SEGFAULT, 0, "signal: segmentation fault"),
    ],
    ids=["sys.exit", "sys.exit(0)", "os._exit", "segfault"],
)
@trio_test
async def test_an_exit_in_the_handler_is_a_crash_that_says_how(deed: int, number: int, detail: str) -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        lane = Lane(function.workers[0])
        pid = lane.seat.worker.pid
        _, kind, answer = await lane.ask(deed, number)
        assert (kind, answer.detail) == (CRASHED, detail)
        assert await Lane(await replaced(function, pid)).ask(toy.OK) == ("succeeded", 1)


@pytest.mark.parametrize("deed", [toy.SPIN, toy.STOP_SELF], ids=["endless loop", "stopped"])
@trio_test
async def test_a_timeout_kills_and_takes_no_innocent_batch_along(deed: int) -> None:
    async with open_pool() as pool:
        function = await pool.start(config(timeout_s=1.0))
        worker = function.workers[0]
        lane, other = Lane(worker), Lane(worker)
        began = time.monotonic()
        lane.order(deed)
        lane.order(toy.OK, batches=2)
        other.order(toy.OK, batches=3)
        await until(lambda: lane.seat.in_flight == 0 and other.seat.in_flight == 0)
        assert 1.0 <= time.monotonic() - began < 1.5
        assert [event[0] for event in lane.heard if event[0] != "recalled"] == ["failed", "returned", "returned"]
        assert lane.failures[0][0] is TIMEOUT
        assert [event for event in other.heard if event[0] != "recalled"] == [("returned", 3)]
        await replaced(function, worker.pid)


@trio_test
async def test_what_waits_behind_another_lanes_long_invocation_comes_back_and_its_lane_goes_elsewhere() -> None:
    async with open_pool() as pool:
        function = await pool.start(config(workers=2))
        worker, other = function.workers
        long, waiting = Lane(worker), Lane(worker)
        long.order(toy.SLEEP_MS, 1500)
        long.order(toy.OK, batches=2)
        waiting.order(toy.OK, batches=3)
        await waiting.answered()
        assert waiting.heard == [("recalled", 0), ("returned", 3)]
        assert [event[0] for event in long.heard] == ["recalled"], "it runs"
        waiting.seat.leave()
        assert function.choose(waiting) is other
        assert await Lane(function.choose(waiting)).ask(toy.OK) == ("succeeded", 1)
        await long.answered()
        assert long.heard[1:] == [("succeeded", 1), ("returned", 1), ("returned", 1)]
        assert await Lane(worker).ask(toy.OK) == ("succeeded", 1)


@trio_test
async def test_a_worker_whose_freed_lanes_come_back_to_it_is_killed_and_answers_for_each_once() -> None:
    async with open_pool() as pool:
        function = await pool.start(config(workers=1))
        (worker,) = function.workers
        long, waiting = Lane(worker), Lane(worker)
        long.order(toy.SPIN)
        waiting.order(toy.OK, batches=3)
        await waiting.answered()
        waiting.seat.leave()
        assert function.choose(waiting) is None, "nobody is free"
        waiting.sit(worker)
        waiting.order(toy.OK, batches=2)
        os.kill(worker.pid, signal.SIGKILL)
        await long.answered()
        assert [event[0] for event in long.heard] == ["recalled", "failed"]
        assert waiting.heard == [("recalled", 0), ("returned", 3), ("returned", 1), ("returned", 1)]


@trio_test
async def test_a_deep_queue_of_quick_batches_is_no_timeout() -> None:
    async with open_pool() as pool:
        function = await pool.start(config(timeout_s=1.0))
        lane = Lane(function.workers[0])
        lane.order(toy.SLEEP_MS, 40, batches=40)
        await lane.answered()
        assert lane.count("succeeded") == 40


@trio_test
async def test_without_a_timeout_nothing_is_killed() -> None:
    async with open_pool() as pool:
        function = await pool.start(config(timeout_s=None))
        lane = Lane(function.workers[0])
        assert await lane.ask(toy.SLEEP_MS, 300) == ("succeeded", 1)


@trio_test
async def test_a_handler_that_usurps_every_descriptor_keeps_its_file(tmp_path: Path) -> None:
    async with open_pool() as pool:
        function = await pool.start(config(tmp_path))
        worker = function.workers[0]
        lane = Lane(worker)
        lane.order(toy.USURP)
        await replaced(function, worker.pid)
        assert lane.seat.in_flight == 0
        assert (tmp_path / "written").read_bytes() == b"precious"


@trio_test
async def test_a_handler_that_closes_every_descriptor_costs_its_worker_only() -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        worker = function.workers[0]
        lane = Lane(worker)
        lane.order(toy.CLOSE_ALL)
        new = await replaced(function, worker.pid)
        assert lane.seat.in_flight == 0
        assert await Lane(new).ask(toy.OK) == ("succeeded", 1)


@pytest.mark.parametrize("deed", [toy.FORK, toy.FORK_RETURN], ids=["child exits", "child returns from the handler"])
@trio_test
async def test_a_handler_may_fork(deed: int) -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        lane = Lane(function.workers[0])
        for _ in range(3):
            assert await lane.ask(deed, 5) == ("succeeded", 1)
        assert lane.seat.worker.state is State.READY


@pytest.mark.parametrize("deed", [toy.CHILD, toy.ORPHAN], ids=["child", "daemon"])
@trio_test
async def test_what_a_handler_left_behind_ends_with_its_worker(deed: int) -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        worker = function.workers[0]
        before = {entry.pid for entry in linux.processes()}
        assert await Lane(worker).ask(deed) == ("succeeded", 1)
        left = {entry.pid for entry in linux.processes()} - before
        assert left
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: not any(map(is_alive, left)))


@trio_test
async def test_a_worker_that_breaks_the_rings_protocol_is_killed() -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        worker = function.workers[0]
        lane = Lane(worker)
        lane.order(toy.LOSE)
        await lane.answered()
        assert lane.failures[0][0] in (CRASHED, FailureKind.HANDLER)
        await replaced(function, worker.pid)


@trio_test
async def test_a_handler_that_shuts_its_socket_costs_its_worker_only() -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        worker = function.workers[0]
        lane = Lane(worker)
        assert await lane.ask(toy.SHUT) == ("succeeded", 1)
        with open(os.devnull, "rb") as segment, pytest.raises(trio.WouldBlock):
            worker.introduce(1, segment.fileno(), b"{}")
        lane.seat.leave()
        assert await Lane(await replaced(function, worker.pid)).ask(toy.OK) == ("succeeded", 1)


@trio_test
async def test_a_thread_that_prints_while_nothing_runs_does_not_fill_the_memory() -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        worker = function.workers[0]
        kind, *_ = await Lane(worker).ask(toy.FLOOD)
        assert kind in ("succeeded", "completed"), "the thread may have printed before its invocation returned"
        most = 0
        for _ in range(50):
            await trio.sleep(0.02)
            most = max(most, os.fstat(worker._log_fd).st_blocks * 512)
        assert os.fstat(worker._log_fd).st_size > 2 * most, "what was printed is given back while it goes on"


@trio_test
async def test_a_zygote_ends_by_no_signal_of_its_workers_that_can_be_caught() -> None:
    async with open_pool() as pool:
        function = await pool.start(config(workers=2))
        zygote, worker = function.zygote_pid, function.workers[0]
        bystander = Lane(function.workers[1])
        bystander.order(toy.SLEEP_MS, 200)
        assert await Lane(worker).ask(toy.SIGNAL_PARENT) == ("succeeded", 1)
        await bystander.answered()
        assert bystander.heard == [("succeeded", 1)]
        os.kill(worker.pid, signal.SIGKILL)
        new = await replaced(function, worker.pid)
        assert await Lane(new).ask(toy.OK) == ("succeeded", 1)
        assert function.zygote_pid == zygote


@pytest.mark.parametrize("held", [True, False], ids=["as it is", "no control groups"])
@trio_test
async def test_what_breeds_faster_than_it_is_killed_ends_with_its_worker(
    tmp_path: Path, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not held:
        lacking = dict.fromkeys(cgroup.CONTROLLERS, "it is a test")
        monkeypatch.setattr(cgroup, "survey", lambda: cgroup.Hierarchies([], lacking))
    before = {entry.pid for entry in linux.processes()}
    stop = tmp_path / "written"
    try:
        async with open_pool() as pool:
            function = await pool.start(config(tmp_path))
            worker = function.workers[0]
            assert await Lane(worker).ask(toy.BREED, 20) == ("succeeded", 1)
            os.kill(worker.pid, signal.SIGKILL)
            new = await replaced(function, worker.pid)
            ours = {function.zygote_pid, new.pid}
            zygote = f"{function.zygote_pid}"

            def strays() -> list[int]:
                return [
                    entry.pid
                    for entry in linux.processes()
                    if entry.pid not in before | ours and str(entry.parent) == zygote and is_alive(entry.pid)
                ]

            await until(lambda: not strays())
            await trio.sleep(0.1)
            assert not strays()
    finally:
        stop.touch()


@trio_test
async def test_a_killed_zygote_is_replaced_and_what_ran_counts_as_crashed() -> None:
    async with open_pool() as pool:
        function = await pool.start(config(workers=2))
        zygote, worker = function.zygote_pid, function.workers[0]
        assert zygote is not None
        lane = Lane(worker)
        lane.order(toy.SPIN, batches=3)
        await begun(worker)
        os.kill(zygote, signal.SIGKILL)
        await lane.answered()
        assert [event[0] for event in lane.heard] == ["failed", "returned", "returned"]
        assert (lane.failures[0][0], lane.failures[0][1].detail) == (CRASHED, "signal: killed")
        await until(lambda: len(function.workers) == 2 and function.zygote_pid not in (None, zygote))
        assert await Lane(function.workers[1]).ask(toy.OK) == ("succeeded", 1)


@trio_test
async def test_a_killed_zygote_takes_children_of_handlers_along() -> None:
    async with open_pool() as pool:
        function = await pool.start(config())
        zygote = function.zygote_pid
        before = {entry.pid for entry in linux.processes()}
        assert zygote is not None
        lane = Lane(function.workers[0])
        assert await lane.ask(toy.CHILD) == ("succeeded", 1)
        left = {entry.pid for entry in linux.processes()} - before
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: not any(map(is_alive, left)))


@trio_test
async def test_workers_that_die_at_once_are_no_fork_storm(tmp_path: Path) -> None:
    async with open_pool() as pool:
        function = await pool.start(config(tmp_path, settings={"die": str(tmp_path / "deaths")}))
        await trio.sleep(1.0)
        assert 2 <= (tmp_path / "deaths").stat().st_size < 10
        await function.stop()


@trio_test
async def test_a_worker_is_itself_and_not_its_sibling() -> None:
    async with open_pool(fold=False) as pool:
        function = await pool.start(config(workers=2))
        one, two = [await tell(worker) for worker in function.workers]
        assert one["random"] != two["random"]
        assert [one["group"], two["group"]] == [one["pid"], two["pid"]]
        assert one["core"] == 0
        assert one["sigterm"] == str(signal.SIG_DFL)
        assert sorted(map(int, one["fds"]))[:3] == [0, 1, 2]
        assert one["fds"]["0"] == os.devnull
        assert all(int(fd) > 500 for fd in one["fds"] if int(fd) > 2)
        assert len(one["fds"]) == 3 + 4


@trio_test
async def test_a_worker_loads_nothing_a_handler_would_pay_for() -> None:
    async with open_pool(fold=False) as pool:
        function = await pool.start(config())
        loaded = set((await tell(function.workers[0]))["modules"])
    assert not loaded & {"trio", "pyarrow", "click", "numpy", "asyncio", "rich"}
    assert "streamfn.pool.zygote" in loaded
