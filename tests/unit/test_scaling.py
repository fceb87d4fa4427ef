"""How many workers a function is to have: the rules one by one."""

from __future__ import annotations

from typing import Any

from streamfn.core.scaling import (
    ATTEMPTS_AHEAD,
    GROW_AFTER_NS,
    IDLE_NS,
    MS,
    PATIENCE_NS,
    SLICE_NS,
    Bounds,
    Held,
    Scaling,
    Seen,
    Share,
    pause_ns,
)


def share(minimum: int = 0, maximum: int = 8, **more: Any) -> Share:
    return Share(Bounds(minimum=minimum, maximum=maximum, **more))


def busy(count: int, since_ns: int = 0) -> list[Held]:
    return [Held(since_ns, None)] * count


def idle(*since_ns: int) -> list[Held]:
    return [Held(0, since) for since in since_ns]


def seen(
    demand: int = 0, ready: list[Held] | None = None, starting: int = 0, retiring: int = 0, can_start: bool = True
) -> Seen:
    return Seen(demand, starting, retiring, ready or [], can_start)


def grown(one: Share, now: Seen, at_ns: int = 0, machine: Scaling | None = None) -> int:
    return (machine or Scaling()).decide(at_ns, [(one, now)]).grow.get(one, 0)


def grown_late(one: Share, now: Seen) -> int:
    """How many are started when it has been like that for a while."""
    machine = Scaling()
    assert grown(one, now, 0, machine) == 0
    return grown(one, now, GROW_AFTER_NS, machine)


def test_the_least_is_started_at_once_and_nothing_else_is_done() -> None:
    one = share(3)
    machine = Scaling()
    assert grown(one, seen(), machine=machine) == 3
    decision = machine.decide(1, [(one, seen(ready=idle(0, 0, 0)))])
    assert decision == ({}, {}, None)


def test_few_are_started_at_a_time() -> None:
    one = share(200, 200, starting_max=32)
    assert grown(one, seen()) == 32
    assert grown(one, seen(starting=30, ready=busy(40))) == 2


def test_nothing_is_started_where_there_is_nothing_to_start_it_from() -> None:
    assert grown(share(1), seen(demand=3, can_start=False)) == 0


def test_the_first_lane_that_waits_gets_a_worker_at_once() -> None:
    assert grown(share(), seen(demand=5)) == 1


def test_what_is_over_before_a_fork_is_done_starts_no_worker() -> None:
    one, machine = share(), Scaling()
    crowded = seen(demand=4, ready=busy(1))
    assert machine.decide(0, [(one, crowded)]) == ({}, {}, GROW_AFTER_NS)
    machine.decide(5 * MS, [(one, seen(demand=0, ready=idle(0)))])
    assert machine.decide(6 * MS, [(one, crowded)]).grow == {}
    assert machine.decide(6 * MS + GROW_AFTER_NS, [(one, crowded)]).grow == {one: 1}


def test_a_burst_doubles_the_workers_and_starts_no_storm() -> None:
    assert grown_late(share(maximum=100), seen(demand=100, ready=busy(4))) == 4
    assert grown_late(share(maximum=6), seen(demand=100, ready=busy(4))) == 2
    assert grown_late(share(maximum=100), seen(demand=3, ready=busy(1), starting=1)) == 2


def test_one_is_kept_ready_ahead_of_need() -> None:
    assert grown_late(share(), seen(demand=2, ready=busy(2))) == 1
    assert grown_late(share(), seen(demand=2, ready=[*busy(2), *idle(0)])) == 0
    assert grown_late(share(maximum=2), seen(demand=2, ready=busy(2))) == 0


def test_what_retires_and_still_runs_counts() -> None:
    assert grown(share(2, 2), seen(ready=busy(1), retiring=1)) == 0
    assert grown(share(2, 2), seen(ready=busy(1))) == 1


def test_what_is_idle_for_long_is_retired_the_longest_first_and_the_least_stays() -> None:
    one, machine = share(1), Scaling()
    workers = idle(300, 100, 200)
    decision = machine.decide(IDLE_NS + 150, [(one, seen(ready=workers))])
    assert decision.retire == {one: [1]}
    assert decision.wake_ns == IDLE_NS + 200
    assert machine.decide(IDLE_NS + 400, [(one, seen(ready=idle(300, 200)))]).retire == {one: [1]}
    assert machine.decide(2 * IDLE_NS, [(one, seen(ready=idle(300)))]) == ({}, {}, None)


def test_a_worker_beyond_the_least_is_looked_at_again_although_it_is_busy_now() -> None:
    assert Scaling().decide(7, [(share(1, 3), seen(demand=3, ready=busy(3)))]).wake_ns == IDLE_NS + 7


def test_more_than_the_most_are_retired_idle_ones_first() -> None:
    one = share(0, 2)
    decision = Scaling().decide(0, [(one, seen(demand=4, ready=[*busy(2), *idle(0), *busy(1)]))])
    assert decision.retire == {one: [0, 2]}


