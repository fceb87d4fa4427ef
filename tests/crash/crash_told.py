"""What the outside was told of a log, what it then finds, and whether the two agree.

`Told` is the only witness: what the log promised is computed from it, never from the log's own state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from streamfn.log.shard.gaps import LOST, Gap
from streamfn.log.shard.reader import ShardReader, records
from streamfn.testing.volatile import Crash
from streamfn.types import NewRecord, Record


class Violation(Exception):
    """The log broke a promise: which one, and how."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Told(NamedTuple):
    """What the outside knows.  All numbers are offsets; what is said of one holds for every record below it.

    `given`: by offset, every record an append was called with, None where a crash took it and the log went on
    behind it; `written`: the append has returned; `acknowledged`: the record was acknowledged, or readers could
    see it; `synced`: that was promised to survive a loss of power (with fsync always, else after a sync);
    `checkpoint`, and `disposed`, the ranges of records with a disposition (first offset, end, which) as the
    store has them, which is durable by itself; `trimmed`: a trim was asked for; `number`: the highest sequence
    number anybody has seen, as (length, text); `weak`: a life had a durability weaker than fsync; `refused`:
    records of appends that failed, or that an opening has cut off, by offset: a loss of power may bring them back
    where nothing has been synced since.
    """

    given: tuple[NewRecord | None, ...] = ()
    written: int = 0
    acknowledged: int = 0
    synced: int = 0
    checkpoint: int = 0
    disposed: tuple[tuple[int, int, str], ...] = ()
    trimmed: int = 0
    number: tuple[int, str] = (0, "")
    lives: int = 0
    weak: bool = False
    refused: tuple[tuple[int, NewRecord], ...] = ()


class Seen(NamedTuple):
    """What a reader came by: records, gaps, and the offset where it was caught up."""

    records: list[Record]
    gaps: list[Gap]
    end: int


class Moment(NamedTuple):
    """A moment at which a life may end."""

    crash: Crash
    told: Told


def without_lost(told: Told, found: Sequence[Gap]) -> Told:
    """What is told when the ledger says that a crash has taken records, of those that it may take."""
    given = list(told.given)
    for gap in found:
        start = max(gap.first_offset, told.synced)  # a gap may have grown from an older one
        if gap.why == LOST and start < gap.end_offset:
            given += [None] * (gap.end_offset - len(given))
            given[start : gap.end_offset] = [None] * (gap.end_offset - start)
    return told._replace(given=tuple(given))


def number_of(record: Record) -> tuple[int, str]:
    """A record's sequence number as it is compared."""
    return len(record.sequence_number), record.sequence_number


def whole(reader: ShardReader) -> Seen:
    """Everything that a reader finds, from its position on."""
    found: list[Record] = []
    passed: list[Gap] = []
    start = reader.position
    while True:
        got = reader.poll(1 << 30)
        for message in got:
            found += records(message)
        if not got:
            if reader.gap is None:
                break
            passed.append(reader.skip())
    return Seen([record for record in found if record.offset >= start], passed, reader.position)


def difference(record: Record, given: NewRecord | None) -> str | None:
    """How a record differs from what was given, None if it does not."""
    if given is None:
        return "phantom"
    if (record.data, record.partition_key, record.arrival_ms) != given[:3]:
        return "wrong-content"
    if record.source_subsequence_number != given.source_subsequence_number:
        return "wrong-content"
    number = given.sequence_number or record.sequence_number[:-20] + f"{record.offset:020d}"
    return None if record.sequence_number == number else "wrong-number"


def as_found(told: Told, seen: Seen) -> Told:
    """What is told when a log was opened: what was found is what was given.

    What was not found has been cut off, and nobody has synced that yet: a loss of power may bring it back.
    """
    given = list(told.given[: seen.end])
    given += [None] * (seen.end - len(given))  # what was refused at the end may have come back
    for record in seen.records:
        if difference(record, given[record.offset]):
            there = [one for offset, one in told.refused if offset == record.offset and not difference(record, one)]
            given[record.offset] = there[0]
    cut = [(offset, one) for offset, one in enumerate(told.given) if offset >= seen.end and one]
    cut += [(offset, one) for offset, one in told.refused if offset >= seen.end]
    return told._replace(given=tuple(given), refused=tuple(cut))


def expect_same(seen: Seen, told: Told, start: int) -> None:
    """Raise Violation unless what was seen from offset `start` on is what was given, in order, but for the gaps."""
    passed = {gap.first_offset: gap for gap in seen.gaps}
    at = start
    for record in seen.records:
        while at in passed:
            at = passed[at].end_offset
        offset = record.offset
        if offset != at:
            raise Violation("hole", f"offset {offset} follows {at - 1}")
        given = [told.given[offset]] if offset < len(told.given) else []
        if offset >= told.synced:
            given += [refused for at_offset, refused in told.refused if at_offset == offset]
        wrong = [what for one in given if (what := difference(record, one))]
        if len(wrong) == len(given):
            raise Violation(wrong[0] if wrong else "phantom", f"offset {offset} has {record}, not {given}"[:400])
        at += 1
    while at in passed:
        at = passed[at].end_offset
    if at != seen.end:
        raise Violation("hole", f"the records end at {at}, the log at {seen.end}")
