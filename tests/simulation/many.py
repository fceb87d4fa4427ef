"""Run many seeds by hand, on every processor: `python tests/simulation/many.py 0:100000`.  Says which of them fail."""

from __future__ import annotations

import os
import sys
import time
from multiprocessing import Pool

from plan import Plan
from world import World

BLOCK = 100


def run(first: int) -> tuple[int, int, list[str]]:
    """Run a block of seeds: how many events there were, how long draining took at most (ns), and what was found."""
    events, drained_ns, found = 0, 0, []
    for seed in range(first, first + BLOCK):
        world = World(Plan.draw(seed))
        try:
            violations = [str(violation) for violation in world.run()]
        except AssertionError as error:
            violations = [f"AssertionError: {error}"]
        events += len(world.history)
        drained_ns = max(drained_ns, world.drained_ns)
        found += [f"seed {seed}: {violations[0]} in the world of {world.plan}"] if violations else []
    return events, drained_ns, found


def main() -> int:
    """Returns the exit code: 1 if any seed fails."""
    first, end = (int(part) for part in sys.argv[1].split(":"))
    processes = int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count()
    began, events, drained_ns, failures = time.monotonic(), 0, 0, []
    with Pool(processes) as pool:
        for done, (more, longest_ns, found) in enumerate(pool.imap_unordered(run, range(first, end, BLOCK)), 1):
            events += more
            drained_ns = max(drained_ns, longest_ns)
            failures += found
            print(*found, sep="\n", end="\n" if found else "", flush=True)
            if done % 50 == 0:
                print(f"{done * BLOCK} seeds, {len(failures)} failures", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    print(f"{end - first} seeds, {events} events, {len(failures)} failures, {seconds:.0f} s")
    print(f"from the end of the faults to the end of all work: at most {drained_ns / 1e9:.1f} s of virtual time")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
