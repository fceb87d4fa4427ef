"""From log to durable checkpoint, against the floor and a process pool, in one run.

    log ──▶ runtime ──▶ 2 workers ──▶ checkpoint        (streamfn: `run --until-caught-up`)
    ready-made JSON ──▶ orjson.loads ──▶ handler         (floor: one process, nothing else)
    ready-made JSON ──▶ ProcessPoolExecutor(2) ──▶ the same

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


@contextlib.contextmanager
def witnessed():
    directory = tempfile.mkdtemp(prefix="bench-")
    os.environ["BENCH_WITNESS"] = directory
    handlers.witness.__init__()
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def floor(handler, count, batch):
    """Records per second of `handler(orjson.loads(event))` in this process."""
    events = ready_events(min(count, 20_000), batch)
    rounds = max(1, count // (len(events) * batch))
    with witnessed():
        began = time.perf_counter()
        for _ in range(rounds):
            for event in events:
                handler(orjson.loads(event), None)
        seconds = time.perf_counter() - began
    return rounds * min(count, 20_000) / seconds


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


CASES = [("noop", 100, 2.0), ("real", 100, 2.0), ("noop", 1, 0.35)]


def run(count, rounds):
    """Medians and ratios for every case: (handler, batch, floor, pool, streamfn, ratio, bar)."""
    from statistics import median

    with tempfile.TemporaryDirectory(prefix="bench-log-") as directory:
        write_log(directory, count)
        rows = []
        for name, batch, bar in CASES:
            handler = getattr(handlers, name)
            floors, pools, ours = [], [], []
            for _ in range(rounds):
                floors.append(floor(handler, min(count, 200_000), batch))
                pools.append(process_pool(name, min(count, 20_000 if batch > 1 else 4_000), batch))
                ours.append(streamfn(directory, name, count, batch))
                ratio = ours[-1] / floors[-1]
                line = f"floor {floors[-1]:,.0f}  pool {pools[-1]:,.0f}  streamfn {ours[-1]:,.0f}  ratio {ratio:.2f}"
                print(f"  {name} {batch}: {line}", file=sys.stderr)
            pairs = [mine / base for mine, base in zip(ours, floors, strict=True)]
            rows.append((name, batch, median(floors), median(pools), median(ours), median(pairs), bar))
    return rows
