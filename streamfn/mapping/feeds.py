"""The feeds of a mapping: one for each shard that may be delivered now, and more when a shard is split or merged.

The core's `Lineage` decides; this is its shell. It learns from the checkpointer how far shards are, durably, and from
the watch on the stream's directory that the stream was resharded, opens the shards that come up, in a thread, and lets
go of those that are finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import trio

from streamfn.core.lineage import Lineage
from streamfn.core.tumbling import FOREVER
from streamfn.errors import FailedError, LogDamaged, RefusedError
from streamfn.events.window import bound_text
from streamfn.log.shard.reader import ShardReader
from streamfn.mapping.feed import ShardFeed
from streamfn.mapping.position import committed_end
from streamfn.pool.lane import FailureKind

if TYPE_CHECKING:
    from streamfn.log.catalog.stream import Shard, Stream
    from streamfn.mapping.mapping import EventSourceMapping
    from streamfn.types import Window

_Damaged = list[tuple["Shard", FailedError]]

# How long killed workers may take to die: the kernel needs a few milliseconds.
ABANDON_S = 1.0


class Feeds:
    """The feeds of one run of a mapping. `active` are those that are open now."""

    def __init__(self, mapping: EventSourceMapping) -> None:
        self.active: list[ShardFeed] = []
        self._mapping = mapping
        self._runtime = mapping.runtime
        self._lineage = Lineage()
        self._stream: Stream = mapping.stream
        self._offsets: dict[str, int] = {}  # where each shard's feed begins: its checkpoint
        self._windows: dict[str, Window] = {}  # and what tumbling window is open there, or was the last one
        self._targets: dict[str, int] | None = None  # until caught up: where each shard ends for this run
        self._ends: Mapping[str, int] | None = None  # the same, if the run was told: then it has no other shards
        self._began_ms = -1  # when they had not been looked up yet: what had arrived by then lies below them
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[str, trio.CancelScope] = {}
        self._opening = 0  # shards on their way from ready to active
        self._resharded = False
        self._news = trio.Event()

    # ---- the beginning

    async def open(self, *, until_caught_up: bool, ends: Mapping[str, int] | None = None) -> None:
        """Learn the stream as it is now, and open the shards that may be delivered; call `start` to serve them.

        `ends`: see `EventSourceMapping.run`.

        Raises:
            RefusedError: there is no such shard.
            FailedError: the stream or the checkpoints cannot be read.
        """
        stream, offsets, windows = await self._runtime.disk(self._look_up)
        for name in ends or ():
            if stream.shard(name) is None:
                raise RefusedError(f"the stream {stream.name!r} has no shard {name!r}")
        if not self._mapping.window_ms:
            self._give_up(windows)
        self._ends = ends
        self._learn(stream, offsets, windows)
        if until_caught_up or ends is not None:
            self._targets = dict(ends or {})
            self._began_ms = self._mapping.time_ms()
        await self._seat()
        if self._targets is not None and ends is None:
            later = self._lineage.within_reach() & self._lineage.waiting()
            found, damaged = await self._runtime.disk(
                committed_ends, [one for one in self._stream.shards if one.id in later]
            )
            self._targets.update(found)
            self._damaged(damaged)

    def start(self, nursery: trio.Nursery) -> None:
        """Serve what is open, and from now on what comes."""
        self._nursery = nursery
        for feed in self.active:
            nursery.start_soon(self._serve, feed, nursery)
        nursery.start_soon(self._extend)

    def _look_up(self) -> tuple[Stream, dict[str, int], dict[str, Window]]:
        """Read the stream's description and the mapping's checkpoints, with their windows."""
        store, uuid = self._runtime.store, self._mapping.uuid
        stream = self._runtime.data.stream_by_id(self._stream.id)
        offsets = {name: checkpoint.offset for name, checkpoint in store.checkpoints(uuid).items()}
        return stream, offsets, store.windows(uuid)

    def _give_up(self, windows: dict[str, Window]) -> None:
        """The mapping has no windows any more: what an earlier run left of them goes with the next checkpoint."""
        ends = [f"{name} until {bound_text(one.end_ms)}" for name, one in windows.items() if one.state is not None]
        if ends:
            what = "the state of windows is given up, TumblingWindowInSeconds is 0 now"
            self._runtime.say(f"{self._mapping.name}: {what}: {', '.join(ends[:4])}{', ...' if len(ends) > 4 else ''}")

    def _learn(self, stream: Stream, offsets: dict[str, int], windows: dict[str, Window]) -> None:
        """Tell the lineage what is new; shards that came after the mapping begin with their first record."""
        for shard in stream.shards:
            if self._ends is not None and shard.id not in self._ends:
                # Nothing of it is wanted, but its children still come after its parents.
                if shard.id not in self._lineage:
                    self._lineage.add(shard.id, shard.parents, end=0, offset=0)
            elif shard.id not in self._lineage:
                offset = self._offsets[shard.id] = offsets.get(shard.id, 0)
                self._mapping.durable[shard.id] = offset
                window = windows.get(shard.id) if self._mapping.window_ms else None
                if window is not None:
                    self._windows[shard.id] = window
                progress = self._progress(shard.id, offset, window)
                end = shard.end_offset if self._ends is None else self._ends[shard.id]
                self._lineage.add(shard.id, shard.parents, end=end, offset=progress)
            elif self._ends is None and shard.end_offset is not None and self._stream.shards[shard.number].open:
                self._lineage.close(shard.id, shard.end_offset)
                for feed in self.active:
                    if feed.shard.id == shard.id and feed.finish is None:
                        feed.finish_at(shard.end_offset, FOREVER)
                        feed.wake()
                self._settle(shard.id)
        self._stream = stream

    # ---- shards that come up

    def wake(self) -> None:
        """The stream was described anew: read it again."""
        self._resharded = True
        self._news.set()

    def committed(self, shard_id: str, offset: int, window: Window | None) -> None:
        """The shard's checkpoint is durable at `offset`, with its tumbling window."""
        if shard_id not in self._lineage:
            return  # of the run before this one, which was cancelled; this one has yet to read where the shards are
        self._lineage.move(shard_id, self._progress(shard_id, offset, window))
        self._settle(shard_id)

    def _progress(self, shard_id: str, offset: int, window: Window | None) -> int:
        """How far a shard is to those who wait for its end: not there before its last window has been closed.

        Where this run cuts it off, it closes no window, and nobody waits for one.
        """
        waits = window is not None and window.state is not None and not self._is_cut(shard_id)
        return offset - 1 if waits else offset

    def _is_cut(self, shard_id: str) -> bool:
        """Whether this run was told to end before the shard does."""
        shard = self._stream.shard(shard_id)
        return self._ends is not None and shard is not None and self._ends.get(shard_id) != shard.end_offset

    def _settle(self, shard_id: str) -> None:
        """If the shard is finished, let go of its feed, and see what comes up."""
        if self._lineage.finished(shard_id):
            scope = self._scopes.get(shard_id)
            if scope is not None and not self._is_cut(shard_id):  # else its window may be about to be closed
                scope.cancel()
            self._news.set()

    async def _extend(self) -> None:
        """Open the shards that come up, until cancelled.

        Raises:
            FailedError: the stream cannot be read.
        """
        while True:
            await self._news.wait()
            self._news = trio.Event()
            if self._resharded:
                self._resharded = False
                self._learn(*await self._runtime.disk(self._look_up))
            await self._seat()
            self._mapping.look()

    async def _seat(self) -> None:
        """Open what is ready, unless the run is ending."""
        names = [] if self._mapping.ending else self._lineage.take_ready()
        if self._targets is not None and self._nursery is not None:
            names = [name for name in names if name in self._targets]  # the others came when the run had begun
        if not names:
            return
        shards = [shard for name in names if (shard := self._stream.shard(name)) is not None]
        self._opening += len(shards)
        try:
            opened, damaged = await self._runtime.disk(self._open_readers, shards)
        finally:
            self._opening -= len(shards)
        self._damaged(damaged)
        for shard, reader in opened:
            self._begin(shard, reader)

    def _damaged(self, damaged: _Damaged) -> None:
        """Go on without these shards and what comes after them."""
        for shard, damage in damaged:
            self._mapping.damage.append(damage)
            self._lineage.bar(shard.id)
            if self._targets is None:  # nobody knows how long the others go on
                self._runtime.say(str(damage))

    def _open_readers(self, shards: list[Shard]) -> tuple[list[tuple[Shard, ShardReader]], _Damaged]:
        """A reader for every shard, at its checkpoint; a shard that is damaged there gets none. Reads the disk."""
        readers: list[tuple[Shard, ShardReader]] = []
        damaged: _Damaged = []
        try:
            for shard in shards:
                try:
                    offset = self._offsets[shard.id]
                    readers.append((shard, ShardReader.open(shard, offset, salvage=self._mapping.salvage)))
                except LogDamaged as damage:
                    damaged.append((shard, damage))
        except BaseException:
            for _, reader in readers:
                reader.close()
            raise
        return readers, damaged

    def _begin(self, shard: Shard, reader: ShardReader) -> None:
        """Make the feed of an open shard, and serve it if the run has begun."""
        if self._mapping.ending:
            reader.close()
            return
        known = self._stream.shard(shard.id)
        end = closed = known.end_offset if known is not None else None  # it may have been closed while it was opened
        if self._targets is not None:
            end = self._targets.setdefault(shard.id, reader.committed().end_offset)
        feed = self._mapping.make_feed(shard, reader, self._windows.get(shard.id))
        if end is not None:
            feed.finish_at(end, FOREVER if end == closed else self._arrived_ms(end, reader))
        self.active.append(feed)
        self._runtime.follow(self._mapping, feed)
        if self._nursery is not None:
            self._nursery.start_soon(self._serve, feed, self._nursery)

    def _arrived_ms(self, end: int, reader: ShardReader) -> int:
        """By when everything had arrived that lies below a run's end; -1 where it is cut off, which nobody knows."""
        cut = self._ends is not None and end < reader.committed().end_offset
        return -1 if cut else self._began_ms

    # ---- serving and letting go

    async def _serve(self, feed: ShardFeed, nursery: trio.Nursery) -> None:
        """Run a feed until its shard is finished; where it can read no further, it still delivers what it has."""
        with trio.CancelScope() as scope:
            self._scopes[feed.shard.id] = scope
            self._settle(feed.shard.id)  # it may have been finished before it was served
            try:
                await feed.run(nursery)
            except FailedError as damage:
                self._mapping.damage.append(damage)
                self._lineage.bar(feed.shard.id)
                if feed.finish is None:  # nobody knows how long the others go on
                    self._runtime.say(str(damage))
                feed.end_here()
                self._mapping.look()
                await feed.run(nursery)
        if scope.cancelled_caught:  # finished, and durably
            self.active.remove(feed)
            self._let_go(feed)
            self._mapping.look()

    def _let_go(self, feed: ShardFeed) -> None:
        self._runtime.unfollow(self._mapping, feed)
        feed.close()

    @property
    def over(self) -> bool:
        """Nothing that this run was asked for is left, or nothing of it can be done."""
        if self._opening or not all(feed.stopping or feed.finished for feed in self.active):
            return False
        waiting = self._lineage.waiting()
        if self._targets is not None:
            return not self._targets.keys() & waiting
        return bool(self._mapping.damage) and not waiting

    @property
    def remaining(self) -> int:
        """Records up to where the run, or the shard, ends; of open shards that wait for their parents nobody knows."""
        left = sum(feed.remaining for feed in self.active)
        for name in self._lineage.waiting():
            shard = self._stream.shard(name)
            end = shard.end_offset if shard is not None and self._targets is None else (self._targets or {}).get(name)
            left += self._mapping.records_in(name, self._offsets.get(name, 0), end or 0)
        return left

    @property
    def open_windows(self) -> dict[str, str]:
        """When the windows end that are open, as events have it, by shard."""
        windows = [(feed.shard.id, feed.window) for feed in self.active]
        return {name: bound_text(one.end_ms) for name, one in windows if one is not None and one.state is not None}

    def drain(self) -> None:
        """Hand over nothing more, and take back what no worker has started."""
        for feed in self.active:
            feed.drain()

    @property
    def busy(self) -> bool:
        """Something is in flight."""
        return any(feed.busy for feed in self.active)

    async def abandon(self) -> None:
        """Have nothing in flight any more, at once: a feed must not outlive its run."""
        self.drain()
        for feed in self.active:
            for lane in feed.lanes:
                if lane.busy and lane.seat is not None:
                    lane.seat.worker.kill(FailureKind.KILLED)
        with trio.move_on_after(ABANDON_S, shield=True):
            while self.busy:
                await self._runtime.next_round()

    def close(self) -> None:
        """Let everything go; what was active can still be asked how far it was."""
        for feed in self.active:
            self._let_go(feed)


def committed_ends(shards: Iterable[Shard]) -> tuple[dict[str, int], _Damaged]:
    """Where the shards end now, but for those that are damaged. Reads the disk."""
    ends: dict[str, int] = {}
    damaged: _Damaged = []
    for shard in shards:
        try:
            ends[shard.id] = committed_end(shard) if shard.end_offset is None else shard.end_offset
        except LogDamaged as damage:
            damaged.append((shard, damage))
    return ends, damaged
