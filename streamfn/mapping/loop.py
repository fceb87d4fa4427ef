"""The event loop of an environment, for handlers that are `async def`: one loop, one invocation at a time.

The loop is made in the worker, behind the fork, and kept across invocations, so that clients and connection pools that
belong to a loop stay usable. Between two invocations it stands still: nothing on it runs.

What an invocation leaves running is not carried into the next one: when the handler has returned or raised, its other
tasks are cancelled, waited for (that still counts for the invocation's time limit), and named in the log. So
`asyncio.run` does it, and so a record's work is never half done when its success is told. Tasks given to `keep_task`
are left alone; they go on when the loop does. Timers (`call_later`) and sockets that a client watches stay too.

Imported only where a handler is asynchronous.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T", bound="asyncio.Task[Any]")

_log = logging.getLogger("streamfn")
_kept: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()


def keep_task(task: T) -> T:
    """Let a task of an async handler live on between invocations, and return it.

    For what a client of yours runs beside you (a heartbeat, a consumer): it goes on whenever an invocation runs, and is
    neither cancelled nor waited for when one ends. Whoever keeps a task also keeps a reference to it, as always with
    asyncio.
    """
    _kept.add(task)
    return task


class EventLoop:
    """See the module. Without a `loop` of the caller's it is a new one, and this thread's from now on."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = asyncio.new_event_loop() if loop is None else loop
        self._pid = os.getpid()
        if loop is None:
            asyncio.set_event_loop(self._loop)

    def calling(self, handler: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        """Return what calls `handler` and gives its result, run to the end if it is a coroutine."""

        def call(event: Any, context: Any) -> Any:
            made = handler(event, context)
            return self.run(made) if inspect.iscoroutine(made) else made

        return call

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run one invocation: the coroutine to its end, and then what it has left behind."""
        ending = _Ending()
        try:
            self._loop.run_until_complete(ending.of(coroutine))
            error = ending.error
        except Exception as stopped:  # the handler has stopped the loop, and hangs in it
            error = stopped
        ends = error is not None and not isinstance(error, Exception)  # SystemExit, CancelledError and their like
        if not ends and os.getpid() == self._pid:  # else a process that the handler forked
            left = self._left()
            if left:
                self._end(left)
        if error is None:
            return ending.result
        try:
            raise error
        finally:
            del error, ending  # an exception that refers to itself would live until the next collection

    def discard(self) -> None:
        """Close the loop as its process' end would: nothing on it runs any more."""
        for task in asyncio.all_tasks(self._loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._loop.close()

    def _left(self) -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks(self._loop) if task not in _kept]

    def _end(self, left: Sequence[asyncio.Task[Any]]) -> None:
        names = ", ".join(sorted(_name(task) for task in left))
        count = "a task" if len(left) == 1 else f"{len(left)} tasks"
        _log.warning("the handler left %s running, cancelled at the end of the invocation: %s", count, names)
        while left:  # one that is being cancelled may start another
            self._cancel(left)
            left = self._left()

    def _cancel(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.wait(tasks))
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                self._loop.call_exception_handler(
                    {"message": "a task that was cancelled raised", "exception": task.exception(), "task": task}
                )


class _Ending:
    """How a coroutine ended. Kept here, not in its task, so that what it raised has no frames of asyncio's."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: BaseException | None = None

    async def of(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            self.result = await coroutine
        except BaseException as error:
            self.error = error


def _name(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return f"{task.get_name()} ({getattr(coroutine, '__qualname__', coroutine)})"
