"""The lanes of one shard, read as a specification."""

from __future__ import annotations

from itertools import accumulate

import pytest

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules
from streamfn.core.lane import Lane
from streamfn.core.shard import Reach, ShardWork
from streamfn.core.verdict import FailurePolicy
from streamfn.types import Fault, Part, Run

FAULT = Fault("ValueError", "no", b"{}")
FAR_REACH = Reach(lane_bytes=1000, records=10_000, bytes=100_000)


def work_of(factor: int, *, start: int = 0, retries: int | None = None, reach: Reach = FAR_REACH) -> ShardWork[str]:
    rules = BatchRules(10, 0, event_bytes_max=1000, frame_bytes=10)
    policy = FailurePolicy(Backoff(1000, 2, 8000), retries)
    lanes = [Lane(rules, policy, 0, 0, lambda: 0.5) for _ in range(factor)]
    return ShardWork(lanes, start, reach)


def part(lane: int, base: int, rows: list[int] | None, count: int = 0, weight: int = 1) -> Part:
    count = count if rows is None else len(rows)
    return Part(lane, base, rows, list(accumulate([weight] * count, initial=0)))


def lane_of(work: ShardWork[str], index: int) -> Lane:
    lane = work.lanes[index]
    assert isinstance(lane, Lane)
    return lane


def do(work: ShardWork[str], index: int, batches: int = 1) -> list[Run]:
    """Deliver batches of a lane with success."""
    lane = lane_of(work, index)
    runs = lane.take(0, batches)
    lane.succeeded(sum(run.batches for run in runs), 0)
    work.moved()
    return runs


# ---- the watermark


@pytest.mark.conformance(
    "lanes/checkpoint",
    source="inferred",
    rule="The checkpoint of a shard never passes a record that some lane has not finished.",
)
def test_the_watermark_is_the_first_record_that_some_lane_has_not_done() -> None:
    work = work_of(2, start=100)
    work.offer(106, [part(0, 100, [0, 2, 4]), part(1, 100, [1, 3, 5])])
    assert (work.watermark, work.next_offset) == (100, 106)
    do(work, 1)
    assert work.watermark == 100
    do(work, 0)
    assert work.watermark == 106


def test_a_lane_that_waits_for_a_retry_holds_the_watermark_and_not_the_others() -> None:
    work = work_of(2)
    work.offer(4, [part(0, 0, [0, 2]), part(1, 0, [1, 3])])
    slow = lane_of(work, 0)
    slow.take(0, 1)
    slow.failed(0, FAULT)
    do(work, 1)
    work.offer(8, [part(1, 4, [0, 1, 2, 3])])
    assert do(work, 1) == [Run(2, 4, 1, 1)]
    assert work.watermark == 0
    slow.take(500, 1)
    slow.succeeded(1, 500)
    work.moved()
    assert work.watermark == 8


@pytest.mark.conformance("filters/filtered-out-moves-on")
def test_a_range_that_was_filtered_away_whole_moves_the_watermark() -> None:
    work = work_of(1)
    work.offer(1000, [])
    assert (work.watermark, work.next_offset) == (1000, 1000)


def test_what_is_filtered_away_behind_an_unfinished_record_does_not_move_the_watermark() -> None:
    work = work_of(1)
    work.offer(10, [part(0, 0, [4])])
    assert work.watermark == 4
    work.offer(20, [])
    assert work.watermark == 4
    do(work, 0)
    assert work.watermark == 20


def test_positions_are_mapped_to_offsets() -> None:
    work = work_of(2)
    work.offer(20, [part(0, 0, [3, 5]), part(1, 0, None, 2), part(0, 10, [0, 9])])
    assert work.offsets(0, 0, 4) == [3, 5, 10, 19]
    assert work.offsets(0, 1, 2) == [5, 10]
    assert work.offsets(1, 0, 2) == range(2)
    assert (work.offset_of(0, 3), work.offset_of(1, 1)) == (19, 1)


# ---- discards


def discard(work: ShardWork[str], index: int, name: str) -> None:
    """Let the next batch of a lane fail once too often."""
    lane = lane_of(work, index)
    lane.take(0, 1)
    lane.failed(0, FAULT)
    for one in lane.take_discards():
        offsets = work.offsets(index, one.first_offset, one.records)
        work.hold(index, offsets[0], offsets[-1], name)
    work.moved()


def test_a_discard_is_released_when_the_watermark_has_passed_it() -> None:
    work = work_of(1, retries=0)
    work.offer(3, [part(0, 0, None, 3)])
    discard(work, 0, "first")
    assert (work.watermark, work.release(), work.release()) == (3, ["first"], [])


