"""`python -m bench.coldstart [--starts N] [--at-once N] [--isolation LEVEL]`: what a new execution environment costs.

    runtime ──asks──▶ zygote (boto3 imported, a client made) ──fork──▶ worker ──▶ first batch answered
            ◀───────────────────────── answer ─────────────────────────┘

One start at a time: the clock runs from when the runtime asks for one until it has the answer of the new worker's
first batch, whose segment it has mapped, on a real ring, by the real worker. *Ready* is until it may be given work.
Beside it, in the same run, a bare fork of the same process: from `fork` until the child rings an eventfd.
Then many at once: until every one of them has answered a batch.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import quantiles

import trio

from bench.engine import write_log
from bench.machine import machine
from streamfn.functions.configuration import Configuration
from streamfn.functions.starting import function_config
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.reader import ShardReader
from streamfn.mapping.pieces import Piece
from streamfn.mapping.source import source_header
from streamfn.pool.pool import open_pool

ROOT = str(Path(__file__).resolve().parent.parent)
ROLE = "arn:aws:iam::000000000000:role/lambda-role"
BATCH = 10
QUIET_S = 0.02  # between two starts: what ended is gone


class Batch:
    """One batch for any worker, and the lane client that waits for its answer."""

    def __init__(self, stream, message):
        self.header = source_header(stream, stream.shards[0], ROLE)
        self.segment = message.segment
        self.extent = Piece(message, message.first_offset, message.first_offset + message.rows, 0, None).aim(
            message.first_offset, BATCH
        )
        self.answered = {}
        self.seats = []
        self.news = trio.Event()

    async def wait(self, count):
        """Until so many workers have answered."""
        with trio.fail_after(60):
            while len(self.answered) < count:
                await self.news.wait()
                self.news = trio.Event()

    def give(self, worker):
        """Hand it to a worker that has had nothing yet."""
        client = Client(self, worker.pid)
        client.seat = worker.seat_lane(client)
        worker.introduce(self.segment.id, self.segment.fd, self.header)
        client.seat.submit_run(self.extent, BATCH, 1, time.monotonic_ns())
        client.seat.publish()
        self.seats.append(client.seat)


class Client:
    def __init__(self, batch, pid):
        self.batch, self.pid = batch, pid

    def succeeded(self, batches, finished_ns):
        self.batch.answered[self.pid] = time.monotonic_ns()
        self.batch.news.set()

    def failed(self, answer, cause):
        raise AssertionError(f"a first batch failed: {answer}")

    def _unexpected(self, *_):
        raise AssertionError("a first batch only succeeds")

    completed = returned = printed = recalled = _unexpected


def configuration(isolation, workers, **environment):
    name = "cold"
    handler = "bench.cold_handler.handler"
    wanted = Configuration(name=name, handler=handler, code_dir=ROOT, isolation=isolation, environment=environment)
    return function_config(wanted, workers=workers, request_base="00000000-0000-0000-0000", path=())


async def one_at_a_time(batch, isolation, starts):
    """(ns until ready, ns until answered) of each start, and what Init has printed.

    Nothing else is going on meanwhile, and no other worker is ending.
    """
    times = []
    async with open_pool() as pool:
        wanted = replace(configuration(isolation, 2, BENCH_FORKS="1"), minimum=1)
        function = await pool.start(wanted)
        (warm,) = function.workers
        ready = {}

        def on_round():
            for worker in function.workers:
                if worker is not warm and worker.pid not in ready:
                    ready[worker.pid] = time.monotonic_ns()
                    batch.give(worker)

        pool.on_round = on_round
        for number in range(starts):
            asked_ns = time.monotonic_ns()
            function.grow(1)
            await batch.wait(number + 1)
            (worker,) = (each for each in function.workers if each is not warm)
            times.append((ready[worker.pid] - asked_ns, batch.answered[worker.pid] - asked_ns))
            batch.seats.pop().leave()
            worker.retire("bench")
            while os.path.exists(f"/proc/{worker.pid}"):  # noqa: ASYNC110, ASYNC240  (a look, not a wait)
                await trio.sleep(0.002)
            await trio.sleep(QUIET_S)
    return times, function.init_log


async def at_once(batch, isolation, count):
    """Seconds until so many have each answered a batch, from when their zygote was ready."""
    batch.answered.clear()
    async with open_pool() as pool:
        function = await pool.start(replace(configuration(isolation, count + 1), minimum=1))
        (warm,) = function.workers

        def on_round():
            for worker in function.workers:
                if worker is not warm and worker.lanes == 0 and worker.pid not in batch.answered:
                    batch.give(worker)

        pool.on_round = on_round
        asked_ns = time.monotonic_ns()
        function.grow(count)
        await batch.wait(count)
    return (max(batch.answered.values()) - asked_ns) / 1e9


def row(what, times_ns, bars=""):
    cuts = quantiles([each / 1e6 for each in times_ns], n=100)
    print(f"| {what} | {cuts[49]:.2f} ms | {cuts[98]:.2f} ms | {max(times_ns) / 1e6:.2f} ms | {bars} |")
    return cuts[49]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.coldstart", description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--isolation", default="process", choices=["process", "sandbox"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-cold-") as directory, contextlib.ExitStack() as files:
        write_log(f"{directory}/data", 1000, shards=1)
        stream = DataDir.open(f"{directory}/data", create=False).stream("bench")
        reader = files.enter_context(contextlib.closing(ShardReader.open(stream.shards[0], 0)))
        batch = Batch(stream, reader.poll(1 << 30)[0])
        times, init_log = trio.run(one_at_a_time, batch, options.isolation, options.starts)
        bare = json.loads(init_log)
        print(f"{machine()}; isolation {options.isolation}, {options.starts} starts one after the other\n")
        print("| | p50 | p99 | worst | bars: p50, p99 |\n|---|---|---|---|---|")
        base = row("bare fork of the same process", bare)
        row("until ready", [ready for ready, _ in times])
        ours = row("until the first batch is answered", [answered for _, answered in times], "5 ms, 15 ms")
        print(f"| : bare fork | {ours / base:.1f} | | | |")
        if options.at_once:
            seconds = trio.run(at_once, batch, options.isolation, options.at_once)
            each = 1000 * seconds / options.at_once
            print(
                f"\n{options.at_once} at once, none failed: {seconds:.2f} s until all have answered, {each:.1f} ms each"
            )


if __name__ == "__main__":
    main()
