"""The task that has `core.scaling` decide, and carries out what it says.

It runs when something has changed that it must see at once (a worker came or went, a lane found none), soon after a
lane had to share a worker, and when the machine wants to look again; otherwise not at all.  An idle pool of functions
that have what they need sets no timer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NoReturn

import trio

from streamfn.core.scaling import Bounds, Scaling
from streamfn.errors import RefusedError

if TYPE_CHECKING:
    from streamfn.pool.function import Function

# What lanes' sharing changes is looked at no more often than this, and for no more than a twentieth of the time.
_NUDGED_S = 0.005
_COST_FACTOR = 20


class Scaler:
    """See the module.  Belongs to the Trio thread; `run` is its task."""

    def __init__(self) -> None:
        self._counted = Scaling()
        self._others = Scaling()  # functions that nothing of the concurrency is spent on
        self._functions: list[Function] = []
        self._stirred = trio.Event()
        self._sleep = trio.CancelScope()
        self._nudged = False
        self._cost_s = 0.0

    @property
    def concurrency(self) -> int | None:
        """How many workers all counted functions may have together."""
        return self._counted.concurrency

    @concurrency.setter
    def concurrency(self, concurrency: int | None) -> None:
        self._counted.concurrency = concurrency
        self.stir()

    def add(self, function: Function) -> None:
        """Look after a function.  RefusedError if the concurrency is not enough for it."""
        machine = self._counted if function.config.counted else self._others
        if function.config.counted:
            self.check(function.config.name, function.share.bounds)
        machine.shares.append(function.share)
        self._functions.append(function)
        self.stir()

    def remove(self, function: Function) -> None:
        """Undo `add`; harmless without it."""
        if function in self._functions:
            self._functions.remove(function)
            machine = self._counted if function.config.counted else self._others
            machine.shares.remove(function.share)
            self.stir()

    def check(self, name: str, bounds: Bounds, *, instead_of: Function | None = None) -> None:
        """Raise RefusedError if the concurrency is not enough for another function, or for one with other bounds."""
        others = Scaling(self.concurrency)
        others.shares = [share for share in self._counted.shares if instead_of is None or share is not instead_of.share]
        refusal = others.refusal(bounds)
        if refusal is not None:
            raise RefusedError(f"{name} cannot be started: {refusal}")

    def has_room(self, function: Function) -> bool:
        """Whether the function may have another worker: by its own maximum, and by the pool's concurrency."""
        if function.alive >= function.config.maximum:
            return False
        concurrency = self._counted.concurrency
        if concurrency is None or not function.config.counted:
            return True
        return sum(each.alive for each in self._functions if each.config.counted) < concurrency

    def stir(self) -> None:
        """Have it decided soon: something has changed."""
        self._stirred.set()

    def nudge(self) -> None:
        """Have it decided within some milliseconds: a lane shares a worker, or has taken the last free one."""
        if not self._nudged:
            self._nudged = True
            due_s = trio.current_time() + max(_NUDGED_S, _COST_FACTOR * self._cost_s)
            self._sleep.deadline = min(self._sleep.deadline, due_s)

    async def run(self) -> NoReturn:
        """Decide and carry out, until cancelled."""
        wake_s = float("inf")
        while True:
            self._sleep = trio.CancelScope(deadline=wake_s)
            with self._sleep:
                await self._stirred.wait()
            self._stirred = trio.Event()
            self._nudged = False
            began_s = time.perf_counter()
            wake_s = self._decide()
            self._cost_s = time.perf_counter() - began_s

    def _decide(self) -> float:
        """Decide now; when to look again, on Trio's clock."""
        now_ns, now_s = time.monotonic_ns(), trio.current_time()
        wake_s = float("inf")
        for machine, counted in ((self._counted, True), (self._others, False)):
            functions = {each.share: each for each in self._functions if each.config.counted is counted}
            decision = machine.decide(now_ns, [(share, each.seen()) for share, each in functions.items()])
            for share, count in decision.grow.items():
                functions[share].grow(count)
            for share, numbers in decision.retire.items():
                functions[share].retire(numbers, "it is idle, or others wait")
            if decision.wake_ns is not None:
                wake_s = min(wake_s, now_s + max(0, decision.wake_ns - now_ns) / 1e9)
        return wake_s
