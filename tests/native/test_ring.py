"""The rings from both ends: pairing, skipping, revoking, folding, sleeping, room."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import Any

import pytest
from ring_rig import (
    CAPACITY,
    RUNTIME_SLEEPS,
    WORKER_SLEEPS,
    Rig,
    outcomes,
    payload,
)

from streamfn._native import ffi, lib

OK, ERROR, SKIPPED, REVOKED, RETIRED = lib.SF_OK, lib.SF_ERROR, lib.SF_SKIPPED, lib.SF_REVOKED, lib.SF_RETIRED
PARTLY = lib.SF_PARTLY
SECOND = 1_000_000_000


def echo_until_killed(desk: Any) -> None:
    """A worker whose response is the invocation number."""
    work = ffi.new("sf_work *")
    while True:
        if lib.sf_desk_next(desk, work, SECOND) == lib.SF_NEXT_INVOKE:
            response = str(work.invocation).encode()
            assert lib.sf_desk_finish(desk, OK, response, len(response))


# ---- pairing


def test_two_processes_answer_every_batch_once_and_in_order() -> None:
    with Rig() as rig:
        rig.fork(echo_until_killed)
        answered: list[tuple[int, bytes]] = []
        while len(answered) < 5000:
            rig.submit(CAPACITY)
            for answer in rig.reap_until(1, fold=False):
                answered.append((answer.first_invocation, payload(rig, answer)))
        assert answered == [(100 + i, str(100 + i).encode()) for i in range(len(answered))]


def test_a_run_is_cut_at_the_room_and_its_extents_follow_each_other() -> None:
    with Rig() as rig:
        assert rig.submit(CAPACITY + 5, rows=7) == CAPACITY
        assert lib.sf_port_room(rig.port) == 0
        assert lib.sf_port_in_flight(rig.port) == CAPACITY
        for i in range(CAPACITY):
            assert rig.next() == lib.SF_NEXT_INVOKE
            assert rig.work.records == 7
            assert rig.extents() == [(1000 + 7 * i, 5 + 7 * i, 7)]
            assert rig.finish()
        assert [answer.records for answer in rig.reap(release=False)] == [7] * CAPACITY
        assert (lib.sf_port_room(rig.port), lib.sf_port_in_flight(rig.port)) == (0, 0)
        lib.sf_port_release(rig.port)
        assert lib.sf_port_room(rig.port) == CAPACITY


def test_nothing_is_visible_before_publish() -> None:
    with Rig() as rig:
        first = ffi.new("sf_extent *")
        assert lib.sf_port_submit_run(rig.port, 0, 0, first, 1, 3, 1, 0, ffi.NULL, ffi.NULL) == 3
        assert rig.next() == lib.SF_NEXT_AGAIN
        lib.sf_port_publish(rig.port)
        assert rig.drain() == [1, 2, 3]


def test_a_retire_entry_keeps_its_place_and_says_which_segment() -> None:
    with Rig() as rig:
        rig.submit()
        assert lib.sf_port_retire(rig.port, 77)
        rig.submit()
        assert rig.run() == 100
        assert rig.next() == lib.SF_NEXT_RETIRE
        assert rig.work.segment_id == 77
        assert not rig.finish(), "a retire entry is not answered as a batch"
        assert lib.sf_desk_retired(rig.desk)
        assert rig.run() == 101
        answers = rig.reap(fold=True)
        assert outcomes(answers) == [OK, RETIRED, OK]
        assert (answers[1].first_invocation, answers[1].batches, answers[1].lane) == (77, 0, 2**32 - 1)


def test_a_batch_is_answered_before_the_next_is_taken() -> None:
    with Rig() as rig:
        rig.submit(2)
        assert rig.next() == lib.SF_NEXT_INVOKE
        assert rig.next() == lib.SF_NEXT_LOST


# ---- what does not run


@pytest.mark.parametrize("failure", [ERROR, PARTLY])
def test_after_a_failure_the_rest_of_its_lane_and_epoch_is_skipped(failure: int) -> None:
    with Rig() as rig:
        for lane, epoch in ((1, 5), (1, 5), (2, 5), (1, 4), (1, 6)):
            rig.submit(lane=lane, epoch=epoch)
        rig.run(failure, b"{}")
        assert rig.drain() == [102, 104], "another lane and a later epoch run; the same and an older do not"
        assert outcomes(rig.reap()) == [failure, SKIPPED, OK, SKIPPED, OK]


def test_what_is_skipped_never_looks_claimed() -> None:
    """A worker killed while it skips must not be charged with a batch that never ran."""
    with Rig() as rig:
        rig.submit(2)
        rig.run(ERROR)
        assert rig.next() == lib.SF_NEXT_AGAIN
        assert (rig.peek(rig.state_at(0), "I"), rig.peek(rig.state_at(1), "I")) == (2, 3)


def test_a_revoked_batch_does_not_run_and_the_claimed_one_does() -> None:
    with Rig() as rig:
        rig.submit(3, lane=1)
        rig.submit(2, lane=2)
        assert rig.next() == lib.SF_NEXT_INVOKE
        assert lib.sf_port_revoke(rig.port, 1) == 2
        assert lib.sf_port_revoke(rig.port, 1) == 0
        assert rig.finish()
        assert rig.drain() == [103, 104]
        assert outcomes(rig.reap()) == [OK, REVOKED, REVOKED, OK, OK]


def test_a_revocation_of_all_lanes_spares_retire_entries_and_the_epochs() -> None:
    with Rig() as rig:
        rig.submit(lane=1)
        lib.sf_port_retire(rig.port, 5)
        rig.submit(lane=2)
        assert lib.sf_port_revoke(rig.port, 2**32 - 1) == 2
        rig.submit(lane=1)
        assert rig.next() == lib.SF_NEXT_RETIRE
        assert lib.sf_desk_retired(rig.desk)
        assert rig.drain() == [102]
        assert outcomes(rig.reap()) == [REVOKED, RETIRED, REVOKED, OK]


def test_a_lane_runs_a_prefix_of_what_was_staged_however_revocation_and_claims_meet() -> None:
    with Rig(capacity=64) as rig:
        rig.fork(echo_until_killed)
        dice = random.Random(1)
        seen = set()
        rounds = 0
        while rounds < 6000 or (len(seen) < 2 and rounds < 100_000):  # a busy machine lets the two meet rarely
            rounds += 1
            rig.submit(dice.randint(1, 40))
            for _ in range(dice.randint(0, 60)):
                lib.sf_port_room(rig.port)
            lib.sf_port_revoke(rig.port, 0)
            answers = rig.reap_until(lib.sf_port_in_flight(rig.port), fold=False)
            ran = [answer.outcome == OK for answer in answers]
            assert ran == sorted(ran, reverse=True), "a batch ran behind a revoked one"
            seen.add(len(set(ran)))
        assert seen == {1, 2}, "no revocation met a claim: the test tested nothing"


# ---- folding


def test_plain_successes_of_one_lane_and_epoch_fold_into_one_answer() -> None:
    with Rig() as rig:
        rig.submit(3, lane=1, rows=10)
        rig.submit(2, lane=2)
        rig.submit(1, lane=2, epoch=1)
        for response in (b"1", b"22", b"333", b"4", b"55", b"6"):
            rig.run(payload=response)
        answers = rig.reap(fold=True)
        assert [(a.lane, a.epoch, a.batches, a.records, a.first_invocation) for a in answers] == [
            (1, 0, 3, 30, 100),
            (2, 0, 2, 2, 103),
            (2, 1, 1, 1, 105),
        ]
        assert [payload(rig, answer) for answer in answers] == [b"333", b"55", b"6"], "of the last one"


def test_failures_and_batches_that_printed_stand_alone() -> None:
    with Rig() as rig:
        rig.submit(6)
        for action in ("", "print", "", "", "fail"):
            assert rig.next() == lib.SF_NEXT_INVOKE
            if action == "print":
                os.write(rig.log, b"hello\n")
            assert rig.finish(ERROR if action == "fail" else OK)
        rig.drain()
        answers = rig.reap(fold=True)
        assert [(a.outcome, a.batches, a.printed, a.log_end) for a in answers] == [
            (OK, 1, 0, 0),
            (OK, 1, 1, 6),
            (OK, 2, 0, 6),
            (ERROR, 1, 0, 6),
            (SKIPPED, 1, 0, 6),
        ]


def test_what_does_not_fit_the_callers_array_comes_with_the_next_call() -> None:
    with Rig() as rig:
        rig.submit(3, lane=1)
        rig.submit(2, lane=2)
        rig.drain()
        assert [answer.batches for answer in rig.reap(fold=True, capacity=1)] == [3]
        assert [answer.batches for answer in rig.reap(fold=True, capacity=1)] == [2]
        assert rig.reap(fold=True, capacity=1) == []


# ---- sleeping


def test_the_worker_rings_once_when_the_low_water_mark_is_reached() -> None:
    with Rig() as rig:
        rig.submit(10)
        assert not lib.sf_port_arm(rig.port, 4)
        for left in range(9, -1, -1):
            rig.run()
            assert rig.rung() == (left == 4)
        assert rig.peek(RUNTIME_SLEEPS, "I") == 0


@pytest.mark.parametrize("what", ["fails", "prints"])
def test_what_is_not_a_plain_success_rings_at_once(what: str) -> None:
    with Rig() as rig:
        rig.submit(10)
        assert not lib.sf_port_arm(rig.port, 0)
        rig.run()
        assert not rig.rung()
        assert rig.next() == lib.SF_NEXT_INVOKE
        if what == "prints":
            os.write(rig.log, b"x")
        assert rig.finish(ERROR if what == "fails" else OK)
        assert rig.rung()


def test_a_lone_batch_wakes_at_once_whatever_the_mark() -> None:
    with Rig() as rig:
        for mark in (0, 1, CAPACITY, 2**32 - 1):
            rig.submit()
            assert not lib.sf_port_arm(rig.port, mark)
            rig.run()
            assert rig.rung()
            rig.reap()


def test_arming_notices_what_the_worker_did_not_ring_for() -> None:
    with Rig() as rig:
        assert not lib.sf_port_arm(rig.port, CAPACITY), "nothing is in flight, and nothing is there"
        lib.sf_port_disarm(rig.port)
        rig.submit(10)
        rig.run()
        assert not lib.sf_port_arm(rig.port, 8), "a plain success above the mark is not worth waking for"
        assert lib.sf_port_arm(rig.port, 9)
        assert rig.peek(RUNTIME_SLEEPS, "I") == 0, "who does not sleep is not woken"
        rig.run(ERROR)
        assert lib.sf_port_arm(rig.port, 0)
        rig.reap()
        assert not rig.rung()


def test_nobody_makes_a_system_call_while_the_other_is_awake() -> None:
    with Rig() as rig:
        rig.submit(5)
        rig.drain()
        assert rig.peek(WORKER_SLEEPS, "I") == 0
        assert not rig.rung()


def test_a_sleeping_worker_wakes_for_what_is_published() -> None:
    with Rig() as rig:
        results = []
        rig.next()
        sleeper = threading.Thread(target=lambda: results.append(rig.next(20 * SECOND)))
        sleeper.start()
        end = time.monotonic() + 10
        while rig.peek(WORKER_SLEEPS, "I") == 0:
            assert time.monotonic() < end
        rig.submit()
        sleeper.join(10)
        assert results == [lib.SF_NEXT_INVOKE]


def test_a_signal_ends_the_wait_so_that_pythons_handlers_run() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: caught.append(number))
    try:
        with Rig() as rig:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            started = time.monotonic()
            assert rig.next(20 * SECOND) == lib.SF_NEXT_AGAIN
            assert time.monotonic() - started < 10
            assert caught == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_slice_ends_the_wait() -> None:
    with Rig() as rig:
        started = time.monotonic()
        assert rig.next(20_000_000) == lib.SF_NEXT_AGAIN
        assert 0.02 <= time.monotonic() - started < 10


# ---- times


def test_latency_and_duration_are_recorded_for_what_ran() -> None:
    latency = ffi.gc(lib.sf_histogram_new(), lib.sf_histogram_free)
    duration = ffi.gc(lib.sf_histogram_new(), lib.sf_histogram_free)
    with Rig() as rig:
        now = time.monotonic_ns() - SECOND
        rig.submit(3, now_ns=now, latency=latency, duration=duration)
        assert lib.sf_port_running_since(rig.port) == 0
        assert rig.next() == lib.SF_NEXT_INVOKE
        assert now < rig.work.started_ns == lib.sf_port_running_since(rig.port) <= time.monotonic_ns()
        assert rig.finish()
        assert lib.sf_port_running_since(rig.port) == 0
        rig.run(ERROR)
        rig.drain()
        answers = rig.reap(fold=True)
        assert outcomes(answers) == [OK, ERROR, SKIPPED]
        for answer in answers[:2]:
            assert now == answer.submitted_ns < answer.started_ns <= answer.finished_ns
        assert answers[2].started_ns == answers[2].finished_ns == 0
        assert lib.sf_histogram_total(latency) == lib.sf_histogram_total(duration) == 2
        assert SECOND <= lib.sf_histogram_max(latency) < 60 * SECOND
        assert lib.sf_histogram_max(duration) < SECOND
