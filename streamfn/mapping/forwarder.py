"""Carries a mapping's discards to their on-failure destinations: each one once, in order, beside everything else.

A discard is a row that was committed with its checkpoint, so nothing here can lose one: what has not been carried when
a run ends, or a process dies, is carried by the next run. The way of a row:

    pending ──▶ noted: where the destination ends ──▶ copied, durable there ──▶ delivered
       ▲                        │
       └── found behind the note: delivered; not found: copied ◀── whoever comes after a crash

Between the note and the mark nobody knows whether the copy was made, except by looking for it behind the note. The
look, the copy and both commits are made in threads, one after the other, for as many rows at a time as are there.

What cannot be carried, because a disk is full or another process keeps the destination to itself, waits and is tried
again. The mapping goes on meanwhile, and says so. A run that ends gives a destination that stands still a few seconds
more; what is pending then is counted, and said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar, TypeVarTuple

import trio

from streamfn.errors import Fenced, StreamfnError
from streamfn.mapping.delivery import BucketDestination, Destination, Source, destination_of

if TYPE_CHECKING:
    from streamfn.log.catalog.datadir import DataDir
    from streamfn.state.discards import StoredDiscard
    from streamfn.state.store import Store

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# What stands still, where it is not a destination.
STORE = "the state database"

# How many are carried together: few enough that a run that is interrupted ends soon.
ROWS_MAX = 200
# How often a destination that stands still is tried again.
RETRY_S = 0.5
# How long a run that ends waits for one; as long as `put` waits for a busy writer.
FINISH_S = 5.0


class Owner(Protocol):
    """A mapping, as the forwarder sees it. Called from the Trio thread; must not wait."""

    @property
    def uuid(self) -> str:
        """The mapping's id in the store."""

    @property
    def epoch(self) -> int:
        """The epoch under which this owner writes."""

    def fenced(self, error: Fenced) -> None:
        """Another owner has taken the mapping over."""


class Disk(Protocol):
    """Calls what may wait for the disk, in a thread; one such call at a time has the store."""

    async def __call__(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Call it, and return what it returns."""


class Forwarder:
    """The forwarder of one mapping, for one run of it."""

    def __init__(
        self, owner: Owner, data: DataDir, store: Store, disk: Disk, source: Source, say: Callable[[str], None]
    ) -> None:
        """`say` writes a line for whoever runs this; `source` is what the discards are of."""
        self.stuck: dict[str, str] = {}  # destinations that stand still, and why
        self.left = 0  # how many rows are pending, as it was known last
        self._owner = owner
        self._data = data
        self._store = store
        self._disk = disk
        self._source = source
        self._say = say
        self._destinations: dict[str, Destination] = {}
        self._stirred = trio.Event()
        self._carrying = trio.Lock()

    async def open(self, destination: str) -> None:
        """Make the destination where there is none yet, so that it can be followed from now on; "" is none.

        Raises:
            RefusedError: it cannot take on-failure records.
            FailedError: it cannot be made or reached.
        """
        if destination:
            await trio.to_thread.run_sync(self._opened, destination)

    def stir(self) -> None:
        """Rows have been committed, or an earlier run may have left some."""
        self._stirred.set()

    async def run(self) -> None:
        """Carry what is pending whenever there is something, until cancelled; a call that has begun is waited for."""
        while True:
            await self._stirred.wait()
            self._stirred = trio.Event()
            try:
                await self.carry()
            except Fenced as error:
                self._owner.fenced(error)
                return
            if self.stuck:
                await trio.sleep(RETRY_S)
                self._stirred.set()

    async def finish(self) -> None:
        """Carry everything; `left` is then how many are pending because their destinations stand still.

        Raises:
            Fenced: another owner has taken the mapping over, and carries what is left.
        """
        deadline = trio.current_time() + FINISH_S
        while True:
            carried = await self.carry()
            if not self.stuck:
                return
            now = trio.current_time()
            if carried:
                deadline = now + FINISH_S
            elif now >= deadline:
                return
            await trio.sleep(RETRY_S)

    async def carry(self) -> int:
        """Carry what is pending to every destination that takes it; returns how many rows that were.

        Raises:
            Fenced: as `finish`.
        """
        carried = 0
        async with self._carrying:
            try:
                destinations = await self._disk(self._store.pending_destinations, self._owner.uuid)
            except Fenced:
                raise
            except StreamfnError as error:
                self._stand_still(STORE, str(error))
                return 0
            self._go_on(STORE)
            for name in destinations:
                try:
                    while rows := await self._disk(self._store.pending, self._owner.uuid, name, ROWS_MAX):
                        await self._carry(name, rows)
                        carried += len(rows)
                    self._go_on(name)
                except Fenced:
                    raise
                except (StreamfnError, OSError) as error:
                    self._stand_still(name, str(error))
            self.left = await self._disk(self._store.pending_count, self._owner.uuid) if self.stuck else 0
        return carried

    async def _carry(self, name: str, rows: list[StoredDiscard]) -> None:
        """Carry these rows, the oldest pending ones of a destination."""
        uuid, epoch = self._owner.uuid, self._owner.epoch
        destination = await trio.to_thread.run_sync(self._opened, name)
        # Before the look: what is not found lies behind neither the old note nor this one.
        position = await trio.to_thread.run_sync(destination.position)
        doubtful = [row for row in rows if row.noted is not None]
        there: set[int] = set()
        if doubtful:
            there = await trio.to_thread.run_sync(destination.find, self._source, doubtful)
        missing = [row for row in rows if row.id not in there]
        if missing and position:
            await self._disk(self._store.note, uuid, epoch, [row.id for row in missing], position)
        if missing:
            # A network may keep us waiting for long, and a second put of an object does no harm.
            far = isinstance(destination, BucketDestination)
            await trio.to_thread.run_sync(destination.put, self._source, missing, abandon_on_cancel=far)
        await self._disk(self._store.delivered, uuid, epoch, [row.id for row in rows])

    def _opened(self, name: str) -> Destination:
        destination = self._destinations.get(name)
        if destination is None:
            destination = destination_of(self._data, name)
            destination.open()
            self._destinations[name] = destination
        return destination

    def _stand_still(self, name: str, why: str) -> None:
        if name not in self.stuck:
            self._say(f"on-failure records for {name} wait, and are tried again: {why}")
        self.stuck[name] = why

    def _go_on(self, name: str) -> None:
        if self.stuck.pop(name, None) is not None:
            self._say(f"on-failure records for {name} go on")
