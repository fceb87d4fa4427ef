"""The ledger of what is gone from a shard: `gaps.json`, a list of ranges of offsets and why.

    trimmed     retention or `trim` removed it; always one range that begins at offset 0
    lost        a weaker durability let a crash take it, or nobody ever had it: offsets are given out in
                blocks, and after such a crash the log goes on behind the last block
    damaged     its bytes were not what was written, and somebody decided to go on without it

Between segments, and inside one, every offset is there or in the ledger; anything else is damage.  The file is
replaced whole, synced, before what it names is removed or anything behind it is written; a checksum covers it.
Whoever writes it holds the shard's lock.
"""

from __future__ import annotations

import json
import zlib
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, NamedTuple

from streamfn.errors import LogDamaged
from streamfn.log.catalog.stream import Shard
from streamfn.log.storage.disk import read_file, replace

TRIMMED, LOST, DAMAGED = "trimmed", "lost", "damaged"
FILE_NAME = "gaps.json"
_FORMAT = 1


class Gap(NamedTuple):
    """Records `first_offset` up to, not including, `end_offset` are not there.

    The sequence numbers are those of the first and the last of them, None where they are not known.  `file`
    (its name) and `byte` say where damage begins; `at_ms` is when the gap was noted, in milliseconds since
    1970, UTC.
    """

    first_offset: int
    end_offset: int
    why: str
    first_sequence_number: str | None = None
    last_sequence_number: str | None = None
    file: str | None = None
    byte: int | None = None
    at_ms: int | None = None

    def __str__(self) -> str:
        what = f"offsets {self.first_offset} to {self.end_offset - 1}"
        if self.first_sequence_number and self.last_sequence_number:
            what += f" (sequence numbers {self.first_sequence_number} to {self.last_sequence_number})"
        place = f" at byte {self.byte} of {self.file}" if self.file is not None else ""
        return f"{what}: {self.why}{place}"

    def clipped(self, start: int, stop: int) -> Gap:
        """Return the part of it between two offsets; sequence numbers of an end that moved are not known."""
        first, end = max(start, self.first_offset), min(stop, self.end_offset)
        return self._replace(
            first_offset=first,
            end_offset=end,
            first_sequence_number=self.first_sequence_number if first == self.first_offset else None,
            last_sequence_number=self.last_sequence_number if end == self.end_offset else None,
        )


class Ledger:
    """The gaps of a shard: in order, disjoint."""

    __slots__ = ("_starts", "gaps")

    def __init__(self, gaps: Iterable[Gap] = ()) -> None:
        self.gaps = tuple(sorted(gaps))
        self._starts = [gap.first_offset for gap in self.gaps]

    @property
    def horizon(self) -> int:
        """The first offset that was not trimmed."""
        return self.gaps[0].end_offset if self.gaps and self.gaps[0].why == TRIMMED else 0

    def at(self, offset: int) -> Gap | None:
        """Return the gap that an offset lies in."""
        index = bisect_right(self._starts, offset) - 1
        if index >= 0 and offset < self.gaps[index].end_offset:
            return self.gaps[index]
        return None

    def end_at(self, offset: int) -> int:
        """Return the first offset at or behind `offset` that lies in no gap."""
        while (gap := self.at(offset)) is not None:
            offset = gap.end_offset
        return offset

    def start_before(self, offset: int) -> int:
        """Return where the records end whose successor is `offset`: before the gaps that end there."""
        while offset > 0 and (gap := self.at(offset - 1)) is not None:
            offset = gap.first_offset
        return offset

    def back(self, end: int, count: int) -> int:
        """Return the offset from which on `count` records lie before `end`; the horizon if there are fewer."""
        offset = end
        while count > 0 and offset > self.horizon:
            gap = self.at(offset - 1)
            if gap is not None:
                offset = gap.first_offset
                continue
            start = max((gap.end_offset for gap in self.gaps if gap.end_offset <= offset), default=0)
            steps = min(count, offset - start)
            offset -= steps
            count -= steps
        return max(offset, self.horizon)

    def with_gap(self, new: Gap) -> Ledger:
        """Return the ledger with another gap: of what is in it already the older entry stays.

        A trimmed range takes in all that lies before its end; a lost range grows together with its neighbours.
        """
        if new.why == TRIMMED:
            new = new._replace(first_offset=0, end_offset=max(new.end_offset, self.horizon))
            kept = [gap.clipped(new.end_offset, gap.end_offset) for gap in self.gaps if gap.end_offset > new.end_offset]
            return Ledger([new, *kept])
        gaps = list(self.gaps)
        start = new.first_offset
        for gap in self.gaps:
            free = min(gap.first_offset, new.end_offset)
            if start < free:
                gaps.append(new.clipped(start, free))
            start = max(start, gap.end_offset)
        if start < new.end_offset:
            gaps.append(new.clipped(start, new.end_offset))
        return Ledger(_joined(sorted(gaps)))


def _joined(gaps: list[Gap]) -> list[Gap]:
    """Lost ranges that touch are one: nobody can say any more where the one ended."""
    joined: list[Gap] = []
    for gap in gaps:
        last = joined[-1] if joined else None
        if last is not None and last.why == gap.why == LOST and last.end_offset == gap.first_offset:
            joined[-1] = last._replace(
                end_offset=gap.end_offset, last_sequence_number=gap.last_sequence_number, at_ms=gap.at_ms
            )
        else:
            joined.append(gap)
    return joined


def read(shard: Shard) -> Ledger:
    """Return a shard's ledger; an empty one where nothing is gone.

    Raises:
        LogDamaged: the file is not as it was written.
        OSError: it cannot be read.
    """
    path = shard.directory / FILE_NAME
    try:
        content = read_file(shard.disk, path)
    except FileNotFoundError:
        return _EMPTY
    try:
        described = json.loads(content)
        if described["format"] == _FORMAT and described["crc32"] == _checksum(described["gaps"]):
            return Ledger(Gap(**gap) for gap in described["gaps"])
    except (ValueError, KeyError, TypeError):
        pass  # whatever is wrong with it, what it said is not known any more
    raise LogDamaged(
        f"{path} is damaged: it is not known which records of shard {shard.id} were trimmed or lost", path=path
    )


def record(shard: Shard, gap: Gap) -> Ledger:
    """Add a gap to a shard's ledger, durably, and return the ledger.  The caller holds the shard's lock.

    Raises:
        LogDamaged: the ledger cannot be read.
        OSError: it cannot be written; then it is as it was.
    """
    ledger = read(shard)
    extended = ledger.with_gap(gap)
    if extended.gaps != ledger.gaps:
        _write(shard, extended)
    return extended


def record_trim(shard: Shard, up_to_offset: int, *, at_ms: int | None = None) -> Ledger:
    """Note that everything below an offset is trimmed.  Call it before a segment is unlinked; see `record`."""
    ledger = read(shard)
    if up_to_offset <= ledger.horizon:
        return ledger
    return record(shard, Gap(0, up_to_offset, TRIMMED, at_ms=at_ms))


def _write(shard: Shard, ledger: Ledger) -> None:
    described = [{name: value for name, value in gap._asdict().items() if value is not None} for gap in ledger.gaps]
    content = {"format": _FORMAT, "gaps": described, "crc32": _checksum(described)}
    replace(shard.disk, shard.directory / FILE_NAME, (json.dumps(content, indent=1) + "\n").encode())


def _checksum(described: Any) -> int:
    return zlib.crc32(json.dumps(described, sort_keys=True).encode())


_EMPTY = Ledger()
