"""`python -m bench.limit`: how fast this machine could be at most, and how far from that streamfn is.

    memory       two processes read memory as fast as they can, and a record is read once: what is made of it is made
                 where the last one's was, in the caches
    the handler  two processes that call the handler on events which were made before, and do nothing else
    bare         two processes that make the events from mapped, checked segments and call it (bench/bare.py)
    streamfn     from the log to durable checkpoints

Records of 1 KiB, batches of 100, interleaved rounds; a ratio is the median of the rounds' ratios.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import orjson

from bench import engine, handlers
from bench.engine import WORKERS, witnessed, write_log
from bench.machine import machine
from bench.records import ready_events

READ_BYTES = 256 << 20  # at once: more than any cache holds
READING_S = 1.0
EVENTS = 200


def at_once(work, *arguments):
    """What so many processes as there are workers return, each started at the same moment."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(WORKERS)
    answers = context.SimpleQueue()

    def run():
        answers.put(work(barrier.wait, *arguments))

    processes = [context.Process(target=run) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def reading(wait):
    memory = bytes(READ_BYTES - 1) + b"."  # `find` is memchr
    wait()
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < READING_S:
        assert memory.find(b".") == READ_BYTES - 1
        times += 1
    return times * READ_BYTES / (time.perf_counter() - began)


def memory():
    """Bytes read per second, of all processes together."""
    return sum(at_once(reading))


def calling(wait, name, batch, rounds):
    handler = getattr(handlers, name)
    events = [orjson.loads(event) for event in ready_events(EVENTS * batch, batch)]
    wait()
    began = time.monotonic_ns()
    for _ in range(rounds):
        for event in events:
            handler(event, None)
    return began, time.monotonic_ns()


def handler_alone(name, batch, records):
    """Records per second through the handler, with events that are there."""
    rounds = max(1, records // (WORKERS * EVENTS * batch))
    with witnessed():
        spans = at_once(calling, name, batch, rounds)
    seconds = (max(end for _, end in spans) - min(began for began, _ in spans)) / 1e9
    return WORKERS * rounds * EVENTS * batch / seconds


def bytes_of_a_record(directory, records, batch):
    """(in the log, in an event)."""
    segments = [path for path in Path(directory).rglob("*.arrow*") if path.suffix in (".arrow", ".arrows")]
    stored = sum(path.stat().st_blocks * 512 for path in segments)
    return stored / records, len(ready_events(batch, batch)[0]) / batch


def run(count, rounds, batch=100):
    """Figures of each handler, as one object."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-limit-") as directory:
        write_log(directory, count)
        in_log, in_event = bytes_of_a_record(directory, count, batch)
        for name in ("noop", "real"):
            measures = {
                "memory": lambda: memory() / in_log,
                "handler": lambda name=name: handler_alone(name, batch, count),
                "bare": lambda name=name: engine.bare(directory, name, count, batch),
                "streamfn": lambda name=name: engine.streamfn(directory, name, count, batch),
            }
            if name == "noop":
                del measures["handler"]  # there is nothing to it
            taken = []
            for number in range(rounds + 1):
                order = list(measures) if number % 2 else list(measures)[::-1]
                rates = {what: measures[what]() for what in order}
                print("  " + name, {what: round(rate) for what, rate in rates.items()}, file=sys.stderr)
                if number:  # the first round is for the page cache
                    taken.append(rates)
            found[name] = {
                what: {
                    "rate": median(rates[what] for rates in taken),
                    "reached": median(rates["streamfn"] / rates[what] for rates in taken),
                }
                for what in measures
            }
    return {"bytes_in_log": in_log, "bytes_in_event": in_event, "batch": batch, "handlers": found}


NAMES = {
    "memory": "reading the log's memory, two processes",
    "handler": "the handler alone, two processes, its events made before",
    "bare": "two bare loops: events made from the log, the handler",
    "streamfn": "streamfn, from log to checkpoint",
}


def report(found):
    for name, figures in found["handlers"].items():
        print(f"\n| {name}, batch {found['batch']} | records/s at most | streamfn reaches |\n|---|---|---|")
        for what, text in NAMES.items():
            if what not in figures:
                continue
            reached = "" if what == "streamfn" else f"**{100 * figures[what]['reached']:.0f} %**"
            print(f"| {text} | {figures[what]['rate']:,.0f} | {reached} |")
    in_log, in_event = found["bytes_in_log"], found["bytes_in_event"]
    print(f"\nA record has {in_log:,.0f} bytes in the log, and {in_event:,.0f} in an event.")


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.limit", description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are printed")
    parser.add_argument("--quick", action="store_true", help="one round, few records: whether it all runs")
    parser.add_argument("--json", metavar="FILE", help="write what was measured there as well")
    options = parser.parse_args()
    count, rounds = (50_000, 1) if options.quick else (options.records, options.rounds)
    print(f"{machine()}; 1 KiB records, 2 workers, medians of {rounds} interleaved rounds")
    found = run(count, rounds)
    report(found)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine(), "rounds": rounds, **found}, file, indent=1)


if __name__ == "__main__":
    main()
