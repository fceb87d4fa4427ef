"""The lane against a model that keeps every record and every batch by itself."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules, Chunk
from streamfn.core.lane import Lane
from streamfn.core.verdict import FailurePolicy
from streamfn.types import Fault, Run

FAULT = Fault("E", "", b"{}")
ROOM = 20
BATCH = tuple[int, int, int]  # first offset, records, attempt


class NaiveLane:
    """Lambda's rules, one record and one batch at a time."""

    def __init__(self, batch_size: int, window_ns: int) -> None:
        self.batch_size, self.window_ns = batch_size, window_ns
        self.weights: list[int] = []  # of all records ever offered
        self.cut = 0
        self.window_began = 0
        self.waiting: list[BATCH] = []  # came back
        self.flying: list[BATCH] = []
        self.retry: BATCH | None = None
        self.due = 0
        self.back: list[BATCH] = []
        self.draining = False
        self.done = 0
        self.end: int | None = None
        self.gap: int | None = None

    def front(self, allowed: int) -> tuple[int, bool]:
        """How many records the next batch would have, and whether it can grow no more."""
        count = weight = 0
        for record in self.weights[self.cut :]:
            if count == self.batch_size or weight + record > ROOM or count == allowed:
                return count, True
            count += 1
            weight += record
        at_end = any(edge is not None and self.cut + count >= edge for edge in (self.end, self.gap))
        return count, count > 0 and (count == self.batch_size or count == allowed or at_end)

    def take(self, now: int, most: int, limit: int | None) -> list[BATCH]:
        taken: list[BATCH] = []
        allowed = 10**9 if limit is None else limit
        while len(taken) < most and not self.draining:
            if self.retry is not None:
                if self.flying or taken or now < self.due:
                    break
                taken.append(self.retry)
            elif self.waiting:
                taken.append(self.waiting.pop(0))
            else:
                count, closed = self.front(allowed)
                due = not self.flying and not taken and now >= self.window_began + self.window_ns
                if count == 0 or not (closed or due):
                    break
                taken.append((self.cut, count, 1))
                self.cut += count
                allowed -= count
        self.flying += taken
        return taken

    def skip(self, offsets: int, now: int) -> None:
        self.weights += [0] * offsets
        self.cut = self.done = len(self.weights)
        self.gap, self.window_began = None, now

    def succeed(self, count: int, now: int) -> None:
        for first, records, _ in self.flying[:count]:
            self.done = first + records
        del self.flying[:count]
        self.retry = None
        self.window_began = now
        self.settle()

    def fail(self, now: int) -> None:
        first, records, attempt = self.flying.pop(0)
        self.retry = (first, records, attempt + 1)
        self.due = now + min(8, 2**attempt) // 2
        self.draining = True
        self.settle()

    def come_back(self, count: int) -> None:
        self.back += [b for b in self.flying[:count] if self.retry is None or b[0] != self.retry[0]]
        del self.flying[:count]
        self.draining = True
        self.settle()

    def put_back(self, count: int) -> None:
        newest = self.flying[-count:]
        del self.flying[-count:]
        if self.retry is None:
            self.waiting = newest + self.waiting

    def may_run(self) -> bool:
        """Whether what is in flight may be running: it is not behind a failure."""
        return self.retry is None or self.flying[:1] == [self.retry]

    def settle(self) -> None:
        if not self.flying:
            self.waiting = self.back + self.waiting
            self.back = []
            self.draining = False


def flat(runs: list[Run]) -> list[BATCH]:
    return [
        (run.first_offset + number * run.records, run.records, run.attempt)
        for run in runs
        for number in range(run.batches)
    ]


