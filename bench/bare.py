"""Two bare loops side by side: what two processes could do at most if nothing had to be handed over.

    mapped segments ──▶ native build ──▶ handler        (two processes, half of the shards each; no ring, no runtime)

Everything else has been done before the clock starts: the log is open, its CRCs are checked, its pages are mapped.
Timed by the handlers themselves, as streamfn is: from the first start of any invocation to the last end of any.
"""

import contextlib
import gc
import os
import sys
import traceback

from bench import handlers
from streamfn import _events
from streamfn._native import ffi
from streamfn.events.kinesis import KinesisSource
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.reader import ShardReader
from streamfn.mapping.pieces import Piece

SOURCE = KinesisSource(
    "arn:aws:kinesis:us-east-1:000000000000:stream/bench",
    "us-east-1",
    "shardId-000000000000",
    "arn:aws:iam::000000000000:role/lambda-role",
)


def _prepare(files, data_dir, number, processes, batch):
    """Return the batches of this process's shards as (bytes of an extent, segments)."""
    extents, segments = [], {}
    source = _events.Source(*SOURCE)
    for shard in DataDir.open(data_dir, create=False).stream("bench").shards[number::processes]:
        reader = files.enter_context(contextlib.closing(ShardReader.open(shard, 0)))
        while messages := reader.poll(1 << 30):
            for message in messages:
                segment = message.segment
                if segment.id not in segments:
                    segment.retain()  # the reader goes on to the next one
                    segments[segment.id] = _events.Segment(source, segment.address, segment.size)
                piece = Piece(message, message.first_offset, message.first_offset + message.rows, 0, None)
                for first in range(piece.first, piece.end, batch):
                    extents.append(bytes(ffi.buffer(piece.aim(first, min(batch, piece.end - first)))))
    return extents, segments


def _loop(handler, data_dir, number, processes, batch, ready, go):
    with contextlib.ExitStack() as files:
        extents, segments = _prepare(files, data_dir, number, processes, batch)
        size = ffi.sizeof("sf_extent")
        block = ffi.from_buffer(b"".join(extents))
        where = int(ffi.cast("uintptr_t", block))
        build = _events.build
        gc.collect()
        gc.freeze()
        os.write(ready, b".")
        os.read(go, 1)
        for at in range(where, where + len(extents) * size, size):
            handler(build(at, 1, segments), None)


def side_by_side(data_dir, name, batch, processes=2):
    """Run that many loops at once; what they did is in the directory that BENCH_WITNESS names."""
    handler = getattr(handlers, name)
    came, ready = os.pipe()
    start, go = os.pipe()
    children = []
    for number in range(processes):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _loop(handler, data_dir, number, processes, batch, ready, start)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(pid)
    for _ in children:
        assert os.read(came, 1)
    os.write(go, b"." * processes)
    ended = [os.waitpid(pid, 0)[1] for pid in children]
    for fd in (came, ready, start, go):
        os.close(fd)
    assert not any(ended), ended


if __name__ == "__main__":
    side_by_side(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
