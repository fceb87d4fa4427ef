"""One shard whose records are not simply all of one lane: some are filtered away, or there are several lanes.

           frontier
    log ──────┬────▶ part of lane 0 ──▶ Lane: positions 0 1 2 …  ──┐
              ├────▶ part of lane 1 ──▶ Lane: positions 0 1 2 …  ──┼──▶ watermark, in shard offsets ──▶ checkpoint
              └────▶ filtered away                                ─┘

Theory of operation.  A lane numbers its records by *positions*, one after the other, so that it needs to know nothing
of what lies between them.  Here is what maps positions to offsets, for every record that has no disposition yet.
The *frontier* (`next_offset`) is where reading stands: every offset below it was looked at, and offered to a lane or
filtered away.  The shard's watermark is the offset of the first record that some lane has not disposed of, and the
frontier where no lane has any: so a range that was filtered away whole moves the checkpoint, and a lane that
waits for a retry holds it, however far the others are.

These rules hold:

  1. Positions of a lane are in the order of offsets; a record's lane never changes, so what must stay in order does.
  2. The watermark passes a discard's records all at once.  Those of one discard need not lie together; if a checkpoint
     fell between them, the first ones would be neither delivered again after a crash nor be in a durable row.  So
     a discard is held until every other record up to its last one has a disposition, and so is the watermark before it.
  3. No batch spans a gap, in any lane, and the gap is skipped when everything before it has a disposition.
  4. Reading goes on while some lane has less than it could use at once, but only so far past the watermark: what a
     crash delivers again, and what has to be remembered meanwhile, is bounded.  A lane that lags stops the others
     there, and not before.

Where a shard has one lane and no filter, positions are offsets and a `Lane` alone does all this.
Not thread-safe; nothing here waits.  Amounts are records and bytes of event JSON.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from streamfn.core.batcher import Chunk
from streamfn.types import Part

Held = TypeVar("Held")

_FAR = 1 << 62  # an end that no position reaches


class Machine(Protocol):
    """What is asked of a lane's machine here; see `core.lane.Lane`."""

    @property
    def next_offset(self) -> int: ...  # noqa: D102

    @property
    def cut_offset(self) -> int: ...  # noqa: D102

    @property
    def watermark(self) -> int: ...  # noqa: D102

    @property
    def finished(self) -> bool: ...  # noqa: D102

    @property
    def at_gap(self) -> bool: ...  # noqa: D102

    @property
    def buffered_bytes(self) -> int: ...  # noqa: D102

    def offer(self, chunk: Chunk) -> None: ...  # noqa: D102

    def finish_at(self, end_offset: int, complete_ms: int = -1) -> None: ...  # noqa: D102

    def meet_gap(self) -> None: ...  # noqa: D102

    def skip_gap(self, end_offset: int, now_ns: int) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Reach:
    """How far reading may go ahead.

    `lane_bytes` is what a lane should have waiting: with less it is short.  `records` and `bytes` bound what may lie
    between the watermark and the frontier, records that were filtered away among the first, not among the second.
    """

    lane_bytes: int
    records: int
    bytes: int


class _Piece(NamedTuple):
    """Records of one lane at the positions `first` .. `end` (exclusive), as they were offered."""

    first: int
    end: int
    base: int  # the offset of row 0, or of the first one
    rows: Sequence[int] | None
    bytes: int

    def offset(self, position: int) -> int:
        place = position - self.first
        return self.base + (place if self.rows is None else self.rows[place])


class _Hold(NamedTuple, Generic[Held]):
    first: int
    last: int
    held: Held


