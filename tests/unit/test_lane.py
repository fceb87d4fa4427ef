"""The lane, read as a specification."""

from __future__ import annotations

from itertools import accumulate

import pytest

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules, Chunk
from streamfn.core.lane import Lane, Phase
from streamfn.core.verdict import Condition, Discarded, FailurePolicy
from streamfn.types import Fault, Run

FAULT = Fault("ValueError", "no", b"{}")
BACKOFF = Backoff(initial_ns=1000, factor=2, max_ns=8000)


def lane_of(batch_size: int = 10, window_ns: int = 0, start: int = 0) -> Lane:
    """A lane that retries for ever, and whose backoff always draws half of its bound."""
    rules = BatchRules(batch_size, window_ns, event_bytes_max=1000, frame_bytes=10)
    return Lane(rules, FailurePolicy(BACKOFF), start, now_ns=0, random=lambda: 0.5)


def offer(lane: Lane, records: int, weight: int = 1) -> None:
    lane.offer(Chunk(lane.next_offset, list(accumulate([weight] * records, initial=0))))


# ---- handing over ----


def test_full_batches_travel_as_one_run_and_are_staged_behind_each_other() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 500)
    assert lane.take(0, 50) == [Run(0, 1, 50, 1)]
    assert lane.take(0, 50) == [Run(50, 1, 50, 1)]
    assert lane.in_flight == 100


def test_an_open_batch_waits_while_something_is_in_flight_and_goes_when_nothing_is() -> None:
    lane = lane_of(batch_size=10)
    offer(lane, 13)
    assert lane.take(0, 50) == [Run(0, 10, 1, 1)]
    assert lane.take(0, 50) == []
    assert lane.wake_at(0) is None
    offer(lane, 2)
    lane.succeeded(1, 7)
    assert lane.wake_at(7) == 7
    assert lane.take(7, 50) == [Run(10, 5, 1, 1)]


def test_an_open_batch_in_flight_may_have_closed_ones_behind_it() -> None:
    lane = lane_of(batch_size=10)
    offer(lane, 3)
    assert lane.take(0, 50) == [Run(0, 3, 1, 1)]
    offer(lane, 25)
    assert lane.take(0, 50) == [Run(3, 10, 2, 1)]


@pytest.mark.conformance(
    "batches/window-begins-with-the-answer",
    source="documented",
    rule="The next batching window begins when the previous invocation completes, not when a record arrives.",
)
def test_window_begins_when_the_previous_invocation_completes() -> None:
    lane = lane_of(window_ns=100)
    offer(lane, 10)
    lane.take(10, 1)
    offer(lane, 3)
    lane.succeeded(1, 50)
    assert lane.wake_at(60) == 150
    assert lane.take(149, 1) == []
    assert lane.take(150, 1) == [Run(10, 3, 1, 1)]


@pytest.mark.conformance(
    "batches/idle-shard-sends-at-once",
    source="inferred",
    rule="A shard whose window has passed without records sends nothing; the first record after that goes out at once.",
)
def test_first_record_of_an_idle_lane_goes_out_at_once() -> None:
    lane = lane_of(window_ns=100)
    assert lane.wake_at(500) is None
    offer(lane, 1)
    assert lane.wake_at(500) == 500
    assert lane.take(500, 1) == [Run(0, 1, 1, 1)]


@pytest.mark.conformance(
    "batches/six-megabytes",
    source="documented",
    rule="A batch is closed before its event would be over 6 MB; base64 and metadata count (inferred).",
)
def test_a_batch_spans_chunks_and_closes_before_the_record_that_would_pass_the_event_limit() -> None:
    lane = lane_of(batch_size=10)
    offer(lane, 3, weight=300)
    offer(lane, 3, weight=300)
    assert lane.take(0, 50) == [Run(0, 3, 1, 1)]
    lane.succeeded(1, 0)
    assert lane.take(0, 50) == [Run(3, 3, 1, 1)]


def test_batches_max_0_hands_over_nothing() -> None:
    lane = lane_of()
    offer(lane, 100)
    assert lane.take(0, 0) == []


