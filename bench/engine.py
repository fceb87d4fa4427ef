"""From log to durable checkpoint, against the floor and a process pool, in one run.

    log ──▶ runtime ──▶ 2 workers ──▶ checkpoint        (streamfn: `run --until-caught-up`)
    ready-made JSON ──▶ orjson.loads ──▶ handler         (floor: one process, nothing else)
    ready-made JSON ──▶ ProcessPoolExecutor(2) ──▶ the same
    mapped segments ──▶ native build ──▶ handler         (bare: two such loops side by side; see bench/bare.py)

Closed loop: everything is there before the clock starts. streamfn is timed by the handlers themselves, from the first
start of any invocation to the last end of any; its checkpoints are durable when the command returns. Sums are checked:
a wrong answer is not fast. Rounds are interleaved, so that a slow moment of the machine falls on all of them.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple

import orjson

from bench import handlers
from bench.records import checksum, payload, ready_events
from streamfn.clock import SystemClock
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord

ROOT = Path(__file__).resolve().parent.parent
SHARDS = 4
WORKERS = 2
READY_BYTES = 20_000 * 1024  # of ready-made events, which are then repeated


@contextlib.contextmanager
def witnessed():
    directory = tempfile.mkdtemp(prefix="bench-")
    os.environ["BENCH_WITNESS"] = directory
    handlers.witness.__init__()
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def floor(handler, count, batch, size=1024):
    """Records per second of `handler(orjson.loads(event))` in this process."""
    distinct = max(batch, min(count, READY_BYTES // size) // batch * batch)
    events = ready_events(distinct, batch, size)
    rounds = max(1, count // distinct)
    with witnessed():
        began = time.perf_counter()
        for _ in range(rounds):
            for event in events:
                handler(orjson.loads(event), None)
        seconds = time.perf_counter() - began
    return rounds * distinct / seconds


def _call(name, event):
    return getattr(handlers, name)(orjson.loads(event), None)


def process_pool(name, count, batch):
    """Records per second through ProcessPoolExecutor, 64 calls in flight."""
    events = ready_events(min(count, 20_000), batch)
    with witnessed(), ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(_call, [name] * WORKERS, events[:WORKERS]))
        began = time.perf_counter()
        flying = deque()
        for event in events:
            flying.append(pool.submit(_call, name, event))
            if len(flying) >= 64:
                flying.popleft().result()
        while flying:
            flying.popleft().result()
        seconds = time.perf_counter() - began
    return min(count, 20_000) / seconds


def write_log(directory, count, size=1024, shards=SHARDS):
    """`count` records of `size` bytes over 4 shards, or as many as are wanted."""
    data = DataDir.open(directory, create=True)
    stream = data.create_stream("bench", shards)
    for place, shard in enumerate(stream.shards):
        with contextlib.closing(ShardWriter.open(shard, clock=SystemClock())) as writer:
            for first in range(place, count, shards * 4096):
                writer.append(
                    [
                        NewRecord(payload(index, size), f"key-{index % 1000}")
                        for index in range(first, min(count, first + shards * 4096), shards)
                    ]
                )
            writer.commit()


def streamfn(data_dir, name, count, batch):
    """Records per second as the handlers saw it; checks that every record was seen once."""
    with witnessed() as directory:
        command = [sys.executable, "-m", "streamfn", "run", f"bench.handlers.{name}", "--stream", "bench"]
        command += ["--data-dir", data_dir, "--batch-size", str(batch), "--workers", str(WORKERS)]
        command += ["--until-caught-up", "--json", "--name", f"bench-{name}-{batch}-{time.monotonic_ns()}"]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        summary = json.loads(done.stdout)
        records, total, seconds = handlers.read_witnesses(directory)
    expected = count if name == "noop" else checksum(count)
    assert (records, total, summary["records"]) == (count, expected, count), (records, total, summary)
    return records / seconds


def bare(data_dir, name, count, batch):
    """Records per second of two loops without rings, side by side, in processes forked from a fresh one."""
    with witnessed() as directory:
        command = [sys.executable, "-m", "bench.bare", data_dir, name, str(batch), str(WORKERS)]
        subprocess.run(command, cwd=ROOT, check=True)
        records, total, seconds = handlers.read_witnesses(directory)
    assert (records, total) == (count, count if name == "noop" else checksum(count)), (records, total)
    return records / seconds


class Case(NamedTuple):
    """A handler, its batch size, and what is to be reached: times the floor, times the bare loops (None: no bar)."""

    name: str
    batch: int
    bar: float
    bare_bar: float | None = None


CASES = [Case("noop", 100, 3.2), Case("real", 100, 2.2, 0.9), Case("noop", 1, 0.5)]


class Row(NamedTuple):
    """Medians over the rounds, in records per second; the ratios are medians of the rounds' ratios."""

    case: Case
    floor: float
    pool: float
    bare: float
    streamfn: float
    to_floor: float
    to_bare: float


def run(count, rounds, cases=CASES, *, pools=True):
    """A `Row` for every case."""
    with tempfile.TemporaryDirectory(prefix="bench-log-") as directory:
        write_log(directory, count)
        return [_row(directory, case, count, rounds, pools) for case in cases]


def _row(directory, case, count, rounds, pools):
    name, batch = case.name, case.batch
    handler = getattr(handlers, name)
    measures = {
        "floor": lambda: floor(handler, min(count, 200_000), batch),
        "bare": lambda: bare(directory, name, count, batch),
        "streamfn": lambda: streamfn(directory, name, count, batch),
    }
    if pools:
        measures["pool"] = lambda: process_pool(name, min(count, 20_000 if batch > 1 else 4_000), batch)
    found = []
    for number in range(rounds + 1):
        order = list(measures)
        if number % 2:
            order.reverse()
        rates = {what: measures[what]() for what in order}
        if number:  # the first round is for the page cache
            found.append(rates)
        line = "  ".join(f"{what} {rate:,.0f}" for what, rate in rates.items())
        ratios = f"{rates['streamfn'] / rates['floor']:.2f} floors, {rates['streamfn'] / rates['bare']:.2f} bare"
        print(f"  {name} {batch}: {line}: {ratios}", file=sys.stderr)
    middle = {what: median(rates[what] for rates in found) for what in measures}
    to_floor, to_bare = (median(rates["streamfn"] / rates[what] for rates in found) for what in ("floor", "bare"))
    return Row(case, middle["floor"], middle.get("pool", 0), middle["bare"], middle["streamfn"], to_floor, to_bare)
