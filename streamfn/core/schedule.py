"""When each record of a source is due, instead of when it was captured: as it was recorded, or at a rate.

A schedule is what paces a replay and what a benchmark offers its load by.  Times are nanoseconds after the start
of the run; a record's age, the windows it falls into and its latency count from when it was due (never from when it
was captured), so whatever keeps it from being handed over then is charged to it.

    AsFast         all of them from the start: they are taken as fast as they can be
    FixedRate      so many records a second
    Ramp           a rate that rises, or falls, evenly
    Recorded       as the records arrived, faster or slower, long silences cut short

`shard` gives the schedule of one shard, which is asked for its records in order.  Within a shard due times never go
back, because the shard's order is kept whatever the arrival times of a captured stream say; between shards there is no
order but that of the times.  A rate is one of the whole stream: each shard gets the part of it that it has of the
records, so that all of them come to their end together.

Nothing here reads a clock, waits, or touches a record.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple, Protocol

from streamfn.core.rising import Steps

NS = 1_000_000_000


class Stretch(NamedTuple):
    """What is read of a shard: the offset of its first record, and how many records there are."""

    first_offset: int
    records: int


class ShardSchedule(Protocol):
    """When the records of one shard are due."""

    def due(self, first_offset: int, arrivals: Sequence[int]) -> array[int]:
        """Return when the records from `first_offset` on are due, as an array of type 'q', never decreasing.

        `arrivals` are their arrival times in milliseconds since 1970.  Each call goes on behind the one before, or
        further behind.
        """


class Schedule(Protocol):
    """When the records of a stream are due."""

    @property
    def paced(self) -> bool:
        """Whether anything has to be waited for."""

    def shard(self, shard_id: str) -> ShardSchedule:
        """Return the schedule of a shard, from its beginning."""


class AsFast:
    """Nothing is waited for: a closed loop, in which the load is what can be handled."""

    paced = False

    def shard(self, shard_id: str) -> ShardSchedule:
        """Everything is due when the run begins."""
        return _AtOnce()


@dataclass(frozen=True, slots=True)
class FixedRate:
    """`per_second` records a second of the whole stream, evenly.

    `shards` says what is read of each shard; one that is not named has no records.
    """

    per_second: float
    shards: Mapping[str, Stretch]
    paced = True

    def __post_init__(self) -> None:
        assert self.per_second > 0

    def shard(self, shard_id: str) -> ShardSchedule:
        """Every record of the shard is due as long after the one before; shards begin one after the other."""
        share = _share(self.shards, shard_id)
        rate = Fraction(self.per_second)
        return _Even(share.first_offset, rate * share.part, int(NS * share.place / rate))


@dataclass(frozen=True, slots=True)
class Ramp:
    """From `from_per_second` to `to_per_second` records a second within `seconds`, and on at that rate.

    `shards`: as in `FixedRate`.
    """

    from_per_second: float
    to_per_second: float
    seconds: float
    shards: Mapping[str, Stretch]
    paced = True

    def __post_init__(self) -> None:
        assert self.from_per_second >= 0
        assert self.to_per_second > 0
        assert self.seconds > 0

    def shard(self, shard_id: str) -> ShardSchedule:
        """The shard's part of the ramp."""
        share = _share(self.shards, shard_id)
        part = float(share.part)
        return _Rising(share.first_offset, self.from_per_second * part, self.to_per_second * part, self.seconds)


class Silence(NamedTuple):
    """Nothing arrived between `after_ms` and the `cut_ms` milliseconds that are left out behind it."""

    after_ms: int
    cut_ms: int


class Recorded:
    """As the records arrived, beginning with `origin_ms` (milliseconds since 1970), `speed` times as fast.

    `silences` are left out of the time that passes; see `silences_of`. `steps` say of some shards when their records
    count as having arrived (`core.rising`); of others that is what was recorded, or when the record before it did.
    """

    paced = True

    def __init__(
        self,
        origin_ms: int,
        speed: float = 1.0,
        silences: Sequence[Silence] = (),
        steps: Mapping[str, Steps] | None = None,
    ) -> None:
        assert speed > 0
        self._steps = steps or {}
        self._origin_ms = origin_ms
        self._ns_per_ms = 1_000_000 / speed
        self._after = [silence.after_ms for silence in silences]
        self._cut = [0]
        for silence in silences:
            self._cut.append(self._cut[-1] + silence.cut_ms)

    def shard(self, shard_id: str) -> ShardSchedule:
        """The schedule of any shard: they have one time."""
        steps = self._steps.get(shard_id)
        return _AsRecorded(self) if steps is None or not steps.offsets else _BySteps(self, steps)

    def due_ns(self, arrival_ms: int) -> int:
        """When what arrived then is due."""
        # An arrival at the moment itself is the last one before the silence.
        place = bisect_right(self._after, arrival_ms - 1)
        cut = self._cut[place]
        if place:  # one that lies within what is left out is due at its end
            cut = min(cut, self._cut[place - 1] + arrival_ms - self._after[place - 1])
        return round((arrival_ms - self._origin_ms - cut) * self._ns_per_ms)


