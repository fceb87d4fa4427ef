"""trio-parallel, two workers, each kept busy by a task of its own.

tasks      an invocation a call
tasks N    N invocations a call, whose answers come together
"""

import time

import trio
import trio_parallel

from bench.peers.call import chunks, nothing, one, some
from bench.peers.job import LATENCY, TRIPS, answer, job

WORKERS = 2


async def measure(asked, events):
    limiter = trio.CapacityLimiter(WORKERS)
    async with trio_parallel.open_worker_context(idle_timeout=60) as context:

        async def run_sync(call, *arguments):
            return await context.run_sync(call, *arguments, limiter=limiter)

        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(run_sync, time.sleep, 0.2)  # at once, so that there are two
        for _ in range(4 * WORKERS):
            await run_sync(nothing)
        if asked.way == LATENCY:
            times = []
            for event in events[: TRIPS + TRIPS // 10]:
                began = time.perf_counter_ns()
                await run_sync(one, asked.handler, event)
                times.append(time.perf_counter_ns() - began)
            return times[TRIPS // 10 :]
        _, _, size = asked.way.partition(" ")
        call, pieces = (some, chunks(events, int(size))) if size else (one, events)
        work = iter(pieces)

        async def keep_busy():
            for piece in work:
                await run_sync(call, asked.handler, piece)

        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(keep_busy)
    return None


def main():
    asked = job()
    answer("trio-parallel", "trio", "orjson", times_ns=trio.run(measure, asked, asked.events()))


if __name__ == "__main__":
    main()
