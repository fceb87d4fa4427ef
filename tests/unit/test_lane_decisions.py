"""What a lane does where somebody is asked about every failed batch; read as a specification."""

from __future__ import annotations

from itertools import accumulate

import pytest

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules, Chunk
from streamfn.core.lane import Lane, Phase
from streamfn.core.tumbling import FOREVER, WindowLane
from streamfn.core.verdict import Condition, Decision, Discarded, FailurePolicy
from streamfn.types import Fault, Run, Window

FAULT = Fault("ValueError", "no", b"{}")
RULES = BatchRules(4, 0, event_bytes_max=1000, frame_bytes=10)


def policy(retries: int | None = None, *, bisect: bool = False) -> FailurePolicy:
    return FailurePolicy(Backoff(1000, 2, 8000), maximum_retry_attempts=retries, bisect=bisect, asks=True)


def offered(lane: Lane | WindowLane, records: int) -> None:
    lane.offer(Chunk(lane.next_offset, list(accumulate([1] * records, initial=0)), [5] * records))


def lane_of(records: int, rules: FailurePolicy | None = None) -> Lane:
    lane = Lane(RULES, rules or policy(), 0, 0, lambda: 0.5)
    offered(lane, records)
    return lane


def stopped(records: int = 8, rules: FailurePolicy | None = None) -> Lane:
    """A lane whose first batch of four has failed, and the one behind it has come back."""
    lane = lane_of(records, rules)
    lane.take(0, 2)
    lane.failed(0, FAULT)
    if lane.in_flight:
        lane.returned(lane.in_flight)
    return lane


@pytest.mark.parametrize("rules", [policy(), policy(0), policy(bisect=True)], ids=["plain", "no retries", "bisecting"])
def test_a_failed_batch_waits_for_a_decision_and_nothing_goes_meanwhile(rules: FailurePolicy) -> None:
    lane = stopped(rules=rules)
    assert lane.phase is Phase.WAITING
    assert lane.undecided is not None
    assert lane.undecided[:3] == (0, 4, 2)
    assert lane.take(10**15, 5) == []
    assert lane.watermark == 0


def test_what_is_in_flight_behind_the_failed_batch_comes_back_first() -> None:
    lane = lane_of(8)
    lane.take(0, 2)
    lane.failed(0, FAULT)
    assert lane.undecided is not None
    with pytest.raises(AssertionError):
        lane.decide(Decision.RETRY, 0)


def test_a_retry_goes_at_once_and_alone() -> None:
    lane = stopped()
    lane.decide(Decision.RETRY, 7)
    assert lane.undecided is None
    assert lane.wake_at(7) == 7
    assert lane.take(7, 5) == [Run(0, 4, 1, 2)]
    lane.succeeded(1, 8)
    assert lane.take(8, 5) == [Run(4, 4, 1, 1)]


def test_a_retry_that_fails_is_asked_about_again_with_one_attempt_more() -> None:
    lane = stopped()
    for attempt in (3, 4, 5):
        lane.decide(Decision.RETRY, 0)
        lane.take(0, 1)
        lane.failed(0, FAULT)
        assert lane.undecided is not None
        assert lane.undecided.attempt == attempt


def test_halves_go_at_once_and_are_asked_about_on_their_own() -> None:
    lane = stopped()
    lane.decide(Decision.BISECT, 0)
    assert lane.take(0, 1) == [Run(0, 2, 1, 1)]
    lane.succeeded(1, 0)
    assert lane.take(0, 1) == [Run(2, 2, 1, 1)]
    lane.failed(0, FAULT)
    lane.decide(Decision.BISECT, 0)
    assert lane.take(0, 1) == [Run(2, 1, 1, 1)]
    lane.failed(0, FAULT)
    assert lane.undecided is not None
    assert lane.undecided.records == 1
    with pytest.raises(AssertionError):
        lane.decide(Decision.BISECT, 0)


