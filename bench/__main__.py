"""`python -m bench [--records N] [--rounds N] [--quick]`: the table of docs/performance.md."""

import argparse
import os
import sys

from bench import builder, engine, roundtrip
from bench.machine import machine


def main():
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--records", type=int, default=400_000, help="records in the log (1 KiB each, 4 shards)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are printed")
    options = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        sys.exit("this benchmark needs two cores: two workers and the runtime share them")
    print(f"{machine()}; 1 KiB records, 4 shards, 2 workers, medians of {options.rounds} interleaved rounds\n")
    rows = engine.run(options.records, options.rounds)
    print(
        "| from log to checkpoint | floor, one process | ProcessPoolExecutor(2) | two bare loops | streamfn "
        "| : floor | : bare |"
    )
    print("|---|---|---|---|---|---|---|")
    for case, base, pool, bare, ours, to_floor, to_bare in rows:
        second = f" (bar {case.bare_bar})" if case.bare_bar else ""
        print(
            f"| {case.name}, batch {case.batch} | {base:,.0f}/s | {pool:,.0f}/s | {bare:,.0f}/s | {ours:,.0f}/s "
            f"| **{to_floor:.2f}** (bar {case.bar}) | **{to_bare:.2f}**{second} |"
        )
    built, loaded, ratio = builder.run(options.rounds)
    print("\n| event of 100 records, one core | records/s |\n|---|---|")
    print(
        f"| built from columns | {built:,.0f} |\n| orjson.loads of ready JSON | {loaded:,.0f} |\n"
        f"| ratio | **{ratio:.2f}** |"
    )
    ours, bare, ratio = roundtrip.run(options.rounds)
    print("\n| round trip under Trio, p50 | µs |\n|---|---|")
    print(
        f"| one batch through the pool | {ours:.1f} |\n| bare eventfd echo | {bare:.1f} |\n"
        f"| ratio | **{ratio:.2f}** (bar 1.5) |"
    )


if __name__ == "__main__":
    main()
