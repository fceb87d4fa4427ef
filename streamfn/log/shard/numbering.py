"""The sequence numbers of a shard: those given here are above all it ever saw, those captured elsewhere rise.

A number given here is a base and the record's offset in 20 digits.  A shard that has records with captured numbers
gets a base above the highest of them: what that is, the last record says, or where a crash may have taken records,
the reserve.
"""

from __future__ import annotations

from typing import NamedTuple

from streamfn.errors import RefusedError
from streamfn.log.catalog.stream import OFFSET_DIGITS, Shard, require_numbers
from streamfn.log.shard import gaps
from streamfn.log.shard.numbers import last_sequence_number
from streamfn.log.shard.reserve import ReserveFile, base_above


class _Run(NamedTuple):
    """Records from an offset on whose numbers were given with one `base`, or captured, the last one `last`."""

    first_offset: int
    base: str | None
    last: int | None

    def number(self, offset: int) -> int:
        """Return the number of its last record, at an offset."""
        return int(f"{self.base}{offset:0{OFFSET_DIGITS}d}") if self.last is None else self.last


class Numbering:
    """What its writer knows of a shard's sequence numbers.  Reads the log's last record when it has to."""

    def __init__(self, shard: Shard, reserve: ReserveFile) -> None:
        self._shard = shard
        self._reserve = reserve
        self._base = shard.sequence_base
        # Whether `_base` is above everything in the log.
        self._sure = reserve.known.number == 0
        # Of the last record that was there when the shard was opened; None where nobody has looked.
        self._opened_with: int | None = None
        # The last two runs of records: of the last one an append may have failed, and left nothing.
        self._runs: list[_Run] = []

    @property
    def base(self) -> str:
        """The base of the numbers given last, or the first one of the shard."""
        return self._base

    def give(self, end_offset: int) -> str:
        """Return the base for records from `end_offset`, the log's end, on.

        Raises:
            RefusedError: there is no number above those of the shard.
        """
        if not self._sure:
            self._base = self._base_above_all(end_offset)
            self._sure = True
        require_numbers(self._base, self._shard.id)
        run = self._last_run(end_offset)
        if run is None or run.base != self._base:
            self._begin(_Run(end_offset, self._base, None))
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
        self._begin(_Run(end_offset, None, int(last)))
        self._sure = False

    def _begin(self, run: _Run) -> None:
        self._runs = [*self._runs[-1:], run]

    def _last_run(self, end_offset: int) -> _Run | None:
        """Return the run that the last record belongs to; None if it was there when the shard was opened."""
        while self._runs and self._runs[-1].first_offset >= end_offset:
            self._runs.pop()
        return self._runs[-1] if self._runs else None

    def _last_number(self, end_offset: int) -> int:
        run = self._last_run(end_offset)
        if run is not None:
            return run.number(end_offset - 1)
        if self._opened_with is None:
            self._opened_with = int(last_sequence_number(self._shard) or -1)
        return self._opened_with

    def _base_above_all(self, end_offset: int) -> str:
        known = self._reserve.known
        run = self._last_run(end_offset)
        text = last_sequence_number(self._shard) if run is None else None
        if run is not None:
            above = run.base or base_above(run.number(end_offset - 1))
        elif text is None:
            above = base_above(known.number)
        elif self._is_given(text, end_offset):
            above = text[:-OFFSET_DIGITS]
        else:
            above = base_above(int(text))
        floor = base_above(known.floor) if known.floor else "0"
        return max(self._shard.sequence_base, self._base, above, floor, key=int)

    def _is_given(self, number: str, end_offset: int) -> bool:
        """Whether the last record's number is one that was given here: it ends in the record's offset."""
        last = gaps.read(self._shard).start_before(end_offset) - 1
        return len(number) > OFFSET_DIGITS and number.endswith(f"{last:0{OFFSET_DIGITS}d}")
