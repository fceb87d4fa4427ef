"""The library for programs that do not run Trio.

    with streamfn.open_sync("data") as session:
        session.put("clicks", b'{"page": "/"}')
        result = session.run_until_caught_up("app.handler", "clicks")

A session has a Trio run in a thread of its own, so it may be used from any thread, beside a running asyncio loop, and
several times in one process. Calls wait for their result; a KeyboardInterrupt in the main thread ends the call it waits
in, with everything that the call started, before it is raised. What is said of the calls of `streamfn.Session` holds
for these, cancellation apart; a call that waits while the session is closed raises PoolClosed.
"""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Literal, Self, Unpack

import trio

from streamfn.doors.changing import ChangeDocument, ViewType, new_change
from streamfn.doors.files import ExportOptions, ImportOptions
from streamfn.doors.functions import Functions, StoredChanges, StoredOptions
from streamfn.doors.managing import ManagedChanges, ManagedMappings, ManagedOptions, ServiceOptions
from streamfn.doors.mapping import Mapping, Outcomes
from streamfn.doors.options import FunctionOptions, MappingOptions
from streamfn.doors.portal import Call, Portal
from streamfn.doors.putting import Put, new_record, new_records
from streamfn.doors.records import Start, Stored, StoredChange, StoredRecord, StoredRows
from streamfn.doors.replaying import Moment, Watch
from streamfn.doors.streams import Stream
from streamfn.errors import PoolClosed
from streamfn.log.producer.part import New
from streamfn.log.storage.durability import Durability
from streamfn.mapping.calling import Handler
from streamfn.mapping.invoking import Invocation
from streamfn.mapping.managing import Answer
from streamfn.mapping.outcome import Outcome
from streamfn.mapping.result import RunResult
from streamfn.replay.redriving import RedriveResult
from streamfn.session import _NOTHING, Function, MappingState, SupportsWrite
from streamfn.session import open as open_async
from streamfn.types import NewChange, NewRecord

if TYPE_CHECKING:
    from streamfn.doors.exporting import ExportReport
    from streamfn.doors.importing import ImportReport


