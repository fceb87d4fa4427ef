"""AWS's Python runtime client behind a Runtime Interface Emulator: AWS's binary (`aws-lambda-rie` on the PATH, or what
BENCH_RIE names), or our own reading of its protocol (`bench.peers.emulator`).

    emulators N    N emulators with a runtime each, because each does one invocation at a time; a caller each
"""

import contextlib
import http.client
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from bench.peers.emulator import CALLER
from bench.peers.job import LATENCY, answer, free_ports, job, spawn, trips, wait_for


def binary():
    """AWS's emulator, or None."""
    return os.environ.get("BENCH_RIE") or shutil.which("aws-lambda-rie")


class Caller:
    """One kept-open connection to an emulator."""

    def __init__(self, port):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def call(self, event):
        self._connection.request("POST", CALLER, event, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200 or b"errorMessage" in body:
            raise AssertionError(f"an invocation failed: {response.status} {body[:500]!r}")
        return body


def start(handler, files):
    """Start an emulator with a runtime behind it; return the caller's port."""
    environment = {**os.environ, "AWS_LAMBDA_FUNCTION_NAME": "bench", "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST"}
    environment |= {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3008", "AWS_LAMBDA_FUNCTION_TIMEOUT": "60"}
    runtime = [sys.executable, "-m", "awslambdaric", f"bench.handlers.{handler}"]

    if binary():
        port, api_port = free_ports(2)
        addresses = ["--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
        addresses += ["--runtime-api-address", f"127.0.0.1:{api_port}"]
        spawn([binary(), *addresses, *runtime], files, environment)
        wait_for(port)
        return port
    emulator = spawn([sys.executable, "-m", "bench.peers.emulator"], files, environment, subprocess.PIPE)
    files.enter_context(emulator.stdout)
    port = int(emulator.stdout.readline())
    environment["AWS_LAMBDA_RUNTIME_API"] = f"127.0.0.1:{port}"
    spawn(runtime, files, environment)
    return port


def call_all(caller, events):
    for event in events:
        caller.call(event)


def main():
    asked = job()
    events = asked.events()
    count = 1 if asked.way == LATENCY else int(asked.way.split()[1])
    times = None
    with contextlib.ExitStack() as files:
        callers = [Caller(start(asked.handler, files)) for _ in range(count)]
        for caller in callers:
            caller.call(b'{"Records": []}')
        if asked.way == LATENCY:
            times = trips(callers[0].call, events)
        else:
            threads = [
                threading.Thread(target=call_all, args=(caller, events[place::count]))
                for place, caller in enumerate(callers)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    answer("awslambdaric", times_ns=times, emulator=Path(binary()).name if binary() else "our own")


if __name__ == "__main__":
    main()
