"""Damage in words: what is not as it was written, where, and which records cannot be read."""

from __future__ import annotations

from pathlib import Path

from streamfn.errors import LogDamaged
from streamfn.log.segment import SegmentFile

Numbers = tuple[str | None, str | None]


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
