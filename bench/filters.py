"""What filters save: records per second with nine of ten filtered out, against no filter, in one run.

    metadata    DynamoDB changes, one of ten an INSERT; `{"eventName": ["INSERT"]}`, a no-op handler
    data        Kinesis records of JSON, one of ten to buy; `{"data": {"type": ["buy"]}}`, a handler that decodes and
                parses every record it is given

Closed loop: everything is there before the clock starts, workers and scan processes as well; it stops when the last
checkpoint is durable. Counts are checked. Rounds are interleaved, and the medians of the pairs are given.
"""

import json
import os
import sys
import tempfile
import time
from statistics import median

import trio

import streamfn
from bench.machine import machine
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewChange, NewRecord

SHARDS = 4
WORKERS = 2
MESSAGE = 1000

CASES = {
    "metadata": ("noop", {"eventName": ["INSERT"]}, 3.0),
    "data": ("real", {"data": {"type": ["buy"]}}, 1.5),
}


def change(index):
    """An item of an order, of some 500 bytes with its former image."""
    name = "INSERT" if index % 10 == 0 else "MODIFY"
    image = {
        "id": {"S": f"order-{index:08d}"},
        "customer": {"S": f"customer-{index % 1000}"},
        "total": {"N": str(index % 9973)},
        "lines": {"L": [{"M": {"sku": {"S": f"sku-{index % 77}"}, "count": {"N": "2"}}}]},
        "open": {"BOOL": True},
    }
    text = json.dumps(image, separators=(",", ":")).encode()
    keys = b'{"id":{"S":"order-%08d"}}' % index
    return NewChange(name, keys, text, None if name == "INSERT" else text, creation_ms=1_733_418_659_000 + index)


def record(index, size=1024):
    """An order as JSON, of several fields and lines, `size` bytes long."""
    order = {
        "value": index % 97,
        "type": "buy" if index % 10 == 0 else "sell",
        "id": f"order-{index:08d}",
        "customer": {"id": index % 1000, "name": f"customer {index % 1000}", "since": "2024-12-05T17:10:59Z"},
        "lines": [{"sku": f"sku-{(index + line) % 77}", "count": line, "price": 9.95} for line in range(8)],
        "note": "",
    }
    text = json.dumps(order)
    order["note"] = "n" * (size - len(text))
    return NewRecord(json.dumps(order).encode(), f"key-{index % 1000}")


def write(directory, kind, count):
    stream = DataDir.open(directory, create=True).create_stream(kind, SHARDS, kind=kind)
    make = change if kind == "dynamodb" else record
    for place, shard in enumerate(stream.shards):
        with ShardWriter.open(shard) as writer:
            append = writer.append_changes if kind == "dynamodb" else writer.append
            for first in range(place, count, SHARDS * MESSAGE):
                append([make(index) for index in range(first, min(count, first + SHARDS * MESSAGE), SHARDS)])


async def once(session, stream, handler, count, pattern):
    """Records per second from the run's begin to its last durable checkpoint."""
    options = {"filter_criteria": {"Filters": [{"Pattern": json.dumps(pattern)}]}} if pattern else {}
    name = f"{stream}-{time.monotonic_ns()}"
    async with session.mapping(
        f"bench.handlers.{handler}", stream, name=name, workers=WORKERS, code_dir=".", logs="none", **options
    ) as mapping:
        began = time.perf_counter()
        result = await mapping.run_until_caught_up()
        seconds = time.perf_counter() - began
    wanted = -(-count // 10) if pattern else count
    assert (result.records, result.filtered) == (wanted, count - wanted), result
    return count / seconds


async def measure(count, rounds, chosen):
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-filters-") as directory:
        os.environ["BENCH_WITNESS"] = directory
        async with streamfn.open(directory + "/data") as session:
            for case in chosen:
                handler, pattern, bar = CASES[case]
                kind = "dynamodb" if case == "metadata" else "kinesis"
                await trio.to_thread.run_sync(write, directory + "/data", kind, count)
                pairs = []
                for number in range(rounds + 1):
                    pair = [await once(session, kind, handler, count, each) for each in (None, pattern)]
                    if number:  # the first one is for the page cache
                        pairs.append(pair)
                    print(f"  {case}: none {pair[0]:,.0f}/s  filter {pair[1]:,.0f}/s", file=sys.stderr)
                plain, filtered = (median(column) for column in zip(*pairs, strict=True))
                rows.append((case, plain, filtered, median(b / a for a, b in pairs), bar))
    return rows


def main(count, rounds, chosen):
    print(f"{machine()}; {WORKERS} workers, {count:,} records, {rounds} rounds")
    print("| filter | no filter, records/s | filter, records/s | ratio | bar |\n|---|---|---|---|---|")
    for case, plain, filtered, ratio, bar in trio.run(measure, count, rounds, chosen):
        print(f"| {case} | {plain:,.0f} | {filtered:,.0f} | {ratio:.2f} | {bar} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400_000, 5, sys.argv[2:] or list(CASES))