class SyncSession:
    """`Session`, call by call. Made by `open_sync`; a context manager."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._session = portal.session
        atexit.register(self.close)

    @property
    def metrics_url(self) -> str | None:
        """Where Prometheus' scrapes are answered; None: nowhere."""
        return self._session.metrics_url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session: calls that wait raise PoolClosed, and every process of it is gone. Harmless twice.

        Raises:
            StreamfnError: what had ended the session before.
        """
        atexit.unregister(self.close)
        self._portal.close()

    # ---- streams

    def streams(self) -> list[str]:
        """See `Session.streams`."""
        return self._portal.call(self._session.streams)

    def stream(self, name: str) -> Stream:
        """See `Session.stream`."""
        return self._portal.call(lambda: self._session.stream(name))

    def create_stream(
        self, name: str, *, shards: int = 1, kind: Literal["kinesis", "dynamodb"] = "kinesis"
    ) -> None:
        """See `Session.create_stream`."""
        self._portal.call(lambda: self._session.create_stream(name, shards=shards, kind=kind))

    def delete_stream(self, name: str) -> None:
        """See `Session.delete_stream`."""
        self._portal.call(lambda: self._session.delete_stream(name))

    def split_shard(self, stream: str, shard_to_split: str, new_starting_hash_key: int | None = None) -> Stream:
        """See `Session.split_shard`."""
        return self._portal.call(lambda: self._session.split_shard(stream, shard_to_split, new_starting_hash_key))

    def merge_shards(self, stream: str, shard_to_merge: str, adjacent_shard_to_merge: str) -> Stream:
        """See `Session.merge_shards`."""
        return self._portal.call(lambda: self._session.merge_shards(stream, shard_to_merge, adjacent_shard_to_merge))

    def update_shard_count(self, stream: str, target_shard_count: int) -> Stream:
        """See `Session.update_shard_count`."""
        return self._portal.call(lambda: self._session.update_shard_count(stream, target_shard_count))

    def put(
        self, stream: str, data: bytes | str, *, partition_key: str | None = None, durability: str | None = None
    ) -> Put:
        """See `Session.put`."""
        return self._put(stream, [new_record(data, partition_key)], durability)[0]

    def put_many(
        self, stream: str, records: Iterable[NewRecord | bytes | str], *, durability: str | None = None
    ) -> list[Put]:
        """See `Session.put_many`. `records` is used up in the calling thread."""
        return self._put(stream, new_records(records), durability)

    def put_change(
        self,
        stream: str,
        change: NewChange | ChangeDocument,
        *,
        view_type: ViewType | None = None,
        durability: str | None = None,
    ) -> Put | None:
        """See `Session.put_change`."""
        made = new_change(change, view_type)
        return None if made is None else self._put(stream, [made], durability)[0]

    def _put(self, stream: str, records: Sequence[New], durability: str | None) -> list[Put]:
        """Put in this thread, without a hop through the session's, but for the first put of all."""
        mode = None if durability is None else Durability.parse(durability)
        self._portal.require_usable()
        putter = self._session.putter
        placed = putter.put_from_thread(stream, records, mode)
        return self._portal.call(lambda: putter.put(stream, records, mode)) if placed is None else placed

    def records(self, stream: str, *, start: Start = "TRIM_HORIZON", follow: bool = False) -> SyncRecords:
        """See `Session.records`; an iterator, and the place to start from is fixed by this call."""
        return SyncRecords(self._portal, self._session.records(stream, start=start, follow=follow))

    def changes(self, stream: str, *, start: Start = "TRIM_HORIZON", follow: bool = False) -> SyncChanges:
        """See `Session.changes`; an iterator, and the place to start from is fixed by this call."""
        return SyncChanges(self._portal, self._session.changes(stream, start=start, follow=follow))

    def import_file(
        self, path: str | os.PathLike[str], stream: str, **options: Unpack[ImportOptions]
    ) -> ImportReport:
        """See `Session.import_file`."""
        return self._portal.call(lambda: self._session.import_file(path, stream, **options))

    def export(
        self, stream: str, path: str | os.PathLike[str], **options: Unpack[ExportOptions]
    ) -> ExportReport:
        """See `Session.export`."""
        return self._portal.call(lambda: self._session.export(stream, path, **options))

    # ---- functions and mappings

    @contextmanager
    def function(self, handler: str | Handler, **options: Unpack[FunctionOptions]) -> Iterator[Function]:
        """See `Session.function`."""
        function = self._portal.call(lambda: self._session.open_function(handler, **options))
        try:
            yield function
        finally:
            _at_the_end(self._portal, lambda: self._session.close_function(function))

    def invoke(
        self,
        handler: str | Handler | Function,
        event: object = _NOTHING,
        *,
        logs: Literal["failed", "all", "none"] = "failed",
        **options: Unpack[FunctionOptions],
    ) -> Invocation:
        """See `Session.invoke`."""
        return self._portal.call(lambda: self._session.invoke(handler, event, logs=logs, **options))

    @property
    def functions(self) -> SyncFunctions:
        """See `Session.functions`."""
        return SyncFunctions(self._portal, self._session.functions)

    def mappings(self) -> list[MappingState]:
        """See `Session.mappings`."""
        return self._portal.call(self._session.mappings)

    @property
    def managed(self) -> SyncManagedMappings:
        """See `Session.managed`."""
        return SyncManagedMappings(self._portal, self._session.managed)

    def delete_mapping(self, name: str) -> None:
        """See `Session.delete_mapping`."""
        self._portal.call(lambda: self._session.delete_mapping(name))

    @contextmanager
    def mapping(
        self, handler: str | Handler | Function, stream: str, **options: Unpack[MappingOptions]
    ) -> Iterator[SyncMapping]:
        """See `Session.mapping`."""
        mapping = self._portal.call(lambda: self._session.open_mapping(handler, stream, **options))
        try:
            yield SyncMapping(self._portal, mapping)
        finally:
            _at_the_end(self._portal, mapping.close)

    def run(
        self,
        handler: str | Handler | Function,
        stream: str,
        *,
        limit: int | None = None,
        **options: Unpack[MappingOptions],
    ) -> RunResult:
        """See `Session.run`. Without a limit it ends with an interrupt, or when another thread closes the session."""
        return self._portal.call(lambda: self._session.run(handler, stream, limit=limit, **options))

    def run_until_caught_up(
        self,
        handler: str | Handler | Function,
        stream: str,
        *,
        limit: int | None = None,
        **options: Unpack[MappingOptions],
    ) -> RunResult:
        """See `Session.run_until_caught_up`."""
        return self._portal.call(lambda: self._session.run_until_caught_up(handler, stream, limit=limit, **options))

    def replay(
        self,
        handler: str | Handler,
        stream: str,
        *,
        start: Moment | None = None,
        to: Moment | None = None,
        speed: float | None = None,
        max_gap_seconds: float | None = None,
        shard_ids: Sequence[str] = (),
        partition_keys: Sequence[str] = (),
        limit: int | None = None,
        watch: Watch | None = None,
        **options: Unpack[MappingOptions],
    ) -> RunResult:
        """See `Session.replay`; `watch` is called in the session's thread."""
        return self._portal.call(
            lambda: self._session.replay(
                handler,
                stream,
                start=start,
                to=to,
                speed=speed,
                max_gap_seconds=max_gap_seconds,
                shard_ids=shard_ids,
                partition_keys=partition_keys,
                limit=limit,
                watch=watch,
                **options,
            )
        )

    def redrive(
        self, which: str, *, source: str = "", dry_run: bool = False, **options: Unpack[ServiceOptions]
    ) -> RedriveResult:
        """See `Session.redrive`."""
        return self._portal.call(lambda: self._session.redrive(which, source=source, dry_run=dry_run, **options))


