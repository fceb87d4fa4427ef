"""What a handler may do, each thing between healthy neighbours: the runtime lives, nobody else is harmed."""

import os
import shutil
import subprocess
from itertools import pairwise

import pytest
from hostile import BEHAVIOURS, HOGS, PROCESS, REPORTS, SANDBOX
from hostile_rig import Mixed
from run_rig import until

from streamfn.pool.confine import cgroup, probe
from streamfn.pool.confine.cgroup import PIDS


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
    mixed.start(workers=8, timeout_s=3)
    mixed.wait()
    mixed.judge()
    until(lambda: not mixed.leftovers(), "everything of the run to end", 1.0)


def test_lanes_that_share_workers_with_hanging_handlers_are_not_delayed_by_them(place):
    """Two of four workers hang until their timeout: no other lane stands still for anything like that time."""
    timeout_s, hanging = 4, ["loops", "sleeps_in_c_with_the_gil"]
    mixed = Mixed(place, hanging, healthy=10, records=60)
    mixed.start(timeout_s=timeout_s)
    mixed.wait()
    mixed.judge()
    times = {}
    for told in mixed.seen():
        if told["deed"].isdigit():
            times.setdefault(told["shard"], []).append(told["at"])
    assert [len(each) for each in times.values()] == [60] * 10
    assert max(later - sooner for each in times.values() for sooner, later in pairwise(each)) < timeout_s / 2


@pytest.mark.parametrize("level", LEVELS)
def test_what_floods_and_what_patches_is_held_as_well(place, level, soak):
    names = [
        "prints_a_gibibyte", "leaves_a_thread_that_floods", "changes_its_surroundings", "patches_everything",
    ]  # fmt: skip
    mixed = Mixed(place, names, level=level)
    mixed.start("--env", f"MEBIBYTES={1024 if soak else 200}", timeout_s=40)
    mixed.wait()
    mixed.judge()
    assert len(mixed.err) < 100 << 20


def test_reports_of_failures_that_are_none_of_lambdas_fail_their_own_batch(place):
    mixed = Mixed(place, REPORTS)
    mixed.start("--function-response-types", "ReportBatchItemFailures")
    mixed.wait()
    mixed.judge()


@pytest.mark.parametrize("level", [pytest.param(PROCESS, marks=pytest.mark.soak), LEVELS[1]])
def test_a_memory_hog_is_ended_alone(place, level):
    mixed = Mixed(place, HOGS, level=level)
    mixed.start("--memory-size", "512", timeout_s=60)
    mixed.wait()
    mixed.judge()


@pytest.mark.skipif(
    os.geteuid() == 0 and PIDS in cgroup.survey().lacking,
    reason="without a control group nothing holds a fork bomb of root's",
)
@pytest.mark.parametrize("level", LEVELS)
def test_a_fork_bomb_ends_with_its_invocation(place, level, soak):
    """It takes what processor time it gets, so the neighbours have a timeout that allows for that.

    How many there may be is for `test_limits_processes`; here it stops by itself, for the sake of other tests.
    """
    mixed = Mixed(place, ["breeds_until_its_timeout"], level=level)
    mixed.start(*(() if soak else ("--env", "BREED=200")), timeout_s=2)
    mixed.wait()
    mixed.judge()
    until(lambda: not mixed.leftovers(), "everything of the run to end", 1.0)


# Whatever is killed there, it is nobody's outside.
APART = [
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    *([] if os.geteuid() == 0 else ["--map-root-user"]),
]


@pytest.mark.skipif(LACKING is not None, reason=f"no sandbox here: {LACKING}")
@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*APART, "true"], check=False).returncode != 0,
    reason="no PID namespace can be made here",
)
def test_a_sandboxed_handler_neither_kills_nor_stops_nor_traces_anybody(place):
    mixed = Mixed(place, ["kills_whom_it_can", "traces_whom_it_can"], level=SANDBOX)
    mixed.start(around=APART)
    mixed.wait()
    mixed.judge()
