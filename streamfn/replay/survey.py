"""Looking over the records of a replay before it, or instead of it: how many, how large, when they arrived.

`walk` goes over a selection as a mapping would, through its filters, and tells of what would be handed over. `Survey`
adds it up, `Arrivals` says when each record is due, and `Model` puts all of it through lanes that take their time
(`estimate`). Nothing is called.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import trio

from streamfn.core.rising import is_rising, risen, steps_of
from streamfn.core.schedule import Recorded, Schedule, ShardSchedule, Silence
from streamfn.events.size import fixed_bytes, json_prefix
from streamfn.limits import ROLE_ARN
from streamfn.log.shard.reader import ShardReader
from streamfn.mapping.poller import BACKLOG_BYTES
from streamfn.mapping.rules import batch_rules
from streamfn.mapping.sorting import parts_of
from streamfn.mapping.source import event_source, source_header
from streamfn.replay.estimate import Estimate, LaneModel, estimate

if TYPE_CHECKING:
    from streamfn.log.catalog.stream import Shard
    from streamfn.log.shard.reader import Message
    from streamfn.mapping.selector import Rows, Selector
    from streamfn.replay.selection import Selection
    from streamfn.types import Part

# Shards that are walked at a time: with filters, so that the scan processes have enough to do.
_AT_A_TIME = 4

Visit = Callable[["Shard", Sequence["Part"]], bool | None]
"""Told of the next records of a shard, by lane, in a thread; what it returns true for is the last of that shard."""


async def walk(
    selection: Selection, visit: Visit, *, selector: Selector | None = None, factor: int = 1, salvage: bool = False
) -> None:
    """Go over the records of a selection, shard by shard, in order within each.

    `selector` are the filters, `factor` is how many lanes a shard has; with `salvage` damage is passed over.

    Cancellation: a read that has begun is waited for.

    Raises:
        LogDamaged: a shard is damaged, and there is no `salvage`.
    """
    limit = trio.CapacityLimiter(1 if selector is None else _AT_A_TIME)

    async def one(shard: Shard) -> None:
        async with limit:
            await _walk(selection, shard, visit, selector, factor, salvage)

    async with trio.open_nursery() as nursery:
        for shard in selection.shards:
            nursery.start_soon(one, shard)


async def _walk(
    selection: Selection, shard: Shard, visit: Visit, selector: Selector | None, factor: int, salvage: bool
) -> None:
    stream, start, end = selection.stream, selection.starts[shard.id], selection.ends[shard.id]
    fixed = fixed_bytes(event_source(stream, shard, ROLE_ARN))
    filters = None if selector is None else selector.shard(source_header(stream, shard, ROLE_ARN))

    def measure(message: Message, rows: memoryview | None) -> memoryview:
        return json_prefix(message.segment.address, message.cdata, fixed, rows)

    def read() -> list[Message]:
        messages = reader.poll(BACKLOG_BYTES, end)
        while not messages and reader.gap is not None:
            reader.skip()
            messages = reader.poll(BACKLOG_BYTES, end)
        return messages

    def tell(messages: Sequence[Message], rows: Sequence[Rows]) -> bool:
        parts = []
        for message, chosen in zip(messages, rows, strict=True):
            parts += parts_of(message, measure, chosen, factor=factor, dated=True, start=start, stop=end)
        return bool(visit(shard, parts)) if parts else False

    reader = await trio.to_thread.run_sync(lambda: ShardReader.open(shard, start, salvage=salvage))
    try:
        while messages := await trio.to_thread.run_sync(read):
            rows = [None] * len(messages) if filters is None else await filters.select(messages)
            if await trio.to_thread.run_sync(tell, messages, rows):
                break
    finally:
        if filters is not None:
            filters.close()
        reader.close()


class Survey:
    """What a walk has found: `records` would be handed over, `event_bytes` are their JSON, frames not counted.

    `first_ms` and `last_ms` are the earliest and the latest arrival (since 1970, UTC), None without records.
    """

    def __init__(self) -> None:
        self.records = 0
        self.event_bytes = 0
        self.first_ms: int | None = None
        self.last_ms: int | None = None

    def visit(self, shard: Shard, parts: Sequence[Part]) -> None:
        """Add what `walk` tells of."""
        for part in parts:
            assert part.arrivals is not None
            self.records += len(part.arrivals)
            self.event_bytes += part.prefix_bytes[-1] - part.prefix_bytes[0]
            first, last = min(part.arrivals), max(part.arrivals)
            self.first_ms = first if self.first_ms is None else min(self.first_ms, first)
            self.last_ms = last if self.last_ms is None else max(self.last_ms, last)


class Arrivals:
    """When the records of a walk arrived, which has one lane a shard: 8 bytes a record."""

    def __init__(self, *, filtered: bool) -> None:
        """`filtered`: the walk leaves records out."""
        self._filtered = filtered
        self._shards: dict[str, _Shard] = {}

    def visit(self, shard: Shard, parts: Sequence[Part]) -> None:
        """Add what `walk` tells of."""
        known = self._shards.setdefault(shard.id, _Shard([], array("q")))
        for part in parts:
            assert part.arrivals is not None
            known.times.extend(part.arrivals)
            for first_offset, count in _runs(part):
                if known.runs and sum(known.runs[-1]) == first_offset:
                    known.runs[-1] = (known.runs[-1][0], known.runs[-1][1] + count)
                else:
                    known.runs.append((first_offset, count))

    @property
    def times(self) -> dict[str, array[int]]:
        """Their arrival times by shard, as they were recorded."""
        return {name: shard.times for name, shard in self._shards.items()}

    def recorded(self, speed: float, longest_ms: int | None) -> Recorded | None:
        """Return when those records are due; None if there are none.

        `longest_ms` is how long a silence may be, of all shards together; None: as long as it was.
        """
        times, steps = {}, {}
        for name, (runs, arrived) in self._shards.items():
            rises = is_rising(arrived)
            times[name] = arrived if rises else risen(arrived)
            # What a filter has dropped must neither hurry nor hold up what it has not.
            if self._filtered or not rises:
                steps[name] = steps_of(runs, times[name])
        if not times:
            return None
        return Recorded(min(one[0] for one in times.values()), speed, _silences(times.values(), longest_ms), steps)


class _Shard(NamedTuple):
    runs: list[tuple[int, int]]  # where its records lie: first offset and count
    times: array[int]


def _runs(part: Part) -> Iterator[tuple[int, int]]:
    """Yield where the records of a part lie: first offset and count, of those that follow one another."""
    if part.rows is None:
        yield part.first_offset, len(part.prefix_bytes) - 1
        return
    begin = 0
    for place in range(1, len(part.rows) + 1):
        if place == len(part.rows) or part.rows[place] != part.rows[place - 1] + 1:
            yield part.first_offset + part.rows[begin], place - begin
            begin = place


def _silences(shards: Iterable[Sequence[int]], longest_ms: int | None) -> list[Silence]:
    """Return what is to be left out so that no silence is longer than that; each shard's times rise."""
    if longest_ms is None:
        return []
    spans = []  # in none of which its shard is silent for so long
    for times in shards:
        begin = last = times[0]
        for time in times:
            if time - last > longest_ms:
                spans.append((begin, last))
                begin = time
            last = time
        spans.append((begin, last))
    found: list[Silence] = []
    spans.sort()
    latest = spans[0][0]
    for begin, end in spans:
        if begin - latest > longest_ms:
            found.append(Silence(latest + longest_ms, begin - latest - longest_ms))
        latest = max(latest, end)
    return found