def silences_of(arrivals: Sequence[int], longest_ms: int) -> list[Silence]:
    """Return what is to be left out of a stream's time so that nothing in it is silent for longer than `longest_ms`.

    `arrivals` are the arrival times of all shards, ascending.
    """
    return [
        Silence(before + longest_ms, after - before - longest_ms)
        for before, after in pairwise(arrivals)
        if after - before > longest_ms
    ]


class _Share(NamedTuple):
    """What a shard has of a stream: its first offset, its part of the records, and which of the shards it is."""

    first_offset: int
    part: Fraction
    place: int


def _share(shards: Mapping[str, Stretch], shard_id: str) -> _Share:
    stretch = shards.get(shard_id, Stretch(0, 0))
    if not stretch.records:
        return _Share(stretch.first_offset, Fraction(1), 0)
    total = sum(each.records for each in shards.values())
    names = [name for name, each in shards.items() if each.records]
    return _Share(stretch.first_offset, Fraction(stretch.records, total), names.index(shard_id))


class _AtOnce:
    def due(self, first_offset: int, arrivals: Sequence[int]) -> array[int]:
        return array("q", bytes(8 * len(arrivals)))


class _Even:
    """Record number n of the shard is due at `start_ns` + n / rate."""

    def __init__(self, first_offset: int, rate: Fraction, start_ns: int) -> None:
        self._first_offset = first_offset
        period = NS / rate
        # One division a record, of whole numbers: exact to the nanosecond however long it runs.
        self._numerator, self._denominator = period.limit_denominator(10**9).as_integer_ratio()
        self._start_ns = start_ns

    def due(self, first_offset: int, arrivals: Sequence[int]) -> array[int]:
        first, count = first_offset - self._first_offset, len(arrivals)
        numerator, denominator, start_ns = self._numerator, self._denominator, self._start_ns
        values = range(first * numerator, (first + count) * numerator, numerator)
        return array("q", [start_ns + value // denominator for value in values])


class _Rising:
    """After t seconds `low`·t + (high - low)·t² / 2·seconds records are due; from `seconds` on `high` more a second."""

    def __init__(self, first_offset: int, low: float, high: float, seconds: float) -> None:
        self._first_offset = first_offset
        self._low, self._high, self._seconds = low, high, seconds
        self._slope = (high - low) / seconds
        self._in_ramp = (low + high) / 2 * seconds

    def due(self, first_offset: int, arrivals: Sequence[int]) -> array[int]:
        first = first_offset - self._first_offset
        return array("q", [self._at(number) for number in range(first, first + len(arrivals))])

    def _at(self, number: int) -> int:
        if number >= self._in_ramp:
            return round((self._seconds + (number - self._in_ramp) / self._high) * NS)
        if not self._slope:
            return round(number / self._low * NS)
        # The stable form of the root: nothing cancels where the slope is small.
        root = math.sqrt(max(0.0, self._low * self._low + 2 * self._slope * number))
        return round(2 * number / (self._low + root) * NS) if number else 0


class _BySteps:
    def __init__(self, recorded: Recorded, steps: Steps) -> None:
        self._recorded = recorded
        self._steps = steps

    def due(self, first_offset: int, arrivals: Sequence[int]) -> array[int]:
        return _AsRecorded(self._recorded).due(first_offset, self._steps.at(first_offset, len(arrivals)))


class _AsRecorded:
    def __init__(self, recorded: Recorded) -> None:
        self._due_ns = recorded.due_ns
        self._latest_ns = 0

    def due(self, first_offset: int, arrivals: Sequence[int]) -> array[int]:
        due_ns, latest, last_ms = self._due_ns, self._latest_ns, -1
        times = array("q", bytes(8 * len(arrivals)))
        for row, arrival_ms in enumerate(arrivals):
            if arrival_ms != last_ms:  # records arrive in batches, with one time
                last_ms = arrival_ms
                latest = max(latest, due_ns(arrival_ms))
            times[row] = latest
        self._latest_ns = latest
        return times
