"""Time that passes only when it is told to, and what is to happen in it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


class VirtualClock:
    """A `Clock` that stands still between calls of `advance_to`."""

    def __init__(self, start_ns: int = 0, unix_ms: int = 1_700_000_000_000) -> None:
        """Begin at `start_ns` on the monotonic and at `unix_ms` on the wall clock."""
        self._now_ns = start_ns
        self._unix_ms = unix_ms - start_ns // NS_PER_MS

    def monotonic_ns(self) -> int:
        """See `Clock`."""
        return self._now_ns

    def unix_ms(self) -> int:
        """See `Clock`."""
        return self._unix_ms + self._now_ns // NS_PER_MS

    def advance_to(self, now_ns: int) -> None:
        """Let time pass, which it does in one direction."""
        assert now_ns >= self._now_ns
        self._now_ns = now_ns


class Agenda:
    """What happens when, in virtual time.  Things due at the same moment happen in the order they came."""

    def __init__(self, clock: VirtualClock) -> None:
        """Begin with nothing to do."""
        self._clock = clock
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()

    @property
    def now_ns(self) -> int:
        """The virtual time."""
        return self._clock.monotonic_ns()

    def after(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Do `action` in `delay_ns`, which is at least 0."""
        assert delay_ns >= 0
        heapq.heappush(self._due, (self.now_ns + delay_ns, next(self._numbers), action))

    def run(self, until_ns: int, finished: Callable[[], bool] | None = None) -> bool:
        """Do what is due up to `until_ns`, in order; stop at once when `finished` says so.

        Returns whether `finished` did; without it, False.
        """
        while self._due and self._due[0][0] <= until_ns:
            if finished is not None and finished():
                return True
            due_ns, _, action = heapq.heappop(self._due)
            self._clock.advance_to(due_ns)
            action()
        if finished is not None and finished():
            return True
        self._clock.advance_to(until_ns)
        return False