class Model:
    """How long a replay takes and how many invocations, by a model of its lanes: see `estimate`."""

    def __init__(
        self, schedule: Schedule, *, batch_size: int, window_s: int, factor: int, invocation_ms: float
    ) -> None:
        """`schedule` says when records are due; the rest is the mapping's, and how long each invocation would take."""
        self._schedule = schedule
        self._rules = batch_rules(batch_size, window_s)
        self._factor = factor
        self._invocation_ns = round(invocation_ms * 1e6)
        self._lanes: dict[str, list[LaneModel]] = {}
        self._due: dict[str, list[ShardSchedule]] = {}

    def visit(self, shard: Shard, parts: Sequence[Part]) -> None:
        """Put what `walk` tells of through the shard's lanes."""
        lanes = self._lanes.get(shard.id)
        if lanes is None:
            lanes = [LaneModel(self._rules, self._invocation_ns) for _ in range(self._factor)]
            self._lanes[shard.id], self._due[shard.id] = lanes, [self._schedule.shard(shard.id) for _ in lanes]
        for part in parts:
            assert part.arrivals is not None
            due, row = array("q"), 0
            for first_offset, count in _runs(part):
                due += self._due[shard.id][part.lane].due(first_offset, part.arrivals[row : row + count])
                row += count
            lanes[part.lane].offer(due, part.prefix_bytes)

    def total(self, workers: int) -> Estimate:
        """What it comes to on so many workers, now that the walk is over."""
        lanes = [lane for each in self._lanes.values() for lane in each]
        for lane in lanes:
            lane.finish()
        return estimate(lanes, workers)


def visits(*visitors: Visit) -> Visit:
    """Tell several of the same."""

    def visit(shard: Shard, parts: Sequence[Part]) -> None:
        for one in visitors:
            one(shard, parts)

    return visit