def test_after_failures_one_is_tried_at_a_time_and_later_each_time() -> None:
    one, machine = share(4), Scaling()
    pauses = []
    now = 0
    for _ in range(5):
        one.failed(now)
        decision = machine.decide(now, [(one, seen())])
        assert decision.grow == {}
        assert decision.wake_ns is not None
        pauses.append(decision.wake_ns - now)
        now = decision.wake_ns
        assert machine.decide(now, [(one, seen())]).grow == {one: 1}
        assert machine.decide(now, [(one, seen(starting=1))]).grow == {}
    assert pauses == [50 * MS, 100 * MS, 200 * MS, 400 * MS, 800 * MS]
    assert pause_ns(1000) == 5_000 * MS
    one.prospered()
    assert machine.decide(now, [(one, seen())]).grow == {one: 4}


def test_after_six_failures_nothing_is_tried_ahead_of_need() -> None:
    one, machine = share(1), Scaling()
    for _ in range(ATTEMPTS_AHEAD):
        one.failed(0)
    assert machine.decide(one.resume_ns, [(one, seen())]) == ({}, {}, None)
    assert machine.decide(one.resume_ns, [(one, seen(demand=1))]).grow == {one: 1}


# ---- a concurrency


def test_a_reserved_share_is_set_aside_and_is_the_most() -> None:
    reserved, other = share(0, 2, reserved=True), share(0, 9)
    machine = Scaling(4)
    decision = machine.decide(0, [(other, seen(demand=9, ready=busy(2))), (reserved, seen(demand=5))])
    assert decision.grow == {reserved: 1}
    later = [(other, seen(demand=9, ready=busy(2))), (reserved, seen(demand=5, ready=busy(2)))]
    machine.decide(GROW_AFTER_NS, later)
    assert machine.decide(9 * GROW_AFTER_NS, later).grow == {}


def test_what_is_provisioned_is_nobody_elses() -> None:
    one, other = share(2, 4), share(0, 9)
    decision = Scaling(3).decide(0, [(other, seen(demand=9)), (one, seen(can_start=False))])
    assert decision.grow == {other: 1}
    held = [(other, seen(demand=9, ready=busy(1))), (one, seen(can_start=False))]
    assert Scaling(3).decide(GROW_AFTER_NS * 9, held).grow == {}


def test_a_spare_worker_goes_to_who_waits_at_once() -> None:
    one, other = share(), share()
    pair = [(one, seen(demand=1, ready=[*busy(1), *idle(5)])), (other, seen(demand=1))]
    decision = Scaling(2).decide(10, pair)
    assert (decision.grow, decision.retire) == ({}, {one: [1]})


def test_who_has_two_more_gives_one_up_after_a_moment() -> None:
    one, other = share(), share()
    machine = Scaling(2)
    pair = [(one, seen(demand=2, ready=[Held(3, None), Held(1, None)])), (other, seen(demand=1))]
    decision = machine.decide(10, pair)
    assert decision.retire == {}
    assert decision.wake_ns is not None
    assert decision.wake_ns <= 10 + PATIENCE_NS
    assert machine.decide(10 + PATIENCE_NS, pair).retire == {one: [1]}
    freeing = [(one, seen(demand=2, ready=busy(1), retiring=1)), (other, seen(demand=1))]
    assert machine.decide(11 + PATIENCE_NS, freeing)[:2] == ({}, {})  # a place is coming
    free = [(one, seen(demand=2, ready=busy(1))), (other, seen(demand=1))]
    assert machine.decide(12 + PATIENCE_NS, free).grow == {other: 1}


def test_functions_that_always_want_take_turns() -> None:
    one, other = share(), share()
    machine = Scaling(1)
    pair = [(one, seen(demand=1, ready=busy(1, since_ns=100))), (other, seen(demand=1))]
    machine.decide(100, pair)
    assert machine.decide(98 + SLICE_NS, pair) == ({}, {}, 100 + SLICE_NS)
    assert machine.decide(99 + SLICE_NS, pair).retire == {}
    assert machine.decide(100 + SLICE_NS, pair).retire == {one: [0]}
    free = [(one, seen(demand=1)), (other, seen(demand=1))]
    assert machine.decide(101 + SLICE_NS, free).grow == {other: 1}


def test_an_idle_function_keeps_what_is_provisioned() -> None:
    one, other = share(1, 4), share()
    pair = [(one, seen(ready=idle(0))), (other, seen(demand=1))]
    machine = Scaling(1)
    for now in (0, SLICE_NS, 100 * SLICE_NS):
        assert machine.decide(now, pair)[:2] == ({}, {})


def test_shares_that_leave_nothing_for_the_others_are_refused() -> None:
    machine = Scaling(4)
    machine.shares = [share(0, 2, reserved=True), share(1, 9)]
    assert machine.refusal(Bounds(minimum=1, maximum=4)) is None
    assert machine.refusal(Bounds(minimum=0, maximum=4)) is None
    text = "a concurrency of 4 is too small: what functions have reserved or provisioned is 5"
    assert machine.refusal(Bounds(minimum=2, maximum=4)) == text
    machine.shares.append(share(0, 9))
    assert (machine.refusal(Bounds(minimum=1, maximum=1)) or "").endswith("and at least one worker for the others")
    assert Scaling().refusal(Bounds(minimum=99, maximum=99)) is None
