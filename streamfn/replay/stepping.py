"""What becomes of the failed batches of a replay: somebody is asked, or it was said before; and the event is kept.

    a stop ─▶ the event is saved ─▶ it is shown ─▶ what was said before, or else what `ask` returns ─▶ a decision

An answer in words is one of `ANSWERS`.  What was said before goes on by itself: `retry` then means what the mapping's
options say, with their waits; halves end at a single record, and so does the run then.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from streamfn.core.verdict import Decision
from streamfn.errors import FailedError, RefusedError

if TYPE_CHECKING:
    from streamfn.mapping.stepping import Stop

RETRY, SKIP, BISECT, QUIT = ANSWERS = ("retry", "skip", "bisect", "quit")

Ask = Callable[["Stop"], Awaitable[str]]
"""Returns one of ANSWERS; `bisect` only where the batch can be."""


class Stepping:
    """The decisions of one run. `decide` is what `EventSourceMapping.run` is given."""

    def __init__(
        self, *, answer: str | None, ask: Ask, show: Callable[[Stop, str | None], None], save_event: Path | None = None
    ) -> None:
        """`answer` is what was said before; None: `ask`.

        `show` is told of every stop, and what is going to be done if that was said before; it returns at once.
        """
        self._answer = answer
        self._ask = ask
        self._show = show
        self._save_event = save_event
        self._answers: Counter[str] = Counter()
        self.stopped_at: Stop | None = None  # where the run was ended

    async def decide(self, stop: Stop) -> Decision | None:
        """Say what becomes of a failed batch; None ends the run.

        Raises:
            FailedError: its event cannot be saved.
        """
        if self._save_event is not None:
            await trio.to_thread.run_sync(save, self._save_event, stop.event)
        before = QUIT if self._answer == BISECT and not stop.can_bisect else self._answer
        self._show(stop, before)
        answer = await self._ask(stop) if before is None else before
        self._answers[answer] += 1
        if answer == QUIT:
            self.stopped_at = stop
            return None
        if answer == RETRY:
            return Decision.RETRY if before is None else Decision.FOLLOW
        return Decision(answer)

    def to_json(self) -> dict[str, object]:
        """What the replay's `--json` says of it: `stopped_at`, `answers` and `saved_event`."""
        stop = self.stopped_at
        saved = self._save_event if sum(self._answers.values()) else None
        return {
            "stopped_at": None if stop is None else described(stop),
            "answers": {answer: self._answers[answer] for answer in ANSWERS},
            "saved_event": None if saved is None else str(saved),
        }


def described(stop: Stop) -> dict[str, object]:
    """A stop for programs."""
    return {
        "shard_id": stop.shard_id,
        "first_offset": stop.first_offset,
        "sequence_number": stop.rows[0].sequence_number if stop.rows else None,
        "records": len(stop.rows),
        "attempts": stop.attempts,
        "error_type": stop.fault.error_type,
        "error_message": stop.fault.message,
        "request_id": stop.request_id,
    }


def check_writable(path: Path) -> None:
    """Refuse a file that events cannot be saved to, before anything is delivered.

    Raises:
        RefusedError: it is a directory, or there is none for it, or it must not be written.
    """
    try:
        if path.is_dir():
            raise RefusedError(f"--save-event: {path} is a directory, and a file is wanted")
        parent = path.parent
        if not parent.is_dir():
            raise RefusedError(f"--save-event: there is no directory {parent}")
        if not os.access(path if path.exists() else parent, os.W_OK):
            raise RefusedError(f"--save-event: {path} must not be written")
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte
        raise RefusedError(f"--save-event: {path}: {error}") from None


def save(path: Path, event: bytes) -> None:
    """Write an event to a file, in the place of one that was saved before: whole, or not at all.

    Raises:
        FailedError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            draft.write_bytes(event)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FailedError(f"--save-event: cannot write {path}: {error.strerror}") from None
