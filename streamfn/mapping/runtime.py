"""The runtime: one process's data directory, state store, pool, and the mappings that run on them.

It owns what mappings share: the pool's rounds, the watch on the shards' commit files, the checkpointer. After every
round of the pool the lanes that were touched, and those that had found no room, are pumped in turn: first come, first
served, so that no lane starves another.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

import trio

from streamfn.core.backoff import Backoff
from streamfn.core.filter import check as check_filters
from streamfn.errors import BusyError, FailedError, HandlerImportError, RefusedError, StreamfnError
from streamfn.functions.configuration import Configuration
from streamfn.functions.following import Followed, Following
from streamfn.functions.starting import REGION_DEFAULT, function_config, named
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.shard.watch import CommitWatch
from streamfn.mapping import configuration
from streamfn.mapping.alarm import Alarm
from streamfn.mapping.calling import Handler
from streamfn.mapping.checkpointer import Checkpointer
from streamfn.mapping.delivery import refuse_destination
from streamfn.mapping.destinations import resolve_destination
from streamfn.mapping.feed import ShardFeed
from streamfn.mapping.invoking import Caller, Invocation
from streamfn.mapping.logs import LogLines, LogSink, our_line, shown_log
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.options import RunOptions
from streamfn.mapping.position import check_position, starting_offsets
from streamfn.mapping.selector import Selector, open_selector
from streamfn.pool.function import Function
from streamfn.pool.pool import Pool, open_pool
from streamfn.state.functions import Code
from streamfn.state.owner import Ownership
from streamfn.state.store import Binding, Store, StoredMapping, made_text

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Pumped(Protocol):
    """What hands something over to workers, when it is its turn."""

    queued: bool

    def pump(self) -> Any:
        """Hand over what is due and fits."""


class Runtime:
    """See the module. Made by `open_runtime`; everything on it is called from its Trio thread."""

    def __init__(self, data: DataDir, store: Store, locks_path: Path, pool: Pool, sink: LogSink) -> None:
        self.data = data
        self.store = store
        self._locks_path = locks_path  # of whoever runs a mapping that is in the store
        self.pool = pool
        self._turn = trio.CapacityLimiter(1)  # one thread at a time has the store
        self.checkpointer = Checkpointer(store, self._turn)
        self.random: Callable[[], float] = random.random
        self.backoff = Backoff()  # how the mappings that are made from now on pace their retries
        self._sink = sink
        self._watch: CommitWatch[tuple[str, str]] = CommitWatch()
        self._watched: dict[tuple[str, str], Callable[[], None]] = {}
        self._queue: deque[Pumped] = deque()
        self._parked: dict[Function, dict[Pumped, None]] = {}
        self._round = trio.Event()
        self._open: list[EventSourceMapping] = []
        # As their mappings were told.
        self._faults: WeakKeyDictionary[Function, StreamfnError | None] = WeakKeyDictionary()
        self.caller = Caller(pool, self.fold)
        self.following = Following(self.say)
        self.alarm = Alarm()
        self._followed: dict[Function, Followed] = {}
        pool.on_round = self._on_round
        self.on_part: Callable[[EventSourceMapping], None] | None = None  # told of each mapping that is given up

    # ---- mappings

    async def mapping(
        self,
        options: RunOptions,
        *,
        code_dir: Path | None = None,
        function: Handler | None = None,
        path: Sequence[str] = (),
        shared: Function | None = None,
        follow: bool = True,
        starts: Mapping[str, int] | None = None,
    ) -> EventSourceMapping:
        """Bind a mapping to its name, take it over, and start its function.

        `options` have been validated. `function`, `path`, `follow`: see `start`. `shared` is a function that runs
        already, and outlives the mapping. `starts` says at which offset each shard begins, instead of the starting
        position, and like that only where the mapping has no checkpoint yet; a shard not in it begins with offset 0.

        Cancellation: nothing is left running, and the mapping is nobody's.

        Raises:
            RefusedError: unknown stream, a name bound to another stream.
            BusyError: another process runs it; its pid is named.
            HandlerImportError: the handler cannot be loaded.
        """
        stream = self.data.stream(options.stream)
        check_position(stream, options.starting_position)
        check_filters(options.filters, stream.kind, options.filters_max)
        directory = str((code_dir or Path.cwd()).resolve())
        destination = resolve_destination(options.on_failure, Path(directory))
        if destination:
            await trio.to_thread.run_sync(refuse_destination, self.data, destination)
        name = options.name
        existing = await self.disk(self.store.mapping, name)
        if existing is not None and existing.stream_name != stream.name:
            raise RefusedError(
                f"the mapping {name!r} is bound to the stream {existing.stream_name!r}; "
                f"choose another --name for {stream.name!r}"
            )
        # Owned before anything is changed: a second `run` must not touch what the first one runs by.
        if existing is not None and await self.disk(self.store.managed, existing.uuid) is not None:
            raise RefusedError(made_text(name))
        ownership = self.own(name, existing.uuid) if existing is not None else None
        started, selector = shared, None
        try:
            if started is None:
                started = await self.start(
                    options, code_dir=code_dir, function=function, path=path, region=stream.region, follow=follow
                )
            if options.filters:
                selector = await self._selector(options, stream, started)
            if existing is None:  # another process may have made it meanwhile
                existing = await self.disk(self.store.mapping, name)
                ownership = self.own(name, existing.uuid) if existing is not None else None
            binding = await self.disk(self._bind, name, options, stream, directory, starts)
            if existing is None or existing.uuid != binding.mapping.uuid:
                if ownership is not None:
                    ownership.release()
                ownership = self.own(name, binding.mapping.uuid)
            assert ownership is not None
            epoch = await self.disk(self.store.acquire, binding.mapping.uuid)
        except BaseException:
            if started is not None and shared is None:
                await self.stop(started)
            if selector is not None:
                await selector.close(self.pool)
            if ownership is not None:
                ownership.release()
            raise
        return self._opened(
            binding,
            ownership,
            epoch,
            stream,
            started,
            options,
            destination,
            selector,
            shares_function=shared is not None,
        )

    def _opened(
        self,
        binding: Binding,
        ownership: Ownership,
        epoch: int,
        stream: Stream,
        function: Function,
        options: RunOptions,
        destination: str,
        selector: Selector | None,
        *,
        shares_function: bool,
        init_log: bool = True,
        of: StoredMapping | None = None,
    ) -> EventSourceMapping:
        logs = LogLines(self._sink, options.logs)
        if init_log:
            logs.init(function.init_log)
        mapping = EventSourceMapping(
            self,
            binding=binding,
            ownership=ownership,
            epoch=epoch,
            stream=stream,
            function=function,
            shares_function=shares_function,
            options=options,
            logs=logs,
            destination=destination,
            selector=selector,
            of=of,
        )
        self._open.append(mapping)
        mapping.look_after_workers()
        return mapping

    async def managed(
        self,
        stored: StoredMapping,
        ownership: Ownership,
        options: RunOptions,
        function: Function,
        *,
        init_log: bool,
        of: StoredMapping | None = None,
    ) -> EventSourceMapping:
        """Open a mapping as it is stored, for one run; its function outlives it.

        `ownership` is the mapping's from now on; `options` are those stored, with what belongs to the function.
        `init_log` says whether the function's Init is to be logged. `of` is the mapping whose redrive it is, if it is
        one: its on-failure records speak of that one.

        Raises:
            RefusedError: its stream was deleted, or the destination cannot be used, or the filters are not for it.
            Fenced: it was deleted.
        """
        selector = None
        try:
            stream = self.data.stream(options.stream)
            destination = resolve_destination(options.on_failure, Path(stored.code_dir))
            if destination:
                await trio.to_thread.run_sync(refuse_destination, self.data, destination)
            if options.filters:
                selector = await self._selector(options, stream, function)
            binding = await self.disk(self._rebind, stored, options, stream)
            epoch = await self.disk(self.store.acquire, stored.uuid)
        except BaseException:
            if selector is not None:
                await selector.close(self.pool)
            ownership.release()
            raise
        return self._opened(
            binding,
            ownership,
            epoch,
            stream,
            function,
            options,
            destination,
            selector,
            shares_function=True,
            init_log=init_log,
            of=of,
        )

    async def _selector(self, options: RunOptions, stream: Stream, function: Function) -> Selector:
        """The filters of a mapping; those that look into data have as many processes as the function."""
        return await open_selector(
            self.pool,
            options.filters,
            name=function.config.name,
            kind=stream.kind,
            arn=stream.arn,
            region=stream.region,
            scanners=function.config.maximum,
            queue=self.queue,
            say=lambda text: self.say(f"{options.name}: {text}"),
        )

    @property
    def open_mappings(self) -> Sequence[EventSourceMapping]:
        """The mappings that are open now, running or not."""
        return self._open

    def own(self, name: str, uuid: str) -> Ownership:
        """Take a mapping for this process.

        Raises:
            BusyError: another one has it; its pid is named.
        """
        try:
            return Ownership.acquire(self._locks_path / uuid)
        except BusyError as error:
            raise BusyError(f"the mapping {name!r} is {error}") from None

    @property
    def sink(self) -> LogSink:
        """Where log lines go."""
        return self._sink

    def say(self, text: str) -> None:
        """A line for whoever runs this, among the log lines."""
        self._sink.write(our_line(text), ours=True)

    async def disk(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Call what may wait for the disk, in a thread; one such call at a time has the store.

        Cancellation: a call that has begun is waited for.
        """
        return await trio.to_thread.run_sync(function, *arguments, limiter=self._turn)

    def _rebind(self, stored: StoredMapping, options: RunOptions, stream: Stream) -> Binding:
        return self.store.rebind(stored.uuid, stream.id, _starts(stored, options, stream))

    def _bind(
        self, name: str, options: RunOptions, stream: Stream, directory: str, starts: Mapping[str, int] | None
    ) -> Binding:
        if starts is None:
            starts = _starts(self.store.mapping(name), options, stream)
        return self.store.bind(
            name,
            stream_id=stream.id,
            stream_name=stream.name,
            handler=options.target,
            code_dir=directory,
            options=configuration.stored(options),
            starts=starts,
        )

    async def start(
        self,
        options: RunOptions,
        *,
        code_dir: Path | None = None,
        function: Handler | None = None,
        path: Sequence[str] = (),
        region: str = REGION_DEFAULT,
        function_arn: str = "",
        follow: bool = True,
    ) -> Function:
        """Start a function and wait until the workers are ready that are to be warm.

        `function` is a callable that has no importable name; `options.handler` is then what it is called by. `path` is
        the workers' whole `sys.path`; empty: the code directory and what Python has. `function_arn` is what the handler
        is told that it was invoked by; empty: the function's own, unqualified. With `follow` a change of the code is
        taken over by fresh workers, at the edge of a batch (not while debugging, and not of a callable).

        Raises:
            HandlerImportError: the handler cannot be loaded.
            RefusedError: a layer is no directory; or the callable cannot be run in a process forked from this one.
        """
        configuration = options.configuration(str((code_dir or Path.cwd()).resolve()))
        config = await trio.to_thread.run_sync(
            lambda: function_config(
                configuration,
                workers=options.workers,
                request_base=self.pool.request_base,
                region=region,
                arn=function_arn,
                judge=judge_of(options),
                debug=options.debug,
                measured=options.measured,
                shared=self.pool.concurrency is not None,
                function=function,
                path=path,
                data_dir=str(self.data.path.resolve()),
            )
        )
        followed = None
        if follow and function is None and not options.debug:
            followed = await self.following.watch(configuration.code_dir, options.handler)
        try:
            started = await self.pool.start(config)
        except BaseException as error:
            if followed is not None:
                self.following.end(followed)
            if isinstance(error, HandlerImportError):
                raise named(error, options.handler) from None
            raise
        for text in started.shortcomings:
            self.say(f"{config.name}: {text}")
        if followed is not None:
            self._followed[started] = followed
            self.following.begin(followed, lambda code: self._renew(started, options.function, code))
        return started

    async def _renew(self, function: Function, stored: str, code: Code) -> None:
        """Have fresh workers take over, because the code is another one; `stored` is the name of a stored function."""
        name = function.config.name
        if stored:
            try:
                await self.disk(self.store.functions.note, stored, code)
            except FailedError as error:
                self.say(f"{name}: a version is not noted: {error}")
        try:
            await function.renew(function.config)
        except HandlerImportError as error:
            self._sink.write(shown_log(error.log))
            self.say(f"{name}: the code has changed, and cannot be loaded: {error}; what was loaded before goes on")
        except StreamfnError as error:
            self.say(f"{name}: the code has changed, and there are no workers for it: {error}")
        else:
            self.say(f"{name}: the code has changed, and fresh workers have taken over")

    async def invoke(self, function: Function, event: bytes, logs: str) -> Invocation:
        """Call a started function once; see `Caller.invoke`. `logs`: see `LogLines`."""
        return await self.caller.invoke(function, event, LogLines(self._sink, logs))

    def stored_function(self, name: str) -> Configuration:
        """What a stored function is now, by its name or ARN. Reads its code: a version is added if that has changed.

        Raises:
            RefusedError: there is none.
        """
        from streamfn.functions.managing import GET, StoredFunctions  # most runs name a handler, and need none of it

        return StoredFunctions(lambda: self.store, Path.cwd()).configuration(GET, name)

    # ---- rounds

    def queue(self, lane: Pumped) -> None:
        """Pump the lane (or a selector) after this round of the pool, or after the next one."""
        if not lane.queued:
            lane.queued = True
            self._queue.append(lane)

    def park(self, lane: Pumped, function: Function) -> None:
        """Pump the lane when the function has a worker for it: many may wait for one while others are at work."""
        self._parked.setdefault(function, {})[lane] = None

    def unpark(self, lane: Pumped, function: Function) -> None:
        """Undo `park`; harmless without it."""
        self._parked.get(function, {}).pop(lane, None)

    def _on_round(self) -> None:
        self._pump()
        if self._parked:  # lanes that have just stood up may have left room
            for function in [each for each in self._parked if each.has_worker]:
                for lane in self._parked.pop(function):
                    self.queue(lane)
            self._pump()
        for function in self.pool.functions:
            if self._faults.get(function) is not function.fault:
                self._faults[function] = function.fault
                for mapping in self._open:
                    if mapping.function is function:
                        mapping.look_after_workers()
        self._round.set()
        self._round = trio.Event()

    def _pump(self) -> None:
        for _ in range(len(self._queue)):
            lane = self._queue.popleft()
            lane.queued = False
            lane.pump()

    async def next_round(self) -> None:
        """Wait until the pool has reaped something, or a moment has passed."""
        with trio.move_on_after(0.05):
            await self._round.wait()

    # ---- following the log

    def adopt(self, mapping: EventSourceMapping) -> None:
        """Commit the mapping's checkpoints, and tell it when its stream is resharded."""
        self.checkpointer.own(mapping)
        self._watch_for(mapping.uuid, "", mapping.resharded, mapping.stream)

    def release(self, mapping: EventSourceMapping) -> None:
        """Undo `adopt`."""
        self.checkpointer.disown(mapping.uuid)
        self._forget(mapping.uuid, "")

    def follow(self, mapping: EventSourceMapping, feed: ShardFeed) -> None:
        """Wake the feed when its shard grows."""
        self._watch_for(mapping.uuid, feed.shard.id, feed.wake, feed.shard)

    def unfollow(self, mapping: EventSourceMapping, feed: ShardFeed) -> None:
        """Undo `follow`; the feed's lanes are not pumped any more."""
        self._forget(mapping.uuid, feed.shard.id)
        for lane in feed.lanes:
            if lane.queued:
                lane.queued = False
                self._queue.remove(lane)

    def listen(self, path: Path, wake: Callable[[], None]) -> None:
        """Call `wake` whenever the file is written to, until the runtime is closed."""
        self._watch_for(str(path), "", wake, path)

    def unlisten(self, path: Path) -> None:
        """Undo `listen`; harmless without it."""
        self._forget(str(path), "")

    def _watch_for(self, uuid: str, shard_id: str, wake: Callable[[], None], what: Shard | Stream | Path) -> None:
        self._watched[uuid, shard_id] = wake
        self._watch.add(what, (uuid, shard_id))

    def _forget(self, uuid: str, shard_id: str) -> None:
        self._watch.remove((uuid, shard_id))
        self._watched.pop((uuid, shard_id), None)

    async def _follow(self) -> None:
        """Wake the feeds whose shards have grown, and tell mappings whose streams were resharded."""
        while True:
            await trio.lowlevel.wait_readable(self._watch.fileno())
            for key in self._watch.drain():
                wake = self._watched.get(key)
                if wake is not None:
                    wake()

    async def stop(self, function: Function) -> None:
        """Stop a function; shielded from cancellation, and takes less than a second."""
        self._parked.pop(function, None)
        followed = self._followed.pop(function, None)
        if followed is not None:
            self.following.end(followed)
        with trio.CancelScope(shield=True):
            await function.stop()
        if function in self.pool.functions:
            self.pool.functions.remove(function)

    async def part(self, mapping: EventSourceMapping) -> None:
        """Give a mapping up and stop its function, unless that is shared."""
        if not mapping.shares_function:
            await self.stop(mapping.function)
        if mapping.selector is not None:
            await mapping.selector.close(self.pool)
        if mapping in self._open:
            self._open.remove(mapping)
            if self.on_part is not None:
                self.on_part(mapping)
            mapping.close()
            self.fold(mapping.function)

    def fold(self, function: Function) -> None:
        """Take successes together again, now that somebody less asks for each one's answer; unless others still do."""
        if not any(mapping.function is function and mapping.observed for mapping in self._open):
            for worker in function.workers:
                worker.fold = not self.caller.is_on(worker)

    async def run(self) -> None:
        """What runs beside the mappings, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self.following.run)
            nursery.start_soon(self.alarm.run, time.monotonic_ns)
            nursery.start_soon(self.checkpointer.run)

    def close(self) -> None:
        """Give every mapping up."""
        for mapping in self._open:
            mapping.close()
        self._open.clear()
        self._watch.close()
        self.following.close()
        self.alarm.close()


@asynccontextmanager
async def open_runtime(
    data: DataDir, sink: LogSink, *, store_path: Path | None = None
) -> AsyncIterator[Runtime]:
    """A runtime on a data directory, for as long as the block lasts.

    Mappings and their checkpoints are in the data directory's store; or, for who is not to touch those, in one of their
    own at `store_path`, made if it is missing, with its locks beside it. Then the data directory is only read.

    Leaving the block stops the pool's processes at once; drain the mappings before.

    Raises:
        FailedError: the store cannot be opened.
    """
    locks_path = data.locks_path if store_path is None else store_path.parent / data.locks_path.name
    store = await trio.to_thread.run_sync(lambda: Store.open(store_path or data.state_path, create=True))
    runtime: Runtime | None = None
    error: BaseException | None = None
    try:
        async with open_pool() as pool:
            runtime = Runtime(data, store, locks_path, pool, sink)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runtime.run)
                try:
                    yield runtime
                except BaseException as raised:  # it comes out as it is, in no exception group
                    error = raised
                nursery.cancel_scope.cancel()
            if error is not None:
                raise error
    finally:
        # Only now, with every worker gone, may another process own the mappings.
        if runtime is not None:
            runtime.close()
        store.close()


def _starts(known: StoredMapping | None, options: RunOptions, stream: Stream) -> dict[str, int]:
    """Where shards begin that have no checkpoint yet. Reads the disk."""
    if known is not None and known.stream_id == stream.id:
        return {}  # it goes on from its checkpoints; looking for a time may mean reading the log
    return starting_offsets(stream, options.starting_position, options.starting_position_timestamp)


def judge_of(options: RunOptions) -> str | None:
    """What a worker does with a response beside marshalling it; see `mapping.worker`."""
    if options.tumbling_window_in_seconds:
        return "window"
    return "batch_item_failures" if options.function_response_types else None
