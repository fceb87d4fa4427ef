"""How many invocations a replay takes, and how long, if each invocation took so long: a model, run without a handler.

A lane is followed through its records by when they are due: it cuts a batch when that is full, or when the batch
window has passed, and is busy with it for as long as an invocation is said to take. Lanes do not know of each other;
that there are only so many workers is put in at the end, as the time that all invocations together keep them busy.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streamfn.core.batcher import BatchRules


class Estimate(NamedTuple):
    """What it comes to: invocations, and seconds until the last one has ended."""

    invocations: int
    seconds: float


@dataclass(slots=True)
class LaneModel:
    """One lane; `invocation_ns` is how long an invocation is taken to last. Times count from the replay's start."""

    rules: BatchRules
    invocation_ns: int
    invocations: int = 0
    free_ns: int = 0  # when the invocation before has ended
    _records: int = 0  # of the batch that is being filled
    _bytes: int = 0
    _opened_ns: int = 0  # when the first of them was due
    _latest_ns: int = 0  # and the last of them

    def offer(self, due: Sequence[int], prefix_bytes: Sequence[int]) -> None:
        """More records: when they are due, never decreasing, and the running sums of their sizes, one more."""
        row, count = 0, len(due)
        room = self.rules.event_bytes_max - self.rules.frame_bytes
        while row < count:
            if not self._records:
                self._opened_ns = due[row]
            by_count = row + self.rules.batch_size - self._records
            by_size = bisect_right(prefix_bytes, prefix_bytes[row] + room - self._bytes, row, count + 1) - 1
            if by_size == row and not self._records:  # too big for any event: discarded, not delivered
                row += 1
                continue
            goes_ns = max(self._opened_ns, self.free_ns + self.rules.window_ns)
            there = bisect_right(due, goes_ns, row, count)
            if by_count <= min(there, by_size):
                self._take(due, prefix_bytes, row, by_count)
                self._send(max(self.free_ns, self._latest_ns))
            elif by_size < there:  # the next one is there, and does not fit
                self._take(due, prefix_bytes, row, by_size)
                self._send(max(self.free_ns, due[by_size]))
            elif there < count:
                self._take(due, prefix_bytes, row, there)
                self._send(goes_ns)
            else:
                self._take(due, prefix_bytes, row, count)
            row = min(by_count, by_size, there)

    def finish(self) -> None:
        """There are no more records: the last batch goes as it is."""
        if self._records:
            self._send(max(self._latest_ns, self.free_ns))

    def _take(self, due: Sequence[int], prefix_bytes: Sequence[int], row: int, end: int) -> None:
        """Rows up to `end` are in the batch."""
        if end > row:
            self._records += end - row
            self._bytes += prefix_bytes[end] - prefix_bytes[row]
            self._latest_ns = due[end - 1]

    def _send(self, at_ns: int) -> None:
        self.invocations += 1
        self.free_ns = at_ns + self.invocation_ns
        self._records = self._bytes = 0


def estimate(lanes: Sequence[LaneModel], workers: int) -> Estimate:
    """Put lanes that are finished together, on so many workers."""
    invocations = sum(lane.invocations for lane in lanes)
    busy_ns = sum(lane.invocations * lane.invocation_ns for lane in lanes) / workers
    return Estimate(invocations, max(busy_ns, max((lane.free_ns for lane in lanes), default=0)) / 1e9)
