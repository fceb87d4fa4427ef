"""Tumbling windows, read as a specification."""

from __future__ import annotations

from itertools import accumulate

import pytest

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules, Chunk
from streamfn.core.tumbling import CLOSE_DELAY_MS, FOREVER, WindowLane
from streamfn.core.verdict import Condition, Discarded, FailurePolicy
from streamfn.limits import WINDOW_STATE_BYTES_MAX
from streamfn.types import Envelope, Fault, Run, Window

FAULT = Fault("ValueError", "no", b"{}")
BACKOFF = Backoff(initial_ns=1000, factor=2, max_ns=8000)
LENGTH_MS = 10_000
BIG = b'{"x":"' + b"x" * WINDOW_STATE_BYTES_MAX + b'"}'


def lane_of(
    batch_size: int = 10,
    window_ns: int = 0,
    start: int = 0,
    length_ms: int = LENGTH_MS,
    window: Window | None = None,
    retries: int | None = None,
    bisect: bool = False,
    age_ms: int | None = None,
) -> WindowLane:
    """A lane whose backoff always draws half of its bound."""
    rules = BatchRules(batch_size, window_ns, event_bytes_max=1000, frame_bytes=10)
    policy = FailurePolicy(BACKOFF, maximum_retry_attempts=retries, maximum_record_age_ms=age_ms, bisect=bisect)
    return WindowLane(rules, policy, start, 0, lambda: 0.5, length_ms=length_ms, window=window)


def offer(lane: WindowLane, *arrivals_ms: int, weight: int = 1) -> None:
    lane.offer(Chunk(lane.next_offset, list(accumulate([weight] * len(arrivals_ms), initial=0)), list(arrivals_ms)))


def done(lane: WindowLane, state: bytes = b"{}", now_ns: int = 0, most: int = 50) -> tuple[Run, Envelope]:
    """Take the one thing that may go, and let it succeed."""
    (run,) = lane.take(now_ns, most, time_ms=0)
    envelope = lane.envelope
    lane.succeeded(1, now_ns, state=state)
    return run, envelope


def final(start_ms: int, state: bytes = b"{}", length_ms: int = LENGTH_MS) -> Envelope:
    return Envelope(start_ms, start_ms + length_ms, state, is_final=True, is_terminated_early=False)


def within(start_ms: int, state: bytes = b"{}") -> Envelope:
    return Envelope(start_ms, start_ms + LENGTH_MS, state, is_final=False, is_terminated_early=False)


# ---- state ----


@pytest.mark.conformance(
    "windows/state-is-carried",
    source="documented",
    rule="Every invocation of a window gets the state that the one before it returned; the first gets an empty object.",
)
def test_state_is_empty_at_first_and_then_what_the_invocation_before_returned() -> None:
    lane = lane_of(batch_size=2)
    offer(lane, 12_000, 12_001, 12_002, 19_999, 10_000)
    assert done(lane, b"1") == (Run(0, 2, 1, 1), within(10_000))
    assert done(lane, b"2") == (Run(2, 2, 1, 1), within(10_000, b"1"))
    assert done(lane, b"3") == (Run(4, 1, 1, 1), within(10_000, b"2"))
    assert lane.window == Window(10_000, 20_000, b"3")
    assert lane.watermark == 5


@pytest.mark.conformance(
    "windows/one-at-a-time",
    source="inferred",
    rule="Of a shard with windows one invocation runs at a time, and nothing is staged behind it: it "
    "would lack the state.",
)
def test_one_batch_is_in_flight_at_a_time_and_none_is_staged_behind_it() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 1, 2, 3)
    assert lane.take(0, 50) == [Run(0, 1, 1, 1)]
    assert lane.take(0, 50) == []
    assert lane.wake_at(0) is None
    assert lane.in_flight == 1


@pytest.mark.conformance(
    "windows/aligned-to-1970",
    source="inferred",
    rule="Windows are aligned to 1970, whatever their length: the guide's example of two minutes "
    "begins at an even one.",
)
def test_windows_are_aligned_to_1970_whatever_their_length() -> None:
    lane = lane_of(length_ms=7_000)
    offer(lane, 1_607_497_475_000)
    _, envelope = done(lane)
    assert envelope.start_ms % 7_000 == 0
    assert envelope.start_ms <= 1_607_497_475_000 < envelope.end_ms == envelope.start_ms + 7_000


