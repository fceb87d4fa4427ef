"""Runs of one mapping between which it was reloaded, as one."""

from __future__ import annotations

from dataclasses import fields

from streamfn.mapping.mapping import RunResult
from streamfn.mapping.service import added


def test_counts_add_up_and_the_rest_is_what_the_later_run_says() -> None:
    first = RunResult(1, 2, 3, 4, 0.5, "drained", {"a": 1}, 5, 6, on_failure_pending=7, filtered=8)
    later = RunResult(10, 20, 30, 40, 1.5, "caught up", {"a": 9}, 50, 60, on_failure_pending=2, filtered=80)
    both = added(first, later)
    assert both == RunResult(11, 22, 33, 44, 2.0, "caught up", {"a": 9}, 55, 66, on_failure_pending=2, filtered=88)


def test_a_count_that_is_new_is_added_too() -> None:
    numbers = {each.name: 1 for each in fields(RunResult) if each.type == "int" and each.name != "on_failure_pending"}
    one = RunResult(**{"seconds": 0.0, "why": "", **numbers})  # type: ignore[arg-type]
    assert {name: getattr(added(one, one), name) for name in numbers} == dict.fromkeys(numbers, 2)


def test_a_number_that_only_one_run_has_is_that_ones() -> None:
    nothing, priced = RunResult(0, 0, 0, 0, 0.0, ""), RunResult(1, 1, 0, 0, 1.0, "drained", gb_seconds=0.5)
    assert added(nothing, priced).gb_seconds == added(priced, nothing).gb_seconds == 0.5
    assert added(priced, priced).gb_seconds == 1.0
    assert added(nothing, nothing).gb_seconds is None
