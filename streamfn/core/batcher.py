"""Decide where the records of one lane are cut into batches.

`offer` adds records; `take` answers "which batches may go now?".  A batch is *closed* when it cannot
grow any more:

    COUNT     it holds `batch_size` records
    PAYLOAD   the next record would push its event past `event_bytes_max`
    END       it ends at `finish_at`, behind which nothing will be read; or where a gap begins
    LIMIT     it ends where the caller's `records_max` does

A batch that goes is also cut before the caller's `edge`, a record that may not go with it; that does not
make it go earlier.

A closed batch may go at any time, also behind one that is still running.  An *open* batch goes when its
WINDOW has passed, and only if nothing else is on its way: while something runs it can still grow, and
there is nothing to gain from letting it go early.

The window begins when the previous invocation completes, not when a record arrives and not when a batch
is cut: that is Lambda's rule for streams.  So a lane that was busy for longer than its window cuts again
at once, and the first record of an idle shard goes out at once.

Theory of operation.  Records are numbers here: a chunk is an offset and the running sum of its records'
sizes as JSON, so the size of any range inside a chunk is one subtraction and the largest range that fits
is one bisection.  Chunks lie in a queue and are forgotten as soon as their last row is cut.  Whether the
front batch is closed follows from two running totals, without looking at the queue; the queue is walked
only to cut, and every chunk that is walked past is gone.  Therefore `offer` is O(1), and `take` is
amortised O(1) per chunk however many records a chunk has.  Full batches of one chunk are cut together: if
the bytes of k batches fit one event, each of them does.

Nothing here reads a clock, waits, or touches a record.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streamfn.types import Run


@dataclass(frozen=True, slots=True)
class BatchRules:
    """When a batch is closed.

    `frame_bytes` is the size of an event's JSON beyond its records' running sums; `event_bytes_max` is
    the most that frame and records may weigh together.  `window_ns` is 0 for "as soon as there is
    anything".
    """

    batch_size: int
    window_ns: int
    event_bytes_max: int
    frame_bytes: int

    def __post_init__(self) -> None:
        assert self.batch_size >= 1
        assert self.window_ns >= 0
        assert 0 <= self.frame_bytes < self.event_bytes_max


class Chunk(NamedTuple):
    """Consecutive records of one lane, as sizes only.

    `prefix_bytes` has shape (count + 1,) and never decreases: record i weighs
    ``prefix_bytes[i + 1] - prefix_bytes[i]`` bytes of JSON.  It need not start at 0.  It is borrowed
    until its last row is cut.  `arrivals` has the records' arrival times, in milliseconds since 1970; it is needed
    where there is an age limit or a tumbling window, and borrowed until its last record has a disposition.
    """

    first_offset: int
    prefix_bytes: Sequence[int]
    arrivals: Sequence[int] | None = None


class Oversize(NamedTuple):
    """A record whose event is too big to be sent even alone."""

    offset: int
    event_bytes: int


class Batcher:
    """The records between the reader and the lane.  One lane's; see the top of the file."""

    __slots__ = (
        "_chunks",
        "_finish",
        "_frame_bytes",
        "_room",
        "_row",
        "_window_began_ns",
        "_window_ns",
        "batch_size",
        "buffered_bytes",
        "cut_offset",
        "next_offset",
        "oversize",
    )

    def __init__(self, rules: BatchRules, start_offset: int, now_ns: int) -> None:
        """Begin at `start_offset`; the first window begins now."""
        self.batch_size = rules.batch_size  # as the rules have it
        self._window_ns = rules.window_ns
        self._frame_bytes = rules.frame_bytes
        self._room = rules.event_bytes_max - rules.frame_bytes
        self._window_began_ns = now_ns
        self._finish: int | None = None
        self._chunks: deque[Sequence[int]] = deque()
        self._row = 0  # the first row of the front chunk that is not cut yet

        # Read by everyone, written only here.
        self.cut_offset = start_offset  # everything below it has been taken
        self.next_offset = start_offset  # where the next chunk must start
        self.buffered_bytes = 0  # of JSON, offered and not taken
        self.oversize: Oversize | None = None  # the record in front cannot be sent; it is to be passed over

    @property
    def buffered_records(self) -> int:
        """Records offered and not taken."""
        return self.next_offset - self.cut_offset

    @property
    def closed(self) -> bool:
        """Whether the batch in front cannot grow any more (COUNT, PAYLOAD or END)."""
        if self.oversize is not None:
            return False
        buffered = self.next_offset - self.cut_offset
        return (
            buffered >= self.batch_size
            or self.buffered_bytes > self._room
            or (buffered > 0 and self._finish is not None and self.next_offset >= self._finish)
        )

    @property
    def deadline_ns(self) -> int | None:
        """When `take` is sure to return a batch if nothing is running; None if that needs new records."""
        if self.closed:
            return self._window_began_ns
        if self.oversize is not None or self.next_offset == self.cut_offset:
            return None
        return self._window_began_ns + self._window_ns

    def begin_window(self, now_ns: int) -> None:
        """An invocation has completed."""
        self._window_began_ns = now_ns

    def offer(self, chunk: Chunk) -> None:
        """Add records, which must follow those offered before.  Those behind `finish_at` are dropped."""
        assert chunk.first_offset == self.next_offset, "chunks neither overlap nor leave a gap"
        prefix = chunk.prefix_bytes
        rows = len(prefix) - 1
        if self._finish is not None and self.next_offset + rows > self._finish:
            rows = max(0, self._finish - self.next_offset)
            prefix = prefix[: rows + 1]
        if rows > 0:
            self._chunks.append(prefix)
            self.next_offset += rows
            self.buffered_bytes += prefix[rows] - prefix[0]

    def finish_at(self, end_offset: int) -> None:
        """Cut nothing at or behind `end_offset`; once everything below is here, the rest is closed.

        Records behind it that were offered before are dropped: `next_offset` may go back, never below
        `cut_offset`.
        """
        self._finish = end_offset
        self.oversize = None  # it may lie behind the end; `take` finds it again if not
        excess = self.next_offset - max(end_offset, self.cut_offset)
        while excess > 0:
            prefix = self._chunks.pop()
            first = 0 if self._chunks else self._row
            last = len(prefix) - 1
            keep = max(first, last - excess)
            self.buffered_bytes -= prefix[last] - prefix[keep]
            self.next_offset -= last - keep
            excess -= last - keep
            if keep > first:
                self._chunks.append(prefix[: keep + 1])
            elif not self._chunks:
                self._row = 0

    def skip(self, end_offset: int, finish: int | None) -> None:
        """Nothing lies between `next_offset`, up to where everything has been cut, and `end_offset`: go on there.

        `finish` is where cutting ends from now on, None for nowhere.
        """
        assert self.next_offset == self.cut_offset, "a gap is skipped when everything before it has been cut"
        assert end_offset > self.next_offset
        self.cut_offset = self.next_offset = end_offset
        self._finish = finish

    def pass_over(self) -> Oversize:
        """Cut the record in front that is too big alone: it goes nowhere, and what is behind it goes on."""
        record = self.oversize
        assert record is not None
        self.oversize = None
        self._drop(self._chunks[0], self._row, 1)
        return record

    def take(
        self,
        now_ns: int,
        batches_max: int,
        *,
        records_max: int | None = None,
        only_full: bool,
        edge: int | None = None,
    ) -> list[Run]:
        """Cut the batches that may go now, at most `batches_max` of at most `records_max` records in all.

        With `only_full` closed batches alone, otherwise one that is due by its window may come first.  A
        batch that the limit cuts counts as closed.  Nothing at or behind the offset `edge` is cut.  Equal
        neighbours are folded into one `Run`; every run has attempt 1.  Returns [] when nothing is due, and
        until `pass_over` once `oversize` is set.
        """
        runs: list[Run] = []
        left = self.next_offset - self.cut_offset
        ends_here = self._finish is not None and self.next_offset >= self._finish
        if records_max is not None and records_max <= left:
            left = records_max
            ends_here = True
        while left > 0 and batches_max > 0 and self.oversize is None:
            if not (ends_here or left >= self.batch_size or self.buffered_bytes > self._room):
                is_due = now_ns >= self._window_began_ns + self._window_ns
                if only_full or runs or not is_due:
                    break
            first_offset = self.cut_offset
            if edge is None:
                records, batches = self._cut(left, batches_max)
            elif edge > first_offset:
                records, batches = self._cut(min(left, edge - first_offset), batches_max)
            else:
                break
            left -= records * batches
            batches_max -= batches
            if runs and runs[-1].records == records:
                last = runs[-1]
                runs[-1] = Run(last.first_offset, records, last.batches + batches, 1)
            elif records:
                runs.append(Run(first_offset, records, batches, 1))
        return runs

    def _cut(self, left: int, batches_max: int) -> tuple[int, int]:
        """Take the front batch and equal ones behind it: (records in each, batches)."""
        prefix, row = self._chunks[0], self._row
        whole = min(left, len(prefix) - 1 - row) // self.batch_size
        if whole:
            batches = self._fitting(prefix, row, min(whole, batches_max))
            if batches:
                self._drop(prefix, row, batches * self.batch_size)
                return self.batch_size, batches
        return self._cut_one(min(left, self.batch_size)), 1

    def _fitting(self, prefix: Sequence[int], row: int, batches: int) -> int:
        """How many full batches from `row` on, at most `batches`, fit an event each.

        Looks at many at once: those whose bytes fit one event together certainly fit one each.
        """
        size, room = self.batch_size, self._room
        fitting, step = 0, batches
        while fitting < batches:
            step = min(step, batches - fitting)
            if prefix[row + step * size] - prefix[row] <= room:
                fitting += step
                row += step * size
            elif step == 1:
                break
            else:
                step //= 2
        return fitting

    def _cut_one(self, records_max: int) -> int:
        """Take one batch of at most `records_max` buffered records, across chunks: how many it has.

        0 if not even the first record fits; then `oversize` says so.
        """
        need, room = records_max, self._room
        while need > 0:
            prefix, row = self._chunks[0], self._row
            rows = min(need, len(prefix) - 1 - row)
            base = prefix[row]
            if prefix[row + rows] - base > room:
                rows = bisect_right(prefix, base + room, row, row + rows + 1) - 1 - row
                if rows == 0 and need == records_max:
                    self.oversize = Oversize(self.cut_offset, self._frame_bytes + prefix[row + 1] - base)
                self._drop(prefix, row, rows)
                return records_max - need + rows
            room -= prefix[row + rows] - base
            need -= rows
            self._drop(prefix, row, rows)
        return records_max

    def _drop(self, prefix: Sequence[int], row: int, rows: int) -> None:
        """Forget `rows` rows of the front chunk, and the chunk with its last one."""
        end = row + rows
        self.buffered_bytes -= prefix[end] - prefix[row]
        self.cut_offset += rows
        if end == len(prefix) - 1:
            self._chunks.popleft()
            self._row = 0
        else:
            self._row = end
