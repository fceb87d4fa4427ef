"""One shard of a mapping at work: reading its log, in order, into lanes.

A feed is a task. It reads ahead of the lanes, as far as they can use it and memory allows, has the records selected
that the filters want, sorts them into the lanes, stands still before gaps until everything before them has a
disposition, and wakes its lanes when time has passed. What the lanes do with the records is their own business
(lane.py); how far the shard is follows from how far they are.

Where there is one lane and no filter, the shard's records are simply the lane's, and its machine is asked directly.
Otherwise `ShardWork` stands between: it knows which record is which.

Segments are held until the watermark has passed them, because a failed batch is sent again from the same rows.

Under a schedule a record is offered to its lane when it is due, and reading goes ahead of that.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from streamfn.core.batcher import Chunk
from streamfn.core.lane import Lane
from streamfn.core.release import Due, Release
from streamfn.core.schedule import ShardSchedule
from streamfn.core.shard import Reach, ShardWork
from streamfn.core.tumbling import WindowLane
from streamfn.events.rows import arrivals
from streamfn.mapping.lane import ShardLane
from streamfn.mapping.pieces import Piece, extent_of
from streamfn.mapping.poller import Poller, Read
from streamfn.mapping.sorting import parts_of
from streamfn.mapping.windowing import WindowedLane
from streamfn.state.discards import Discard
from streamfn.types import Part, Window

if TYPE_CHECKING:
    from streamfn.log.catalog.stream import Shard
    from streamfn.log.segment.segment import Segment
    from streamfn.log.shard.gaps import Gap
    from streamfn.log.shard.reader import Message
    from streamfn.mapping.mapping import EventSourceMapping

# Reading goes on until this many bytes of event JSON wait to be handed over.
READ_AHEAD_BYTES = 16 * 1024 * 1024

# How far reading may be ahead of the first record that is not done, where lanes wait for different ones: so much may be
# delivered again after a crash, and is remembered meanwhile.
REACH_BYTES = 64 * 1024 * 1024
REACH_RECORDS = 1_000_000
FAR = 1 << 62  # no bound

# Reads that are with the filters, or behind one that is: one more than is worked on, so that the scanners never wait;
# more where they are small.
SELECTING_MAX = 2
SELECTING_SMALL_MAX = 32
SELECTING_SMALL_BYTES = 2 * 1024 * 1024

# Sorting more rows than this is done in a thread.
SORT_ROWS = 4_096


class Select(Protocol):
    """The filters, as a shard sees them."""

    async def select(self, messages: Sequence[Message]) -> list[memoryview | None]:
        """The numbers of the rows that are wanted of each message, ascending; None for all of them."""

    def close(self) -> None:
        """Let everything go."""


class _Selecting:
    """Messages on their way through the filters; `rows` is None until they are back.

    `follows` says that they were read where the log ended a moment before.
    """

    def __init__(self, messages: list[Message], *, follows: bool) -> None:
        self.messages = messages
        self.follows = follows
        self.bytes = sum(message.bytes for message in messages)
        self.rows: list[memoryview | None] | None = None


class _Ahead(NamedTuple):
    """A message that has been read, and is not offered whole yet: what is wanted of it ends at `end_offset`."""

    read: Read
    rows: memoryview | None
    end_offset: int


class ShardFeed:
    """The shell of one shard. `lanes` are those of its lanes, `owner` is the mapping."""

    def __init__(
        self,
        owner: EventSourceMapping,
        shard: Shard,
        machines: Sequence[Lane] | Sequence[WindowLane],
        poller: Poller,
        start: int,
        selector: Select | None = None,
        schedule: ShardSchedule | None = None,
    ) -> None:
        """Begin at the offset `start`, where the poller stands; `schedule` says when records are due."""
        self.owner = owner
        self.shard = shard
        self.stopping = False
        self.paced = owner.timeline.paced
        self._schedule = schedule
        self._held = Release()  # what has been read and is not due
        self._ahead: deque[_Ahead] = deque()  # where that lies
        self._ahead_bytes = 0
        self._levelling = False  # the lanes behind go on up to where the furthest one is, and nothing is read
        self.finish: int | None = None
        self.lanes: list[ShardLane] = [self._lane_of(machine) for machine in machines]
        self._spread: ShardWork[Discard] | None = None
        self._work: Lane | WindowLane | ShardWork[Discard] = machines[0]
        if len(machines) > 1 or selector is not None:
            reach = Reach(READ_AHEAD_BYTES // len(machines), REACH_RECORDS, REACH_BYTES)
            if owner.once:  # a batch waits until it is full, however far apart filters have left its records
                reach = replace(reach, records=FAR, bytes=FAR)
            self._work = self._spread = ShardWork(machines, start, reach)
        self._start = start
        self._poller = poller
        self._selector = selector
        self._selecting: deque[_Selecting] = deque()
        self._read_to = start  # behind the last message that was read
        self._noted: tuple[int, Window | None] = (start, self.window)  # what the mapping was told of last
        self._segments: deque[tuple[Segment, int]] = deque()  # retained, and where the last message read from it ends
        self._wake = trio.Event()
        self._gap: Gap | None = None  # what is gone where reading stands
        self._dry = False  # the log had nothing more when it was read last, and has not moved since
        self._reading = False  # what has been read may not have been offered yet

    def _lane_of(self, machine: Lane | WindowLane) -> ShardLane:
        return WindowedLane(self, machine) if isinstance(machine, WindowLane) else ShardLane(self, machine)

    # ---- how far it is

    @property
    def watermark(self) -> int:
        """The offset below which every record has a disposition."""
        return self._work.watermark

    @property
    def window(self) -> Window | None:
        """Where the shard's tumbling windows are, as it is to be committed with `watermark`; None without any."""
        return self.lanes[0].window

    @property
    def at_end(self) -> bool:
        """Whether everything that was committed a moment ago has been offered to the lanes."""
        is_reading = self._reading or self._selecting or self._ahead or self._gap is not None
        return self._dry and not is_reading and self.finish is None

    @property
    def finished(self) -> bool:
        """Everything up to `finish` has a disposition."""
        return self._work.finished and not self._levelling

    @property
    def end(self) -> int:
        """Where this run ends, or the shard's committed end."""
        return self.finish if self.finish is not None else self._poller.committed_end

    @property
    def remaining(self) -> int:
        """How many records are left up to `end`."""
        return self._records_in(self.watermark, self.end)

    @property
    def lag(self) -> int:
        """How many records wait now: those left, or in a paced run those of them that are due, as far as it has read.

        It reads 64 MiB ahead of what is done, so of a backlog that is larger than that the beginning is counted.
        """
        if not self.paced:
            return self.remaining
        held = self._held.first_offset
        return self._records_in(self.watermark, min(self.end, self._read_to if held is None else held))

    def _records_in(self, first: int, end: int) -> int:
        return self.owner.records_in(self.shard.id, first, end)

    @property
    def busy(self) -> bool:
        """Something is in flight."""
        return any(lane.busy for lane in self.lanes)

    def oldest_arrival_ms(self) -> int | None:
        """When the first record that is not done arrived (milliseconds since 1970); None if it has not been read."""
        times = [arrival for lane in self.lanes if (arrival := lane.oldest_arrival_ms()) is not None]
        return min(times, default=None)

    # ---- its task: reading and time

    async def run(self, nursery: trio.Nursery) -> None:
        """Read, and hand over when time has passed, until cancelled; filters work in `nursery`.

        Raises:
            LogDamaged: the shard's log is damaged; other shards go on until the mapping ends.
        """
        while True:
            self._wake = trio.Event()
            if self._selecting and self._selecting[0].rows is not None:
                await self._selected(self._selecting[0])
                self._hand_over()
                continue
            if self.hungry:
                self._dry = self._reading = True  # dry: taken back by `wake`, what is committed meanwhile counts
                more = await self._read(nursery)
                self._reading = False
                if more:
                    self._dry = False
                    self._hand_over()
                    continue
            self._hand_over()
            if self._skip():
                continue
            self._set_alarm()
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
        self._set_alarm()
        if self.hungry or lane.wake_at() is not None or self._work.at_gap:
            self._wake.set()

    @property
    def hungry(self) -> bool:
        """Whether more should be read now."""
        if self.stopping or self._levelling or self._dry or self._gap is not None:
            return False
        if self.finish is not None and self._read_to >= self.finish:
            return False
        if self._spread is None:
            return self._work.buffered_bytes + self._ahead_bytes < READ_AHEAD_BYTES  # type: ignore[union-attr]
        return self._may_select and self._spread.hungry and self._ahead_bytes < READ_AHEAD_BYTES

    @property
    def _may_select(self) -> bool:
        reads = len(self._selecting)
        if reads < SELECTING_MAX:
            return True
        return reads < SELECTING_SMALL_MAX and sum(each.bytes for each in self._selecting) < SELECTING_SMALL_BYTES

    @property
    def behind(self) -> bool:
        """Whether there is more, which is about to come."""
        return not self._ahead and (self.filtering or (self._poller.behind and self.hungry))

    @property
    def filtering(self) -> bool:
        """Whether something of a backlog is with the filters. What is read as it comes is not waited for."""
        return not self._ahead and any(not each.follows for each in self._selecting)

    def _hand_over(self) -> None:
        self.release()
        for lane in self.lanes:
            lane.hand_over()

    # ---- from the log to the lanes

    async def _read(self, nursery: trio.Nursery) -> bool:
        """Read once; whether there was anything."""
        follows = not self._poller.behind
        reads = await self._poller.read(self.finish)
        for message, _ in reads:
            self._read_to = message.first_offset + message.rows
            end = self._read_to if self.finish is None else min(self._read_to, self.finish)
            self.owner.tally.polled += self._records_in(max(message.first_offset, self._start), end)
            self._retain(message.segment, self._read_to)
        if self._selector is not None and reads:
            self._selecting.append(_Selecting([message for message, _ in reads], follows=follows))
            nursery.start_soon(self._select, self._selector, self._selecting[-1])
        elif self.paced:
            for read in reads:
                self._keep_back(read, None)
        elif self._spread is not None:
            await self._sort(self._spread, reads, [None] * len(reads))
        else:
            for read in reads:
                self._offer(read, max(0, self._start - read.message.first_offset), read.message.rows)
        self._gap = self._poller.gap
        self._meet_gap()
        return bool(reads) or self._gap is not None

    def _offer(self, read: Read, low: int, high: int, times: array[int] | None = None) -> None:
        """The rows from `low` to `high` are the one lane's; the first message may begin before the checkpoint.

        `times` is when they are due, where there is a schedule that waits for that.
        """
        message, prefix_bytes = read
        assert prefix_bytes is not None
        if low < high:
            (lane,), first = self.lanes, message.first_offset + low
            lane.hold(Piece(message, first, message.first_offset + high, low, None))
            if times is not None:
                lane.due(first, times)
            lane.machine.offer(Chunk(first, prefix_bytes[low : high + 1], self._dates(message, low, high, times)))

    def _dates(self, message: Message, low: int, high: int, times: array[int] | None) -> Sequence[int] | None:
        """When the rows arrived, as ages and windows count it; None where nobody asks."""
        if not self.owner.dated:
            return None
        if self._schedule is None or self.owner.timeline.keeps_arrivals:
            return arrivals(message.segment.address, message.cdata)[low:high]
        if times is None:
            return array("q", [self.owner.timeline.ms_at(self.owner.timeline.began_ns)]) * (high - low)
        ms_at = self.owner.timeline.ms_at
        return array("q", [ms_at(each) for each in times])

    # ---- what is read and not due

    def _keep_back(self, read: Read, rows: memoryview | None) -> None:
        """Keep what was read until it is due."""
        assert self._schedule is not None
        message, first = read.message, read.message.first_offset
        low = max(0, self._start - first)
        high = message.rows if self.finish is None else min(message.rows, self.finish - first)
        if low >= high:
            return
        if rows is None and read.prefix_bytes is None:
            read = Read(message, self._poller.measure(message))
        began_ns = self.owner.timeline.began_ns
        due = self._schedule.due(first + low, arrivals(message.segment.address, message.cdata)[low:high])
        self._held.hold(first + low, array("q", [began_ns + each for each in due]))
        self._ahead.append(_Ahead(read, rows, first + high))
        self._ahead_bytes += message.bytes

    def release(self) -> None:
        """Offer what is due by now to the lanes; nothing while time stands still."""
        if self._ahead and not self.stopping and not self._levelling and not self.owner.stands:
            for due in self._held.take(self.owner.now_ns()):
                self._offer_due(due)
            self._meet_gap()

    def delay(self, ns: int) -> None:
        """What is not with the lanes yet is due so much later: time stood still."""
        self._held.delay(ns)

    def _offer_due(self, due: Due) -> None:
        (read, rows, end_offset), (first_offset, times) = self._ahead[0], due
        low = first_offset - read.message.first_offset
        high = low + len(times)
        if self._spread is None:
            self._offer(read, low, high, times)
        else:
            dates = self._dates(read.message, low, high, times)
            self._place(self._spread, read.message, self._parts_of(read, rows, low, high, dates), high, (low, times))
            self.settled()
        if first_offset + len(times) == end_offset:
            self._ahead.popleft()
            self._ahead_bytes -= read.message.bytes

    def _set_alarm(self) -> None:
        """Wake up when something that is held is due, and could be handed over then."""
        if not self.paced:
            return
        at_ns = None
        if self._ahead and not self.stopping and not self._levelling and not self.owner.stands:
            lanes = [lane.machine for lane in self.lanes if lane.busy or lane.machine.buffered_records]
            ahead = 0
            if len(lanes) == len(self.lanes):  # before its answer, or its window, a lane has use for full batches alone
                ahead = self.owner.batch_size - 1 - max(machine.buffered_records for machine in lanes)
            at_ns = self._held.due_ns(max(0, ahead))
        self.owner.runtime.alarm.ask(self._ring, at_ns)

    def _ring(self) -> None:
        self._wake.set()

    async def _select(self, selector: Select, selecting: _Selecting) -> None:
        selecting.rows = await selector.select(selecting.messages)
        self._wake.set()

    async def _selected(self, selecting: _Selecting) -> None:
        """The oldest read has come through the filters."""
        assert self._spread is not None
        assert selecting.rows is not None
        reads = [Read(message, None) for message in selecting.messages]
        if self.paced:
            for read, rows in zip(reads, selecting.rows, strict=True):
                self._keep_back(read, rows)
        else:
            await self._sort(self._spread, reads, selecting.rows)
        self._selecting.popleft()
        self._meet_gap()

    async def _sort(self, work: ShardWork[Discard], reads: Sequence[Read], rows: Sequence[memoryview | None]) -> None:
        """Sort messages into the lanes."""
        if sum(message.rows for message, _ in reads) > SORT_ROWS:
            sorted_parts = await trio.to_thread.run_sync(self._parts, reads, rows)
        else:
            sorted_parts = self._parts(reads, rows)
        for (message, _), parts in zip(reads, sorted_parts, strict=True):
            self._place(work, message, parts, message.rows)
        self.settled()

    def _place(
        self,
        work: ShardWork[Discard],
        message: Message,
        parts: list[Part],
        high: int,
        due: tuple[int, array[int]] | None = None,
    ) -> None:
        """Offer the parts of a message up to its row `high`; `due`: their first row, and when each row is due."""
        offered = work.next_offset
        positions = [self.lanes[part.lane].machine.next_offset for part in parts]
        if due is not None:
            low, times = due
            for part, position in zip(parts, positions, strict=True):
                chosen = times if part.rows is None else array("q", [times[row - low] for row in part.rows])
                self.lanes[part.lane].due(position, chosen)
        work.offer(message.first_offset + high, parts)
        wanted = self._hold(message, parts, positions)
        self.owner.filtered(self._records_in(offered, work.next_offset) - wanted)

    def _parts(self, reads: Sequence[Read], rows: Sequence[memoryview | None]) -> list[list[Part]]:
        parts = []
        for read, chosen in zip(reads, rows, strict=True):
            low = max(0, self._start - read.message.first_offset)
            high = read.message.rows
            if self.finish is not None:
                high = min(high, self.finish - read.message.first_offset)
            dates = self._dates(read.message, low, high, None) if self._schedule is not None else None
            parts.append(self._parts_of(read, chosen, low, high, dates))
        return parts

    def _parts_of(
        self, read: Read, rows: memoryview | None, low: int, high: int, dates: Sequence[int] | None
    ) -> list[Part]:
        """The parts of the rows from `low` to `high`."""
        message, prefix_bytes = read
        return parts_of(
            message,
            # What a filter dropped is not even measured.
            self._poller.measure if prefix_bytes is None else prefix_bytes,
            rows,
            factor=len(self.lanes),
            dated=self.owner.dated,
            start=message.first_offset + low,
            stop=message.first_offset + high,
            dates=dates,
        )

    def _hold(self, message: Message, parts: Sequence[Part], positions: Sequence[int]) -> int:
        """Give the lanes their pieces of a message, from these positions on; returns how many records they have."""
        if not parts:
            return 0
        extent, wanted = extent_of(message), 0
        for part, position in zip(parts, positions, strict=True):
            lane = self.lanes[part.lane]
            count = lane.machine.next_offset - position
            if count:
                row = part.first_offset - message.first_offset
                chosen = None if part.rows is None else part.rows[:count]
                lane.hold(Piece(message, position, position + count, row, chosen, extent))
            wanted += count
        return wanted

    # ---- gaps

    def _meet_gap(self) -> None:
        """Close the batches before a gap, when everything before it is with the lanes."""
        if self._gap is not None and not self._selecting and not self._ahead:
            self._work.meet_gap()

    def _skip(self) -> bool:
        """Go on behind a gap, once everything before it is done; its records are disposed of without a delivery."""
        gap = self._gap
        if gap is None or self.stopping or self._levelling or not self._work.at_gap:
            return False
        first, now = self._work.watermark, self.owner.now_ns()
        if self.finish is not None and first < self.finish:
            gap = gap.clipped(first, min(gap.end_offset, self.finish))  # what this run is not to see, it does not count
        self._poller.skip_gap()
        self._gap = None
        self._dry = False
        self._work.skip_gap(gap.end_offset, now)
        self._read_to = gap.end_offset
        self._noted = (gap.end_offset, self.window)
        for lane in self.lanes:
            lane.skipped()
        self.owner.skipped(self, gap.clipped(first, gap.end_offset))
        return True

    # ---- dispositions

    def give_up(self, lane: ShardLane, discard: Discard) -> None:
        """The lane has discarded these records; call `settled` then."""
        if self._spread is None:
            self.owner.keep(discard)
        else:
            self._spread.hold(self.lanes.index(lane), discard.first_offset, discard.end_offset - 1, discard)

    def settled(self) -> None:
        """Lanes have moved on: so may the checkpoint, and segments behind it are let go."""
        if self._spread is not None:
            self._spread.moved()
            for discard in self._spread.release():
                self.owner.keep(discard)
        watermark = self._work.watermark
        if (watermark, self.window) != self._noted:
            self._noted = (watermark, self.window)
            self.owner.moved(self)
        elif self.owner.budget == 0:
            self.owner.look()
        segments = self._segments  # the newest stays, it may get more
        while len(segments) > 1 and segments[0][1] <= watermark:
            self._release(segments.popleft()[0])

    def _retain(self, segment: Segment, end: int) -> None:
        if self._segments and self._segments[-1][0] is segment:
            self._segments[-1] = (segment, end)
        else:
            self._segments.append((segment.retain(), end))

    def _release(self, segment: Segment) -> None:
        self.owner.retire(segment.id)
        segment.release()

    # ---- ending

    def finish_at(self, end: int, complete_ms: int = -1) -> None:
        """Deliver nothing at or past the offset `end`; for `complete_ms` see `core.tumbling.WindowLane.finish_at`."""
        self.finish = end
        self._work.finish_at(end, complete_ms)

    def end_here(self) -> None:
        """Read no further: what has been read is delivered, and then the shard is finished."""
        self.finish_at(self._read_to if self.finish is None else min(self.finish, self._read_to))

    def level(self) -> None:
        """Hand over only what lies before the furthest record that a lane has begun with: see `is_level`."""
        if len(self.lanes) > 1 and self._spread is not None and not self._work.finished:
            self._levelling = True
            self._spread.finish_at(self._spread.reached)
            self.settled()
            self.wake()

    @property
    def is_level(self) -> bool:
        """Whether no lane is behind another any more, but for those that wait for a retry."""
        return not self._levelling or all(
            lane.machine.finished or (lane.machine.retrying is not None and not lane.busy) for lane in self.lanes
        )

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
        self._selecting.clear()
        self._ahead.clear()
        self.owner.runtime.alarm.ask(self._ring, None)
        if self._selector is not None:
            self._selector.close()
        while self._segments:
            self._release(self._segments.popleft()[0])
        self._poller.close()
