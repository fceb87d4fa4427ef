"""What the rings alone cost: one worker process that answers and nothing else, and a runtime without Trio.

Topology: two processes, one pair of rings, Python on both sides through cffi.

    round trip   one single-record batch at a time: submit, publish, arm, poll(eventfd), reap, release
                 (percentiles from before submit to after release)
    pipelined    as many single-record batches as fit the ring, topped up whenever something was reaped,
                 at several low-water marks

    python bench/ring_echo.py [SECONDS]
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from streamfn._native import ffi, lib
from streamfn.measure.histogram import percentile_ns

CAPACITY = 128
ARENA_BYTES = 1 << 20


def echo(memfd: int, doorbell: int, log: int, side: int) -> None:
    """The worker: takes and answers until it is killed."""
    desk = lib.sf_desk_open(memfd, doorbell, log, side)
    work = ffi.new("sf_work *")
    take, finish, response, size, ok = lib.sf_desk_next, lib.sf_desk_finish, b"null", 4, lib.SF_OK
    while True:
        if take(desk, work, 100_000_000) == 0 and not finish(desk, ok, response, size):
            return


def percentiles(histogram: Any) -> str:
    """In microseconds."""
    values = (f"p{p:g} {percentile_ns(histogram, p) / 1000:.1f}" for p in (50, 90, 99, 99.9))
    return "  ".join(values) + " us"


class Bench:
    """A port with a forked echo worker behind it."""

    def __init__(self) -> None:
        size = lib.sf_ring_bytes(CAPACITY, ARENA_BYTES)
        self.memfd = os.memfd_create("rings", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.memfd, size)
        fcntl.fcntl(self.memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self.doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.port = lib.sf_port_open(self.memfd, CAPACITY, ARENA_BYTES)
        self.latency = lib.sf_histogram_new()
        self.trips = lib.sf_histogram_new()
        self.first = ffi.new("sf_extent *")
        self.out = ffi.new("sf_reaped[]", 64)
        self.poll = select.poll()
        self.poll.register(self.doorbell, select.POLLIN)
        self.sleeps = 0
        self.pid = os.fork()
        if self.pid == 0:
            echo(self.memfd, self.doorbell, os.memfd_create("log"), os.memfd_create("side"))
            os._exit(1)

    def close(self) -> None:
        """Kills the worker."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        lib.sf_port_close(self.port)
        lib.sf_histogram_free(self.latency)
        lib.sf_histogram_free(self.trips)
        os.close(self.memfd)
        os.close(self.doorbell)

    def submit(self, batches: int) -> None:
        """Submits and publishes single-record batches."""
        now = time.monotonic_ns()
        lib.sf_port_submit_run(self.port, 0, 0, self.first, 1, batches, 1, now, self.latency, ffi.NULL)
        lib.sf_port_publish(self.port)

    def wait(self, low_water: int) -> None:
        """Sleeps until there is something to reap."""
        if not lib.sf_port_arm(self.port, low_water):
            self.sleeps += 1
            self.poll.poll()
            os.eventfd_read(self.doorbell)

    def reap(self) -> int:
        """Reaps, folded, and releases; the number of batches."""
        count = lib.sf_port_reap(self.port, self.out, 64, True)
        lib.sf_port_release(self.port)
        return sum(self.out[i].batches for i in range(count))


def round_trips(bench: Bench, seconds: float) -> None:
    """One batch at a time."""
    end = time.monotonic() + seconds
    done = 0
    while time.monotonic() < end:
        started = time.monotonic_ns()
        bench.submit(1)
        bench.wait(CAPACITY)
        done += bench.reap()
        lib.sf_histogram_record(bench.trips, time.monotonic_ns() - started)
    print(f"round trip            {done / seconds:10,.0f} /s   {percentiles(bench.trips)}")


def pipelined(low_water: int) -> Callable[[Bench, float], None]:
    """A full ring, topped up after each reap."""

    def measure(bench: Bench, seconds: float) -> None:
        end = time.monotonic() + seconds
        done = 0
        while time.monotonic() < end:
            bench.submit(lib.sf_port_room(bench.port))
            bench.wait(low_water)
            done += bench.reap()
        rate, per_sleep = done / seconds, done / max(bench.sleeps, 1)
        print(f"pipelined, low water {low_water:3} {rate:8,.0f} /s   {per_sleep:.1f} batches a sleep")

    return measure


def main() -> None:
    """Measures each on rings and a worker of its own."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    for measure in (round_trips, pipelined(0), pipelined(16), pipelined(64), pipelined(CAPACITY)):
        bench = Bench()
        try:
            measure(bench, seconds)
        finally:
            bench.close()


if __name__ == "__main__":
    main()
