"""What the features of event source mappings cost where they are on, and where they are off.

    off        this engine against that of another checkout (`--against DIR`, with its own `.venv`), no features on
    failures   bisecting, ReportBatchItemFailures and a retry limit on, and no failures, against none of them
    lanes      one shard with factor 10 against two shards with factor 1; two workers each

Closed loop, timed by the handlers themselves from the first start of any invocation to the last end of any; sums are
checked. The two of a pair run one after the other, in turns first; the medians of the pairs' ratios are given. `cpu` is
the same from the processor time of all processes, starting and ending included: where something else uses the machine
it is steadier, and for short runs it says less.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import handlers
from bench.engine import ROOT, WORKERS, witnessed, write_log
from bench.machine import machine
from bench.records import checksum

FAILURES = (
    "--bisect-batch-on-function-error",
    *("--function-response-types", "ReportBatchItemFailures", "--maximum-retry-attempts", "3"),
)


class Side(NamedTuple):
    """One of the two that are compared: a checkout, its data, and options of `run`."""

    root: Path
    data_dir: str
    handler: str
    batch: int
    options: tuple[str, ...] = ()

    def run(self, count):
        """(records per second, records per second of processor time)."""
        python = self.root / ".venv" / "bin" / "python"
        with witnessed() as directory:
            command = [python if self.root != ROOT else sys.executable, "-m", "streamfn", "run"]
            command += [f"bench.handlers.{self.handler}", "--stream", "bench", "--data-dir", self.data_dir]
            command += ["--batch-size", str(self.batch), "--workers", str(WORKERS), "--until-caught-up", "--json"]
            command += ["--name", f"bench-{time.monotonic_ns()}", *self.options]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, cwd=self.root, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            records, total, seconds = handlers.read_witnesses(directory)
        expected = count if self.handler.startswith("noop") else checksum(count)
        assert (records, total) == (count, expected), (self, records, total)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return records / seconds, records / cpu


def compare(what, one, other, count, rounds):
    """A row of the table: how `other` does against `one`."""
    pairs = []
    for number in range(rounds + 1):
        sides = [one, other] if number % 2 else [other, one]
        found = {side: side.run(count) for side in sides}
        if number:  # the first round is for the page cache
            pairs.append((found[one], found[other]))
        walls = f"{found[one][0]:,.0f}/s against {found[other][0]:,.0f}/s"
        print(f"  {what}, {other.handler} {other.batch}: {walls}", file=sys.stderr)
    base, ours = (median(pair[side][0] for pair in pairs) for side in (0, 1))
    wall, cpu = (median(b[clock] / a[clock] for a, b in pairs) for clock in (0, 1))
    print(
        f"| {what}, {other.handler} | {other.batch} | {base:,.0f} | {ours:,.0f} | {wall:.3f} | {cpu:.3f} |", flush=True
    )


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.features", description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=400_000, help="records in each log, 1 KiB each")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of runs; medians are printed")
    parser.add_argument("--against", type=Path, help="another checkout, installed into its .venv")
    parser.add_argument("--only", choices=["off", "failures", "lanes"], help="one of the comparisons")
    parser.add_argument("--batch", type=int, action="append", help="batch sizes (100 and 1)")
    options = parser.parse_args()
    count, rounds = options.records, options.rounds
    batches = options.batch or [100, 1]
    print(f"{machine()}; {WORKERS} workers, {count:,} records of 1 KiB, {rounds} pairs\n")
    print("| | batch | records/s | records/s | ratio | cpu |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-features-") as directory:
        if options.only in (None, "off", "failures"):
            write_log(f"{directory}/four", count)
        if options.against is not None and options.only in (None, "off"):
            theirs = f"{directory}/theirs"
            write = f"from bench.engine import write_log; write_log({theirs!r}, {count})"
            root = options.against.resolve()
            subprocess.run([root / ".venv" / "bin" / "python", "-c", write], cwd=root, check=True)
            for batch in batches:
                for handler in ["noop", "real"] if batch > 1 else ["noop"]:
                    old = Side(root, theirs, handler, batch)
                    compare("off", old, Side(ROOT, f"{directory}/four", handler, batch), count, rounds)
        if options.only in (None, "failures"):
            for batch in batches:
                for handler in ["noop_reports", "real_reports"] if batch > 1 else ["noop_reports"]:
                    plain = Side(ROOT, f"{directory}/four", handler, batch)
                    compare("failures", plain, plain._replace(options=FAILURES), count, rounds)
        if options.only in (None, "lanes"):
            write_log(f"{directory}/one", count, shards=1)
            write_log(f"{directory}/two", count, shards=2)
            for batch in batches:
                for handler in ["noop", "real"] if batch > 1 else ["noop"]:
                    two = Side(ROOT, f"{directory}/two", handler, batch)
                    factor = two._replace(data_dir=f"{directory}/one", options=("--parallelization-factor", "10"))
                    compare("lanes", two, factor, count, rounds)


if __name__ == "__main__":
    if (os.cpu_count() or 1) < 2:
        sys.exit("this benchmark needs two cores: two workers and the runtime share them")
    main()
