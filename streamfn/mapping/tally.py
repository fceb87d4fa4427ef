"""Lambda's event counts of a mapping, and how its last batch went, on their way into the store.

What counts as what, where the Developer Guide ("Event source mapping metrics") leaves it open:

    polled          read from the log; what was read ahead and not handed over is counted again by the next run
    filtered out    wanted by no filter
    invoked         delivered to an invocation that ended, as often as it was
    failed invoke   of these, what the invocation did not do: all of a batch that failed, the rest of one that succeeded
                    in part
    dropped         discarded by retry limit, age or size without an on-failure destination
"""

from __future__ import annotations

from dataclasses import dataclass

from streamfn.mapping.lifecycle import CALL_FAILED, OK
from streamfn.state.progress import Progress


@dataclass(slots=True)
class Tally:
    """What is not in the store yet."""

    polled: int = 0
    filtered_out: int = 0
    invoked: int = 0
    failed_invoke: int = 0
    dropped: int = 0
    last_result: str = ""
    _told: str = ""  # the last result as the store has it

    def succeeded(self, records: int) -> None:
        """An invocation did these records."""
        self.invoked += records
        self.last_result = OK

    def failed(self, records: int) -> bool:
        """An invocation did not do these records; whether that is news to the store."""
        self.invoked += records
        self.failed_invoke += records
        self.last_result = CALL_FAILED
        return self._told != CALL_FAILED

    def pending(self) -> Progress | None:
        """What is to be written; None if there is nothing."""
        news = self.last_result if self.last_result != self._told else ""
        counts = (self.polled, self.filtered_out, self.invoked, self.failed_invoke, self.dropped)
        return Progress(news, *counts) if news or any(counts) else None

    def written(self, progress: Progress) -> None:
        """The store has this now; what has been counted meanwhile is still to be written."""
        self._told = progress.last_result or self._told
        self.polled -= progress.polled
        self.filtered_out -= progress.filtered_out
        self.invoked -= progress.invoked
        self.failed_invoke -= progress.failed_invoke
        self.dropped -= progress.dropped