def test_records_max_cuts_the_last_batch_which_goes_at_once() -> None:
    lane = lane_of(batch_size=10, window_ns=100)
    offer(lane, 100)
    assert lane.take(0, 50, records_max=25) == [Run(0, 10, 2, 1), Run(20, 5, 1, 1)]
    assert lane.cut_offset == 25
    assert lane.take(0, 50, records_max=0) == []


def test_records_max_beyond_what_is_here_closes_nothing() -> None:
    lane = lane_of(batch_size=10, window_ns=100)
    offer(lane, 12)
    assert lane.take(0, 50, records_max=25) == [Run(0, 10, 1, 1)]


# ---- outcomes ----


def test_watermark_follows_success_batch_by_batch() -> None:
    lane = lane_of(batch_size=2, start=100)
    offer(lane, 20)
    lane.take(0, 50)
    assert lane.watermark == 100
    lane.succeeded(3, 1)
    assert (lane.watermark, lane.in_flight) == (106, 7)
    lane.succeeded(7, 2)
    assert (lane.watermark, lane.in_flight) == (120, 0)


def test_after_a_failure_the_same_batch_goes_again_alone_when_the_rest_is_back_and_backoff_has_passed() -> (
    None
):
    lane = lane_of(batch_size=1)
    offer(lane, 10)
    lane.take(0, 5)
    lane.succeeded(1, 10)
    lane.failed(20, FAULT)
    assert lane.phase is Phase.DRAINING
    assert lane.take(10**9, 50) == []
    assert lane.wake_at(20) is None
    lane.returned(3)
    assert lane.phase is Phase.WAITING
    assert lane.wake_at(20) == 520
    assert lane.take(519, 50) == []
    assert lane.take(520, 50) == [Run(1, 1, 1, 2)]
    assert lane.phase is Phase.RETRYING
    assert lane.take(10**9, 50) == []
    assert lane.wake_at(520) is None
    lane.succeeded(1, 600)
    assert lane.retrying is None
    assert lane.take(600, 50) == [Run(2, 1, 3, 1), Run(5, 1, 5, 1)]


def test_attempts_and_backoff_grow_with_each_failure() -> None:
    lane = lane_of()
    offer(lane, 10)
    lane.take(0, 1)
    now, waits = 0, []
    for attempt in range(2, 8):
        lane.failed(now, FAULT)
        retry = lane.retrying
        assert retry is not None
        assert retry[:3] == (0, 10, attempt)
        assert retry.fault is FAULT
        assert lane.attempts == attempt - 1
        waits.append(retry.due_ns - now)
        now = retry.due_ns
        assert lane.take(now, 50) == [Run(0, 10, 1, attempt)]
    assert waits == [500, 1000, 2000, 4000, 4000, 4000]
    lane.succeeded(1, now)
    assert (lane.attempts, lane.watermark) == (0, 10)


def test_batches_that_did_not_run_go_back_in_front_as_they_were_cut_and_cost_no_attempt() -> None:
    lane = lane_of(batch_size=10)
    offer(lane, 4)
    assert lane.take(0, 50) == [Run(0, 4, 1, 1)]
    offer(lane, 30)
    assert lane.take(0, 50) == [Run(4, 10, 3, 1)]
    lane.returned(4)
    assert lane.wake_at(5) == 5
    assert lane.take(5, 2) == [Run(0, 4, 1, 1), Run(4, 10, 1, 1)]
    assert lane.take(5, 50) == [Run(14, 10, 2, 1)]


def test_what_comes_back_goes_in_front_of_what_was_never_handed_over_again() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 6)
    lane.take(0, 6)
    lane.returned(6)
    assert lane.take(0, 2) == [Run(0, 1, 2, 1)]
    lane.returned(1)
    assert lane.phase is Phase.DRAINING
    assert lane.take(0, 6) == []
    lane.returned(1)
    assert [run.first_offset for run in lane.take(0, 6)] == [0, 1, 2]


def test_after_a_revocation_nothing_is_staged_before_everything_is_answered() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 6)
    lane.take(0, 3)
    lane.recall()
    assert lane.phase is Phase.DRAINING
    assert (lane.take(0, 50), lane.wake_at(0)) == ([], None)
    lane.succeeded(1, 0)  # it was running
    assert lane.take(0, 50) == []
    lane.returned(2)
    assert lane.take(0, 50) == [Run(1, 1, 2, 1), Run(3, 1, 3, 1)]


