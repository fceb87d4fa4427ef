"""Time that passes only when it is told to, and what is to happen in it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


class TimeIsUp(BaseException):
    """Ends a handler that takes longer than its function may: it is not the handler's to catch."""


class VirtualClock:
    """A `Clock` that stands still until it is told to go on: by `sleep`, or by the mapping that runs on it."""

    def __init__(self, start_ns: int = 0, unix_ms: int = 1_700_000_000_000) -> None:
        """Begin at `start_ns` on the monotonic and at `unix_ms` on the wall clock."""
        self._now_ns = start_ns
        self._unix_ms = unix_ms - start_ns // NS_PER_MS
        self._spent_ns = 0  # by the handler that runs, and not yet by everybody else
        self._limit_ns: int | None = None

    def monotonic_ns(self) -> int:
        """See `Clock`."""
        return self._now_ns + self._spent_ns

    def unix_ms(self) -> int:
        """See `Clock`."""
        return self._unix_ms + self.monotonic_ns() // NS_PER_MS

    def sleep(self, seconds: float) -> None:
        """Let time pass.  In a handler that a mapping runs: until its function's timeout ends it."""
        assert seconds >= 0
        self._spent_ns += int(seconds * NS_PER_S)
        if self._limit_ns is None:
            self._now_ns, self._spent_ns = self.monotonic_ns(), 0
        elif self._spent_ns >= self._limit_ns:
            self._spent_ns = self._limit_ns
            raise TimeIsUp

    def advance_to(self, now_ns: int) -> None:
        """Let time pass, which it does in one direction."""
        assert now_ns >= self._now_ns
        self._now_ns = now_ns

    def jump(self, milliseconds: int) -> None:
        """Set the wall clock forward, or back."""
        self._unix_ms += milliseconds

    @contextmanager
    def invocation(self, limit_ns: int) -> Iterator[Callable[[], int]]:
        """While a handler runs: `sleep` is its own time, at most `limit_ns`.  Gives what tells how much it took."""
        self._limit_ns = limit_ns
        spent = [0]
        try:
            yield lambda: spent[0]
        finally:
            spent[0], self._spent_ns, self._limit_ns = self._spent_ns, 0, None


class Agenda:
    """What happens when, in virtual time.  Things due at the same moment happen in the order they came."""

    def __init__(self, clock: VirtualClock, most: int | None = None) -> None:
        """Begin with nothing to do.  `most` bounds how much is done: what goes on for ever is a bug."""
        self._clock = clock
        self._most = most
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
            due_ns, number, action = heapq.heappop(self._due)
            assert self._most is None or number < self._most, "it goes on for ever"
            self._clock.advance_to(due_ns)
            action()
        if finished is not None and finished():
            return True
        self._clock.advance_to(until_ns)
        return False
