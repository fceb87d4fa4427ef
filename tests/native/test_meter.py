"""The stages of a measured run: what is counted, from when, and what is not."""

from __future__ import annotations

import time
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_rig import Rig

from streamfn._native import ffi, lib
from streamfn.mapping.stages import DueTimes, Stages

OK, ERROR, PARTLY = lib.SF_OK, lib.SF_ERROR, lib.SF_PARTLY
MS = 1_000_000
SECOND = 1_000 * MS


def total(stages: Stages, stage: str) -> int:
    return int(lib.sf_histogram_total(stages[stage]))


def highest(stages: Stages, stage: str) -> int:
    return int(lib.sf_histogram_max(stages[stage]))


def test_a_stall_is_charged_to_every_record_that_was_due_meanwhile() -> None:
    stages = Stages()
    due = stages.lane()
    due.offer(0, array("q", [SECOND + n * MS for n in range(1_000)]))
    due.done(1_000, 2 * SECOND, 2 * SECOND)
    assert total(stages, "latency") == total(stages, "waiting") == 1_000
    assert highest(stages, "latency") == SECOND
    below = sum(ffi.unpack(lib.sf_histogram_counts(stages["latency"]), 34 * 1024)[: 1024 * 20])
    assert below < 1_000  # they have not all one latency


def test_what_was_given_up_is_counted_nowhere() -> None:
    stages = Stages()
    due = stages.lane()
    due.offer(10, array("q", [1, 2, 3]))
    due.given_up(12)
    assert due.first_ns() == 3
    assert total(stages, "latency") == 0
    due.done(13, 5, 6)
    assert due.first_ns() is None
    assert total(stages, "latency") == 1


def test_warm_up_is_not_counted() -> None:
    stages = Stages()
    stages.count_from(100)
    due = stages.lane()
    due.offer(0, array("q", [98, 99, 100, 101]))
    due.done(4, 150, 150)
    assert total(stages, "latency") == 2
    assert highest(stages, "latency") == 50


@given(st.lists(st.tuples(st.integers(1, 3_000), st.integers(0, 3_000), st.integers(0, 40)), max_size=30))
def test_due_times_are_a_queue_by_position(steps: list[tuple[int, int, int]]) -> None:
    due = DueTimes(Stages().meter)
    held: list[tuple[int, int]] = []
    position = done = 0
    for count, finished, gap in steps:
        if not held:
            position += gap
        due.offer(position, array("q", range(position, position + count)))
        held += [(each, each) for each in range(position, position + count)]
        position += count
        done = min(position, done + finished)
        due.given_up(done)
        held = [each for each in held if each[0] >= done]
        assert due.first_ns() == (held[0][1] if held else None)


def measured(rig: Rig, due: DueTimes | None) -> Stages:
    stages = Stages()
    queue: Any = ffi.NULL if due is None else due.queue
    assert lib.sf_port_measure(rig.port, 0, stages.meter, queue)
    return stages


def test_a_closed_loop_counts_each_record_from_its_submission() -> None:
    with Rig() as rig:
        stages = measured(rig, None)
        now = time.monotonic_ns() - SECOND
        rig.submit(2, rows=5, now_ns=now)
        rig.run(OK)
        rig.run(ERROR)
        rig.reap(fold=True)
        assert total(stages, "latency") == 5
        assert SECOND <= highest(stages, "latency") < 60 * SECOND
        assert total(stages, "waiting") == total(stages, "building") == 0
        assert total(stages, "queueing") == total(stages, "handler") == total(stages, "completion") == 2


def test_certain_successes_take_their_due_times_and_others_leave_them() -> None:
    with Rig() as rig:
        stages = Stages()
        due = stages.lane()
        assert lib.sf_port_measure(rig.port, 0, stages.meter, due.queue)
        now = time.monotonic_ns()
        due.offer(0, array("q", [now - n for n in range(6)]))
        rig.submit(3, rows=2, now_ns=now)
        rig.run(OK)
        rig.run(PARTLY)
        rig.drain()
        rig.reap(fold=True)
        assert total(stages, "latency") == 2
        assert due.first_ns() == now - 2


def test_the_stamp_of_the_call_parts_building_from_the_handler() -> None:
    with Rig() as rig:
        stages = measured(rig, None)
        rig.submit(1, now_ns=time.monotonic_ns())
        assert rig.next() == lib.SF_NEXT_INVOKE
        lib.sf_desk_called(rig.desk)
        assert rig.finish()
        rig.reap(fold=True)
        assert total(stages, "building") == total(stages, "handler") == 1
        duration = highest(stages, "building") + highest(stages, "handler")
        assert duration < 60 * SECOND


def test_a_slot_that_was_left_is_measured_no_more() -> None:
    with Rig() as rig:
        stages = measured(rig, None)
        assert lib.sf_port_measure(rig.port, 0, ffi.NULL, ffi.NULL)
        rig.submit(1, now_ns=time.monotonic_ns())
        rig.run(OK)
        rig.reap(fold=True)
        assert total(stages, "latency") == total(stages, "handler") == 0


@pytest.mark.parametrize("offset", [0, 5])
def test_a_checkpoint_counts_from_when_the_watermark_moved(offset: int) -> None:
    stages = Stages()
    stages.moved("s", offset + 10, 1 * MS)
    stages.moved("s", offset + 20, 3 * MS)
    stages.committed("s", offset + 10, 5 * MS)
    assert (total(stages, "checkpoint"), highest(stages, "checkpoint")) == (1, 4 * MS)
    stages.committed("s", offset + 20, 6 * MS)
    assert total(stages, "checkpoint") == 2
