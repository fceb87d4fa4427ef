"""A lane with tumbling windows at work: what `ShardLane` does, one invocation at a time, each with its window.

What an invocation is told of its window comes to the worker as a document: a descriptor of memory, introduced like a
segment's and named by the batch's first extent. It lives for one delivery. Every response is judged here, because
every one has a state that goes to the next invocation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamfn.core.tumbling import WindowLane
from streamfn.core.verdict import Discarded
from streamfn.events.partial import Failed, Partly
from streamfn.events.window import document, judge
from streamfn.mapping import documents
from streamfn.mapping.lane import ShardLane
from streamfn.mapping.outcome import reported
from streamfn.mapping.pieces import sequence_numbers
from streamfn.mapping.source import DOCUMENT_HEADER
from streamfn.pool.lane import FailureKind
from streamfn.types import Envelope, Fault, Run, Window

if TYPE_CHECKING:
    from streamfn.mapping.feed import ShardFeed
    from streamfn.pool.lane import Answer
    from streamfn.state.discards import Discard


class WindowedLane(ShardLane):
    """The shell of one lane with windows. The shard has no other lane."""

    def __init__(self, feed: ShardFeed, machine: WindowLane) -> None:
        self._windows = machine
        self._document: int | None = None  # that of what is in flight
        self._told: Envelope | None = None  # what it said
        super().__init__(feed, machine)

    @property
    def window(self) -> Window | None:
        """Where the shard's windows are."""
        return self._windows.window

    def offset_of(self, position: int) -> int:
        """The shard offset of the record at `position`; where calls stand, of what comes next."""
        if not self._pieces or self._pieces[-1].end <= position:
            return self.feed.watermark
        return super().offset_of(position)

    def hand_over(self) -> bool:
        """Hand over what is due, knowing whether windows are over."""
        if self.feed.at_end:
            self._windows.read_up_to(self._owner.time_ms(), self._owner.now_ns())
        return super().hand_over()

    def _gathering(self) -> bool:
        return not self._windows.complete and super()._gathering()

    def _submit(self, run: Run, now: int) -> int:
        name = self._introduce_document()
        if name is None:
            return 0
        if self._submit_across(run.first_offset, run.records, now, name):
            self._document = name
            return 1
        self._retire(name)
        return 0

    def _introduce_document(self) -> int | None:
        """Give the worker what the invocation is told of its window; None when its socket is full."""
        assert self.seat is not None
        self._told = self._windows.envelope
        return documents.introduce(self.seat.worker, self.beside(), DOCUMENT_HEADER)

    def beside(self) -> bytes:
        """What the last invocation was told of its window."""
        assert self._told is not None
        return document(self._told, self.feed.shard.id, self._owner.stream.arn)

    def _retire(self, name: int) -> None:
        assert self.seat is not None
        self.seat.worker.let_go(name)

    def _settle(self) -> None:
        if self._document is not None:
            self._retire(self._document)
            self._document = None
        super()._settle()

    # No worker says that a window's invocation succeeded for certain, but a handler may have written to its rings.

    def succeeded(self, batches: int, finished_ns: int) -> None:
        """There is no state in this: it counts as failed."""
        self._unhandled = False
        fault, offset = reported("the worker's answer has no response", b""), self.offset_of(self.machine.watermark)
        self._windows.failed(self._owner.now_ns(), fault)
        self._owner.failed(self.feed.shard.id, offset, 0, fault)
        self._judged()

    def completed(self, answer: Answer) -> None:
        """The response is judged as every other one."""
        self.failed(answer, FailureKind.RESPONSE)

    def _judge(self, answer: Answer, first: int) -> tuple[Fault | None, int]:
        machine, owner, now = self._windows, self._owner, self._owner.now_ns()
        numbers = sequence_numbers(self.spans(first, answer.records)) if owner.reports_failures else None
        verdict, state = judge(answer.payload, numbers)
        if isinstance(verdict, Failed):
            machine.failed(now, fault := reported(verdict.reason, answer.payload))
            return fault, 0
        if isinstance(verdict, Partly):
            assert numbers is not None
            fault = reported(f"the record {numbers[verdict.done]} was reported", answer.payload)
            machine.partly(verdict.done, now, fault, state=state)
            owner.succeeded(0, verdict.done)
            return fault, verdict.done
        machine.succeeded(1, now, state=state)
        owner.succeeded(1 if answer.records else 0, answer.records)  # a call is no batch
        if self._told is not None and self._told.is_final:
            owner.counts.windows_closed += 1
        return None, answer.records

    def _row_of(self, gone: Discarded) -> Discard:
        if gone.records:
            return super()._row_of(gone)
        assert self._told is not None
        return self._owner.gave_up(self.feed.shard.id, self.feed.watermark, gone, self._told)
