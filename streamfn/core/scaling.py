"""How many workers each function of a pool is to have: which ones grow, which are retired, when to look again.

Every function has a least and a most of workers.  It grows by what waits: each lane that has something to be invoked
wants a worker, and one beyond that is kept ready, so that the next lane, or the replacement of a worker that died,
waits for nobody.  What has been idle for long is retired, down to the least.

    wanted = least .. most of (lanes at work or waiting + one ahead)

A pool may have a concurrency: workers of all its functions together, as an account has in Lambda.  A function with
a reserved share has that for itself, and never more; the others share what is left of it.  There a worker that is
free goes to whoever has the fewest, and then to whoever has waited longest; and where none is free, one is taken:

    an idle one that its function does not need                      at once
    one of a function that has two more than the one that waits      after PATIENCE_NS
    one of a function that has one more, and has had it for a slice  after SLICE_NS: they take turns

so each of n functions that always want something gets a worker again and again, in at most n turns of a slice and
what its worker runs at the moment.  A function's least is never taken away, nor given to another.

What fails is tried again later each time, one worker at a time; after ATTEMPTS_AHEAD failures in a row only if
something waits, as Lambda gives up on provisioned concurrency after six attempts and starts on demand then.
Nothing here knows a process, or reads a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

MS = 1_000_000

# A fork takes some milliseconds: what is over before that is not worth a worker.
GROW_AFTER_NS = 10 * MS
# How long a worker may be idle.  Starting one again is cheap and having one costs memory only, so this is less than
# Lambda's some minutes and long enough for what comes every few seconds.  Not measured.
IDLE_NS = 60_000 * MS
# Who has a worker that others wait for keeps it for as long as makes the fork (3 ms) and what it warms up small.
SLICE_NS = 250 * MS
PATIENCE_NS = 20 * MS
# Workers of one function that are being started at the same time.
STARTING_MAX = 32
AHEAD = 1
ATTEMPTS_AHEAD = 6
_PAUSE_NS = 50 * MS
_PAUSE_NS_MAX = 5_000 * MS


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The least and the most workers of a function, and whether the most is set aside for it (a reserved share)."""

    minimum: int
    maximum: int
    reserved: bool = False
    idle_ns: int = IDLE_NS
    starting_max: int = STARTING_MAX

    def __post_init__(self) -> None:
        assert 0 <= self.minimum <= self.maximum
        assert self.starting_max >= 1


class Held(NamedTuple):
    """A worker that takes work: since when it has been there, and since when nothing is on it (None: it is busy)."""

    since_ns: int
    idle_since_ns: int | None


class Seen(NamedTuple):
    """What there is of one function at a moment.

    `demand` counts lanes that are at work or wait for a worker; `starting` workers do not take work yet, `retiring`
    ones not any more, but still run something; `can_start`: there is something to make workers from.
    """

    demand: int
    starting: int
    retiring: int
    ready: Sequence[Held]
    can_start: bool = True


@dataclass(eq=False)
class Share:
    """One function's part: its bounds, and what is remembered of it."""

    bounds: Bounds
    failures: int = 0  # in a row
    resume_ns: int = 0  # nothing is started before
    _short_since: int | None = field(default=None, repr=False)
    _lacks_since: int | None = field(default=None, repr=False)

    def failed(self, now_ns: int) -> None:
        """A worker could not be made, or ended before it had begun anything."""
        self.failures += 1
        self.resume_ns = now_ns + pause_ns(self.failures)

    def prospered(self) -> None:
        """A worker has begun an invocation."""
        self.failures = 0
        self.resume_ns = 0


class Decision(NamedTuple):
    """What to do now.

    `grow`: how many workers to start; `retire`: which of the `ready` ones end, by their index.  `wake_ns` is when to
    look again though nothing happens; None: not at all.
    """

    grow: dict[Share, int]
    retire: dict[Share, list[int]]
    wake_ns: int | None


def pause_ns(failures: int) -> int:
    """How long nothing is started after so many failures in a row."""
    return min(_PAUSE_NS_MAX, _PAUSE_NS << min(failures - 1, 16)) if failures else 0


