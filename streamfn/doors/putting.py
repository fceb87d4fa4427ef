"""Appending to streams: one producer for each, made at the first put and let go when nobody puts any more.

Tasks of the session's Trio run and other threads put alike, straight into the producer's queue: a thread that had to
go through the Trio run would pay for two hops between threads, and with 64 of them for the run's time too (4,000 puts
a second instead of 40,000).

While a producer is open it holds the locks of the shards it writes to; other processes put through it, and ask it to
let go where they need a shard for themselves. Not all of them know how, so a producer that neither this session nor
another process has used for a second is closed.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import trio

from streamfn.doors.openfiles import allow_open_files
from streamfn.errors import DiskFull, LogError, PoolClosed, RefusedError
from streamfn.limits import MIB
from streamfn.log.catalog.datadir import DataDir, require_kind
from streamfn.log.catalog.stream import DYNAMODB, KINESIS
from streamfn.log.producer.answer import Answer
from streamfn.log.producer.part import New
from streamfn.log.producer.producer import Producer
from streamfn.log.storage.durability import FSYNC, Durability
from streamfn.types import NewChange, NewRecord

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
        self.last_s = time.monotonic()


class Putter:
    """The producers of one session. Made in its Trio run; `run` is a task beside it, `close` the end."""

    def __init__(self, data: DataDir, durability: Durability = FSYNC) -> None:
        self._data = data
        self._durability = durability
        self._entries: dict[str, _Entry] = {}
        # Threads look at the entries too.
        self._lock = threading.Lock()
        self._opening = trio.Lock()
        self._opened = trio.Event()
        self._closed = False
        self._token = trio.lowlevel.current_trio_token()
        self._sleeping: dict[Answer, trio.lowlevel.Task] = {}

    async def put(self, stream: str, records: Sequence[New], durability: Durability | None = None) -> list[Put]:
        """Append records in order; all are durable when this returns. See `Session.put`."""
        kind = _kind_of(records)
        entry = self._borrow(stream, kind)
        while entry is None:
            await self._open(stream, kind)
            entry = self._borrow(stream, kind)
        try:
            return _puts(await self._submit(entry.producer, records, durability))
        except DiskFull:
            raise
        except LogError:
            await self._let_go(stream, entry)
            raise
        finally:
            self._give_back(entry)

    def put_from_thread(
        self, stream: str, records: Sequence[New], durability: Durability | None = None
    ) -> list[Put] | None:
        """The same from another thread, which waits. None, and nothing was put, where `put` has to open something."""
        entry = self._borrow(stream, _kind_of(records))
        if entry is None:
            return None
        try:
            return _puts(entry.producer.submit(records, durability=durability).result())
        except DiskFull:
            raise
        except LogError:
            self._close(stream, entry)
            raise
        finally:
            self._give_back(entry)

    async def let_go(self, stream: str) -> None:
        """Close a stream's producer when it has answered everything; shielded from cancellation."""
        entry = self._entries.get(stream)
        if entry is not None:
            await self._let_go(stream, entry)

    async def _let_go(self, stream: str, entry: _Entry, *, if_idle: bool = False) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._close, stream, entry, if_idle)

    def _close(self, stream: str, entry: _Entry, if_idle: bool = False) -> None:
        """Close a producer: whoever puts next opens its shards anew, and begins with the log as it is on the disk."""
        with self._lock:
            if self._entries.get(stream) is not entry or (if_idle and entry.users):
                return
            del self._entries[stream]
        with contextlib.suppress(LogError):
            # What was acknowledged is durable whatever closing says; the next writer recovers the shard.
            entry.producer.close()

    async def run(self) -> None:
        """Let go of producers that nobody has used for some time, until cancelled. Sleeps while there is none."""
        while True:
            await self._opened.wait()
            await trio.sleep(IDLE_S / 2)
            longest = time.monotonic() - IDLE_S
            for stream, entry in list(self._entries.items()):
                if not entry.users and max(entry.last_s, entry.producer.last_guest_s) <= longest:
                    await self._let_go(stream, entry, if_idle=True)
            if not self._entries:
                self._opened = trio.Event()

    async def close(self) -> None:
        """Close every producer; what was queued is answered before."""
        self._closed = True
        for stream in list(self._entries):
            await self.let_go(stream)

    def _borrow(self, stream: str, kind: str) -> _Entry | None:
        with self._lock:
            if self._closed:
                raise PoolClosed("the session is closed")
            entry = self._entries.get(stream)
            if entry is not None:
                require_kind(entry.producer.stream, kind)
                entry.users += 1
            return entry

    def _give_back(self, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
        entry.last_s = time.monotonic()

    async def _open(self, name: str, kind: str) -> None:
        async with self._opening:  # the first one opens for all who came with it
            if self._closed:
                raise PoolClosed("the session is closed")
            if name not in self._entries:
                stream = await trio.to_thread.run_sync(lambda: self._data.open_or_create_stream(name, kind=kind))
                allow_open_files(8 * len(stream.open_shards))
                self._entries[name] = _Entry(Producer(stream, durability=self._durability))
                self._opened.set()

    async def _submit(
        self, producer: Producer, records: Sequence[New], durability: Durability | None
    ) -> list[tuple[str, str]]:
        size = _bytes_of(records[0]) if len(records) == 1 else sum(map(_bytes_of, records))
        if producer.queued_bytes + size < PUT_NOW_BYTES:
            answer = producer.submit(records, self._settled, durability)
        else:  # it may have to wait for room
            answer = await trio.to_thread.run_sync(producer.submit, records, self._settled, durability)
        if answer.done():
            await trio.lowlevel.checkpoint()
        else:
            await self._sleep(answer)
        return answer.result()

    async def _sleep(self, answer: Answer) -> None:
        """Wait for an answer; an Event and a callback for each would cost twice as much."""
        self._sleeping[answer] = trio.lowlevel.current_task()

        def leave(_: object) -> trio.lowlevel.Abort:
            del self._sleeping[answer]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def _settled(self, answers: list[Answer], turn: threading.Lock) -> None:
        """Called in the writing thread, once for all that became durable together."""
        try:
            self._token.run_sync_soon(self._wake, answers, turn)
        except trio.RunFinishedError:  # nobody waits any more
            turn.release()

    def _wake(self, answers: list[Answer], turn: threading.Lock) -> None:
        for answer in answers:
            task = self._sleeping.pop(answer, None)
            if task is not None:
                trio.lowlevel.reschedule(task)
        self._token.run_sync_soon(turn.release)  # which comes when those tasks have run

def _kind_of(records: Sequence[New]) -> str:
    return DYNAMODB if records and isinstance(records[0], NewChange) else KINESIS


def _bytes_of(record: New) -> int:
    if isinstance(record, NewRecord):
        return len(record.data)
    return sum(len(part) for part in (record.keys, record.new_image, record.old_image) if part is not None)


def _puts(placed: list[tuple[str, str]]) -> list[Put]:
    return [Put(shard_id, sequence_number) for shard_id, sequence_number in placed]


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
