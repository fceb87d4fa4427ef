"""A lane with tumbling windows: its state goes from one invocation to the next, until the window's final one.

A window is `length_ms` long and aligned to 1970; a record belongs to the one that its arrival time lies in.  What an
invocation returned as its state goes to the next one of the same window; the first gets `{}`.

    offer        admit                     take                  succeeded, partly
    ────▶ ahead ──────▶ lane (core/lane.py) ───▶ in flight ────▶ state and watermark move together
                 │ up to the first record        ▲  one at a time,
                 │ of a later window: sealed     │  never staged behind another
                 └───────▶ all of it disposed ───┘ final call ──▶ closed; the next window is admitted

The records of one window are in the lane at a time, so no batch spans two, and batching, retries, bisection and age
limits are the lane's own.  What lies ahead waits here.  Beside batches there are two *calls*, invocations without
records: the *final* one of a window, and the one that *terminates* it early because its state has outgrown
a megabyte; the same window goes on then, with a fresh state.  While a call fails the shard waits.

A window is sealed, which means that no record joins it any more, by

    a record     that is next and arrived at or after the window's end
    the clock    what had arrived by CLOSE_DELAY_MS after its end has all been offered (`read_up_to`, `finish_at`)
    the shard    it ends, for good (`finish_at` with FOREVER)

What AWS documents (Lambda developer guide, "Implementing stateful Kinesis Data Streams processing in Lambda", and the
same for DynamoDB): membership by arrival time, state, final call, early termination, the end of a shard, that retry
and age limits hold, that a failing final call suspends the shard, and that it "waits for up to 2 minutes" for more
records before it takes a window for over.  What nobody documents is decided here, once:

  * Calls have no records.  A window that had a record has a final call, whatever became of its records.
  * The retry limit holds for calls too.  When it is used up the call is given up: a discard of no records, which is
    told like every other; its state is lost, and the shard goes on.
  * State moves with the watermark and never alone: after a partial failure it is taken over if records are done
    (nobody would count them otherwise), and not if none is.  A discarded batch leaves it as it was.
  * A late record, which arrived in a window that has been sealed, joins the window that is open, or else opens the one
    behind the last that was closed.  Nothing is dropped, and no window is opened twice.
  * A window keeps its bounds when the length is changed; the next one begins where it ended.

Time that decides about windows is the record clock (milliseconds since 1970); nanoseconds are those of the act clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamfn.core.backoff import Draw
from streamfn.core.batcher import BatchRules, Chunk
from streamfn.core.lane import Lane, Phase
from streamfn.core.verdict import UNDECIDED_NS, Decision, Discard, Discarded, FailurePolicy, Retry, Split, Verdict
from streamfn.limits import WINDOW_STATE_BYTES_MAX
from streamfn.types import Envelope, Fault, Run, Window

CLOSE_DELAY_MS = 2_000
"""How long after its end a window is over by the clock.  Lambda waits "up to 2 minutes"; an append here is readable
some milliseconds after the arrival time it was given, a captured record after the capture's next poll (1 s)."""

FOREVER = 2**63
"""A time that every window's end is before: nothing comes behind the end of a shard."""

FRESH_STATE = b"{}"

# Arrival times are looked at in blocks: at the speed of C, and not behind a window's end.
_LOOK_ROWS = 256


@dataclass(slots=True)
class _Call:
    """A final or an early-termination call that has not succeeded yet; `retry` from its first failure on."""

    is_final: bool
    retry: Retry | None = None

    @property
    def attempt(self) -> int:
        """The number of the delivery that is next, or in flight."""
        return 1 if self.retry is None else self.retry.attempt


