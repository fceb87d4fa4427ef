"""Running mappings at one moment, for whoever watches: the live view of `run`, `replay` and `bench`, plain lines.

An `Observer` is asked now and then and makes a `Snapshot`, plain values that any thread may draw. What it looks at it
does not change, and nothing on the hot path knows of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from streamfn.mapping.result import Counts
from streamfn.measure.recent import Rate, Recent
from streamfn.pool.function import Census

if TYPE_CHECKING:
    from streamfn.mapping.mapping import EventSourceMapping

PERCENTILES = (50.0, 90.0, 99.0)
# Of the history there is a point for each second, and so many of them.
POINT_S = 1.0
POINTS = 60


@dataclass(frozen=True, slots=True)
class RetryingShard:
    """A shard that waits to try its failed batch again.

    `attempt` counts the attempts that have failed; `next_attempt_s` is how far off the next one is, 0 while
    it is running; `reason` is the error's type and message.
    """

    shard_id: str
    attempt: int
    reason: str
    next_attempt_s: float
    first_offset: int
    records: int


class LastError(NamedTuple):
    """An invocation that failed: on which shard, at which offset, why (type and message), when (monotonic clock)."""

    shard_id: str
    offset: int
    reason: str
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Running mappings at one moment.

    Attributes:
        name: what runs, as a heading; empty: none.
        note: what else there is to say of it (the rate that is offered, the row of a sweep); empty: nothing.
        elapsed_s: since the start of the run.
        records: finished by this run.
        records_per_second: of late, not over the whole run.
        history: records a second in each of the last POINTS whole seconds, the oldest first.
        lag_records: not finished yet: up to the committed end, or to where a run until caught up ends; in a paced run
            (`bench`, `replay --speed`) those that are due, see `EventSourceMapping.lag`.
        lag_ms: age of the oldest record that is not finished (iterator age); None if there is none.
        total_records: what this run has to do in all; None if it follows the stream.
        left_s: how long it takes until all that is done, or the lag is gone, at the pace of late; None if it never is.
        latency_ms: percentiles (`p50`, `p90`, `p99`) and `max` of late, in milliseconds: of each invocation from when
            it was handed over to its end; in a run with a schedule of each record from when it was due. Empty: none.
        errors: failed invocations; `retries`: invocations with a batch that had failed before.
        last_error: the last of them; None if there was none.
        workers: what the functions' workers do.
        no_worker: why there are fewer of them than there should be, if a new one cannot be made.
        retrying: shards that wait for a retry.
        discarded: records that this run has given up.
        paused: why hand-over pauses (no disk space), if it does.
        draining: whether a signal has asked it to end.
        now_ns: when it was taken, on the monotonic clock.
    """

    elapsed_s: float
    records: int
    records_per_second: float
    lag_records: int
    lag_ms: int | None
    errors: int
    workers: Census
    name: str = ""
    note: str = ""
    history: Sequence[float] = ()
    total_records: int | None = None
    left_s: float | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    retries: int = 0
    last_error: LastError | None = None
    no_worker: str | None = None
    retrying: Sequence[RetryingShard] = ()
    discarded: int = 0
    paused: str | None = None
    draining: bool = False
    now_ns: int = 0


class Observer:
    """Remembers of earlier looks what a later one needs: rates, percentiles of late. Belongs to the Trio thread."""

    def __init__(self, *, name: str = "") -> None:
        self.name = name
        self.note = ""
        self.begin()

    def begin(self) -> None:
        """The run begins now: forget what was seen before."""
        self._began_s = time.monotonic()
        self._rate = Rate(self._began_s)
        self._left: Rate | None = None
        self._recent = Recent()
        self._history: deque[float] = deque(maxlen=POINTS)
        self._point_s, self._point_records = self._began_s, 0

    def look(
        self,
        mappings: Sequence[EventSourceMapping],
        *,
        before: Counts | None = None,
        total_records: int | None = None,
        bounded: bool = False,
        draining: bool = False,
    ) -> Snapshot:
        """What there is to see of these mappings now.

        `before` is what runs that have ended count as well. `total_records` is what there is to do in all; where it is
        not given and the run is `bounded`, that is what was done and what remains.
        """
        now_s, now_ns = time.monotonic(), time.monotonic_ns()
        counts = sum((mapping.counts for mapping in mappings), before or Counts())
        ages = [age for mapping in mappings for age in ages_ms(mapping).values() if age is not None]
        lag = sum(mapping.lag for mapping in mappings)
        if total_records is None and bounded:
            total_records = counts.records + sum(mapping.remaining for mapping in mappings)
        functions = {mapping.function: None for mapping in mappings}
        self._recent.look([latency_of(mapping) for mapping in mappings], now_s)
        errors = [mapping.last_error for mapping in mappings if mapping.last_error is not None]
        return Snapshot(
            name=self.name,
            note=self.note,
            elapsed_s=now_s - self._began_s,
            records=counts.records,
            records_per_second=self._rate.update(counts.records, now_s),
            history=self._points(counts.records, now_s),
            lag_records=lag,
            lag_ms=max(ages, default=None),
            total_records=total_records,
            left_s=self._left_s(lag if total_records is None else max(0, total_records - counts.records), now_s),
            latency_ms=self._recent.milliseconds(PERCENTILES),
            errors=counts.errors,
            retries=counts.retries,
            last_error=max(errors, key=lambda error: error.at_ns, default=None),
            workers=sum((function.census() for function in functions), Census()),
            no_worker=next((str(function.fault) for function in functions if function.fault is not None), None),
            retrying=[shard for mapping in mappings for shard in retrying_shards(mapping)],
            discarded=counts.discarded,
            paused=next((mapping.stuck for mapping in mappings if mapping.stuck is not None), None),
            draining=draining,
            now_ns=now_ns,
        )

    def _points(self, records: int, now_s: float) -> tuple[float, ...]:
        seconds = now_s - self._point_s
        if seconds >= POINT_S:
            self._history.append((records - self._point_records) / seconds)
            self._point_s, self._point_records = now_s, records
        return tuple(self._history)

    def _left_s(self, left: int, now_s: float) -> float | None:
        if self._left is None:
            self._left = Rate(now_s, -left)
            return None
        per_second = self._left.update(-left, now_s)
        return left / per_second if left and per_second > 0 else None


def latency_of(mapping: EventSourceMapping) -> Any:
    """The `sf_histogram *` of a mapping's latencies, see `Snapshot.latency_ms`."""
    return mapping.latency if mapping.stages is None or mapping.timeline.schedule is None else mapping.stages["latency"]


def ages_ms(mapping: EventSourceMapping) -> dict[str, int | None]:
    """How old the oldest record of each shard is that is not finished; None where there is none, or it is unread."""
    now_ms = mapping.time_ms()
    arrivals = {feed.shard.id: feed.oldest_arrival_ms() for feed in mapping.feeds}
    return {shard_id: None if arrival is None else now_ms - arrival for shard_id, arrival in arrivals.items()}


def retrying_shards(mapping: EventSourceMapping) -> list[RetryingShard]:
    """What waits to be delivered again."""
    now_ns = mapping.now_ns()
    found = []
    for lane in mapping.lanes:
        retry = lane.machine.retrying
        if retry is not None:
            found.append(
                RetryingShard(
                    shard_id=lane.feed.shard.id,
                    attempt=lane.machine.attempts,
                    reason=f"{retry.fault.error_type}: {retry.fault.message}",
                    next_attempt_s=0 if lane.busy else max(0.0, (retry.due_ns - now_ns) / 1e9),
                    first_offset=lane.offset_of(retry.first_offset),
                    records=retry.records,
                )
            )
    return found
