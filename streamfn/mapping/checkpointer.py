"""Makes watermarks durable: grouped, off the hot path, at the latest 50 ms after a completion.

All mappings of a runtime share one checkpointer, so however many there are, the disk sees one stream of commits. The
store is touched from one worker thread at a time, and never from the Trio thread.

A mapping that another owner has taken over is told so, and commits nothing more; the others go on.

While the store cannot be written, because the disk is full or another process keeps it locked, the mappings are told to
pause: what ran meanwhile would run again after a crash. It is tried again until it works, and then they go on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from streamfn.errors import BusyError, DiskFull, Fenced
from streamfn.limits import CHECKPOINT_DELAY_S
from streamfn.state.discards import Position, covered

if TYPE_CHECKING:
    from streamfn.state.discards import Discard
    from streamfn.state.progress import Progress
    from streamfn.state.store import Store
    from streamfn.types import Window

# How long completions are gathered before a commit; the rest of the promised delay is the commit's own time.
GATHER_S = CHECKPOINT_DELAY_S * 0.4

# How often a commit that found no room is tried again.
RETRY_S = 0.25


class Owner(Protocol):
    """A mapping, as the checkpointer sees it. Called from the Trio thread; must not wait."""

    @property
    def uuid(self) -> str:
        """The mapping's id in the store."""

    @property
    def epoch(self) -> int:
        """The epoch under which this owner commits."""

    def progress(self) -> Progress | None:
        """What it has done that is to be written with the next commit; None: nothing."""

    def counted(self, progress: Progress) -> None:
        """That is written."""

    def committed(self, shard_id: str, offset: int, window: Window | None) -> None:
        """A checkpoint is durable, and with it where the shard's tumbling windows are, if it has any."""

    def kept(self) -> None:
        """Discards are durable."""

    def stall(self, why: str) -> None:
        """Checkpoints cannot be written: hand nothing over."""

    def recover(self) -> None:
        """They can be written again, or it is worth a try."""

    def fenced(self, error: Fenced) -> None:
        """Another owner has taken the mapping over: nothing more is committed for this one."""


class Checkpointer:
    """Commits what `moved` told it, in the background."""

    def __init__(self, store: Store, turn: trio.CapacityLimiter) -> None:
        """`turn` admits one thread at a time to the store."""
        self._store = store
        self._turn = turn
        self._owners: dict[str, Owner] = {}
        self._dirty: dict[str, dict[str, Position]] = {}
        self._discards: dict[str, list[Discard]] = {}
        self._windows: dict[str, dict[str, Window]] = {}
        self._stirred = trio.Event()
        self._flushing = trio.Lock()
        self._stuck = False

    def own(self, owner: Owner) -> None:
        """From now on commit for this mapping, and tell it after each commit."""
        self._owners[owner.uuid] = owner

    def disown(self, uuid: str) -> None:
        """Commit nothing more for the mapping; call `flush` before."""
        self._owners.pop(uuid, None)
        self._dirty.pop(uuid, None)
        self._discards.pop(uuid, None)
        self._windows.pop(uuid, None)

    def moved(
        self, uuid: str, shard_id: str, offset: int, sequence_number: str | None, window: Window | None = None
    ) -> None:
        """The watermark of a shard moved, or its window did; they are durable together, within the promised delay."""
        self._dirty.setdefault(uuid, {})[shard_id] = (offset, sequence_number)
        if window is not None:
            self._windows.setdefault(uuid, {})[shard_id] = window
        self._stirred.set()

    def stir(self, uuid: str) -> None:
        """There is something to write of the mapping, though no watermark may have moved."""
        self._dirty.setdefault(uuid, {})
        self._stirred.set()

    def discarded(self, uuid: str, discard: Discard) -> None:
        """These records get no delivery any more; to be told before `moved` passes the first of them.

        The row becomes durable with the checkpoint that passes them all, and no checkpoint stops in their middle.
        """
        self._discards.setdefault(uuid, []).append(discard)

    async def run(self) -> None:
        """Commit whenever something moved, until cancelled; a commit that has begun is waited for.

        Raises:
            FailedError: the store cannot be written, for a reason that does not pass by itself.
        """
        while True:
            await self._stirred.wait()
            await trio.sleep(GATHER_S)
            self._stirred = trio.Event()  # made anew only here: nobody else knows whether this task waits for it
            await self.flush()

    async def flush(self) -> None:
        """Commit what has moved so far, and return when it is durable; while there is no room, that is waited for.

        Raises:
            FailedError: as `run`.
        """
        async with self._flushing:  # else a second one would return before the first one's commit is durable
            for uuid in list(self._dirty):
                while uuid in self._owners and uuid in self._dirty:
                    positions, discards = self._dirty.pop(uuid), self._discards.pop(uuid, [])
                    windows = self._windows.pop(uuid, {})
                    may, due, rest = covered(positions, discards)
                    assert all(may[shard] == positions[shard] for shard in windows), "a window ahead of its checkpoint"
                    done = await self._commit(self._owners[uuid], may, due, windows)
                    if discards and uuid in self._owners:
                        self._discards[uuid] = (rest if done else discards) + self._discards.get(uuid, [])
                    if done:
                        break
                    self._dirty[uuid] = positions | self._dirty.get(uuid, {})  # what moved meanwhile is further on
                    self._windows[uuid] = windows | self._windows.get(uuid, {})
                    await trio.sleep(RETRY_S)
            self._unstick()

    async def _commit(
        self, owner: Owner, positions: dict[str, Position], discards: list[Discard], windows: dict[str, Window]
    ) -> bool:
        """Commit; False, with every mapping paused, if that has to wait."""
        try:
            progress = owner.progress()
            write = partial(self._store.commit, owner.uuid, owner.epoch, positions, discards, windows, done=progress)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(write, limiter=self._turn)
        except (DiskFull, BusyError) as error:
            self._stuck = True
            for each in self._owners.values():
                each.stall(str(error))
            return False
        except Fenced as error:
            self.disown(owner.uuid)
            owner.fenced(error)
            return True
        if progress is not None:
            owner.counted(progress)
        for shard_id, (offset, _) in positions.items():
            owner.committed(shard_id, offset, windows.get(shard_id))
        if discards:
            owner.kept()
        self._unstick()
        return True

    def _unstick(self) -> None:
        """A commit went well, or the one that did not is nobody's any more."""
        if self._stuck:
            self._stuck = False
            for each in self._owners.values():
                each.recover()
