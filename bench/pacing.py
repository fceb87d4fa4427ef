"""`python -m bench.pacing [--seconds N] [--speeds 1,10,100]`: how far from when they are due records are handed over.

A recording with exponential silences (50 records a second on average, 2 shards) is replayed to a no-op handler at each
speed, as `streamfn replay --speed` does it, for so many seconds each. What is printed are percentiles of the time
between when a record was due and when it was handed over (`handed`), and until its batch was finished (`done`). No
record is ever handed over before it is due, so that is all there is to be off by. Milliseconds.
"""

import argparse
import random
import tempfile
from pathlib import Path

import trio

from bench.machine import machine
from streamfn.core.schedule import Recorded
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.writer import ShardWriter
from streamfn.mapping.options import RunOptions
from streamfn.mapping.runtime import open_runtime
from streamfn.mapping.stages import Stages
from streamfn.measure.histogram import milliseconds, total
from streamfn.types import NewRecord

PER_SECOND = 50
BEGAN_MS = 1_700_000_000_000
HANDLER = "def handler(event, context):\n    pass\n"


class _Nothing:
    def write(self, text, *, ours=False):
        pass


def record(data, seconds):
    """Make the stream: what is replayed in so many seconds at any of the speeds, and how it is due."""
    chance, stream = random.Random(1), data.create_stream("s", 2)
    for shard in stream.shards:
        with ShardWriter.open(shard) as writer:
            at_s, some = 0.0, []
            while at_s < seconds:
                at_s += chance.expovariate(PER_SECOND / 2)
                some.append(NewRecord(b"x" * 1024, "k", BEGAN_MS + round(1000 * at_s)))
                if len(some) == 1000:
                    writer.append(some)
                    some = []
            if some:
                writer.append(some)
    return stream


async def replayed(data, directory, speed, seconds):
    """Replay for so many seconds, and return the histograms."""
    stages = Stages()
    async with open_runtime(data, _Nothing(), store_path=directory / f"{speed}.db") as runtime:
        options = RunOptions(handler="app.handler", stream="s", workers=1)
        mapping = await runtime.mapping(options, code_dir=directory, follow=False)
        async with trio.open_nursery() as nursery:

            async def end():
                await trio.sleep(seconds)
                mapping.drain()

            nursery.start_soon(end)
            await mapping.run(until_caught_up=True, schedule=Recorded(BEGAN_MS, speed), stages=stages)
            nursery.cancel_scope.cancel()
    return stages


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.pacing", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--speeds", default="1,10,100")
    options = parser.parse_args()
    speeds = [float(speed) for speed in options.speeds.split(",")]
    print(machine() + "\n")
    print("| speed | records | handed p50 | p99 | max | done p50 | p99 | max |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="bench-pacing-") as name:
        directory = Path(name)
        (directory / "app.py").write_text(HANDLER)
        data = DataDir.open(directory / "data", create=True)
        record(data, options.seconds * max(speeds))
        for speed in speeds:
            stages = trio.run(replayed, data, directory, speed, options.seconds)
            cells = [f"{value:.3f}" for stage in ("waiting", "latency") for value in _three(stages[stage])]
            print(f"| {speed:g}x | {total(stages['latency']):,} | {' | '.join(cells)} |", flush=True)


def _three(histogram):
    found = milliseconds(histogram, (50.0, 99.0))
    return found["p50"], found["p99"], found["max"]


if __name__ == "__main__":
    main()
