"""The execution environments of `run_mapping`: what a handler keeps from one invocation to the next.

Each scripted worker has one. A handler class is made once in it, and an async handler has one event loop in it, whose
time is the virtual clock's: `asyncio.sleep` takes virtual time, and nothing waits. A timeout or a death ends the
environment, and with it the instance and the loop, as the end of its process does.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

from streamfn.errors import RefusedError
from streamfn.mapping import calling
from streamfn.mapping.calling import Handler, Instance
from streamfn.mapping.loop import EventLoop
from streamfn.testing.clock import VirtualClock

# Nothing is due, and nobody can make anything due: an invocation that waits so waits for its timeout.
_FOR_EVER_S = 1e6


class Environment:
    """One environment of a function: `begin`, then any number of calls, until it ends; then it may begin anew."""

    def __init__(self, handler: Handler, clock: VirtualClock) -> None:
        self._handler = calling.shape(handler)
        self._clock = clock
        self._loop: EventLoop | None = None
        self._call: Callable[[Any, Any], Any] | None = None

    def begin(self) -> Callable[[Any, Any], Any]:
        """Return what is called with an event and a context; made when it is first asked for.

        Raises:
            RefusedError: an async handler, where an asyncio loop is running.
            Exception: what the handler's class raises when it is made: in production that is an error of Init.
        """
        if self._call is None:
            self._call = self._begun()
        return self._call

    def end(self) -> None:
        """Let everything go, as the end of a process does: nothing of it runs any more."""
        if self._loop is not None:
            self._loop.discard()
        self._loop = self._call = None

    def _begun(self) -> Callable[[Any, Any], Any]:
        handler = self._handler
        if calling.is_async(handler):
            if asyncio._get_running_loop() is not None:
                raise RefusedError(
                    "run_mapping runs an async handler on an event loop of its own, so it cannot be called where one "
                    "is running: call it from a plain test function"
                )
            self._loop = EventLoop(VirtualLoop(self._clock))
        made = handler.make() if isinstance(handler, Instance) else handler
        return made if self._loop is None else self._loop.calling(made)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on a virtual clock: what it would wait for by time, it lets pass.

    Sockets and threads are real, and waited for in real time, while no timer is running.
    """

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_Selector(clock, self))
        self._clock = clock
        self._clock_resolution = 1e-6  # what sleeping cuts off below a nanosecond is no reason to sleep again

    def time(self) -> float:
        """The clock's, in seconds."""
        return self._clock.monotonic_ns() / 1e9


class _Selector(selectors.DefaultSelector):
    """Looks for what is ready, and sleeps on the clock."""

    def __init__(self, clock: VirtualClock, loop: VirtualLoop) -> None:
        super().__init__()
        self._clock = clock
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        if timeout is None:
            # A thread of the loop's, or whoever is at the other end of a socket, can still wake it.
            if len(self.get_map()) > 1 or getattr(self._loop, "_default_executor", None) is not None:
                return super().select(None)
            timeout = _FOR_EVER_S
        ready = super().select(0)
        if not ready:
            self._clock.sleep(timeout)
        return ready
