"""What the engine's tests share: sessions of the library, and a look at what is behind them."""

from contextlib import asynccontextmanager

import trio
from library_rig import FUNCTIONS

import streamfn

SHARD = "shardId-000000000000"
PATIENCE_S = 10.0


def some(count, size=20):
    return [streamfn.NewRecord(b"x" * size, f"key-{number}") for number in range(count)]


def mapping_of(session, handler, stream="s", **options):
    return session.mapping(f"engine.{handler}", stream, **{"workers": 1, "code_dir": FUNCTIONS, **options})


@asynccontextmanager
async def one_mapping(path, handler, records=(), *, log=None, **options):
    """(session, mapping) of a handler of functions/engine.py, on the stream `s` with these records."""
    async with streamfn.open(path / "d", log=log) as session:
        if records:
            await session.put_many("s", records)
        else:
            await session.create_stream("s")
        async with mapping_of(session, handler, **options) as mapping:
            yield session, mapping


async def until(condition):
    """Poll until `condition()` is true; fail after a deadline."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.001)


async def stored(session, mapping):
    """The durable checkpoint of the mapping's first shard."""
    return (await session._runtime.disk(session._runtime.store.checkpoints, mapping._inner.uuid))[SHARD].offset


def end_of(mapping):
    return mapping._inner.feeds[0].end


class Log:
    """A log that keeps what it is given."""

    text = ""

    def write(self, text):
        self.text += text
