"""R1, R2 and R12: what was put is in the log and is what was put; what was accepted comes to its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from streamfn.testing.checker.history import Accepted, Acknowledged, Attempted, Gone, Logged, Put, Settled

Report = Callable[[str, str, str], None]


class LogWitness:
    """Compares what producers, workers and a scan say of the log."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._put: Counter[Hashable] = Counter()
        self._acknowledged: dict[tuple[str, int], Acknowledged] = {}
        self._content: dict[tuple[str, int], Hashable] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._found: dict[tuple[str, int], Hashable] = {}
        self._last: dict[str, Logged] = {}
        self._gone: dict[str, int] = {}
        self._scanned = False

    def put(self, event: Put) -> None:
        """A producer begins."""
        self._put[event.record] += 1

    def acknowledged(self, event: Acknowledged) -> None:
        """A producer has its answer."""
        self._acknowledged[event.shard, event.offset] = event
        self._says(event.shard, event.offset, event.record, event.sequence_number)

    def seen(self, shard: str, offset: int, record: Hashable) -> None:
        """A worker has found this record in an event."""
        self._says(shard, offset, record, "")

    def gone(self, event: Gone) -> None:
        """Records need not be there any more."""
        self._gone[event.shard] = max(self._gone.get(event.shard, 0), event.end_offset)

    def logged(self, event: Logged) -> None:
        """A scan of the log found this."""
        self._scanned = True
        last = self._last.get(event.shard)
        where = f"{event.shard}: {event.offset}"
        if last is not None and event.offset != last.offset + 1 and event.offset > self._gone.get(event.shard, 0):
            self._report("R2", "log-nonmonotonic", f"{where} after {last.offset}")
        if last is not None and not _rises(last.sequence_number, event.sequence_number):
            self._report("R2", "log-nonmonotonic", f"{where}: {event.sequence_number} after {last.sequence_number}")
        self._last[event.shard] = event
        self._found[event.shard, event.offset] = event.record
        promised = self._acknowledged.get((event.shard, event.offset))
        if promised is not None and promised.record != event.record:
            self._report("R1", "corrupt-record", f"{where} is {event.record!r}, acknowledged was {promised.record!r}")
        elif self._put:
            self._put[event.record] -= 1
            if self._put[event.record] < 0:
                self._report("R1", "phantom-record", f"{where}: nobody put {event.record!r} (so often)")
        self._says(event.shard, event.offset, event.record, event.sequence_number)

    def finish(self) -> None:
        """The scan, if there was one, is complete."""
        if not self._scanned:
            return
        for (shard, offset), event in self._acknowledged.items():
            if (shard, offset) not in self._found and offset >= self._gone.get(shard, 0):
                self._report("R1", "lost-append", f"{shard}: {offset} {event.record!r} was acknowledged")

    def _says(self, shard: str, offset: int, record: Hashable, number: str) -> None:
        known = self._content.setdefault((shard, offset), record)
        if known != record:
            self._report("R2", "inconsistent-content", f"{shard}: {offset} was {known!r} and is {record!r}")
        if number and self._numbers.setdefault((shard, number), offset) != offset:
            before = self._numbers[shard, number]
            self._report("R2", "inconsistent-content", f"{shard}: {number} names {before} and {offset}")


def _rises(before: str, after: str) -> bool:
    return not before or not after or int(before) < int(after)


class LaterWitness:
    """R12: everything accepted is tried, and settled exactly once."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._attempts: Counter[Hashable] = Counter()
        self._settled: dict[Hashable, str] = {}
        self._accepted: dict[Hashable, None] = {}

    def feed(self, event: Accepted | Attempted | Settled) -> None:
        """Take note of what happened next."""
        match event:
            case Accepted(request):
                self._accepted[request] = None
                return
            case Attempted(request):
                self._attempts[request] += 1
                if request in self._settled:
                    self._report(
                        "R12", "settled-twice", f"{request!r} is tried although it is {self._settled[request]}"
                    )
            case Settled(request, state):
                if request in self._settled:
                    self._report("R12", "settled-twice", f"{request!r}: {state} after {self._settled[request]}")
                if not self._attempts[request] and state != "expired":
                    self._report("R12", "never-tried", f"{request!r} is {state}")
                self._settled[request] = state
        if request not in self._accepted:
            self._report("R12", "unknown-request", f"{event!r}")

    def finish(self) -> None:
        """Nothing more will happen."""
        for request in self._accepted:
            if request not in self._settled:
                self._report("R12", "unsettled", f"{request!r}, tried {self._attempts[request]} times")
