"""Waking at a moment, to the microsecond: for what is paced.

Trio's own timers go through epoll, which counts whole milliseconds and rounds up; at a few thousand records a second
that would be most of their latency.  One timerfd serves everybody.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import trio

from streamfn.pool.linux import set_timer, timerfd

Wake = Callable[[], None]


class Alarm:
    """Calls everybody at the moment they asked for last.  Belongs to the Trio thread; `run` is its task."""

    def __init__(self) -> None:
        self._fd = timerfd()
        self._wanted: dict[Wake, int] = {}
        self._heap: list[tuple[int, int, Wake]] = []  # what is not wanted any more is passed over
        self._asked = 0
        self._set_ns: int | None = None

    def ask(self, wake: Wake, at_ns: int | None) -> None:
        """Call `wake` at that moment on CLOCK_MONOTONIC, instead of at any other one; None: not at all.

        It is called once, must not raise, and is known by equality.
        """
        if self._wanted.get(wake) == at_ns:
            return
        if at_ns is None:
            self._wanted.pop(wake, None)
            return
        self._wanted[wake] = at_ns
        self._asked += 1
        heapq.heappush(self._heap, (at_ns, self._asked, wake))
        self._set()

    def _set(self) -> None:
        heap, wanted = self._heap, self._wanted
        while heap and wanted.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        if heap and heap[0][0] != self._set_ns:
            self._set_ns = heap[0][0]
            set_timer(self._fd, self._set_ns)

    async def run(self, now_ns: Callable[[], int]) -> NoReturn:
        """Call whoever has to be called, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            with suppress(BlockingIOError):  # it was set anew, to a later moment, between the wake-up and here
                os.read(self._fd, 8)
            self._set_ns = None
            now = now_ns()
            while self._heap and self._heap[0][0] <= now:
                at_ns, _, wake = heapq.heappop(self._heap)
                if self._wanted.get(wake) == at_ns:
                    del self._wanted[wake]
                    wake()
            self._set()

    def close(self) -> None:
        """Free the descriptor; `run` has ended."""
        os.close(self._fd)