class Scaling:
    """The shares of one pool.  `concurrency` None: functions do not mind each other."""

    def __init__(self, concurrency: int | None = None) -> None:
        assert concurrency is None or concurrency >= 1
        self.concurrency = concurrency
        self.shares: list[Share] = []

    def refusal(self, bounds: Bounds) -> str | None:
        """Why a function with these bounds cannot be added; None if it can."""
        if self.concurrency is None:
            return None
        all_bounds = [*(share.bounds for share in self.shares), bounds]
        aside = sum(each.maximum if each.reserved else each.minimum for each in all_bounds)
        hungry = any(not each.reserved and each.maximum > each.minimum == 0 for each in all_bounds)
        needed = aside + hungry
        if needed <= self.concurrency:
            return None
        left = " and at least one worker for the others" if hungry else ""
        return (
            f"a concurrency of {self.concurrency} is too small: what functions have reserved or provisioned is "
            f"{aside}{left}"
        )

    def decide(self, now_ns: int, seen: Sequence[tuple[Share, Seen]]) -> Decision:
        """Say what is to be done, from what there is of each function."""
        cases = [_Case(share, each, now_ns) for share, each in seen]
        if self.concurrency is None:
            for case in cases:
                case.start(case.lack)
        else:
            own = [case for case in cases if case.bounds.reserved]
            common = [case for case in cases if not case.bounds.reserved]
            for case in own:
                case.start(case.lack)
            _share_out(self.concurrency - sum(case.bounds.maximum for case in own), common, now_ns)
        wake: list[int] = []
        for case in cases:
            case.shrink()
            case.remember()
            wake += case.wake
        return Decision(
            {case.share: case.started for case in cases if case.started},
            {case.share: sorted(case.gone) for case in cases if case.gone},
            min(wake) if wake else None,
        )


def _share_out(capacity: int, cases: Sequence[_Case], now_ns: int) -> None:
    """Give the places that functions share to those that lack any, and take some where there are none."""
    held = sum(case.supply + case.retiring for case in cases)
    kept = sum(max(0, case.bounds.minimum - case.supply) for case in cases)  # nobody else's
    for luxury in (False, True):
        while lacking := [case for case in cases if case.may_start and case.lacks(luxury=luxury)]:
            for case in sorted(lacking, key=_Case.turn):
                within = case.supply < case.bounds.minimum
                if held < capacity and (within or held + kept < capacity):
                    break
            else:
                break
            case.start(1)
            held += 1
            kept -= within
        if lacking and not luxury:
            _take_away(sorted(lacking, key=_Case.turn), cases, now_ns)
            return


def _take_away(lacking: Sequence[_Case], cases: Sequence[_Case], now_ns: int) -> None:
    """Retire workers for those that wait; a place that is about to become free counts.

    Who comes later has no fewer workers and has waited no longer: what the one before may not take, it may not either.
    """
    coming = sum(case.retiring for case in cases)
    for case in lacking[coming:]:
        whens = [(when, other) for other in cases if other is not case and (when := other.yields(case)) is not None]
        if not whens:
            return
        when, victim = min(whens, key=lambda each: (each[0], -each[1].supply))
        if when > now_ns:
            case.wake.append(when)
            return
        victim.take_one()


