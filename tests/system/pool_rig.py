"""What the pool's tests share: a lane that notes everything, extents that are orders, waiting with a deadline."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import toy_worker as toy
import trio

from streamfn._native import ffi
from streamfn.pool.config import FunctionConfig
from streamfn.pool.function import Function
from streamfn.pool.lane import Answer, FailureKind, LaneSeat
from streamfn.pool.worker import Worker

HERE = str(Path(__file__).parent)
DEADLINE_S = 10.0


class Lane:
    """A lane client that notes what it hears, and its seat."""

    def __init__(self, worker: Worker | None = None) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.output: list[tuple[int, bytes]] = []
        if worker is not None:
            self.sit(worker)

    def sit(self, worker: Worker) -> LaneSeat:
        self.seat = worker.seat_lane(self)
        return self.seat

    def succeeded(self, batches: int, finished_ns: int) -> None:
        assert finished_ns <= time.monotonic_ns()
        self.heard.append(("succeeded", batches))

    def completed(self, answer: Answer) -> None:
        self.heard.append(("completed", answer))

    def failed(self, answer: Answer, kind: FailureKind) -> None:
        self.heard.append(("failed", kind, answer))

    def returned(self, batches: int) -> None:
        self.heard.append(("returned", batches))

    def recalled(self) -> None:
        self.heard.append(("recalled", 0))

    def printed(self, invocation: int, log: bytes) -> None:
        self.output.append((invocation, log))

    def order(self, deed: int, number: int = 0, *, batches: int = 1, rows: int = 1) -> int:
        count = self.seat.submit_run(extent(deed, number), rows, batches, time.monotonic_ns())
        self.seat.publish()
        return count

    def count(self, what: str) -> int:
        return sum(1 if isinstance(event[1], Answer) else event[1] for event in self.heard if event[0] == what)

    @property
    def failures(self) -> list[tuple[FailureKind, Answer]]:
        return [(event[1], event[2]) for event in self.heard if event[0] == "failed"]

    async def answered(self) -> None:
        await until(lambda: self.seat.in_flight == 0)

    async def ask(self, deed: int, number: int = 0) -> Any:
        """Give one order and return what was heard of it."""
        self.heard.clear()
        assert self.order(deed, number) == 1
        await self.answered()
        [event] = self.heard
        return event


def extent(deed: int, number: int = 0) -> Any:
    order = ffi.new("sf_extent *")
    order.rows = 1
    order.column[6] = deed
    order.column[5] = number
    return order


def config(
    tmp_path: Path | None = None,
    *,
    workers: int = 1,
    timeout_s: float | None = 5.0,
    settings: Mapping[str, object] | None = None,
    **more: Any,
) -> FunctionConfig:
    code_dir = str(tmp_path or Path("/tmp"))
    values = {"path": f"{code_dir}/written", **(settings or {})}
    return FunctionConfig(
        name="toy",
        main=more.pop("main", "toy_worker"),
        settings=values,
        code_dir=more.pop("code_dir", code_dir),
        environment={**os.environ, "PYTHONPATH": HERE},
        minimum=workers,
        maximum=workers,
        timeout_s=timeout_s,
        **more,
    )


async def until(true: Callable[[], object], limit_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, "not in time"
        await trio.sleep(0.002)


async def replaced(function: Function, pid: int) -> Worker:
    """Wait until a worker process is gone and there are as many as before; the newest of them."""
    await until(
        lambda: (
            len(function.workers) == function.config.minimum and pid not in [worker.pid for worker in function.workers]
        )
    )
    return function.workers[-1]


async def tell(worker: Worker) -> dict[str, Any]:
    """What a worker says about itself; the pool must be opened with fold=False."""
    lane = Lane(worker)
    _, answer = await lane.ask(toy.TELL)
    lane.seat.leave()
    told: dict[str, Any] = json.loads(answer.payload)
    return told


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def count_fds() -> int:
    return len(os.listdir("/proc/self/fd"))