class WindowLane:
    """The machine of one lane with windows: `Lane`'s protocol, with what windows need beside it.

    Synchronous and not thread-safe.  Its chunks must have arrivals.
    """

    __slots__ = (
        "_ahead",
        "_ahead_bytes",
        "_bound_offset",
        "_call",
        "_closed",
        "_complete_ms",
        "_discards",
        "_draw",
        "_envelope",
        "_finish",
        "_gap_ahead",
        "_gap_met",
        "_known_ms",
        "_known_ns",
        "_lane",
        "_length_ms",
        "_opened_at",
        "_policy",
        "_sealed",
        "_window",
        "in_flight",
    )

    def __init__(
        self,
        rules: BatchRules,
        policy: FailurePolicy,
        start_offset: int,
        now_ns: int,
        random: Draw,
        *,
        length_ms: int,
        window: Window | None = None,
    ) -> None:
        """Begin at `start_offset` with the `window` that was committed with it; None if there never was one.

        `rules` leave room in the event for a state of WINDOW_STATE_BYTES_MAX.
        """
        assert length_ms > 0
        self._lane = Lane(rules, policy, start_offset, now_ns, random)
        self._policy = policy
        self._draw = random
        self._length_ms = length_ms
        self._window = window if window is not None and window.state is not None else None  # the open one
        self._closed = window if window is not None and window.state is None else None  # the last one before it
        self._opened_at = -1  # where the open window began; -1: in an earlier life
        self._sealed = False  # nothing joins the open window any more
        self._ahead: deque[Chunk] = deque()  # what is not in the lane: it begins with a later window, or is late
        self._ahead_bytes = 0  # of event JSON
        self._gap_ahead = False  # behind all of that there is a gap
        self._gap_met = False  # nothing lies ahead, and the lane has been told of the gap
        self._bound_offset: int | None = None  # where the lane was told to finish
        self._finish: int | None = None
        self._complete_ms = -1  # what is known to have been offered when `_finish` is reached
        self._known_ms = -1  # everything that had arrived by then has been offered, as was known at
        self._known_ns = 0
        self._call: _Call | None = None
        self._envelope: Envelope | None = None
        self._discards: list[Discarded] = []

        self.in_flight = 0  # 0 or 1; written only here

    # ---- what the lane is up to: see Lane where nothing is said ----

    @property
    def window(self) -> Window | None:
        """Where the windows are, as it is to be committed with `watermark`; None before the first one has begun."""
        if self._window is not None and self._lane.watermark > self._opened_at:
            return self._window
        return self._closed

    @property
    def envelope(self) -> Envelope:
        """What is in flight is told this of its window."""
        assert self.in_flight, "nothing is in flight"
        assert self._envelope is not None
        return self._envelope

    @property
    def complete(self) -> bool:
        """Whether what goes next would not grow if more were read: the window is sealed, or a call is due."""
        return self._sealed or self._call is not None or self._is_outgrown

    @property
    def phase(self) -> Phase:
        """What the lane is doing; a call counts as the batch it is retried as."""
        if self._call is not None and self._call.retry is not None:
            return Phase.RETRYING if self.in_flight else Phase.WAITING
        return self._lane.phase

    @property
    def next_offset(self) -> int:
        """Where the next chunk must start."""
        if self._ahead:
            return _end(self._ahead[-1])
        return self._lane.next_offset

    @property
    def buffered_records(self) -> int:
        """Records offered and not yet cut into batches."""
        return self.next_offset - self._lane.cut_offset

    @property
    def buffered_bytes(self) -> int:
        """Their weight, in bytes of event JSON."""
        return self._lane.buffered_bytes + self._ahead_bytes

    @property
    def cut_offset(self) -> int:
        """Every record below it has been handed over at least once, or came back before it ran."""
        return self._lane.cut_offset

    @property
    def undelivered(self) -> int:
        """Records that were cut only to be discarded."""
        return self._lane.undelivered

    @property
    def watermark(self) -> int:
        """The offset below which every record has a disposition."""
        return self._lane.watermark

    @property
    def finished(self) -> bool:
        """Whether the watermark has reached `finish_at`, and no window is left that can be closed."""
        if self._finish is None or self._lane.watermark < self._finish:
            return False
        return not self._sealed and self._call is None

    @property
    def retrying(self) -> Retry | None:
        """The batch or call that failed and has not succeeded since; a call has no records."""
        if self._call is not None and self._call.retry is not None:
            return self._call.retry
        return self._lane.retrying

    @property
    def undecided(self) -> Retry | None:
        """The batch or call that failed, while it waits for a decision."""
        if self._call is None:
            return self._lane.undecided
        retry = self._call.retry
        return retry if retry is not None and retry.due_ns == UNDECIDED_NS else None

    @property
    def unfinished(self) -> bool:
        """Whether something that was handed over goes out again."""
        return self._call is not None or self._lane.unfinished

    @property
    def attempts(self) -> int:
        """Failed deliveries so far of what is in flight, or being retried; 0 if nothing is."""
        return self._lane.attempts if self._call is None else self._call.attempt - 1

    # ---- records in ----

    def offer(self, chunk: Chunk) -> None:
        """Add records, from `next_offset` on.  Sizes and arrivals are borrowed until they have been cut."""
        assert chunk.first_offset == self.next_offset, "chunks neither overlap nor leave a gap"
        assert chunk.arrivals is not None, "windows go by arrival times"
        self._ahead.append(chunk)
        self._ahead_bytes += _weight(chunk)
        self._trim()
        self._admit()

    def finish_at(self, end_offset: int, complete_ms: int = -1) -> None:
        """Read no further than `end_offset`; the last batch before it is closed, whatever its size.

        Everything that arrives by `complete_ms` lies below it.  FOREVER: the shard ends there, and its window with it.
        """
        if end_offset <= self.next_offset:
            self._gap_ahead = self._gap_met = False
        if end_offset < self.next_offset:
            self._known_ms = -1  # what is dropped now may belong to the open window
        self._finish, self._complete_ms = end_offset, complete_ms
        self._trim()
        if end_offset <= self._lane.next_offset:
            self._bound(end_offset)
        if self._window is not None and self._lane.next_offset <= self._opened_at:  # nothing of it is left
            self._window, self._sealed = None, False
        self._admit()

    def read_up_to(self, time_ms: int, now_ns: int) -> None:
        """Everything that had arrived by `time_ms` has been offered; `now_ns` is the same moment on the act clock."""
        self._known_ms, self._known_ns = time_ms, now_ns
        self._admit()

    def meet_gap(self) -> None:
        """There is no record at `next_offset`: the batch before it is closed, whatever its size."""
        self._gap_ahead = True
        self._admit()

    @property
    def at_gap(self) -> bool:
        """Whether everything before the gap that was met has a disposition: `skip_gap` may be called."""
        return not self._ahead and self._lane.at_gap

    def skip_gap(self, end_offset: int, now_ns: int) -> None:
        """Dispose, without a delivery, of the offsets from the watermark to `end_offset`.  The window stays open."""
        assert self.at_gap, "a gap is skipped only when everything before it has a disposition"
        self._gap_ahead = self._gap_met = False
        self._lane.skip_gap(end_offset, now_ns)
        self._admit()

    def _trim(self) -> None:
        """Forget what lies ahead of the finish."""
        while self._finish is not None and self._ahead and _end(self._ahead[-1]) > self._finish:
            chunk = self._ahead.pop()
            self._ahead_bytes -= _weight(chunk)
            rows = self._finish - chunk.first_offset
            if rows > 0:
                self._ahead.append(kept := _rows(chunk, 0, rows))
                self._ahead_bytes += _weight(kept)

    def _admit(self) -> None:
        """Give the lane what belongs to the open window, up to the first record that does not, and see what follows."""
        self._set_bound()
        while self._ahead and not self._sealed:
            chunk = self._ahead.popleft()
            self._ahead_bytes -= _weight(chunk)
            assert chunk.arrivals is not None
            if self._window is None:
                self._open(chunk.arrivals[0])
            assert self._window is not None
            rows = _leading(chunk, self._window.end_ms)
            if rows:
                self._lane.offer(_rows(chunk, 0, rows))
            if rows < len(chunk.arrivals):
                self._ahead.appendleft(left := _rows(chunk, rows, len(chunk.arrivals)))
                self._ahead_bytes += _weight(left)
                self._sealed = True
        if not self._ahead:
            self._see_time()
        self._set_bound()

    def _open(self, arrival_ms: int) -> None:
        """Open the window of a record; a late one opens the window behind the last that was closed."""
        closed_ms = self._closed.end_ms if self._closed is not None else 0
        start_ms = max(arrival_ms, closed_ms) // self._length_ms * self._length_ms
        self._window = Window(max(start_ms, closed_ms), start_ms + self._length_ms, FRESH_STATE)
        self._opened_at = self._lane.next_offset

    def _see_time(self) -> None:
        """Seal the open window if everything that can belong to it has been offered."""
        known_ms = self._known_ms
        if self._finish is not None and self._lane.next_offset >= self._finish:
            known_ms = max(known_ms, self._complete_ms)
        if self._window is not None and known_ms >= self._window.end_ms + CLOSE_DELAY_MS:
            self._sealed = True

    def _set_bound(self) -> None:
        """Tell the lane where the last batch before a gap, a window's end or the finish is closed."""
        if self._gap_ahead and not self._ahead and not self._gap_met:
            self._gap_met = True
            self._lane.meet_gap()
        if self._sealed and not self._gap_met:  # else the gap bounds the lane, and must stay known to it
            self._bound(self._lane.next_offset)
        else:
            self._bound(FOREVER if self._finish is None else self._finish)

    def _bound(self, end_offset: int) -> None:
        if end_offset != self._bound_offset:
            self._bound_offset = end_offset
            self._lane.finish_at(end_offset)

    # ---- handing over ----

    def take(
        self, now_ns: int, batches_max: int, records_max: int | None = None, *, time_ms: int | None = None
    ) -> list[Run]:
        """Hand over the batch, or the call, that may go now: one, and only while nothing is in flight.

        A call is a run of no records.  With a `records_max` of 0 only what came back or failed goes.
        """
        if batches_max <= 0 or self.in_flight:
            return []
        runs = self._take_call(now_ns, records_max)
        if not runs and self._call is None:
            runs = self._lane.take(now_ns, 1, records_max, time_ms=time_ms)
            if not runs:  # it may have discarded the last records of the window just now
                runs = self._take_call(now_ns, records_max)
        if runs:
            assert self._window is not None
            assert self._window.state is not None
            ends = self._call is not None and self._call.is_final
            early = self._call is not None and not ends
            self._envelope = Envelope(self._window.start_ms, self._window.end_ms, self._window.state, ends, early)
            self.in_flight = 1
        return runs

    def _take_call(self, now_ns: int, records_max: int | None) -> list[Run]:
        if self._call is None and records_max != 0 and self._call_is_due:
            self._call = _Call(is_final=not self._is_outgrown)
        if self._call is None or (self._call.retry is not None and now_ns < self._call.retry.due_ns):
            return []
        return [Run(self._lane.watermark, 0, 1, self._call.attempt)]

    @property
    def _call_is_due(self) -> bool:
        """Whether the next invocation has no records, given that none is in flight."""
        if self._window is None:
            return False
        return self._is_outgrown or (self._sealed and self._lane.watermark == self._lane.next_offset)

    @property
    def _is_outgrown(self) -> bool:
        state = self._window.state if self._window is not None else None
        return state is not None and len(state) > WINDOW_STATE_BYTES_MAX

    def put_back(self, batches: int) -> None:
        """What is in flight could not be submitted after all."""
        assert batches == self.in_flight == 1, "more put back than taken"
        self.in_flight = 0
        if self._call is None:
            self._lane.put_back(1)

    def wake_at(self, now_ns: int) -> int | None:
        """When `take` could return something although nothing new was offered, told or answered.

        When the window's end has passed by then, `take` needs to be told by `read_up_to` that nothing was missed.
        """
        if self.in_flight:
            return None
        if self._call is not None:
            return now_ns if self._call.retry is None else max(now_ns, self._call.retry.due_ns)
        if self._call_is_due:
            return now_ns
        wakes = [wake for wake in (self._lane.wake_at(now_ns), self._over_at(now_ns)) if wake is not None]
        return min(wakes, default=None)

    def _over_at(self, now_ns: int) -> int | None:
        """When the open window is over by the clock, if whoever reads the log follows it; None once that has passed."""
        if self._window is None or self._sealed or self._known_ms < 0 or self._finish is not None:
            return None
        over_ns = self._known_ns + (self._window.end_ms + CLOSE_DELAY_MS - self._known_ms) * 1_000_000
        return over_ns if over_ns > now_ns else None

    # ---- outcomes of what is in flight ----

    def succeeded(self, batches: int, now_ns: int, *, state: bytes | None = None) -> None:
        """It succeeded and returned `state`, which is that of the window from now on; a call's is let go.

        The next batch window begins now.
        """
        self._landed(batches)
        if self._call is not None:
            self._end_call(self._call, now_ns)
            return
        self._carry(state)
        self._lane.succeeded(1, now_ns)

    def partly(self, done_records: int, now_ns: int, fault: Fault, *, state: bytes | None = None) -> None:
        """Its first `done_records` succeeded; with none, `state` is not taken over."""
        if self._call is not None or done_records == 0:
            self.failed(now_ns, fault)
            return
        self._landed(1)
        self._carry(state)
        self._lane.partly(done_records, now_ns, fault)

    def failed(self, now_ns: int, fault: Fault, *, charged: bool = True) -> None:
        """It was not a certain success, or returned no state.  Not `charged`: that costs no attempt."""
        self._landed(1)
        if self._call is not None:
            self._call_failed(self._call, now_ns, fault, charged)
        else:
            self._lane.failed(now_ns, fault, charged=charged)

    def returned(self, batches: int) -> None:
        """It was not started."""
        self._landed(batches)
        if self._call is None:
            self._lane.returned(1)

    def recall(self) -> None:
        """What was staged has been revoked; nothing ever is behind it."""
        if self._call is None:
            self._lane.recall()

    def take_discards(self) -> list[Discarded]:
        """What has been given up since this was asked last, in order; a call has no records."""
        discards = self._lane.take_discards() + self._discards
        self._discards = []
        return discards

    def _landed(self, batches: int) -> None:
        assert batches == self.in_flight == 1, "more outcomes than batches in flight"
        self.in_flight = 0

    def _carry(self, state: bytes | None) -> None:
        assert self._window is not None
        assert state is not None, "every invocation of a window returns its state"
        self._window = self._window._replace(state=state)

    def _call_failed(self, call: _Call, now_ns: int, fault: Fault, charged: bool) -> None:
        delivered = Run(self._lane.watermark, 0, 1, call.attempt)
        failures = 1 if call.retry is None else call.retry.failures + 1
        self._act(call, self._policy.judge(delivered, failures, fault, now_ns, self._draw, charged=charged), now_ns)

    def decide(self, decision: Decision, now_ns: int) -> None:
        """Say what becomes of what is `undecided`; a call has no halves."""
        call = self._call
        if call is None:
            self._lane.decide(decision, now_ns)
            return
        waiting = self.undecided
        assert waiting is not None, "nothing waits for a decision"
        self._act(call, self._policy.decide(decision, waiting, now_ns, self._draw), now_ns)

    def _act(self, call: _Call, verdict: Verdict, now_ns: int) -> None:
        match verdict:
            case Retry():
                call.retry = verdict
            case Discard(condition, attempts, fault):
                self._discards.append(Discarded(self._lane.watermark, 0, condition, attempts, fault))
                self._end_call(call, now_ns)
            case Split():
                raise AssertionError("there is nothing to split in a call")

    def _end_call(self, call: _Call, now_ns: int) -> None:
        assert self._window is not None
        self._call = None
        if call.is_final:
            self._closed = self._window._replace(state=None)
            self._window, self._sealed = None, False
        else:
            self._carry(FRESH_STATE)
        self._lane.begin_window(now_ns)
        self._admit()


def _end(chunk: Chunk) -> int:
    return chunk.first_offset + len(chunk.prefix_bytes) - 1


def _weight(chunk: Chunk) -> int:
    return chunk.prefix_bytes[-1] - chunk.prefix_bytes[0]


def _rows(chunk: Chunk, first: int, end: int) -> Chunk:
    """Return rows `first` to `end` (exclusive) of the chunk."""
    if first == 0 and end == len(chunk.prefix_bytes) - 1:
        return chunk
    assert chunk.arrivals is not None
    return Chunk(chunk.first_offset + first, chunk.prefix_bytes[first : end + 1], chunk.arrivals[first:end])


def _leading(chunk: Chunk, end_ms: int) -> int:
    """Return how many of the chunk's first records arrived before `end_ms`."""
    arrivals = chunk.arrivals
    assert arrivals is not None
    for first in range(0, len(arrivals), _LOOK_ROWS):
        block = arrivals[first : first + _LOOK_ROWS]
        if max(block) >= end_ms:
            return first + next(row for row, arrival_ms in enumerate(block) if arrival_ms >= end_ms)
    return len(arrivals)
