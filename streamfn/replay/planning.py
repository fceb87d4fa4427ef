"""What a replay is going to do: when its records are due, and, for who only asks, what it comes to."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from streamfn.core.schedule import AsFast, Schedule
from streamfn.events.size import EVENT_FRAME_BYTES
from streamfn.functions import prices
from streamfn.replay.survey import Arrivals, Model, Survey, Visit, visits, walk

if TYPE_CHECKING:
    from streamfn.log.catalog.stream import Shard
    from streamfn.mapping.options import RunOptions
    from streamfn.mapping.selector import Selector
    from streamfn.replay.selection import Selection
    from streamfn.types import Part

# What a function has in Lambda that nobody has given more.
MEMORY_MB_ASSUMED = 128


class Pace(NamedTuple):
    """How fast: `speed` times as the records arrived, None for as fast as they can be handled.

    No silence lasts longer than `max_gap_s` seconds of the replay's own time; None: they last as long as they did.
    """

    speed: float | None = None
    max_gap_s: float | None = None

    @property
    def longest_ms(self) -> int | None:
        """The longest silence of the recording that is kept whole, in its own time."""
        if self.speed is None or self.max_gap_s is None:
            return None
        return max(1, round(self.max_gap_s * self.speed * 1000))


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a replay comes to, if every invocation lasts `assumed_ms`.

    `first_ms` and `last_ms` are the earliest and latest arrival (since 1970, UTC), None without records; `event_bytes`
    is the JSON of all events. The price is Lambda's, at `memory_mb`.
    """

    records: int
    shards: int
    first_ms: int | None
    last_ms: int | None
    event_bytes: int
    invocations: int
    seconds: float
    assumed_ms: float
    billed_ms: int
    memory_mb: int
    gb_seconds: float
    price_usd: float

    @property
    def span_s(self) -> float:
        """Between the first and the last arrival, in seconds."""
        if self.first_ms is None or self.last_ms is None:
            return 0.0
        return (self.last_ms - self.first_ms) / 1000


async def schedule_of(selection: Selection, pace: Pace, selector: Selector | None, *, salvage: bool) -> Schedule:
    """Return when the records are due that the filters (`selector`) let pass: the first of them at once.

    With a speed all of the selection is read for it.

    Cancellation: a read that has begun is waited for.

    Raises:
        LogDamaged: a shard is damaged, and there is no `salvage`.
    """
    if pace.speed is None:
        return AsFast()
    arrivals = Arrivals(filtered=selector is not None)
    await walk(selection, arrivals.visit, selector=selector, salvage=salvage)
    return arrivals.recorded(pace.speed, pace.longest_ms) or AsFast()


async def outlook_of(
    selection: Selection, pace: Pace, options: RunOptions, selector: Selector | None, *, assumed_ms: float
) -> Outlook:
    """Read all of a selection, and say what replaying it comes to. Nothing is called.

    Cancellation and errors: as of `schedule_of`.
    """
    salvage = options.on_damage == "salvage"
    survey, factor = Survey(), options.parallelization_factor
    schedule: Schedule = AsFast()
    budgets = None
    if pace.speed is not None or options.limit is not None:
        arrivals = Arrivals(filtered=selector is not None)
        await walk(selection, arrivals.visit, selector=selector, salvage=salvage)
        if pace.speed is not None:
            schedule = arrivals.recorded(pace.speed, pace.longest_ms) or schedule
        if options.limit is not None:
            budgets = first_records(arrivals.times, options.limit)
    model = _model(schedule, options, assumed_ms)
    visit = _within(visits(survey.visit, model.visit), budgets)
    await walk(selection, visit, selector=selector, factor=factor, salvage=salvage)
    invocations, seconds = model.total(options.workers)
    billed_ms = invocations * max(1, -int(-assumed_ms // 1))
    memory_mb = options.memory_size or MEMORY_MB_ASSUMED
    return Outlook(
        records=survey.records,
        shards=len(selection.shards),
        first_ms=survey.first_ms,
        last_ms=survey.last_ms,
        event_bytes=survey.event_bytes + invocations * EVENT_FRAME_BYTES,
        invocations=invocations,
        seconds=seconds,
        assumed_ms=assumed_ms,
        billed_ms=billed_ms,
        memory_mb=memory_mb,
        gb_seconds=prices.gb_seconds(billed_ms, memory_mb),
        price_usd=prices.estimate_usd(
            prices.rates(),
            requests=invocations,
            billed_ms=billed_ms,
            memory_mb=memory_mb,
            storage_mb=options.ephemeral_storage,
        ),
    )


def _model(schedule: Schedule, options: RunOptions, assumed_ms: float) -> Model:
    return Model(
        schedule,
        batch_size=options.batch_size,
        window_s=options.maximum_batching_window_in_seconds,
        factor=options.parallelization_factor,
        invocation_ms=assumed_ms,
    )


def first_records(arrivals: Mapping[str, Sequence[int]], count: int) -> dict[str, int]:
    """Of the first `count` records to arrive, how many are of which shard; each shard's are taken in its own order."""
    taken = dict.fromkeys(arrivals, 0)
    # Arrival times need not rise within a shard, and its order is kept: a record comes when those before it have.
    latest = {name: list(_rising(times)) for name, times in arrivals.items()}
    moments = sorted((at, name) for name, times in latest.items() for at in times)
    for _, name in moments[:count]:
        taken[name] += 1
    return taken


def _rising(times: Sequence[int]) -> Sequence[int]:
    found = array("q", times)
    latest = 0
    for row, at in enumerate(found):
        latest = found[row] = max(latest, at)
    return found


def _within(visit: Visit, budgets: Mapping[str, int] | None) -> Visit:
    """Tell `visit` of so many records of each shard alone."""
    if budgets is None:
        return visit
    left = dict(budgets)

    def limited(shard: Shard, parts: Sequence[Part]) -> bool:
        shown = []
        for part in parts:
            assert part.arrivals is not None
            count = min(left.get(shard.id, 0), len(part.arrivals))
            left[shard.id] = left.get(shard.id, 0) - count
            if count:
                shown.append(part._replace(prefix_bytes=part.prefix_bytes[: count + 1], arrivals=part.arrivals[:count]))
        if shown:
            visit(shard, shown)
        return not left[shard.id]

    return limited
