"""Which rows of what was read are to be delivered: filters at work, over a mapping's scan processes.

What metadata decide alone is decided here, over whole columns (metadata.py). Rows that have to be looked into are cut
into jobs and spread over the scan processes (scanner.py), which are a function of the pool like the one whose events
they save. Several calls, of several shards, may be under way at once.

A scan process that dies is replaced by the pool, and its job is done again, then in pieces. A record whose scanning
ends the process again and again is selected: what cannot be filtered costs an invocation; dropped, it would be lost,
and tried for ever it would hold up its shard.
"""

from __future__ import annotations

import os
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import merge
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from streamfn._native import ffi, lib
from streamfn.core.filter.expression import DATA_FIELDS, Filters, compile_filters, fields_of
from streamfn.limits import FILTERS_MAX
from streamfn.log.segment.scan import Message
from streamfn.mapping.filtering import constants
from streamfn.pool.config import FunctionConfig
from streamfn.pool.function import Function
from streamfn.pool.lane import FailureKind

if TYPE_CHECKING:
    from streamfn.log.segment.segment import Segment
    from streamfn.pool.lane import Answer, LaneSeat
    from streamfn.pool.pool import Pool
    from streamfn.pool.worker import Worker

SCANNER_MAIN = "streamfn.mapping.scanner"
# A job takes about a millisecond: little enough to be spread, and to be done again. Small messages share one.
JOB_BYTES = 1024 * 1024
JOB_ROWS = 4096
JOB_MESSAGES = 256
# Jobs of one scan process at a time: one that it does, and enough behind it that it does not wait for the runtime.
JOBS_AHEAD = 4
# Nothing a record can say takes a scan process so long.
TIMEOUT_S = 60.0
# How often a job may end its scan process before it is cut up, and a single record before it is selected. The pool
# makes a new process later each time, if none has answered anything: so few cuts lead to the one record.
DEATHS_BEFORE_CUT = 2
DEATHS_OF_ONE = 3
CUT_INTO = 16
# With fewer rows the columns are asked on the spot: that takes less than the hop through a thread.
ROWS_ON_THE_SPOT = 2048

Rows = memoryview | None  # row numbers of one message, format 'I', ascending; None: all of them
NO_ROWS = memoryview(b"").cast("I")

Decide = Callable[[Filters, Sequence[Message]], tuple[list[Rows], list[Rows]]]