class SyncFunctions:
    """`Functions`, call by call. A synchronous session's `functions`."""

    def __init__(self, portal: Portal, inner: Functions) -> None:
        self._portal = portal
        self._inner = inner

    def create(self, name: str, handler: str, **options: Unpack[StoredOptions]) -> Answer:
        """See `Functions.create`."""
        return self._portal.call(lambda: self._inner.create(name, handler, **options))

    def get(self, name: str, qualifier: str | None = None) -> Answer:
        """See `Functions.get`."""
        return self._portal.call(lambda: self._inner.get(name, qualifier))

    def update(self, name: str, **options: Unpack[StoredChanges]) -> Answer:
        """See `Functions.update`."""
        return self._portal.call(lambda: self._inner.update(name, **options))

    def delete(self, name: str) -> Answer:
        """See `Functions.delete`."""
        return self._portal.call(lambda: self._inner.delete(name))

    def versions(self, name: str) -> list[Answer]:
        """See `Functions.versions`."""
        return self._portal.call(lambda: self._inner.versions(name))

    def list(self) -> list[Answer]:
        """See `Functions.list`."""
        return self._portal.call(self._inner.list)


class SyncManagedMappings:
    """`ManagedMappings`, call by call. A synchronous session's `managed`."""

    def __init__(self, portal: Portal, inner: ManagedMappings) -> None:
        self._portal = portal
        self._inner = inner

    def create(self, handler: str, stream: str, **options: Unpack[ManagedOptions]) -> Answer:
        """See `ManagedMappings.create`."""
        return self._portal.call(lambda: self._inner.create(handler, stream, **options))

    def get(self, which: str) -> Answer:
        """See `ManagedMappings.get`."""
        return self._portal.call(lambda: self._inner.get(which))

    def list(self) -> list[Answer]:
        """See `ManagedMappings.list`."""
        return self._portal.call(self._inner.list)

    def update(self, which: str, handler: str | None = None, **options: Unpack[ManagedChanges]) -> Answer:
        """See `ManagedMappings.update`."""
        return self._portal.call(lambda: self._inner.update(which, handler, **options))

    def delete(self, which: str) -> Answer:
        """See `ManagedMappings.delete`."""
        return self._portal.call(lambda: self._inner.delete(which))

    def metrics(self, which: str) -> dict[str, int]:
        """See `ManagedMappings.metrics`."""
        return self._portal.call(lambda: self._inner.metrics(which))

    def reset_checkpoint(self, which: str, to: str) -> dict[str, int]:
        """See `ManagedMappings.reset_checkpoint`."""
        return self._portal.call(lambda: self._inner.reset_checkpoint(which, to))

    def run(
        self, *, until_caught_up: bool = False, concurrency: int | None = None, **options: Unpack[ServiceOptions]
    ) -> dict[str, RunResult]:
        """See `ManagedMappings.run`; `drain`, from another thread, ends it."""
        return self._portal.call(
            lambda: self._inner.run(until_caught_up=until_caught_up, concurrency=concurrency, **options)
        )

    def drain(self) -> None:
        """See `ManagedMappings.drain`. Does not wait."""
        self._portal.soon(self._inner.drain)


