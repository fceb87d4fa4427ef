"""The handlers that everything here is measured with, and the witness by which they count for themselves.

Each process that runs a handler keeps three numbers in a file of its own: when its first invocation began, when its
last one ended, and how many records it has seen. Nobody else's word is taken for what was done.
"""

import base64
import mmap
import os
import struct
import time

import orjson

LAYOUT = struct.Struct("<qqqq")  # first start ns, last end ns, records, checksum


class Witness:
    def __init__(self):
        self.map = None
        self.first = self.records = self.checksum = 0

    def open(self):
        path = os.path.join(os.environ["BENCH_WITNESS"], f"{os.getpid()}.witness")
        with open(path, "w+b") as file:
            file.truncate(LAYOUT.size)
            self.map = mmap.mmap(file.fileno(), LAYOUT.size)

    def note(self, began, records, value):
        if not records:
            return  # an event to warm up with
        if self.map is None:
            self.open()
            self.first = began
        self.records += records
        self.checksum += value
        LAYOUT.pack_into(self.map, 0, self.first, time.monotonic_ns(), self.records, self.checksum)


witness = Witness()


def noop(event, context):
    began = time.monotonic_ns()
    count = len(event["Records"])
    witness.note(began, count, count)
    return count


def real(event, context):
    began = time.monotonic_ns()
    total = 0
    for record in event["Records"]:
        total += orjson.loads(base64.b64decode(record["kinesis"]["data"]))["value"]
    witness.note(began, len(event["Records"]), total)
    return total


def noop_reports(event, context):
    noop(event, context)
    return {"batchItemFailures": []}


def real_reports(event, context):
    real(event, context)
    return {"batchItemFailures": []}


def read_witnesses(directory):
    """(records, checksum, seconds from the first start to the last end) over all processes."""
    records, checksum, first, last = read_span(directory)
    return records, checksum, (last - first) / 1e9


def read_span(directory):
    """(records, checksum, first start, last end) over all processes, in nanoseconds of the monotonic clock."""
    rows = []
    for name in os.listdir(directory):
        if name.endswith(".witness"):
            with open(os.path.join(directory, name), "rb") as file:
                rows.append(LAYOUT.unpack(file.read()))
    if not rows:
        return 0, 0, 0, 0
    return (
        sum(row[2] for row in rows),
        sum(row[3] for row in rows),
        min(row[0] for row in rows),
        max(row[1] for row in rows),
    )
