"""Appending to streams: one producer for each, made at the first put and let go when nobody puts any more.

While a producer is open it holds the locks of the shards it writes to, and no other process can write there. A program
that puts now and then must not keep the others out for good, so an idle producer is closed.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable
from typing import NamedTuple

import trio

from streamfn.errors import DiskFull, LogError, PoolClosed, RefusedError
from streamfn.limits import MIB
from streamfn.log.datadir import DataDir
from streamfn.log.producer import Producer
from streamfn.types import NewRecord

# With less than this queued, a put never waits for room in the producer's queue of 64 MiB.
PUT_NOW_BYTES = 16 * MIB

# Less than the 5 s that another process waits for a shard's lock.
IDLE_S = 1.0


class Put(NamedTuple):
    """Where a record lies: durable when this is returned."""

    shard_id: str
    sequence_number: str


class _Entry:
    """A producer and who uses it."""

    __slots__ = ("last_s", "producer", "users")

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.users = 0
        self.last_s = 0.0


class Putter:
    """The producers of one session. Belongs to its Trio run; `run` is a task beside it, `close` the end."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._entries: dict[str, _Entry] = {}
        self._opening = trio.Lock()
        self._opened = trio.Event()
        self._closed = False

    async def put(self, stream: str, records: list[NewRecord]) -> list[Put]:
        """Append records in order; all are durable when this returns. See `Session.put`."""
        if self._closed:
            raise PoolClosed("the session is closed")
        entry = await self._entry(stream)
        entry.users += 1
        try:
            return await _submit(entry.producer, records)
        except DiskFull:
            raise
        except LogError:
            # The writer is fenced: whoever puts next begins with the log as it is on the disk.
            if self._entries.get(stream) is entry:
                await self.let_go(stream)
            raise
        finally:
            entry.users -= 1
            entry.last_s = time.monotonic()

    async def let_go(self, stream: str) -> None:
        """Close a stream's producer when it has answered everything; shielded from cancellation."""
        entry = self._entries.pop(stream, None)
        if entry is not None:
            with trio.CancelScope(shield=True), contextlib.suppress(LogError):
                # What was acknowledged is durable whatever closing says; the next writer recovers the shard.
                await trio.to_thread.run_sync(entry.producer.close)

    async def run(self) -> None:
        """Let go of producers that nobody has used for some time, until cancelled. Sleeps while there is none."""
        while True:
            await self._opened.wait()
            await trio.sleep(IDLE_S / 2)
            longest = time.monotonic() - IDLE_S
            for stream, entry in list(self._entries.items()):
                if not entry.users and entry.last_s <= longest:
                    await self.let_go(stream)
            if not self._entries:
                self._opened = trio.Event()

    async def close(self) -> None:
        """Close every producer; what was queued is answered before."""
        self._closed = True
        for stream in list(self._entries):
            await self.let_go(stream)

    async def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is not None:
            return entry
        async with self._opening:  # the first one opens for all who came with it
            entry = self._entries.get(name)
            if self._closed:
                raise PoolClosed("the session is closed")
            if entry is None:
                stream = await trio.to_thread.run_sync(self._data.open_or_create_stream, name)
                entry = self._entries[name] = _Entry(Producer(stream))
                entry.last_s = time.monotonic()
                self._opened.set()
            return entry


def new_records(records: Iterable[NewRecord | bytes | str]) -> list[NewRecord]:
    """Make records of what is to be put: data alone gets the hex MD5 of itself as partition key.

    Raises:
        RefusedError: something is neither a NewRecord nor data.
    """
    if isinstance(records, bytes | str | NewRecord):
        raise RefusedError("put_many takes several records; put takes one")
    return [_checked(each) if isinstance(each, NewRecord) else new_record(each, None) for each in records]


def new_record(data: bytes | str, partition_key: str | None) -> NewRecord:
    """Make one record; text is encoded as UTF-8. RefusedError if the types are wrong."""
    if isinstance(data, str):
        try:
            data = data.encode()
        except UnicodeEncodeError:
            raise RefusedError(f"data {data!r} is not valid Unicode") from None
    if not isinstance(data, bytes):
        # bytes(5) would be five zeros.
        if not isinstance(data, bytearray | memoryview):
            raise RefusedError(f"data is bytes or text, not {data!r}; encode it, as JSON for example")
        data = bytes(data)
    if partition_key is None:
        partition_key = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return _checked(NewRecord(data, partition_key))


def _checked(record: NewRecord) -> NewRecord:
    if not isinstance(record.data, bytes):
        raise RefusedError(f"a record's data is bytes, not {record.data!r}")
    if not isinstance(record.partition_key, str):
        raise RefusedError(f"a partition key is text, not {record.partition_key!r}")
    return record


async def _submit(producer: Producer, records: list[NewRecord]) -> list[Put]:
    size = sum(len(record.data) + len(record.partition_key) for record in records)
    if producer.queued_bytes + size < PUT_NOW_BYTES:
        future = producer.submit(records)
    else:  # it may have to wait for room
        future = await trio.to_thread.run_sync(producer.submit, records)
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def wake(_: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # nobody waits any more
            token.run_sync_soon(done.set)

    future.add_done_callback(wake)
    await done.wait()
    return [Put(shard_id, sequence_number) for shard_id, sequence_number in future.result()]
