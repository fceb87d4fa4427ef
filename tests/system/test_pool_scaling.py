"""Workers that come and go with what is wanted of them, with real processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import toy_worker as toy
import trio
from pool_rig import HERE, Lane, config, count_fds, is_alive, until
from trio.testing import trio_test

from streamfn.core import scaling
from streamfn.errors import FailedError, HandlerImportError, RefusedError
from streamfn.pool import linux
from streamfn.pool.config import FunctionConfig
from streamfn.pool.function import Function
from streamfn.pool.generation import Generation
from streamfn.pool.pool import open_pool


class Hungry(Lane):
    """A lane that always has something to do: it asks for a worker, has it nap, stands up, and asks again."""

    def __init__(self, function: Function, nap_ms: int = 5) -> None:
        super().__init__()
        self.function = function
        self.nap_ms = nap_ms
        self.answers = 0
        self.served_by: list[int] = []

    async def run(self) -> None:
        while True:
            worker = self.function.choose(self)
            if worker is None:
                with trio.move_on_after(0.01):  # a worker that is held up no more has not moved
                    await self.function.wait_moved()
                continue
            seat = self.sit(worker)
            with trio.CancelScope(shield=True):
                if self.order(toy.SLEEP_MS, self.nap_ms):
                    await self.answered()
                    self.answers += self.count("succeeded")
                    self.served_by.append(worker.pid)
                    self.heard.clear()
                seat.leave()
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def hungry(function: Function, count: int, nap_ms: int = 5) -> AsyncIterator[list[Hungry]]:
    lanes = [Hungry(function, nap_ms) for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for lane in lanes:
            nursery.start_soon(lane.run)
        yield lanes
        nursery.cancel_scope.cancel()
    for lane in lanes:
        function.forget(lane)


def elastic(least: int, most: int, **more: object) -> FunctionConfig:
    return replace(config(), minimum=least, maximum=most, **more)  # type: ignore[arg-type]


@trio_test
async def test_a_function_grows_with_what_waits_and_shrinks_when_it_is_idle() -> None:
    async with open_pool() as pool:
        function = await pool.start(elastic(1, 4, idle_s=0.2))
        assert len(function.workers) == 1
        async with hungry(function, 4, nap_ms=50) as lanes:
            await until(lambda: len(function.workers) == 4)
            await until(lambda: all(lane.answers for lane in lanes))
        pids = [worker.pid for worker in function.workers]
        await until(lambda: len(function.workers) == 1)
        await until(lambda: sum(map(is_alive, pids)) == 1)


@trio_test
async def test_a_lane_for_itself_finds_one_more_ready_than_it_needs() -> None:
    async with open_pool() as pool:
        function = await pool.start(elastic(1, 4))
        async with hungry(function, 1, nap_ms=50):
            await until(lambda: len(function.workers) == 2)
            await trio.sleep(0.1)
            assert len(function.workers) == 2


@trio_test
async def test_a_function_without_a_least_has_workers_only_while_they_are_wanted() -> None:
    async with open_pool() as pool:
        function = await pool.start(elastic(0, 2, idle_s=0.1))
        assert function.workers == []
        assert function.zygote_pid is not None
        async with hungry(function, 1) as (lane,):
            await until(lambda: lane.answers)
        await until(lambda: not function.workers)
        async with hungry(function, 1) as (lane,):
            await until(lambda: lane.answers)


@trio_test
async def test_a_function_without_a_least_is_still_tried_where_each_worker_does_its_own_init() -> None:
    async with open_pool() as pool:
        with pytest.raises(HandlerImportError, match="no such handler"):
            await pool.start(elastic(0, 2, start_method="spawn", settings={"init": "fail"}))
        function = await pool.start(elastic(0, 2, start_method="spawn"))
        assert len(function.workers) == 1


@trio_test
async def test_a_function_whose_most_is_none_is_never_invoked() -> None:
    async with open_pool() as pool:
        function = await pool.start(elastic(0, 0))
        async with hungry(function, 1) as (lane,):
            await trio.sleep(0.2)
            assert (lane.answers, function.workers) == (0, [])


@trio_test
async def test_two_hundred_are_started_at_once_without_a_failure() -> None:
    before = count_fds()
    async with open_pool() as pool:
        function = await pool.start(elastic(200, 200, timeout_s=None))
        assert len(function.workers) == 200
        assert len({worker.index for worker in function.workers}) == 200
        lanes = [Lane(worker) for worker in function.workers]
        for lane in lanes:
            assert lane.order(toy.OK) == 1
        for lane in lanes:
            await lane.answered()
            assert lane.count("succeeded") == 1
        assert function.fault is None
    assert count_fds() == before


@trio_test
async def test_a_worker_that_dies_is_replaced_under_its_number() -> None:
    async with open_pool() as pool:
        function = await pool.start(elastic(1, 1))
        [worker] = function.workers
        assert await Lane(worker).ask(toy.OK) == ("succeeded", 1)
        worker.kill()
        await until(lambda: function.workers)
        assert function.workers[0].index == worker.index
        assert function.workers[0].pid != worker.pid


@trio_test
async def test_a_worker_that_dies_of_what_it_runs_costs_no_pause() -> None:
    """Retries are paced by who retries; a record that ends its worker must not hold up the others."""
    async with open_pool() as pool:
        function = await pool.start(elastic(1, 1))
        for _ in range(10):
            await until(lambda: function.workers)
            lane = Lane(function.workers[0])
            lane.order(toy.HARD_EXIT, 3)
            await lane.answered()
            assert len(lane.failures) == 1
            assert function.share.resume_ns == 0


# ---- several functions in one pool


@trio_test
async def test_functions_that_always_want_something_share_one_place_in_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scaling, "SLICE_NS", 50 * scaling.MS)
    async with open_pool() as pool:
        pool.concurrency = 1
        functions = [await pool.start(elastic(0, 4)) for _ in range(3)]
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, sum(len(function.workers) for function in functions))
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            async with hungry(functions[0], 2) as a, hungry(functions[1], 2) as b, hungry(functions[2], 2) as c:
                await until(lambda: all(len(set(lanes[0].served_by)) >= 3 for lanes in (a, b, c)), 20)
            nursery.cancel_scope.cancel()
        assert most == 1


@trio_test
async def test_a_reserved_share_is_there_at_once_whatever_the_others_want() -> None:
    async with open_pool() as pool:
        pool.concurrency = 3
        greedy = await pool.start(elastic(0, 8))
        reserved = await pool.start(elastic(0, 1, reserved=True))
        async with hungry(greedy, 8, nap_ms=100) as lanes:
            await until(lambda: all(lane.answers for lane in lanes))
            assert len(greedy.workers) == 2
            pids = {worker.pid for worker in greedy.workers}
            async with hungry(reserved, 3) as others:
                await until(lambda: all(lane.answers > 3 for lane in others))
                assert len(reserved.workers) == 1
            assert {worker.pid for worker in greedy.workers} == pids


@trio_test
async def test_an_idle_functions_worker_goes_to_one_that_waits() -> None:
    async with open_pool() as pool:
        pool.concurrency = 1
        one, other = await pool.start(elastic(0, 2)), await pool.start(elastic(0, 2))
        for function in (one, other, one):
            async with hungry(function, 1) as (lane,):
                await until(lambda lane=lane: lane.answers)  # type: ignore[misc]
        assert (len(one.workers), len(other.workers)) == (1, 0)


@trio_test
async def test_a_function_for_which_nothing_is_left_is_refused() -> None:
    async with open_pool() as pool:
        pool.concurrency = 2
        function = await pool.start(elastic(2, 2))
        with pytest.raises(RefusedError, match="toy cannot be started: a concurrency of 2 is too small"):
            await pool.start(elastic(1, 2))
        await function.stop()
        await pool.start(elastic(1, 2))


# ---- renewing


def versions(tmp_path: Path, **more: object) -> FunctionConfig:
    """A function whose Init reads `version` and whose workers write it, and their times, down."""
    (tmp_path / "versioned_main.py").write_text(
        "import os, time\n"
        "import toy_worker\n"
        "from streamfn.pool.protocol import InitFailed\n"
        "VERSION = open(os.path.join(os.path.dirname(__file__), 'version')).read()\n"
        "def init(settings):\n"
        "    if VERSION == 'bad':\n"
        "        raise InitFailed(b'{\"errorMessage\": \"bad code\"}')\n"
        "    return settings\n"
        "def main(state, seat):\n"
        "    def deed(state, seat, what, number, work):\n"
        "        with open(state['path'], 'a') as file:\n"
        "            file.write(f'{VERSION} {time.monotonic()}')\n"
        "            time.sleep(number / 1000)\n"
        "            file.write(f' {time.monotonic()}\\n')\n"
        "        return b'done'\n"
        "    toy_worker.deed = deed\n"
        "    toy_worker.main(state, seat)\n"
    )
    (tmp_path / "version").write_text("1")
    start = config(tmp_path, main="versioned_main")
    environment = {**start.environment, "PYTHONPATH": f"{HERE}:{tmp_path}"}
    return replace(start, environment=environment, **more)  # type: ignore[arg-type]


def written(tmp_path: Path) -> list[tuple[str, float, float]]:
    lines = [line.split() for line in (tmp_path / "written").read_text().splitlines()]
    return sorted((version, float(began), float(ended)) for version, began, ended in lines)


@trio_test
async def test_renewed_at_a_batch_edge_and_never_more_than_the_most_at_work(tmp_path: Path) -> None:
    start = versions(tmp_path, minimum=1, maximum=1)
    async with open_pool() as pool:
        function = await pool.start(start)
        zygote = function.zygote_pid
        async with hungry(function, 3, nap_ms=20) as lanes:
            await until(lambda: all(lane.answers for lane in lanes))
            (tmp_path / "version").write_text("2")
            await function.renew(start)
            before = [lane.answers for lane in lanes]
            await until(lambda: all(lane.answers > seen + 2 for lane, seen in zip(lanes, before, strict=True)))
        assert function.zygote_pid not in (None, zygote)
        assert zygote is not None
        await until(lambda: not is_alive(zygote))
        assert not any(lane.failures for lane in lanes)
    runs = sorted(written(tmp_path), key=lambda run: run[1])
    assert {version for version, _, _ in runs} == {"1", "2"}
    assert [version for version, _, _ in runs] == sorted(version for version, _, _ in runs)
    for (_, _, ended), (_, began, _) in itertools.pairwise(runs):
        assert ended <= began, "two ran at the same time, and one is the most"


@trio_test
async def test_a_renewal_that_fails_leaves_the_old_at_work(tmp_path: Path) -> None:
    start = versions(tmp_path, minimum=2, maximum=2)
    async with open_pool() as pool:
        function = await pool.start(start)
        pids = [worker.pid for worker in function.workers]
        (tmp_path / "version").write_text("bad")
        with pytest.raises(HandlerImportError, match="bad code"):
            await function.renew(start)
        assert [worker.pid for worker in function.workers] == pids
        assert function.fault is None
        for worker in function.workers:
            assert await Lane(worker).ask(toy.OK, 1) == ("succeeded", 1)
        (tmp_path / "version").write_text("3")
        await function.renew(replace(start, minimum=1, maximum=1))
        await until(lambda: len(function.workers) == 1 and function.workers[0].pid not in pids)
    assert [version for version, _, _ in written(tmp_path)] == ["1", "1"]


@trio_test
async def test_a_renewal_that_is_cancelled_when_its_zygote_is_there_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scope, begin = trio.CancelScope(), Generation.begin
    async with open_pool() as pool:
        function = await pool.start(config())
        before = sorted(linux.children())

        async def begin_late(generation: Generation) -> bool:
            begun = await begin(generation)
            scope.cancel()
            return begun

        monkeypatch.setattr(Generation, "begin", begin_late)
        with scope:
            await function.renew(function.config)
        assert scope.cancelled_caught
        await until(lambda: sorted(linux.children()) == before)
        assert await Lane(function.workers[0]).ask(toy.OK) == ("succeeded", 1)


@pytest.mark.parametrize("after_s", [0.05, 0.3])
@trio_test
async def test_a_function_that_is_stopped_while_it_is_renewed_leaves_nothing(tmp_path: Path, after_s: float) -> None:
    start = versions(tmp_path, minimum=4, maximum=4)
    before, children = count_fds(), set(linux.children())
    async with open_pool() as pool:
        function = await pool.start(start)
        async with trio.open_nursery() as nursery:

            async def renew() -> None:
                with contextlib.suppress(FailedError):
                    await function.renew(start)

            nursery.start_soon(renew)
            await trio.sleep(after_s)
            await function.stop()
        assert set(linux.children()) == children
    assert count_fds() == before


@trio_test
async def test_a_renewal_that_is_cancelled_leaves_the_old_at_work_and_nothing_else(tmp_path: Path) -> None:
    start = versions(tmp_path, minimum=2, maximum=2)
    async with open_pool() as pool:
        function = await pool.start(start)
        pids, before = [worker.pid for worker in function.workers], count_fds()
        for after_s in (0.0, 0.1):
            with trio.move_on_after(after_s):
                await function.renew(start)
            if [worker.pid for worker in function.workers] != pids:
                break  # it was quicker than that
            await until(lambda: len(linux.children()) == 1)
            assert await Lane(function.workers[0]).ask(toy.OK, 1) == ("succeeded", 1)
            await until(lambda: count_fds() == before)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@trio_test
async def test_workers_that_do_init_themselves_are_renewed_too(tmp_path: Path, start_method: str) -> None:
    start = versions(tmp_path, minimum=1, maximum=2, start_method="spawn")
    async with open_pool() as pool:
        function = await pool.start(start)
        [worker] = function.workers
        (tmp_path / "version").write_text("bad")
        with pytest.raises(HandlerImportError, match="bad code"):
            await function.renew(start)
        assert function.workers == [worker]
        (tmp_path / "version").write_text("2")
        await function.renew(replace(start, start_method=start_method))  # type: ignore[arg-type]
        await until(lambda: function.workers and function.workers != [worker])
        assert await Lane(function.workers[0]).ask(toy.OK, 1) == ("succeeded", 1)
    assert [version for version, _, _ in written(tmp_path)] == ["2"]


@trio_test
async def test_code_that_was_mended_is_what_a_function_without_workers_goes_on_with(tmp_path: Path) -> None:
    start = versions(tmp_path, minimum=1, maximum=1)
    async with open_pool() as pool:
        function = await pool.start(start)
        (tmp_path / "version").write_text("bad")
        assert function.zygote_pid is not None
        os.kill(function.zygote_pid, 9)
        await until(lambda: function.share.failures >= 3)
        assert str(function.fault) == "bad code"
        (tmp_path / "version").write_text("2")
        await function.renew(start)
        await until(lambda: function.workers)
        assert function.fault is None


# ---- Init that takes long, or fails


@trio_test
async def test_an_init_that_takes_too_long_is_done_once_more_for_as_long_as_an_invocation_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamfn.limits.INIT_TIMEOUT_S", 0.2)
    (tmp_path / "slow_main.py").write_text(
        "import time\nfrom toy_worker import main\ndef init(settings):\n    time.sleep(0.6)\n    return settings\n"
    )
    start = config(tmp_path, main="slow_main")
    start = replace(start, environment={**start.environment, "PYTHONPATH": f"{HERE}:{tmp_path}"})
    async with open_pool() as pool:
        function = await pool.start(replace(start, timeout_s=5.0))
        assert len(function.workers) == 1
        assert function.workers[0].init_ns > 6e8
        assert function.shortcomings == [
            "Init took longer than 0.2 s, and was done once more, for as long as an invocation may take"
        ]
        with pytest.raises(HandlerImportError, match=r"timed out after 0\.20 seconds") as caught:
            await pool.start(replace(start, timeout_s=0.2))
        assert caught.value.phase == "init"
        with pytest.raises(HandlerImportError, match=r"timed out after 0\.40 seconds") as caught:
            await pool.start(replace(start, timeout_s=0.4))
        assert caught.value.phase == "invoke"
        began = time.monotonic()
        await pool.start(replace(start, timeout_s=0.2, provisioned=True))  # provisioned: Lambda gives it 130 s
        assert time.monotonic() - began > 0.6


@trio_test
async def test_after_six_failures_init_is_tried_again_only_when_something_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "_PAUSE_NS", 1 * scaling.MS)
    start = versions(tmp_path, minimum=1, maximum=1)
    async with open_pool() as pool:
        function = await pool.start(start)
        (tmp_path / "version").write_text("bad")
        assert function.zygote_pid is not None
        os.kill(function.zygote_pid, 9)
        await until(lambda: function.share.failures >= scaling.ATTEMPTS_AHEAD)
        await trio.sleep(0.3)
        assert function.share.failures == scaling.ATTEMPTS_AHEAD
        (tmp_path / "version").write_text("2")
        async with hungry(function, 1) as (lane,):
            await until(lambda: lane.answers)
