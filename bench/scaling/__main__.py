"""`python -m bench.scaling [sizes|shards|mappings|backlog ...]`: throughput and memory, one thing varied at a time.

Batches of 100, a no-op handler, 2 workers, from the log to durable checkpoints. A rate is timed by the handlers
themselves, from the first start of any invocation to the last end of any. The rungs of a ladder are climbed once a
round, so that a slow moment falls on all of them; medians are printed.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from bench.machine import machine
from bench.scaling.ladders import LADDERS

QUICK_SHARE = 0.02


def climb(ladder, directory, rounds, quick):
    """The rows of a ladder."""
    rungs = []
    for at in ladder.quick if quick else ladder.rungs:
        rungs.append(ladder.build(directory / f"{ladder.name}-{at}", at, QUICK_SHARE if quick else 1))
    runs = {rung: [] for rung in rungs}
    besides = {rung: [] for rung in rungs}
    for number in range(rounds + 1):
        for rung in rungs:
            last = ladder.run(rung)
            print(f"  {ladder.name} {rung.at:,}: {last.rate:,.0f}/s in {last.seconds:.2f} s", file=sys.stderr)
            if number:  # the first round is for the page cache
                runs[rung].append(last)
                besides[rung].append(ladder.beside(rung, last))
    for rung in rungs:
        shutil.rmtree(rung.data_dir)
    return [ladder.row(rung, runs[rung], besides[rung]) for rung in rungs]


def report(ladder, rows):
    print(f"\n| {ladder.title} | {' | '.join(ladder.columns)} |")
    print("|---" * (1 + len(ladder.columns)) + "|")
    for row in rows:
        print(f"| {row['at']:,} | {' | '.join(ladder.cells(row))} |", flush=True)


def main():
    names = [ladder.name for ladder in LADDERS]
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("ladders", nargs="*", metavar="LADDER", help=f"some of: {' '.join(names)} (all)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are printed")
    parser.add_argument("--quick", action="store_true", help="one round, few rungs and records: whether it all runs")
    parser.add_argument("--dir", default=None, help="where the logs are written (some 4 GB at a time)")
    parser.add_argument("--json", metavar="FILE", help="write what was measured there as well")
    options = parser.parse_args()
    if unknown := set(options.ladders) - set(names):
        parser.error(f"there is no ladder {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    rounds = 1 if options.quick else options.rounds
    print(f"{machine()}; no-op handler, batches of 100, 2 workers, medians of {rounds} rounds")
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-scaling-", dir=options.dir) as directory:
        for ladder in LADDERS:
            if ladder.name in (options.ladders or names):
                found[ladder.name] = climb(ladder, Path(directory), rounds, options.quick)
                report(ladder, found[ladder.name])
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine(), "rounds": rounds, "ladders": found}, file, indent=1)


if __name__ == "__main__":
    main()
