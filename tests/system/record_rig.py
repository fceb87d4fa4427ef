"""Recording in this process, at a pace that tests can wait for; as a program, for those that kill it.

    python record_rig.py URL SOURCE DATA_DIR      records until now
"""

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import trio

from streamfn.capture.captured import CapturedStream
from streamfn.capture.client import Access
from streamfn.capture.opening import open_source
from streamfn.capture.outcome import Bounds
from streamfn.capture.reading import Beginning, Until
from streamfn.capture.recorder import Recorder
from streamfn.capture.target import parse_target
from streamfn.core.backoff import Backoff
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.segment.rows import changes, records
from streamfn.log.shard.reader import ShardReader

MS = 1_000_000
QUICK = {
    "interval_ns": 2 * MS, "idle_interval_ns": 5 * MS, "bytes_per_s": 10**12,
    "throttled": Backoff(5 * MS, max_ns=20 * MS), "transient": Backoff(5 * MS, max_ns=20 * MS),
}  # fmt: skip


def unlimited(live):
    """A live stream that may be asked as often as a test has no time to wait."""
    live.calls_per_s, live.bytes_per_s = 10**9, None
    return live


class Recorded:
    """What one recording did: `result`, and the lines it said."""

    def __init__(self, result, said):
        self.result, self.said = result, said


def record(url, source, data, *, until="now", name=None, begin="TRIM_HORIZON", scenario=None, relist_s=0.05, **bounds):
    """Record to the end; `scenario(recorder)` is an async function that runs beside it."""
    target = parse_target(source)
    opened = open_source(target, Access(endpoint_url=url, region="eu-west-1"))
    now_ms = opened.described.server_ms
    said = []
    with closing(opened.source):
        beginning = Beginning(begin, now_ms if begin == "LATEST" else None) if isinstance(begin, str) else begin
        data_dir = DataDir.open(data, create=True)
        captured = CapturedStream.open(
            data_dir, name or target.name, str(target), opened.described, opened.listed, beginning
        )
        with closing(captured):
            recorder = Recorder(
                opened.source, captured, opened.described, opened.listed, replace(opened.pace, **QUICK),
                Bounds(until=Until(now_ms + 999, now_ms) if until == "now" else until, **bounds), said.append,
                relist_s=relist_s,
            )  # fmt: skip
            return Recorded(trio.run(_both, recorder, scenario), said)


async def _both(recorder, scenario):
    async with trio.open_nursery() as nursery:
        if scenario is not None:
            nursery.start_soon(scenario, recorder)
        result = await recorder.run()
        nursery.cancel_scope.cancel()
    return result


async def until(condition, seconds=10):
    """Wait for a condition, in a scenario."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.005)


def stored(data, name):
    """Every record of a stream, by shard."""
    stream = DataDir.open(data, create=False).stream(name)
    rows = changes if stream.kind == "dynamodb" else records
    found = {}
    for shard in stream.shards:
        found[shard.id] = []
        with ShardReader.open(shard, 0) as reader:
            while messages := reader.poll(1 << 26):
                for message in messages:
                    found[shard.id] += rows(message)
    return found


def numbers(data, name):
    """Every sequence number of a stream, by shard."""
    return {shard: [one.sequence_number for one in found] for shard, found in stored(data, name).items()}


if __name__ == "__main__":
    record(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
