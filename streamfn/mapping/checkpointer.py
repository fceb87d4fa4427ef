"""Makes watermarks durable: grouped, off the hot path, at the latest 50 ms after a completion (design decision D7).

All mappings of a runtime share one checkpointer, so however many there are, the disk sees one stream of commits. The
store is touched from one worker thread at a time, and never from the Trio thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from streamfn.limits import CHECKPOINT_DELAY_S

if TYPE_CHECKING:
    from streamfn.state.store import Store

# How long completions are gathered before a commit; the rest of the promised delay is the commit's own time.
GATHER_S = CHECKPOINT_DELAY_S * 0.4

# What a commit is told: offset, and the sequence number of the last record below it, where it is known.
Position = tuple[int, str | None]


class Checkpointer:
    """Commits what `moved` told it, in the background."""

    def __init__(self, store: Store, turn: trio.CapacityLimiter) -> None:
        """`turn` admits one thread at a time to the store."""
        self._store = store
        self._turn = turn
        self._owners: dict[str, tuple[int, Callable[[str, int], None]]] = {}
        self._dirty: dict[str, dict[str, Position]] = {}
        self._stirred = trio.Event()

    def own(self, uuid: str, epoch: int, durable: Callable[[str, int], None]) -> None:
        """From now on commit for the mapping under `epoch`; `durable(shard_id, offset)` is called after each commit."""
        self._owners[uuid] = (epoch, durable)

    def disown(self, uuid: str) -> None:
        """Commit nothing more for the mapping; call `flush` before."""
        self._owners.pop(uuid, None)
        self._dirty.pop(uuid, None)

    def moved(self, uuid: str, shard_id: str, offset: int, sequence_number: str | None) -> None:
        """The watermark of a shard moved; it will be durable within the promised delay."""
        self._dirty.setdefault(uuid, {})[shard_id] = (offset, sequence_number)
        self._stirred.set()

    async def run(self) -> None:
        """Commit whenever something moved, until cancelled; a commit that has begun is waited for.

        Raises:
            Fenced: another owner has taken a mapping over.
            FailedError: the store cannot be written.
        """
        while True:
            await self._stirred.wait()
            await trio.sleep(GATHER_S)
            await self.flush()

    async def flush(self) -> None:
        """Commit what has moved so far, and return when it is durable."""
        self._stirred = trio.Event()
        dirty, self._dirty = self._dirty, {}
        for uuid, positions in dirty.items():
            if uuid not in self._owners:
                continue
            epoch, durable = self._owners[uuid]
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._store.commit, uuid, epoch, positions, limiter=self._turn)
            for shard_id, (offset, _) in positions.items():
                durable(shard_id, offset)
