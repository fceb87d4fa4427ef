"""The event builder against `orjson.loads` of the same event as ready JSON, on one core, in one run."""

import contextlib
import tempfile
import time
from statistics import median

import orjson

from bench.engine import write_log
from bench.records import SOURCE, ready_events
from streamfn import _events
from streamfn._native import ffi
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.reader import ShardReader
from streamfn.mapping.pieces import Piece

BATCH = 100


def build_rate(piece, segments, rows):
    """Records per second of `_events.build`, over pages that have been touched before."""
    began = time.perf_counter()
    for first in range(piece.first, piece.first + rows, BATCH):
        extent = piece.aim(first, BATCH)
        _events.build(int(ffi.cast("uintptr_t", extent)), 1, segments)
    return rows / (time.perf_counter() - began)


def loads_rate(events):
    began = time.perf_counter()
    for event in events:
        orjson.loads(event)
    return len(events) * BATCH / (time.perf_counter() - began)


def run(rounds):
    """(builder, orjson.loads, ratio) in records per second, medians over interleaved rounds."""
    with tempfile.TemporaryDirectory(prefix="bench-log-") as directory:
        write_log(directory, 16_000)
        shard = DataDir.open(directory, create=False).stream("bench").shards[0]
        with contextlib.closing(ShardReader.open(shard, 0)) as reader:
            message = reader.poll(1 << 30)[0]
            source = _events.Source(*SOURCE)
            segments = {message.segment.id: _events.Segment(source, message.segment.address, message.segment.size)}
            piece = Piece(message, message.first_offset, message.first_offset + message.rows, 0, None)
            rows = message.rows // BATCH * BATCH
            ready = ready_events(rows, BATCH)
            build_rate(piece, segments, rows)
            pairs = [(build_rate(piece, segments, rows), loads_rate(ready)) for _ in range(rounds * 5)]
    return median(p[0] for p in pairs), median(p[1] for p in pairs), median(p[0] / p[1] for p in pairs)