def test_a_revocation_of_nothing_changes_nothing() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 1)
    lane.recall()
    assert lane.take(0, 1) == [Run(0, 1, 1, 1)]


def test_a_retry_that_did_not_run_keeps_its_attempt_and_is_due_at_once() -> None:
    lane = lane_of()
    offer(lane, 10)
    lane.take(0, 1)
    lane.failed(0, FAULT)
    assert lane.take(500, 1) == [Run(0, 10, 1, 2)]
    lane.returned(1)
    assert lane.phase is Phase.WAITING
    assert lane.take(501, 1) == [Run(0, 10, 1, 2)]


def test_the_lane_may_move_to_another_worker_exactly_when_nothing_is_in_flight() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 3)
    lane.take(0, 3)
    lane.succeeded(1, 0)
    lane.failed(0, FAULT)
    assert lane.in_flight == 1
    lane.returned(1)
    assert lane.in_flight == 0


def test_what_could_not_be_submitted_is_put_back_and_goes_first_next_time() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 6)
    lane.take(0, 2)
    assert lane.take(0, 4) == [Run(2, 1, 4, 1)]
    lane.put_back(3)
    assert (lane.in_flight, lane.wake_at(0)) == (3, 0)
    assert lane.take(0, 1) == [Run(3, 1, 1, 1)]
    lane.put_back(2)  # over the border of two runs
    assert lane.take(0, 9) == [Run(2, 1, 1, 1), Run(3, 1, 1, 1), Run(4, 1, 2, 1)]
    lane.succeeded(6, 0)
    assert lane.watermark == 6


def test_a_retry_that_could_not_be_submitted_stays_one() -> None:
    lane = lane_of()
    offer(lane, 10)
    lane.take(0, 1)
    lane.failed(0, FAULT)
    for _ in range(2):
        assert lane.take(500, 1) == [Run(0, 10, 1, 2)]
        lane.put_back(1)
        assert lane.phase is Phase.WAITING


# ---- the end ----


def test_until_caught_up_the_last_batch_is_closed_and_goes_behind_the_others() -> None:
    lane = lane_of(batch_size=10, window_ns=10**12)
    lane.finish_at(25)
    offer(lane, 40)
    assert lane.next_offset == 25
    assert lane.take(0, 50) == [Run(0, 10, 2, 1), Run(20, 5, 1, 1)]
    lane.succeeded(2, 0)
    assert not lane.finished
    lane.succeeded(1, 0)
    assert lane.finished


@pytest.mark.parametrize("end", [0, 99, 100])
def test_an_end_at_or_below_the_start_is_finished_at_once(end: int) -> None:
    lane = lane_of(start=100)
    assert not lane.finished
    lane.finish_at(end)
    assert lane.finished
    assert lane.wake_at(0) is None


@pytest.mark.conformance(
    "discards/too-large",
    source="ours",
    rule="A record whose event is over 6 MB even alone is discarded in its place, not invoked: RecordTooLarge.",
)
def test_a_record_too_big_to_be_sent_alone_is_discarded_when_everything_before_it_is_done() -> None:
    lane = lane_of(batch_size=10, window_ns=10**12)
    offer(lane, 3)
    offer(lane, 1, weight=991)
    offer(lane, 50)
    assert lane.take(0, 50) == [Run(0, 3, 1, 1)]
    assert lane.take(0, 50) == []
    assert (lane.take_discards(), lane.wake_at(0)) == ([], None)
    lane.succeeded(1, 7)
    assert lane.wake_at(7) == 7
    assert lane.take(7, 50) == [Run(4, 10, 5, 1)]
    assert lane.take_discards() == [Discarded(3, 1, Condition.RECORD_TOO_LARGE, 0, None)]
    assert lane.take_discards() == []
    assert (lane.watermark, lane.cut_offset - lane.undelivered) == (4, 53)


def test_a_record_of_exactly_the_limit_is_sent() -> None:
    lane = lane_of()
    offer(lane, 1, weight=990)
    assert lane.take(0, 1) == [Run(0, 1, 1, 1)]


