"""A Trio run in a thread of its own, and calls into it from any other thread.

`trio.from_thread` is not enough: a thread that waits in it cannot be interrupted, and what it runs there belongs to
nobody when the run ends. Here each call is a task with a scope of its own, in a nursery of the session's, and its
answer is a future; a KeyboardInterrupt while it is waited for cancels the task, and every call is answered, however the
run ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

import trio

from streamfn.errors import PoolClosed
from streamfn.session import Session

T = TypeVar("T")

# A signal that comes just before the main thread falls asleep on a lock does not wake it: CPython looks for signals
# before, and with other threads busy that is milliseconds before. A Ctrl-C would then be heard only when the call
# has ended. So the main thread looks up now and then.
LOOK_UP_S = 0.2

# How long an interrupted call is waited for: everything it may have started is gone in less.
INTERRUPT_S = 5.0


class Call(Generic[T]):
    """One call under way: a task there, a future here."""

    def __init__(self, portal: Portal, function: Callable[[], Awaitable[T]]) -> None:
        self.future: Future[T] = Future()
        self._portal = portal
        self._function = function
        self._scope: trio.CancelScope | None = None
        self._begun = self._cancelled = False

    def result(self) -> T:
        """Wait for the answer. Interrupted, it cancels the call, waits for its end, and raises the interrupt."""
        try:
            _wait(self.future)
        except BaseException:
            self.stop()
            raise
        return self.future.result()

    def stop(self) -> None:
        """Cancel the task and wait for its end."""
        self._cancelled = True
        self._portal.soon(self._cancel_scope)
        wait([self.future], INTERRUPT_S)

    def begin(self, nursery: trio.Nursery) -> None:
        """Start the task, unless the call was cancelled before it came here."""
        if not self._cancelled:
            self._begun = True
            nursery.start_soon(self.serve)

    def _cancel_scope(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
        elif not self._begun and not self.future.done():
            self.future.set_exception(PoolClosed("the call was cancelled"))

    async def serve(self) -> None:
        """The task. A call that the end of the run cancels is answered by `Portal`, which knows why."""
        with trio.CancelScope() as self._scope:
            if self._cancelled:
                self._scope.cancel()
            try:
                value = await self._function()
            except Exception as error:  # carried over to the thread that waits
                self.future.set_exception(error)
            else:
                self.future.set_result(value)
        if not self.future.done():
            self.future.set_exception(PoolClosed("the call was cancelled"))


class Portal:
    """The thread, and the session that is open there. Any thread may call."""

    def __init__(self, session: Callable[[], AbstractAsyncContextManager[Session]]) -> None:
        """Open the session and return when it is there; what went wrong with it is raised."""
        self._open = session
        self._lock = threading.Lock()
        self._calls: set[Call[Any]] = set()
        self._pid = os.getpid()
        self._started: Future[Session] = Future()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._closing: trio.Event | None = None
        self._close_asked = False
        self._over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="streamfn", daemon=True)
        self._thread.start()
        try:
            _wait(self._started)
            self.session = self._started.result()
        except BaseException:  # an interrupt too: what has been begun is ended
            self.close()
            raise

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an async function there and wait for what it returns or raises.

        Raises:
            PoolClosed: the session is closed, or was while this waited.
        """
        call = Call(self, function)
        try:
            self._hand_over(call)
        except BaseException as error:  # an interrupt: what may have been begun is ended
            if not isinstance(error, PoolClosed):
                call.stop()
            raise
        return call.result()

    def begin(self, function: Callable[[], Awaitable[T]]) -> Call[T]:
        """The same without waiting."""
        call = Call(self, function)
        self._hand_over(call)
        return call

    def require_usable(self) -> None:
        """Raise PoolClosed in a thread or a process that must not call."""
        if threading.get_ident() == self._thread.ident:
            raise PoolClosed("a session cannot be called from its own thread")
        if os.getpid() != self._pid:
            raise PoolClosed("the session belongs to the process that this one was forked from")

    def _hand_over(self, call: Call[Any]) -> None:
        self.require_usable()
        with self._lock:
            if self._over:
                raise PoolClosed("the session is closed") from self._error
            self._calls.add(call)
        call.future.add_done_callback(lambda _: self._forget(call))
        self.soon(lambda: self._start(call))

    def soon(self, function: Callable[[], object]) -> None:
        """Call `function` there; nothing if the run is over."""
        with self._lock:
            token = None if self._over else self._token
        if token is not None:
            try:
                token.run_sync_soon(function)
            except trio.RunFinishedError:
                return

    def close(self) -> None:
        """End the session and wait until everything of it is gone. Harmless twice.

        Raises:
            StreamfnError: what ended the session, if that was not this call.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._close_asked = True
        self.soon(self._ask_to_close)
        while self._thread.is_alive():
            self._thread.join(LOOK_UP_S)
        error, self._error = self._error, None
        if error is not None and self._started.exception() is None:
            raise error

    # ---- the thread

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:  # carried over to the threads that wait
            self._error = error
        finally:
            with self._lock:
                self._over = True
                left = list(self._calls)
            for call in left:
                call.future.set_exception(self._error or PoolClosed("the session was closed"))
            if not self._started.done():
                self._started.set_exception(self._error or PoolClosed("the session was closed"))

    async def _serve(self) -> None:
        self._closing = trio.Event()
        with self._lock:
            self._token = trio.lowlevel.current_trio_token()
            if self._close_asked:
                return
        async with self._open() as session, trio.open_nursery() as self._nursery:
            self._started.set_result(session)
            await self._closing.wait()
            self._nursery.cancel_scope.cancel()

    def _ask_to_close(self) -> None:
        assert self._closing is not None
        self._closing.set()

    def _start(self, call: Call[Any]) -> None:
        assert self._nursery is not None
        call.begin(self._nursery)

    def _forget(self, call: Call[Any]) -> None:
        with self._lock:
            self._calls.discard(call)


def _wait(future: Future[Any]) -> None:
    """Wait until it is done, whichever thread this is."""
    timeout = LOOK_UP_S if threading.current_thread() is threading.main_thread() else None
    while not future.done():
        wait([future], timeout)