class _Case:
    """One function while it is decided about."""

    def __init__(self, share: Share, seen: Seen, now_ns: int) -> None:
        self.share = share
        self.bounds = share.bounds
        self.now_ns = now_ns
        self.ready = seen.ready
        self.starting = seen.starting
        self.retiring = seen.retiring
        self.supply = seen.starting + len(seen.ready)
        self.started = 0
        self.gone: set[int] = set()
        self.wake: list[int] = []
        bounds = share.bounds
        self.need = min(bounds.maximum, max(bounds.minimum, seen.demand))
        ahead = seen.demand + AHEAD if seen.demand else 0
        self.wanted = min(bounds.maximum, max(bounds.minimum, ahead))
        self._waits = seen.demand > len(seen.ready)
        self._limit = self._startable(seen)
        self.lack = self._lack()
        if self.supply >= self.need:
            share._lacks_since = None
        elif share._lacks_since is None:
            share._lacks_since = now_ns

    # ---- growing

    def _startable(self, seen: Seen) -> int:
        """How many may be started now."""
        share, now_ns = self.share, self.now_ns
        if not seen.can_start or (share.failures >= ATTEMPTS_AHEAD and not self._waits):
            return 0
        if now_ns < share.resume_ns:
            if self.supply < self.wanted:
                self.wake.append(share.resume_ns)
            return 0
        return max(0, (1 if share.failures else self.bounds.starting_max) - self.starting)

    def _lack(self) -> int:
        """How many more are wanted, for long enough."""
        share, now_ns = self.share, self.now_ns
        missing = min(self.wanted - self.supply, self.bounds.maximum - self.supply - self.retiring)
        if self.supply >= self.wanted:
            share._short_since = None
            return 0
        if share._short_since is None:
            share._short_since = now_ns
        if self.supply < self.bounds.minimum:
            return min(missing, self.bounds.minimum - self.supply)
        if self.supply == 0:
            return min(missing, 1)  # nobody else could take it; whether more are needed shows when it is there
        due_ns = share._short_since + GROW_AFTER_NS
        if now_ns < due_ns:
            self.wake.append(due_ns)
            return 0
        return min(missing, self.supply)  # doubling: a burst that one more could have carried makes no storm

    @property
    def may_start(self) -> bool:
        """Whether anything of it may be started now."""
        return self.lack > self.started and self._limit > self.started

    def lacks(self, *, luxury: bool) -> bool:
        """Whether it wants one more: for a lane, or as a luxury."""
        return self.supply < (self.wanted if luxury else self.need)

    def turn(self) -> tuple[int, int]:
        """Who comes first: who has the fewest, then who has waited longest."""
        lacks_since = self.share._lacks_since
        return self.supply, self.now_ns if lacks_since is None else lacks_since

    def start(self, count: int) -> None:
        """Start so many, or as many as may be started at a time."""
        count = min(count, self._limit - self.started)
        if count <= 0:
            return
        self.started += count
        self.supply += count
        if self.share._lacks_since is not None:
            self.share._lacks_since = self.now_ns  # it has had its turn
        if self.supply < self.wanted and self.share._short_since is not None:
            self.share._short_since = self.now_ns

    # ---- shrinking

    def _idle(self) -> list[int]:
        """The workers with nothing on them, the longest idle first."""
        idle = [(held.idle_since_ns, i) for i, held in enumerate(self.ready) if held.idle_since_ns is not None]
        return [i for _, i in sorted(idle) if i not in self.gone]

    def shrink(self) -> None:
        """Retire what is beyond the most, and what has been idle for long."""
        while self.supply > self.bounds.maximum and len(self.gone) < len(self.ready):
            self.take_one()
        for i in self._idle():
            if self.supply <= self.wanted:
                break
            idle_since = self.ready[i].idle_since_ns
            assert idle_since is not None
            if idle_since + self.bounds.idle_ns > self.now_ns:
                self.wake.append(idle_since + self.bounds.idle_ns)
                break
            self.gone.add(i)
            self.supply -= 1
        if self.supply > self.bounds.minimum:  # what is busy may end its work without anybody's telling
            self.wake.append(self.now_ns + self.bounds.idle_ns)

    def yields(self, other: _Case) -> int | None:
        """When it has to give a worker to one that waits; None if it has not."""
        left = len(self.ready) - len(self.gone)
        if self.supply <= self.bounds.minimum or not left:
            return None
        if self.supply > self.need and self._idle():
            return self.now_ns
        waits_since = other.share._lacks_since
        assert waits_since is not None
        if self.supply >= other.supply + 2:
            return waits_since + PATIENCE_NS
        if self.supply == other.supply + 1 and not self.starting and not self.started:
            newest = max(held.since_ns for i, held in enumerate(self.ready) if i not in self.gone)
            return max(waits_since, newest) + SLICE_NS
        return None

    def take_one(self) -> None:
        """Retire an idle worker, or the one that has been there for longest."""
        idle = self._idle()
        oldest = min((held.since_ns, i) for i, held in enumerate(self.ready) if i not in self.gone)[1]
        self.gone.add(idle[0] if idle else oldest)
        self.supply -= 1

    def remember(self) -> None:
        """Note whether it lacks anything after all that."""
        if self.supply < self.need and self.share._lacks_since is None:
            self.share._lacks_since = self.now_ns
