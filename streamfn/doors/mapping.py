"""A mapping that a session owns: its runs, and their outcomes as an iterator."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from streamfn.doors.errors import bare
from streamfn.doors.options import check_limit
from streamfn.errors import PoolClosed, RefusedError
from streamfn.mapping.mapping import EventSourceMapping
from streamfn.mapping.outcome import Outcome
from streamfn.mapping.result import RunResult

# Outcomes that nobody has taken yet; beyond it the mapping hands nothing over until they are.
OUTCOMES_MAX = 4096


class Mapping:
    """An event source mapping that this session owns, ready to run. Made by `Session.mapping`.

    One `run` at a time; there may be several, one after the other, each going on where the last one stopped.
    """

    def __init__(self, inner: EventSourceMapping) -> None:
        self._inner = inner
        self._feeds: list[Outcomes] = []
        self._scope: trio.CancelScope | None = None
        self._idle = trio.Event()
        self._idle.set()
        self._closed = False

    @property
    def name(self) -> str:
        """Its name, unique in the data directory."""
        return self._inner.name

    @property
    def resumed(self) -> bool:
        """Whether it goes on from a checkpoint of its own; then the starting position was ignored."""
        return self._inner.resumed

    @property
    def running(self) -> bool:
        """Whether a run is going on."""
        return not self._idle.is_set()

    async def run(self, *, limit: int | None = None) -> RunResult:
        """Follow the stream until `drain` is called, or `limit` records were handed over.

        Cancellation: stops at once; invocations that are running are killed and delivered again by the next run, and so
        is what was completed but not yet committed (at most 50 ms of work). Call `drain` for a stop at a batch edge.

        Raises:
            RefusedError: the limit is out of range, or the mapping is running already.
            LogDamaged: a shard is damaged; the others were served to the end.
            PoolClosed: the mapping was closed.
        """
        return await self._run(False, limit)

    async def run_until_caught_up(self, *, limit: int | None = None) -> RunResult:
        """Deliver everything that is in the stream now, and return when the checkpoints are durable.

        A handler that always fails is retried for ever, so this does not return then.

        Cancellation and errors as for `run`.
        """
        return await self._run(True, limit)

    def drain(self) -> None:
        """Have the run that is going on stop at a batch edge: nothing more is handed over, what runs is waited for.

        Without a run nothing happens. Not a checkpoint.
        """
        if self.running:
            self._inner.drain()

    @asynccontextmanager
    async def outcomes(self) -> AsyncIterator[Outcomes]:
        """The outcomes of all invocations while the block lasts, as an async iterator.

            async with mapping.outcomes() as outcomes, trio.open_nursery() as nursery:
                nursery.start_soon(mapping.run_until_caught_up)
                async for outcome in outcomes:
                    print(outcome.request_id, outcome.result)

        It ends when the next run to end has ended. A consumer that stops taking holds the mapping up, 4,096 outcomes
        later; it does not fill the memory.
        """
        feed = self.open_feed()
        try:
            yield feed
        finally:
            self.close_feed(feed)

    def open_feed(self) -> Outcomes:
        """The same without a block; give it to `close_feed`."""
        feed = Outcomes(self)
        feed.stop = self._inner.watch(feed.add)
        self._feeds.append(feed)
        return feed

    def close_feed(self, feed: Outcomes) -> None:
        """Watch no longer. Harmless twice."""
        if feed in self._feeds:
            self._feeds.remove(feed)
            feed.stop()
            self.balance()

    def balance(self) -> None:
        """Hand over, or not, as the fullest feed has room."""
        if any(feed.waiting >= OUTCOMES_MAX for feed in self._feeds):
            self._inner.pause()
        elif not any(feed.waiting for feed in self._feeds):
            self._inner.resume()

    async def close(self) -> None:
        """Stop at once and give the mapping up; a run that is going on raises PoolClosed. Shielded."""
        self._closed = True
        if self._scope is not None:
            self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._idle.wait()
            await self._inner.runtime.part(self._inner)

    async def _run(self, until_caught_up: bool, limit: int | None) -> RunResult:
        check_limit(limit)
        if self._closed:
            raise PoolClosed(f"the mapping {self.name!r} is closed")
        if self.running:
            raise RefusedError(f"the mapping {self.name!r} is running already")
        self._idle = trio.Event()
        try:
            with trio.CancelScope() as self._scope, bare():
                return await self._inner.run(until_caught_up=until_caught_up, limit=limit)
            raise PoolClosed(f"the mapping {self.name!r} was closed while it ran")
        finally:
            self._scope = None
            self._idle.set()
            for feed in self._feeds:
                feed.end()


class Outcomes:
    """The queue between a mapping and who reads its outcomes: an async iterator. Made by `Mapping.outcomes`."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._queue: deque[Outcome] = deque()
        self._changed = trio.Event()
        self._ended = False
        self.stop: Callable[[], None] = _nothing

    @property
    def waiting(self) -> int:
        """How many have not been taken."""
        return len(self._queue)

    def add(self, outcome: Outcome) -> None:
        """Called by the mapping: one more."""
        self._queue.append(outcome)
        if len(self._queue) == OUTCOMES_MAX:
            self._mapping.balance()
        self._changed.set()

    def end(self) -> None:
        """Called by the mapping: the run has ended."""
        self._ended = True
        self._changed.set()

    async def take(self) -> list[Outcome]:
        """All that wait, at least one; none when the run has ended. Cancelled, it loses none."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._wait()
        taken = list(self._queue)
        self._queue.clear()
        return taken

    def __aiter__(self) -> Outcomes:
        return self

    async def __anext__(self) -> Outcome:
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._wait()
        if not self._queue:
            raise StopAsyncIteration
        return self._queue.popleft()

    async def _wait(self) -> None:
        while not self._queue and not self._ended:
            self._changed = trio.Event()
            self._mapping.balance()
            await self._changed.wait()


def _nothing() -> None:
    """What stopping does before anything was begun."""
