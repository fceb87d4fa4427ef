"""The library's public door, from Trio.

    async with streamfn.open("data") as session:
        await session.put("clicks", b'{"page": "/"}', partition_key="alice")
        result = await session.run_until_caught_up("app.handler", "clicks", batch_size=10)

A session is one runtime on one data directory. It installs no signal handlers and changes nothing global. Everything on
it is used from the Trio run that opened it; `streamfn.open_sync` is the same for everybody else.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trio

from streamfn.clock import SystemClock
from streamfn.errors import StreamfnError
from streamfn.limits import MIB
from streamfn.log.datadir import DataDir
from streamfn.log.producer import Producer
from streamfn.log.stream import Stream
from streamfn.mapping.handler import Handler, named
from streamfn.mapping.logs import LogSink, LogWriter, to_standard_error
from streamfn.mapping.mapping import EventSourceMapping, RunResult
from streamfn.mapping.options import RunOptions, validate
from streamfn.mapping.outcome import Outcome
from streamfn.mapping.runtime import Runtime, open_runtime
from streamfn.types import NewRecord

DATA_DIR_DEFAULT = ".streamfn"

# Outcomes that nobody has taken yet; beyond it the mapping hands nothing over until they are.
OUTCOMES_MAX = 4096


# With less than this queued, a put never waits for room in the producer's queue of 64 MiB.
PUT_NOW_BYTES = 16 * MIB


class Put(NamedTuple):
    """Where a record lies: durable when this is returned."""

    shard_id: str
    sequence_number: str


class Mapping:
    """An event source mapping that this session owns, ready to run."""

    def __init__(self, inner: EventSourceMapping) -> None:
        self._inner = inner

    @property
    def name(self) -> str:
        """Its name, unique in the data directory."""
        return self._inner.name

    async def run(self, *, limit: int | None = None) -> RunResult:
        """Follow the stream until `drain` is called, or `limit` records were handed over.

        Cancellation: stops at once; what was completed but not yet committed (at most 50 ms of work) is delivered again
        by the next run. Call `drain` for a stop at a batch edge.

        Raises:
            LogDamaged: a shard is damaged; the others were served to the end.
        """
        with _one_error():
            return await self._inner.run(limit=limit)

    async def run_until_caught_up(self, *, limit: int | None = None) -> RunResult:
        """Deliver everything that is in the stream now, and return when the checkpoints are durable.

        Cancellation and errors as for `run`.
        """
        with _one_error():
            return await self._inner.run(until_caught_up=True, limit=limit)

    def drain(self) -> None:
        """Stop at a batch edge: nothing more is handed over, what runs is waited for. Not a checkpoint."""
        self._inner.drain()

    @asynccontextmanager
    async def outcomes(self) -> AsyncIterator[AsyncIterator[Outcome]]:
        """The outcomes of all invocations while the block lasts, as an async iterator that ends when `run` does.

            async with mapping.outcomes() as outcomes:
                nursery.start_soon(mapping.run_until_caught_up)
                async for outcome in outcomes: ...

        A slow consumer holds the mapping up, it does not fill the memory.
        """
        feed = _Outcomes(self._inner)
        stop = self._inner.watch(feed.add)
        try:
            yield feed
        finally:
            stop()
            self._inner.resume()


class _Outcomes:
    """The queue between a mapping's callbacks and who reads them."""

    def __init__(self, inner: EventSourceMapping) -> None:
        self._inner = inner
        self._queue: deque[Outcome] = deque()
        self._changed = trio.Event()
        inner.on_end(self._wake)

    def add(self, outcome: Outcome) -> None:
        self._queue.append(outcome)
        if len(self._queue) >= OUTCOMES_MAX:
            self._inner.pause()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        while not self._queue:
            if self._inner.ended:
                raise StopAsyncIteration
            self._changed = trio.Event()
            self._inner.resume()
            await self._changed.wait()
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._queue.popleft()


