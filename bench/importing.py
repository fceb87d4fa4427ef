"""`python -m bench.importing [--megabytes N] [--rounds N]`: an Arrow file into a stream, against pyarrow writing one.

    file ──> import ──> one shard        the columns as they are, sequence numbers included, or with new ones
    columns ──> pyarrow ──> one file     the same columns, uncompressed, one fsync

The import reads its file as well; the rival has the columns in memory.  Rounds are interleaved; medians are printed.
What was imported is compared with the file afterwards: a wrong answer is not fast.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from bench.bulk import columns, rival
from bench.machine import machine
from streamfn.doors.importing import ImportRequest, run_import
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.columns import scan

NAMES = ["sequence_number", "partition_key", "approximate_arrival_timestamp", "data"]
# As many rows as a tool may write at a time.
CHUNK_ROWS = 20_000


def imported(directory, path, *, new_numbers):
    """Import the file; return seconds, from start to closed."""
    data_dir = directory / "data"
    begun = time.perf_counter()
    run_import(data_dir, ImportRequest(files=(str(path),), stream="s", new_sequence_numbers=new_numbers))
    seconds = time.perf_counter() - begun
    stream = DataDir.open(data_dir, create=False).stream("s")
    stored = pa.Table.from_batches([batch.replace_schema_metadata() for batch in scan(stream)])
    with pa.memory_map(str(path)) as mapped:
        given = pa.ipc.open_file(mapped).read_all()
        names = NAMES[1:] if new_numbers else NAMES
        same = all(stored.column(name).equals(given.column(name)) for name in names)
        assert same, "what is stored is not what was given"
    shutil.rmtree(data_dir)
    return seconds


def run(megabytes, record_bytes, rounds):
    """Medians of (rival MB/s, ours with the file's numbers, ours with new ones, and the ratios)."""
    _, keys, arrival, data = columns(megabytes, record_bytes)
    sequence = pa.array([f"49{number:054d}" for number in range(len(keys))])
    table = pa.table([sequence, keys, arrival, data], names=NAMES)
    results = []
    with tempfile.TemporaryDirectory(dir=".") as name:
        directory = Path(name)
        with pa.ipc.new_file(directory / "in.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=CHUNK_ROWS)
        for _ in range(rounds):
            theirs = rival(directory, sequence, keys, arrival, data)
            (directory / "rival.arrow").unlink()
            kept = imported(directory, directory / "in.arrow", new_numbers=False)
            new = imported(directory, directory / "in.arrow", new_numbers=True)
            size = table.nbytes
            results.append((size / theirs, size / kept, size / new, theirs / kept, theirs / new))
    return [statistics.median(each) for each in zip(*results, strict=True)]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.importing", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{machine()}; {options.megabytes} MB, medians of {options.rounds} interleaved rounds\n")
    print("| bytes a record | pyarrow, one fsync | import, numbers kept | ratio | import, new numbers | ratio |")
    print("|---|---|---|---|---|---|")
    for record_bytes in (1024, 128):
        theirs, kept, new, kept_ratio, new_ratio = run(options.megabytes, record_bytes, options.rounds)
        print(
            f"| {record_bytes} | {theirs / 1e6:,.0f} MB/s | {kept / 1e6:,.0f} MB/s | **{kept_ratio:.2f}** (bar 0.5) "
            f"| {new / 1e6:,.0f} MB/s | **{new_ratio:.2f}** |"
        )


if __name__ == "__main__":
    main()