def test_thousands_of_records_that_are_too_big_are_discarded_in_one_go() -> None:
    lane = lane_of()
    offer(lane, 5000, weight=991)
    lane.finish_at(5000)
    assert lane.take(0, 1) == []
    assert len(lane.take_discards()) == 5000
    assert lane.finished


def test_behind_its_limit_a_run_discards_nothing() -> None:
    lane = lane_of()
    offer(lane, 1)
    offer(lane, 1, weight=991)
    assert lane.take(0, 1, records_max=1) == [Run(0, 1, 1, 1)]
    lane.succeeded(1, 0)
    assert lane.take(0, 1, records_max=0) == []
    assert (lane.take_discards(), lane.watermark) == ([], 1)


# ---- what must never become durable ----


def test_success_behind_a_failure_is_a_bug_and_does_not_move_the_watermark() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 3)
    lane.take(0, 3)
    lane.failed(0, FAULT)
    with pytest.raises(AssertionError):
        lane.succeeded(1, 0)
    assert lane.watermark == 0


def test_success_behind_what_came_back_is_a_bug() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 3)
    lane.take(0, 3)
    lane.returned(1)
    with pytest.raises(AssertionError, match="came back"):
        lane.succeeded(1, 0)
    with pytest.raises(AssertionError, match="came back"):
        lane.failed(0, FAULT)


def test_more_outcomes_than_batches_in_flight_is_a_bug() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 1)
    lane.take(0, 1)
    with pytest.raises(AssertionError, match="more outcomes"):
        lane.succeeded(2, 0)


def test_a_gap_between_chunks_is_a_bug() -> None:
    lane = lane_of()
    with pytest.raises(AssertionError, match="gap"):
        lane.offer(Chunk(1, [0, 1]))


# ---- gaps ----


def test_the_batch_before_a_gap_is_closed_and_none_spans_it() -> None:
    lane = lane_of(batch_size=10, window_ns=1000)
    offer(lane, 13)
    lane.meet_gap()
    assert lane.take(0, 50) == [Run(0, 10, 1, 1), Run(10, 3, 1, 1)]
    assert not lane.at_gap
    lane.succeeded(1, 1)
    assert not lane.at_gap
    lane.succeeded(1, 2)
    assert lane.at_gap
    lane.skip_gap(40, 3)
    assert (lane.watermark, lane.next_offset, lane.cut_offset) == (40, 40, 40)
    offer(lane, 10)
    assert lane.take(3, 50) == [Run(40, 10, 1, 1)]


def test_a_gap_waits_for_the_retry_in_front_of_it() -> None:
    lane = lane_of(batch_size=10)
    offer(lane, 10)
    lane.meet_gap()
    lane.take(0, 50)
    lane.failed(0, FAULT)
    assert not lane.at_gap
    assert lane.take(10_000, 50) == [Run(0, 10, 1, 2)]
    lane.succeeded(1, 10_000)
    assert lane.at_gap


def test_behind_a_gap_the_end_that_was_set_before_still_holds() -> None:
    lane = lane_of(batch_size=10, window_ns=1000)
    lane.finish_at(50)
    lane.meet_gap()
    lane.skip_gap(48, 0)
    offer(lane, 10)
    assert lane.next_offset == 50
    assert lane.take(0, 50) == [Run(48, 2, 1, 1)]
    lane.succeeded(1, 0)
    assert lane.finished


def test_an_end_inside_a_gap_is_reached_by_skipping_it() -> None:
    lane = lane_of()
    lane.meet_gap()
    lane.finish_at(20)
    assert not lane.finished
    lane.skip_gap(30, 0)
    assert lane.finished


def test_an_end_before_a_gap_leaves_the_gap_alone() -> None:
    lane = lane_of()
    offer(lane, 10)
    lane.meet_gap()
    lane.finish_at(10)
    lane.take(0, 50)
    lane.succeeded(1, 0)
    assert lane.finished
    assert not lane.at_gap


def test_skipping_with_something_undone_is_a_bug() -> None:
    lane = lane_of()
    offer(lane, 10)
    lane.meet_gap()
    with pytest.raises(AssertionError, match="everything before it"):
        lane.skip_gap(20, 0)
