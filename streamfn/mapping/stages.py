"""Where the time of a run goes, stage by stage, in histograms.

    latency       due -> finished            each record; without a schedule it counts as due when it is submitted
    waiting       due -> submitted           each record: for its batch, for its turn in the lane, for the runtime
    queueing      submitted -> claimed       each invocation that ran, failed ones among them, as are the next three
    building      claimed -> handler called  the event; where the workers stamp that (`RunOptions.measured`)
    handler       called -> finished         without that stamp: claimed -> finished
    completion    finished -> reaped
    checkpoint    reaped -> durable          each time that a shard's watermark moved

All but the last are recorded in C (`native/include/sf_meter.h`), by whoever reaps.  Values are nanoseconds.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from streamfn._native import ffi, lib
from streamfn.measure.histogram import new_histogram

STAGES = ("latency", "waiting", "queueing", "building", "handler", "completion", "checkpoint")
_IN_C = len(STAGES) - 1
assert _IN_C == lib.SF_STAGES


class Stages:
    """The histograms of one run, by the names of STAGES: cdata `sf_histogram *` that live as long as this."""

    def __init__(self) -> None:
        self.meter = ffi.gc(lib.sf_meter_new(), lib.sf_meter_free)
        if self.meter == ffi.NULL:
            raise MemoryError("no memory for the histograms of a run")
        self._checkpoint = new_histogram()
        self._from_ns = 0
        self._moved: dict[str, deque[tuple[int, int]]] = {}  # watermarks that are not durable yet, and since when

    def __getitem__(self, stage: str) -> Any:
        index = STAGES.index(stage)
        return lib.sf_meter_stage(self.meter, index) if index < _IN_C else self._checkpoint

    def count_from(self, from_ns: int) -> None:
        """From now on count only what was due, or submitted, at `from_ns` (CLOCK_MONOTONIC) or later."""
        self._from_ns = from_ns
        lib.sf_meter_count_from(self.meter, from_ns)

    def lane(self) -> DueTimes:
        """Room for the due times of one lane."""
        return DueTimes(self.meter)

    def moved(self, shard_id: str, watermark: int, now_ns: int) -> None:
        """Records of the shard have got their disposition."""
        self._moved.setdefault(shard_id, deque()).append((watermark, now_ns))

    def committed(self, shard_id: str, offset: int, now_ns: int) -> None:
        """The shard's checkpoint is durable."""
        moved = self._moved.get(shard_id, ())
        while moved and moved[0][0] <= offset:
            _, moved_ns = moved.popleft()
            if moved_ns >= self._from_ns:
                lib.sf_histogram_record(self._checkpoint, now_ns - moved_ns)


class DueTimes:
    """When the records of one lane were due, by their positions, for as long as they are not done."""

    def __init__(self, meter: Any) -> None:
        self.queue = ffi.gc(lib.sf_due_new(), lib.sf_due_free)
        if self.queue == ffi.NULL:
            raise MemoryError("no memory for a lane's due times")
        self._meter = meter

    def offer(self, position: int, times: Any) -> None:
        """The records from `position` on were due at `times`, a buffer of int64 on CLOCK_MONOTONIC."""
        if not lib.sf_due_offer(self.queue, position, ffi.from_buffer("int64_t[]", times), len(times)):
            raise MemoryError("no memory for a lane's due times")

    def done(self, position: int, submitted_ns: int, finished_ns: int) -> None:
        """What lies below `position` was done, by an invocation with these stamps that was no certain success."""
        lib.sf_due_pass(self.queue, self._meter, position, submitted_ns, finished_ns)

    def given_up(self, position: int) -> None:
        """What lies below `position` will not be done."""
        lib.sf_due_pass(self.queue, self._meter, position, 0, 0)

    def first_ns(self) -> int | None:
        """When the first record that is not done was due; None where that is not known."""
        first = int(lib.sf_due_first(self.queue))
        return None if first == 2**63 - 1 else first
