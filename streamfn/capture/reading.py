"""Reading one shard of a live stream: a state machine without I/O.

    next(now)               what to do now: ask for an iterator, read, wait, or nothing more: it has ended
    got_iterator(...)       the answer to the first
    answered(...)           the answer to the second; returns the records to store, in order, each one once
    troubled(...)           either has failed

One call is out at a time.  The machine sees to it that calls keep to the `Pace`, that an iterator is never
used beyond its life, that what the log has already is not taken again, and that what the source has
trimmed away meanwhile is known for a loss.

Where an iterator must stand is a question of what is known to be stored:

    nothing, first time         the beginning that was asked for
    nothing, again              the beginning; LATEST has become the moment at which it was LATEST
    a last record               AFTER_SEQUENCE_NUMBER of it
    a last record, so old that  AT_SEQUENCE_NUMBER of it: if it comes first, nothing is missing behind it; if
    it may be trimmed by now    something else does, it is gone, and what followed it may be gone too.  (Kinesis
                                answers a trimmed AFTER_SEQUENCE_NUMBER with the oldest record there is, silently)
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, TypeAlias

from streamfn.capture.pace import Pace
from streamfn.capture.source import Answer, Captured, Position, SourceShard, Trouble, TroubleKind, time_of
from streamfn.core.backoff import Draw
from streamfn.log.catalog.stream import sequence_order


class Beginning(NamedTuple):
    """Where a shard that nothing is stored of is begun: TRIM_HORIZON, LATEST or AT_TIMESTAMP.

    `at_ms` is the time asked for, and with LATEST the source's clock when the capture began.
    """

    type: str
    at_ms: int | None = None


class Stored(NamedTuple):
    """The last durable record of a shard: its sequence number and time."""

    sequence_number: str
    at_ms: int


class Until(NamedTuple):
    """Where to end: before the first record that is younger than `record_ms`, or, once the source's clock shows
    `clock_ms`, as soon as everything has been read.  Both in ms since 1970, UTC.
    """

    record_ms: int
    clock_ms: int


class AskIterator(NamedTuple):
    """Call GetShardIterator."""

    position: Position


class Read(NamedTuple):
    """Call GetRecords."""

    iterator: str


class Wait(NamedTuple):
    """Nothing may be done before then (monotonic)."""

    until_ns: int


class Why(Enum):
    """Why the reading of a shard has ended."""

    SHARD_END = "shard end"  # all of it is stored
    UNTIL = "until"  # as far as was asked for
    GONE = "gone"  # the source has no such shard any more


class End(NamedTuple):
    """Nothing is left to do.  `children` are those the source named with the shard's end."""

    why: Why
    children: tuple[SourceShard, ...] = ()


class Loss(NamedTuple):
    """Records that the source had trimmed away before they could be read.

    They lay behind `after` (None: behind the beginning) and before `before` (None: up to the end of what was
    there).  How many there were, and whether any, nobody can say: sequence numbers are not dense.
    """

    after: str | None
    before: str | None


Action: TypeAlias = AskIterator | Read | Wait | End


class _Doubt(Enum):
    """Whether something was trimmed away behind the last stored record."""

    NONE = 0
    PROBING = 1  # perhaps; the next record will tell
    TRIMMED = 2  # yes; the next record will tell up to where