@pytest.mark.conformance(
    "windows/failure-keeps-state",
    source="inferred",
    rule="A failed invocation leaves the state as it was, and is tried again with it.",
)
def test_a_failed_invocation_leaves_the_state_and_is_tried_again_with_it() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 1, 2)
    done(lane, b"1")
    assert lane.take(0, 1) == [Run(1, 1, 1, 1)]
    lane.failed(0, FAULT)
    assert lane.wake_at(0) == 500
    assert lane.take(499, 1) == []
    assert lane.take(500, 1) == [Run(1, 1, 1, 2)]
    assert lane.envelope == within(0, b"1")


@pytest.mark.conformance(
    "windows/state-of-a-partial-failure",
    source="ours",
    rule="A state that comes with batchItemFailures is taken over if records before the first "
    "reported one are done: nobody would count them otherwise.",
)
def test_a_partial_failure_takes_the_state_over_if_records_are_done() -> None:
    lane = lane_of(batch_size=3)
    offer(lane, 1, 2, 3)
    lane.take(0, 1)
    lane.partly(2, 0, FAULT, state=b"2")
    assert lane.watermark == 2
    assert lane.window == Window(0, LENGTH_MS, b"2")
    assert lane.take(0, 1) == [Run(2, 1, 1, 1)]
    assert lane.envelope == within(0, b"2")


@pytest.mark.conformance(
    "windows/state-of-no-success",
    source="ours",
    rule="A state that comes with a failure of the batch's first record is dropped: the whole batch "
    "is delivered again.",
)
def test_a_partial_failure_of_the_first_record_leaves_the_state() -> None:
    lane = lane_of(batch_size=3)
    offer(lane, 1, 2, 3)
    lane.take(0, 1)
    lane.partly(0, 0, FAULT, state=b"lost")
    assert lane.take(500, 1) == [Run(0, 3, 1, 2)]
    assert lane.envelope == within(0)


def test_each_half_of_a_bisected_batch_gets_the_state_that_the_one_before_returned() -> None:
    lane = lane_of(batch_size=4, bisect=True)
    offer(lane, 1, 2, 3, 4)
    lane.take(0, 1)
    lane.failed(0, FAULT)
    assert done(lane, b"1") == (Run(0, 2, 1, 1), within(0))
    assert done(lane, b"2") == (Run(2, 2, 1, 1), within(0, b"1"))


@pytest.mark.conformance(
    "windows/discard-keeps-state",
    source="ours",
    rule="A discarded batch leaves the state as it was.",
)
def test_a_discarded_batch_leaves_the_state() -> None:
    lane = lane_of(batch_size=1, retries=0)
    offer(lane, 1, 2, 3)
    done(lane, b"1")
    lane.take(0, 1)
    lane.failed(0, FAULT)
    assert lane.take_discards() == [Discarded(1, 1, Condition.RETRY_ATTEMPTS_EXHAUSTED, 1, FAULT)]
    assert (lane.watermark, lane.window) == (2, Window(0, LENGTH_MS, b"1"))
    assert done(lane) == (Run(2, 1, 1, 1), within(0, b"1"))


@pytest.mark.conformance(
    "windows/age-and-retries-hold",
    source="documented",
    rule="MaximumRetryAttempts and MaximumRecordAgeInSeconds hold with windows.",
)
def test_age_limits_hold_as_ever() -> None:
    lane = lane_of(age_ms=1_000)
    offer(lane, 1, 2, 5_000)
    assert lane.take(0, 1, time_ms=5_500) == [Run(2, 1, 1, 1)]
    assert [discard[:3] for discard in lane.take_discards()] == [(0, 2, Condition.RECORD_AGE_EXCEEDED)]


def test_what_came_back_before_it_ran_goes_again_with_the_same_state() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 1, 2)
    done(lane, b"1")
    lane.take(0, 1)
    lane.recall()
    lane.returned(1)
    assert lane.take(0, 1) == [Run(1, 1, 1, 1)]
    assert lane.envelope == within(0, b"1")
    lane.put_back(1)
    assert lane.take(0, 1) == [Run(1, 1, 1, 1)]


# ---- final invocations ----


