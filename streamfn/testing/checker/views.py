"""One lane as one owner has worked on it: where its next batch must begin, and which parts of batches must come again.

Everything here is in positions: ordinals of the lane's covered records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from streamfn.testing.checker.history import Seen
from streamfn.testing.checker.rules import EXHAUSTED, TOO_LARGE, TOO_OLD, Rules

Report = Callable[[str, str, str], None]


@dataclass(slots=True)
class Part:
    """Records that were handed over as one batch, or are left of one, and are not done.

    `failures` count charged ones of exactly these records, `levels` how often they were split, of `size` records first.
    """

    start: int
    end: int
    size: int
    failures: int = 0
    levels: int = 0


@dataclass(slots=True)
class View:
    """One epoch's way through one lane."""

    position: int
    parts: list[Part] = field(default_factory=list)  # the first one last
    live: Seen | None = None

    @property
    def front(self) -> Part | None:
        """The part that begins at `position`, if one does."""
        return self.parts[-1] if self.parts and self.parts[-1].start == self.position else None

    def move(self, position: int) -> None:
        """Everything below `position` has a disposition now."""
        self.position = max(self.position, position)
        while self.parts and self.parts[-1].end <= self.position:
            self.parts.pop()
        if self.parts and self.parts[-1].start < self.position:
            self.parts[-1].start = self.position

    # ---- what is handed over

    def begin(self, start: int, end: int, rules: Rules, keys: bool, expired: Callable[[int], bool]) -> str | None:
        """A batch of these records comes, where `position` is.  Why it should not look so, or None."""
        part = self.front
        if part is None:
            self.parts.append(Part(start, end, end - start))
            return None
        if end > part.end:
            self.parts = [Part(start, end, end - start)]
            return "more than is left of it"
        if end < part.end:
            if not (keys or expired(end)):
                return "another part of it"
            rest = Part(end, part.end, part.size, part.failures, part.levels)
            part.end = end
            self.parts.insert(len(self.parts) - 1, rest)
        if not keys and part.levels > (part.size - 1).bit_length() + 1:
            return "bisected too often"
        return None

    def ended(self, start: int, end: int, done: int, rules: Rules, *, charged: bool, keys: bool) -> None:
        """That batch is over, and its first `done` records succeeded."""
        if done:
            self.move(start + done)
        part = self.front
        if done == end - start or part is None:
            return
        if done:
            part.failures = 0
        elif charged:
            part.failures += 1
            if rules.bisect and end - start > 1 and not keys:
                self._split(part)

    def _split(self, part: Part) -> None:
        """The part comes again as its halves, the first one the smaller."""
        middle = part.start + (part.end - part.start) // 2
        self.parts[-1:] = [
            Part(first, end, part.size, 0, part.levels + 1) for first, end in ((middle, part.end), (part.start, middle))
        ]

    # ---- what may be given up

    def why_given_up(
        self, position: int, end: int, rules: Rules, old: Callable[[int], bool], large: Callable[[int], bool]
    ) -> tuple[int, str] | None:
        """How far records from `position` on, which is ours, may have been given up at once, and why; None: not at
        all."""
        part = self.parts[-1] if self.parts and self.parts[-1].start == position else None
        retries = rules.maximum_retry_attempts
        if part is not None and retries is not None and part.failures > retries:
            return part.end, EXHAUSTED
        stop = position
        while stop < end and large(stop):
            stop += 1
        if stop > position:
            return stop, TOO_LARGE
        while stop < end and old(stop):
            stop += 1
        return (stop, TOO_OLD) if stop > position else None
