"""A worker that does what a script says, with the manners of a real one and none of its processes.

It keeps the contract of the rings (native/include/sf_ring.h): entries are answered in order, each exactly
once; an entry is claimed before it runs and can be revoked until then; after an outcome that is not a
certain success the rest of that lane's epoch is skipped; when the worker dies, what was answered is still
reaped, the claimed entry counts as crashed, and the others as not run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, Protocol

from streamfn.testing.clock import Agenda
from streamfn.types import Fault

if TYPE_CHECKING:
    from streamfn.types import Envelope


class Outcome(Enum):
    """How an entry is answered.  RESPONDED: the handler returned, and what it returned is to be judged."""

    OK = auto()
    RESPONDED = auto()
    FAILED = auto()
    THROTTLED = auto()
    TIMED_OUT = auto()
    CRASHED = auto()
    NOT_RUN = auto()


_DEADLY = (Outcome.TIMED_OUT, Outcome.CRASHED)


@dataclass(eq=False, slots=True)
class Entry:
    """One batch that was submitted.  `epoch` is the seat's, not the mapping's owner's; offsets are the shard's."""

    lane: tuple[str, int]
    shard: str
    epoch: int
    offsets: Sequence[int]
    attempt: int
    invocation: int
    envelope: Envelope | None = None
    revoked: bool = False


class Ending(NamedTuple):
    """How long an invocation takes, how it ends, and what the runtime hears of it: a response, or a fault."""

    duration_ns: int
    outcome: Outcome
    payload: bytes = b""
    fault: Fault | None = None


class Answer(NamedTuple):
    """What became of the oldest entry that was not answered yet."""

    entry: Entry
    outcome: Outcome
    payload: bytes = b""
    fault: Fault | None = None


class Script(Protocol):
    """What happens in the worker, and how fast."""

    def started(self, entry: Entry) -> Ending:
        """The worker was handed this entry; how it goes on (not NOT_RUN)."""

    def ended(self, entry: Entry, ending: Ending | None) -> None:
        """It is over, as `started` said, or (None) because the worker died of something else meanwhile."""

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
        self._die(None)

    def _die(self, ending: Ending | None) -> None:
        if not self.alive:
            return
        self.alive = False
        if self._running is not None:
            self.script.ended(self._running, ending)
            outcome, payload, fault = (Outcome.CRASHED, b"", None) if ending is None else ending[1:]
            self._answers.append(Answer(self._running, outcome, payload, fault))
            self._running = None
        self._answers += [Answer(entry, Outcome.NOT_RUN) for entry in self._staged]
        self._staged.clear()
        self._reap_later()

    def _next(self) -> None:
        while self._staged and self._running is None:
            entry = self._staged.popleft()
            if entry.revoked or entry.epoch <= self._failed.get(entry.lane, -1):
                self._answer(Answer(entry, Outcome.NOT_RUN))
                continue
            self._running = entry
            ending = self.script.started(entry)
            self.agenda.after(ending.duration_ns, lambda entry=entry, ending=ending: self._finish(entry, ending))  # type: ignore[misc]

    def _finish(self, entry: Entry, ending: Ending) -> None:
        if not self.alive:
            return
        if ending.outcome in _DEADLY:
            self._die(ending)
            return
        self._running = None
        self.script.ended(entry, ending)
        if ending.outcome is not Outcome.OK:
            self._failed[entry.lane] = entry.epoch
        self._answer(Answer(entry, *ending[1:]))
        self._next()

    def _answer(self, answer: Answer) -> None:
        self._answers.append(answer)
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