@pytest.mark.conformance(
    "windows/final-call",
    source="documented",
    rule="A record belongs to the window of its arrival time; when the next record is of a later "
    "one, the window has its final invocation with isFinalInvokeForWindow and the last state, "
    "which is dropped then.",
)
def test_no_batch_spans_two_windows_and_each_has_its_final_call() -> None:
    lane = lane_of()
    offer(lane, 1, 9_999, 10_000, 10_001, 35_000)
    assert done(lane, b"1") == (Run(0, 2, 1, 1), within(0))
    assert done(lane, b"unheeded") == (Run(2, 0, 1, 1), final(0, b"1"))
    assert lane.window == Window(0, 10_000, None)
    assert done(lane, b"2") == (Run(2, 2, 1, 1), within(10_000))
    assert done(lane) == (Run(4, 0, 1, 1), final(10_000, b"2"))
    assert done(lane) == (Run(4, 1, 1, 1), within(30_000))
    assert lane.take(0, 1) == []
    assert lane.watermark == 5


def test_a_partial_batch_is_closed_where_the_next_record_is_of_a_later_window() -> None:
    lane = lane_of(window_ns=1_000_000)
    offer(lane, 1, 2)
    assert lane.wake_at(0) == 1_000_000
    assert not lane.complete
    offer(lane, 10_000)
    assert lane.complete
    assert lane.wake_at(0) == 0
    assert lane.take(0, 1) == [Run(0, 2, 1, 1)]


@pytest.mark.conformance(
    "windows/over-by-the-clock",
    source="documented",
    rule="Without further records a window is over some time after its end, and never before "
    "everything that had arrived has been delivered.",
    differs="Lambda waits for up to two minutes; here it is 2 s, because what is appended can be read at once.",
)
def test_a_window_is_over_by_the_clock_only_when_everything_that_had_arrived_has_been_read() -> None:
    lane = lane_of()
    offer(lane, 1)
    lane.read_up_to(3_000, now_ns=0)
    done(lane, b"1")
    over_ns = (LENGTH_MS + CLOSE_DELAY_MS - 3_000) * 1_000_000
    assert lane.wake_at(5) == over_ns
    assert lane.take(over_ns, 1) == []
    lane.read_up_to(LENGTH_MS + CLOSE_DELAY_MS - 1, over_ns - 1_000_000)
    assert lane.take(over_ns, 1) == []
    assert lane.wake_at(over_ns - 1_000_000) == over_ns
    lane.read_up_to(LENGTH_MS + CLOSE_DELAY_MS, over_ns)
    assert lane.wake_at(over_ns) == over_ns
    assert done(lane, now_ns=over_ns) == (Run(1, 0, 1, 1), final(0, b"1"))


def test_a_backlog_closes_windows_by_its_records_not_by_the_clock() -> None:
    lane = lane_of()
    offer(lane, 1)
    done(lane, b"1", now_ns=10**18)
    assert lane.take(10**18, 1) == []
    offer(lane, 2)
    assert done(lane, now_ns=10**18) == (Run(1, 1, 1, 1), within(0, b"1"))


def test_the_clock_closes_the_last_batch_of_a_window_too() -> None:
    lane = lane_of(window_ns=10**15)
    offer(lane, 1)
    assert lane.take(0, 1) == []
    lane.read_up_to(LENGTH_MS + CLOSE_DELAY_MS, 5)
    assert done(lane, b"1") == (Run(0, 1, 1, 1), within(0))
    assert done(lane) == (Run(1, 0, 1, 1), final(0, b"1"))


@pytest.mark.conformance(
    "windows/final-call-blocks",
    source="documented",
    rule="While a final invocation fails, its shard waits.",
)
def test_a_failing_final_call_blocks_the_shard_and_is_retried_with_the_same_state() -> None:
    lane = lane_of()
    offer(lane, 1, 10_000)
    done(lane, b"1")
    lane.take(0, 1)
    lane.failed(0, FAULT)
    retry = lane.retrying
    assert retry is not None
    assert (retry.records, retry.attempt, retry.due_ns, retry.fault) == (0, 2, 500, FAULT)
    assert (lane.attempts, lane.unfinished) == (1, True)
    assert (lane.take(499, 1), lane.wake_at(1)) == ([], 500)
    assert lane.take(500, 1) == [Run(1, 0, 1, 2)]
    lane.failed(500, FAULT)
    assert lane.wake_at(500) == 1_500
    assert done(lane, now_ns=1_500) == (Run(1, 0, 1, 3), final(0, b"1"))
    assert (lane.retrying, lane.attempts, lane.unfinished) == (None, 0, False)
    assert done(lane, now_ns=1_500) == (Run(1, 1, 1, 1), within(10_000))


