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

from bench import handlers
from bench.engine import ROOT, WORKERS, witnessed
from bench.machine import machine
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.segment.segment import list_files
from streamfn.log.shard.writer import ShardWriter

SHARDS = 4
APPENDED_AT_ONCE = 100_000


def write_log(directory, count, size):
    """`count` records of `size` bytes; the arrival time of each is its number after `handlers.ARRIVAL_MS`."""
    stream = DataDir.open(directory, create=True).create_stream("bench", SHARDS)
    content = np.random.default_rng(1).bytes(APPENDED_AT_ONCE * size)
    keys = pa.array([f"key-{index % 1000}" for index in range(APPENDED_AT_ONCE)])
    for place, shard in enumerate(stream.shards):
        numbers = np.arange(place, count, SHARDS, dtype=np.int64)
        with contextlib.closing(ShardWriter.open(shard)) as writer:
            for first in range(0, len(numbers), APPENDED_AT_ONCE):
                arrival = numbers[first : first + APPENDED_AT_ONCE] + handlers.ARRIVAL_MS
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
                    handlers.columns(message.slice(first, size), None)


def streamfn(directory, count, batch):
    """Records per second as the handlers saw it."""
    with witnessed() as witness:
        command = [sys.executable, "-m", "streamfn", "run", "bench.handlers.columns", "--stream", "bench"]
        command += ["--data-dir", directory, "--batch-size", str(batch), "--workers", str(WORKERS)]
        command += ["--until-caught-up", "--json", "--name", f"bench-{time.monotonic_ns()}"]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        summary = json.loads(done.stdout)
        records, total, seconds = handlers.read_witnesses(witness)
    assert (records, total, summary["records"]) == (count, expected(count), count), (records, total, summary)
    return records / seconds


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.columns", description=__doc__)
    parser.add_argument("--records", type=int, default=4_000_000)
    parser.add_argument("--record-bytes", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-columns-", dir=".") as directory:
        files = write_log(Path(directory), options.records, options.record_bytes)
        floors, ours = [], []
        for _ in range(options.rounds):
            floors.append(bare(files, options.records, options.batch_size))
            ours.append(streamfn(directory, options.records, options.batch_size))
            print(f"  bare {floors[-1]:,.0f}  streamfn {ours[-1]:,.0f}", file=sys.stderr)
    ratio = median(mine / base for mine, base in zip(ours, floors, strict=True))
    print(
        f"{machine()}; {options.records:,} records of {options.record_bytes} bytes, batches of {options.batch_size}\n"
    )
    print("| column sum | records/s |\n|---|---|")
    print(f"| pyarrow alone, one process | {median(floors):,.0f} |")
    print(f"| streamfn, {WORKERS} workers | **{median(ours):,.0f}** (bar 20,000,000) |\n| ratio | {ratio:.2f} |")


if __name__ == "__main__":
    main()
