"""What blocks, in threads: calls of the source, which may be left alone, and acts on the log, which may not.

stopping        the scope around is cancelled: calls are left alone, acts are awaited
`abandon`       acts are left alone, too; what they do may or may not come to its end
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import trio

# At the same time, of all shards together.
CALLS_MAX = 32
ACTS_MAX = 8

T = TypeVar("T")


class Threads:
    """Threads of one recording, bounded."""

    def __init__(self) -> None:
        self._calls = trio.CapacityLimiter(CALLS_MAX)
        self._acts = trio.CapacityLimiter(ACTS_MAX)
        self._shields: set[trio.CancelScope] = set()
        self._abandoned = False

    def abandon(self) -> None:
        """Leave alone what is being done, and do nothing more.  The scope around has been cancelled."""
        self._abandoned = True
        for shield in self._shields:
            shield.cancel()

    async def call(self, ask: Callable[..., T], *arguments: object) -> T:
        """Ask the source.  Who is cancelled does not wait for the answer."""
        return await trio.to_thread.run_sync(
            functools.partial(ask, *arguments), abandon_on_cancel=True, limiter=self._calls
        )

    async def durably(self, act: Callable[..., T], *arguments: object) -> T:
        """Do something with the log, to its end even where the scope around is cancelled, unless abandoned."""
        if not self._abandoned:
            with trio.CancelScope(shield=True) as shield:
                self._shields.add(shield)
                try:
                    return await trio.to_thread.run_sync(
                        functools.partial(act, *arguments), abandon_on_cancel=True, limiter=self._acts
                    )
                finally:
                    self._shields.discard(shield)
        await trio.sleep_forever()  # until it is cancelled, which it is
        raise AssertionError("unreachable")