def test_item_failures_reported_by_a_final_call_are_a_failure_of_it() -> None:
    lane = lane_of()
    offer(lane, 1, 10_000)
    done(lane)
    lane.take(0, 1)
    lane.partly(0, 0, FAULT, state=b"{}")
    assert lane.take(500, 1) == [Run(1, 0, 1, 2)]


@pytest.mark.conformance(
    "windows/final-call-given-up",
    source="ours",
    rule="MaximumRetryAttempts holds for final invocations too; when it is used up the state is "
    "lost, which is said, and the shard goes on: the guide says both that retries are supported "
    "and that the shard waits for a success.",
)
def test_a_final_call_whose_retries_are_used_up_is_given_up_as_a_discard_of_no_records() -> None:
    lane = lane_of(retries=1)
    offer(lane, 1, 10_000)
    done(lane, b"1")
    lane.take(0, 1)
    lane.failed(0, FAULT)
    lane.take(500, 1)
    lane.failed(500, FAULT)
    assert lane.take_discards() == [Discarded(1, 0, Condition.RETRY_ATTEMPTS_EXHAUSTED, 2, FAULT)]
    assert lane.take_discards() == []
    assert lane.window == Window(0, 10_000, None)
    assert done(lane, now_ns=500) == (Run(1, 1, 1, 1), within(10_000))


def test_throttles_and_service_errors_cost_a_final_call_no_attempt() -> None:
    lane = lane_of(retries=0)
    offer(lane, 1, 10_000)
    done(lane)
    for now_ns, due_ns in ((0, 500), (500, 1_500)):
        lane.take(now_ns, 1)
        lane.failed(now_ns, FAULT, charged=False)
        assert lane.wake_at(now_ns) == due_ns
    assert lane.take(1_500, 1) == [Run(1, 0, 1, 1)]
    assert lane.take_discards() == []


def test_a_final_call_that_did_not_run_goes_again() -> None:
    lane = lane_of()
    offer(lane, 1, 10_000)
    done(lane)
    lane.take(0, 1)
    lane.returned(1)
    assert lane.take(0, 1) == [Run(1, 0, 1, 1)]
    lane.put_back(1)
    assert done(lane) == (Run(1, 0, 1, 1), final(0))


def test_the_batch_window_begins_when_the_final_call_completes() -> None:
    lane = lane_of(window_ns=100)
    offer(lane, 1, 10_000)
    done(lane, now_ns=100)
    lane.take(200, 1)
    lane.succeeded(1, 250, state=b"{}")
    assert lane.wake_at(250) == 350


@pytest.mark.conformance(
    "windows/window-of-discards",
    source="ours",
    rule="A window that had a record has a final invocation, whatever became of its records.",
)
def test_a_window_all_of_whose_records_were_discarded_has_its_final_call() -> None:
    lane = lane_of(age_ms=1_000)
    offer(lane, 1, 50_000)
    (run,) = lane.take(0, 1, time_ms=50_000)
    assert (run, lane.envelope) == (Run(1, 0, 1, 1), final(0))
    assert [discard.records for discard in lane.take_discards()] == [1]


def test_windows_of_a_long_chunk_are_found_wherever_they_begin() -> None:
    lane = lane_of(batch_size=1000)
    arrivals = [*range(300), *range(10_000, 10_700), 20_000, 3, *range(30_000, 30_256), 40_000]
    offer(lane, *arrivals)
    found = []
    while runs := lane.take(0, 1):
        found.append((runs[0].records, lane.envelope.start_ms))
        lane.succeeded(1, 0, state=b"{}")
    assert [one for one in found if one[0]] == [(300, 0), (700, 10_000), (2, 20_000), (256, 30_000), (1, 40_000)]


def test_a_window_without_records_has_no_calls() -> None:
    lane = lane_of()
    offer(lane, 1, 95_000)
    done(lane)
    assert done(lane)[1] == final(0)
    assert done(lane)[1] == within(90_000)


# ---- state that has outgrown its limit ----


