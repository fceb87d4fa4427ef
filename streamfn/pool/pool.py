"""The pool: several functions, their workers, and one reap loop for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from streamfn.errors import PoolClosed
from streamfn.pool import request_id
from streamfn.pool.config import FunctionConfig
from streamfn.pool.confine.environment import Environments
from streamfn.pool.function import Function
from streamfn.pool.reaper import Reaper
from streamfn.pool.scaler import Scaler


class Pool:
    """See `open_pool`.  `functions` are the started ones.

    `request_base` goes to the workers with the settings: both sides make the same request id of it.
    """

    def __init__(
        self, nursery: trio.Nursery, reaper: Reaper, environments: Environments, scaler: Scaler, *, fold: bool
    ) -> None:
        self.functions: list[Function] = []
        self.request_base = request_id.new_base()
        self._nursery = nursery
        self._reaper = reaper
        self._environments = environments
        self._scaler = scaler
        self._fold = fold
        self._closed = False

    @property
    def on_round(self) -> Callable[[], None]:
        """Called after each round in which anything was answered, or a worker became ready or went away.

        It may submit; it must not await and not raise.
        """
        return self._reaper.on_round

    @on_round.setter
    def on_round(self, callback: Callable[[], None]) -> None:
        self._reaper.on_round = callback

    @property
    def concurrency(self) -> int | None:
        """How many workers all functions may have together, None: as many as each may have.

        Functions share what is not reserved or provisioned: see `core.scaling`.  Set it before they are started.
        """
        return self._scaler.concurrency

    @concurrency.setter
    def concurrency(self, concurrency: int | None) -> None:
        self._scaler.concurrency = concurrency

    def request_id(self, invocation: int) -> str:
        """Give the request id of an invocation of this pool."""
        return request_id.request_id(self.request_base, invocation)

    async def start(self, config: FunctionConfig) -> Function:
        """Start a function and wait until as many workers are ready as are to be at least.

        Raises HandlerImportError if its Init fails or takes too long (10 s, and then once more for as long as the
        timeout), FailedError if processes cannot be made, RefusedError for a callable that cannot be forked and where
        the pool's concurrency is not enough, PoolClosed.  Cancelled, it leaves nothing.
        """
        if self._closed:
            raise PoolClosed("the pool is closed")
        function = Function(config, self._reaper, self._environments, self._scaler, fold=self._fold)
        self._scaler.add(function)
        self._nursery.start_soon(function.run, name=f"function {config.name}")
        self.functions.append(function)
        try:
            await function.wait_started()
        except BaseException:
            self.functions.remove(function)
            with trio.CancelScope(shield=True):
                await function.stop()
            raise
        return function

    async def stop(self) -> None:
        """Stop every function, at the same time."""
        self._closed = True
        async with trio.open_nursery() as nursery:
            for function in self.functions:
                nursery.start_soon(function.stop)


@asynccontextmanager
async def open_pool(*, fold: bool = True) -> AsyncIterator[Pool]:
    """Open a pool; on leaving, every process of it is gone within a second, in flight or not.

    With `fold` false every success is told by `LaneClient.completed`, with its response.
    What the body raises comes out as it is, in no exception group.
    """
    reaper, environments, scaler = Reaper(), Environments(), Scaler()
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            pool = Pool(nursery, reaper, environments, scaler, fold=fold)
            nursery.start_soon(scaler.run)
            nursery.start_soon(reaper.run)
            nursery.start_soon(reaper.tick)
            try:
                yield pool
            except BaseException as raised:
                error = raised
            with trio.CancelScope(shield=True):
                await pool.stop()
            nursery.cancel_scope.cancel()
    finally:
        environments.close()
        reaper.close()
    if error is not None:
        raise error
