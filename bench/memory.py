"""`python -m bench.memory [--records N] [--appends N]`: how much memory grows with the records that went through.

RssAnon + RssShmem of the runtime and of each worker, sampled while `streamfn run` delivers N records of 1 KiB, and
of this process while it appends records one by one. Pages of the log that are merely mapped are the page cache's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

import streamfn
from bench.engine import ROOT, witnessed, write_log
from bench.records import payload


def resident_kib(pid):
    total = 0
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1])
    return total


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def watch(process, together=4, interval_s=0.05):
    """{role: (first KiB, highest KiB)} until the process ends; the first ones are of when so many were there."""
    seen = {}
    while process.poll() is None:
        try:
            pids = [process.pid, *children(process.pid)]
            for place, pid in enumerate(pids):
                role = ("runtime", "zygote", *(f"worker {n}" for n in range(64)))[place]
                now = resident_kib(pid)
                if len(pids) == together or role in seen:
                    first, highest = seen.get(role, (now, now))
                    seen[role] = (first, max(highest, now))
        except (OSError, ValueError):
            pass  # a process ended while it was looked at
        time.sleep(interval_s)
    return seen


def run_growth(records):
    """{role: (first KiB, highest KiB)} while the records go through."""
    with tempfile.TemporaryDirectory(prefix="bench-log-", dir=os.environ.get("BENCH_TMP")) as directory, witnessed():
        write_log(directory, records)
        command = [sys.executable, "-m", "streamfn", "run", "bench.handlers.noop", "--stream", "bench"]
        command += ["--data-dir", directory, "--until-caught-up", "--json", "--workers", "2"]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        seen = watch(child)
        print(child.stdout.read().decode().strip(), file=sys.stderr)
    return seen


async def _append(records):
    with tempfile.TemporaryDirectory(prefix="bench-log-") as directory:
        async with streamfn.open(directory) as session:
            await session.create_stream("bench", shards=4)
            first = 0

            async def putter(start):
                nonlocal first
                for index in range(start, records, 64):
                    await session.put("bench", payload(index), partition_key=f"key-{index % 1000}")
                    if index == records // 20:
                        first = resident_kib(os.getpid())

            async with trio.open_nursery() as nursery:
                for start in range(64):
                    nursery.start_soon(putter, start)
            return first, resident_kib(os.getpid())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--appends", type=int, default=1_000_000)
    options = parser.parse_args()
    print("| process | at first, MB | highest, MB | growth, MB | per million records, MB |\n|---|---|---|---|---|")
    rows = []
    if options.records:
        rows += [(f"{role}, run", *kib, options.records) for role, kib in run_growth(options.records).items()]
    if options.appends:
        rows.append(("appending one by one", *trio.run(_append, options.appends), options.appends))
    for role, first, highest, count in rows:
        grown = (highest - first) / 1024
        print(f"| {role} | {first / 1024:.1f} | {highest / 1024:.1f} | {grown:.1f} | {grown / count * 1e6:.1f} |")


if __name__ == "__main__":
    main()
