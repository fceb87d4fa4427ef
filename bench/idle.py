"""`python -m bench.idle [--mappings N] [--workers N]`: what a runtime costs that has nothing to do.

So many event source mappings of one function, each on a stream of its own, and so many workers, in one `streamfn run`.
When every one of them has delivered a record, the processor time of the runtime and of all its processes is taken over
some seconds in which nothing happens, and how often they were woken.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import machine
from bench.memory import children
from bench.scale import IDLE_S, ROOT, processor_ms
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.writer import ShardWriter
from streamfn.mapping.managing import Mappings
from streamfn.state.store import Store
from streamfn.types import NewRecord

START_S = 120
SETTLE_S = 12  # threads that opened mappings and have nothing more to do end after 10 s

HANDLER = """
import os

def handler(event, context):
    with open(os.environ["SEEN"], "ab", 0) as file:
        file.write(b"." * len(event["Records"]))
"""


def switches(pid):
    """How often a process's main thread has gone to sleep so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    raise AssertionError(f"no switches in the status of {pid}")


def prepare(directory, count):
    """Make the streams, a record in each, and the mappings."""
    data = DataDir.open(directory / "data", create=True)
    (directory / "app.py").write_text(HANDLER)
    with Store.open(data.state_path, create=True) as store:
        managing = Mappings(data, lambda: store, directory)
        for number in range(count):
            stream = data.create_stream(f"s{number}", 1)
            with ShardWriter.open(stream.shards[0]) as writer:
                writer.append([NewRecord(b"{}", "k")])
            asked = {"FunctionName": "app.handler", "EventSourceArn": stream.arn}
            managing.create({**asked, "StartingPosition": "TRIM_HORIZON"})


def main():
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__.splitlines()[0])
    parser.add_argument("--mappings", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-idle-") as name:
        directory = Path(name)
        prepare(directory, options.mappings)
        seen = directory / "seen"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEEN": str(seen)}
        command = [sys.executable, "-m", "streamfn", "run", "--data-dir", str(directory / "data"), "--json"]
        begun = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--workers", str(options.workers)],
            cwd=directory,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not seen.exists() or seen.stat().st_size < options.mappings:
            assert process.poll() is None, "the runtime has ended"
            assert time.perf_counter() - begun < START_S, "not every mapping delivers"
            time.sleep(0.02)
        started = time.perf_counter() - begun
        time.sleep(SETTLE_S)
        pids = [process.pid, *children(process.pid)]
        before = [(processor_ms(pid), switches(pid)) for pid in pids]
        time.sleep(2 * IDLE_S)
        after = [(processor_ms(pid), switches(pid)) for pid in pids]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    used = [(a[0] - b[0]) / (20 * IDLE_S) for b, a in zip(before, after, strict=True)]
    woken = [(a[1] - b[1]) / (2 * IDLE_S) for b, a in zip(before, after, strict=True)]
    print(f"{machine()}\n\n| {options.mappings:,} mappings, {options.workers} workers | |\n|---|---|")
    print(f"| from exec until each mapping has delivered a record | {started:.2f} s |")
    print(f"| idle: processor time of all {len(pids)} processes | {sum(used):.2f} % of a core (bar 2) |")
    print(f"| of it the runtime | {used[0]:.2f} % |")
    print(f"| woken a second: the runtime, each other process | {woken[0]:.1f}, {max(woken[1:]):.1f} |")


if __name__ == "__main__":
    main()
