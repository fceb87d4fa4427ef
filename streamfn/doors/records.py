"""Reading a stream's records or changes back, as an asynchronous iterator."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

import trio

from streamfn.doors.options import time_ms
from streamfn.errors import FailedError, PoolClosed, RefusedError, StreamfnError
from streamfn.log.catalog.stream import DYNAMODB, KINESIS, Shard, Stream
from streamfn.log.segment.rows import Row
from streamfn.log.shard.cursor import Followed, ShardCursor, merged
from streamfn.log.shard.reader import horizon
from streamfn.log.shard.seek import offset_at_time
from streamfn.mapping.position import committed_end
from streamfn.types import Change, Record

Start = Literal["TRIM_HORIZON", "LATEST"] | datetime | str | float

# Records that are read in one go: enough to make the hop through a thread unimportant.
_CHUNK_RECORDS = 256
# How often a follower of a silent stream looks whether it is still there.
_SILENCE_S = 1.0


class StoredRecord(NamedTuple):
    """A record of a stream.

    `sequence_number` is Kinesis-shaped text; `arrival_ms` is milliseconds since 1970, UTC; `offset` is the record's
    ordinal in its shard's whole life.
    """

    shard_id: str
    sequence_number: str
    partition_key: str
    arrival_ms: int
    data: bytes
    offset: int


class StoredChange(NamedTuple):
    """A DynamoDB change record of a stream.

    `keys`, the images and `user_identity` are JSON in UTF-8, as it was put; `creation_ms` is milliseconds since 1970,
    UTC; `offset` is the record's ordinal in its shard's whole life.
    """

    shard_id: str
    sequence_number: str
    event_id: str
    event_name: str
    event_version: str
    creation_ms: int
    keys: bytes
    new_image: bytes | None
    old_image: bytes | None
    size_bytes: int
    stream_view_type: str
    user_identity: bytes | None
    offset: int


Stored = TypeVar("Stored")


class StoredRows(Generic[Stored]):
    """What a stream holds, in each shard's order, the shards merged by time.

    The place to start from is fixed when the first record is asked for, or on entering `async with records:`. What is
    held open is let go at the end, by `aclose`, by leaving `async with`, and when the iterator is dropped.
    """

    kind: ClassVar[str]
    _make: Callable[[Shard, Any], Stored]

    def __init__(self, find: Callable[[], Stream], start: Start, *, follow: bool) -> None:
        """`find` gives the stream, and may wait for the disk. RefusedError if `start` is no position."""
        self._position: str | int = (
            start if start in ("TRIM_HORIZON", "LATEST") else time_ms("start", {"start": start})  # type: ignore[assignment]
        )
        self._find = find
        self._follow = follow
        self._ready: deque[Stored] = deque()
        self._view: _View[Stored] | None = None
        self._over = False
        self._turn = trio.Lock()  # one thread at a time has the view
        self._reading = False

    async def open(self) -> None:
        """Fix the place to start from. Harmless twice; the first record asked for does the same.

        Raises:
            RefusedError: there is no such stream, or what it holds is of the other kind.
            LogError: a shard is damaged or cannot be read.
        """
        async with self._turn:
            await self._open()

    async def aclose(self) -> None:
        """Let go of what is open. Not a checkpoint."""
        self._over = True
        self._ready.clear()
        if self._view is not None:
            view, self._view = self._view, None
            if view.followed is not None:
                trio.lowlevel.notify_closing(view.followed.fileno())
            if not self._reading:  # else the reader lets go: the thread must not lose its mappings
                self._release()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Stored:
        """The next record. Cancelled, it loses none.

        Raises:
            LogDamaged: what lies there is not what was written.
            FailedError: the stream was deleted.
        """
        if not self._ready:
            self._ready.extend(await self.read())
            if not self._ready:
                raise StopAsyncIteration
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._ready.popleft()

    async def read(self) -> list[Stored]:
        """The next few records at once, at least one; none at the end."""
        async with self._turn:
            if self._ready:
                found = list(self._ready)
                self._ready.clear()
                return found
            await self._open()
            return await self._read()

    async def _open(self) -> None:
        if self._view is None and not self._over:
            self._view = await trio.to_thread.run_sync(
                lambda: _View[Stored](self._find, self._position, self._follow, self.kind, self._make)
            )
            self._release = weakref.finalize(self, self._view.close)

    async def _read(self) -> list[Stored]:
        while (view := self._view) is not None:
            try:
                found = await self._read_in_thread(view)
                if found:
                    return found
                if view.followed is not None:
                    await _told(view.followed)
                    continue
            except (StreamfnError, OSError):
                await self.aclose()
                raise
            await self.aclose()
        return []

    async def _read_in_thread(self, view: _View[Stored]) -> list[Stored]:
        self._reading = True
        try:
            return await trio.to_thread.run_sync(view.read)
        finally:
            self._reading = False
            if self._over:
                self._release()


def _change(shard: Shard, change: Change) -> StoredChange:
    return StoredChange(
        shard.id,
        change.sequence_number,
        change.event_id,
        change.event_name,
        change.event_version,
        change.creation_ms,
        change.keys,
        change.new_image,
        change.old_image,
        change.size_bytes,
        change.stream_view_type,
        change.user_identity,
        change.offset,
    )


def _record(shard: Shard, record: Record) -> StoredRecord:
    return StoredRecord(
        shard.id, record.sequence_number, record.partition_key, record.arrival_ms, record.data, record.offset
    )


class Records(StoredRows[StoredRecord]):
    """The records of a stream, the shards merged by arrival time. Made by `Session.records`.

        async for record in session.records("clicks"):
            ...

    The place to start from, and letting go, are described at `Session.records`.
    """

    kind = KINESIS
    _make = staticmethod(_record)


class Changes(StoredRows[StoredChange]):
    """The change records of a stream, the shards merged by creation time. Made by `Session.changes`."""

    kind = DYNAMODB
    _make = staticmethod(_change)


async def _told(followed: Followed) -> None:
    """Wait until the stream has grown."""
    while True:
        with trio.move_on_after(_SILENCE_S):
            try:
                await trio.lowlevel.wait_readable(followed.fileno())
            except trio.ClosedResourceError:
                raise PoolClosed("the records were closed while they were waited for") from None
            return
        if not await trio.to_thread.run_sync(followed.stream.directory.exists):
            raise FailedError(f"stream {followed.stream.name!r} was deleted")


class _View(Generic[Stored]):
    """Open shards and a place in each. Every call may wait for the disk; one at a time."""

    def __init__(
        self,
        find: Callable[[], Stream],
        position: str | int,
        follow: bool,
        kind: str,
        make: Callable[[Shard, Any], Stored],
    ) -> None:
        stream = find()
        if stream.kind != kind:
            call = "records" if stream.kind == KINESIS else "changes"
            raise RefusedError(f"stream {stream.name!r} is of kind {stream.kind}: read it with `{call}`")
        self._make = make
        self.followed: Followed | None = None
        ends = [committed_end(shard) for shard in stream.shards]
        starts = [_start(shard, position, end) for shard, end in zip(stream.shards, ends, strict=True)]
        with ExitStack() as stack:
            if follow:
                self.followed = stack.enter_context(Followed(stream, starts))
                self._cursors = self.followed.cursors
            else:
                self._cursors = [
                    stack.enter_context(ShardCursor(shard, start, end))
                    for shard, start, end in zip(stream.shards, starts, ends, strict=True)
                ]
            self._stack = stack.pop_all()
        self._merged: Iterator[tuple[Shard, Row]] = iter(())

    def read(self) -> list[Stored]:
        """The next records; none when all cursors have come to their end for now."""
        found = list(itertools.islice(self._merged, _CHUNK_RECORDS))
        if not found:
            if self.followed is not None:
                self.followed.fresh()
            self._merged = merged(self._cursors)
            found = list(itertools.islice(self._merged, _CHUNK_RECORDS))
        return [self._make(shard, record) for shard, record in found]

    def close(self) -> None:
        """Let everything go."""
        self._stack.close()


def _start(shard: Shard, position: str | int, end: int) -> int:
    if isinstance(position, int):
        return min(offset_at_time(shard, position), end)
    return end if position == "LATEST" else horizon(shard)
