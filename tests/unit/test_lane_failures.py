"""What a lane makes of failures: retry limits, halves, parts that succeeded, age; read as a specification."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import pytest

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules, Chunk
from streamfn.core.lane import Lane, Phase
from streamfn.core.verdict import Condition, Discarded, FailurePolicy
from streamfn.types import Fault, Run

FAULT = Fault("ValueError", "no", b"{}")
OTHER = Fault("KeyError", "no", b"{}")
BACKOFF = Backoff(initial_ns=1000, factor=2, max_ns=8000)
EXHAUSTED, TOO_OLD = Condition.RETRY_ATTEMPTS_EXHAUSTED, Condition.RECORD_AGE_EXCEEDED
MS = 1_000_000


def lane_of(
    batch_size: int = 10,
    *,
    retries: int | None = None,
    age_ms: int | None = None,
    bisect: bool = False,
    window_ns: int = 0,
) -> Lane:
    rules = BatchRules(batch_size, window_ns, event_bytes_max=1000, frame_bytes=10)
    return Lane(rules, FailurePolicy(BACKOFF, retries, age_ms, bisect), 0, now_ns=0, random=lambda: 0.5)


def offer(lane: Lane, records: int, *, weight: int = 1, arrivals: Sequence[int] | None = None) -> None:
    lane.offer(Chunk(lane.next_offset, list(accumulate([weight] * records, initial=0)), arrivals))


def fail_until_discarded(lane: Lane, fault: Fault = FAULT) -> list[Run]:
    """Let the oldest in flight, and every retry of it, fail; the deliveries behind the first one."""
    now, runs = 0, []
    while True:
        lane.failed(now, fault)
        if (retry := lane.retrying) is None:
            return runs
        now = retry.due_ns
        runs += lane.take(now, 1)


# ---- MaximumRetryAttempts


@pytest.mark.parametrize(
    "retries",
    [
        pytest.param(
            0,
            marks=pytest.mark.conformance(
                "retries/limit",
                source="recorded",
                rule="MaximumRetryAttempts N: the same batch is invoked N + 1 times, then discarded.",
            ),
        ),
        1,
        2,
        3,
        pytest.param(10_000, id="Lambda's most"),
    ],
)
def test_a_batch_is_delivered_once_more_than_it_is_retried_and_then_discarded(retries: int) -> None:
    lane = lane_of(3, retries=retries)
    offer(lane, 6)
    lane.take(0, 1)
    again = fail_until_discarded(lane, OTHER)
    assert again == [Run(0, 3, 1, attempt) for attempt in range(2, retries + 2)]
    assert lane.take_discards() == [Discarded(0, 3, EXHAUSTED, retries + 1, OTHER)]
    assert lane.watermark == 3
    assert lane.take(0, 1) == [Run(3, 3, 1, 1)]


@pytest.mark.conformance(
    "retries/unlimited", source="documented", rule="MaximumRetryAttempts -1: a batch is retried until it expires."
)
def test_without_a_limit_nothing_is_discarded() -> None:
    lane = lane_of(3)
    offer(lane, 3)
    lane.take(0, 1)
    now = 0
    for attempt in range(2, 200):
        lane.failed(now, FAULT)
        assert lane.retrying is not None
        now = lane.retrying.due_ns
        assert lane.take(now, 1) == [Run(0, 3, 1, attempt)]
    assert lane.take_discards() == []


def test_a_success_before_the_limit_discards_nothing() -> None:
    lane = lane_of(3, retries=1)
    offer(lane, 6)
    lane.take(0, 1)
    lane.failed(0, FAULT)
    assert lane.take(10_000, 1) == [Run(0, 3, 1, 2)]
    lane.succeeded(1, 10_000)
    assert lane.take(10_000, 1) == [Run(3, 3, 1, 1)]  # and the next batch has a budget of its own
    assert lane.take_discards() == []


def test_behind_a_discarded_batch_nothing_goes_before_what_was_staged_is_back() -> None:
    lane = lane_of(1, retries=0)
    offer(lane, 5)
    lane.take(0, 3)
    lane.failed(0, FAULT)
    assert (lane.watermark, lane.phase, lane.take(0, 9)) == (1, Phase.DRAINING, [])
    lane.returned(2)
    assert lane.take(0, 9) == [Run(1, 1, 2, 1), Run(3, 1, 2, 1)]


def test_a_success_behind_a_discarded_batch_is_a_bug() -> None:
    lane = lane_of(1, retries=0)
    offer(lane, 2)
    lane.take(0, 2)
    lane.failed(0, FAULT)
    with pytest.raises(AssertionError, match="behind one that failed"):
        lane.succeeded(1, 0)


@pytest.mark.conformance(
    "batches/window-after-discard",
    source="documented",
    rule="When a batch is discarded the next batching window begins.",
)
def test_the_next_window_begins_when_a_batch_is_discarded() -> None:
    lane = lane_of(10, retries=0, window_ns=100)
    offer(lane, 10)
    lane.take(0, 1)
    offer(lane, 1)
    lane.failed(500, FAULT)
    assert lane.wake_at(500) == 600


def test_a_discarded_last_batch_finishes_the_lane() -> None:
    lane = lane_of(3, retries=0)
    lane.finish_at(3)
    offer(lane, 3)
    lane.take(0, 1)
    lane.failed(0, FAULT)
    assert lane.finished


# ---- what costs no attempt


@pytest.mark.conformance(
    "retries/uncharged",
    source="documented",
    rule="Throttles and service errors do not use up MaximumRetryAttempts.",
)
def test_what_the_function_is_not_to_blame_for_costs_no_attempt_and_does_not_split() -> None:
    lane = lane_of(4, retries=1, bisect=True)
    offer(lane, 4)
    lane.take(0, 1)
    now = 0
    for _ in range(20):
        lane.failed(now, FAULT, charged=False)
        assert lane.retrying is not None
        now = lane.retrying.due_ns
        assert lane.take(now, 1) == [Run(0, 4, 1, 1)]
    lane.failed(now, FAULT)
    assert lane.take(now, 2) == [Run(0, 2, 1, 1), Run(2, 2, 1, 1)]


def test_the_wait_grows_with_every_failure_in_a_row_charged_or_not() -> None:
    lane = lane_of(1, retries=9)
    offer(lane, 1)
    lane.take(0, 1)
    now, waits = 0, []
    for charged in (False, True, False, True):
        lane.failed(now, FAULT, charged=charged)
        assert lane.retrying is not None
        waits.append(lane.retrying.due_ns - now)
        now = lane.retrying.due_ns
        lane.take(now, 1)
    assert waits == [500, 1000, 2000, 4000]
    assert lane.attempts == 2


# ---- BisectBatchOnFunctionError


@pytest.mark.conformance(
    "bisect/halves",
    source="documented",
    rule="With BisectBatchOnFunctionError a failed batch of more than one record is split in two.",
)
def test_a_failed_batch_is_halved_and_the_first_half_goes_first_at_once() -> None:
    lane = lane_of(5, bisect=True)
    offer(lane, 10)
    lane.take(0, 1)
    lane.failed(7, FAULT)
    assert (lane.wake_at(7), lane.unfinished) == (7, True)
    assert lane.take(7, 9) == [Run(0, 2, 1, 1), Run(2, 3, 1, 1), Run(5, 5, 1, 1)]


@pytest.mark.conformance(
    "bisect/budget",
    source="documented",
    rule="Splitting does not use up the retries: a record alone at last has 1 + MaximumRetryAttempts.",
)
def test_splitting_costs_no_attempt() -> None:
    lane = lane_of(8, retries=2, bisect=True)
    offer(lane, 8)
    taken, now = lane.take(0, 1), 0
    deliveries = list(taken)
    while not lane.take_discards():
        lane.failed(now, FAULT)
        lane.returned(lane.in_flight) if lane.in_flight else None
        now += 10**6
        deliveries += lane.take(now, 1)
    assert [(run.records, run.attempt) for run in deliveries[:6]] == [(8, 1), (4, 1), (2, 1), (1, 1), (1, 2), (1, 3)]


def test_bisecting_without_retries_still_finds_the_record() -> None:
    lane = lane_of(4, retries=0, bisect=True)
    lane.finish_at(4)
    offer(lane, 4)
    discards = []
    while not lane.finished:
        (run,) = lane.take(0, 1)
        if run.first_offset <= 2 < run.first_offset + run.records:
            lane.failed(0, FAULT)
            discards += lane.take_discards()
        else:
            lane.succeeded(1, 0)
    assert discards == [Discarded(2, 1, EXHAUSTED, 1, FAULT)]


def test_what_was_staged_behind_a_halved_batch_goes_behind_its_halves() -> None:
    lane = lane_of(2, bisect=True)
    offer(lane, 6)
    lane.take(0, 2)
    lane.failed(0, FAULT)
    lane.returned(1)
    assert lane.take(0, 9) == [Run(0, 1, 1, 1), Run(1, 1, 1, 1), Run(2, 2, 1, 1), Run(4, 2, 1, 1)]


# ---- ReportBatchItemFailures


@pytest.mark.conformance("retries/fresh-after-progress")
def test_a_record_that_fails_behind_progress_is_delivered_five_times_with_three_retries() -> None:
    lane = lane_of(3, retries=3)
    lane.finish_at(6)
    offer(lane, 6)
    assert lane.take(0, 1) == [Run(0, 3, 1, 1)]
    lane.succeeded(1, 0)
    assert lane.take(0, 1) == [Run(3, 3, 1, 1)]
    lane.partly(2, 0, FAULT)
    assert lane.watermark == 5
    assert lane.take(0, 1) == [Run(5, 1, 1, 1)]  # at once: only the same records wait
    again = fail_until_discarded(lane)
    assert [run.attempt for run in again] == [2, 3, 4]
    assert lane.take_discards() == [Discarded(5, 1, EXHAUSTED, 4, FAULT)]
    assert lane.finished


@pytest.mark.conformance(
    "responses/remainder-discarded",
    source="inferred",
    rule="When what a partial success left has used up its budget, all of it is discarded; it is never topped up.",
)
def test_what_is_left_of_a_batch_is_never_topped_up_and_discarded_as_a_whole() -> None:
    lane = lane_of(5, retries=1)
    offer(lane, 20)
    lane.take(0, 1)
    lane.partly(2, 0, FAULT)
    assert lane.take(0, 1) == [Run(2, 3, 1, 1)]
    lane.partly(0, 0, FAULT)
    assert lane.take(10_000, 9) == [Run(2, 3, 1, 2)]
    lane.partly(0, 10_000, OTHER)
    assert lane.take_discards() == [Discarded(2, 3, EXHAUSTED, 2, OTHER)]
    assert lane.watermark == 5


def test_every_progress_gives_a_fresh_budget() -> None:
    lane = lane_of(5, retries=1)
    offer(lane, 5)
    lane.take(0, 1)
    for done in range(1, 5):
        lane.partly(0, 0, FAULT)
        assert lane.take(10_000, 1) == [Run(done - 1, 6 - done, 1, 2)]
        lane.partly(1, 0, FAULT)
        assert lane.take(0, 1) == [Run(done, 5 - done, 1, 1)]
    assert lane.take_discards() == []


@pytest.mark.conformance(
    "bisect/partial-response",
    source="documented",
    rule="With ReportBatchItemFailures a batch is split at the reported record; on a thrown error it is halved.",
)
def test_with_both_a_batch_is_split_at_the_reported_record_and_halved_where_none_is() -> None:
    lane = lane_of(8, retries=0, bisect=True)
    offer(lane, 8)
    lane.take(0, 1)
    lane.partly(3, 0, FAULT)
    assert lane.take(0, 1) == [Run(3, 5, 1, 1)]
    lane.failed(0, FAULT)
    assert lane.take(0, 9) == [Run(3, 2, 1, 1), Run(5, 3, 1, 1)]


@pytest.mark.conformance(
    "bisect/first-record-reported",
    source="ours",
    rule="With bisecting, a response that reports the first record of a batch, or fails all of it, halves the batch.",
)
def test_a_response_that_reports_the_first_record_halves_the_batch() -> None:
    lane = lane_of(8, retries=0, bisect=True)
    offer(lane, 8)
    lane.take(0, 1)
    lane.partly(0, 0, FAULT)
    assert lane.take(0, 9) == [Run(0, 4, 1, 1), Run(4, 4, 1, 1)]


@pytest.mark.parametrize("done", [-1, 3, 4])
def test_a_part_that_is_no_part_is_a_bug(done: int) -> None:
    lane = lane_of(3)
    offer(lane, 3)
    lane.take(0, 1)
    with pytest.raises(AssertionError, match="less than the batch"):
        lane.partly(done, 0, FAULT)


# ---- MaximumRecordAgeInSeconds


@pytest.mark.conformance(
    "age/splits-a-batch",
    source="recorded",
    rule="Of records read together only those that are too old are discarded; the others are delivered as ever.",
)
def test_one_old_record_of_six_is_discarded_and_five_are_delivered() -> None:
    lane = lane_of(10, retries=0, age_ms=60_000)
    offer(lane, 6, arrivals=[0, *[90_000] * 5])
    assert lane.take(0, 1, time_ms=100_000) == [Run(1, 5, 1, 1)]
    assert lane.take_discards() == [Discarded(0, 1, TOO_OLD, 0, None)]
    assert (lane.watermark, lane.cut_offset - lane.undelivered) == (1, 5)


def test_a_record_of_exactly_the_limit_is_delivered() -> None:
    lane = lane_of(10, age_ms=60_000)
    offer(lane, 2, arrivals=[39_999, 40_000])
    assert lane.take(0, 1, time_ms=100_000) == [Run(1, 1, 1, 1)]


@pytest.mark.conformance(
    "age/out-of-order",
    source="ours",
    rule="Arrival times need not rise: a batch ends before a record that is too old, and what is behind it goes on.",
)
def test_a_batch_ends_before_an_old_record_which_is_discarded_when_its_turn_comes() -> None:
    lane = lane_of(10, age_ms=60_000)
    offer(lane, 9, arrivals=[90_000, 90_000, 90_000, 5, 7, 90_000, 90_000, 90_000, 90_000])
    assert lane.take(0, 9, time_ms=100_000) == [Run(0, 3, 1, 1)]
    assert lane.take(0, 9, time_ms=100_000) == []
    assert (lane.take_discards(), lane.wake_at(0)) == ([], None)
    lane.succeeded(1, 0)
    assert lane.take(0, 9, time_ms=100_000) == [Run(5, 4, 1, 1)]
    assert lane.take_discards() == [Discarded(3, 2, TOO_OLD, 0, None)]


def test_many_old_records_are_discarded_in_batches() -> None:
    lane = lane_of(10, age_ms=60_000)
    offer(lane, 25, arrivals=[0] * 25)
    assert lane.take(0, 9, time_ms=100_000) == []
    assert [(one.first_offset, one.records) for one in lane.take_discards()] == [(0, 10), (10, 10), (20, 5)]


@pytest.mark.conformance(
    "age/while-retrying",
    source="recorded",
    rule="A batch that expires while it is being retried is discarded (RecordAgeExceeded) without another invocation.",
)
def test_a_batch_that_gets_too_old_while_it_waits_for_its_retry_is_discarded_then() -> None:
    lane = lane_of(2, age_ms=60_000)
    offer(lane, 2, arrivals=[1000, 1000])
    lane.take(0, 1, time_ms=60_999)
    lane.failed(0, FAULT)
    lane.take(500, 1, time_ms=60_999)
    lane.failed(500, FAULT)
    assert lane.retrying is not None
    assert lane.take(501, 1, time_ms=61_000) == []
    assert lane.wake_at(501) == 1500  # the retry is due before the records are too old
    assert lane.take(501, 1, time_ms=61_001) == []
    assert lane.take_discards() == [Discarded(0, 2, TOO_OLD, 2, FAULT)]
    assert (lane.watermark, lane.retrying) == (2, None)


def test_the_lane_wakes_when_what_waits_for_its_retry_gets_too_old() -> None:
    lane = Lane(
        BatchRules(2, 0, 1000, 10), FailurePolicy(Backoff(10**12, 1, 10**12), None, 60_000), 0, 0, random=lambda: 0.5
    )
    offer(lane, 2, arrivals=[1000, 1000])
    lane.take(50 * MS, 1, time_ms=60_000)
    lane.failed(50 * MS, FAULT)
    wake = lane.wake_at(60 * MS)
    assert wake == 50 * MS + 1001 * MS
    assert lane.take(wake - 1, 1, time_ms=61_000) == []
    assert lane.take_discards() == []
    assert lane.take(wake, 1, time_ms=61_001) == []
    assert lane.take_discards() == [Discarded(0, 2, TOO_OLD, 1, FAULT)]


@pytest.mark.conformance(
    "age/keeps-attempts",
    source="ours",
    rule="What age leaves of a batch that is being retried keeps the attempts the batch had.",
)
def test_what_is_left_of_a_retry_keeps_its_attempts() -> None:
    lane = lane_of(5, retries=2, age_ms=60_000)
    offer(lane, 5, arrivals=[1000, 90_000, 1500, 90_000, 90_000])
    lane.take(0, 1, time_ms=60_000)
    lane.failed(0, FAULT)
    assert lane.take(500, 1, time_ms=62_000) == [Run(1, 1, 1, 2)]
    assert lane.take_discards() == [Discarded(0, 1, TOO_OLD, 1, FAULT)]
    lane.succeeded(1, 500)
    assert lane.take(500, 1, time_ms=62_000) == [Run(3, 2, 1, 2)]
    assert lane.take_discards() == [Discarded(2, 1, TOO_OLD, 1, None)]
    lane.failed(500, FAULT)
    assert lane.take(10_000, 1, time_ms=62_000) == [Run(3, 2, 1, 3)]
    lane.failed(10_000, FAULT)
    assert lane.take_discards() == [Discarded(3, 2, EXHAUSTED, 3, FAULT)]


def test_batches_that_came_back_are_cut_where_they_got_too_old() -> None:
    lane = lane_of(2, age_ms=60_000)
    offer(lane, 8, arrivals=[90_000, 90_000, 90_000, 1000, 90_000, 90_000, 90_000, 90_000])
    assert lane.take(0, 4, time_ms=60_000) == [Run(0, 2, 4, 1)]
    lane.returned(4)
    assert lane.take(0, 9, time_ms=100_000) == [Run(0, 2, 1, 1), Run(2, 1, 1, 1)]
    assert lane.wake_at(0) is None
    lane.succeeded(2, 0)
    assert lane.take(0, 9, time_ms=100_000) == [Run(4, 2, 2, 1)]
    assert lane.take_discards() == [Discarded(3, 1, TOO_OLD, 0, None)]


def test_an_old_record_that_is_too_big_is_discarded_and_does_not_stop_the_others() -> None:
    lane = lane_of(2, age_ms=60_000)
    offer(lane, 1, weight=991, arrivals=[0])
    offer(lane, 2, arrivals=[0, 90_000])
    assert lane.take(0, 1, time_ms=100_000) == [Run(2, 1, 1, 1)]
    assert [one[:3] for one in lane.take_discards()] == [(0, 1, Condition.RECORD_TOO_LARGE), (1, 1, TOO_OLD)]


def test_behind_its_limit_a_run_discards_no_old_records_either() -> None:
    lane = lane_of(2, age_ms=60_000)
    offer(lane, 3, arrivals=[90_000, 0, 90_000])
    assert lane.take(0, 1, 1, time_ms=100_000) == [Run(0, 1, 1, 1)]
    lane.succeeded(1, 0)
    assert lane.take(0, 1, 0, time_ms=100_000) == []
    assert lane.take_discards() == []


def test_an_age_limit_goes_on_behind_an_end_that_was_dropped_and_a_gap() -> None:
    lane = lane_of(10, age_ms=60_000)
    offer(lane, 4, arrivals=[90_000] * 4)
    lane.finish_at(2)
    lane.finish_at(100)
    offer(lane, 2, arrivals=[90_000, 0])
    lane.meet_gap()
    assert lane.take(0, 9, time_ms=100_000) == [Run(0, 3, 1, 1)]
    lane.succeeded(1, 0)
    assert lane.take(0, 9, time_ms=100_000) == []
    assert lane.take_discards() == [Discarded(3, 1, TOO_OLD, 0, None)]
    lane.skip_gap(50, 0)
    offer(lane, 2, arrivals=[0, 90_000])
    assert lane.take(0, 9, time_ms=100_000) == [Run(51, 1, 1, 1)]


class Counted(list[int]):
    """Arrival times that know how often one was looked at."""

    looks = 0

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        self.looks += isinstance(place, int)
        return super().__getitem__(place)


@pytest.mark.parametrize("batch_size", [1, 100])
def test_a_backlog_that_is_too_old_is_looked_at_once(batch_size: int) -> None:
    lane, arrivals = lane_of(batch_size, age_ms=60_000), Counted([0] * 5_000)
    offer(lane, 5_000, arrivals=arrivals)
    assert lane.take(0, 1, time_ms=100_000) == []
    assert len(lane.take_discards()) == 5_000 // batch_size
    assert arrivals.looks <= 2 * 5_000


def test_an_age_limit_needs_the_clock_and_the_arrivals() -> None:
    lane = lane_of(10, age_ms=60_000)
    with pytest.raises(AssertionError, match="arrival times"):
        offer(lane, 1)
    offer(lane, 1, arrivals=[0])
    with pytest.raises(AssertionError, match="record clock"):
        lane.take(0, 1)
