"""What a peer's process is told, what it reads, what it answers. It runs in the peers' environment: no streamfn here.

    python -m bench.peers.in_NAME DIRECTORY HANDLER BATCH RECORDS WAY        (WAY: one of the peer's ways, by its key)

The records lie in DIRECTORY as ready-made JSON, `events-BATCH` with one event a line and `records` with one record a
line, and are read before any clock starts. They are repeated until RECORDS have gone through. The handlers note in the
directory that BENCH_WITNESS names when the first of them began, when the last one ended and what they have seen.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

START_S = 60  # until a server listens
DISTINCT = 20_000  # records; what is more repeats them


class Job(NamedTuple):
    directory: Path
    handler: str
    batch: int
    records: int
    way: str

    def events(self):
        """The ready-made events, as bytes."""
        return self._repeated(f"events-{self.batch}", self.records // self.batch)

    def lines(self):
        """The records of those events, each ready-made JSON, as bytes."""
        return self._repeated("records", self.records)

    def _repeated(self, name, count):
        lines = (self.directory / name).read_bytes().splitlines()
        return (lines * -(-count // len(lines)))[:count]


def job():
    """The job of the command line."""
    directory, handler, batch, records, way = sys.argv[1:]
    return Job(Path(directory), handler, int(batch), int(records), way)


def answer(*packages, times_ns=None, **others):
    """Print the last line of a peer's process: which versions it is, and the round trips it was asked for."""
    versions = {package: version(package) for package in packages} | others
    print(json.dumps({"versions": versions, "times_ns": times_ns}), flush=True)


TRIPS = 1000
LATENCY = "latency"  # the way that measures round trips: one record an event, the next when the last is answered


def trips(call, events):
    """Nanoseconds of each of TRIPS calls, one after the other, and of none of the first ones."""
    times = []
    for event in events[: TRIPS + TRIPS // 10]:
        began = time.perf_counter_ns()
        call(event)
        times.append(time.perf_counter_ns() - began)
    return times[TRIPS // 10 :]


def free_ports(count):
    """Ports that nobody listens at just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def spawn(command, files, environment, output=subprocess.DEVNULL):
    """Start a server that ends with `files`, and with this process however that ends."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=output,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    files.callback(end, process)
    return process


def end(process):
    """Kill a process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(port):
    """Until somebody listens there."""
    until = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return
