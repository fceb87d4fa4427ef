"""Logs of any shape, written fast: whole columns, the same chunk again and again."""

import pyarrow as pa

from bench.records import payload
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.writer import ShardWriter

CHUNK_BYTES = 16 << 20


def fill(directory, name, count, size, shards):
    """Fill a stream with some `count` records of `size` bytes each; return the stream, and how many."""
    stream = DataDir.open(directory, create=True).create_stream(name, shards)
    each = max(1, count // shards)
    distinct = max(1, min(each, CHUNK_BYTES // size))
    data = pa.array([payload(index, size) for index in range(distinct)], pa.binary())
    keys = pa.array([f"key-{index % 1000}" for index in range(distinct)])
    for shard in stream.shards:
        with ShardWriter.open(shard) as writer:
            for first in range(0, each, distinct):
                rows = min(distinct, each - first)
                writer.append_columns(data[:rows], keys[:rows])
            writer.commit()
    return stream, each * shards
