"""`python -m bench.histogram [--values N] [--rounds N]`: what it costs to record a latency.

Topology: one process, one histogram. Values are drawn before the clock runs, log-normal around 60 µs as latencies are,
so that they fall into many buckets (their counts do not fit the first-level cache); one row has all values alike, one
has them all over the range. A row is the median of some rounds, less than a nanosecond of which is the loop. Then what
a measured run pays for a record, from its due time to two values recorded, in batches of 1,000; and a call through cffi
for each value, as Python code outside of the hot path does it.
"""

import argparse
import random
import statistics
import time
from array import array

from bench.machine import machine
from streamfn._native import ffi, lib
from streamfn.measure.histogram import HIGHEST_NS, new_histogram, total

LIMIT_NS = 15  # what a record may cost
BATCH = 1000


def values(count):
    """{name: values in nanoseconds}"""
    dice = random.Random(1)
    return {
        "log-normal around 60 µs": array("Q", (int(dice.lognormvariate(11, 1)) for _ in range(count))),
        "all alike": array("Q", [60_000]) * count,
        "all over the range": array("Q", (int(2 ** dice.uniform(0, 42)) for _ in range(count))),
    }


def per_record_ns(record, rounds, count):
    """Median over the rounds; `record(histogram)` records `count` values."""
    found = []
    for _ in range(rounds):
        histogram = new_histogram()
        record(histogram)  # its pages are there, and its counts in whichever cache they fit
        began = time.perf_counter_ns()
        record(histogram)
        found.append((time.perf_counter_ns() - began) / count)
        if total(histogram) != 2 * count:
            raise SystemExit(f"{total(histogram)} of {2 * count} values were recorded")
    return statistics.median(found)


def per_due_record_ns(latencies, rounds):
    """What a measured run pays for each record: its due time put into a lane's queue, two values recorded from it."""
    count = len(latencies)
    end_ns = 2 * HIGHEST_NS
    due = array("q", (end_ns - value for value in latencies))
    meter = ffi.gc(lib.sf_meter_new(), lib.sf_meter_free)
    found = []
    for _ in range(rounds):
        queue = ffi.gc(lib.sf_due_new(), lib.sf_due_free)
        began = time.perf_counter_ns()
        for first in range(0, count, BATCH):
            batch = ffi.from_buffer("int64_t[]", due[first : first + BATCH])
            lib.sf_due_offer(queue, first, batch, len(batch))
            lib.sf_due_pass(queue, meter, first + len(batch), end_ns - HIGHEST_NS // 2, end_ns)
        found.append((time.perf_counter_ns() - began) / count)
    if total(lib.sf_meter_stage(meter, lib.SF_LATENCY)) != rounds * count:
        raise SystemExit("records got lost on the way")
    return statistics.median(found)


def run(count, rounds):
    """[(what, ns a record)]"""
    drawn = values(count)
    usual = drawn["log-normal around 60 µs"]
    some = usual[: count // 20]
    ways = {}
    for name, these in drawn.items():
        pointer = ffi.from_buffer("uint64_t[]", these)
        ways[name] = lambda h, p=pointer: lib.sf_histogram_record_each(h, p, count)
    rows = [(name, per_record_ns(record, rounds, count)) for name, record in ways.items()]
    rows.append(("latency and waiting of a record that was due", per_due_record_ns(usual, rounds)))

    def one_by_one(histogram, record=lib.sf_histogram_record):
        for value in some:
            record(histogram, value)

    return [*rows, ("one call through cffi each", per_record_ns(one_by_one, rounds, len(some)))]


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.histogram", description=__doc__)
    parser.add_argument("--values", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"{machine()}; HdrHistogram(1, {HIGHEST_NS}, 3), medians of {options.rounds} rounds\n")
    print(f"| {options.values:,} values | ns a record |\n|---|---|")
    for name, cost in run(options.values, options.rounds):
        print(f"| {name} | {cost:.1f} |")
    print(f"\nIn C a record may cost {LIMIT_NS} ns.")


if __name__ == "__main__":
    main()
