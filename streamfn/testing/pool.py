"""A worker that does what a script says, with the manners of a real one and none of its processes.

It keeps the contract of the rings (native/include/sf_ring.h): entries are answered in order, each exactly
once; an entry is claimed before it runs and can be revoked until then; after an outcome that is not a
certain success the rest of that lane's epoch is skipped; when the worker dies, what was answered is still
reaped, the claimed entry counts as crashed, and the others as not run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, Protocol

from streamfn.testing.clock import Agenda


class Outcome(Enum):
    """How an entry is answered."""

    OK = auto()
    FAILED = auto()
    CRASHED = auto()
    NOT_RUN = auto()


@dataclass(eq=False, slots=True)
class Entry:
    """One batch that was submitted.  `epoch` is the seat's, not the mapping's owner's."""

    lane: object
    epoch: int
    first_offset: int
    records: int
    attempt: int
    invocation: int
    revoked: bool = False


class Answer(NamedTuple):
    """What became of the oldest entry that was not answered yet."""

    entry: Entry
    outcome: Outcome


class Script(Protocol):
    """What happens in the worker, and how fast."""

    def started(self, entry: Entry) -> tuple[int, Outcome]:
        """The worker was handed this entry: how long it takes (ns) and how it ends (not NOT_RUN)."""

    def ended(self, entry: Entry, ok: bool) -> None:
        """It is over; `ok` is False also if the worker died of something else meanwhile."""

    def reap_delay_ns(self) -> int:
        """How long an answer waits for the runtime to look."""


@dataclass(eq=False, slots=True)
class ScriptedWorker:
    """One worker process: alive until it crashes or is killed, and never again."""

    agenda: Agenda
    script: Script
    capacity: int
    on_answers: Callable[[ScriptedWorker, list[Answer]], None]
    alive: bool = True
    in_flight: int = 0  # submitted, and not reaped yet
    _staged: deque[Entry] = field(default_factory=deque)
    _running: Entry | None = None
    _answers: list[Answer] = field(default_factory=list)
    _failed: dict[object, int] = field(default_factory=dict)  # by lane: the epoch that is to be skipped
    _reap_is_due: bool = False

    @property
    def room(self) -> int:
        """Entries that can be submitted now."""
        return self.capacity - self.in_flight if self.alive else 0

    def submit(self, entry: Entry) -> None:
        """Stage an entry behind the others."""
        assert self.room > 0
        self.in_flight += 1
        self._staged.append(entry)
        if self._running is None:
            self._next()

    def revoke(self, lane: object) -> int:
        """Take back what `lane` has staged and is not claimed.  How many; each is still answered."""
        entries = [entry for entry in self._staged if entry.lane == lane and not entry.revoked]
        for entry in entries:
            entry.revoked = True
        return len(entries)

    def kill(self) -> None:
        """SIGKILL, from outside or by the handler's own doing."""
        if not self.alive:
            return
        self.alive = False
        if self._running is not None:
            self.script.ended(self._running, False)
            self._answers.append(Answer(self._running, Outcome.CRASHED))
            self._running = None
        self._answers += [Answer(entry, Outcome.NOT_RUN) for entry in self._staged]
        self._staged.clear()
        self._reap_later()

    def _next(self) -> None:
        while self._staged and self._running is None:
            entry = self._staged.popleft()
            if entry.revoked or entry.epoch <= self._failed.get(entry.lane, -1):
                self._answer(entry, Outcome.NOT_RUN)
                continue
            self._running = entry
            duration_ns, outcome = self.script.started(entry)
            self.agenda.after(duration_ns, lambda entry=entry, outcome=outcome: self._finish(entry, outcome))  # type: ignore[misc]

    def _finish(self, entry: Entry, outcome: Outcome) -> None:
        if not self.alive:
            return
        if outcome is Outcome.CRASHED:
            self.kill()
            return
        self._running = None
        self.script.ended(entry, outcome is Outcome.OK)
        if outcome is not Outcome.OK:
            self._failed[entry.lane] = entry.epoch
        self._answer(entry, outcome)
        self._next()

    def _answer(self, entry: Entry, outcome: Outcome) -> None:
        self._answers.append(Answer(entry, outcome))
        self._reap_later()

    def _reap_later(self) -> None:
        if self._answers and not self._reap_is_due:
            self._reap_is_due = True
            self.agenda.after(self.script.reap_delay_ns(), self._reap)

    def _reap(self) -> None:
        self._reap_is_due = False
        answers, self._answers = self._answers, []
        self.in_flight -= len(answers)
        self.on_answers(self, answers)
