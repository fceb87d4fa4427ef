"""Which captured records are new, which are there already, and which must not be taken.

Sequence numbers of a shard rise.  A record whose number is not above the highest of the shard is there already, if it
really is: an import can be repeated, and captures may overlap.  If it is not there, it would be lost by skipping it and
out of order by appending it, so it is refused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from streamfn.limits import SEQUENCE_DIGITS_MAX
from streamfn.log.catalog.stream import Shard, Stream, sequence_order
from streamfn.log.shard.numbers import Membership, last_sequence_number

# Of so many numbers it is known without asking the log that they were just taken.
_REMEMBERED = 100_000


class Run(NamedTuple):
    """Records `start` up to `stop` of what was offered: new ones, or those that are there already.

    Or (`fell` is not empty) one that must not be taken, and why.
    """

    start: int
    stop: int
    new: bool
    fell: str = ""


class Admission:
    """The door of one shard."""

    def __init__(self, stream: Stream, shard: Shard, make_durable: Callable[[], None]) -> None:
        """Read the shard's last sequence number; `make_durable` stores what was admitted, so that it can be asked for.

        Raises:
            LogError: the shard cannot be read, or is damaged.
        """
        self._shard = shard
        self._highest = last_sequence_number(shard)
        self._membership = Membership(stream, shard)
        self._make_durable = make_durable
        self._recent: deque[pa.Array] = deque()

    def admit(self, numbers: pa.Array) -> Iterator[Run]:
        """Divide records by their sequence numbers; after each run that is new, the next one builds on it."""
        for start, stop in _rising_runs(numbers):
            yield from self._admit(numbers, start, stop)

    def _admit(self, numbers: pa.Array, start: int, stop: int) -> Iterator[Run]:
        known = start
        if self._highest is not None:
            highest = sequence_order(self._highest)
            known = bisect_right(range(stop), highest, lo=start, key=lambda i: sequence_order(numbers[i].as_py()))
        while start < known:
            missing = self._missing(numbers.slice(start, known - start))
            there = known if missing is None else start + missing
            if there > start:
                yield Run(start, there, new=False)
            if there < known:
                yield Run(there, there + 1, new=False, fell=self._reason(numbers[there].as_py()))
            start = there + 1 if there < known else known
        if known < stop:
            self._highest = numbers[stop - 1].as_py()
            self._remember(numbers.slice(known, stop - known))
            yield Run(known, stop, new=True)

    def _missing(self, numbers: pa.Array) -> int | None:
        if self._recent and pc.all(pc.is_in(numbers, value_set=pa.concat_arrays(list(self._recent)))).as_py():
            return None
        self._make_durable()
        return self._membership.missing(numbers)

    def _remember(self, numbers: pa.Array) -> None:
        self._recent.append(numbers)
        while sum(map(len, self._recent)) - len(self._recent[0]) >= _REMEMBERED:
            self._recent.popleft()

    def _reason(self, number: str) -> str:
        return (
            f"its sequence number {number} is not above {self._highest}, the highest of shard {self._shard.id}, and is "
            "not in it: captures go in in the order of their sequence numbers (--new-sequence-numbers gives new ones)"
        )


def _rising_runs(numbers: pa.Array) -> Iterator[tuple[int, int]]:
    """Yield the ranges in which sequence numbers rise."""
    if not len(numbers):
        return
    digits = pc.min_max(pc.binary_length(numbers)).as_py()
    texts = numbers if digits["min"] == digits["max"] else pc.utf8_lpad(numbers, SEQUENCE_DIGITS_MAX, "0")
    start = 0
    if len(numbers) > 1 and not pc.all(rises := pc.less(texts[:-1], texts[1:])).as_py():
        for at in pc.indices_nonzero(pc.invert(rises)).to_pylist():
            yield start, at + 1
            start = at + 1
    yield start, len(numbers)
