"""One shard of a mapping at work: reading its log, in order, into lanes.

A feed is a task. It reads ahead of the lanes, as far as they can use it and memory allows, stands still before gaps
until everything before them has a disposition, and wakes its lanes when time has passed. What the lanes do with the
records is their own business (lane.py); how far the shard is follows from how far they are.

Segments are held until the watermark has passed them, because a failed batch is sent again from the same rows.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from streamfn.core.batcher import Chunk
from streamfn.core.lane import Lane
from streamfn.events.rows import arrivals
from streamfn.mapping.lane import ShardLane
from streamfn.mapping.pieces import Piece
from streamfn.mapping.poller import Poller

if TYPE_CHECKING:
    from streamfn.log.catalog.stream import Shard
    from streamfn.log.segment.segment import Segment
    from streamfn.log.shard.gaps import Gap
    from streamfn.mapping.mapping import EventSourceMapping

# Reading goes on until this many bytes of event JSON wait to be handed over.
READ_AHEAD_BYTES = 16 * 1024 * 1024


class ShardFeed:
    """The shell of one shard. `lanes` are those of its lanes, `owner` is the mapping."""

    def __init__(self, owner: EventSourceMapping, shard: Shard, machine: Lane, poller: Poller) -> None:
        self.owner = owner
        self.shard = shard
        self.stopping = False
        self.finish: int | None = None
        self.lanes: list[ShardLane] = [ShardLane(self, machine)]
        self._work = machine
        self._poller = poller
        self._segments: deque[tuple[Segment, int]] = deque()  # retained, and where the last message read from it ends
        self._wake = trio.Event()
        self._gap: Gap | None = None  # what is gone where reading stands
        self._dry = False  # the log had nothing more when it was read last, and has not moved since

    # ---- how far it is

    @property
    def watermark(self) -> int:
        """The offset below which every record has a disposition."""
        return self._work.watermark

    @property
    def finished(self) -> bool:
        """Everything up to `finish` has a disposition."""
        return self._work.finished

    @property
    def end(self) -> int:
        """Where this run ends, or the shard's committed end."""
        return self.finish if self.finish is not None else self._poller.committed_end

    @property
    def busy(self) -> bool:
        """Something is in flight."""
        return any(lane.busy for lane in self.lanes)

    def oldest_arrival_ms(self) -> int | None:
        """When the first record that is not done arrived (milliseconds since 1970); None if it has not been read."""
        arrivals = [arrival for lane in self.lanes if (arrival := lane.oldest_arrival_ms()) is not None]
        return min(arrivals, default=None)

    # ---- its task: reading and time

    async def run(self) -> None:
        """Read, and pump when time has passed, until cancelled.

        Raises:
            LogDamaged: the shard's log is damaged; other shards go on until the mapping ends.
        """
        while True:
            self._wake = trio.Event()
            if self.hungry:
                self._dry = True  # taken back by `wake`: what is committed during the read counts
                if await self._read():
                    self._dry = False
                    self._hand_over()
                    continue
            self._hand_over()
            if self._skip():
                continue
            wake_at = min((at for lane in self.lanes if (at := lane.wake_at()) is not None), default=None)
            if wake_at is None:
                await self._wake.wait()
            else:
                with trio.move_on_after(max(0.0, (wake_at - self.owner.now_ns()) / 1e9)):
                    await self._wake.wait()

    def wake(self) -> None:
        """The log moved, or the mapping's state did: look again."""
        self._dry = False
        self._wake.set()

    def note(self, lane: ShardLane) -> None:
        """The lane has handed over what it could: see to it that the task knows what it now has to wait for."""
        if self.hungry or lane.wake_at() is not None or self._work.at_gap:
            self._wake.set()

    @property
    def hungry(self) -> bool:
        """Whether more should be read now."""
        work = self._work
        if self.stopping or self._dry or self._gap is not None or work.buffered_bytes >= READ_AHEAD_BYTES:
            return False
        return self.finish is None or work.next_offset < self.finish

    @property
    def behind(self) -> bool:
        """Whether the log has more, which is about to be read."""
        return self._poller.behind and self.hungry

    def _hand_over(self) -> None:
        for lane in self.lanes:
            lane.hand_over()

    async def _read(self) -> bool:
        start, found = self._work.next_offset, await self._poller.read(self.finish)
        (lane,) = self.lanes
        for message, prefix in found:
            first, end = message.first_offset, message.first_offset + message.rows
            skipped = max(0, start - first)
            if skipped < message.rows:
                self._retain(message.segment, end)
                lane.hold(Piece(message, first, end, 0, None))
                times = arrivals(message.segment.address, message.cdata)[skipped:] if self.owner.dated else None
                self._work.offer(Chunk(first + skipped, prefix[skipped:], times))
        self._gap = self._poller.gap
        if self._gap is not None:
            self._work.meet_gap()
        return bool(found) or self._gap is not None

    def _skip(self) -> bool:
        """Go on behind a gap, once everything before it is done; its records are disposed of without a delivery."""
        gap = self._gap
        if gap is None or self.stopping or not self._work.at_gap:
            return False
        first, now = self._work.watermark, self.owner.now_ns()
        self._poller.skip_gap()
        self._gap = None
        self._dry = False
        self._work.skip_gap(gap.end_offset, now)
        for lane in self.lanes:
            lane.skipped()
        self.owner.skipped(self, gap.clipped(first, gap.end_offset))
        return True

    # ---- segments

    def _retain(self, segment: Segment, end: int) -> None:
        if self._segments and self._segments[-1][0] is segment:
            self._segments[-1] = (segment, end)
        else:
            self._segments.append((segment.retain(), end))

    def passed(self) -> None:
        """The watermark may have moved: let go of the segments behind it; the newest stays, it may get more."""
        segments = self._segments
        while len(segments) > 1 and segments[0][1] <= self._work.watermark:
            self._release(segments.popleft()[0])

    def _release(self, segment: Segment) -> None:
        self.owner.retire(segment.id)
        segment.release()

    # ---- ending

    def finish_at(self, end: int) -> None:
        """Deliver nothing at or past the offset `end`."""
        self.finish = end
        self._work.finish_at(end)

    def end_here(self) -> None:
        """Read no further: what has been read is delivered, and then the shard is finished."""
        self.finish_at(self._work.next_offset)

    def drain(self) -> None:
        """Hand over nothing more, and take back what no worker has started."""
        self.stopping = True
        for lane in self.lanes:
            lane.take_back()

    def close(self) -> None:
        """Let everything go; the pool has stopped or the shard is drained."""
        self.stopping = True
        for lane in self.lanes:
            lane.close()
        while self._segments:
            self._release(self._segments.popleft()[0])
        self._poller.close()
