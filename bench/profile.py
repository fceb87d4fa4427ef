"""`python -m bench.profile`: where the processor time of a run goes, by `perf`.

Everything that `streamfn run` starts is sampled, and what counts is from the first start of any invocation to the last
end of any. Records of 1 KiB in batches of 100.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

from bench import handlers
from bench.engine import ROOT, WORKERS, witnessed
from bench.machine import machine
from bench.scaling.logs import fill

HERTZ = 997
LEAST = 0.8  # percent of all samples
RECORDS = {"noop": 4_000_000, "real": 1_000_000}


def sampled(directory, handler, data):
    """[(share in percent, process, library, symbol)] of a run."""
    command = ["perf", "record", "-q", "-k", "mono", "-F", str(HERTZ), "-o", data, "--"]
    command += [sys.executable, "-m", "streamfn", "run", f"bench.handlers.{handler}", "--stream", "bench"]
    command += ["--data-dir", directory, "--batch-size", "100", "--workers", str(WORKERS), "--until-caught-up"]
    with witnessed() as witness:
        name = f"bench-{time.monotonic_ns()}"
        subprocess.run([*command, "--name", name], cwd=ROOT, check=True, capture_output=True)
        _, _, first_ns, last_ns = handlers.read_span(witness)
    command = ["perf", "report", "-i", data, "--stdio", "--sort", "comm,dso,sym", "-t", "|"]
    command += ["--time", f"{first_ns / 1e9:.6f},{last_ns / 1e9:.6f}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = []
    for line in said.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 4 and fields[0].endswith("%"):
            symbol = fields[3].partition("] ")[2]
            rows.append((float(fields[0][:-1]), process_of(fields[1]), library_of(fields[2]), symbol))
    return rows


def process_of(comm):
    """Which process a name of a thread is of."""
    if comm.startswith("sf-worker"):
        return "workers"
    return "zygote" if comm.startswith("sf-") else "runtime"


def library_of(dso):
    """The name without what the build has put behind it."""
    return "kernel" if dso.startswith("[") else dso.split(".cpython")[0].split(".so")[0]


def run(counts):
    """{handler: what was found}."""
    found = {}
    for handler, records in counts.items():
        with tempfile.TemporaryDirectory(prefix="bench-profile-") as directory:
            fill(directory, "bench", records, 1024, 4)
            rows = sampled(directory, handler, f"{directory}/perf.data")
        processes, libraries, symbols = defaultdict(float), defaultdict(float), defaultdict(float)
        for share, process, library, symbol in rows:
            processes[process] += share
            libraries[process, library] += share
            symbols[process, library, symbol] += share
        found[handler] = {
            "records": records,
            "processes": processes,
            "libraries": [[*key, share] for key, share in ranked(libraries)],
            "symbols": [[*key, share] for key, share in ranked(symbols)],
        }
    return found


def ranked(shares):
    return [(key, share) for key, share in sorted(shares.items(), key=lambda item: -item[1]) if share >= LEAST]


def report(found):
    for handler, figures in found.items():
        processes = ", ".join(f"{name} {share:.0f} %" for name, share in figures["processes"].items())
        print(f"\n*{handler}*, {figures['records']:,} records: {processes}.\n")
        print("| process | library | function | share |\n|---|---|---|---|")
        for process, library, symbol, share in figures["symbols"]:
            print(f"| {process} | {library} | `{symbol}` | {share:.1f} % |")
        print("\n| process | library | share |\n|---|---|---|")
        for process, library, share in figures["libraries"]:
            print(f"| {process} | {library} | {share:.1f} % |")


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few records: whether it all runs")
    parser.add_argument("--json", metavar="FILE", help="write what was measured there as well")
    options = parser.parse_args()
    if shutil.which("perf") is None:
        sys.exit("this needs `perf` (Debian, Ubuntu: apt-get install linux-perf)")
    found = run({name: count // 20 if options.quick else count for name, count in RECORDS.items()})
    print(f"{machine()}; 1 KiB records, batches of 100, 2 workers, {HERTZ} samples a second of each processor")
    report(found)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine(), "handlers": found}, file, indent=1)


if __name__ == "__main__":
    main()