class Selector:
    """The filters of one mapping, and its scan processes. Made by `open_selector`; belongs to the Trio thread.

    The runtime pumps it like a lane: `queued` says that it will be.
    """

    def __init__(
        self, filters: Filters, function: Function | None, queue: Callable[[Selector], None], say: Callable[[str], None]
    ) -> None:
        self.filters = filters
        self.function = function  # None: metadata decide everything
        self.queued = False
        self._queue = queue
        self._say = say
        self._jobs: deque[_Job] = deque()
        self._fault: str | None = None  # why there are no scan processes, as it was said last
        self._seats: dict[Worker, _ScanSeat] = {}
        self._decide: Decide | None = None
        if fields_of(filters.expression) - DATA_FIELDS:
            from streamfn.mapping.metadata import decide  # pyarrow, for those who need it

            self._decide = decide

    def shard(self, header: bytes) -> ShardSelector:
        """Return what selects of one shard; `header` describes its segments, as workers are told of them."""
        return ShardSelector(self, header)

    async def decide(self, messages: Sequence[Message]) -> tuple[Sequence[Rows], Sequence[Rows]]:
        """Return the rows of each message that are selected for certain, and those that must be looked into."""
        if self._decide is None:
            everything: list[Rows] = [None] * len(messages)
            nothing: list[Rows] = [NO_ROWS] * len(messages)
            expression = self.filters.expression
            if isinstance(expression, bool):
                return (everything if expression else nothing), nothing
            return nothing, everything
        if sum(message.rows for message in messages) <= ROWS_ON_THE_SPOT:
            return self._decide(self.filters, messages)
        return await trio.to_thread.run_sync(self._decide, self.filters, messages)

    # ---- jobs

    def add(self, jobs: Iterable[_Job]) -> None:
        """Have jobs done."""
        self._jobs.extend(jobs)
        self.pump()

    def pump(self) -> None:
        """Hand jobs to scan processes that have room. Never waits; what found no room is tried in the next round."""
        if self.function is None:
            return
        self._seats = {worker: seat for worker, seat in self._seats.items() if worker.ready or seat.jobs}
        while self._jobs and self._jobs[0].call.cancelled:
            self._jobs.popleft()
        for worker in sorted(self.function.workers, key=lambda each: each.in_flight):
            if not self._jobs:
                return
            seat = self._seats.get(worker) or self._sit(worker)
            if seat is not None:
                seat.fill(self._jobs)
        if self._jobs:
            self._say_why_not(self.function)
            if not self.queued:
                self._queue(self)

    def _say_why_not(self, function: Function) -> None:
        """Say why jobs have to wait, when no scan process can be made; the pool tries again."""
        fault = None if function.fault is None else str(function.fault)
        if fault != self._fault:
            self._fault = fault
            if fault is not None:
                self._say(f"the filters get no new scan process, and try again: {fault}")

    def _sit(self, worker: Worker) -> _ScanSeat | None:
        try:
            seat = self._seats[worker] = _ScanSeat(self, worker)
        except trio.WouldBlock:
            return None
        return seat

    def done(self, job: _Job, answer: memoryview) -> None:
        """A job is answered, as scan processes do."""
        job.call.answered(job, answer)

    def again(self, jobs: Iterable[_Job]) -> None:
        """Jobs were not done: they come before the others."""
        self._jobs.extendleft(reversed(list(jobs)))

    def died(self, job: _Job, detail: str) -> None:
        """A job has ended its scan process, or came to nothing with it."""
        if job.call.cancelled:
            return
        job.deaths += 1
        if job.count == 1:
            if job.deaths < DEATHS_OF_ONE:
                self.again([job])
                return
            ((_, message, rows),) = job.pieces
            self._say(
                f"the record at offset {message.first_offset + rows[0]} could not be filtered and is delivered: a scan "
                f"process ended {job.deaths} times over it ({detail})"
            )
            self.done(job, memoryview(array("I", [1, rows[0]])))
        elif job.deaths < DEATHS_BEFORE_CUT:
            self.again([job])
        else:
            self.again(job.cut())

    def settle(self) -> None:
        """Something was answered: the next round of the pool gives out more."""
        if self._jobs and not self.queued:
            self._queue(self)

    async def close(self, pool: Pool) -> None:
        """Stop the scan processes; shielded from cancellation, and takes less than a second."""
        function, self.function = self.function, None
        if function is not None:
            await _stop(pool, function)

    def retire(self, segment: Segment) -> None:
        """No job needs the segment any more: scan processes let their mappings go."""
        if self.function is None:
            return
        for worker in self.function.workers:
            if worker.knows(segment.id):
                worker.let_go(segment.id)


class ShardSelector:
    """The filters of a mapping over one shard."""

    def __init__(self, selector: Selector, header: bytes) -> None:
        self.header = header
        self._selector = selector
        self._segments: dict[int, tuple[Segment, int]] = {}  # retained, and how many calls need it
        self._newest: int | None = None

    async def select(self, messages: Sequence[Message]) -> list[Rows]:
        """Return, for each message, the numbers of its rows that are to be delivered.

        Cancellation: what is being scanned is not waited for.
        """
        if not messages:
            return []
        selector = self._selector
        used = self._retain(messages)
        try:
            certain, open_rows = await selector.decide(messages)
            call = _Call(self, certain)
            jobs = call.jobs(messages, open_rows)
            if jobs:
                try:
                    selector.add(jobs)
                    await call.over.wait()
                finally:
                    call.cancelled = True
            return [call.selected(place) for place in range(len(messages))]
        finally:
            self._release(used)

    def _retain(self, messages: Sequence[Message]) -> list[Segment]:
        used = list({message.segment.id: message.segment for message in messages}.values())
        for segment in used:
            kept, calls = self._segments.get(segment.id) or (segment.retain(), 0)
            self._segments[segment.id] = kept, calls + 1
            self._newest = segment.id
        return used

    def _release(self, used: Iterable[Segment]) -> None:
        for segment in used:
            kept, calls = self._segments[segment.id]
            self._segments[segment.id] = kept, calls - 1
        self._let_go(self._newest)

    def _let_go(self, but: int | None) -> None:
        """Let the segments go that no call needs; the newest stays, as there will be more of it."""
        for segment_id, (segment, calls) in list(self._segments.items()):
            if not calls and segment_id != but:
                del self._segments[segment_id]
                self._selector.retire(segment)
                segment.release()

    def close(self) -> None:
        """Let everything go; what calls that are under way still need, when they end."""
        self._newest = None
        self._let_go(None)