class ShardReading:
    """One shard's reading.  `now_ns` is monotonic, `now_ms` since 1970, UTC.

    `stored` is the last record that was taken, `behind_ms` what the source last said, `trouble` why the last call
    failed, if it did, and `failures` how many have in a row.  `losses` grows; who reads it empties it.
    """

    def __init__(
        self,
        shard: SourceShard,
        pace: Pace,
        draw: Draw,
        *,
        beginning: Beginning,
        retention_ms: int,
        stored: Stored | None = None,
        seen_until_ms: int | None = None,
        until: Until | None = None,
    ) -> None:
        """Begin a shard, or go on behind `stored`.

        `seen_until_ms` is for a shard that was begun earlier and has nothing stored: the time at which that was.
        """
        self.shard = shard
        self.stored = stored
        self.end: End | None = None
        self.losses: list[Loss] = []
        self.behind_ms: int | None = None
        self.trouble: Trouble | None = None
        self.failures = 0
        self._pace = pace
        self._draw = draw
        self._beginning = beginning
        self._retention_ms = retention_ms
        self._until = until
        self._seen_until_ms = stored.at_ms if stored is not None else seen_until_ms
        self._begun = self._seen_until_ms is not None
        self._doubt = _Doubt.NONE
        self._iterator: str | None = None
        self._iterator_is_new = False
        self._iterator_ns = 0
        self._called_ns = 0
        self._due_ns = 0
        self._empty_answers = 0

    def upstream_closed(self, ending_sequence_number: str) -> None:
        """Take note that the source lists the shard as closed."""
        if not self.shard.closed:
            self.shard = self.shard._replace(ending_sequence_number=ending_sequence_number)
            self._empty_answers = 0

    def next(self, now_ns: int, now_ms: int) -> Action:
        """Return what to do now.  After `AskIterator` and `Read` the call is made at once, and its outcome told."""
        if self.end is not None:
            return self.end
        if now_ns < self._due_ns:
            return Wait(self._due_ns)
        self._called_ns = now_ns
        self._due_ns = now_ns + self._pace.interval_ns
        if self._iterator is not None and now_ns - self._iterator_ns < self._pace.iterator_life_ns:
            return Read(self._iterator)
        self._iterator = None
        return AskIterator(self._position(now_ms))

    def got_iterator(self, iterator: str) -> None:
        """GetShardIterator has answered."""
        self.trouble = None
        self._begun = True
        self._iterator, self._iterator_ns = iterator, self._called_ns
        self._iterator_is_new = True

    def answered(self, answer: Answer, now_ns: int) -> list[Captured]:
        """GetRecords has answered: return the records to store, in order.

        They count as stored from here on: who cannot store them all stops, and begins anew with a machine that
        is told what is stored.

        Raises:
            Trouble: FATAL, the sequence numbers do not rise.
        """
        self.trouble, self.failures = None, 0
        self.behind_ms = answer.behind_ms
        self._iterator, self._iterator_ns = answer.next_iterator, self._called_ns
        self._empty_answers = 0 if answer.records else self._empty_answers + 1
        caught_up = self._caught_up(answer)
        self._resolve_doubt(answer, caught_up)
        taken, cut = self._take(answer)
        if taken:
            last = taken[-1]
            self.stored = Stored(str(last.sequence_number), time_of(last) or answer.server_ms)
        self._saw(answer, caught_up)
        self.end = self._find_end(answer, caught_up, cut)
        pause_ns = self._pace.idle_interval_ns if caught_up and not self.shard.closed else self._pace.interval_ns
        earned_ns = now_ns + answer.size * 1_000_000_000 // self._pace.bytes_per_s
        self._due_ns = max(self._called_ns + pause_ns, earned_ns)
        return taken

    def troubled(self, trouble: Trouble, now_ns: int) -> None:
        """A call has failed in a way that trying again can mend: neither FATAL nor GONE."""
        assert trouble.kind not in (TroubleKind.FATAL, TroubleKind.GONE)
        self.failures += 1
        self.trouble = trouble
        backoff = self._pace.throttled if trouble.kind is TroubleKind.THROTTLED else self._pace.transient
        delay_ns = backoff.delay_ns(self.failures, self._draw)
        if trouble.kind is TroubleKind.EXPIRED or trouble.kind is TroubleKind.TRIMMED:
            self._iterator = None
            if trouble.kind is TroubleKind.TRIMMED:
                self._doubt = _Doubt.TRIMMED
            if self.failures == 1:  # asking for another one is the remedy; only if that fails too, there is no hurry
                delay_ns = 0
        self._due_ns = max(self._due_ns, now_ns + delay_ns)

    def gone(self) -> None:
        """The source has no such shard any more: whatever followed the last stored record is lost."""
        self.losses.append(Loss(self._last_number, None))
        self.end = End(Why.GONE)

    # ---- where an iterator is to stand

    @property
    def _last_number(self) -> str | None:
        return self.stored.sequence_number if self.stored is not None else None

    def _position(self, now_ms: int) -> Position:
        if self._doubt is _Doubt.TRIMMED:
            return Position("TRIM_HORIZON")
        if self._seen_until_ms is not None and self._seen_until_ms + self._retention_ms <= now_ms:
            self._doubt = _Doubt.PROBING
        if self.stored is not None:
            side = "AT" if self._doubt is _Doubt.PROBING else "AFTER"
            return Position(f"{side}_SEQUENCE_NUMBER", self.stored.sequence_number)
        if self._beginning.type == "LATEST" and self._begun:
            return Position("AT_TIMESTAMP", at_ms=self._beginning.at_ms)
        return Position(self._beginning.type, at_ms=self._beginning.at_ms)

    def _resolve_doubt(self, answer: Answer, caught_up: bool) -> None:
        """With the first record behind a doubtful position, or the end, it is known what is missing."""
        if self._doubt is _Doubt.NONE or not (answer.records or caught_up or answer.next_iterator is None):
            return
        first = answer.records[0].sequence_number if answer.records else None
        still_there = self._doubt is _Doubt.PROBING and self.stored is not None and first == self._last_number
        if not still_there:
            self.losses.append(Loss(self._last_number, first))
        self._doubt = _Doubt.NONE

    # ---- what an answer means

    def _caught_up(self, answer: Answer) -> bool:
        if answer.behind_ms is not None:
            return answer.behind_ms == 0
        return self._empty_answers >= self._pace.empty_answers and not self.shard.closed

    def _take(self, answer: Answer) -> tuple[list[Captured], bool]:
        """Return the records that are wanted, and whether one that is too young has cut them short."""
        taken: list[Captured] = []
        last = self._last_number
        for record in answer.records:
            number = str(record.sequence_number)
            at_ms = time_of(record)
            if last is not None and sequence_order(number) <= sequence_order(last):
                if self._iterator_is_new and not taken:
                    continue  # the record that the iterator stands at, or a source that is generous
                text = f"shard {self.shard.id}: sequence number {number} came after {last}"
                raise Trouble(TroubleKind.FATAL, "Disorder", text)
            if last is None and self._too_early(at_ms):
                continue
            if self._until is not None and at_ms is not None and at_ms > self._until.record_ms:
                return taken, True
            taken.append(record)
            last = number
        if answer.records:
            self._iterator_is_new = False
        return taken, False

    def _too_early(self, at_ms: int | None) -> bool:
        """Whether a record lies before a beginning by time: a source without AT_TIMESTAMP begins at its horizon."""
        begins_ms = self._beginning.at_ms
        by_time = self._beginning.type == "AT_TIMESTAMP" or self._beginning.type == "LATEST"
        return by_time and begins_ms is not None and at_ms is not None and at_ms < begins_ms

    def _saw(self, answer: Answer, caught_up: bool) -> None:
        """Move the time up to which everything there was has been seen."""
        if answer.behind_ms is not None or caught_up:
            seen_ms = answer.server_ms - (answer.behind_ms or 0)
        else:
            seen_ms = self.stored.at_ms if self.stored is not None else 0
        self._seen_until_ms = max(self._seen_until_ms or 0, seen_ms)

    def _find_end(self, answer: Answer, caught_up: bool, cut: bool) -> End | None:
        if cut:
            return End(Why.UNTIL)
        if answer.next_iterator is None or self._drained(answer):
            return End(Why.SHARD_END, tuple(answer.children))
        until = self._until
        if until is not None and caught_up and answer.server_ms >= until.clock_ms and not self.shard.closed:
            return End(Why.UNTIL)
        return None

    def _drained(self, answer: Answer) -> bool:
        """Whether a closed shard has nothing more, although the source does not say so by a null iterator."""
        ending = self.shard.ending_sequence_number
        if ending is None:
            return False
        if self.stored is not None and sequence_order(self.stored.sequence_number) >= sequence_order(ending):
            return True
        return answer.behind_ms == 0 and self._empty_answers >= self._pace.empty_answers
