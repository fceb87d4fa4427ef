"""A pool of functions whose workers are shared out: what holds whatever they want, and for how long they want it.

The pool is a model: workers start with a latency, run what they run to its end when they are retired, and die.  The
machine sees what the real pool would let it see, at the times it asked for and at others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn.core.scaling import IDLE_NS, MS, SLICE_NS, Bounds, Decision, Held, Scaling, Seen, Share

RUN_NS_MAX = 100 * MS
START_NS_MAX = 8 * MS


@dataclass
class Fake:
    """A worker: when it is ready, since when it is idle (None: busy), when it is gone (retired, or dying)."""

    ready_ns: int
    idle_since_ns: int | None = None
    gone_ns: int | None = None


@dataclass
class Model:
    """A function, and what it wants now."""

    share: Share
    demand: int = 0
    workers: list[Fake] = field(default_factory=list)
    had_one_ns: int = 0  # when it last had a ready worker

    def settle(self, now: int) -> None:
        """Let what is over be over, and lanes sit where there are workers."""
        self.workers = [worker for worker in self.workers if worker.gone_ns is None or worker.gone_ns > now]
        for number, worker in enumerate(self.ready(now)):
            if number < self.demand:
                worker.idle_since_ns = None
            elif worker.idle_since_ns is None:
                worker.idle_since_ns = now
        if self.ready(now) or not self.demand:
            self.had_one_ns = now

    def ready(self, now: int) -> list[Fake]:
        return [worker for worker in self.workers if worker.gone_ns is None and worker.ready_ns <= now]

    def seen(self, now: int) -> Seen:
        ready = self.ready(now)
        starting = sum(worker.ready_ns > now for worker in self.workers)
        retiring = sum(worker.gone_ns is not None for worker in self.workers)
        return Seen(self.demand, starting, retiring, [Held(one.ready_ns, one.idle_since_ns) for one in ready])

    def is_moving(self, now: int) -> bool:
        return any(worker.ready_ns > now or worker.gone_ns is not None for worker in self.workers)

    @property
    def held(self) -> int:
        return len(self.workers)


class World:
    """The pool, its clock, and the chance that moves it."""

    def __init__(self, concurrency: int | None, bounds: list[Bounds], seed: int) -> None:
        self.machine = Scaling(concurrency)
        self.models = [Model(Share(each)) for each in bounds]
        self.draw = random.Random(seed)
        self.now = 0
        self.wake: int | None = 0

    def step(self, limit_ns: int) -> None:
        """Go on to whatever comes first, at most so far, and have the machine decide."""
        times = [self.now + limit_ns]
        for model in self.models:
            times += [at for one in model.workers for at in (one.ready_ns, one.gone_ns) if at and at > self.now]
        if self.wake is not None:
            times.append(self.wake)
        self.now = max(self.now, min(times))
        self.decide()

    def decide(self) -> Decision:
        for model in self.models:
            model.settle(self.now)
        decision = self.machine.decide(self.now, [(model.share, model.seen(self.now)) for model in self.models])
        at_once = False
        for model in self.models:
            for _ in range(decision.grow.get(model.share, 0)):
                model.workers.append(Fake(self.now + self.draw.randint(1, START_NS_MAX)))
            ready = model.ready(self.now)
            for number in decision.retire.get(model.share, []):
                run_ns = 0 if ready[number].idle_since_ns is not None else self.draw.randint(0, RUN_NS_MAX)
                ready[number].gone_ns = self.now + run_ns
                at_once = True
            model.settle(self.now)
        self.check(decision)
        self.wake = self.now if at_once else decision.wake_ns
        return decision

    def check(self, decision: Decision) -> None:
        for model in self.models:
            bounds = model.share.bounds
            assert model.held <= bounds.maximum
            gone = len(decision.retire.get(model.share, []))
            if gone:
                assert len([w for w in model.workers if w.gone_ns is None]) >= bounds.minimum
        concurrency = self.machine.concurrency
        if concurrency is not None:
            aside = sum(model.share.bounds.maximum for model in self.models if model.share.bounds.reserved)
            common = sum(model.held for model in self.models if not model.share.bounds.reserved)
            assert common <= concurrency - aside


def bounds() -> st.SearchStrategy[Bounds]:
    return st.builds(
        lambda least, more, reserved: Bounds(minimum=least, maximum=least + more, reserved=reserved and more > 0),
        st.integers(0, 2),
        st.integers(0, 5),
        st.booleans(),
    )


def pools() -> st.SearchStrategy[tuple[int | None, list[Bounds]]]:
    """Bounds of some functions, and a concurrency that is enough for them (or none)."""

    def fit(each: list[Bounds], spare: int | None) -> tuple[int | None, list[Bounds]]:
        aside = sum(one.maximum if one.reserved else one.minimum for one in each)
        return None if spare is None else aside + 1 + spare, each

    return st.builds(fit, st.lists(bounds(), min_size=1, max_size=6), st.none() | st.integers(0, 4))


@settings(max_examples=20000, deadline=None)
@given(pools(), st.integers(0, 2**32))
def test_bounds_and_shares_hold_whatever_is_wanted(pool: tuple[int | None, list[Bounds]], seed: int) -> None:
    world = World(*pool, seed)
    for _ in range(120):
        for model in world.models:
            if world.draw.random() < 0.2:
                model.demand = world.draw.choice([0, 0, 1, 2, 9])
            ready = model.ready(world.now)
            if ready and world.draw.random() < 0.02:  # it dies
                model.workers.remove(world.draw.choice(ready))
                if world.draw.random() < 0.5:
                    model.share.failed(world.now)
        world.step(world.draw.choice([1, MS, 30 * MS, SLICE_NS]))


@settings(max_examples=20000, deadline=None)
@given(pools(), st.integers(0, 2**32))
def test_who_wants_something_for_ever_gets_a_worker_again_and_again(
    pool: tuple[int | None, list[Bounds]], seed: int
) -> None:
    world = World(*pool, seed)
    for model in world.models:
        model.demand = world.draw.choice([0, 1, 3, 9])
    worst = len(world.models) * (SLICE_NS + RUN_NS_MAX + START_NS_MAX) + SLICE_NS
    while world.now < 4 * worst:
        world.step(SLICE_NS)
        for model in world.models:
            if model.share.bounds.maximum:
                assert world.now - model.had_one_ns <= worst, "starved"


@settings(max_examples=20000, deadline=None)
@given(pools(), st.integers(0, 2**32))
def test_a_pool_that_nothing_is_wanted_of_comes_to_rest_with_the_least(
    pool: tuple[int | None, list[Bounds]], seed: int
) -> None:
    world = World(*pool, seed)
    for model in world.models:
        model.demand = world.draw.choice([0, 1, 3, 9])
    while world.now < 10 * SLICE_NS:
        world.step(SLICE_NS)
    for model in world.models:
        model.demand = 0
    world.decide()
    end = world.now + 3 * IDLE_NS
    while world.now < end and (world.wake is not None or any(model.is_moving(world.now) for model in world.models)):
        world.step(end)
    assert [model.held for model in world.models] == [model.share.bounds.minimum for model in world.models]
    assert world.wake is None, "an idle pool has no timer"


@settings(max_examples=20000, deadline=None)
@given(pools(), st.integers(0, 2**32))
def test_a_pool_that_always_wants_the_same_and_has_room_comes_to_rest(
    pool: tuple[int | None, list[Bounds]], seed: int
) -> None:
    world = World(None, pool[1], seed)
    for model in world.models:
        model.demand = world.draw.choice([0, 1, 3, 9])
    while world.now < 10 * SLICE_NS:
        world.step(SLICE_NS)
    before = [list(model.workers) for model in world.models]
    while world.now < 20 * SLICE_NS:
        world.step(SLICE_NS)
    assert [list(model.workers) for model in world.models] == before
    for model in world.models:
        least = min(model.share.bounds.maximum, model.demand)
        assert model.held >= least