@pytest.mark.conformance(
    "windows/early-termination",
    source="documented",
    rule="A state over 1 MB terminates its window early: an invocation with isWindowTerminatedEarly "
    "gets it, and the same window goes on with a fresh one.",
)
def test_a_state_over_a_megabyte_terminates_its_window_early_and_the_window_goes_on_afresh() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 1, 2)
    done(lane, BIG)
    assert lane.window == Window(0, LENGTH_MS, BIG)
    assert lane.wake_at(0) == 0
    run, envelope = done(lane, b"unheeded")
    assert (run, envelope) == (Run(1, 0, 1, 1), Envelope(0, LENGTH_MS, BIG, False, True))
    assert lane.window == Window(0, LENGTH_MS, b"{}")
    assert done(lane, b"2") == (Run(1, 1, 1, 1), within(0))
    lane.read_up_to(10**6, 0)
    assert done(lane) == (Run(2, 0, 1, 1), final(0, b"2"))


@pytest.mark.conformance(
    "windows/a-megabyte",
    source="inferred",
    rule="1 MB is 1,048,576 bytes of the state's JSON as it was returned.",
)
def test_a_state_of_exactly_a_megabyte_does_not() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 1, 2)
    done(lane, BIG[: WINDOW_STATE_BYTES_MAX - 2] + b'"}')
    assert done(lane)[0] == Run(1, 1, 1, 1)


def test_an_early_termination_is_retried_and_given_up_like_a_final_call() -> None:
    lane = lane_of(batch_size=1, retries=1)
    offer(lane, 1, 2)
    done(lane, BIG)
    lane.take(0, 1)
    lane.failed(0, FAULT)
    assert lane.take(500, 1) == [Run(1, 0, 1, 2)]
    lane.failed(500, FAULT)
    assert [discard.records for discard in lane.take_discards()] == [0]
    assert done(lane) == (Run(1, 1, 1, 1), within(0))


def test_what_is_left_after_a_partial_failure_waits_for_the_early_termination() -> None:
    lane = lane_of(batch_size=2)
    offer(lane, 1, 2)
    lane.take(0, 1)
    lane.partly(1, 0, FAULT, state=BIG)
    assert done(lane)[1].is_terminated_early
    assert done(lane) == (Run(1, 1, 1, 1), within(0))


def test_a_window_that_is_over_when_its_state_outgrows_has_both_calls() -> None:
    lane = lane_of()
    offer(lane, 1, 10_000)
    done(lane, BIG)
    assert done(lane)[1].is_terminated_early
    assert done(lane) == (Run(1, 0, 1, 1), final(0))


# ---- late records ----


@pytest.mark.conformance(
    "windows/late-records-join",
    source="ours",
    rule="A record that arrived in a window before the one that is open joins the open one: nothing is dropped.",
)
def test_a_late_record_joins_the_window_that_is_open() -> None:
    lane = lane_of()
    offer(lane, 10_000, 1, 9_999, 10_001)
    assert done(lane) == (Run(0, 4, 1, 1), within(10_000))


@pytest.mark.conformance(
    "windows/late-records-open",
    source="ours",
    rule="A late record while no window is open opens the window behind the last one that was "
    "closed: no window has two final invocations.",
)
def test_a_late_record_opens_the_window_behind_the_last_closed_one_if_none_is_open() -> None:
    lane = lane_of()
    offer(lane, 1)
    done(lane)
    lane.read_up_to(LENGTH_MS + CLOSE_DELAY_MS, 0)
    done(lane)
    offer(lane, 9_999)
    assert done(lane, b"late") == (Run(1, 1, 1, 1), within(10_000))
    offer(lane, 12_000)
    assert done(lane) == (Run(2, 1, 1, 1), within(10_000, b"late"))


def test_a_record_that_arrives_while_its_window_waits_for_its_final_call_is_late() -> None:
    lane = lane_of()
    offer(lane, 1)
    done(lane, b"1")
    lane.read_up_to(LENGTH_MS + CLOSE_DELAY_MS, 0)
    lane.take(0, 1)
    offer(lane, 2)
    lane.failed(0, FAULT)
    assert done(lane, now_ns=500) == (Run(1, 0, 1, 2), final(0, b"1"))
    assert done(lane, now_ns=500) == (Run(1, 1, 1, 1), within(10_000))


# ---- restarts ----