class _Call:
    """One call of `select`: what is known of each message, and how much is not."""

    def __init__(self, shard: ShardSelector, certain: Sequence[Rows]) -> None:
        self.shard = shard
        self.over = trio.Event()
        self.cancelled = False
        self._certain = certain
        self._found: list[list[tuple[int, memoryview]]] = [[] for _ in certain]  # first row asked, rows that passed
        self._rows = [0] * len(certain)
        self._open = 0  # rows that are not answered

    def jobs(self, messages: Sequence[Message], open_rows: Sequence[Rows]) -> list[_Job]:
        """Cut what must be looked into of some messages into jobs, each in one segment."""
        jobs: list[_Job] = []
        pieces: list[_Piece] = []
        room = 0.0  # left in the job that is being made: 1 for an empty one
        for place, (message, rows) in enumerate(zip(messages, open_rows, strict=True)):
            wanted: Sequence[int] = range(message.rows) if rows is None else rows
            if not wanted:
                continue
            self._rows[place] = message.rows
            self._open += len(wanted)
            cost = max(1 / JOB_ROWS, message.bytes / message.rows / JOB_BYTES)  # of a row
            step = max(1, int(1 / cost))
            for at in range(0, len(wanted), step):
                piece = _Piece(place, message, wanted[at : at + step])
                taken = max(1 / JOB_MESSAGES, cost * len(piece.rows))
                if taken > room or message.segment is not pieces[-1].message.segment:
                    pieces, room = [], 1.0
                    jobs.append(_Job(self, pieces))
                pieces.append(piece)
                room -= taken
        return jobs

    def answered(self, job: _Job, answer: memoryview) -> None:
        """The rows of a job that passed: for each piece how many, and their numbers."""
        at = 0
        for place, _, rows in job.pieces:
            count = answer[at]
            self._found[place].append((rows[0], answer[at + 1 : at + 1 + count]))
            self._open -= len(rows)
            at += 1 + count
        if not self._open:
            self.over.set()

    def selected(self, place: int) -> Rows:
        """What was found of one message, in order."""
        certain, found = self._certain[place], sorted(self._found[place], key=lambda part: part[0])
        if certain is None or not found:
            return certain
        if len(found) == 1 and not certain:
            rows = found[0][1]
        else:
            scanned = b"".join(part for _, part in found)
            rows = memoryview(scanned).cast("I")
            if certain:
                rows = memoryview(array("I", merge(certain, rows)))
        return None if len(rows) == self._rows[place] else rows


class _Piece(NamedTuple):
    """Some rows of one message of a call, which is at `place` there."""

    place: int
    message: Message
    rows: Sequence[int]


