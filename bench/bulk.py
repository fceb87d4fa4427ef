"""`python -m bench.bulk [--megabytes N] [--rounds N]`: bulk import against pyarrow, and how fast a log is verified.

The rival writes the same four columns to one uncompressed Arrow file and syncs it once.  Ours appends the columns to
one shard, commits, and closes it, everything sealed.  Rounds are interleaved; medians are printed.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.machine import machine
from streamfn.doors.importing import run_import
from streamfn.doors.sources import ImportRequest
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.segment.check import check_segment
from streamfn.log.segment.segment import list_files
from streamfn.log.shard.writer import ShardWriter

KEYS = 10_000
PAUSE_S = 2


def columns(megabytes, record_bytes):
    """Sequence numbers, keys, arrival times and data of so many records."""
    rows = megabytes * 1_000_000 // (record_bytes + 80)
    offsets = pa.py_buffer((np.arange(rows + 1, dtype=np.int64) * record_bytes).astype(np.int32))
    content = np.random.default_rng(1).bytes(rows * record_bytes)
    data = pa.Array.from_buffers(pa.binary(), rows, [None, offsets, pa.py_buffer(content)])
    keys = pa.array([f"customer-{number}" for number in range(KEYS)]).take(pa.array(np.arange(rows) % KEYS))
    arrival = pa.array(np.arange(rows, dtype=np.int64) + 1_700_000_000_000).cast(pa.timestamp("ms", "UTC"))
    sequence = pa.array([f"{number:056d}" for number in range(rows)])
    return sequence, keys, arrival, data


def rival(directory, sequence, keys, arrival, data):
    """Write the columns with pyarrow; return seconds."""
    names = ["sequence_number", "partition_key", "approximate_arrival_timestamp", "data"]
    table = pa.table([sequence, keys, arrival, data], names=names)
    begun = time.perf_counter()
    with open(directory / "rival.arrow", "wb") as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - begun


def ours(directory, keys, arrival, data):
    """Append them to a shard; return seconds until it is closed, everything durable and sealed, and the shard."""
    shard = DataDir.open(directory / "data", create=True).create_stream("s").shards[0]
    begun = time.perf_counter()
    with ShardWriter.open(shard) as writer:
        writer.append_columns(data, keys, arrival)
        writer.commit()
    return time.perf_counter() - begun, shard


def imported(directory, keys, arrival, data):
    """Import a file of them (the shard gives the sequence numbers), as the command does; return seconds."""
    table = pa.table([keys, arrival, data], ["partition_key", "approximate_arrival_timestamp", "data"])
    path = directory / "given.arrow"
    with open(path, "wb") as file:
        with pa.ipc.new_file(file, table.schema) as out:
            out.write_table(table, max_chunksize=100_000)
        file.flush()
        os.fsync(file.fileno())  # its being written is not what is measured
    begun = time.perf_counter()
    report = run_import(directory / "imported", ImportRequest(files=(str(path),), stream="s"))
    seconds = time.perf_counter() - begun
    assert report.records == len(data)
    return seconds


def verified(shard):
    """Check every segment; return bytes a second."""
    begun = time.perf_counter()
    checks = [check_segment(shard, file) for file in list_files(shard)]
    seconds = time.perf_counter() - begun
    assert not any(check.findings for check in checks)
    stored = sum(os.stat(file.path).st_blocks * 512 for file in list_files(shard))
    return stored / seconds


def run(megabytes, record_bytes, rounds):
    """Bytes a second of the rival, an append and an import, medians; and of verifying.

    Each of the three is first, second and last equally often, after a pause: a virtual disk takes some hundred
    megabytes fast, and then no more for a while.
    """
    sequence, keys, arrival, data = columns(megabytes, record_bytes)
    size = sum(column.nbytes for column in (sequence, keys, arrival, data))
    calls = {
        "rival": lambda directory: rival(directory, sequence, keys, arrival, data),
        "append": lambda directory: ours(directory, keys, arrival, data),
        "import": lambda directory: imported(directory, keys, arrival, data),
    }
    seconds = {name: [] for name in calls}
    speeds = []
    for number in range(rounds):
        for name in [*calls][number % 3 :] + [*calls][: number % 3]:
            with tempfile.TemporaryDirectory(dir=".") as directory:
                time.sleep(PAUSE_S)
                result = calls[name](Path(directory))
                if name == "append":
                    result, shard = result
                    speeds.append(verified(shard))
                seconds[name].append(result)
    return [size / statistics.median(each) for each in seconds.values()] + [statistics.median(speeds)]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.bulk", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    print(f"{machine()}; {options.megabytes} MB, medians of {options.rounds} interleaved rounds\n")
    print("| bytes a record | pyarrow, one fsync | append | ratio | import FILE.arrow | ratio | verify |")
    print("|---|---|---|---|---|---|---|")
    for record_bytes in (1024, 128):
        theirs, appended, whole, speed = run(options.megabytes, record_bytes, options.rounds)
        ratios = [f"**{mine / theirs:.2f}** (bar 0.5)" for mine in (appended, whole)]
        print(
            f"| {record_bytes} | {theirs / 1e6:,.0f} MB/s | {appended / 1e6:,.0f} MB/s | {ratios[0]} "
            f"| {whole / 1e6:,.0f} MB/s | {ratios[1]} | {speed / 1e9:.1f} GB/s (bar 1.5) |"
        )


if __name__ == "__main__":
    main()
