"""Acknowledged appends: one putter against a bare loop, and 64 of them as threads, tasks and processes.

    bare      write 4 KiB at a file's end, fdatasync                     (what the disk takes)
    one       Producer.submit(...).result(), session.put(...)            (the next when the last is durable)
    threads   64 of the same, in one process
    tasks     64 tasks of one Trio run, session.put
    processes 64 processes, Producer.submit(...).result(), through the one process that writes

Closed loops of 512-byte records, fsync, one shard. Rounds are interleaved, and the bare append alternates with the
single ones one by one, so that a slow moment of the disk falls on all of them; medians are printed. What was put is
counted in the log.
"""

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from statistics import median

import trio

import streamfn
from bench.machine import machine
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.log.shard.reader import ShardReader
from streamfn.types import NewRecord

PUTTERS = 64
DATA = b"x" * 512
KEYS = [f"key {number}" for number in range(PUTTERS)]
# A lone producer's rate that the bar of 40,000/s is measured against where the disk is slow.
BAR, BAR_OF_ONE = 40_000, 20


def putter(producer, name, count):
    """`count` records, one at a time."""
    for _ in range(count):
        producer.submit([NewRecord(DATA, KEYS[name])]).result()


class Bare:
    """The loop that everything is measured against."""

    def __init__(self, directory):
        self._fd = os.open(os.path.join(directory, "bare"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._page = os.urandom(4096)

    def append(self):
        os.write(self._fd, self._page)
        os.fdatasync(self._fd)


def seconds(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def single(directory, count):
    """Median seconds of a bare append, of one through a producer, of one through a session, taken in turn."""
    bare = Bare(directory)
    samples = ([], [], [])
    with streamfn.open_sync(directory) as session, Producer(stream(directory, "alone")) as producer:
        for _ in range(count):
            samples[0].append(seconds(bare.append))
            samples[1].append(seconds(lambda: producer.submit([NewRecord(DATA, "k")]).result()))
            samples[2].append(seconds(lambda: session.put("one", DATA, partition_key="k")))
    return [median(taken[10:]) for taken in samples]


def stream(directory, name):
    return DataDir.open(directory, create=True).open_or_create_stream(name)


def rate(count, go):
    """Records per second of PUTTERS threads of `go(name, count)`."""
    threads = [threading.Thread(target=go, args=(name, count)) for name in range(PUTTERS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return PUTTERS * count / (time.perf_counter() - began)


def one(directory, count):
    with Producer(stream(directory, "one")) as producer:
        putter(producer, 0, 1)
        return count / seconds(lambda: putter(producer, 0, count))


def threads_of_a_producer(directory, count):
    with Producer(stream(directory, "threads")) as producer:
        putter(producer, 0, 1)
        return rate(count, lambda name, count: putter(producer, name, count))


def threads_of_a_session(directory, count):
    with streamfn.open_sync(directory) as session:
        session.put("threads", DATA)

        def go(name, count):
            for _ in range(count):
                session.put("threads", DATA, partition_key=KEYS[name])

        return rate(count, go)


def tasks(directory, count):
    async def main():
        async with streamfn.open(directory) as session:
            await session.put("tasks", DATA)

            async def go(name):
                for _ in range(count):
                    await session.put("tasks", DATA, partition_key=KEYS[name])

            began = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for name in range(PUTTERS):
                    nursery.start_soon(go, name)
            return PUTTERS * count / (time.perf_counter() - began)

    return trio.run(main)


class Processes:
    """64 processes, forked before there is a thread; each waits for its turns."""

    def __init__(self, directory):
        self._directory = directory
        context = multiprocessing.get_context("fork")
        self._ready = context.Barrier(PUTTERS + 1)
        self._counts = context.Value("i", 0)
        self._all = [context.Process(target=self._run, args=(name,), daemon=True) for name in range(PUTTERS)]
        for process in self._all:
            process.start()

    def rate(self, count):
        """Records per second of all of them, while this process writes for them."""
        with Producer(stream(self._directory, "processes")) as producer:
            putter(producer, 0, 1)
            self._counts.value = count
            self._ready.wait()  # they connect
            self._ready.wait()
            began = time.perf_counter()
            self._ready.wait()
            return PUTTERS * count / (time.perf_counter() - began)

    def close(self):
        self._counts.value = -1
        self._ready.wait()
        for process in self._all:
            process.join()

    def _run(self, name):
        while True:
            self._ready.wait()
            count = self._counts.value
            if count < 0:
                return
            with Producer(stream(self._directory, "processes")) as producer:
                putter(producer, name, 1)
                self._ready.wait()
                putter(producer, name, count)
                self._ready.wait()


def stored(directory, name):
    """How many records a stream's log holds."""
    count = 0
    with ShardReader.open(DataDir.open(directory, create=False).stream(name).shards[0], 0) as reader:
        while messages := reader.poll(1 << 26):
            count += sum(message.rows for message in messages)
    return count


def run(directory, rounds, count):
    processes = Processes(directory)
    try:
        found = [
            (
                single(directory, 4 * count),
                one(directory, 4 * count),
                threads_of_a_producer(directory, count),
                threads_of_a_session(directory, count),
                tasks(directory, count),
                processes.rate(count),
            )
            for _ in range(rounds)
        ]
    finally:
        processes.close()
    assert stored(directory, "tasks") == rounds * (PUTTERS * count + 1), "a wrong answer is not fast"
    assert stored(directory, "threads") == 2 * rounds * (PUTTERS * count + 1)
    assert stored(directory, "processes") == rounds * (PUTTERS * count + PUTTERS + 1)
    return found


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.append", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are printed")
    parser.add_argument("--records", type=int, default=250, help="records of each of the 64 putters in a round")
    parser.add_argument("--dir", default=".", help="a directory on the disk to measure")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix=".bench-append-", dir=options.dir)
    try:
        DataDir.open(directory, create=True)
        found = run(directory, options.rounds, options.records)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(directory)
    print(f"{machine()}; 512-byte records, fsync, one shard, medians of {options.rounds} interleaved rounds\n")
    report(found)


def report(found):
    bare = median(round_[0][0] for round_ in found)
    print("| one append, p50 | µs | : bare |\n|---|---|---|")
    print(f"| bare: 4 KiB and fdatasync | {bare * 1e6:,.0f} | |")
    for place, name in ((1, "Producer.submit(...).result()"), (2, "session.put, synchronous")):
        ours = median(round_[0][place] for round_ in found)
        ratio = median(round_[0][place] / round_[0][0] for round_ in found)
        print(f"| {name} | {ours * 1e6:,.0f} | **{ratio:.2f}** (bar 2.2) |")
    alone = median(round_[1] for round_ in found)
    bar = min(BAR, BAR_OF_ONE * alone)
    print(f"\n| acknowledged records/s | | : one |\n|---|---|---|\n| one producer | {alone:,.0f} | |")
    names = ("64 threads, Producer.submit(...).result()", "64 threads, open_sync", "64 Trio tasks", "64 processes")
    for place, name in enumerate(names, 2):
        ours = median(round_[place] for round_ in found)
        ratio = median(round_[place] / round_[1] for round_ in found)
        print(f"| {name} | **{ours:,.0f}** (bar {bar:,.0f}) | {ratio:.1f} |")


if __name__ == "__main__":
    sys.exit(main())
