"""The seat of a lane on a worker, and what the lane hears from it.

A lane seat is a slot of the worker's rings and an epoch of it: after an outcome that is not a certain
success the worker skips what it still has of that epoch, so the order within a lane holds although
several of its batches are staged.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from streamfn._native import ffi, lib

if TYPE_CHECKING:
    from streamfn.pool.reaper import Reaper
    from streamfn.pool.worker import Worker

_submit_run = lib.sf_port_submit_run


class FailureKind(Enum):
    """How an invocation that was begun did not succeed."""

    HANDLER = "handler"  # the handler raised, or its response could not be used: there is an error document
    TIMEOUT = "timeout"  # it was killed at its timeout
    CRASHED = "crashed"  # its process ended
    OUT_OF_MEMORY = "out of memory"  # its process was ended because it used more memory than it may
    KILLED = "killed"  # we killed its process for the sake of something else that was staged there
    RESPONSE = "response"  # the handler returned, but not what is success for certain: the payload is to be judged


class Answer(NamedTuple):
    """What came of one invocation.  Times are CLOCK_MONOTONIC nanoseconds.

    `payload` is the response or the error document, `log` what was printed and has not been handed out by
    `printed`; `log_dropped` counts bytes of the invocation's output that were skipped.  `detail` says how
    a process ended that ended: "exit status 1", "signal: killed".  `is_first`: nothing had run on the worker before.
    """

    invocation: int
    records: int
    submitted_ns: int
    started_ns: int
    finished_ns: int
    payload: bytes
    log: bytes
    log_dropped: int = 0
    detail: str = ""
    is_first: bool = False


class LaneClient(Protocol):
    """What a lane hears.  Called in the order of submission, from the reap loop: must not raise.

    These calls note; what follows from them is done in `on_round`, where slots and room are free again.
    """

    def succeeded(self, batches: int, finished_ns: int) -> None:
        """The `batches` oldest in flight succeeded."""

    def completed(self, answer: Answer) -> None:
        """The oldest in flight succeeded; told one by one because it printed, or folding is off."""

    def failed(self, answer: Answer, kind: FailureKind) -> None:
        """The oldest in flight failed, or did not succeed for certain (`FailureKind.RESPONSE`): nothing of the lane
        and epoch runs behind it."""

    def returned(self, batches: int) -> None:
        """The `batches` oldest in flight were not run and will not be."""

    def recalled(self) -> None:
        """The pool revokes what has not begun: stage nothing behind it before all of it is answered."""

    def printed(self, invocation: int, log: bytes) -> None:
        """The oldest in flight, running for some time, has printed this since the last time."""


class LaneSeat:
    """One lane's seat on one worker.  When the worker goes away, everything in flight is answered, and the
    seat takes nothing any more: ask `worker.ready` and sit down elsewhere."""

    __slots__ = (
        "_duration",
        "_latency",
        "_port",
        "_reaper",
        "_slot",
        "client",
        "epoch",
        "in_flight",
        "measured",
        "worker",
    )

    def __init__(
        self,
        worker: Worker,
        reaper: Reaper,
        slot: int,
        epoch: int,
        client: LaneClient,
        latency: Any,
        duration: Any,
    ) -> None:
        self.worker = worker
        self.epoch = epoch
        self.in_flight = 0
        self._reaper = reaper
        self._port = worker.port
        self._slot = slot
        self.client = client
        # The port writes to the histograms for as long as anything is in flight.
        self._latency = latency
        self._duration = duration
        self.measured: tuple[Any, Any] | None = None  # what the port writes to until the seat is left

    def measure(self, meter: Any, due: Any) -> bool:
        """Count the answers in a meter (`sf_meter *`), with the due times of a queue (`sf_due *` or NULL), from now on.

        False where there is no memory for it.
        """
        self.measured = (meter, due)
        return bool(lib.sf_port_measure(self._port, self._slot, meter, due))

    def submit_run(self, extent: Any, rows_per_batch: int, batches: int, now_ns: int) -> int:
        """Stage up to `batches` consecutive batches of one message; returns how many there was room for.

        `extent` is an `sf_extent *` to the first row, `now_ns` the present on CLOCK_MONOTONIC.  Nothing is
        visible to the worker before `publish`.
        """
        worker = self.worker
        if not worker.ready:
            return 0
        reaper = self._reaper
        first = reaper.next_invocation
        count: int = _submit_run(
            self._port,
            self._slot,
            self.epoch,
            extent,
            rows_per_batch,
            batches,
            first,
            now_ns,
            self._latency,
            self._duration,
        )
        if count:
            self._note(worker, first, count, now_ns)
        return count

    def submit_rows(self, extent: Any, rows: Any, rows_per_batch: int, batches: int, now_ns: int) -> int:
        """Stage up to `batches` batches of selected rows of one message; returns how many there was room for.

        `rows` is a buffer of uint32, the row numbers of all these batches, ascending.  Of `extent` (`sf_extent *`)
        segment, columns and `first_offset` are used, the last being that of the message's first row.  Else as
        `submit_run`.
        """
        worker = self.worker
        if not worker.ready:
            return 0
        numbers = ffi.from_buffer("uint32_t[]", rows)
        assert len(numbers) >= rows_per_batch * batches, "fewer row numbers than the batches have rows"
        first = self._reaper.next_invocation
        count: int = lib.sf_port_submit_rows(
            self._port,
            self._slot,
            self.epoch,
            extent,
            numbers,
            rows_per_batch,
            batches,
            first,
            now_ns,
            self._latency,
            self._duration,
        )
        if count:
            self._note(worker, first, count, now_ns)
        return count

    def submit(self, extents: Any, count: int, now_ns: int, selection: Any = b"") -> bool:
        """Stage one batch of `count` extents (`sf_extent *`).  False when there is no room for it now.

        `selection` is a buffer of uint32: the row numbers of those extents whose rows are selected (sf_extent.h).
        """
        worker = self.worker
        if not worker.ready:
            return False
        first = self._reaper.next_invocation
        numbers = ffi.from_buffer("uint32_t[]", selection)
        taken = lib.sf_port_submit(
            self._port,
            self._slot,
            self.epoch,
            extents,
            count,
            numbers,
            len(numbers),
            first,
            now_ns,
            self._latency,
            self._duration,
        )
        if taken:
            self._note(worker, first, 1, now_ns)
        return bool(taken)

    def _note(self, worker: Worker, first: int, count: int, now_ns: int) -> None:
        self._reaper.next_invocation = first + count
        if not worker.in_flight:
            worker.progress_ns = now_ns
        worker.in_flight += count
        self.in_flight += count
        worker.staged.append([self, first, count])

    def publish(self) -> None:
        """Make what was staged visible to the worker, and wake it if it sleeps."""
        if self.worker.ready:
            self._reaper.publish(self.worker)

    def revoke(self) -> int:
        """Take back what the worker has not begun; each comes as `returned`.  Returns how many."""
        if not self.worker.ready:
            return 0
        return int(lib.sf_port_revoke(self._port, self._slot))

    def renew(self) -> None:
        """Begin the next epoch, after a failure; only when nothing is in flight."""
        assert self.in_flight == 0, "an epoch ends when everything of it is answered"
        self.epoch += 1

    def leave(self) -> None:
        """Give the slot back; only when nothing is in flight."""
        assert self.in_flight == 0, "a seat is left when everything is answered"
        self.worker.vacate(self._slot, self)
