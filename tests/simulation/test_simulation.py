"""A mapping in virtual time, thousands of times.

Goal    No record is lost, reordered, skipped, given up or repeated without a reason; the checkpoint never lies; what is
        left when the faults stop is finished.
Method  The core machines run under a seeded generator and a virtual clock: no event loop, no files, no sleeping
        (world.py), with every option of a mapping drawn at random (plan.py).  A failure prints its seed, and the seed
        alone replays it:
        STREAMFN_SEEDS=123:124 pytest tests/simulation
        100,000 seeds, by hand: python tests/simulation/many.py 0:100000
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter

import pytest
from bugs import BUGS, Bug, found_by
from plan import Plan
from world import World

from streamfn.testing.checker import Committed, Ended, Gone, Owned, Resharded, Seen, Settled

FIRST, END = (int(part) for part in os.environ.get("STREAMFN_SEEDS", "0:2000").split(":"))
BLOCK = 200
RULES = {f"R{number}" for number in range(1, 14)}


@pytest.mark.conformance(
    "promises/at-least-once-in-order",
    source="documented",
    rule="Every record is delivered at least once until it succeeds or is discarded, in order for its shard, "
    "lane or key.",
)
@pytest.mark.conformance(
    "promises/checkpoint",
    source="ours",
    rule="A checkpoint stands for dispositions that happened before it, never moves back, and is fenced by "
    "its owner's epoch.",
)
@pytest.mark.conformance(
    "promises/liveness",
    source="ours",
    rule="When faults stop, everything that is left is finished and checkpointed within a bounded time.",
)
@pytest.mark.parametrize("first", range(FIRST, END, BLOCK))
def test_every_record_is_finished_and_the_checkpoint_never_lies(first: int) -> None:
    for seed in range(first, min(first + BLOCK, END)):
        plan = Plan.draw(seed)
        violations = World(plan).run()
        assert not violations, f"{violations[0]} in the world of {plan}"


def trace(seed: int) -> tuple[str, int]:
    """A digest of everything that happened, and how much that was."""
    world = World(Plan.draw(seed))
    world.run()
    return hashlib.sha256(repr(world.history).encode()).hexdigest(), len(world.history)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(61280, id="a predecessor whose clock was ahead found too old what was then retried to the end"),
        pytest.param(68169, id="an owner that was replaced passes over what its successor has delivered"),
    ],
)
def test_a_seed_that_once_failed_is_well(seed: int) -> None:
    assert World(Plan.draw(seed)).run() == []


def test_a_seed_replays_exactly() -> None:
    events = 0
    for seed in range(200):
        digest, length = trace(seed)
        assert trace(seed) == (digest, length)
        events += length
    assert events > 40_000


def test_the_worlds_have_in_them_what_they_are_for() -> None:
    met: Counter[str] = Counter()
    for seed in range(150):
        world = World(Plan.draw(seed))
        world.run()
        for event in world.history:
            met[type(event).__name__] += 1
            match event:
                case Ended(ok=False, done=done):
                    met["failures"] += 1
                    met["partial"] += done > 0
                case Committed(discards=discards):
                    met.update(discard.condition for discard in discards)
                case Seen(window=window) if window is not None:
                    met["final"] += window.final
                    met["early"] += window.early
        met["across"] += len({event.shard for event in world.history if isinstance(event, Seen)}) > world.plan.shards
    least = {
        Seen.__name__: 5_000,
        Owned.__name__: 300,
        Committed.__name__: 1_500,
        Resharded.__name__: 100,
        Gone.__name__: 30,
        Settled.__name__: 300,
        "failures": 500,
        "partial": 30,
        "RetryAttemptsExhausted": 100,
        "RecordAgeExceeded": 100,
        "RecordTooLarge": 20,
        "final": 50,
        "early": 1,
        "across": 20,
    }
    assert {what: met[what] for what in least if met[what] < least[what]} == {}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.rule}-{bug.title}")
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    for seed in range(600):
        found = found_by(bug, Plan.draw(seed))
        if found:
            print(f"caught with seed {seed}: {sorted(found)}")
            if found & bug.names:
                return
    pytest.fail("600 seeds, and nobody noticed")


def test_there_is_a_planted_bug_for_every_rule() -> None:
    assert {bug.rule for bug in BUGS} == RULES