STEPS = st.one_of(
    st.tuples(st.just("offer"), st.lists(st.integers(1, 12) | st.just(1), min_size=1, max_size=12)),
    st.tuples(st.just("take"), st.integers(0, 5)),
    st.tuples(st.just("take"), st.just(50)),
    st.tuples(st.just("limited"), st.integers(0, 8)),
    st.tuples(st.just("put back"), st.integers(1, 3)),
    st.tuples(st.just("recall"), st.none()),
    st.tuples(st.just("succeed"), st.integers(1, 9)),
    st.tuples(st.just("fail"), st.none()),
    st.tuples(st.just("back"), st.integers(1, 9)),
    st.tuples(st.just("wait"), st.integers(1, 6)),
    st.tuples(st.just("finish"), st.none()),
    st.tuples(st.just("gap"), st.none()),
    st.tuples(st.just("skip"), st.integers(1, 9)),
)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 5), st.sampled_from([0, 3, 10]), st.lists(STEPS, max_size=60))
def test_the_lane_does_what_a_record_by_record_model_does(
    batch_size: int, window_ns: int, steps: list[tuple[str, object]]
) -> None:
    rules = BatchRules(batch_size, window_ns, event_bytes_max=ROOM + 3, frame_bytes=3)
    lane = Lane(rules, FailurePolicy(Backoff(2, 2, 8)), 0, 0, lambda: 0.5)
    model = NaiveLane(batch_size, window_ns)
    now = 0
    for step, value in steps:
        match step, value:
            case "offer", list(weights):
                if model.end is None and model.gap is None:
                    lane.offer(Chunk(lane.next_offset, list(accumulate(weights, initial=100))))
                    model.weights += weights
            case "take" | "limited", int(number):
                most, limit = (number, None) if step == "take" else (50, number)
                wake = lane.wake_at(now)
                taken = flat(lane.take(now, most, limit))
                assert taken == model.take(now, most, limit)
                assert not taken or limit is not None or (wake is not None and wake <= now)
            case "succeed", int(count):
                count = min(count, len(model.flying))
                if count and not model.back and model.may_run():
                    lane.succeeded(count, now)
                    model.succeed(count, now)
            case "fail", _:
                if model.flying and not model.back and model.may_run():
                    lane.failed(now, FAULT)
                    model.fail(now)
            case "back", int(count):
                count = min(count, len(model.flying))
                if count:
                    lane.returned(count)
                    model.come_back(count)
            case "put back", int(count):
                count = min(count, len(model.flying))
                if count and not model.draining:
                    lane.put_back(count)
                    model.put_back(count)
            case "recall", _:
                lane.recall()
                model.draining = bool(model.flying)
            case "wait", int(passed):
                now += passed
            case "finish", _:
                model.end, model.gap = len(model.weights), None
                lane.finish_at(model.end)
            case "gap", _:
                if model.end is None and model.gap is None:
                    model.gap = len(model.weights)
                    lane.meet_gap()
            case "skip", int(offsets):
                assert lane.at_gap == (model.gap is not None and model.done == model.gap)
                if lane.at_gap:
                    lane.skip_gap(model.done + offsets, now)
                    model.skip(offsets, now)
        assert lane.in_flight == len(model.flying)
        assert lane.watermark == model.done
        assert lane.buffered_records == len(model.weights) - model.cut
        wake = lane.wake_at(now)
        if wake is not None:
            assert wake >= now
            assert lane.take(wake - 1, 0) == []
            if wake > now:
                assert lane.take(now, 1) == []


@given(st.lists(st.integers(1, 3), min_size=1, max_size=40), st.integers(1, 4))
def test_a_lane_left_alone_finishes_by_following_wake_at(weights: list[int], batch_size: int) -> None:
    rules = BatchRules(batch_size, 7, event_bytes_max=ROOM, frame_bytes=3)
    lane = Lane(rules, FailurePolicy(Backoff(2, 2, 8)), 0, 0, lambda: 0.5)
    lane.finish_at(len(weights))
    lane.offer(Chunk(0, list(accumulate(weights, initial=0))))
    now, failures = 0, 0
    while not lane.finished:
        wake = lane.wake_at(now)
        if wake is not None:
            now = wake
            assert lane.take(now, 3)
        elif failures < 5 and lane.watermark % 2 == 0:
            failures += 1
            lane.failed(now, FAULT)
            lane.returned(lane.in_flight)
        else:
            lane.succeeded(lane.in_flight, now)
    assert lane.watermark == len(weights)
    assert lane.wake_at(now) is None
