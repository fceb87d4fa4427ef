"""Looking over the records of a replay before it, or instead of it: how many, how large, when they arrived.

`walk` goes over a selection as a mapping would, through its filters, and tells of what would be handed over. `Survey`
adds it up, and finds the silences, over all shards together; `Model` puts it through lanes that take their time
(`estimate`). Nothing is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from streamfn.core.schedule import Schedule, ShardSchedule, Silence
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
    """What a walk has found: `records` would be handed over, `event_bytes` are their JSON, frames not counted."""

    def __init__(self, longest_ms: int | None = None) -> None:
        """`longest_ms`: how long a silence may be (see `silences`); None: they are not looked for."""
        self.records = 0
        self.event_bytes = 0
        self._longest_ms = longest_ms
        self._busy: dict[str, _Busy] = {}

    def visit(self, shard: Shard, parts: Sequence[Part]) -> None:
        """Add what `walk` tells of."""
        busy = self._busy.get(shard.id)
        if busy is None:
            busy = self._busy[shard.id] = _Busy(self._longest_ms)
        for part in parts:
            assert part.arrivals is not None
            self.records += len(part.arrivals)
            self.event_bytes += part.prefix_bytes[-1] - part.prefix_bytes[0]
            busy.add(part.arrivals)

    @property
    def first_ms(self) -> int | None:
        """The earliest arrival (since 1970, UTC), None without records."""
        return min((first for busy in self._busy.values() for first, _ in busy.spans), default=None)

    @property
    def last_ms(self) -> int | None:
        """The latest arrival, likewise."""
        return max((last for busy in self._busy.values() for _, last in busy.spans), default=None)

    def silences(self) -> list[Silence]:
        """What is to be left out so that no silence, of all shards together, is longer than `longest_ms`."""
        longest = self._longest_ms
        if longest is None:
            return []
        found: list[Silence] = []
        last: int | None = None
        for begin, end in sorted(span for busy in self._busy.values() for span in busy.spans):
            if last is not None and begin - last > longest:
                found.append(Silence(last + longest, begin - last - longest))
            last = end if last is None else max(last, end)
        return found


class _Busy:
    """Spans of time in which a shard is never silent for longer than `longest_ms`; None: one span, whatever it is."""

    def __init__(self, longest_ms: int | None) -> None:
        self.spans: list[list[int]] = []
        self._longest_ms = longest_ms

    def add(self, arrivals: Sequence[int]) -> None:
        first, last = min(arrivals), max(arrivals)
        if self._longest_ms is None or last - first <= self._longest_ms:
            self._note(first, last)
        else:
            for arrival in arrivals:
                self._note(arrival, arrival)

    def _note(self, first: int, last: int) -> None:
        """Something arrived in this span, in which there is no long silence."""
        longest = self._longest_ms
        if self.spans:
            span = self.spans[-1]
            if longest is None or (first - span[1] <= longest and span[0] - last <= longest):
                span[0], span[1] = min(span[0], first), max(span[1], last)
                return
        self.spans.append([first, last])


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
            due = self._due[shard.id][part.lane].due(part.first_offset, part.arrivals)
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