class Session:
    """See the module. Made by `open`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._producers: dict[str, Producer] = {}

    # ---- streams

    def streams(self) -> list[str]:
        """The names of the streams in the data directory, sorted."""
        return sorted(stream.name for stream in self._runtime.data.streams())

    async def create_stream(self, name: str, *, shards: int = 1) -> None:
        """Make a stream.

        Raises:
            RefusedError: the name or the number of shards is refused, or the stream exists with another number of them.
        """
        await trio.to_thread.run_sync(lambda: self._runtime.data.create_stream(name, shards))

    async def delete_stream(self, name: str) -> None:
        """Delete a stream and its records.

        Raises:
            RefusedError: there is no such stream.
            BusyError: a writer holds it.
        """
        producer = self._producers.pop(name, None)
        if producer is not None:
            await trio.to_thread.run_sync(producer.close)
        await trio.to_thread.run_sync(self._runtime.data.delete_stream, name)

    async def put(self, stream: str, data: bytes | str, *, partition_key: str | None = None) -> Put:
        """Append a record; it is durable when this returns. The stream is made (one shard) if it does not exist.

        Without a partition key the hex MD5 of the data is used.

        Cancellation: the record may or may not have been appended.

        Raises:
            BusyError: another process writes to the stream.
            DiskFull: too little free space.
        """
        return (await self.put_many(stream, [_record(data, partition_key)]))[0]

    async def put_many(self, stream: str, records: Iterable[NewRecord]) -> list[Put]:
        """Append records in order; all are durable when this returns. See `put`."""
        producer = await self._producer(stream)
        listed = list(records)
        if producer.queued_bytes < PUT_NOW_BYTES:
            future = producer.submit(listed)
        else:  # it may have to wait for room
            future = await trio.to_thread.run_sync(producer.submit, listed)
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def wake(_: object) -> None:
            token.run_sync_soon(done.set)

        future.add_done_callback(wake)
        await done.wait()
        return [Put(shard_id, sequence) for shard_id, sequence in future.result()]

    async def _producer(self, name: str) -> Producer:
        producer = self._producers.get(name)
        if producer is None:
            stream = await trio.to_thread.run_sync(self._stream, name)
            producer = self._producers.setdefault(name, Producer(stream))
        return producer

    def _stream(self, name: str) -> Stream:
        data = self._runtime.data
        if name in {stream.name for stream in data.streams()}:
            return data.stream(name)
        return data.create_stream(name, 1)

    # ---- mappings

    @asynccontextmanager
    async def mapping(self, handler: str | Handler, stream: str, **options: Any) -> AsyncIterator[Mapping]:
        """Own a mapping of `handler` on `stream` while the block lasts, its function started.

        `handler` is a name as Lambda has it, or a callable. `options` are Lambda's parameters in snake_case and those of
        `streamfn run`: batch_size, maximum_batching_window_in_seconds, starting_position, starting_position_timestamp,
        name, workers, timeout, environment, logs.

        Raises:
            RefusedError: an option is out of its range, no such stream, or the name is bound to another stream.
            BusyError: another process (or session) runs the mapping.
            HandlerImportError: the handler cannot be loaded.
        """
        name, function = named(handler)
        options.setdefault("workers", os.cpu_count() or 1)
        if "timeout" in options:
            options["timeout_s"] = options.pop("timeout")
        wanted = RunOptions(handler=name, stream=stream, **options)
        validate(wanted, now_ms=SystemClock().unix_ms())
        inner = await self._runtime.mapping(wanted, function=function)
        try:
            yield Mapping(inner)
        finally:
            with trio.CancelScope(shield=True):
                await self._runtime.part(inner)

    async def run(self, handler: str | Handler, stream: str, *, limit: int | None = None, **options: Any) -> RunResult:
        """`mapping(...)` and its `run`, in one call: follows the stream until cancelled or the limit is reached."""
        async with self.mapping(handler, stream, **options) as mapping:
            return await mapping.run(limit=limit)

    async def run_until_caught_up(
        self, handler: str | Handler, stream: str, *, limit: int | None = None, **options: Any
    ) -> RunResult:
        """`mapping(...)` and its `run_until_caught_up`, in one call."""
        async with self.mapping(handler, stream, **options) as mapping:
            return await mapping.run_until_caught_up(limit=limit)

    async def _close(self) -> None:
        for producer in self._producers.values():
            await trio.to_thread.run_sync(producer.close)
        self._producers.clear()


@asynccontextmanager
async def open(data_dir: str | os.PathLike[str] | None = None, *, log: LogSink | None = None) -> AsyncIterator[Session]:
    """A session on a data directory (default: STREAMFN_DATA_DIR, else ./.streamfn), made if it does not exist.

    What handlers write goes to `log`, or to standard error as Lambda's log lines.

    Raises:
        FailedError: the directory cannot be written, or is of a newer format.
    """
    path = Path(data_dir or os.environ.get("STREAMFN_DATA_DIR") or DATA_DIR_DEFAULT)
    data = await trio.to_thread.run_sync(lambda: DataDir.open(path, create=True))
    writer = LogWriter(to_standard_error) if log is None else None
    try:
        with _one_error():
            async with open_runtime(data, log or writer) as runtime:  # type: ignore[arg-type]  # one of them is there
                session = Session(runtime)
                try:
                    yield session
                finally:
                    with trio.CancelScope(shield=True):
                        await session._close()
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def _one_error() -> Iterator[None]:
    """Trio's nurseries wrap what is raised in them; a single error of ours comes out bare."""
    try:
        yield
    except BaseExceptionGroup as group:
        ours, others = group.split(StreamfnError)
        if ours is None or others is not None:
            raise
        raise _first(ours) from None


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _record(data: bytes | str, partition_key: str | None) -> NewRecord:
    raw = data.encode() if isinstance(data, str) else bytes(data)
    return NewRecord(raw, hashlib.md5(raw).hexdigest() if partition_key is None else partition_key)
