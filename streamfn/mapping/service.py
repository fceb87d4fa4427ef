"""Running every mapping that `mapping create` made and that is enabled: what `streamfn run` does without a handler.

    requests (any process) ──▶ store ──▶ bell ──▶ reconcile: what is wanted against what runs
                                                     │
                       start · reload · stop         ▼
        one task a mapping: open ──▶ run ──drain──▶ part ──▶ look at the store again ──▶ open, or let go

A request for a mapping that runs drains it: its lanes take back what is staged, wait for the batches that run, never
for a retry, and their checkpoints are flushed. Then it is opened anew, by what the store has, where its checkpoints
are. So every request takes effect at the edge of a batch, and there is one way for all of them. Nothing is asked of
the database in between: the bell is watched with inotify.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import trio

from streamfn.errors import StreamfnError
from streamfn.mapping import bell, lifecycle
from streamfn.mapping.feeds import committed_ends
from streamfn.mapping.functions import FunctionGone, Functions, function_of, options_of
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.result import RunResult
from streamfn.mapping.runtime import Runtime
from streamfn.state.managed import Managed
from streamfn.state.owner import Ownership
from streamfn.state.store import StoredMapping

# How long a request lets lanes that are behind others of their shard catch up: nobody sits there and waits for it.
LEVEL_S = 60.0


@dataclass
class Serving:
    """A mapping that this process runs, or has run.

    `mapping` is None while it is not open; `result` adds up the runs between reloads, `first_ns` and `last_ns` span
    them on the monotonic clock; `remaining` is what the last one left. `error` is why it stopped by itself.
    """

    uuid: str
    name: str
    stream: str
    revision: int
    ownership: Ownership
    mapping: EventSourceMapping | None = None
    resumed: bool = True  # from checkpoints of its own; False where its stream had been made anew
    result: RunResult = field(default_factory=lambda: RunResult(0, 0, 0, 0, 0.0, ""))
    first_ns: int = 0
    last_ns: int = 0
    remaining: int = 0
    error: StreamfnError | None = None
    stale: bool = False  # the store has a later revision than the one that runs, or another function
    throttled: bool = False  # its function is not to run at all
    function: dict[str, Any] | None = None  # as it was stored when the mapping was opened; None: it is not stored

    def now(self) -> RunResult:
        """What was done so far, by the run that is going on as well."""
        return self.result if self.mapping is None else added(self.result, self.mapping.result())


class Service:
    """See the module. `ours` are the options of a run that belong to functions and logs, not to a mapping.

    `concurrency` is how many workers all functions may have together; None: as many as each may have.
    """

    def __init__(self, runtime: Runtime, *, until_caught_up: bool, concurrency: int | None = None, **ours: Any) -> None:
        self._runtime = runtime
        runtime.pool.concurrency = concurrency
        self._until_caught_up = until_caught_up
        self._ours = ours
        self.functions = Functions(runtime)
        self.served: dict[str, Serving] = {}
        self._running: set[str] = set()
        self._rung = trio.Event()
        self._over = trio.Event()
        self.draining = False
        self._nursery: trio.Nursery | None = None

    # ---- the beginning and the end

    async def open(self) -> None:
        """Open what is enabled now; the first that cannot be opened ends it before anything was delivered.

        One whose function was deleted stops by itself, as it does later on.

        Raises:
            BusyError: another process runs one of them; its pid is named.
            HandlerImportError: a handler cannot be loaded.
            RefusedError: a stream was deleted.
        """
        path = await self._runtime.disk(bell.hang, self._runtime.data.locks_path)
        self._runtime.listen(path, lambda: self._rung.set())  # the event of that moment, not of this one
        for mapping, wanted in await self._runtime.disk(self._runtime.store.all_managed):
            if wanted.enabled:
                serving = self._take(mapping)
                try:
                    serving.mapping = await self._open(serving)
                except FunctionGone as error:
                    self._stopped(serving, error)
                    serving.ownership.release()

    async def run(self) -> None:
        """Run them, and whatever is enabled meanwhile, until all have caught up or `drain` was called.

        Cancellation: stops at once, as `EventSourceMapping.run`.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for serving in self.served.values():
                if serving.error is None:
                    self._begin(serving)
            nursery.start_soon(self._listen)
            self._settle()
            await self._over.wait()
            nursery.cancel_scope.cancel()

    def drain(self) -> None:
        """Stop all at the edge of a batch."""
        self.draining = True
        for serving in self.served.values():
            if serving.mapping is not None:
                serving.mapping.drain()
        self._settle()

    async def close(self) -> None:
        """Give everything up that an `open` that failed, or a run that was cancelled, has left; shielded."""
        with trio.CancelScope(shield=True):
            for serving in self.served.values():
                if serving.mapping is not None:
                    await self._runtime.part(serving.mapping)
                    serving.mapping = None
                serving.ownership.release()
            await self.functions.close()
            self._runtime.pool.concurrency = None
            self._runtime.unlisten(bell.bell_path(self._runtime.data.locks_path))

    def _settle(self) -> None:
        """End when nothing runs any more and nothing is to come."""
        if not self._running and (self.draining or self._until_caught_up):
            self._over.set()

    # ---- what is wanted against what runs

    async def _listen(self) -> None:
        while True:
            await self._rung.wait()
            self._rung = trio.Event()
            await self._reconcile()

    async def _reconcile(self) -> None:
        for mapping, wanted, function in await self._runtime.disk(self._all):
            serving = self.served.get(mapping.uuid)
            if serving is not None and mapping.uuid in self._running:
                later = wanted.revision != serving.revision or function != serving.function
                if later and not serving.stale:
                    serving.stale = True
                    if serving.mapping is not None:
                        serving.mapping.drain(0 if wanted.state == lifecycle.DELETING else LEVEL_S)
            elif (
                wanted.enabled and not self.draining and not self._until_caught_up
            ):  # which adds nothing to what is there
                try:
                    self._begin(self._take(mapping))
                except StreamfnError as error:
                    self._runtime.say(str(error))

    # ---- one mapping

    def _take(self, mapping: StoredMapping) -> Serving:
        """Take the mapping for this process."""
        ownership = self._runtime.own(mapping.title, mapping.uuid)
        serving = Serving(mapping.uuid, mapping.title, mapping.stream_name, 0, ownership)
        before = self.served.get(mapping.uuid)
        if before is not None:  # it was disabled, or failed, and comes again
            serving = replace(before, ownership=ownership, error=None, stale=False, name=mapping.title)
        self.served[mapping.uuid] = serving
        return serving

    def _begin(self, serving: Serving) -> None:
        assert self._nursery is not None
        self._running.add(serving.uuid)
        self._nursery.start_soon(self._serve, serving)

    async def _serve(self, serving: Serving) -> None:
        """Run a mapping until it is not wanted any more; the others go on when it cannot."""
        try:
            await self._follow(serving)
        except* StreamfnError as group:
            self._stopped(serving, _first(group))
        finally:
            serving.ownership.release()
            self._running.discard(serving.uuid)
        self._settle()

    def _stopped(self, serving: Serving, error: StreamfnError) -> None:
        serving.error = error
        self._runtime.say(f"{serving.name} stops: {error}")

    async def _follow(self, serving: Serving) -> None:
        """Open, run, and look again, as long as there is something to run or something new to look at."""
        again = True
        while again:
            if serving.mapping is None:
                serving.mapping = await self._open(serving)
            if serving.mapping is not None:
                await self._run(serving, serving.mapping)
            again = serving.stale and not self.draining

    async def _open(self, serving: Serving) -> EventSourceMapping | None:
        """Open a mapping as the store has it now, and settle its state; None if it is not to run (any more)."""
        runtime = self._runtime
        found = await runtime.disk(self._look_up, serving.uuid)
        if found is None:
            return None
        stored, wanted = found
        serving.stale, serving.revision = False, wanted.revision
        if wanted.state == lifecycle.DELETING:
            await runtime.disk(runtime.store.remove, serving.uuid)
            return None
        mapping = await self._start(serving, stored) if wanted.enabled else None
        serving.resumed = mapping is None or mapping.resumed
        state = lifecycle.settled(wanted.state, wanted.enabled)
        if state is not None and state != wanted.state:
            await runtime.disk(runtime.store.settle, serving.uuid, wanted.revision, state)
        return mapping

    async def _start(self, serving: Serving, stored: StoredMapping) -> EventSourceMapping | None:
        """Open a mapping that is to run; None if its function is not to, as a reserved concurrency of 0 says."""
        serving.function = await self._runtime.disk(function_of, self._runtime.store, stored)
        options, code_dir = options_of(stored, serving.function, self._ours)
        throttled, serving.throttled = serving.throttled, options.reserved_concurrency == 0
        if serving.throttled:
            if not throttled:
                self._runtime.say(f"{serving.name} waits: its function has a reserved concurrency of 0")
            serving.remaining = await self._runtime.disk(self._left, stored)
            return None
        stream = await self._runtime.disk(self._runtime.data.stream, stored.stream_name)
        arn = str(stored.options.get("FunctionArn") or "")
        function, fresh = await self.functions.take(options, Path(code_dir), stream.region, arn)
        try:
            mapping = await self._runtime.managed(
                stored._replace(name=serving.name), serving.ownership.share(), options, function, init_log=fresh
            )
        except BaseException:
            await self.functions.release(function)
            raise
        return mapping

    def _left(self, stored: StoredMapping) -> int:
        """How many records lie before a mapping that is not to run. Reads the disk."""
        stream = self._runtime.data.stream(stored.stream_name)
        done = self._runtime.store.checkpoints(stored.uuid) if stored.stream_id == stream.id else {}
        ends, _ = committed_ends(stream.shards)
        return sum(max(0, end - (done[shard].offset if shard in done else 0)) for shard, end in ends.items())

    def _all(self) -> list[tuple[StoredMapping, Managed, dict[str, Any] | None]]:
        """Every mapping, what is wanted of it, and its function as the store has it."""
        store = self._runtime.store
        return [(mapping, wanted, function_of(store, mapping)) for mapping, wanted in store.all_managed()]

    def _look_up(self, uuid: str) -> tuple[StoredMapping, Managed] | None:
        stored, wanted = self._runtime.store.find(uuid), self._runtime.store.managed(uuid)
        return None if stored is None or wanted is None else (stored, wanted)

    async def _run(self, serving: Serving, mapping: EventSourceMapping) -> None:
        """One run, up to the next request that concerns the mapping."""
        try:
            if not self.draining and not serving.stale:
                await mapping.run(until_caught_up=self._until_caught_up)
        finally:
            serving.mapping = None
            serving.result = added(serving.result, mapping.result())
            first_ns, last_ns = mapping.span_ns
            serving.first_ns = serving.first_ns or first_ns
            serving.last_ns = last_ns or serving.last_ns
            serving.remaining = mapping.remaining
            with trio.CancelScope(shield=True):
                await self._runtime.part(mapping)
                await self.functions.release(mapping.function)


def _first(group: BaseExceptionGroup[StreamfnError]) -> StreamfnError:
    leaf = group.exceptions[0]
    return _first(leaf) if isinstance(leaf, BaseExceptionGroup) else leaf


# Of a result's numbers, what a later run says again.
_STANDING = ("on_failure_pending",)


def added(before: RunResult, more: RunResult) -> RunResult:
    """Two runs of one mapping, one after the other, as one: sums, and otherwise what the later one says.

    A number that only one of them has is that one's.
    """
    counts = {}
    for each in fields(RunResult):
        numbers = [value for value in (getattr(before, each.name), getattr(more, each.name)) if _is_number(value)]
        if numbers and each.name not in _STANDING:
            counts[each.name] = sum(numbers)
    return replace(more, **counts)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
