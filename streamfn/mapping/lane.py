"""One lane of a mapping at work: between its shard's feed, the pure lane machine and a seat in the pool.

Three things drive it, and each of them ends in `hand_over`: records arrived (the feed's task), the pool reaped answers
(the callbacks, then the runtime's round), and time passed (the feed's task again). `hand_over` asks the machine what is
due and submits it. It never waits: what does not fit a ring now is tried again in the next round.

A lane has a seat on one worker for as long as anything of it is in flight, and takes none otherwise, so an idle lane
goes to whichever worker is free when its next batch is due.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import TYPE_CHECKING

import trio

from streamfn._native import ffi
from streamfn.core.lane import Lane
from streamfn.core.tumbling import WindowLane
from streamfn.core.verdict import Decision, Discarded
from streamfn.events.partial import Failed, Partly, judge
from streamfn.events.rows import aim
from streamfn.limits import EVENT_BYTES_MAX, RING_CAPACITY
from streamfn.mapping.billing import ENDED
from streamfn.mapping.outcome import Outcome, fault_of, reported
from streamfn.mapping.pieces import Piece, Span, sequence_numbers
from streamfn.pool.lane import FailureKind
from streamfn.types import Fault, Run, Window

if TYPE_CHECKING:
    from streamfn.mapping.feed import ShardFeed
    from streamfn.mapping.stages import DueTimes
    from streamfn.pool.lane import Answer, LaneSeat
    from streamfn.pool.worker import Worker
    from streamfn.state.discards import Discard

# How much work is staged on a worker. Each wake-up of the runtime costs some 100 µs of a core that the workers could
# use, so there are few of them; and what is staged can be revoked, so a slow handler's batches are not tied to one
# worker for long. At least one batch runs and one waits.
STAGED_NS = 25_000_000
STAGED_MIN = 2

# How long a batch that is due and not full waits for what is with the filters: a few reads' worth. Where hardly
# anything matches there is always one more read there, however long the log is.
GATHER_NS = 200_000_000

# A full socket of a worker that has nothing to answer: it is tried again after so long.
TRY_AGAIN_NS = 1_000_000


class ShardLane:
    """The shell of one lane. It is the pool's lane client (its callbacks do not wait and do not raise).

    Its records have positions, which are the machine's; of a shard with one lane they are the shard's offsets.
    """

    def __init__(self, feed: ShardFeed, machine: Lane | WindowLane) -> None:
        self.feed = feed
        self.machine = machine
        self.high = machine.watermark  # everything below was handed over at least once, or is not going to be
        self._spent = machine.cut_offset - machine.undelivered
        self.seat: LaneSeat | None = None
        self.queued = False  # already in the runtime's queue of lanes to pump
        self._owner = feed.owner
        self._pieces: deque[Piece] = deque()
        self._cursor = 0  # index in `_pieces` where the last batch began
        self._moving: Worker | None = None  # the worker that this lane is about to leave
        self._gather_by_ns: int | None = None  # until when what is due is kept back for the filters
        self._waits = False  # its function knows that it has no worker for it
        self._try_again_ns: int | None = None  # something found no room, and no answer will come to tell of any
        self.last_request = ""  # the last invocation that failed, and whether by an error
        stages = feed.owner.stages
        self._due_times: DueTimes | None = stages.lane() if stages is not None and feed.paced else None
        self._unhandled = True

    @property
    def window(self) -> Window | None:
        """Where the lane's tumbling windows are; None without any."""
        return None

    @property
    def busy(self) -> bool:
        """Something is in flight."""
        return self.machine.in_flight > 0

    # ---- what the feed tells and asks

    def hold(self, piece: Piece) -> None:
        """The machine has been offered these records."""
        self._pieces.append(piece)

    def due(self, position: int, times: array[int]) -> None:
        """The records from `position` on, of which the machine is to be offered next, are due at these moments."""
        if self._due_times is not None:
            self._due_times.offer(position, times)

    def skipped(self) -> None:
        """The machine went on behind a gap."""
        machine = self.machine
        self._gave_up()
        self.high = machine.watermark
        self._spent = machine.cut_offset - machine.undelivered

    def wake_at(self) -> int | None:
        """When time alone changes anything; an answer or the next round of the pool pumps the lane anyway."""
        if self.feed.stopping or self.queued or self._waits or self.busy or self._owner.paused:
            return None
        if self._try_again_ns is not None:
            return self._try_again_ns
        if self._owner.budget == 0 and not self.machine.unfinished:
            return None
        due = self.machine.wake_at(self._owner.now_ns())
        return due if due is None or self._gather_by_ns is None else max(due, self._gather_by_ns)

    def spans(self, first: int, records: int) -> list[Span]:
        """Where the `records` records from the position `first` on lie; the watermark has not passed them."""
        spans: list[Span] = []
        index = self._find(first) if records else 0
        while records:
            piece = self._pieces[index]
            count = min(records, piece.end - first)
            spans.append(Span(piece.message, piece.numbers(first, count)))
            first += count
            records -= count
            index += 1
        return spans

    def offset_of(self, position: int) -> int:
        """The shard offset of the record at `position`, which the watermark has not passed."""
        return self._pieces[self._find(position)].offset(position)

    def oldest_arrival_ms(self) -> int | None:
        """When the first record that is not done arrived (milliseconds since 1970); None if it has not been read.

        Where there is a schedule: when it was due, by that.
        """
        if self._due_times is not None:
            due_ns = self._due_times.first_ns()
            return None if due_ns is None else self._owner.timeline.ms_at(due_ns)
        watermark = self.machine.watermark
        for piece in self._pieces:
            if piece.first <= watermark < piece.end:
                return piece.arrival_ms(watermark)
        return None

    def take_back(self) -> None:
        """Have what no worker has started come back."""
        self._wait_no_more()
        if self.seat is not None:
            self.recalled()
            self.seat.revoke()

    def close(self) -> None:
        """Let everything go; the lane is drained, or the pool has stopped, or a killed worker is long in dying."""
        self._wait_no_more()
        if self.seat is not None:
            if self.seat.in_flight == 0:
                self._stand()
            else:
                self.seat.client = _Nobody(self.seat)
        self._pieces.clear()

    # ---- handing over

    def pump(self) -> None:
        """Hand over what is due and fits, and see to it that the feed's task knows what it now has to wait for."""
        if self.hand_over():
            self.feed.note(self)

    def hand_over(self) -> bool:
        """Hand over what is due and fits. False if a later round of the pool has to try that again."""
        if self.feed.stopping or self._owner.paused:
            self._wait_no_more()
            return False
        self.feed.release()
        if self.seat is not None and not self.seat.worker.ready:
            return False  # nothing more goes there; its end answers what is in flight
        seat = self.seat
        if seat is not None and self._should_move(seat.worker):
            return False
        if seat is None and not self._due():
            self._wait_no_more()
            return True
        worker = seat.worker if seat is not None else self._owner.choose_worker(self)
        if worker is None:
            self._waits = True
            self._owner.runtime.park(self, self._owner.function)
            return False
        self._waits = False
        room = self._room(worker)
        if room <= 0:
            if self.machine.wake_at(self._owner.now_ns()) is None:
                return True  # nothing is kept out by that; the feed may have something to read
            self._owner.runtime.queue(self)
            return False
        if seat is None and self._holds_back():
            return True
        if seat is None and not self._sit(worker):
            self._owner.runtime.queue(self)
            return False
        self._stage(self._take(room))
        if not self.busy:
            self._stand()
        return True

    def _wait_no_more(self) -> None:
        """The function is not to grow for this lane."""
        if self._waits:
            self._waits = False
            self._owner.function.forget(self)
            self._owner.runtime.unpark(self, self._owner.function)

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
        now, machine = self._owner.now_ns(), self.machine
        due = machine.wake_at(now)
        return (due is not None and due <= now) or (self._owner.budget is not None and machine.buffered_records > 0)

    def _holds_back(self) -> bool:
        """Whether what is due waits for more: as long as it takes to read that, and not so long for the filters."""
        if not self._gathering():
            self._gather_by_ns = None
            return False
        if not self.feed.filtering:
            self._gather_by_ns = None
            return True
        now = self._owner.now_ns()
        if self._gather_by_ns is None:
            self._gather_by_ns = now + GATHER_NS
        if now < self._gather_by_ns:
            return True
        self._gather_by_ns = None
        return False

    def _gathering(self) -> bool:
        """Whether a batch would be cut short only because the log, which has more, has not been read that far."""
        machine = self.machine
        return (
            machine.buffered_records < self._owner.batch_size
            and machine.buffered_bytes < EVENT_BYTES_MAX
            and machine.retrying is None
            and self.feed.behind
        )

    def _room(self, worker: Worker) -> int:
        # Every lane of a worker stages as much as the others: what is staged is how the worker divides itself.
        lanes = max(1, worker.lanes + (self.seat is None))
        depth = min(self._owner.pace.batches_in(STAGED_NS), RING_CAPACITY) // lanes
        return min(worker.room, max(STAGED_MIN, depth) - self.machine.in_flight)

    def _take(self, room: int) -> list[Run]:
        machine, owner = self.machine, self._owner
        runs = machine.take(owner.now_ns(), room, owner.budget, time_ms=owner.record_ms())
        if machine.cut_offset > self.high:
            self.high = machine.cut_offset
            handed_over = machine.cut_offset - machine.undelivered
            owner.spend(handed_over - self._spent)
            self._spent = handed_over
        self._give_up()
        return runs

    def _give_up(self) -> None:
        """Keep what the machine has given up, and where it lies; the watermark is behind it already."""
        discards = self.machine.take_discards()
        if discards:
            for each in discards:
                self.feed.give_up(self, self._row_of(each))
            self._gave_up()
            self._forget()
            self.feed.settled()

    def _gave_up(self) -> None:
        if self._due_times is not None:
            self._due_times.given_up(self.machine.watermark)

    def _row_of(self, gone: Discarded) -> Discard:
        """What is kept of something that the machine has given up."""
        spans = self.spans(gone.first_offset, gone.records)
        shard_id = self.feed.shard.id
        return self._owner.discarded(shard_id, gone, spans, self.last_request, unhandled=self._unhandled)

    def _sit(self, worker: Worker) -> bool:
        owner = self._owner
        try:
            self.seat = worker.seat_lane(self, owner.latency, owner.duration)
        except trio.WouldBlock:
            return False
        if owner.stages is not None:
            due = ffi.NULL if self._due_times is None else self._due_times.queue
            if not self.seat.measure(owner.stages.meter, due):
                raise MemoryError("no memory to measure a lane")
        owner.bill.initialised(self.seat.worker)
        # Other lanes on the worker may be of a mapping that is observed.
        worker.fold = not owner.observed and (worker.fold or worker.lanes == 1)
        return True

    def _stage(self, runs: list[Run]) -> None:
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
        done, position = 0, run.first_offset
        while done < run.batches:
            index = self._find(position)
            piece = self._pieces[index]
            whole = min(run.batches - done, (piece.end - position) // run.records)
            if not self._introduce(piece):
                break
            if whole:
                count = self._submit_whole(piece, position, run.records, whole, now)
                done += count
                position += count * run.records
                if count < whole:
                    break
            elif self._submit_across(position, run.records, now):
                done += 1
                position += run.records
            else:
                break
        return done

    def _submit_whole(self, piece: Piece, position: int, records: int, batches: int, now: int) -> int:
        """As many as fit of so many batches that lie in one piece."""
        assert self.seat is not None
        if piece.rows is None:
            return self.seat.submit_run(piece.aim(position, records), records, batches, now)
        rows = piece.numbers(position, records * batches)
        return self.seat.submit_rows(piece.extent_of_all(), rows, records, batches, now)

    def _submit_across(self, position: int, records: int, now: int, document: int | None = None) -> bool:
        """One batch that may begin in one message and end in a later one, behind the extent of a document, if any."""
        assert self.seat is not None
        parts: list[tuple[Piece, int, int]] = []
        index = self._find(position) if records else 0
        while records:
            piece = self._pieces[index]
            count = min(records, piece.end - position)
            if not self._introduce(piece):
                return False
            parts.append((piece, position, count))
            records -= count
            position += count
            index += 1
        lead = 0 if document is None else 1
        extents = ffi.new("sf_extent[]", lead + len(parts))
        if document is not None:
            extents[0].segment_id = document
        size = ffi.sizeof("sf_extent")
        selection: list[bytes] = []
        for place, (piece, first, count) in enumerate(parts, lead):
            if piece.rows is None:
                ffi.memmove(extents + place, piece.aim(first, count), size)
            elif aim(piece.extent_of_all(), rows := piece.numbers(first, count), extents + place):
                selection.append(bytes(rows))
        return self.seat.submit(extents, lead + len(parts), now, b"".join(selection))

    def _introduce(self, piece: Piece) -> bool:
        """See that the worker has the segment. False when its socket is full: the next round tries again."""
        assert self.seat is not None
        worker, segment = self.seat.worker, piece.message.segment
        if worker.knows(segment.id):
            return True
        try:
            worker.introduce(segment.id, segment.fd, self._owner.source_header(self.feed.shard))
        except trio.WouldBlock:
            return False
        return True

    def _find(self, position: int) -> int:
        """The index in `_pieces` of the one with `position`; batches mostly go forward from the last one."""
        pieces, index = self._pieces, self._cursor
        if index >= len(pieces) or pieces[index].first > position:
            index = 0
        while pieces[index].end <= position:
            index += 1
        self._cursor = index
        return index

    # ---- the pool's callbacks

    def succeeded(self, batches: int, finished_ns: int) -> None:
        """The oldest `batches` in flight succeeded."""
        machine = self.machine
        first = machine.watermark
        if machine.attempts:
            self._owner.counts.retries += 1
        machine.succeeded(batches, self._owner.now_ns())
        self._owner.succeeded(batches, machine.watermark - first)
        self._settle()

    def completed(self, answer: Answer) -> None:
        """The oldest in flight succeeded, and said something on the way, or is being watched."""
        bounds, attempt, worker = self._bounds(answer), self.machine.attempts + 1, self._worker()
        self.succeeded(1, answer.finished_ns)
        self._report(answer, bounds, attempt, worker, None)

    def failed(self, answer: Answer, kind: FailureKind) -> None:
        """The oldest in flight was no certain success; the machine decides what becomes of its records."""
        machine, owner = self.machine, self._owner
        first, attempt, worker = machine.watermark, machine.attempts + 1, self._worker()
        bounds = self._bounds(answer)
        if attempt > 1:
            owner.counts.retries += 1
        self.last_request = owner.request_id(answer.invocation)
        self._unhandled = kind is not FailureKind.RESPONSE
        fault: Fault | None
        done = 0
        if kind is FailureKind.RESPONSE:
            fault, done = self._judge(answer, first)
            if self._due_times is not None:
                self._due_times.done(first + done, answer.submitted_ns, answer.finished_ns)
        else:
            fault = fault_of(answer, kind, self.last_request, owner.timeout_s)
            if kind in ENDED:
                owner.bill.ended(answer.finished_ns - answer.started_ns)
            machine.failed(owner.now_ns(), fault, charged=kind is not FailureKind.KILLED)
        if fault is not None:
            owner.failed(self.feed.shard.id, bounds[0], answer.records - done, fault)
        self._report(answer, bounds, attempt, worker, fault)
        self._judged()

    def _judge(self, answer: Answer, first: int) -> tuple[Fault | None, int]:
        """Tell the machine what a response says of the batch.

        Why it is no success, or None if it is one after all, and how many records were done.
        """
        machine, now = self.machine, self._owner.now_ns()
        numbers = sequence_numbers(self.spans(first, answer.records))
        verdict = judge(answer.payload, numbers)
        if isinstance(verdict, Partly):
            fault = reported(f"the record {numbers[verdict.done]} was reported", answer.payload)
            machine.partly(verdict.done, now, fault)
            self._owner.succeeded(0, verdict.done)
            return fault, verdict.done
        if isinstance(verdict, Failed):
            fault = reported(verdict.reason, answer.payload)
            machine.partly(0, now, fault)
            return fault, 0
        machine.succeeded(1, now)
        self._owner.succeeded(1, answer.records)
        return None, answer.records

    def _bounds(self, answer: Answer) -> tuple[int, int]:
        """Where the records of the oldest in flight begin, and behind which offset they end."""
        first = self.machine.watermark
        begin = self.offset_of(first)
        return begin, self.offset_of(first + answer.records - 1) + 1 if answer.records else begin

    def _report(
        self, answer: Answer, bounds: tuple[int, int], attempt: int, worker: Worker, fault: Fault | None
    ) -> None:
        request_id = self._owner.request_id(answer.invocation)
        shard_id = self.feed.shard.id
        self._owner.report(Outcome.of(shard_id, answer, request_id, bounds, attempt, fault), answer, worker)

    def _judged(self) -> None:
        """After a failure: keep what has been given up, and stop where somebody wants to decide."""
        if self.machine.undecided is not None:
            self._owner.stopped(self)
        self._give_up()
        self._settle()

    def decide(self, decision: Decision) -> None:
        """Say what becomes of the batch that waits for a decision; it goes on when the mapping does."""
        self.machine.decide(decision, self._owner.now_ns())
        self._give_up()

    def beside(self) -> bytes:
        """What stood in the last event beside `Records`, as JSON of an object; empty where nothing did."""
        return b""

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
        self._forget()
        self.feed.settled()
        if self.machine.in_flight == 0:
            self._stand()
        self._owner.runtime.queue(self)

    def _forget(self) -> None:
        """Let go of what the watermark has passed."""
        pieces, watermark = self._pieces, self.machine.watermark
        while pieces and pieces[0].end <= watermark:
            pieces.popleft()
            self._cursor = max(0, self._cursor - 1)

    def _worker(self) -> Worker:
        assert self.seat is not None
        return self.seat.worker

    def _stand(self) -> None:
        if self.seat is not None:
            self.seat.leave()
            self.seat = self._moving = None


class _Nobody:
    """Who is told of what was in flight when its lane was let go: what became of it does not matter any more."""

    def __init__(self, seat: LaneSeat) -> None:
        self._seat = seat

    def succeeded(self, batches: int, finished_ns: int) -> None:
        self._answered()

    def completed(self, answer: Answer) -> None:
        self._answered()

    def failed(self, answer: Answer, kind: FailureKind) -> None:
        self._answered()

    def returned(self, batches: int) -> None:
        self._answered()

    def recalled(self) -> None:
        pass

    def printed(self, invocation: int, log: bytes) -> None:
        pass

    def _answered(self) -> None:
        if self._seat.in_flight == 0:
            self._seat.leave()