@pytest.mark.conformance(
    "windows/restart",
    source="ours",
    rule="After a restart a window goes on with the state that was committed with the checkpoint.",
)
def test_an_open_window_goes_on_with_the_state_that_was_committed() -> None:
    lane = lane_of(start=7, window=Window(10_000, 20_000, b"6"))
    assert lane.window == Window(10_000, 20_000, b"6")
    offer(lane, 15_000, 20_000)
    assert done(lane, b"7") == (Run(7, 1, 1, 1), within(10_000, b"6"))
    assert done(lane)[1] == final(10_000, b"7")


def test_a_window_that_ended_while_nothing_ran_has_its_final_call_when_the_log_has_been_read() -> None:
    lane = lane_of(start=7, window=Window(10_000, 20_000, b"6"))
    assert lane.take(0, 1) == []
    lane.read_up_to(50_000, 0)
    assert done(lane) == (Run(7, 0, 1, 1), final(10_000, b"6"))


def test_a_closed_window_stays_closed() -> None:
    lane = lane_of(start=7, window=Window(10_000, 20_000, None))
    offer(lane, 15_000)
    assert done(lane) == (Run(7, 1, 1, 1), within(20_000))


def test_an_early_termination_that_had_not_succeeded_comes_first() -> None:
    lane = lane_of(start=7, window=Window(10_000, 20_000, BIG))
    offer(lane, 15_000)
    assert done(lane)[1] == Envelope(10_000, 20_000, BIG, False, True)
    assert done(lane)[1] == within(10_000)


@pytest.mark.conformance(
    "windows/changed-length",
    source="ours",
    rule="A window keeps its bounds when TumblingWindowInSeconds is changed; the next one begins where it ended.",
)
def test_a_window_keeps_its_bounds_when_the_length_is_changed_and_the_next_begins_where_it_ended() -> None:
    lane = lane_of(start=7, length_ms=15_000, window=Window(10_000, 20_000, b"6"))
    offer(lane, 19_999, 21_000, 30_000)
    assert done(lane)[1] == within(10_000, b"6")
    assert done(lane)[1].is_final
    assert done(lane)[1][:2] == (20_000, 30_000)
    assert done(lane)[1].is_final
    assert done(lane)[1][:2] == (30_000, 45_000)


def test_what_is_committed_names_no_window_before_something_of_it_is_done() -> None:
    lane = lane_of()
    assert lane.window is None
    offer(lane, 1)
    lane.take(0, 1)
    assert lane.window is None
    lane.succeeded(1, 0, state=b"1")
    assert lane.window == Window(0, 10_000, b"1")
    offer(lane, 10_000)
    done(lane)
    lane.take(0, 1)
    assert lane.window == Window(0, 10_000, None)


# ---- the end ----


@pytest.mark.conformance(
    "windows/shard-end",
    source="documented",
    rule="The end of a shard closes its window.",
)
def test_the_end_of_a_shard_closes_its_window() -> None:
    lane = lane_of()
    offer(lane, 1)
    done(lane, b"1")
    lane.finish_at(1, FOREVER)
    assert not lane.finished
    lane.take(0, 1)
    assert not lane.finished
    lane.succeeded(1, 0, state=b"")
    assert lane.finished
    assert lane.wake_at(0) is None


def test_a_shard_that_ends_behind_what_is_read_closes_its_window_there() -> None:
    lane = lane_of()
    lane.finish_at(2, FOREVER)
    offer(lane, 1)
    done(lane)
    assert (lane.take(0, 1), lane.finished) == ([], False)
    offer(lane, 2, 3)
    done(lane, b"2")
    assert done(lane) == (Run(2, 0, 1, 1), final(0, b"2"))
    assert lane.finished


@pytest.mark.conformance(
    "windows/caught-up",
    source="ours",
    rule="run --until-caught-up closes windows that were over when it began, reports one that is "
    "open, and does not wait for it.",
)
def test_caught_up_with_what_was_there_an_open_window_is_not_awaited() -> None:
    lane = lane_of()
    lane.finish_at(2, complete_ms=5_000)
    offer(lane, 1, 2, 3)
    done(lane, b"2")
    assert lane.finished
    assert (lane.take(0, 1), lane.wake_at(0)) == ([], None)
    assert lane.window == Window(0, 10_000, b"2")


def test_caught_up_with_what_was_there_a_window_that_was_over_is_closed() -> None:
    lane = lane_of()
    lane.finish_at(2, complete_ms=LENGTH_MS + CLOSE_DELAY_MS)
    offer(lane, 1, 2)
    done(lane, b"2")
    assert not lane.finished
    assert done(lane)[1] == final(0, b"2")
    assert lane.finished


