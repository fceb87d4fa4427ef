"""`python -m bench.columns [--records N] [--rounds N]`: an Arrow handler, from log to durable checkpoint.

    log ──▶ runtime ──▶ 2 workers: a record batch over the mapped segment, one column summed ──▶ checkpoint
    log ──▶ pyarrow: the file mapped, sliced into batches of the same size, the same sum   (one process, nothing else)

Closed loop, timed by the handlers themselves from the first start of any invocation to the last end of any; the sum is
checked. Every process maps the log anew, so each page is met for the first time in every run. Rounds are interleaved.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from bench import column_handler, handlers
from bench.engine import ROOT, WORKERS, witnessed
from bench.machine import machine
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.segment.segment import list_files
from streamfn.log.shard.writer import ShardWriter

SHARDS = 4
APPENDED_AT_ONCE = 100_000
BESIDE_BYTES = 90  # of a record in the log: its number, key, time and offsets


def write_log(directory, count, size):
    """`count` records of `size` bytes; the arrival time of each is its number after `column_handler.ARRIVAL_MS`."""
    stream = DataDir.open(directory, create=True).create_stream("bench", SHARDS)
    content = np.random.default_rng(1).bytes(APPENDED_AT_ONCE * size)
    keys = pa.array([f"key-{index % 1000}" for index in range(APPENDED_AT_ONCE)])
    for place, shard in enumerate(stream.shards):
        numbers = np.arange(place, count, SHARDS, dtype=np.int64)
        with contextlib.closing(ShardWriter.open(shard)) as writer:
            for first in range(0, len(numbers), APPENDED_AT_ONCE):
                arrival = numbers[first : first + APPENDED_AT_ONCE] + column_handler.ARRIVAL_MS
                rows = len(arrival)
                offsets = pa.py_buffer(np.arange(rows + 1, dtype=np.int32) * size)
                data = pa.Array.from_buffers(pa.binary(), rows, [None, offsets, pa.py_buffer(content)])
                writer.append_columns(data, keys[:rows], pa.array(arrival).cast(pa.timestamp("ms", "UTC")))
            writer.commit()
    return [str(file.path) for shard in stream.shards for file in list_files(shard)]


def expected(count):
    """What all arrival times add up to."""
    return count * (count - 1) // 2


def bare(files, count, batch):
    """Records per second of the handler over slices of the mapped files, in a process of its own."""
    with witnessed() as directory:
        command = [
            sys.executable,
            "-c",
            "from bench.columns import loop; import sys; loop(int(sys.argv[1]), sys.argv[2:])",
        ]
        subprocess.run([*command, str(batch), *files], cwd=ROOT, check=True)
        records, total, seconds = handlers.read_witnesses(directory)
    assert (records, total) == (count, expected(count)), (records, total)
    return records / seconds


def loop(size, files):
    """The process of `bare`."""
    for path in files:
        with pa.memory_map(path) as source:
            opened = pa.ipc.open_stream(source) if path.endswith("s") else pa.ipc.open_file(source)
            batches = opened if path.endswith("s") else map(opened.get_batch, range(opened.num_record_batches))
            for message in batches:
                for first in range(0, message.num_rows, size):
                    column_handler.handler(message.slice(first, size), None)


def streamfn(directory, count, batch):
    """Records per second as the handlers saw it."""
    with witnessed() as witness:
        command = [sys.executable, "-m", "streamfn", "run", "bench.column_handler.handler", "--stream", "bench"]
        command += ["--data-dir", directory, "--batch-size", str(batch), "--workers", str(WORKERS)]
        command += ["--until-caught-up", "--json", "--name", f"bench-{time.monotonic_ns()}"]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        summary = json.loads(done.stdout)
        records, total, seconds = handlers.read_witnesses(witness)
    assert (records, total, summary["records"]) == (count, expected(count), count), (records, total, summary)
    return records / seconds


def measure(count, size, batch, rounds):
    """Medians for records of `size` bytes: pyarrow alone, streamfn, and their ratio."""
    with tempfile.TemporaryDirectory(prefix="bench-columns-", dir=".") as directory:
        files = write_log(Path(directory), count, size)
        floors, ours = [], []
        for _ in range(rounds):
            floors.append(bare(files, count, batch))
            ours.append(streamfn(directory, count, batch))
            print(f"  {size} bytes: bare {floors[-1]:,.0f}  streamfn {ours[-1]:,.0f}", file=sys.stderr)
    return median(floors), median(ours), median(mine / base for mine, base in zip(ours, floors, strict=True))


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.columns", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2_000, help="bytes of log for each size of record")
    parser.add_argument("--record-bytes", type=int, nargs="+", default=[1024, 64])
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"{machine()}; batches of {options.batch_size}, medians of {options.rounds} interleaved rounds\n")
    print("| bytes a record | records | pyarrow alone, one process | streamfn, 2 workers | ratio |")
    print("|---|---|---|---|---|")
    for size in options.record_bytes:
        count = options.megabytes * 1_000_000 // (size + BESIDE_BYTES)
        base, mine, ratio = measure(count, size, options.batch_size, options.rounds)
        print(f"| {size} | {count:,} | {base:,.0f}/s | **{mine:,.0f}/s** (bar 20,000,000) | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
