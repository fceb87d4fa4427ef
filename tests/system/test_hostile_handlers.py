"""What a handler may do, each thing between healthy neighbours: the runtime lives, nobody else is harmed."""

import pytest
from hostile import BEHAVIOURS, PROCESS
from hostile_rig import Mixed
from run_rig import until


def held_at(level):
    return [each.name for each in BEHAVIOURS.values() if level in each.levels and not each.apart]


@pytest.mark.parametrize("level", [PROCESS])
def test_whatever_a_handler_does_costs_its_own_invocation_alone(place, level):
    mixed = Mixed(place, held_at(level), level=level)
    mixed.start()
    mixed.wait()
    mixed.judge()
    until(lambda: not mixed.leftovers(), "everything of the run to end", 1.0)
