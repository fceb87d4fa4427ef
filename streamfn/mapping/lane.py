"""One shard of a mapping at work: between the poller, the pure lane machine and a seat in the pool.

Three things drive it, and each of them ends in `pump`: records arrived (its own task), the pool reaped answers (the
callbacks, then the runtime's round), and time passed (its own task again). `pump` asks the machine what is due and
submits it. It never waits: what does not fit a ring now is tried again in the next round.

A lane has a seat on one worker for as long as anything of it is in flight, and takes none otherwise, so an idle lane
goes to whichever worker is free when its next batch is due. Messages are held until the watermark has passed
them, because a failed batch is sent again from the same rows.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from streamfn._native import ffi, lib
from streamfn.core.lane import Lane
from streamfn.errors import FailedError
from streamfn.limits import EVENT_BYTES_MAX, RING_CAPACITY
from streamfn.mapping.outcome import Outcome, fault_of
from streamfn.mapping.poller import Held, Poller
from streamfn.types import Run

if TYPE_CHECKING:
    from streamfn.log.catalog.stream import Shard
    from streamfn.log.segment.segment import Segment
    from streamfn.log.shard.gaps import Gap
    from streamfn.mapping.mapping import EventSourceMapping
    from streamfn.pool.lane import Answer, FailureKind, LaneSeat
    from streamfn.pool.worker import Worker

# Reading goes on until this many bytes of event JSON wait to be handed over.
READ_AHEAD_BYTES = 16 * 1024 * 1024

# How much work is staged on a worker. Each wake-up of the runtime costs some 100 µs of a core that the workers could
# use, so there are few of them; and what is staged can be revoked, so a slow handler's batches are not tied to one
# worker for long. At least one batch runs and one waits.
STAGED_NS = 25_000_000
STAGED_MIN = 2

# A full socket of a worker that has nothing to answer: it is tried again after so long.
TRY_AGAIN_NS = 1_000_000


class ShardLane:
    """The shell of one lane. It is the pool's lane client (its callbacks do not wait and do not raise)."""

    def __init__(self, owner: EventSourceMapping, shard: Shard, machine: Lane, poller: Poller) -> None:
        self.shard = shard
        self.machine = machine
        self.high = machine.watermark  # everything below was handed over at least once
        self.counted = machine.watermark  # everything below is counted as done
        self.seat: LaneSeat | None = None
        self.stopping = False
        self.queued = False  # already in the runtime's queue of lanes to pump
        self.finish: int | None = None
        self._owner = owner
        self._poller = poller
        self._held: deque[Held] = deque()
        self._segments: deque[Segment] = deque()  # retained, oldest first; the last one may get more messages
        self._cursor = 0  # index in `_held` where the last batch began
        self._wake = trio.Event()
        self._moving: Worker | None = None  # the worker that this lane is about to leave
        self._gap: Gap | None = None  # what is gone where reading stands
        self._dry = False  # the log had nothing more when it was read last, and has not moved since
        self._try_again_ns: int | None = None  # something found no room, and no answer will come to tell of any

    # ---- its own task: reading and time

    async def run(self) -> None:
        """Read, and pump when time has passed, until cancelled.

        Raises:
            LogDamaged: the shard's log is damaged; other lanes go on until the mapping ends.
            FailedError: a record's event alone is larger than Lambda allows; there is nowhere to send it yet.
        """
        while True:
            self._wake = trio.Event()
            if self._hungry():
                self._dry = True  # taken back by `wake`: what is committed during the read counts
                if await self._read():
                    self._dry = False
                    self._pump()
                    continue
            self._pump()
            if self._skip():
                continue
            if self._blocked():
                raise FailedError(self._owner.oversize_text(self))
            wake_at = self._wake_at()
            if wake_at is None:
                await self._wake.wait()
            else:
                with trio.move_on_after(max(0.0, (wake_at - self._owner.now_ns()) / 1e9)):
                    await self._wake.wait()

    def _wake_at(self) -> int | None:
        """When time alone changes anything; an answer or the next round of the pool pumps the lane anyway."""
        if self.stopping or self.queued or self.busy or self._owner.paused:
            return None
        if self._try_again_ns is not None:
            return self._try_again_ns
        if self._owner.budget == 0 and not self.machine.retrying:
            return None
        return self.machine.wake_at(self._owner.now_ns())

    def _blocked(self) -> bool:
        """Everything before a record that is too big is done."""
        return self.machine.oversize is not None and not self.busy and not self.machine.retrying

    def wake(self) -> None:
        """The log moved, or the mapping's state did: look again."""
        self._dry = False
        self._wake.set()

    def _hungry(self) -> bool:
        machine = self.machine
        if self.stopping or self._dry or self._gap is not None or machine.buffered_bytes >= READ_AHEAD_BYTES:
            return False
        return self.finish is None or machine.next_offset < self.finish

    async def _read(self) -> bool:
        found = await self._poller.read(self.machine.next_offset, self.finish)
        for held, chunk in found:
            segment = held.message.segment
            if not self._segments or self._segments[-1] is not segment:
                self._segments.append(segment.retain())
            self._held.append(held)
            self.machine.offer(chunk)
        self._gap = self._poller.gap
        if self._gap is not None:
            self.machine.meet_gap()
        return bool(found) or self._gap is not None

    def _skip(self) -> bool:
        """Go on behind a gap, once everything before it is done; its records are disposed of without a delivery."""
        gap = self._gap
        if gap is None or self.stopping or not self.machine.at_gap:
            return False
        first, now = self.machine.watermark, self._owner.now_ns()
        self._poller.skip_gap()
        self._gap = None
        self._dry = False
        self.machine.skip_gap(gap.end_offset, now)
        self.high = self.counted = self.machine.watermark
        self._owner.skipped(self, gap.clipped(first, gap.end_offset))
        return True

    # ---- handing over

    def pump(self) -> None:
        """Hand over what is due and fits, and see to it that the lane's task knows what it now has to wait for."""
        if self._pump() and (
            self._hungry() or self._wake_at() is not None or self._blocked() or self.machine.at_gap
        ):
            self._wake.set()

    def _pump(self) -> bool:
        """Hand over what is due and fits. False if a later round of the pool has to try that again."""
        if self.stopping or self._owner.paused:
            return False
        if self.seat is not None and not self.seat.worker.ready:
            return False  # nothing more goes there; its end answers what is in flight
        seat = self.seat
        if seat is not None and self._should_move(seat.worker):
            return False
        worker = seat.worker if seat is not None else self._owner.choose_worker()
        if worker is None:
            self._owner.runtime.queue(self)
            return False
        room = self._room(worker)
        if room <= 0:
            if self.machine.wake_at(self._owner.now_ns()) is not None:
                self._owner.runtime.queue(self)
            return False
        if seat is None and (self._gathering() or not self._due()):
            return True
        if seat is None and not self._sit(worker):
            self._owner.runtime.queue(self)
            return False
        self._hand_over(self._take(room))
        if not self.busy:
            self._stand()
        return True

    def _should_move(self, worker: Worker) -> bool:
        """Whether another worker has at least two lanes less: then what is staged is taken back, and the lane moves on.

        It may move as soon as what runs has been answered; until then it hands over nothing.
        """
        if worker.lanes < 2 or worker.lanes - self._owner.fewest_lanes() < 2:
            return False
        if self._moving is not worker:
            self._moving = worker
            self.recalled()
            if self.seat is not None:
                self.seat.revoke()
        return True

    def _due(self) -> bool:
        """Whether it is worth taking a seat: something may go now. (What the limit cuts is known only by taking.)"""
        now = self._owner.now_ns()
        due = self.machine.wake_at(now)
        return (due is not None and due <= now) or self._owner.budget is not None

    def _gathering(self) -> bool:
        """Whether a batch would be cut short only because the log, which has more, has not been read that far."""
        machine = self.machine
        return (
            machine.buffered_records < self._owner.batch_size
            and machine.buffered_bytes < EVENT_BYTES_MAX
            and machine.retrying is None
            and self._poller.behind
            and self._hungry()
        )

    def _room(self, worker: Worker) -> int:
        # Every lane of a worker stages as much as the others: what is staged is how the worker divides itself.
        lanes = max(1, worker.lanes + (self.seat is None))
        depth = min(self._owner.pace.batches_in(STAGED_NS), RING_CAPACITY) // lanes
        return min(worker.room, max(STAGED_MIN, depth) - self.machine.in_flight)

    def _take(self, room: int) -> list[Run]:
        machine = self.machine
        runs = machine.take(self._owner.now_ns(), room, self._owner.budget)
        if machine.cut_offset > self.high:
            self._owner.spend(machine.cut_offset - self.high)
            self.high = machine.cut_offset
        return runs

    def _sit(self, worker: Worker) -> bool:
        owner = self._owner
        try:
            self.seat = worker.seat_lane(self, owner.latency, owner.duration)
        except trio.WouldBlock:
            return False
        # Other lanes on the worker may be of a mapping that is observed.
        worker.fold = not owner.observed and (worker.fold or worker.lanes == 1)
        return True

    def _hand_over(self, runs: list[Run]) -> None:
        """Submit what was taken; what finds no room goes back into the machine until the next round."""
        seat = self.seat
        self._try_again_ns = None
        if not runs or seat is None:
            return
        now, left = self._owner.now_ns(), sum(run.batches for run in runs)
        for run in runs:
            done = self._submit(run, now)
            left -= done
            if done < run.batches:
                break
        if left:
            self.machine.put_back(left)
            if seat.worker.in_flight:
                self._owner.runtime.queue(self)
            else:
                self._try_again_ns = now + TRY_AGAIN_NS
        seat.publish()

    def _submit(self, run: Run, now: int) -> int:
        """Submit as many batches of the run as fit. Returns how many."""
        assert self.seat is not None
        done, offset = 0, run.first_offset
        while done < run.batches:
            index = self._find(offset)
            held = self._held[index]
            whole = min(run.batches - done, (held.end - offset) // run.records)
            if not self._introduce(held):
                break
            if whole:
                count = self.seat.submit_run(held.aim(offset, run.records), run.records, whole, now)
                done += count
                offset += count * run.records
                if count < whole:
                    break
            elif self._submit_across(index, offset, run.records, now):
                done += 1
                offset += run.records
            else:
                break
        return done

    def _submit_across(self, index: int, offset: int, records: int, now: int) -> bool:
        """One batch that begins in one message and ends in a later one."""
        assert self.seat is not None
        parts: list[tuple[Held, int, int]] = []
        left = records
        while left:
            held = self._held[index]
            rows = min(left, held.end - offset)
            if not self._introduce(held):
                return False
            parts.append((held, offset, rows))
            left -= rows
            offset += rows
            index += 1
        extents = ffi.new("sf_extent[]", len(parts))
        size = ffi.sizeof("sf_extent")
        for place, (held, first, rows) in enumerate(parts):
            ffi.memmove(extents + place, held.aim(first, rows), size)
        return self.seat.submit(extents, len(parts), now)

    def _introduce(self, held: Held) -> bool:
        """See that the worker has the segment. False when its socket is full: the next round tries again."""
        assert self.seat is not None
        worker, segment = self.seat.worker, held.message.segment
        if worker.knows(segment.id):
            return True
        try:
            worker.introduce(segment.id, segment.fd, self._owner.source_header(self.shard))
        except trio.WouldBlock:
            return False
        return True

    def _find(self, offset: int) -> int:
        """The index in `_held` of the message with `offset`; batches mostly go forward from the last one."""
        held, index = self._held, self._cursor
        if index >= len(held) or held[index].first_offset > offset:
            index = 0
        while held[index].end <= offset:
            index += 1
        self._cursor = index
        return index

    # ---- the pool's callbacks

    def succeeded(self, batches: int, finished_ns: int) -> None:
        """The oldest `batches` in flight succeeded."""
        self.machine.succeeded(batches, self._owner.now_ns())
        self._owner.succeeded(self, batches)
        self._settle()

    def completed(self, answer: Answer) -> None:
        """The oldest in flight succeeded, and said something on the way, or is being watched."""
        first, attempt, pid = self.machine.watermark, self.machine.attempts + 1, self._pid()
        self.succeeded(1, answer.finished_ns)
        request_id = self._owner.request_id(answer.invocation)
        self._owner.report(self, Outcome.of(self, answer, request_id, first, attempt, None), answer, pid)

    def failed(self, answer: Answer, kind: FailureKind) -> None:
        """The oldest in flight failed; the machine decides when it is sent again."""
        first, attempt, pid = self.machine.watermark, self.machine.attempts + 1, self._pid()
        request_id = self._owner.request_id(answer.invocation)
        fault = fault_of(answer, kind, request_id, self._owner.timeout_s)
        self.machine.failed(self._owner.now_ns(), fault)
        self._owner.failed(self)
        self._owner.report(self, Outcome.of(self, answer, request_id, first, attempt, fault), answer, pid)
        self._settle()

    def returned(self, batches: int) -> None:
        """The oldest `batches` in flight were not run."""
        self.machine.returned(batches)
        self._settle()

    def recalled(self) -> None:
        """What has not begun is being revoked: nothing is staged behind it before it has come back."""
        if self.busy:
            self.machine.recall()

    def printed(self, invocation: int, log: bytes) -> None:
        """A running invocation wrote something."""
        self._owner.printed(invocation, log)

    def _settle(self) -> None:
        """After answers: let go of what the watermark has passed, and of the seat when nothing is in flight."""
        held, watermark = self._held, self.machine.watermark
        while held and held[0].end <= watermark:
            held.popleft()
            self._cursor = max(0, self._cursor - 1)
        if len(self._segments) > 1:
            self._retire_passed()
        if self.machine.in_flight == 0:
            self._stand()
        self._owner.runtime.queue(self)

    def _pid(self) -> int:
        assert self.seat is not None
        return self.seat.worker.pid

    def _stand(self) -> None:
        if self.seat is not None:
            self.seat.leave()
            self.seat = self._moving = None

    def _retire_passed(self) -> None:
        """Let go of segments that no held message lies in; the newest stays, for what is appended to it."""
        current = self._held[0].message.segment if self._held else self._segments[-1]
        while self._segments[0] is not current:
            segment = self._segments.popleft()
            self._owner.retire(segment.id)
            segment.release()

    # ---- ending

    def finish_at(self, end: int) -> None:
        """Deliver nothing at or past the offset `end`."""
        self.finish = end
        self.machine.finish_at(end)

    def end_here(self) -> None:
        """Read no further: what has been read is delivered, and then the lane is finished."""
        oversize = self.machine.oversize
        self.finish_at(self.machine.next_offset if oversize is None else oversize.offset)

    def drain(self) -> None:
        """Hand over nothing more, and take back what no worker has started."""
        self.stopping = True
        if self.seat is not None:
            self.recalled()
            self.seat.revoke()

    def oldest_arrival_ms(self) -> int | None:
        """When the first record that is not done arrived (milliseconds since 1970); None if it has not been read."""
        watermark = self.machine.watermark
        for held in self._held:
            if held.first_offset <= watermark < held.end:
                message = held.message
                return int(lib.sf_arrival(message.segment.base, message.cdata, watermark - held.first_offset))
        return None

    @property
    def end(self) -> int:
        """Where this run ends, or the shard's committed end."""
        return self.finish if self.finish is not None else self._poller.committed_end

    @property
    def busy(self) -> bool:
        """Something is in flight."""
        return self.machine.in_flight > 0

    def close(self) -> None:
        """Let everything go; the pool has stopped or the lane is drained."""
        self.stopping = True
        if self.seat is not None and self.seat.in_flight == 0:
            self._stand()
        self._held.clear()
        while self._segments:
            segment = self._segments.popleft()
            self._owner.retire(segment.id)
            segment.release()
        self._poller.close()
