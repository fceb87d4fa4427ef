"""`python -m bench.scale [--records N] [--shards N]`: what many records in a shard, and many shards, cost.

records   a shard of so many: opening it for writing, for reading, seeking by time
shards    a stream of so many, `streamfn run` on it: from exec to the first look at every shard, processor time
          while nothing happens, descriptors; from LATEST, and from TRIM_HORIZON with a record in each shard
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.machine import machine
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.reader import ShardReader
from streamfn.log.shard.seek import offset_at_time
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord

ROOT = Path(__file__).resolve().parent.parent
FIRST_MS = 1_700_000_000_000
CHUNK = 500_000
TICKS = os.sysconf("SC_CLK_TCK")
IDLE_S = 5


def timed(call, *arguments):
    """Milliseconds and result of a call."""
    begun = time.perf_counter()
    result = call(*arguments)
    return 1000 * (time.perf_counter() - begun), result


def many_records(directory, count):
    """Fill one shard, and print what it costs to open and to seek."""
    shard = DataDir.open(directory / "data", create=True).create_stream("many").shards[0]
    data = pa.array([b'{"n": 1234567890}' * 4] * CHUNK)
    keys = pa.array([f"key-{number % 1000}" for number in range(CHUNK)])
    with ShardWriter.open(shard) as writer:
        for start in range(0, count, CHUNK):
            times = pa.array(np.arange(start, start + CHUNK, dtype=np.int64) + FIRST_MS)
            writer.append_columns(data, keys, times)
        writer.append([NewRecord(b"x" * 100, "k", FIRST_MS + count)] * 1000)
        for number in range(20_000):  # the worst for a walk: messages of one record each
            writer.append([NewRecord(b"x" * 100, "k", FIRST_MS + count + 1 + number)])
    opened, writer = timed(ShardWriter.open, shard)
    writer.close()
    read, reader = timed(ShardReader.open, shard, count // 2)
    polled, _ = timed(reader.poll, 1)
    reader.close()
    print(f"| opened for writing | {opened:.1f} ms (bar 1,000) |")
    print(f"| opened for reading in the middle, first message | {read + polled:.1f} ms (bar 1,000) |")
    seeks = []
    for share in (0.0, 0.1, 0.37, 0.5, 0.93, 0.999):
        ms, offset = timed(offset_at_time, shard, FIRST_MS + int(count * share))
        assert offset == int(count * share), offset
        seeks.append(ms)
    last, offset = timed(offset_at_time, shard, FIRST_MS + count + 15_000)
    assert offset == count + 1000 + 14_999, offset
    median, worst = statistics.median(seeks), max(seeks)
    print(f"| seek by time in sealed segments, median and worst | {median:.1f}, {worst:.1f} ms (bar 20) |")
    print(f"| seek by time in the active one, 20,000 small messages | {last:.1f} ms (bar 20) |")


def processor_ms(pid):
    """Processor time that a process has used, in milliseconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / TICKS


def many_shards(directory, count, position):
    """Run a mapping on all of them, and print what it costs."""
    data = directory.resolve() / f"data-{position}"
    stream = DataDir.open(data, create=True).create_stream("wide", count)
    for shard in stream.shards:
        with ShardWriter.open(shard) as writer:
            writer.append([NewRecord(b"{}", "k")])
    (directory / "app.py").write_text("def handler(event, context):\n    pass\n")
    environment = {**os.environ, "STREAMFN_DATA_DIR": str(data), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "streamfn", "run", "app.handler", "--stream", "wide", "--json"]
    command += ["--starting-position", position, "--batch-size", "10"]
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE)
    watched = waited(process, count)
    started = time.perf_counter() - begun
    time.sleep(3)
    descriptors = len(os.listdir(f"/proc/{process.pid}/fd"))
    before = processor_ms(process.pid)
    time.sleep(IDLE_S)
    idle = (processor_ms(process.pid) - before) / (10 * IDLE_S)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    records = output.decode().split('"records":')[1].split(",")[0].strip() if b'"records":' in output else "?"
    print(
        f"| {count:,} shards from {position}: start, idle, descriptors | {started:.2f} s (bar 2), "
        f"{idle:.1f} % (bar 2), {descriptors:,}; {records} records, watched {watched:,} |"
    )


def waited(process, count):
    """Wait until the runtime watches every shard's commit file; return how many it does."""
    watches = 0
    while watches < count:
        assert process.poll() is None, "the runtime has ended"
        time.sleep(0.02)
        watches = 0
        for entry in Path(f"/proc/{process.pid}/fdinfo").glob("*"):
            try:
                watches += entry.read_text().count("inotify wd:")
            except OSError:
                continue
    return watches


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=1000)
    options = parser.parse_args()
    print(f"{machine()}\n\n| | |\n|---|---|")
    with tempfile.TemporaryDirectory(dir=".") as name:
        if options.records:
            many_records(Path(name), options.records)
        if options.shards:
            many_shards(Path(name), options.shards, "LATEST")
            many_shards(Path(name), options.shards, "TRIM_HORIZON")


if __name__ == "__main__":
    main()
