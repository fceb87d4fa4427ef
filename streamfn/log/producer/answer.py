"""The answer to a put: a future that costs little, settled many at a time.

With a plain Future each of 64 putters has a Condition made and notified for it, and when their group is
durable the thread that wrote it wakes them one by one while all of them fight for the GIL.  Here a lock is
made only by who really waits, and a group is woken as a chain: the first one wakes the second, and so on,
each just before it goes on with its own work.  That took the ceiling of 64 threads from 45,000 to 73,000
puts/s (two cores), because at most two threads want the GIL at a time.

Everything else that takes a Future (callbacks, `wait`, asyncio) finds one: the Condition that the base class
works with is made when it is first asked for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

# (shard id, sequence number) of each record.
Placed = list[tuple[str, str]]

_RUNNING, _FINISHED = "RUNNING", "FINISHED"

# A signal that comes just before a thread falls asleep on a lock does not wake it; so who waits looks up now
# and then.  It also bounds what a chain that broke (two interrupts in the same microsecond) can cost.
_LOOK_UP_S = 0.2

Then = Callable[["list[Answer]", threading.Lock], None]

_Chain = deque[threading.Lock]
_NOBODY: _Chain = deque()


class Answer(Future[Placed]):
    """The future of a put.  It cannot be cancelled: what is queued will be appended."""

    def __init__(self, then: Then | None = None) -> None:
        """`then` is called once for all answers with the same `then` that are settled together, and with a lock.

        It must neither raise nor wait: the thread that calls it is the one that writes to the shard.  It lets the
        lock go, or has it let go, when those who waited have had a chance to put again.
        """
        # Not the base class's: it would make the Condition.  These are the fields that its methods look at.
        self._state = _RUNNING
        self._result: Placed | None = None
        self._exception: BaseException | None = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Future[Placed]], object]] = []
        self.then = then
        self._sleepers: list[threading.Lock] = []
        self._chain: _Chain = _NOBODY

    def __getattr__(self, name: str) -> Any:
        if name != "_condition":
            raise AttributeError(name)
        return self.__dict__.setdefault("_condition", threading.Condition())

    def done(self) -> bool:
        """Whether it is answered."""
        return self._state == _FINISHED

    def result(self, timeout: float | None = None) -> Placed:
        """Return where the records are, waiting for it (up to `timeout` seconds; then TimeoutError)."""
        if self._state != _FINISHED:
            self._sleep(timeout)
        if self._exception is not None:
            raise self._exception
        assert self._result is not None
        return self._result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what went wrong, waiting as `result` does."""
        if self._state != _FINISHED:
            self._sleep(timeout)
        return self._exception

    def _sleep(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        lock = threading.Lock()
        lock.acquire()
        self._sleepers.append(lock)
        woken = False
        try:
            # Looked at after the lock is there for `settle` to find, so one of the two sees the other.
            while self._state != _FINISHED and not woken:
                left = _LOOK_UP_S if deadline is None else min(_LOOK_UP_S, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError
                woken = lock.acquire(timeout=left)
        finally:
            if woken or not self._stood_back(lock):
                _wake_next(self._chain)

    def _stood_back(self, lock: threading.Lock) -> bool:
        """Leave the sleepers or the chain; False if our turn has come, and so the next one is ours to wake.

        A lock is among the sleepers, or in the hand of who settles, or in the chain, or free: a place in the chain
        that is left empty would end it.
        """
        while not lock.acquire(blocking=False):
            for place in (self._sleepers, self._chain):
                if lock in place:
                    try:
                        place.remove(lock)
                        return True
                    except ValueError:
                        continue  # just taken
            time.sleep(0)
        return False

    def _tell(self) -> None:
        """Do what Future.set_result does for those that wait the ordinary way."""
        with self._condition:
            for waiter in self._waiters:
                (waiter.add_result if self._exception is None else waiter.add_exception)(self)
            self._condition.notify_all()
        self._invoke_callbacks()


def settle(
    answers: Iterable[tuple[Answer, Placed | None, BaseException | None]], turn: threading.Lock | None = None
) -> None:
    """Answer all of them, and wake whoever waits; `turn`, a lock that is held, is let go when all are awake."""
    chain: _Chain = deque()
    told: list[Answer] = []
    thens: dict[Then, list[Answer]] = {}
    for answer, placed, error in answers:
        answer._result, answer._exception, answer._chain = placed, error, chain
        answer._state = _FINISHED
        # From here on nobody new falls asleep.
        sleepers = answer._sleepers
        while sleepers:
            chain.append(sleepers.pop())
        if "_condition" in answer.__dict__:
            told.append(answer)
        if answer.then is not None:
            thens.setdefault(answer.then, []).append(answer)
    for then, together in thens.items():
        # One lock can be let go once; with several kinds of waiters it is the last one's.
        lock, turn = (turn, None) if turn is not None and not chain else (threading.Lock(), turn)
        if not lock.locked():
            lock.acquire()
        then(together, lock)
    if turn is not None:
        chain.append(turn)
    _wake_next(chain)
    for answer in told:
        answer._tell()


def _wake_next(chain: _Chain) -> None:
    try:
        chain.popleft().release()
    except IndexError:
        return  # the last one has been woken
