"""The library's public door, from Trio.

    async with streamfn.open("data") as session:
        await session.put("clicks", b'{"page": "/"}', partition_key="alice")
        result = await session.run_until_caught_up("app.handler", "clicks", batch_size=10)

A session is one runtime on one data directory. It installs no signal handlers and changes nothing global. Everything on
it is used from the Trio run that opened it; `streamfn.open_sync` is the same for everybody else.

A handler is a name as Lambda has it (`module.function`, looked up in the code directory first, then on `sys.path`), a
callable, or a function started by `Session.function`. Callables that workers can import are imported there; others -
closures, lambdas, functions of `__main__` or a notebook - run in processes forked from this one.

Errors of ours are `StreamfnError`s and come out of every call as they are, in no exception group.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from collections.abc import Mapping as Mapping_
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Unpack

import trio

from streamfn.doors import files
from streamfn.doors.changing import ChangeDocument, ViewType, new_change
from streamfn.doors.errors import bare, beside, explain
from streamfn.doors.files import ExportOptions, ImportOptions
from streamfn.doors.functions import Functions, event_text
from streamfn.doors.handlers import FoundHandler, find
from streamfn.doors.managing import ManagedMappings, ServiceOptions
from streamfn.doors.mapping import Mapping
from streamfn.doors.metrics import MetricsPort, metered, metrics_at
from streamfn.doors.options import FunctionOptions, MappingOptions, code_directory, function_options, mapping_options
from streamfn.doors.putting import Put, Putter, new_record, new_records
from streamfn.doors.records import Changes, Records, Start
from streamfn.doors.redriving import redrive
from streamfn.doors.replaying import Moment, Wanted, Watch, replay
from streamfn.doors.streams import Stream
from streamfn.errors import HandlerImportError, PoolClosed, RefusedError
from streamfn.functions.configuration import Configuration
from streamfn.functions.naming import is_stored_name
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Stream as StoredStream
from streamfn.log.storage.durability import Durability
from streamfn.log.upkeep.reshard import merge_shards, split_shard, update_shard_count
from streamfn.mapping.calling import Handler
from streamfn.mapping.deletion import delete_mapping, delete_stream
from streamfn.mapping.invoking import Invocation
from streamfn.mapping.logs import LogWriter
from streamfn.mapping.options import check_not_throttled
from streamfn.mapping.result import RunResult
from streamfn.mapping.runtime import Runtime, judge_of, open_runtime
from streamfn.replay.redriving import RedriveResult
from streamfn.types import NewChange, NewRecord

if TYPE_CHECKING:
    from streamfn.doors.exporting import ExportReport
    from streamfn.doors.importing import ImportReport
    from streamfn.mapping.mapping import EventSourceMapping
    from streamfn.pool.function import Function as PoolFunction

DATA_DIR_DEFAULT = ".streamfn"
_NOTHING = object()  # no event was given; None is one


class SupportsWrite(Protocol):
    """Where log lines go: an open text file, or anything else with a `write`."""

    def write(self, text: str, /) -> object:
        """Take whole lines, each with its newline; may block."""


class MappingState(NamedTuple):
    """A mapping as the data directory knows it.

    `checkpoints` is, for each shard's id, the offset of the first record that the next run delivers.
    """

    name: str
    stream: str
    handler: str
    checkpoints: dict[str, int]


class Function:
    """A started function: its module imported, its workers warm. Made by `Session.function`; give it to mappings."""

    def __init__(self, name: str, inner: PoolFunction, stored: Configuration | None = None) -> None:
        self.name = name
        self._inner = inner
        self._stored = stored

    @property
    def workers(self) -> list[int]:
        """The pids of the workers that are ready now."""
        return [worker.pid for worker in self._inner.workers]


class Session:
    """See the module. Made by `open`."""

    def __init__(self, runtime: Runtime, putter: Putter) -> None:
        self._runtime = runtime
        self.putter = putter
        self.managed = ManagedMappings(self)
        self.functions = Functions(self)
        self.metrics_url: str | None = None  # where Prometheus' scrapes are answered; None: nowhere
        self._readers: weakref.WeakSet[Records | Changes] = weakref.WeakSet()
        self._closed = False

    @property
    def data_dir(self) -> Path:
        """The data directory."""
        return self._runtime.data.path

    @property
    def runtime(self) -> Runtime:
        """For the other modules of the library's doors. PoolClosed when the session is closed."""
        self._check_open()
        return self._runtime

    # ---- streams

    async def streams(self) -> list[str]:
        """The names of the streams in the data directory, sorted."""
        self._check_open()
        found = await trio.to_thread.run_sync(self._runtime.data.streams)
        return [stream.name for stream in found]

    async def stream(self, name: str) -> Stream:
        """A stream as it is now: its ARN, its shards, and its records as Arrow columns (`scan`, `dataset`).

        Raises:
            RefusedError: there is no such stream.
        """
        self._check_open()
        return Stream(await trio.to_thread.run_sync(self._runtime.data.stream, name))

    async def create_stream(
        self, name: str, *, shards: int = 1, kind: Literal["kinesis", "dynamodb"] = "kinesis"
    ) -> None:
        """Make a stream of records, or of DynamoDB changes, unless there is one of this name with as many shards.

        Raises:
            RefusedError: the name, the number of shards or the kind is refused, or the stream exists with another
                number of them, or is of the other kind.
            FailedError: it cannot be written.
        """
        self._check_open()
        if not isinstance(name, str) or not isinstance(shards, int) or isinstance(shards, bool):
            raise RefusedError(f"a stream has a text for a name and a number of shards, not {name!r} and {shards!r}")
        await trio.to_thread.run_sync(lambda: self._runtime.data.open_or_create_stream(name, shards, kind=kind))

    async def delete_stream(self, name: str) -> None:
        """Delete a stream and its records. Mappings on a stream of this name that is made later start anew.

        Raises:
            RefusedError: there is no such stream.
            BusyError: a mapping runs on it, or another process writes to it; the text names which, and its pid.
        """
        self._check_open()
        await self.putter.let_go(name)
        runtime = self._runtime
        await runtime.disk(delete_stream, runtime.data, runtime.store, name)

    async def split_shard(
        self, stream: str, shard_to_split: str, new_starting_hash_key: int | None = None
    ) -> Stream:
        """Split an open shard in two (`new_starting_hash_key` None: in the middle) and return the stream as it is then.

        Mappings go on: each delivers the children when it has finished the parent. Who writes to the shard is asked to
        let go of it, and waited for up to 5 s.

        Cancellation: a split that has begun is waited for.

        Raises:
            RefusedError: as Kinesis refuses it, in its words.
            BusyError: a process goes on writing to the shard; the text names its pid.
        """
        return await self._reshard(
            stream, lambda data: split_shard(data, stream, shard_to_split, new_starting_hash_key)
        )

    async def merge_shards(self, stream: str, shard_to_merge: str, adjacent_shard_to_merge: str) -> Stream:
        """Merge two open shards whose hash keys adjoin; otherwise as `split_shard`."""
        return await self._reshard(
            stream, lambda data: merge_shards(data, stream, shard_to_merge, adjacent_shard_to_merge)
        )

    async def update_shard_count(self, stream: str, target_shard_count: int) -> Stream:
        """Split and merge until so many shards of equal ranges are open; otherwise as `split_shard`."""
        return await self._reshard(stream, lambda data: update_shard_count(data, stream, target_shard_count))

    async def _reshard(self, stream: str, call: Callable[[DataDir], StoredStream]) -> Stream:
        self._check_open()
        # Our own producers give way as others' do.
        return Stream(await trio.to_thread.run_sync(call, self._runtime.data))

    async def put(
        self, stream: str, data: bytes | str, *, partition_key: str | None = None, durability: str | None = None
    ) -> Put:
        """Append a record; it is durable when this returns. The stream is made (one shard) if it does not exist.

        Text is encoded as UTF-8. Without a partition key the hex MD5 of the data is used. `durability` says what
        "durable" means for this record: `fsync`, `interval(MS)` or `os` (docs/log.md), by default what the session was
        opened with.

        One process writes to a shard, and takes what the others put along: while another one does, this goes through
        it. The session writes to the shards it puts to until nothing has been put for about a second.

        Cancellation: the record may or may not have been appended.

        Raises:
            RefusedError: the stream's name, the key, the data or the durability is refused; nothing was appended.
            BusyError: another process, one that takes nothing along, wrote to the stream for 5 s; its pid is named.
            DiskFull: too little free space.
            LogError: it cannot be written; it is unknown whether the record is in the log.
        """
        mode = None if durability is None else Durability.parse(durability)
        return (await self.putter.put(stream, [new_record(data, partition_key)], mode))[0]

    async def put_many(
        self, stream: str, records: Iterable[NewRecord | bytes | str], *, durability: str | None = None
    ) -> list[Put]:
        """Append records in order; all are durable when this returns. See `put`."""
        mode = None if durability is None else Durability.parse(durability)
        return await self.putter.put(stream, new_records(records), mode)

    async def put_change(
        self,
        stream: str,
        change: NewChange | ChangeDocument,
        *,
        view_type: ViewType | None = None,
        durability: str | None = None,
    ) -> Put | None:
        """Append a DynamoDB change record; it is durable when this returns.

        The stream is made (kind `dynamodb`, one shard) if it does not exist. A change is a document in DynamoDB JSON,
        as a dict (binary attributes as base64, or as bytes) or as JSON text (which is kept to the letter): a record as
        GetRecords of DynamoDB Streams answers it or as it stands in a Lambda event, or in short
        `{"Keys": ..., "NewImage": ..., "OldImage": ...}`, from which the event's name follows. The sequence number is
        given by the shard, to which the item's key leads. `view_type` drops what a stream of that view does not carry.

        None, and nothing was appended, where a MODIFY leaves the item as it was: DynamoDB makes no record of that.

        Cancellation, and what else is raised: see `put`.

        Raises:
            RefusedError: it is no change, or the stream holds records; nothing was appended.
        """
        mode = None if durability is None else Durability.parse(durability)
        made = new_change(change, view_type)
        return None if made is None else (await self.putter.put(stream, [made], mode))[0]

    def records(self, stream: str, *, start: Start = "TRIM_HORIZON", follow: bool = False) -> Records:
        """The records of a stream, as an async iterator: each shard in its order, the shards merged by arrival time.

        `start` is TRIM_HORIZON (the oldest there is), LATEST (those appended after the first one is asked for), or a
        time: a datetime, ISO 8601, or seconds since 1970; UTC without a zone. Without `follow` it ends with what was
        there at the start; with it, it goes on until it is closed. Reading takes no lock and stands in nobody's way.

        Raises:
            RefusedError: the start is none; or, with the first record asked for, there is no such stream.
            LogError: a shard is damaged or cannot be read.
        """
        self._check_open()
        records = Records(lambda: self._runtime.data.stream(stream), start, follow=follow)
        self._readers.add(records)
        return records

    def changes(self, stream: str, *, start: Start = "TRIM_HORIZON", follow: bool = False) -> Changes:
        """The same for a stream of DynamoDB change records: an async iterator of `StoredChange`."""
        self._check_open()
        changes = Changes(lambda: self._runtime.data.stream(stream), start, follow=follow)
        self._readers.add(changes)
        return changes

    async def import_file(
        self, path: str | os.PathLike[str], stream: str, **options: Unpack[ImportOptions]
    ) -> ImportReport:
        """Import a file, or a directory of captured files, into a stream, which is made if there is none.

        What is read, and the options, are those of `streamfn import`. All of it is durable when this returns.

        Cancellation: what was read so far is stored, and then it ends.

        Raises:
            RefusedError: an option is unknown or does not fit; nothing was made.
            BusyError: another process writes to the stream; its pid is named.
            FailedError: a bad record, a damaged file, a full disk: the text says where, why, and up to where records
                are durable.
        """
        self._check_open()
        await self.putter.let_go(stream)
        return await files.import_file(self._runtime.data, path, stream, options)

    async def export(
        self, stream: str, path: str | os.PathLike[str], **options: Unpack[ExportOptions]
    ) -> ExportReport:
        """Write the committed records of a stream, or a selection of them, to a file: whole, or not at all.

        The formats, and the options, are those of `streamfn export`.

        Cancellation: no file is there.

        Raises:
            RefusedError: there is no such stream or shard, or an option is unknown or does not fit.
            FailedError: a record cannot be written in that format, or the disk is full; no file is there.
            LogDamaged: the log is damaged; no file is there.
        """
        self._check_open()
        return await files.export(self._runtime.data, stream, path, options)

    # ---- functions

    @asynccontextmanager
    async def function(self, handler: str | Handler, **options: Unpack[FunctionOptions]) -> AsyncIterator[Function]:
        """Start a function, for mappings to share, and keep it warm while the block lasts.

            async with session.function("app.handler", workers=4) as function:
                await session.run_until_caught_up(function, "clicks")
                await session.run_until_caught_up(function, "orders")

        Cancelling a mapping's run kills the workers that it is using; what other mappings have running on those is
        tried again, which costs none of its attempts.

        Raises:
            RefusedError: an option is unknown or out of range; or a callable cannot be run in a forked process.
            HandlerImportError: the handler cannot be loaded.
        """
        function = await self.open_function(handler, **options)
        try:
            yield function
        finally:
            await self.close_function(function)

    async def open_function(self, handler: str | Handler, **options: Unpack[FunctionOptions]) -> Function:
        """`function` without a block: give what it returns to `close_function`. The session's end closes it too."""
        self._check_open()
        found, code_dir, stored = await self._find(handler, options)
        wanted = function_options(found.name, options, stored=stored)
        with bare(), _explained():
            inner = await self._runtime.start(
                wanted, code_dir=code_dir, function=found.forked, path=found.path, follow=isinstance(handler, str)
            )
        return Function(wanted.target, inner, stored)

    async def invoke(
        self,
        handler: str | Handler | Function,
        event: object = _NOTHING,
        *,
        logs: Literal["failed", "all", "none"] = "failed",
        **options: Unpack[FunctionOptions],
    ) -> Invocation:
        """Call a function once with an event, any JSON (`{}` where none is given), and wait for the answer.

            answer = await session.invoke("app.handler", {"total": 3})
            print(answer.result if answer.error is None else answer.error["errorMessage"])

        That the handler fails is an answer, with Lambda's error document. A function that was started is called on one
        of its workers, behind what that has to do; a name or a callable is started for the call, with one worker.

        Cancellation: a call that has begun may run on, and nobody hears of it.

        Raises:
            RefusedError: the event is not JSON or is over 6 MB, or an option is unknown or refused.
            HandlerImportError: the handler cannot be loaded.
        """
        self._check_open()
        text = b"{}" if event is _NOTHING else event_text(event)
        if isinstance(handler, Function):
            for option in options:
                raise RefusedError(f"option {option} belongs to the function: give it to Session.function")
            if handler._inner not in self._runtime.pool.functions:
                raise PoolClosed(f"the function {handler.name!r} is closed")
            return await self._runtime.invoke(handler._inner, text, logs)
        wanted: FunctionOptions = {"workers": 1, **options}
        async with self.function(handler, **wanted) as function:
            return await self._runtime.invoke(function._inner, text, logs)

    async def _find(
        self, handler: str | Handler, options: Mapping_[str, object]
    ) -> tuple[FoundHandler, Path, Configuration | None]:
        """How workers come by a handler, where its code is, and what is stored of it if it is a stored function."""
        code_dir = code_directory(options)
        if not isinstance(handler, str) or not is_stored_name(handler):
            return find(handler, code_dir), code_dir, None
        stored = await self._runtime.disk(self._runtime.stored_function, handler)
        check_not_throttled(stored)
        code_dir = Path(stored.code_dir)
        return find(stored.handler, code_dir), code_dir, stored

    async def close_function(self, function: Function) -> None:
        """Stop a function's processes; shielded, and takes less than a second."""
        await self._runtime.stop(function._inner)

    # ---- mappings

    async def mappings(self) -> list[MappingState]:
        """The mappings of the data directory, by name; running or not, of this process or another."""
        self._check_open()
        store = self._runtime.store

        def read() -> list[MappingState]:
            return [
                MappingState(
                    mapping.name,
                    mapping.stream_name,
                    mapping.handler,
                    {shard: point.offset for shard, point in store.checkpoints(mapping.uuid).items()},
                )
                for mapping in store.mappings()
            ]

        return await self._runtime.disk(read)

    @asynccontextmanager
    async def mapping(
        self, handler: str | Handler | Function, stream: str, **options: Unpack[MappingOptions]
    ) -> AsyncIterator[Mapping]:
        """Own a mapping of `handler` on `stream` while the block lasts, its function started.

        `options` are Lambda's parameters in snake_case: see `streamfn.MappingOptions`. A mapping *is* its name (default
        `HANDLER@STREAM`; a lambda is called `module:lambda`, so give several of them names): the first one starts at
        the starting position, later ones go on from the checkpoint, with the handler and the options given now.

        Raises:
            RefusedError: an option is unknown or out of range, there is no such stream, the name is bound to another
                stream, or a callable cannot be run in a forked process.
            BusyError: the mapping runs already; the pid is named.
            HandlerImportError: the handler cannot be loaded.
        """
        mapping = await self.open_mapping(handler, stream, **options)
        try:
            yield mapping
        finally:
            await mapping.close()

    async def open_mapping(
        self, handler: str | Handler | Function, stream: str, **options: Unpack[MappingOptions]
    ) -> Mapping:
        """`mapping` without a block: `close` what it returns. The session's end closes it too."""
        self._check_open()
        with bare(), _explained():
            if isinstance(handler, Function):
                return Mapping(await self._share(handler, stream, options))
            found, code_dir, stored = await self._find(handler, options)
            wanted = mapping_options(found.name, stream, options, stored)
            inner = await self._runtime.mapping(
                wanted,
                code_dir=code_dir,
                function=found.forked,
                path=found.path,
                follow=isinstance(handler, str),
            )
            return Mapping(inner)

    async def run(
        self,
        handler: str | Handler | Function,
        stream: str,
        *,
        limit: int | None = None,
        **options: Unpack[MappingOptions],
    ) -> RunResult:
        """`mapping(...)` and its `run`, in one call: follows the stream until cancelled or the limit is reached."""
        async with self.mapping(handler, stream, **options) as mapping:
            return await mapping.run(limit=limit)

    async def run_until_caught_up(
        self,
        handler: str | Handler | Function,
        stream: str,
        *,
        limit: int | None = None,
        **options: Unpack[MappingOptions],
    ) -> RunResult:
        """`mapping(...)` and its `run_until_caught_up`, in one call."""
        async with self.mapping(handler, stream, **options) as mapping:
            return await mapping.run_until_caught_up(limit=limit)

    async def replay(
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
        """Deliver records of a stream once more, and touch no mapping's checkpoint: `streamfn replay`.

            await session.replay("app.handler", "orders", start="2026-03-01T12:00Z", to="2026-03-01T13:00Z")

        `start` (included) and `to` (not) are times, in whatever form, or texts that are sequence numbers (both
        included): without them all that is there now. With a `speed` records are handed over as far apart as they
        arrived, so many times as fast, and no silence lasts longer than `max_gap_seconds`; without one as fast as the
        handler is. `shard_ids` and `partition_keys` leave others out. `watch` is called with the outcome of every
        invocation, in the session's thread, and has to return soon; what it raises ends the replay and comes out here.

        Cancellation: stops at once; nothing of it is left.

        Raises:
            RefusedError: there is no such stream, shard or sequence number, or an option is refused.
            HandlerImportError: the handler cannot be loaded.
            LogDamaged: a shard is damaged; the others were served to the end.
        """
        self._check_open()
        if isinstance(handler, Function):
            raise RefusedError("a replay has workers of its own: give it the handler, not a started function")
        for option in ("starting_position", "starting_position_timestamp"):
            if option in options:
                raise RefusedError(f"option {option} does not go with a replay: start says where it begins")
        wanted = Wanted(start, to, speed, max_gap_seconds, shard_ids, partition_keys, limit, watch)
        with _explained():
            found, code_dir, stored = await self._find(handler, options)
            return await replay(
                self._runtime.data,
                self._runtime.sink,
                mapping_options(found.name, stream, options, stored),
                wanted,
                handler=found,
                code_dir=code_dir,
                follow=isinstance(handler, str),
            )

    async def _share(self, function: Function, stream: str, options: MappingOptions) -> EventSourceMapping:
        for option in FunctionOptions.__annotations__:
            if option in options:
                raise RefusedError(f"option {option} belongs to the function: give it to Session.function")
        if function._inner not in self._runtime.pool.functions:
            raise PoolClosed(f"the function {function.name!r} is closed")
        wanted = mapping_options(function.name, stream, options, function._stored)
        if judge_of(wanted) != function._inner.config.settings["judge"]:
            option = "tumbling_window_in_seconds" if wanted.tumbling_window_in_seconds else "function_response_types"
            raise RefusedError(f"option {option} does not go with a shared function: give the mapping its handler")
        return await self._runtime.mapping(
            wanted, code_dir=Path(function._inner.config.code_dir), shared=function._inner
        )

    async def delete_mapping(self, name: str) -> None:
        """Forget a mapping and its checkpoints: the next one of this name starts anew.

        Raises:
            RefusedError: there is none.
            BusyError: it is running; the pid is named.
        """
        self._check_open()
        runtime = self._runtime
        await runtime.disk(delete_mapping, runtime.data, runtime.store, name)

    async def redrive(
        self, which: str, *, source: str = "", dry_run: bool = False, **options: Unpack[ServiceOptions]
    ) -> RedriveResult:
        """Deliver again what a mapping has discarded, to its function, as it is stored by now.

        `which` is the mapping's name or UUID. At least once and in order, from a checkpoint of its own: the mapping's
        is not moved, the mapping may run meanwhile, and a second redrive finds nothing left but what failed again.
        With `dry_run` nothing is delivered: `records` says how many are left. `source` is an on-failure destination, as
        `on_failure` has it: of what lies there, that counts as discarded, too, which the data directory does not know.

        Cancellation: stops at once; the next redrive goes on where this one's checkpoints are.

        Raises:
            RefusedError: there is no such mapping, its stream was deleted, or an option is refused.
            BusyError: another process redrives it; the pid is named.
            HandlerImportError: its handler cannot be loaded.
            FailedError: its stored function was deleted, or a shard is damaged; the others were served.
        """
        self._check_open()
        return await redrive(self._runtime, which, options, source=source, dry_run=dry_run)

    # ---- the end

    async def close(self) -> None:
        """Called by `open`: nothing more can be begun, nothing is read any more, what was put is durable."""
        self._closed = True
        for records in list(self._readers):
            await records.aclose()
        await self.putter.close()

    def _check_open(self) -> None:
        if self._closed:
            raise PoolClosed("the session is closed")


@asynccontextmanager
async def open(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    log: SupportsWrite | None = None,
    durability: str = "fsync",
    metrics_port: int | None = None,
) -> AsyncIterator[Session]:
    """A session on a data directory (default: STREAMFN_DATA_DIR, else ./.streamfn), made if it does not exist.

    What handlers write goes to `log` (anything with a `write`; called in a thread of its own), or to standard error, as
    Lambda's log lines. A log that raises gets nothing more, which is said on standard error. `durability` is that of
    puts that do not say. With a `metrics_port` Prometheus' scrapes are answered at http://127.0.0.1:PORT/metrics (0: at
    any free port, see `Session.metrics_url`). On leaving the block, every process of the session is gone within a
    second.

    Raises:
        FailedError: the directory cannot be written, or is of a newer format.
        RefusedError: the directory is something else, or the durability none; the port is none, or in use.
    """
    mode = Durability.parse(durability)
    with metrics_at(metrics_port) as metrics:
        async with _opened(data_dir, log, mode, metrics) as session:
            yield session


@asynccontextmanager
async def _opened(
    data_dir: str | os.PathLike[str] | None,
    log: SupportsWrite | None,
    mode: Durability,
    metrics: MetricsPort | None,
) -> AsyncIterator[Session]:
    path = Path(data_dir or os.environ.get("STREAMFN_DATA_DIR") or DATA_DIR_DEFAULT)
    data = await trio.to_thread.run_sync(lambda: DataDir.open(path, create=True))
    writer = LogWriter(_to_standard_error if log is None else lambda text: _to_log(log, text))
    try:
        with bare():
            async with open_runtime(data, writer) as runtime:
                putter = Putter(data, mode)
                session = Session(runtime, putter)
                session.metrics_url = None if metrics is None else metrics.url
                async with beside(putter.run), metered(runtime, metrics):
                    try:
                        yield session
                    finally:
                        with trio.CancelScope(shield=True):
                            await session.close()
    finally:
        writer.close()


def _to_standard_error(text: str) -> None:
    # Looked up anew each time: notebooks and tests put their own in its place.
    if sys.stderr is not None:
        _write(sys.stderr, text)


def _to_log(log: SupportsWrite, text: str) -> None:
    try:
        _write(log, text)
    except Exception as error:  # the program's own code: whatever it raises costs its log lines and nothing else
        _to_standard_error(f"streamfn: nothing more is logged, for the log raised {error!r}\n")
        raise OSError(errno.EIO, "the log raised an exception") from error


def _write(log: SupportsWrite, text: str) -> None:
    try:
        log.write(text)
        flush = getattr(log, "flush", None)
        if flush is not None:
            flush()
    except ValueError as error:  # what a closed file says
        raise OSError(errno.EBADF, str(error)) from error


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except HandlerImportError as error:
        explain(error)
        raise