def test_reading_no_further_delivers_what_was_read_and_leaves_the_window_open() -> None:
    lane = lane_of()
    offer(lane, 1, 2, 10_000)
    lane.finish_at(lane.next_offset)
    done(lane)
    done(lane)
    assert done(lane, b"3") == (Run(2, 1, 1, 1), within(10_000))
    assert lane.finished
    assert lane.window == Window(10_000, 20_000, b"3")


def test_a_finish_in_front_of_what_was_offered_forgets_it() -> None:
    lane = lane_of()
    offer(lane, 1, 2, 10_000, 10_001)
    lane.finish_at(3)
    assert lane.next_offset == 3
    done(lane)
    done(lane)
    assert done(lane)[0] == Run(2, 1, 1, 1)
    assert lane.finished


def test_what_waits_weighs_the_same_wherever_it_waits() -> None:
    lane = lane_of()
    offer(lane, 1, 2, 10_000, weight=3)
    offer(lane, 10_001, 20_000, weight=3)
    assert lane.buffered_bytes == 15
    done(lane)
    assert lane.buffered_bytes == 9
    done(lane)
    assert lane.buffered_bytes == 9
    lane.finish_at(4)
    assert lane.buffered_bytes == 6
    done(lane)
    assert lane.buffered_bytes == 0


def test_a_finish_that_forgets_records_of_the_window_leaves_it_open() -> None:
    lane = lane_of(batch_size=1)
    offer(lane, 1, 2)
    lane.read_up_to(5_000, 0)
    lane.finish_at(1)
    done(lane, b"1")
    assert lane.finished
    assert lane.window == Window(0, LENGTH_MS, b"1")


def test_a_finish_that_leaves_nothing_of_a_window_leaves_no_call_of_it() -> None:
    lane = lane_of()
    offer(lane, 1, 2)
    lane.finish_at(0, FOREVER)
    assert (lane.take(0, 1), lane.finished, lane.window) == ([], True, None)


def test_a_limit_cuts_the_last_batch_and_begins_no_call() -> None:
    lane = lane_of()
    offer(lane, 1, 2, 10_000)
    assert lane.take(0, 50, 1) == [Run(0, 1, 1, 1)]
    lane.succeeded(1, 0, state=b"{}")
    assert lane.take(0, 50, 0) == []
    done(lane)
    assert lane.take(0, 50, 0) == []


# ---- gaps ----


def test_a_window_stays_open_over_a_gap() -> None:
    lane = lane_of(window_ns=10**9)
    offer(lane, 1)
    lane.meet_gap()
    assert not lane.at_gap
    assert done(lane, b"1") == (Run(0, 1, 1, 1), within(0))
    assert lane.at_gap
    lane.skip_gap(5, 10)
    assert (lane.watermark, lane.next_offset, lane.window) == (5, 5, Window(0, LENGTH_MS, b"1"))
    offer(lane, 2, 10_000)
    assert done(lane, now_ns=10**10) == (Run(5, 1, 1, 1), within(0, b"1"))
    assert done(lane, now_ns=10**10)[1].is_final


def test_a_gap_behind_a_later_window_waits_for_the_windows_before_it() -> None:
    lane = lane_of()
    offer(lane, 1, 10_000)
    lane.meet_gap()
    for _ in range(3):
        assert not lane.at_gap
        done(lane)
    assert lane.at_gap
    lane.skip_gap(9, 0)
    assert lane.watermark == 9


def test_a_window_may_close_in_front_of_a_gap_and_the_gap_is_still_there() -> None:
    lane = lane_of()
    offer(lane, 1)
    lane.meet_gap()
    lane.read_up_to(10**6, 0)
    done(lane)
    assert done(lane)[1].is_final
    assert lane.at_gap
    lane.skip_gap(4, 0)
    offer(lane, 1)
    assert done(lane) == (Run(4, 1, 1, 1), within(10_000))


@pytest.mark.parametrize("end", [1, 0])
def test_a_finish_in_front_of_a_gap_makes_an_end_of_it(end: int) -> None:
    lane = lane_of()
    offer(lane, 1)
    lane.meet_gap()
    lane.finish_at(end)
    assert not lane.at_gap
    if end:
        done(lane)
    assert lane.finished
