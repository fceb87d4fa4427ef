"""The time that the records of one run live in, beside the clock that everybody acts by.

Without a schedule it is the time in which they arrived.  With one, moment 0 of the schedule is when the run begins, and
a record lives from when it is due.
"""

from __future__ import annotations

from streamfn.core.schedule import Schedule


class Timeline:
    """Moments of one run: nanoseconds on CLOCK_MONOTONIC, and milliseconds since 1970 for what records are told.

    Attributes:
        schedule: when records are due; None: they are there when they have arrived.
        began_ns: moment 0 of the schedule; 0 before `begin`.
        keeps_arrivals: records count as having arrived when they were captured, in spite of a schedule: one that waits
            for nothing would put all of them into one tumbling window.
    """

    def __init__(self, schedule: Schedule | None = None, *, windows: bool = False) -> None:
        """`windows`: whether the run has tumbling windows."""
        self.schedule = schedule
        self.began_ns = 0
        self.keeps_arrivals = schedule is not None and not schedule.paced and windows
        self._began_ms = 0
        self._stood_ns = 0  # since when; 0: it does not stand still

    @property
    def paced(self) -> bool:
        """Whether records may not be due when they are read."""
        return self.schedule is not None and self.schedule.paced

    def begin(self, now_ns: int, now_ms: int) -> None:
        """The run begins: what is due at once is due now."""
        self.began_ns, self._began_ms = now_ns, now_ms

    def ms_at(self, ns: int) -> int:
        """What milliseconds since 1970 a moment of this run is, however the clock is set meanwhile."""
        return self._began_ms + (ns - self.began_ns) // 1_000_000

    def stand(self, now_ns: int) -> None:
        """From now on nothing comes due, and nothing grows older, until `go_on`; harmless where it stands already."""
        self._stood_ns = self._stood_ns or now_ns

    def go_on(self, now_ns: int) -> int:
        """Everything that was not due when it stood is due so many nanoseconds later, which are returned."""
        stood_ns, self._stood_ns = now_ns - self._stood_ns if self._stood_ns else 0, 0
        self.began_ns += stood_ns
        return stood_ns