class SyncMapping:
    """`Mapping`, call by call. Made by `SyncSession.mapping`; other threads may use it too, to drain it for example."""

    def __init__(self, portal: Portal, mapping: Mapping) -> None:
        self._portal = portal
        self._mapping = mapping

    @property
    def name(self) -> str:
        """See `Mapping.name`."""
        return self._mapping.name

    @property
    def resumed(self) -> bool:
        """See `Mapping.resumed`."""
        return self._mapping.resumed

    def run(self, *, limit: int | None = None) -> RunResult:
        """See `Mapping.run`; `drain`, from another thread, ends it."""
        return self._portal.call(lambda: self._mapping.run(limit=limit))

    def run_until_caught_up(self, *, limit: int | None = None) -> RunResult:
        """See `Mapping.run_until_caught_up`."""
        return self._portal.call(lambda: self._mapping.run_until_caught_up(limit=limit))

    def drain(self) -> None:
        """See `Mapping.drain`. Does not wait."""
        self._portal.soon(self._mapping.drain)

    @contextmanager
    def outcomes(self, *, until_caught_up: bool = True, limit: int | None = None) -> Iterator[SyncOutcomes]:
        """Run, and iterate over the outcomes of the invocations meanwhile.

            with mapping.outcomes() as outcomes:
                for outcome in outcomes:
                    print(outcome.request_id, outcome.result)
            print(outcomes.result)

        Leaving the block before the end drains the run and waits for it. What the run raises comes out of the block.
        """

        async def open_feed() -> Outcomes:
            return self._mapping.open_feed()

        feed = self._portal.call(open_feed)
        run = self._mapping.run_until_caught_up if until_caught_up else self._mapping.run
        outcomes = SyncOutcomes(self._portal, feed, self._portal.begin(lambda: run(limit=limit)))
        try:
            try:
                yield outcomes
            except BaseException:
                outcomes.run.stop()
                raise
            self._portal.soon(lambda: self._mapping.close_feed(feed))
            _at_the_end(self._portal, lambda: self._drain(outcomes.run))
            outcomes.result = outcomes.run.result()
        finally:
            self._portal.soon(lambda: self._mapping.close_feed(feed))


    async def _drain(self, run: Call[RunResult]) -> None:
        while not self._mapping.running and not run.future.done():  # it may not have begun
            await trio.lowlevel.checkpoint()
        self._mapping.drain()


class SyncOutcomes:
    """An iterator over outcomes; `result` is what the run came to, once the block is left."""

    def __init__(self, portal: Portal, feed: Outcomes, run: Call[RunResult]) -> None:
        self.result: RunResult | None = None
        self.run = run
        self._portal = portal
        self._feed = feed
        self._taken: deque[Outcome] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Outcome:
        """The next outcome; waits for it."""
        if not self._taken:
            self._taken.extend(self._portal.call(self._feed.take))
        if not self._taken:
            raise StopIteration
        return self._taken.popleft()


class _SyncStored(Generic[Stored]):
    """What `Records` or `Changes` give, as an iterator and context manager."""

    def __init__(self, portal: Portal, records: StoredRows[Stored]) -> None:
        self._portal = portal
        self._records = records
        self._taken: deque[Stored] = deque()
        portal.call(records.open)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Stored:
        """The next record; waits for it when following."""
        if not self._taken:
            self._taken.extend(self._portal.call(self._records.read))
        if not self._taken:
            raise StopIteration
        return self._taken.popleft()

    def close(self) -> None:
        """Let go of what is open."""
        self._taken.clear()
        _at_the_end(self._portal, self._records.aclose)


def open_sync(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    log: SupportsWrite | None = None,
    durability: str = "fsync",
    metrics_port: int | None = None,
) -> SyncSession:
    """A session in a thread of its own. Use it in a `with` block, or `close` it; else it ends with the process.

    Arguments and errors as for `streamfn.open`.
    """
    return SyncSession(Portal(lambda: open_async(data_dir, log=log, durability=durability, metrics_port=metrics_port)))


def _at_the_end(portal: Portal, function: Callable[[], Awaitable[None]]) -> None:
    """Call what ends something; the session's end has done it already."""
    with suppress(PoolClosed):
        portal.call(function)


class SyncRecords(_SyncStored[StoredRecord]):
    """`Records` as an iterator and context manager. Made by `SyncSession.records`."""


class SyncChanges(_SyncStored[StoredChange]):
    """`Changes` as an iterator and context manager. Made by `SyncSession.changes`."""
