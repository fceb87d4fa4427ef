"""`python -m bench.live [--records N] [--rounds N]`: what it costs to watch a run.

Pairs of runs over the same log, one with the live view on a terminal of its own (a pty, 100 columns), one in which
nobody looks: nothing is looked at, and nothing is drawn. Which of the two is first changes from pair to pair.
Throughput is as the handlers saw it, processor time that of the runtime and all its processes; the ratio of each pair
is taken, and the median of those, because the machine is not the same from one minute to the next. Beside them stands
the processor time of a frame.
"""

import argparse
import fcntl
import os
import pty
import resource
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from statistics import median, quantiles

import trio
from rich.console import Console
from rich.live import Live

from bench import handlers
from bench.engine import ROOT, WORKERS, witnessed, write_log
from bench.machine import machine

COLUMNS = 100
HANDLER, BATCH = "noop", 100
SIZE = 128  # small, so that a run takes seconds and the log still fits into the page cache
FRAMES = 200


def once(data_dir, count, *, watched):
    """Records per second of one run, and the processor seconds of all its processes."""
    with witnessed() as directory:
        name = f"bench-live-{time.monotonic_ns()}"
        script = "from bench.live import child; child()"
        arguments = ["run", f"bench.handlers.{HANDLER}", "--stream", "bench", "--data-dir", data_dir, "--name", name]
        arguments += ["--batch-size", str(BATCH), "--workers", str(WORKERS), "--until-caught-up", "--json"]
        near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
        drain = threading.Thread(target=_drain, args=(near,), daemon=True)
        drain.start()
        environment = {**os.environ, "TERM": "xterm-256color", "BENCH_WATCHED": "1" if watched else ""}
        environment.pop("COLUMNS", None)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=far,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        os.close(far)
        drain.join()
        os.close(near)
        records, _, seconds = handlers.read_witnesses(directory)
    assert records == count, records
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return records / seconds, used


def _drain(near):
    try:
        while os.read(near, 65536):
            pass
    except OSError:
        return


def child():
    """Be `streamfn` with these arguments; where nobody watches, without a look."""
    from streamfn.cli import app, execute

    if not os.environ["BENCH_WATCHED"]:

        async def nobody(self):
            await trio.sleep_forever()

        execute.Run.show = nobody
    sys.exit(app.run(sys.argv[1:]))


def drawing():
    """Milliseconds of processor time for a frame."""
    from streamfn.cli.picture import Picture
    from streamfn.mapping.observing import Snapshot
    from streamfn.pool.function import Census

    with open(os.devnull, "w") as file:
        console = Console(file=file, force_terminal=True, width=COLUMNS, highlight=False)
        with Live(console=console, auto_refresh=False) as live:
            began = time.thread_time()
            for number in range(FRAMES):
                snapshot = Snapshot(
                    name="app.handler@orders", elapsed_s=number, records=number * 1_000, records_per_second=123_456.7,
                    history=[float(point % 7) for point in range(60)], lag_records=5_000, lag_ms=1_234, errors=0,
                    workers=Census(busy=2, maximum=2), total_records=1_000_000, left_s=12.0,
                    latency_ms={"p50": 0.12, "p90": 1.2, "p99": 2.3, "max": 45.6},
                )  # fmt: skip
                live.update(Picture(snapshot), refresh=True)
            return (time.thread_time() - began) / FRAMES * 1000


def main():
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.live", description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    rates, used, watched, alone = [], [], [], []
    with tempfile.TemporaryDirectory(prefix="bench-live-") as directory:
        write_log(directory, options.records, SIZE)
        once(directory, options.records, watched=True)  # the page cache, the bytecode
        for number in range(options.rounds):
            pair = {}
            for each in (True, False) if number % 2 else (False, True):
                pair[each] = once(directory, options.records, watched=each)
            watched.append(pair[True][0])
            alone.append(pair[False][0])
            rates.append(pair[True][0] / pair[False][0])
            used.append(pair[True][1] / pair[False][1])
    print(f"{machine()}\n\n| {SIZE} B, batch {BATCH}, no-op handler, {WORKERS} workers | |\n|---|---|")
    print(f"| nobody watches | {median(alone):,.0f} records/s |")
    print(f"| the live view on a terminal | {median(watched):,.0f} records/s |")
    for what, ratios in (("throughput", rates), ("processor time", used)):
        low, _, high = quantiles(ratios, n=4)
        middle = median(ratios)
        print(f"| {what}, ratio of {options.rounds} pairs (quartiles) | {middle:.3f} ({low:.3f} to {high:.3f}) |")
    print(f"| processor time of a frame | {drawing():.2f} ms |")


if __name__ == "__main__":
    main()
