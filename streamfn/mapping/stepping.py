"""Stopping at failed batches: hand-over pauses until somebody has said what becomes of each.

    a batch fails ─▶ the mapping pauses ─▶ what is staged comes back, what runs ends ─▶ `decide` is asked ─▶ it goes on
                                                                                           └─ None: the run ends there

Lanes that fail meanwhile, because something of theirs still ran, are asked about one after the other, in the order in
which they failed.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson
import trio

from streamfn.core.verdict import Decision
from streamfn.limits import ROLE_ARN
from streamfn.log.segment.rows import rows
from streamfn.mapping.resolving import event_of

if TYPE_CHECKING:
    from streamfn.log.segment.rows import Row
    from streamfn.mapping.lane import ShardLane
    from streamfn.mapping.mapping import EventSourceMapping
    from streamfn.types import Fault


@dataclass(frozen=True, slots=True)
class Stop:
    """A failed batch that waits for a decision.

    Attributes:
        mapping: the mapping's name.
        shard_id: the shard's.
        first_offset: of its first record, or of what comes next where it has none.
        rows: its records, in order; none for the call of a tumbling window.
        attempts: deliveries of these records as one batch so far.
        fault: why the last one did not succeed.
        request_id: the last invocation's.
        event: the event as JSON in UTF-8, as `invoke` takes it.
    """

    mapping: str
    shard_id: str
    first_offset: int
    rows: tuple[Row, ...]
    attempts: int
    fault: Fault
    request_id: str
    event: bytes

    @property
    def can_bisect(self) -> bool:
        """It has more than one record."""
        return len(self.rows) > 1


Decide: TypeAlias = Callable[[Stop], Awaitable[Decision | None]]
"""Says what becomes of a failed batch; None ends the run in front of it. May take its time, and may be cancelled."""


class Stepper:
    """The stops of one run of a mapping."""

    def __init__(self, mapping: EventSourceMapping, decide: Decide) -> None:
        self._mapping = mapping
        self._decide = decide
        self._waiting: deque[ShardLane] = deque()
        self._news = trio.Event()

    def stop(self, lane: ShardLane) -> None:
        """The lane's batch has failed, and waits for a decision. Does not wait, and does not raise."""
        self._waiting.append(lane)
        self._news.set()

    @property
    def stopped(self) -> bool:
        """Some lane waits for a decision."""
        return bool(self._waiting)

    async def run(self) -> None:
        """Ask about what fails, until cancelled or told to end."""
        mapping = self._mapping
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._waiting:
                for lane in mapping.lanes:
                    lane.take_back()
                while any(lane.busy for lane in mapping.lanes):
                    await mapping.runtime.next_round()
                stop = await trio.to_thread.run_sync(_describer(mapping, self._waiting[0]))
                decision = await self._decide(stop)
                if decision is None:
                    mapping.stop()
                    return
                self._waiting.popleft().decide(decision)
            mapping.go_on()


def _describer(mapping: EventSourceMapping, lane: ShardLane) -> Callable[[], Stop]:
    """What reads, in a thread, what is to be known of the batch that the lane waits with; its segments are held."""
    waiting = lane.machine.undecided
    assert waiting is not None, "it fails once, and waits then"
    spans, beside = lane.spans(waiting.first_offset, waiting.records), lane.beside()
    shard_id, watermark, request_id = lane.feed.shard.id, lane.feed.watermark, lane.last_request

    def describe() -> Stop:
        found = [rows(message, number, 1)[0] for message, numbers in spans for number in numbers]
        event: dict[str, Any] = event_of(mapping.stream, shard_id, found, ROLE_ARN)
        if beside:
            event.update(json.loads(beside))
        return Stop(
            mapping.name,
            shard_id,
            found[0].offset if found else watermark,
            tuple(found),
            max(1, waiting.attempt - 1),
            waiting.fault,
            request_id,
            orjson.dumps(event),
        )

    return describe
