"""`python -m bench.peers [--python .peers/bin/python]`: streamfn and what somebody would pick instead, side by side.

The same records of 1 KiB, the same handlers, the same machine, in turns, two worker processes each where a peer can
have two. Everything is timed by the handlers themselves, from the first start of any invocation to the last end of
any, and what they saw is counted and summed. streamfn starts from its log and ends with durable checkpoints; the others
start with ready-made JSON in memory. Medians of the rounds; a ratio is the median of the rounds' ratios.
"""

import argparse
import json
import os
import sys
import tempfile
from statistics import median, quantiles

from bench import roundtrip
from bench.machine import machine
from bench.peers.roster import ABSENT, BEST_BAR, CASES, PEERS, STREAMFN
from bench.peers.running import NotHereError, Place, write_material

QUICK = {"records": 100_000, "rounds": 1, "share": 0.2}


def best_ways(place, case, peers, share):
    """{peer: its fastest way}, of those that run here, and {peer: why it does not}. This is the round nobody counts."""
    ways, absent = {}, {}
    for peer in peers:
        try:
            rates = {way: place.run(peer, way, case, share).rate for way in peer.ways}
        except NotHereError as reason:
            absent[peer] = str(reason)
            continue
        ways[peer] = max(rates, key=rates.get)
        said = "  ".join(f"{way.key} {rate:,.0f}/s" for way, rate in rates.items())
        print(f"  {case}: {peer.name}: {said}", file=sys.stderr)
    return ways, absent


def measure(place, case, peers, rounds, share):
    """The rows of a case, and who is absent."""
    ways, absent = best_ways(place, case, peers, share)
    rates = {peer: [] for peer in ways}
    versions = {}
    for number in range(rounds):
        order = [*ways][number % len(ways) :] + [*ways][: number % len(ways)]
        for peer in order:
            run = place.run(peer, ways[peer], case, share)
            rates[peer].append(run.rate)
            versions |= run.versions
        said = "  ".join(f"{peer.name} {rates[peer][-1]:,.0f}" for peer in ways)
        print(f"  {case}, round {number + 1}: {said}", file=sys.stderr)
    ours = rates[STREAMFN]
    rivals = [peer for peer in ways if peer.rival and peer is not STREAMFN]
    best = max(rivals, key=lambda peer: median(rates[peer]), default=None)
    rows = []
    for peer, way in ways.items():
        ratio = median(mine / theirs for mine, theirs in zip(ours, rates[peer], strict=True))
        bar = peer.bars.get(case)
        if peer is best and BEST_BAR.get(case):
            bar = max(bar or 0, BEST_BAR[case])
        rows.append(
            {
                "peer": peer.name,
                "has": peer.has,
                "way": way.text,
                "why": way.why,
                "rates": rates[peer],
                "rate": median(rates[peer]),
                "ratio": None if peer is STREAMFN else ratio,
                "bar": bar,
                "met": None if bar is None else ratio >= bar,
                "rival": peer.rival,
            }
        )
    return {"handler": case.handler, "batch": case.batch, "rows": rows}, absent, versions


def latencies(place, peers):
    """Round trips of one record: p50 and p99 in microseconds."""
    rows = [("streamfn: a batch through the pool", [1000 * each for each in roundtrip.trips()])]
    for peer in peers:
        if peer.rival and peer.calls and peer.module:
            try:
                rows.append((peer.name, place.latency(peer)))
            except NotHereError:
                continue
    found = []
    for name, times in rows:
        cuts = quantiles(times, n=100)
        found.append({"peer": name, "p50_us": cuts[49] / 1000, "p99_us": cuts[98] / 1000})
    return found


def run(options):
    """Everything, as one object."""
    peers = [STREAMFN, *(peer for peer in PEERS if not options.only or peer.module[3:] in options.only)]
    cases, absent, versions = [], {}, {}
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as directory:
        place = Place(options.python, f"{directory}/ready", f"{directory}/log", options.records)
        write_material(place, CASES)
        for case in CASES:
            able = [peer for peer in peers if case in peer.records and peer not in absent]
            found, missing, said = measure(place, case, able, options.rounds, options.share)
            cases.append(found)
            absent |= missing
            versions |= said
        trips = latencies(place, [peer for peer in peers if peer not in absent])
    gone = {peer.name: reason for peer, reason in absent.items()}
    return {"cases": cases, "round_trips": trips, "absent": gone | ABSENT, "versions": versions}


def number(rate):
    """Records per second, or a ratio, to three digits."""
    if rate >= 100:
        digits = max(0, len(str(int(rate))) - 3)
        return f"{round(rate, -digits):,.0f}"
    return f"{rate:#.3g}".rstrip(".")


def report(found):
    """Print the tables."""
    for case in found["cases"]:
        title = f"{case['handler']}, batch {case['batch']}"
        print(f"\n| {title} | records/s | lowest to highest | streamfn : it | bar | its best way |")
        print("|---|---|---|---|---|---|")
        for row in case["rows"]:
            spread = f"{number(min(row['rates']))} to {number(max(row['rates']))}"
            ratio = "" if row["ratio"] is None else f"**{number(row['ratio'])}**"
            bar = "" if row["bar"] is None else f"{row['bar']}: {'met' if row['met'] else '**missed**'}"
            way = f"[{row['way']}]({row['why']})" if row["why"] else row["way"]
            print(f"| {row['peer']} | {number(row['rate'])} | {spread} | {ratio} | {bar} | {way} |")
    print("\n| one record there and back | p50 | p99 |\n|---|---|---|")
    for row in found["round_trips"]:
        print(f"| {row['peer']} | {row['p50_us']:,.0f} µs | {row['p99_us']:,.0f} µs |")
    print("\n| who | what it does and does not |\n|---|---|")
    for row in found["cases"][0]["rows"]:
        print(f"| {row['peer']} | {row['has']} |")
    for name, reason in found["absent"].items():
        print(f"| {name} | not measured: {reason} |")
    print("\nVersions: " + ", ".join(f"{name} {version}" for name, version in sorted(found["versions"].items())))


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environment with the peers")
    parser.add_argument(
        "--records", type=int, default=1_000_000, help="records in streamfn's log (1 KiB each, 4 shards)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are printed")
    parser.add_argument("--only", nargs="+", metavar="PEER", help="some of the peers: process_pool trio_parallel ...")
    parser.add_argument("--quick", action="store_true", help="one round, few records: whether it all runs")
    parser.add_argument("--json", metavar="FILE", help="write what was measured there as well")
    options = parser.parse_args()
    options.share = 1.0
    if options.quick:
        vars(options).update(QUICK)
    if (os.cpu_count() or 1) < 2:
        sys.exit("this benchmark needs two cores")
    print(f"{machine()}; 1 KiB records, {options.rounds} interleaved rounds")
    found = run(options)
    report(found)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine(), "rounds": options.rounds, **found}, file, indent=1)


if __name__ == "__main__":
    main()