class _Job:
    """Some rows to be looked into by one scan process; all of one segment."""

    __slots__ = ("call", "deaths", "pieces")

    def __init__(self, call: _Call, pieces: list[_Piece], deaths: int = 0) -> None:
        self.call = call
        self.pieces = pieces
        self.deaths = deaths

    @property
    def count(self) -> int:
        """How many rows."""
        return sum(len(piece.rows) for piece in self.pieces)

    @property
    def segment(self) -> Segment:
        """Where they lie."""
        return self.pieces[0].message.segment

    def cut(self) -> list[_Job]:
        """The same in pieces; one more death is enough to cut one of them."""
        pieces = self.pieces
        if len(pieces) == 1:
            ((place, message, rows),) = pieces
            step = -(-len(rows) // CUT_INTO)
            parts = [[_Piece(place, message, rows[at : at + step])] for at in range(0, len(rows), step)]
        else:
            step = -(-len(pieces) // CUT_INTO)
            parts = [pieces[at : at + step] for at in range(0, len(pieces), step)]
        return [_Job(self.call, part, DEATHS_BEFORE_CUT - 1) for part in parts]

    def read(self, payload: bytes) -> memoryview | None:
        """Give the numbers in an answer; None if that is none to this job.

        C goes by these numbers, and they come from a process that parses anybody's records.
        """
        if len(payload) % 4:
            return None
        answer = memoryview(payload).cast("I")
        numbers, at = ffi.from_buffer("uint32_t[]", payload), 0
        for piece in self.pieces:
            count = answer[at] if at < len(answer) else len(answer)
            if at + 1 + count > len(answer) or not _are_among(numbers + at + 1, count, piece.rows):
                return None
            at += 1 + count
        return answer if at == len(answer) else None

    def submit(self, seat: LaneSeat, now_ns: int) -> bool:
        """Stage it; False if there was no room."""
        extents = ffi.new("sf_extent[]", len(self.pieces))
        selection: array[int] = array("I")
        for extent, (_, message, rows) in zip(extents, self.pieces, strict=True):
            ffi.memmove(extent.column, message.cdata.column, 8 * lib.SF_COLUMN_BUFFERS)
            extent.segment_id = message.segment.id
            extent.first_offset = message.first_offset + rows[0]
            extent.first_row, extent.rows = rows[0], len(rows)
            if rows[-1] - rows[0] != len(rows) - 1:
                extent.first_row = lib.SF_SELECTED
                selection.extend(rows)
        return seat.submit(extents, len(self.pieces), now_ns, selection)


def _are_among(numbers: Any, count: int, rows: Sequence[int]) -> bool:
    """Whether numbers (`uint32_t *`) ascend and are all among `rows`."""
    if isinstance(rows, range):
        return bool(lib.sf_rows_among(numbers, count, ffi.NULL, rows.start, len(rows)))
    among = ffi.from_buffer("uint32_t[]", rows if isinstance(rows, array | memoryview) else array("I", rows))
    return bool(lib.sf_rows_among(numbers, count, among, 0, len(rows)))


class _ScanSeat:
    """The selector's seat on one scan process: a lane client."""

    def __init__(self, selector: Selector, worker: Worker) -> None:
        self.jobs: deque[_Job] = deque()  # in flight, oldest first
        self._selector = selector
        self._worker = worker
        self._seat = worker.seat_lane(self)
        worker.fold = False  # an answer is more than that it succeeded

    def fill(self, jobs: deque[_Job]) -> None:
        """Hand over jobs while there is room."""
        worker, staged = self._worker, False
        while jobs and worker.ready and len(self.jobs) < JOBS_AHEAD and worker.room:
            job = jobs[0]
            if job.call.cancelled:
                jobs.popleft()
                continue
            if not self._introduce(job) or not job.submit(self._seat, time.monotonic_ns()):
                break
            self.jobs.append(jobs.popleft())
            staged = True
        if staged:
            self._seat.publish()

    def _introduce(self, job: _Job) -> bool:
        segment = job.segment
        if self._worker.knows(segment.id):
            return True
        try:
            self._worker.introduce(segment.id, segment.fd, job.call.shard.header)
        except trio.WouldBlock:
            return False
        return True

    # ---- the pool's callbacks

    def succeeded(self, batches: int, finished_ns: int) -> None:
        """Never: every answer is told."""
        raise AssertionError("a scan process's answers are folded")

    def completed(self, answer: Answer) -> None:
        """The oldest job is answered."""
        job = self.jobs.popleft()
        rows = job.read(answer.payload)
        if rows is None:
            reason = "what a scan process answered makes no sense"
            self._worker.kill(FailureKind.CRASHED, reason)
            self._selector.died(job, reason)
        elif not job.call.cancelled:
            self._selector.done(job, rows)
        self._selector.settle()

    def failed(self, answer: Answer, kind: FailureKind) -> None:
        """The oldest job's process ended."""
        self._selector.died(self.jobs.popleft(), answer.detail or kind.value)
        self._selector.settle()

    def returned(self, batches: int) -> None:
        """The oldest jobs were not begun."""
        self._selector.again([self.jobs.popleft() for _ in range(batches)])
        self._selector.settle()

    def recalled(self) -> None:
        """What was not begun is revoked: it comes back."""

    def printed(self, invocation: int, log: bytes) -> None:
        """A scan process prints nothing that anybody wants."""


async def open_selector(
    pool: Pool,
    patterns: Sequence[str],
    *,
    name: str,
    kind: str,
    arn: str,
    region: str,
    scanners: int,
    queue: Callable[[Selector], None],
    say: Callable[[str], None],
) -> Selector:
    """Compile the filters of a mapping and start its scan processes, if it needs any.

    `kind`, `arn` and `region` are the stream's; `queue` has `pump` called after the next round of the pool; `say` is
    for a line that people should see.

    Cancellation: nothing is left running.

    Raises:
        RefusedError: the filters are refused.
        FailedError: processes cannot be made.
    """
    alike = constants(kind, arn, region)
    filters = compile_filters(patterns, kind, alike, FILTERS_MAX)
    if filters.scan is False:
        return await trio.to_thread.run_sync(Selector, filters, None, queue, say)  # importing pyarrow takes its time
    config = FunctionConfig(
        name=f"{name}-filter",
        main=SCANNER_MAIN,
        settings={"kind": kind, "filters": list(patterns), "constants": alike},
        code_dir="/",
        environment=dict(os.environ),
        minimum=scanners,
        maximum=scanners,
        counted=False,
        timeout_s=TIMEOUT_S,
    )
    function = await pool.start(config)
    try:
        return await trio.to_thread.run_sync(Selector, filters, function, queue, say)
    except BaseException:
        await _stop(pool, function)
        raise


async def _stop(pool: Pool, function: Function) -> None:
    with trio.CancelScope(shield=True):
        await function.stop()
    if function in pool.functions:
        pool.functions.remove(function)
