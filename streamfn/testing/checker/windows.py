"""R5 for tumbling windows: which records an invocation has, how windows follow each other, and what state comes in.

State moves with the watermark.  So what a new owner may begin with is what the owner before it had when it was where
the checkpoint is; where several invocations ended there (those without records do not move it), any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from streamfn.testing.checker.history import Committed, Ended, Seen, Window
from streamfn.testing.checker.rules import Facts, Rules

Report = Callable[[str, str, str], None]


class Snapshot(NamedTuple):
    """Where the windows were when everything below `offset` was done; `open_ms` is None if none had begun."""

    offset: int
    open_ms: int | None
    state: object
    closed_ms: int  # the start of the last window that was closed


_NOTHING = Snapshot(-1, None, None, -1)


def _after_giving_up(before: Snapshot, start_ms: int) -> Snapshot:
    """What an invocation without records leaves behind whose attempts are used up, where `start_ms` comes next."""
    if before.open_ms is None or before.open_ms == start_ms:
        return before._replace(state=None)
    return Snapshot(before.offset, None, None, before.open_ms)


@dataclass(slots=True)
class _Shard:
    """By epoch, what every success left behind, oldest first; and where and by whom the checkpoint is."""

    snapshots: dict[int, list[Snapshot]] = field(default_factory=dict)
    current: dict[int, list[Snapshot]] = field(default_factory=dict)  # what the next invocation may find
    checkpoint: int = -1
    committed_by: int | None = None
    failures: dict[int, int] = field(default_factory=dict)  # by epoch: of the call without records that is tried


class WindowWitness:
    """Follows the windows of every shard."""

    def __init__(self, rules: Rules, facts: Facts, report: Report) -> None:
        self._rules = rules
        self._facts = facts
        self._report = report
        self._shards: dict[str, _Shard] = {}

    def seen(self, event: Seen) -> None:
        """An invocation begins."""
        shard = self._shards.setdefault(event.shard, _Shard())
        window = event.window
        where = f"{event.shard} epoch {event.epoch}, invocation {event.invocation}"
        if window is None:
            self._report("R5", "mixed-windows", f"{where} has no window")
            return
        possible = self._possible(shard, event.epoch)
        fitting = [one for one in possible if self._fits(one, window, shard, event.epoch)]
        if not fitting:
            same = [one for one in possible if one.open_ms == window.start_ms]
            name = "state-differs" if same or window.state is not None else "window-order"
            self._report("R5", name, f"{where}: {window} after {possible}")
            fitting = possible[-1:]
        elif window.state is None and self._given_up(shard, event.epoch):
            shard.snapshots[event.epoch] += [_after_giving_up(one, window.start_ms) for one in fitting]
        shard.current[event.epoch] = fitting
        self._records_lie_in(event, window, fitting[0], where)

    def _possible(self, shard: _Shard, epoch: int) -> list[Snapshot]:
        if epoch not in shard.current:
            before = [] if shard.committed_by is None else shard.snapshots.get(shard.committed_by, [])
            below = [one for one in before if one.offset <= shard.checkpoint]
            if below:
                shard.current[epoch] = [one for one in below if one.offset == below[-1].offset]
            else:
                shard.current[epoch] = [_NOTHING]
            shard.snapshots[epoch] = list(shard.current[epoch])
        return shard.current[epoch]

    def _fits(self, before: Snapshot, window: Window, shard: _Shard, epoch: int) -> bool:
        if before.open_ms == window.start_ms:
            return before.state == window.state or (window.state is None and self._given_up(shard, epoch))
        if before.open_ms is not None and not self._given_up(shard, epoch):
            return False
        closed_ms = before.closed_ms if before.open_ms is None else before.open_ms
        return window.start_ms > closed_ms and window.state is None

    def _given_up(self, shard: _Shard, epoch: int) -> bool:
        """Whether a call without records used its attempts up."""
        retries = self._rules.maximum_retry_attempts
        return retries is not None and shard.failures.get(epoch, 0) > retries

    def _records_lie_in(self, event: Seen, window: Window, before: Snapshot, where: str) -> None:
        """No record is of a later window; one of an earlier window is late, and that one has to be closed."""
        arrival, length = self._facts.arrival_ms, self._rules.window_ms
        if arrival is None:
            return
        end = window.start_ms + length
        times = [arrival(event.shard, offset) for offset in event.offsets]
        if any(time >= end for time in times):
            self._report("R5", "mixed-windows", f"{where}: {max(times)} is not before {end}")
        # What began a window may have been given up unseen, so this looks only at records that follow a success.
        begins = before.open_ms != window.start_ms and bool(times) and event.offsets[0] == before.offset
        if begins and times[0] < window.start_ms and window.start_ms - length > before.closed_ms:
            self._report("R5", "window-order", f"{where}: {times[0]} begins the window {window.start_ms}")

    def ended(self, seen: Seen, event: Ended) -> None:
        """It is over: after a success its state is the window's, or the window is closed."""
        shard, window = self._shards[seen.shard], seen.window
        if window is None or seen.epoch not in shard.current:
            return
        before = shard.current[seen.epoch][0]
        if not (event.ok or event.done):
            if not seen.offsets:
                shard.failures[seen.epoch] = shard.failures.get(seen.epoch, 0) + event.charged
            return
        shard.failures[seen.epoch] = 0
        done = len(seen.offsets) if event.ok else event.done
        offset = seen.offsets[done - 1] + 1 if done else before.offset
        closed_ms = before.closed_ms
        if before.open_ms not in (None, window.start_ms):
            closed_ms = before.open_ms or closed_ms
        if window.final:
            after = Snapshot(offset, None, None, window.start_ms)
        else:
            after = Snapshot(offset, window.start_ms, None if window.early else event.state, closed_ms)
        shard.current[seen.epoch] = [after]
        shard.snapshots[seen.epoch].append(after)

    def committed(self, event: Committed) -> None:
        """A checkpoint is durable."""
        shard = self._shards.setdefault(event.shard, _Shard())
        possible = self._possible(shard, event.epoch)
        if any(not discard.offsets for discard in event.discards):  # an invocation without records was given up
            for one in list(possible):
                closed = Snapshot(one.offset, None, None, one.closed_ms if one.open_ms is None else one.open_ms)
                fresh = one._replace(state=None)
                possible += [closed, fresh]
                shard.snapshots[event.epoch] += [closed, fresh]
        shard.checkpoint, shard.committed_by = event.offset, event.epoch
