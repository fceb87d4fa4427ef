"""The sequence numbers of a shard: those given here are above all it ever saw, those captured elsewhere rise.

A number given here is a base and the record's offset in 20 digits.  A shard that has records with captured numbers
gets a base above the highest of them: what that is, the last record says, or where a crash may have taken records,
the reserve.
"""

from __future__ import annotations

from streamfn.errors import RefusedError
from streamfn.log import gaps
from streamfn.log.numbers import last_sequence_number
from streamfn.log.reserve import ReserveFile, base_above
from streamfn.log.stream import OFFSET_DIGITS, Shard


class Numbering:
    """What its writer knows of a shard's sequence numbers.  Reads the log's last record when it has to."""

    def __init__(self, shard: Shard, reserve: ReserveFile) -> None:
        self._shard = shard
        self._reserve = reserve
        self._base = shard.sequence_base
        # Whether `_base` is above everything in the log.
        self._sure = reserve.known.number == 0
        # The number of the last record, None where nobody has looked, or the last was given here.
        self._last: int | None = None
        self._given = False

    @property
    def base(self) -> str:
        """The base of the numbers given last, or the first one of the shard."""
        return self._base

    def give(self, end_offset: int) -> str:
        """Return the base for records from `end_offset`, the log's end, on."""
        if not self._sure:
            self._base = self._base_above_all(end_offset)
            self._sure = True
        self._given = True
        return self._base

    def capture(self, first: str, last: str, end_offset: int) -> None:
        """Take note of captured numbers, which rise from `first` to `last`, before they are appended.

        Raises:
            RefusedError: they are not above the number of the last record.
            OSError: they cannot be reserved.
        """
        before = self._last_number(end_offset)
        if int(first) <= before:
            raise RefusedError(
                f"sequence number {first} does not follow {before}, which shard {self._shard.id} has already"
            )
        self._reserve.cover_number(last)
        self._last = int(last)
        self._given = self._sure = False

    def _last_number(self, end_offset: int) -> int:
        if self._given:
            return int(f"{self._base}{end_offset - 1:0{OFFSET_DIGITS}d}")
        if self._last is None:
            self._last = int(last_sequence_number(self._shard) or -1)
        return self._last

    def _base_above_all(self, end_offset: int) -> str:
        known = self._reserve.known
        text = None if self._last is not None else last_sequence_number(self._shard)
        if text is not None and self._is_given(text, end_offset):
            above = text[:-OFFSET_DIGITS]
        elif text is not None:
            above = base_above(int(text))
        else:
            above = base_above(known.number if self._last is None else self._last)
        floor = base_above(known.floor) if known.floor else "0"
        return max(self._shard.sequence_base, self._base, above, floor, key=int)

    def _is_given(self, number: str, end_offset: int) -> bool:
        """Whether the last record's number is one that was given here: it ends in the record's offset."""
        last = gaps.read(self._shard).start_before(end_offset) - 1
        return len(number) > OFFSET_DIGITS and number.endswith(f"{last:0{OFFSET_DIGITS}d}")
