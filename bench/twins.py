"""`python -m bench.twins [--runs N] [--seconds S]`: does `bench compare` tell a build from itself, or a slower one?

A handler that waits 20 ms and one that computes, each in a closed loop and in an open one at half of what it can do,
are measured by `streamfn bench` again and again, in turns with the same handler 5 % slower. Then each run is compared
with every other one of its own, and with each of the slower handler, one run against one; and all runs with all of
the slower handler's, in pairs. What the machine did is in them: look at the last column first.

With 10 s and 15 runs it takes 25 minutes; 8 runs of 6 s, ten.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys

from bench.engine import ROOT
from bench.machine import machine
from streamfn.measure.comparison import compare
from streamfn.measure.result import Result

SLOWER = 1.05


def measure(handler, rate, seconds, times):
    """One run, as its document says it."""
    command = [sys.executable, "-m", "streamfn", "bench", f"bench.twin_handlers.{handler}", "--json"]
    command += ["--batch-size", "10", "--workers", "2", "--duration", f"{seconds}s", "--rate", rate]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"BENCH_TWIN": str(times)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}")
    return Result.of(json.loads(done.stdout))


def counted(pairs):
    verdicts = [compare([first], [second]).verdict for first, second in pairs]
    return {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.twins", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15, help="of each handler, rate and slowness")
    parser.add_argument("--seconds", type=float, default=10, help="of each run")
    parser.add_argument("--handlers", default="waits,computes", help="which of them")
    options = parser.parse_args()
    print(f"{machine()}; {options.runs} runs of {options.seconds:g} s of each, in turns; one run against one\n")
    print("| | the same build | 5 % slower | all runs, in pairs | others used |\n|---|---|---|---|---|")
    for handler in options.handlers.split(","):
        full = measure(handler, "max", min(3, options.seconds), 1.0).rows[0].rate_achieved
        for name, rate in (("closed loop", "max"), (f"{full / 2:.0f} records/s", f"{full / 2:.0f}")):
            runs = [
                [measure(handler, rate, options.seconds, times) for times in (1.0, SLOWER)] for _ in range(options.runs)
            ]
            quick, slow = zip(*runs, strict=True)
            same, other = counted(itertools.combinations(quick, 2)), counted(itertools.product(quick, slow))
            together = compare(quick, slow)
            shares = [sample.others or 0.0 for result in quick + slow for sample in result.rows[0].samples]
            cells = [f"{handler}, {name}", _said(same), _said(other), together.verdict]
            print(f"| {' | '.join(cells)} | {sum(shares) / len(shares):.0%} |", flush=True)


def _said(verdicts):
    return ", ".join(f"{verdict} {count}" for verdict, count in verdicts.items())


if __name__ == "__main__":
    main()
