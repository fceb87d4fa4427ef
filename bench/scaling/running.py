"""One run of `streamfn run` to its end, timed by its handlers, with the memory of its processes."""

import json
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from bench import handlers
from bench.engine import ROOT, WORKERS, witnessed
from bench.memory import watch


class Run(NamedTuple):
    """Memory is what processes have for themselves (RssAnon + RssShmem), at most, in bytes."""

    rate: float  # records per second, from the first start of any invocation to the last end of any
    batches: int
    first_s: float  # from exec to the first invocation
    seconds: float  # from exec to the end
    runtime_bytes: int
    worker_bytes: int


def run(data_dir, records, *options):
    """A run over everything in a data directory; its handlers, which do nothing, must have seen that many records."""
    with witnessed() as directory, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-m", "streamfn", "run", *options, "--data-dir", str(data_dir)]
        command += ["--workers", str(WORKERS), "--until-caught-up", "--json"]
        began_ns = time.monotonic_ns()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=errors)
        memory = watch(process, WORKERS + 2, 0.02)
        seconds = (time.monotonic_ns() - began_ns) / 1e9
        seen, _, first_ns, last_ns = handlers.read_span(directory)
        output.seek(0)
        errors.seek(0)
        said, complained = output.read(), errors.read().decode()
    if process.returncode or seen != records:
        raise AssertionError(f"{command}: {process.returncode}, {seen} of {records} records: {complained[-1000:]}")
    workers = [highest for role, (_, highest) in memory.items() if role.startswith("worker")]
    return Run(
        rate=records / ((last_ns - first_ns) / 1e9),
        batches=json.loads(said)["batches"],
        first_s=(first_ns - began_ns) / 1e9,
        seconds=seconds,
        runtime_bytes=1024 * memory.get("runtime", (0, 0))[1],
        worker_bytes=1024 * max(workers, default=0),
    )


def run_stream(data_dir, records):
    """The same for the stream `bench`, from its beginning."""
    options = ("--stream", "bench", "--batch-size", "100", "--name", f"bench-{time.monotonic_ns()}")
    return run(data_dir, records, "bench.handlers.noop", *options)
