"""One lane: which batches may go to its worker now, and what their outcomes mean.

A lane is what must stay in order.  Its records have exactly one way through it:

      offer                take                   succeeded
    ─────────▶  batcher  ───▲─────▶  in flight  ──────────────▶  watermark
                   │        │            │                           ▲
                   │        ├── again ◀──┤ returned, split, partly   │
                   │        └── retry ◀──┤ failed                    │
                   ▼                     ▼                           │
                 too old, too big      given up   ───────────────────┘ and `take_discards`

Theory of operation.  Batches are handed over in order and answered in order, so all bookkeeping is about
the oldest batch in flight: an answer needs no identity.  Batches that are alike travel as one `Run` and
are kept as one, in flight and on their way back; a run of fifty costs what a single batch costs.  The lane
keeps offsets and counts, never records: whoever maps the log finds the rows by offset, and must keep them
until `watermark` has passed them.

What `take` may return, by what the lane is doing:

    FLOWING     nothing is wrong.  First what came back (`again`), exactly as it was cut before, and what was
                made of a failed batch: its halves, or what is left of it; behind it what the batcher cuts.
                While something is in flight: closed batches only (batcher.py).
    DRAINING    the oldest batch has failed, something came back or was recalled, and there is still
                something in flight: nothing.  What is left is about to come back too; anything staged
                behind it now could run before it.
    WAITING     a batch has failed and nothing is in flight: nothing, until its backoff has passed; or, where
                the policy asks (`undecided`), until `decide` was told what becomes of it.
    RETRYING    the failed batch is in flight again, alone: nothing, until its outcome is known.

These rules hold, and are asserted where a violation would otherwise become durable:

  1. A batch is handed over only if every earlier record has a disposition or is in flight in front of it
     (on one worker, which goes on only after certain success).  So nothing is reordered or skipped.
  2. After a failure or a return nothing that is in flight can run any more: the worker skips what it has
     of this epoch, or the runtime has revoked it (and must say so: `recall`).
  3. The watermark moves only over records that succeeded or were discarded, one batch after the other, and over
     gaps: offsets that have no record any more (trimmed, lost, damaged and salvaged).  No batch spans a gap: the
     one before it is closed, and the gap is skipped when everything before it has a disposition.
  4. A retry delivers the same records as the same batch, with `attempt` one higher if the last delivery was
     charged.  A batch that came back without having run keeps its attempt.
  5. Progress begins anew: when the first records of a batch succeeded, or it was split, what is left goes at
     once, with attempt 1, and is never filled up with records that were behind it.
  6. With an age limit no record that is too old is handed over.  A batch ends before it; when everything before
     it has a disposition it is discarded, with its neighbours that are too old; what is left of its batch goes
     on as a batch, with the attempts it had.

The lane may be given to another worker exactly when `in_flight` is 0.  To drain it, stop calling `take`.
Amounts are in records, batches, bytes of event JSON and nanoseconds of one monotonic clock, which is read
by the caller.  Nothing here waits.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from streamfn.core.ages import Ages
from streamfn.core.backoff import Draw
from streamfn.core.batcher import Batcher, BatchRules, Chunk
from streamfn.core.verdict import (
    UNDECIDED_NS,
    Condition,
    Decision,
    Discard,
    Discarded,
    FailurePolicy,
    Retry,
    Split,
    Verdict,
)
from streamfn.core.watermark import Watermark
from streamfn.types import Fault, Run


class Phase(Enum):
    """What the lane is doing; see the top of the file."""

    FLOWING = auto()
    DRAINING = auto()
    WAITING = auto()
    RETRYING = auto()


class Lane:
    """The machine of one lane.

    Synchronous and not thread-safe.  Whatever breaks the order of hand-over and outcome raises
    AssertionError: it is a bug in the caller, and going on would lose or reorder records.
    """

    __slots__ = (
        "_again",
        "_ages",
        "_back",
        "_batcher",
        "_broken",
        "_discards",
        "_draining",
        "_draw",
        "_edge",
        "_finish",
        "_flying",
        "_gap",
        "_policy",
        "_retry",
        "_skew_ns",
        "_watermark",
        "in_flight",
        "undelivered",
    )

    def __init__(self, rules: BatchRules, policy: FailurePolicy, start_offset: int, now_ns: int, random: Draw) -> None:
        """Begin at `start_offset` with nothing in flight; the first batch window begins now.

        `random` draws uniformly from [0, 1), for the backoff.
        """
        self._batcher = Batcher(rules, start_offset, now_ns)
        self._policy = policy
        self._draw = random
        self._watermark = Watermark(start_offset)
        self._finish: int | None = None
        self._gap: int | None = None  # no record lies at this offset: `skip_gap` says where they go on
        self._flying: deque[Run] = deque()  # handed over and not answered, oldest first
        self._back: deque[Run] = deque()  # came back during this drain, oldest first
        self._again: deque[Run] = deque()  # came back before; to be handed over first
        self._retry: Retry | None = None  # from a failure until that batch has a disposition, or is split
        self._draining = False  # hand nothing over before `in_flight` is 0
        self._broken = False  # nothing that is in flight can run any more
        self._discards: list[Discarded] = []  # not yet taken by the shell

        # Only with an age limit.
        self._ages = Ages() if policy.maximum_record_age_ms is not None else None
        self._edge: int | None = None  # the first record that was too old, when `take` looked last
        self._skew_ns: int | None = None  # act clock less record clock, as it was then

        # Read by everyone, written only here.
        self.in_flight = 0  # batches handed over and not answered
        self.undelivered = 0  # records and gaps below `cut_offset` that were never handed over

    # ---- what the lane is up to ----

    @property
    def phase(self) -> Phase:
        """Which of the four rules at the top of the file holds now."""
        if self._draining:
            return Phase.DRAINING
        if self._retry is not None:
            return Phase.RETRYING if self.in_flight else Phase.WAITING
        return Phase.FLOWING

    @property
    def next_offset(self) -> int:
        """Where the next chunk must start."""
        return self._batcher.next_offset

    @property
    def buffered_records(self) -> int:
        """Records offered and not yet cut into batches."""
        return self._batcher.buffered_records

    @property
    def buffered_bytes(self) -> int:
        """Their weight, in bytes of event JSON."""
        return self._batcher.buffered_bytes

    @property
    def cut_offset(self) -> int:
        """Every record below it has been handed over at least once (or came back before it ran)."""
        return self._batcher.cut_offset

    @property
    def watermark(self) -> int:
        """The offset below which every record has a disposition: what a checkpoint may say."""
        return self._watermark.offset

    @property
    def finished(self) -> bool:
        """Whether the watermark has reached `finish_at`; False as long as that was not called."""
        return self._finish is not None and self._watermark.offset >= self._finish

    @property
    def retrying(self) -> Retry | None:
        """The batch that failed and is to be delivered again: what the lane is waiting for."""
        return self._retry

    @property
    def undecided(self) -> Retry | None:
        """The batch that failed, while it waits for a decision; what is in flight behind it comes back first."""
        retry = self._retry
        return retry if retry is not None and retry.due_ns == UNDECIDED_NS else None

    @property
    def attempts(self) -> int:
        """Failed deliveries so far of the batch that is the oldest in flight, or is being retried; 0 if none is."""
        if self._flying:
            return self._flying[0].attempt - 1
        return self._retry.attempt - 1 if self._retry is not None else 0

    @property
    def oldest(self) -> Run | None:
        """The oldest batch in flight, which the next outcome is about."""
        return self._flying[0]._replace(batches=1) if self._flying else None

    @property
    def unfinished(self) -> bool:
        """Whether something that was handed over before has to be handed over again."""
        return self._retry is not None or bool(self._again)

    def take_discards(self) -> list[Discarded]:
        """What was discarded since this was called last, in order; the watermark has moved over it already.

        Call it after `take`, `failed` and `partly`, before anything is made of the watermark.
        """
        discards = self._discards
        if discards:
            self._discards = []
        return discards

    # ---- records in ----

    def offer(self, chunk: Chunk) -> None:
        """Add records, from `next_offset` on.  What is borrowed of them: see `Chunk`."""
        if self._ages is None:
            self._batcher.offer(chunk)
            return
        assert chunk.arrivals is not None, "an age limit needs the arrival times"
        first_offset = self._batcher.next_offset
        self._batcher.offer(chunk)
        self._ages.add(first_offset, self._batcher.next_offset, chunk.arrivals)

    def begin_window(self, now_ns: int) -> None:
        """The next batch window begins now."""
        self._batcher.begin_window(now_ns)

    def finish_at(self, end_offset: int, complete_ms: int = -1) -> None:
        """Read no further than `end_offset`; the last batch before it is closed, whatever its size.

        May be at or below the watermark: then the lane is `finished` at once.  Chunks may reach behind it; what
        lies there is dropped.  `next_offset` may go back, never below what has been cut.  `complete_ms` is for
        lanes with windows (tumbling.py).
        """
        self._finish = end_offset
        if self._gap is not None and end_offset <= self._gap:
            self._gap = None
        self._batcher.finish_at(end_offset if self._gap is None else self._gap)
        if self._ages is not None:
            self._ages.drop(self._batcher.next_offset)

    def meet_gap(self) -> None:
        """There is no record at `next_offset`: the batch before it is closed, whatever its size."""
        self._gap = self.next_offset
        self._batcher.finish_at(self._gap)

    @property
    def at_gap(self) -> bool:
        """Whether everything before the gap that was met has a disposition: `skip_gap` may be called."""
        return self._gap is not None and self._watermark.offset == self._gap

    def skip_gap(self, end_offset: int, now_ns: int) -> None:
        """Dispose, without a delivery, of the offsets from the watermark to `end_offset`, where records go on."""
        assert self.at_gap, "a gap is skipped only when everything before it has a disposition"
        self._gap = None
        self._batcher.skip(end_offset, self._finish)
        self.undelivered += end_offset - self._watermark.offset
        self._watermark.dispose(self._watermark.offset, end_offset)
        self._batcher.begin_window(now_ns)

    # ---- handing over ----

    def take(
        self, now_ns: int, batches_max: int, records_max: int | None = None, *, time_ms: int | None = None
    ) -> list[Run]:
        """Hand over what may go now: at most `batches_max` batches, in order; they are in flight then.

        `records_max` bounds the records handed over for the first time (`cut_offset - undelivered` counts them);
        the last batch is cut short there and goes at once.  Retries and batches that came back are not counted
        again.  `time_ms` is the time that records' ages are counted to, in milliseconds since 1970: needed where
        there is an age limit.  Returns [] if nothing may go; `wake_at` says when to ask again.

        Records that are too old, or too big to be sent even alone, are discarded here.  What is returned and cannot be
        submitted is to be given to `put_back` at once.

        Cost: a few microseconds for each run, not for each batch.
        """
        if batches_max <= 0 or self._draining:
            return []
        edge = None if self._ages is None else self._look_at_ages(now_ns, time_ms, records_max)
        if self._retry is not None:
            runs = self._take_retry(now_ns, self._retry, edge)
        elif self._again:
            runs = self._take_again(now_ns, batches_max, records_max, edge)
        else:
            runs = self._batcher.take(
                now_ns, batches_max, records_max=records_max, only_full=self.in_flight > 0, edge=edge
            )
            if not runs and self._batcher.oversize is not None:
                runs = self._take_behind_oversize(now_ns, batches_max, records_max, edge)
        for run in runs:
            self._flying.append(run)
            self.in_flight += run.batches
        return runs

    def put_back(self, batches: int) -> None:
        """The `batches` *newest* in flight could not be submitted after all: there was no room for them.

        Only before anything else is taken.  They go first next time, as they were cut.
        """
        assert 0 < batches <= self.in_flight, "more put back than taken"
        while batches > 0:
            run = self._flying.pop()
            kept = max(0, run.batches - batches)
            if kept:
                self._flying.append(run._replace(batches=kept))
                skipped = run.records * kept
                run = run._replace(first_offset=run.first_offset + skipped, batches=run.batches - kept)
            batches -= run.batches
            self.in_flight -= run.batches
            if self._retry is None:  # a retry is still known there
                self._again.appendleft(run)

    def _take_retry(self, now_ns: int, retry: Retry, edge: int | None) -> list[Run]:
        if self.in_flight or now_ns < retry.due_ns:
            return []
        first_offset, records = retry.first_offset, retry.records
        if edge is not None and edge < first_offset + records:
            self._again.appendleft(Run(edge, first_offset + records - edge, 1, retry.attempt))
            records = edge - first_offset
            self._retry = retry._replace(records=records)
        return [Run(first_offset, records, 1, retry.attempt)]

    def _take_again(self, now_ns: int, batches_max: int, records_max: int | None, edge: int | None) -> list[Run]:
        runs: list[Run] = []
        while self._again and batches_max > 0:
            most = batches_max
            if edge is not None:
                first_offset, records, _, _ = self._again[0]
                if first_offset == edge:
                    return runs
                if edge < first_offset + records:
                    _make_border(self._again, edge)
                    records = edge - first_offset
                most = min(most, (edge - first_offset) // records)
            run = _split(self._again, most)
            batches_max -= run.batches
            runs.append(run)
        if batches_max > 0:
            runs += self._batcher.take(now_ns, batches_max, records_max=records_max, only_full=True, edge=edge)
        return runs

    def _take_behind_oversize(
        self, now_ns: int, batches_max: int, records_max: int | None, edge: int | None
    ) -> list[Run]:
        runs: list[Run] = []
        while not runs and self._batcher.oversize is not None and not self.in_flight and records_max != 0:
            self._discard_oversize()
            runs = self._batcher.take(now_ns, batches_max, records_max=records_max, only_full=False, edge=edge)
        return runs

    def wake_at(self, now_ns: int) -> int | None:
        """When `take` could return or discard something although nothing new was offered or answered.

        `now_ns` or later; None if only an outcome or a new chunk can change anything.
        """
        if self._draining:
            return None
        if self._retry is not None:
            if self.in_flight:
                return None
            return max(now_ns, self._no_later_than_too_old(self._retry.due_ns))
        if self._again or self._batcher.closed:
            return None if self._edge is not None and self.in_flight and self._front == self._edge else now_ns
        if self.in_flight:
            return None
        if self._batcher.oversize is not None:
            return now_ns
        deadline_ns = self._batcher.deadline_ns
        if deadline_ns is None:
            return None
        return max(now_ns, deadline_ns if self._ages is None else self._no_later_than_too_old(deadline_ns))

    # ---- records that will never be handed over, or never again

    @property
    def _front(self) -> int:
        """The first record that is not in flight; of interest when nothing is being retried."""
        return self._again[0].first_offset if self._again else self._batcher.cut_offset

    def _discard(self, batch: Run, condition: Condition, fault: Fault | None) -> None:
        """The batch has its disposition after `attempt` deliveries."""
        first_offset, records, _, attempts = batch
        self._watermark.dispose(first_offset, first_offset + records)
        self._discards.append(Discarded(first_offset, records, condition, attempts, fault))

    def _discard_oversize(self) -> None:
        """Everything before the record in front has a disposition, and its event is too big even alone."""
        record = self._batcher.pass_over()
        self.undelivered += 1
        self._discard(Run(record.offset, 1, 1, 0), Condition.RECORD_TOO_LARGE, None)

    def _look_at_ages(self, now_ns: int, time_ms: int | None, records_max: int | None) -> int | None:
        """Discard what is too old and in front; return the next record that is too old, which nothing may reach."""
        ages, limit_ms = self._ages, self._policy.maximum_record_age_ms
        assert ages is not None
        assert limit_ms is not None
        assert time_ms is not None, "an age limit needs the record clock"
        than_ms = time_ms - limit_ms
        ages.forget(self._watermark.offset)
        self._skew_ns = now_ns - time_ms * 1_000_000
        if not self.in_flight:
            while self._discard_old(ages, now_ns, than_ms, records_max):
                pass
        front = self._retry.first_offset if self._retry is not None else self._front
        self._edge = ages.next_older(front, than_ms)
        return self._edge

    def _discard_old(self, ages: Ages, now_ns: int, than_ms: int, records_max: int | None) -> bool:
        """Discard what is too old at the watermark, at most one batch of it; whether there may be more.

        Looks at the records of that batch only: everything that is buffered may be too old.
        """
        ages.forget(self._watermark.offset)  # what the one before this has discarded
        if (retry := self._retry) is not None:
            first, end = retry.first_offset, retry.first_offset + retry.records
            younger = ages.next_younger(first, end, than_ms)
            if younger == first:
                return False
            self._discard(Run(first, younger - first, 1, retry.attempt - 1), Condition.RECORD_AGE_EXCEEDED, retry.fault)
            self._retry = None
            if younger < end:
                self._retry = retry._replace(first_offset=younger, records=end - younger)
            return True
        if self._again:
            first, records, _, attempt = self._again[0]
            younger = ages.next_younger(first, first + records, than_ms)
            if younger == first:
                return False
            _make_border(self._again, younger)
            self._discard(_split(self._again, 1)._replace(attempt=attempt - 1), Condition.RECORD_AGE_EXCEEDED, None)
            return True
        first = self._batcher.cut_offset
        end = min(self._batcher.next_offset, first + self._batcher.batch_size)
        old = ages.next_younger(first, end, than_ms) - first
        if old == 0 or records_max == 0:
            return False
        runs = self._batcher.take(now_ns, 1, records_max=old, only_full=True)
        for run in runs:
            self.undelivered += run.records
            self._discard(run._replace(attempt=0), Condition.RECORD_AGE_EXCEEDED, None)
        if not runs:
            self._discard_oversize()
        return True

    def _no_later_than_too_old(self, act_ns: int) -> int:
        """`act_ns`, or when the record at the watermark is too old, if that is earlier."""
        if self._ages is None or self._skew_ns is None:
            return act_ns
        limit_ms = self._policy.maximum_record_age_ms
        assert limit_ms is not None
        too_old_ms = self._ages.arrival_ms(self._watermark.offset) + limit_ms + 1
        return min(act_ns, too_old_ms * 1_000_000 + self._skew_ns)

    # ---- outcomes: always of the oldest in flight ----

    def succeeded(self, batches: int, now_ns: int) -> None:
        """The `batches` oldest in flight succeeded.  The next batch window begins now."""
        assert not self._broken, "a batch succeeded behind one that failed or came back"
        while batches > 0:
            done = self._answered(batches)
            batches -= done.batches
            self._watermark.dispose(done.first_offset, done.first_offset + done.records * done.batches)
        self._retry = None  # if there was one: nothing else begins where the watermark was
        self._batcher.begin_window(now_ns)
        if not self.in_flight:
            self._drained()

    def failed(self, now_ns: int, fault: Fault, *, charged: bool = True) -> None:
        """The oldest in flight failed: it was started, and was not a certain success.

        `charged` is False where the function is not to blame: a throttle, an error of the service.  That costs no
        attempt.
        """
        self._judge(self._fail(), now_ns, fault, charged=charged)

    def partly(self, done_records: int, now_ns: int, fault: Fault) -> None:
        """Of the oldest in flight the first `done_records` succeeded, and the one behind them did not.

        0 is a failure of the whole batch.  Otherwise what is left is a batch of its own, with a budget of its own
        (recorded by AWS: the record that fails is delivered once in the first batch, then 1 + retries times).
        """
        batch = self._fail()
        assert 0 <= done_records < batch.records, "a part of a batch is less than the batch"
        if done_records == 0:
            self._judge(batch, now_ns, fault, charged=True)
            return
        first_left, left = batch.first_offset + done_records, batch.records - done_records
        self._watermark.dispose(batch.first_offset, first_left)
        self._retry = None
        if self._policy.asks:
            self._retry = Retry(first_left, left, 1, UNDECIDED_NS, fault, 0)
        else:
            self._back.append(Run(first_left, left, 1, 1))
        if not self.in_flight:
            self._drained()

    def _fail(self) -> Run:
        """Take the oldest out of flight: it ran, and what is in flight behind it cannot run any more."""
        assert not self._broken, "a batch ran behind one that failed or came back"
        batch = self._answered(1)
        assert batch.first_offset == self._watermark.offset, "a batch ran behind one that has no disposition"
        self._broken = self._draining = True
        return batch

    def _judge(self, batch: Run, now_ns: int, fault: Fault, *, charged: bool) -> None:
        failures = batch.attempt if self._retry is None else self._retry.failures + 1
        self._act(batch, self._policy.judge(batch, failures, fault, now_ns, self._draw, charged=charged), now_ns)

    def decide(self, decision: Decision, now_ns: int) -> None:
        """Say what becomes of the batch that is `undecided`, when nothing is in flight any more."""
        waiting = self.undecided
        assert waiting is not None, "nothing waits for a decision"
        assert not self.in_flight, "what was behind the batch has not come back yet"
        batch = Run(waiting.first_offset, waiting.records, 1, waiting.attempt)
        self._act(batch, self._policy.decide(decision, waiting, now_ns, self._draw), now_ns)

    def _act(self, batch: Run, verdict: Verdict, now_ns: int) -> None:
        self._retry = None
        match verdict:
            case Retry():
                self._retry = verdict
            case Split(records):
                self._back.append(Run(batch.first_offset, records, 1, 1))
                self._back.append(Run(batch.first_offset + records, batch.records - records, 1, 1))
            case Discard(condition, attempts, fault):
                self._discard(batch._replace(attempt=attempts), condition, fault)
                self._batcher.begin_window(now_ns)
        if not self.in_flight:
            self._drained()

    def returned(self, batches: int) -> None:
        """The `batches` oldest in flight were not started: they were skipped, revoked or unclaimed.

        They go back in front, as they were cut, and wait for the failed batch if there is one.
        """
        while batches > 0:
            run = self._answered(batches)
            batches -= run.batches
            if self._retry is None or run.first_offset != self._retry.first_offset:
                self._back.append(run)
        self._broken = self._draining = True
        if not self.in_flight:
            self._drained()

    def recall(self) -> None:
        """What was staged has been revoked: hand nothing over before all of it is answered.

        Call it with every revocation.  A worker answers revoked entries when it comes to them, and what
        is staged behind them meanwhile would run.
        """
        self._draining = self.in_flight > 0

    def _drained(self) -> None:
        # What came back in this drain is older than what came back before and has not gone out again.
        self._again.extendleft(reversed(self._back))
        self._back.clear()
        self._draining = self._broken = False

    def _answered(self, batches: int) -> Run:
        """Take up to `batches` of the oldest run out of flight."""
        assert 0 < batches <= self.in_flight, "more outcomes than batches in flight"
        run = _split(self._flying, batches)
        self.in_flight -= run.batches
        return run


def _split(runs: deque[Run], batches: int) -> Run:
    """Remove up to `batches` batches from the front run and return them."""
    first_offset, records, count, attempt = run = runs[0]
    if batches >= count:
        return runs.popleft()
    runs[0] = Run(first_offset + records * batches, records, count - batches, attempt)
    return run._replace(batches=batches)


def _make_border(runs: deque[Run], edge: int) -> None:
    """See to it that no batch has records on both sides of `edge`; the two parts of one that had keep its attempt."""
    for place, (first_offset, records, batches, attempt) in enumerate(runs):
        whole, inside = divmod(edge - first_offset, records)
        if whole < batches:
            if whole < 0 or (whole == 0 and inside == 0):
                return
            pieces = [Run(first_offset, records, whole, attempt)]
            if inside:
                middle = first_offset + whole * records
                pieces += [Run(middle, inside, 1, attempt), Run(edge, records - inside, 1, attempt)]
                whole += 1
            pieces.append(Run(first_offset + whole * records, records, batches - whole, attempt))
            del runs[place]
            for piece in reversed(pieces):
                if piece.batches:
                    runs.insert(place, piece)
            return
