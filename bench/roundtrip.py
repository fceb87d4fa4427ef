"""One batch there and back: through the pool under Trio, against a bare eventfd echo under Trio.

    round ──submit──▶ ring ──▶ worker (sleeps on a futex)       task ──eventfd──▶ process (blocks in read)
          ◀──reap──── ring ◀── answers at once                       ◀──eventfd── writes back at once

Both sleep on both sides between two round trips; rounds alternate, and p50 of each is compared with p50. Who asks and
who answers have a core each: else the scheduler puts both sides of one of the two on one core now and then, and it is
that which is compared.
"""

import os
import signal
import time
from pathlib import Path
from statistics import median

import trio

from streamfn._native import ffi
from streamfn.pool.config import FunctionConfig
from streamfn.pool.pool import open_pool

TRIPS = 2000
ROOT = str(Path(__file__).resolve().parent.parent)


class Client:
    """Hands the next batch over from the pool's round, as a lane of a mapping does."""

    def __init__(self, worker, extent):
        self.seat = worker.seat_lane(self)
        self.pid = worker.pid
        self.extent = extent
        self.times = []
        self.answered = False

    def succeeded(self, batches, finished_ns):
        self.answered = True

    def on_round(self):
        if self.answered:
            self.answered = False
            self.times.append(time.perf_counter_ns() - self.began)
            if len(self.times) < self.trips:
                self.submit()
            else:
                self.done.set()

    def submit(self):
        self.began = time.perf_counter_ns()
        self.seat.submit_run(self.extent, 1, 1, time.monotonic_ns())
        self.seat.publish()

    async def go(self, trips):
        self.times, self.trips, self.done = [], trips, trio.Event()
        self.submit()
        await self.done.wait()
        return [each / 1000 for each in self.times]

    def _unexpected(self, *_):
        raise AssertionError("the echo worker only succeeds")

    completed = failed = returned = printed = recalled = _unexpected


async def connect(pool):
    """A client of an echo worker in that pool."""
    config = FunctionConfig(
        name="echo", main="bench.echo_worker", settings={}, code_dir=ROOT, timeout_s=60, minimum=1, maximum=1,
        environment={**os.environ, "PYTHONPATH": ROOT},
    )  # fmt: skip
    function = await pool.start(config)
    (worker,) = function.workers
    client = Client(worker, ffi.new("sf_extent *", {"rows": 1}))
    pool.on_round = client.on_round
    return client


async def bare(there, back, trips):
    times = []
    for _ in range(trips):
        began = time.perf_counter_ns()
        os.eventfd_write(there, 1)
        await trio.lowlevel.wait_readable(back)
        os.eventfd_read(back)
        times.append(time.perf_counter_ns() - began)
    return median(times) / 1000


def echo(there, back):
    while True:
        os.eventfd_read(there)
        os.eventfd_write(back, 1)


async def _run(rounds):
    there, back = os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK)
    cores = os.sched_getaffinity(0)
    child = os.fork()
    if child == 0:
        echo(there, back)
    os.sched_setaffinity(child, {max(cores)})
    try:
        async with open_pool() as pool:
            client = await connect(pool)
            os.sched_setaffinity(client.pid, {max(cores)})
            os.sched_setaffinity(0, {min(cores)})
            await client.go(200)
            pairs = []
            for _ in range(rounds):
                pairs.append((median(await client.go(TRIPS)), await bare(there, back, TRIPS)))
    finally:
        os.sched_setaffinity(0, cores)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)  # noqa: ASYNC222  (it has been killed)
    return pairs


def run(rounds):
    """(pool p50 µs, bare echo p50 µs, ratio), medians over alternating rounds."""
    pairs = trio.run(_run, rounds)
    return median(p[0] for p in pairs), median(p[1] for p in pairs), median(p[0] / p[1] for p in pairs)


async def _trips():
    async with open_pool() as pool:
        client = await connect(pool)
        await client.go(200)
        return await client.go(TRIPS)


def trips():
    """Microseconds of round trips through the pool, wherever the scheduler puts the two."""
    return trio.run(_trips)
