"""What a handler may do, each thing between healthy neighbours: the runtime lives, nobody else is harmed."""

import pytest
from hostile import BEHAVIOURS, PROCESS, SANDBOX
from hostile_rig import Mixed
from run_rig import until

from streamfn.pool.confine import probe


def held_at(level):
    return [each.name for each in BEHAVIOURS.values() if level in each.levels and not each.apart]


LACKING = probe.lacking_for_sandbox()
LEVELS = [
    PROCESS,
    pytest.param(SANDBOX, marks=pytest.mark.skipif(LACKING is not None, reason=f"no sandbox here: {LACKING}")),
]


@pytest.mark.parametrize("level", LEVELS)
def test_whatever_a_handler_does_costs_its_own_invocation_alone(place, level):
    mixed = Mixed(place, held_at(level), level=level)
    mixed.start()
    mixed.wait()
    mixed.judge()
    until(lambda: not mixed.leftovers(), "everything of the run to end", 1.0)