def test_what_is_skipped_is_discarded_and_the_next_batch_goes() -> None:
    lane = stopped()
    lane.decide(Decision.RETRY, 0)
    lane.take(0, 1)
    lane.failed(0, FAULT)
    lane.decide(Decision.SKIP, 0)
    assert lane.take_discards() == [Discarded(0, 4, Condition.SKIPPED, 2, FAULT)]
    assert lane.watermark == 4
    assert lane.take(0, 1) == [Run(4, 4, 1, 1)]


def test_following_the_policy_is_what_happens_where_nobody_is_asked() -> None:
    waits = stopped()
    waits.decide(Decision.FOLLOW, 100)
    assert waits.wake_at(100) == 100 + 500  # half of the first bound
    splits = stopped(rules=policy(bisect=True))
    splits.decide(Decision.FOLLOW, 0)
    assert splits.take(0, 1) == [Run(0, 2, 1, 1)]
    gives_up = stopped(rules=policy(0))
    gives_up.decide(Decision.FOLLOW, 0)
    assert gives_up.take_discards() == [Discarded(0, 4, Condition.RETRY_ATTEMPTS_EXHAUSTED, 1, FAULT)]


@pytest.mark.parametrize("decision", [Decision.RETRY, Decision.FOLLOW])
def test_what_is_left_of_a_batch_is_asked_about_and_is_a_new_batch(decision: Decision) -> None:
    lane = lane_of(8, policy(0))
    lane.take(0, 1)
    lane.partly(1, 0, FAULT)
    assert lane.watermark == 1
    assert lane.undecided is not None
    assert lane.undecided[:2] == (1, 3)
    lane.decide(decision, 0)
    assert lane.take(0, 1) == [Run(1, 3, 1, 1)]


def test_what_is_left_of_a_batch_and_skipped_was_delivered_once() -> None:
    lane = lane_of(8)
    lane.take(0, 1)
    lane.partly(1, 0, FAULT)
    lane.decide(Decision.SKIP, 0)
    assert lane.take_discards() == [Discarded(1, 3, Condition.SKIPPED, 1, FAULT)]
    assert lane.watermark == 4


def test_nobody_is_asked_where_the_function_is_not_to_blame() -> None:
    lane = lane_of(4)
    lane.take(0, 1)
    lane.failed(0, FAULT, charged=False)
    assert lane.undecided is None
    assert lane.take(10_000, 1) == [Run(0, 4, 1, 1)]


# ---- with tumbling windows


def windowed(state: bytes = b"{}") -> WindowLane:
    lane = WindowLane(RULES, policy(), 0, 0, lambda: 0.5, length_ms=10, window=Window(0, 10, state))
    offered(lane, 4)
    return lane


def test_a_batch_of_a_window_is_asked_about_and_keeps_its_state() -> None:
    lane = windowed(b"1")
    lane.take(0, 1)
    lane.failed(0, FAULT)
    assert lane.undecided is not None
    assert lane.take(10**15, 1) == []
    lane.decide(Decision.BISECT, 0)
    assert lane.take(0, 1) == [Run(0, 2, 1, 1)]
    assert lane.envelope.state == b"1"


def test_the_call_of_a_window_is_asked_about_and_can_be_tried_again_or_given_up() -> None:
    lane = windowed()
    lane.finish_at(4, FOREVER)
    lane.take(0, 1)
    lane.succeeded(1, 0, state=b"2")
    assert lane.take(0, 1) == [Run(4, 0, 1, 1)]
    lane.failed(0, FAULT)
    assert lane.undecided is not None
    lane.decide(Decision.RETRY, 0)
    assert lane.take(0, 1) == [Run(4, 0, 1, 2)]
    lane.failed(0, FAULT)
    lane.decide(Decision.SKIP, 0)
    assert lane.take_discards() == [Discarded(4, 0, Condition.SKIPPED, 2, FAULT)]
    assert lane.finished
