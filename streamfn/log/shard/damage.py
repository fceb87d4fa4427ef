"""Damage: which records cannot be read, where that begins and where the next good one lies; and all of it in words."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from streamfn.errors import LogDamaged
from streamfn.log.catalog.stream import OFFSET_DIGITS, Shard
from streamfn.log.segment.scan import Scan, next_message
from streamfn.log.segment.segment import SegmentFile, list_segments
from streamfn.log.shard import gaps, reserve
from streamfn.log.shard.gaps import DAMAGED, Gap
from streamfn.log.storage.commit import Commit

Numbers = tuple[str | None, str | None]


class Break(NamedTuple):
    """Where reading breaks off, and where it can go on.

    `named`: the ledger knows the gap, so it is no damage.  `resume_at` is the file position in the same segment where
    the records behind the gap begin, or will; None if that is in another one.
    """

    gap: Gap
    named: bool
    resume_at: int | None = None

    def error(self, path: Path, why: str) -> LogDamaged:
        """Return the error for who does not go on."""
        gap = self.gap
        numbers = gap.first_sequence_number, gap.last_sequence_number
        return LogDamaged(
            why + lost(gap.first_offset, gap.end_offset, numbers),
            path=path,
            byte=gap.byte,
            first_offset=gap.first_offset,
            end_offset=gap.end_offset,
        )


def in_segment(shard: Shard, commit: Commit, scan: Scan, position: int) -> Break:
    """Return the break at a scan, which found no message although records behind offset `position` were committed."""
    segment = scan.segment
    first = max(position, scan.next_offset)
    active = not segment.sealed and segment.first_offset == commit.segment
    limit = min(commit.length, segment.size) if active else segment.size
    known = gaps.read(shard).at(first)
    if known is not None:
        end = known.end_offset
        behind = next_message(segment, scan.position, limit, end, end + 1)
    else:
        after = None if active else next_start(shard, first)
        end = max(commit.end_offset, first + 1) if after is None else after
        behind = next_message(segment, scan.position, limit, first + 1, end)
        end = end if behind is None else int(behind.first_offset)
    resume_at = None if behind is None else int(behind.position)
    if behind is None and active and end == commit.end_offset:
        resume_at = commit.length
    if known is not None:
        return Break(known.clipped(first, end), True, resume_at)
    numbers = numbers_given(shard, first, end)
    byte = segment.file_position(scan.position)
    return Break(Gap(first, end, DAMAGED, *numbers, segment.path.name, byte), False, resume_at)


def in_file(shard: Shard, commit: Commit, file: SegmentFile | None, position: int) -> Break:
    """Return the break at offset `position` where a whole segment cannot be read, or (None) is not there."""
    end = next_start(shard, position) or max(commit.end_offset, position + 1)
    name, byte = (file.path.name, 0) if file else (None, None)
    return Break(Gap(position, end, DAMAGED, *numbers_given(shard, position, end), name, byte), False)


def next_start(shard: Shard, offset: int) -> int | None:
    """Return where the first segment behind an offset begins."""
    return next((file.first_offset for file in list_segments(shard) if file.first_offset > offset), None)


def numbers_given(shard: Shard, first: int, end: int) -> Numbers:
    """Return the sequence numbers of records that are not there; None where the shard has captured ones."""
    try:
        captured = reserve.read(shard).number > 0
    except LogDamaged:
        captured = True  # for all we know
    if captured or first >= end:
        return None, None
    base = shard.sequence_base
    return f"{base}{first:0{OFFSET_DIGITS}d}", f"{base}{end - 1:0{OFFSET_DIGITS}d}"


def damaged(
    file: SegmentFile,
    position: int,
    offset: int,
    why: str,
    *,
    end_offset: int | None = None,
    numbers: Numbers = (None, None),
) -> LogDamaged:
    """Return the error that names file, byte position and the records from shard offset `offset` to `end_offset`.

    `numbers` are the sequence numbers of the first and the last of them, where they are known.
    """
    return LogDamaged(
        f"{file.path} is damaged at byte {position}: no valid record at offset {offset}, {why}"
        + lost(offset, end_offset, numbers),
        path=file.path,
        byte=position,
        first_offset=offset,
        end_offset=end_offset,
    )


def missing(path: Path, offset: int, end_offset: int, numbers: Numbers = (None, None)) -> LogDamaged:
    """Return the error for a segment file that is not there."""
    return LogDamaged(
        f"{path} is missing; records from offset {offset} on are gone" + lost(offset, end_offset, numbers),
        path=path,
        first_offset=offset,
        end_offset=end_offset,
    )


def lost(offset: int, end_offset: int | None, numbers: Numbers = (None, None)) -> str:
    """Return the range for the end of an error's text."""
    if end_offset is None:
        return ""
    text = f"; offsets {offset} to {end_offset - 1} cannot be read"
    first, last = numbers
    if first and last:
        text += f" (sequence numbers {first} to {last})"
    return text