@pytest.mark.conformance(
    "lanes/discards",
    source="ours",
    rule="The checkpoint passes the records of one discard all at once, with its row, whatever lies between them.",
)
def test_the_watermark_passes_a_discard_all_at_once() -> None:
    work = work_of(2, retries=0)
    work.offer(8, [part(0, 0, [0, 7]), part(1, 0, [1, 2, 3])])
    discard(work, 0, "outer")
    assert (work.watermark, work.release()) == (0, [])
    lane = lane_of(work, 1)
    lane.take(0, 1, 1)
    lane.succeeded(1, 0)
    work.moved()
    assert (work.watermark, work.release()) == (0, [])
    do(work, 1)
    assert (work.watermark, work.release()) == (8, ["outer"])


def test_discards_that_overlap_are_passed_together() -> None:
    work = work_of(3, retries=0)
    work.offer(9, [part(0, 0, [0, 4]), part(1, 0, [2, 6]), part(2, 0, [7])])
    discard(work, 1, "second")
    assert (work.watermark, work.release()) == (0, [])
    discard(work, 0, "first")
    assert (work.watermark, work.release()) == (7, ["first", "second"])
    do(work, 2)
    assert work.watermark == 9


def test_a_hundred_thousand_discards_may_wait_for_one_record() -> None:
    """With batches of one record each record that is too old is a discard."""
    work, count = work_of(10, retries=0, reach=Reach(1000, 1 << 20, 1 << 30)), 100_000
    work.offer(count, [part(lane, 0, list(range(lane, count, 10))) for lane in range(10)])
    last = lane_of(work, 0)
    last.take(0, 1, 1)  # its record stays in flight
    for index in range(1, 10):
        lane = lane_of(work, index)
        while lane.buffered_records:
            lane.take(0, 1, 1)
            lane.failed(0, FAULT)
            (one,) = lane.take_discards()
            offset = index + 10 * one.first_offset
            work.hold(index, offset, offset, f"{offset}")
    work.moved()
    assert (work.watermark, work.release()) == (0, [])
    last.succeeded(1, 0)
    work.moved()
    assert (work.watermark, work.release()) == (10, [str(offset) for offset in range(1, 10)])


def test_a_discard_that_is_told_of_too_late_is_a_bug() -> None:
    work = work_of(2, retries=0)
    work.offer(4, [part(0, 0, [0, 3]), part(1, 0, [1])])
    do(work, 0)
    assert work.watermark == 1
    work.hold(0, 0, 3, "late")
    with pytest.raises(AssertionError, match="checkpoint may have been written"):
        work.moved()


# ---- reading ahead


@pytest.mark.conformance(
    "lanes/reading-ahead",
    source="ours",
    rule="Reading goes on while some lane is short of records, and stops a bounded way past the checkpoint.",
)
def test_reading_goes_on_while_a_lane_is_short_and_stops_within_reach_of_the_watermark() -> None:
    work = work_of(2, reach=Reach(lane_bytes=5, records=30, bytes=10_000))
    work.offer(10, [part(0, 0, None, 10)])
    assert work.hungry  # lane 1 has nothing
    work.offer(20, [part(1, 10, None, 10)])
    assert not work.hungry
    do(work, 1)
    assert work.hungry
    work.offer(30, [])
    assert not work.hungry  # lane 0 has not done its first record
    do(work, 0)
    assert work.hungry


def test_what_lies_past_the_watermark_is_bounded_in_bytes_too() -> None:
    work = work_of(2, reach=Reach(lane_bytes=5, records=1000, bytes=100))
    work.offer(10, [part(0, 0, None, 10, weight=10)])
    assert not work.hungry
    do(work, 0)
    assert work.hungry


def test_what_is_filtered_away_is_in_no_lane_s_way() -> None:
    work = work_of(1, reach=Reach(lane_bytes=5, records=30, bytes=10_000))
    for end in range(100, 1000, 100):
        work.offer(end, [])
        assert work.hungry


# ---- gaps and ends


def test_a_gap_is_skipped_when_every_lane_is_done() -> None:
    work = work_of(2)
    work.offer(4, [part(0, 0, [0, 2]), part(1, 0, [1, 3])])
    work.meet_gap()
    assert not work.hungry
    do(work, 0)
    assert not work.at_gap
    do(work, 1)
    assert (work.at_gap, work.watermark) == (True, 4)
    work.skip_gap(50, 0)
    assert (work.watermark, work.next_offset, work.at_gap) == (50, 50, False)
    work.offer(52, [part(0, 50, [0]), part(1, 50, [1])])
    assert do(work, 0) == [Run(3, 1, 1, 1)]
    assert do(work, 1) == [Run(3, 1, 1, 1)]
    assert work.watermark == 52
    assert [lane_of(work, index).cut_offset - lane_of(work, index).undelivered for index in (0, 1)] == [3, 3]