class ShardWork(Generic[Held]):
    """The lanes of one shard and what they mean in its offsets; see the top of the file.

    `Held` is whatever stands for a discard outside: it comes back from `release` when its checkpoint may be written.
    """

    __slots__ = (
        "_complete_ms",
        "_done",
        "_ending",
        "_finish",
        "_fronts",
        "_gap",
        "_held_bytes",
        "_holds",
        "_passed",
        "_pieces",
        "_reach",
        "_seen",
        "lanes",
        "next_offset",
        "watermark",
    )

    def __init__(self, lanes: Sequence[Machine], start_offset: int, reach: Reach) -> None:
        """Begin at `start_offset`; the lanes' own positions begin wherever they do."""
        assert lanes
        self.lanes = lanes
        self._reach = reach
        self._pieces: list[deque[_Piece]] = [deque() for _ in lanes]  # what has no disposition, by lane
        self._fronts = [_FAR] * len(lanes)  # the first offset that each lane has not done
        self._done = [lane.watermark for lane in lanes]  # as they were when that was found out
        self._seen = [start_offset] * len(lanes)  # behind the last record that each lane was offered
        self._passed = start_offset  # behind the last record of a piece that a lane has done with
        self._holds: list[list[_Hold[Held]]] = [[] for _ in lanes]  # discards that the watermark has not passed
        self._held_bytes = 0
        self._finish: int | None = None
        self._complete_ms = -1
        self._ending = False  # the lanes know their ends
        self._gap = False

        # Read by everyone, written only here.
        self.next_offset = start_offset  # the frontier: everything below it was looked at
        self.watermark = start_offset  # everything below it has a disposition, and may be checkpointed

    # ---- records in

    def offer(self, end_offset: int, parts: Sequence[Part]) -> None:
        """Everything from `next_offset` to `end_offset` was looked at, and `parts` is what is to be delivered of it.

        The parts of one lane come in the order of offsets.  What lies at or behind the end that `finish_at` set
        is dropped, and so are records that were offered before.
        """
        assert end_offset >= self.next_offset, "looked at twice"
        assert not self._gap, "read past a gap"
        if self._ending:
            return
        if self._finish is not None and end_offset > self._finish:
            end_offset = self._finish
        for part in parts:
            self._offer(part, end_offset)
        self.next_offset = end_offset
        if self._finish is not None and end_offset >= self._finish:
            self._finish_lanes()
        self.moved()

    def _offer(self, part: Part, end_offset: int) -> None:
        index, base, rows, prefix, arrivals = part
        count = len(prefix) - 1
        seen = self._seen[index]
        if rows is None:
            first, end = max(0, seen - base), min(count, end_offset - base)
        else:
            first = bisect_left(rows, seen - base) if count and base + rows[0] < seen else 0
            end = bisect_left(rows, end_offset - base) if count and base + rows[count - 1] >= end_offset else count
        if first >= end:
            return
        if (first, end) != (0, count):
            prefix = prefix[first : end + 1]
            arrivals = None if arrivals is None else arrivals[first:end]
            rows = None if rows is None else rows[first:end]
            base += first if rows is None else 0
            count = end - first
        lane = self.lanes[index]
        position = lane.next_offset
        lane.offer(Chunk(position, prefix, arrivals))
        piece = _Piece(position, position + count, base, rows, prefix[count] - prefix[0])
        if not self._pieces[index]:
            self._fronts[index] = piece.offset(position)
        self._pieces[index].append(piece)
        self._held_bytes += piece.bytes
        self._seen[index] = piece.offset(piece.end - 1) + 1

    @property
    def hungry(self) -> bool:
        """Whether some lane is short of records, and there may be more of them within reach."""
        reach = self._reach
        if self._gap or (self._finish is not None and self.next_offset >= self._finish):
            return False
        if self.next_offset - self.watermark >= reach.records or self._held_bytes >= reach.bytes:
            return False
        return any(lane.buffered_bytes < reach.lane_bytes for lane in self.lanes)

    # ---- gaps and the end

    def meet_gap(self) -> None:
        """There is no record at `next_offset`: in every lane the batch before it is closed, whatever its size."""
        self._gap = True
        for lane in self.lanes:
            lane.meet_gap()

    @property
    def at_gap(self) -> bool:
        """Whether everything before the gap that was met has a disposition: `skip_gap` may be called."""
        return self._gap and all(lane.at_gap for lane in self.lanes)

    def skip_gap(self, end_offset: int, now_ns: int) -> None:
        """Dispose, without a delivery, of the offsets from the frontier to `end_offset`, where records go on."""
        assert self.at_gap, "a gap is skipped only when everything before it has a disposition"
        assert end_offset > self.next_offset
        self._gap = False
        for lane in self.lanes:
            lane.skip_gap(lane.next_offset + 1, now_ns)  # one position stands for all of the gap
        self.next_offset = end_offset
        if self._finish is not None and end_offset >= self._finish:
            self._finish_lanes()
        self.moved()

    def finish_at(self, end_offset: int, complete_ms: int = -1) -> None:
        """Read no further than `end_offset`; the last batches before it are closed, whatever their size.

        May be at or below the watermark: then the shard is `finished` at once.  Of what was offered already, that which
        lies behind it and was not handed over is dropped, and `next_offset` goes back to the first such record.
        `complete_ms` is for the lanes (core/tumbling.py).
        """
        self._finish, self._complete_ms = end_offset, complete_ms
        if self.next_offset < end_offset:
            if self._ending:  # it was nearer before
                self._ending = False
                for lane in self.lanes:
                    lane.finish_at(_FAR)
            return
        self._ending = True
        self._gap = False
        dropped = [offset for index in range(len(self.lanes)) if (offset := self._drop(index, end_offset)) is not None]
        self.next_offset = min(dropped, default=self.next_offset)
        self.moved()

    def _drop(self, index: int, end_offset: int) -> int | None:
        """End the lane before the first record at or behind `end_offset`; the offset of the first that is dropped."""
        lane, pieces = self.lanes[index], self._pieces[index]
        end = lane.next_offset
        for piece in pieces:
            if piece.offset(piece.end - 1) >= end_offset:
                if piece.rows is None:
                    end = piece.first + max(0, end_offset - piece.base)
                else:
                    end = piece.first + bisect_left(piece.rows, end_offset - piece.base)
                break
        lane.finish_at(end, self._complete_ms)
        end, first = max(end, lane.cut_offset), None
        while pieces and pieces[-1].end > end:
            piece = pieces.pop()
            if piece.first < end:
                first = piece.offset(end)
                pieces.append(piece._replace(end=end))  # its bytes count as held until the rest of it is done
            else:
                first = piece.offset(piece.first)
                self._held_bytes -= piece.bytes
        if first is not None:
            self._seen[index] = first
            self._fronts[index] = self._front(index, lane.watermark)
        return first

    @property
    def reached(self) -> int:
        """Behind the last record that any lane has cut into a batch.

        With `finish_at(reached)` the lanes end level: none of them does anything there that the watermark does not
        pass, and so nothing is delivered twice when the shard is gone on with from a checkpoint, in whatever lanes.
        """
        reached = self._passed
        for lane, pieces in zip(self.lanes, self._pieces, strict=True):
            cut = lane.cut_offset
            for piece in reversed(pieces):
                if piece.first < cut:
                    reached = max(reached, piece.offset(min(cut, piece.end) - 1) + 1)
                    break
        return reached

    def _finish_lanes(self) -> None:
        self._ending = True
        for lane in self.lanes:
            lane.finish_at(lane.next_offset, self._complete_ms)

    @property
    def finished(self) -> bool:
        """Whether the watermark has reached `finish_at`; False as long as that was not called."""
        if self._finish is None or self.watermark < self._finish:
            return False
        return all(lane.finished for lane in self.lanes)

    # ---- dispositions

    def moved(self) -> None:
        """Lanes' watermarks may have moved: so may the shard's.  Call it after answers, and after `hold`."""
        watermark, fronts = self.next_offset, self._fronts
        for index, lane in enumerate(self.lanes):
            done = lane.watermark
            if done != self._done[index]:
                self._done[index] = done
                fronts[index] = self._front(index, done)
            if fronts[index] < watermark:
                watermark = fronts[index]
        if any(self._holds):
            watermark = self._before_holds(watermark)
        assert watermark >= self.watermark, "a discard was told of when its checkpoint may have been written"
        self.watermark = watermark

    def _front(self, index: int, done: int) -> int:
        """Let go of what a lane has done; the offset of the first record that it has not, far away if there is none."""
        pieces = self._pieces[index]
        while pieces and pieces[0].end <= done:
            piece = pieces.popleft()
            self._held_bytes -= piece.bytes
            self._passed = max(self._passed, piece.offset(piece.end - 1) + 1)
        return pieces[0].offset(max(done, pieces[0].first)) if pieces else _FAR

    def _before_holds(self, watermark: int) -> int:
        """The watermark, or where it has to stop for the discards that it would otherwise fall into."""
        lowered = True
        while lowered:  # each may take it into another one
            lowered = False
            for holds in self._holds:
                # Those of one lane do not overlap: only the first that is not passed can have it inside.
                place = bisect_left(holds, watermark, key=_last)
                if place < len(holds) and holds[place].first < watermark:
                    watermark = holds[place].first
                    lowered = True
        return watermark

    def offsets(self, lane: int, first_position: int, records: int) -> Sequence[int]:
        """The shard offsets of consecutive records of a lane, ascending; a range where they follow one another.

        Only of records that had no disposition when `moved` was called last.
        """
        found: list[int] = []
        for piece in self._pieces[lane]:
            if piece.end > first_position:
                begin = max(piece.first, first_position)
                end = min(piece.end, first_position + records)
                found.extend(piece.offset(position) for position in range(begin, end))
                if piece.end >= first_position + records:
                    break
        if found and found[-1] - found[0] == len(found) - 1:
            return range(found[0], found[-1] + 1)
        return found

    def offset_of(self, lane: int, position: int) -> int:
        """The shard offset of one record of a lane; see `offsets`."""
        return self.offsets(lane, position, 1)[0]

    def hold(self, lane: int, first_offset: int, last_offset: int, held: Held) -> None:
        """The lane has discarded records from `first_offset` to `last_offset`, others may lie between.

        Call it before `moved`, in the order of a lane's discards.  `held` is what `release` returns when the watermark
        may pass them, all at once.  There may be very many: with batches of one record each that is too old is one.
        """
        holds = self._holds[lane]
        assert not holds or holds[-1].last < first_offset, "a lane's discards are told in order"
        holds.append(_Hold(first_offset, last_offset, held))

    def release(self) -> list[Held]:
        """The discards that the watermark has passed since this was called last: rows of the next checkpoint.

        In the order of their last records.
        """
        passed: list[_Hold[Held]] = []
        for holds in self._holds:
            count = bisect_left(holds, self.watermark, key=_last)
            passed += holds[:count]
            del holds[:count]
        passed.sort(key=_last)
        return [each.held for each in passed]


def _last(hold: _Hold[Held]) -> int:
    return hold.last
