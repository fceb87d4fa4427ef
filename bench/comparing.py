"""`python -m bench.comparing [--records N]`: what it takes to find the one record for which two handlers differ.

As `streamfn replay --diff` does it: records of some 40 bytes in one shard, two handlers that decode each, which differ
for one record at 73 % of the way. For each batch size: the time until everything is compared and the record found, the
records a second that is (each of them went through both handlers), and how often handlers were called again for it.
"""

import argparse
import tempfile
import time
from pathlib import Path

import trio

from bench.machine import machine
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.writer import ShardWriter
from streamfn.mapping.options import RunOptions
from streamfn.mapping.runtime import open_runtime
from streamfn.replay.diffing import Diff, Side
from streamfn.types import NewRecord

HANDLERS = """
import base64

def old(event, context):
    return sum(len(base64.b64decode(record["kinesis"]["data"])) for record in event["Records"])

def new(event, context):
    data = [base64.b64decode(record["kinesis"]["data"]) for record in event["Records"]]
    return sum(len(each) + each.startswith(b"wrong") for each in data)
"""
SHARE = 0.734511
CHUNK = 10_000


class _Nothing:
    def write(self, text, *, ours=False):
        pass


def record(data, count):
    """Make the stream; return its shard's id and which record is the wrong one."""
    (shard,), wrong = data.create_stream("s", 1).shards, int(SHARE * count)
    with ShardWriter.open(shard) as writer:
        for first in range(0, count, CHUNK):
            numbers = range(first, min(count, first + CHUNK))
            texts = [f"{'wrong' if number == wrong else 'right'} {number:034}" for number in numbers]
            writer.append([NewRecord(text.encode(), "k", 1_700_000_000_000) for text in texts])
    return shard.id, wrong


async def compared(data, directory, batch_size, workers, ends):
    """Compare; return the seconds it took and what was found."""
    given = {"stream": "s", "workers": workers, "batch_size": batch_size, "logs": "none"}
    sides = tuple(Side(RunOptions(handler=f"app.{name}", **given), directory) for name in ("old", "new"))
    store = directory / f"store-{batch_size}" / "state.db"
    store.parent.mkdir()
    async with open_runtime(data, _Nothing(), store_path=store) as runtime:
        diff = Diff(runtime, sides, dict.fromkeys(ends, 0), ends)
        await diff.open()
        began = time.perf_counter()
        await diff.run()
        return time.perf_counter() - began, diff


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.comparing", description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--batch-sizes", default="1000,100,10")
    parser.add_argument("--workers", type=int, default=2, help="of each handler")
    options = parser.parse_args()
    print(machine() + "\n")
    print("| batch size | records | batches | seconds | records/s | called again | found |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="bench-comparing-") as name:
        directory = Path(name)
        (directory / "app.py").write_text(HANDLERS)
        data = DataDir.open(directory / "data", create=True)
        shard_id, wrong = record(data, options.records)
        for batch_size in map(int, options.batch_sizes.split(",")):
            ends = {shard_id: options.records}
            seconds, diff = trio.run(compared, data, directory, batch_size, options.workers, ends)
            found = diff.comparison
            assert (found.records, found.different, found.uncompared) == (options.records, 1, 0), found
            assert [finding.place.first_offset for finding in diff.findings] == [wrong]
            speed = f"{found.batches:,} | {seconds:.1f} | {found.records / seconds:,.0f}"
            print(f"| {batch_size} | {found.records:,} | {speed} | {diff.probes} | offset {wrong:,} |", flush=True)


if __name__ == "__main__":
    main()