def test_the_end_is_reached_when_every_lane_has_reached_it() -> None:
    work = work_of(2)
    work.finish_at(5)
    work.offer(4, [part(0, 0, [0]), part(1, 0, [1, 3])])
    assert work.hungry
    work.offer(8, [part(0, 4, [0, 1, 2, 3])])
    assert (work.next_offset, work.hungry, work.finished) == (5, False, False)
    assert do(work, 0) == [Run(0, 2, 1, 1)]
    assert not work.finished
    do(work, 1)
    assert (work.finished, work.watermark) == (True, 5)


def test_an_end_behind_what_was_read_drops_what_was_not_handed_over() -> None:
    work = work_of(2)
    work.offer(10, [part(0, 0, [0, 2, 4, 6, 8]), part(1, 0, [1, 3, 5, 7, 9])])
    work.finish_at(5)
    assert work.next_offset == 5
    assert do(work, 0) == [Run(0, 3, 1, 1)]
    assert do(work, 1) == [Run(0, 2, 1, 1)]
    assert (work.finished, work.watermark) == (True, 5)


def test_behind_an_end_that_was_moved_up_nothing_comes_twice() -> None:
    work = work_of(2)
    work.offer(10, [part(0, 0, [0, 2, 4, 6, 8]), part(1, 0, [1, 3, 5, 7, 9])])
    do(work, 0)
    work.finish_at(5)
    assert work.next_offset == 5
    work.finish_at(10)
    work.offer(10, [part(0, 0, [0, 2, 4, 6, 8]), part(1, 0, [1, 3, 5, 7, 9])])
    assert do(work, 0) == []
    assert do(work, 1) == [Run(0, 5, 1, 1)]
    assert (work.finished, work.watermark) == (True, 10)


def test_lanes_end_level_where_the_furthest_one_has_cut() -> None:
    work = work_of(3, start=100)
    assert work.reached == 100
    work.offer(130, [part(lane, 100, list(range(lane, 30, 3)), weight=200) for lane in range(3)])
    do(work, 0, 1)  # four records of 200 bytes: up to 109
    lane_of(work, 1).take(0, 2)  # eight: up to 122
    assert (work.watermark, work.reached) == (101, 123)
    work.finish_at(work.reached)
    lane_of(work, 1).succeeded(2, 0)
    work.moved()
    assert (do(work, 0, 9), do(work, 2, 9)) == ([Run(4, 4, 1, 1)], [Run(0, 4, 1, 1), Run(4, 3, 1, 1)])
    assert (work.finished, work.watermark, work.reached) == (True, 123, 123)


def test_reading_past_an_end_that_was_passed_already_changes_nothing() -> None:
    work = work_of(1)
    work.offer(2, [part(0, 0, None, 2)])
    lane_of(work, 0).take(0, 1)
    work.finish_at(1)
    work.offer(5, [part(0, 2, None, 3)])
    assert (work.finished, work.next_offset) == (False, 2)
    work.finish_at(0)
    assert work.finished


@pytest.mark.parametrize("end", [0, 100])
def test_an_end_at_or_below_the_start_is_finished_at_once(end: int) -> None:
    work = work_of(3, start=100)
    assert not work.finished
    work.finish_at(end)
    assert work.finished


def test_an_end_at_a_gap_leaves_the_gap_alone() -> None:
    work = work_of(2)
    work.offer(4, [part(0, 0, [0]), part(1, 0, [3])])
    work.meet_gap()
    work.finish_at(4)
    do(work, 0)
    do(work, 1)
    assert (work.finished, work.at_gap) == (True, False)


def test_an_end_inside_a_gap_is_reached_by_skipping_it() -> None:
    work = work_of(2)
    work.finish_at(20)
    work.meet_gap()
    work.skip_gap(30, 0)
    assert work.finished


def test_a_message_that_begins_before_the_start_is_offered_from_there() -> None:
    work = work_of(2, start=7)
    work.offer(10, [part(0, 4, [0, 2, 4]), part(1, 4, None, 6)])
    assert work.offsets(0, 0, 1) == range(8, 9)
    assert work.offsets(1, 0, 3) == range(7, 10)
    assert work.watermark == 7
