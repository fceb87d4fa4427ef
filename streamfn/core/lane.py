"""One lane: which batches may go to its worker now, and what their outcomes mean.

A lane is what must stay in order.  Its records have exactly one way through it:

      offer                take                   succeeded
    ─────────▶  batcher  ───▲─────▶  in flight  ─────────────▶  watermark
                            │            │
                            ├── again ◀──┤ returned   (not run: costs no attempt)
                            └── retry ◀──┘ failed     (delivered again as the same batch, alone)

Theory of operation.  Batches are handed over in order and answered in order, so all bookkeeping is about
the oldest batch in flight: an answer needs no identity.  Batches that are alike travel as one `Run` and
are kept as one, in flight and on their way back; a run of fifty costs what a single batch costs.  The lane
keeps offsets and counts, never records: whoever maps the log finds the rows by offset, and must keep them
until `watermark` has passed them.

What `take` may return, by what the lane is doing:

    FLOWING     nothing is wrong.  First what came back (`again`), exactly as it was cut before; behind it
                what the batcher cuts.  While something is in flight: closed batches only (batcher.py).
    DRAINING    the oldest batch has failed, something came back or was recalled, and there is still
                something in flight: nothing.  What is left is about to come back too; anything staged
                behind it now could run before it.
    WAITING     a batch has failed and nothing is in flight: nothing, until its backoff has passed.
    RETRYING    the failed batch is in flight again, alone: nothing, until its outcome is known.

These rules hold, and are asserted where a violation would otherwise become durable:

  1. A batch is handed over only if every earlier record has a disposition or is in flight in front of it
     (on one worker, which goes on only after certain success).  So nothing is reordered or skipped.
  2. After a failure or a return nothing that is in flight can run any more: the worker skips what it has
     of this epoch, or the runtime has revoked it (and must say so: `recall`).
  3. The watermark moves only over records that succeeded, one batch after the other, and over gaps: offsets
     that have no record any more (trimmed, lost, damaged and salvaged).  No batch spans a gap: the one before
     it is closed, and the gap is skipped when everything before it has a disposition.
  4. A retry delivers the same records as the same batch, with `attempt` one higher.  A batch that came back
     without having run keeps its attempt.

The lane may be given to another worker exactly when `in_flight` is 0.  To drain it, stop calling `take`.
Amounts are in records, batches, bytes of event JSON and nanoseconds of one monotonic clock, which is read
by the caller.  Nothing here waits.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from streamfn.core.backoff import Backoff, Draw
from streamfn.core.batcher import Batcher, BatchRules, Chunk, Oversize
from streamfn.core.verdict import Retry, RetryPolicy
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
        "_back",
        "_batcher",
        "_draining",
        "_draw",
        "_finish",
        "_flying",
        "_gap",
        "_policy",
        "_retry",
        "_watermark",
        "in_flight",
    )

    def __init__(
        self, rules: BatchRules, backoff: Backoff, start_offset: int, now_ns: int, random: Draw
    ) -> None:
        """Begin at `start_offset` with nothing in flight; the first batch window begins now.

        `random` draws uniformly from [0, 1), for the backoff.
        """
        self._batcher = Batcher(rules, start_offset, now_ns)
        self._policy = RetryPolicy(backoff)
        self._draw = random
        self._watermark = Watermark(start_offset)
        self._finish: int | None = None
        self._gap: int | None = None  # no record lies at this offset: `skip_gap` says where they go on
        self._flying: deque[Run] = deque()  # handed over and not answered, oldest first
        self._back: deque[Run] = deque()  # came back during this drain, oldest first
        self._again: deque[Run] = deque()  # came back before; to be handed over first
        self._retry: Retry | None = None  # from the first failure until that batch has succeeded
        self._draining = False  # hand nothing over before `in_flight` is 0

        self.in_flight = 0  # batches handed over and not answered; written only here

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
        """The batch that failed and has not succeeded since: what the lane is waiting for."""
        return self._retry

    @property
    def attempts(self) -> int:
        """Failed deliveries so far of the batch that is being retried; 0 if none is."""
        return self._retry.attempt - 1 if self._retry is not None else 0

    @property
    def oversize(self) -> Oversize | None:
        """The record in front of the batcher whose event is too big even alone, if there is one.

        It cannot be invoked, and there is nowhere to send it yet: nothing behind it will ever be taken.
        What was cut before it goes on, so report it when `watermark` has reached its offset.
        """
        return self._batcher.oversize

    # ---- records in ----

    def offer(self, chunk: Chunk) -> None:
        """Add records, from `next_offset` on.  Their sizes are borrowed until they have been cut."""
        self._batcher.offer(chunk)

    def finish_at(self, end_offset: int) -> None:
        """Read no further than `end_offset`; the last batch before it is closed, whatever its size.

        May be at or below the watermark: then the lane is `finished` at once.  Chunks may reach behind it;
        what lies there is dropped.  `next_offset` may go back, never below what has been cut.
        """
        self._finish = end_offset
        if self._gap is not None and end_offset <= self._gap:
            self._gap = None
        self._batcher.finish_at(end_offset if self._gap is None else self._gap)

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
        self._watermark.dispose(self._watermark.offset, end_offset)
        self._batcher.begin_window(now_ns)

    # ---- handing over ----

    def take(self, now_ns: int, batches_max: int, records_max: int | None = None) -> list[Run]:
        """Hand over what may go now: at most `batches_max` batches, in order; they are in flight then.

        `records_max` bounds the records cut for the first time (count them by `cut_offset`); the last batch
        is cut short there and goes at once.  Retries and batches that came back are not counted again.
        Returns [] if nothing may go; `wake_at` says when to ask again.

        What then cannot be submitted is to be given to `put_back` at once.

        Cost: a few microseconds for each run, not for each batch.
        """
        if batches_max <= 0 or self._draining:
            return []
        if self._retry is not None:
            runs = self._take_retry(now_ns, self._retry)
        elif self._again:
            runs = self._take_again(now_ns, batches_max, records_max)
        else:
            runs = self._batcher.take(
                now_ns, batches_max, records_max=records_max, only_full=self.in_flight > 0
            )
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

    def _take_retry(self, now_ns: int, retry: Retry) -> list[Run]:
        if self.in_flight or now_ns < retry.due_ns:
            return []
        return [Run(retry.first_offset, retry.records, 1, retry.attempt)]

    def _take_again(self, now_ns: int, batches_max: int, records_max: int | None) -> list[Run]:
        runs: list[Run] = []
        while self._again and batches_max > 0:
            run = _split(self._again, batches_max)
            batches_max -= run.batches
            runs.append(run)
        if batches_max > 0:
            runs += self._batcher.take(now_ns, batches_max, records_max=records_max, only_full=True)
        return runs

    def wake_at(self, now_ns: int) -> int | None:
        """When `take` could return something although nothing new was offered or answered.

        `now_ns` or later; None if only an outcome or a new chunk can change anything.
        """
        if self._draining:
            return None
        if self._retry is not None:
            return None if self.in_flight else max(now_ns, self._retry.due_ns)
        if self._again or self._batcher.closed:
            return now_ns
        deadline_ns = None if self.in_flight else self._batcher.deadline_ns
        return None if deadline_ns is None else max(now_ns, deadline_ns)

    # ---- outcomes: always of the oldest in flight ----

    def succeeded(self, batches: int, now_ns: int) -> None:
        """The `batches` oldest in flight succeeded.  The next batch window begins now."""
        assert not self._back, "a batch succeeded behind one that came back"
        while batches > 0:
            done = self._answered(batches)
            batches -= done.batches
            self._watermark.dispose(done.first_offset, done.first_offset + done.records * done.batches)
        self._retry = None  # if there was one: nothing else begins where the watermark was
        self._batcher.begin_window(now_ns)
        if not self.in_flight:
            self._drained()

    def failed(self, now_ns: int, fault: Fault) -> None:
        """The oldest in flight failed: it was started, and was not a certain success."""
        assert not self._back, "a batch ran behind one that came back"
        batch = self._answered(1)
        assert batch.first_offset == self._watermark.offset, "a batch ran behind one that failed"
        self._retry = self._policy.judge(batch, fault, now_ns, self._draw)
        self._draining = True
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
        self._draining = True
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
        self._draining = False

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
