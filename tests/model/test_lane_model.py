"""The lane against a model that keeps every record and every batch by itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules, Chunk
from streamfn.core.lane import Lane
from streamfn.core.verdict import FailurePolicy
from streamfn.types import Fault, Run

FAULT = Fault("E", "", b"{}")
ROOM = 20
MS = 1_000_000  # nanoseconds
LIVES_IN_A_BLOCK = int(os.environ.get("STREAMFN_LIVES", "60"))
BORN_MS = 1000  # the record clock when the other one is 0
DISCARD = tuple[int, int, str, int]  # first offset, records, why, attempts


class Batch(NamedTuple):
    first: int
    records: int
    attempt: int


@dataclass(frozen=True)
class Says:
    """What the mapping says about failures."""

    retries: int | None
    bisect: bool
    age_ms: int | None


class NaiveLane:
    """Lambda's rules, one record and one batch at a time."""

    def __init__(self, batch_size: int, window_ns: int, says: Says) -> None:
        self.batch_size, self.window_ns, self.says = batch_size, window_ns, says
        self.weights: list[int] = []  # of all records ever offered
        self.arrivals: list[int] = []
        self.cut = 0
        self.window_began = 0
        self.waiting: list[Batch] = []  # came back, or is what was made of a failed batch
        self.flying: list[Batch] = []
        self.retry: Batch | None = None
        self.failures = 0  # in a row, of the batch that is retried
        self.due = 0
        self.back: list[Batch] = []
        self.draining = self.broken = False
        self.done = 0
        self.never = 0  # had no delivery at all
        self.discards: list[DISCARD] = []
        self.end: int | None = None
        self.gap: int | None = None

    # ---- handing over

    def old(self, record: int, time_ms: int) -> bool:
        return self.says.age_ms is not None and time_ms - self.arrivals[record] > self.says.age_ms

    def young(self, batch: Batch, time_ms: int) -> int:
        """How many records of the batch come before the first one that is too old."""
        count = 0
        while count < batch.records and not self.old(batch.first + count, time_ms):
            count += 1
        return count

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

    def take(self, now: int, most: int, limit: int | None, time_ms: int) -> list[Batch]:
        taken: list[Batch] = []
        allowed = 10**9 if limit is None else limit
        if most > 0 and not self.draining and not self.flying:
            while self.drop_an_old_one(allowed, time_ms):
                pass
        while len(taken) < most and not self.draining:
            if self.retry is not None:
                if self.flying or taken or now < self.due:
                    break
                self.retry = self.without_old_ones(self.retry, time_ms)
                taken.append(self.retry)
            elif self.waiting:
                if self.old(self.waiting[0].first, time_ms):
                    break
                taken.append(self.without_old_ones(self.waiting.pop(0), time_ms))
            else:
                count, closed = self.front(allowed)
                due = not self.flying and not taken and now >= self.window_began + self.window_ns
                if self.is_too_big(time_ms) and not self.flying and not taken and allowed:
                    self.discard(Batch(self.cut, 1, 1), "RecordTooLarge")
                    self.cut += 1
                    self.never += 1
                    continue
                if count == 0 or not (closed or due):
                    break
                count = self.young(Batch(self.cut, count, 1), time_ms)
                if count == 0:
                    break
                taken.append(Batch(self.cut, count, 1))
                self.cut += count
                allowed -= count
        self.flying += taken
        return taken

    def is_too_big(self, time_ms: int) -> bool:
        """Whether the record in front is; one that is too old as well is seen to when `take` is called next."""
        return self.cut < len(self.weights) and self.weights[self.cut] > ROOM and not self.old(self.cut, time_ms)

    def without_old_ones(self, batch: Batch, time_ms: int) -> Batch:
        """The batch up to its first record that is too old; the rest waits, with the same attempt."""
        count = self.young(batch, time_ms)
        if count < batch.records:
            self.waiting.insert(0, Batch(batch.first + count, batch.records - count, batch.attempt))
        return batch._replace(records=count)

    def drop_an_old_one(self, allowed: int, time_ms: int) -> bool:
        """Discard what is too old in front, one batch at a time; whether there was any."""
        if self.retry is not None or self.waiting:
            batch = self.waiting[0] if self.retry is None else self.retry
            count = 0
            while count < batch.records and self.old(batch.first + count, time_ms):
                count += 1
            if count == 0:
                return False
            self.discard(batch._replace(records=count), "RecordAgeExceeded")
            rest = [Batch(batch.first + count, batch.records - count, batch.attempt)]
            if batch.records == count:
                rest = []
            if self.retry is None:
                self.waiting = rest + self.waiting[1:]
            else:
                self.retry = rest[0] if rest else None
            return True
        if allowed == 0 or self.cut == len(self.weights) or not self.old(self.cut, time_ms):
            return False
        count = weight = 0
        while (
            count < self.batch_size
            and self.cut + count < len(self.weights)
            and self.old(self.cut + count, time_ms)
            and weight + self.weights[self.cut + count] <= ROOM
        ):
            weight += self.weights[self.cut + count]
            count += 1
        self.discard(Batch(self.cut, count or 1, 1), "RecordAgeExceeded" if count else "RecordTooLarge")
        self.cut += count or 1
        self.never += count or 1
        return True

    def discard(self, batch: Batch, why: str) -> None:
        self.discards.append((batch.first, batch.records, why, batch.attempt - 1))
        self.done = batch.first + batch.records

    def skip(self, offsets: int, now: int) -> None:
        self.weights += [0] * offsets
        self.arrivals += [10**9] * offsets
        self.cut = self.done = len(self.weights)
        self.never += offsets
        self.gap, self.window_began = None, now

    # ---- outcomes

    def succeed(self, count: int, now: int) -> None:
        for first, records, _ in self.flying[:count]:
            self.done = first + records
        del self.flying[:count]
        self.retry = None
        self.window_began = now
        self.settle()

    def fail(self, now: int, charged: bool) -> None:
        batch = self.flying.pop(0)
        self.failures = batch.attempt if self.retry is None else self.failures + 1
        self.retry = None
        self.draining = self.broken = True
        if charged and self.says.bisect and batch.records > 1:
            half = batch.records // 2
            self.back = [Batch(batch.first, half, 1), Batch(batch.first + half, batch.records - half, 1)]
        elif charged and self.says.retries is not None and batch.attempt > self.says.retries:
            self.discard(batch._replace(attempt=batch.attempt + 1), "RetryAttemptsExhausted")
            self.window_began = now
        else:
            self.retry = batch._replace(attempt=batch.attempt + (1 if charged else 0))
            self.due = now + min(8 * MS, 2**self.failures * MS) // 2
        self.settle()

    def progress(self, count: int, now: int) -> None:
        """The first `count` records of the oldest succeeded, and no more."""
        if count == 0:
            self.fail(now, charged=True)
            return
        batch = self.flying.pop(0)
        self.retry = None
        self.draining = self.broken = True
        self.done = batch.first + count
        self.back = [Batch(batch.first + count, batch.records - count, 1)]
        self.settle()

    def come_back(self, count: int) -> None:
        self.back += [b for b in self.flying[:count] if self.retry is None or b[0] != self.retry[0]]
        del self.flying[:count]
        self.draining = self.broken = True
        self.settle()

    def put_back(self, count: int) -> None:
        newest = self.flying[-count:]
        del self.flying[-count:]
        if self.retry is None:
            self.waiting = newest + self.waiting

    def settle(self) -> None:
        if not self.flying:
            self.waiting = self.back + self.waiting
            self.back = []
            self.draining = self.broken = False


def flat(runs: list[Run]) -> list[Batch]:
    return [
        Batch(run.first_offset + number * run.records, run.records, run.attempt)
        for run in runs
        for number in range(run.batches)
    ]


WEIGHTS = st.lists(st.integers(1, 12) | st.just(1) | st.integers(1, 23), min_size=1, max_size=12)
AGES = st.sampled_from([0, 0, 0, 3, -3, -6, -8, -9, -25])  # most get too old while something else happens
OFFER = st.tuples(st.just("offer"), WEIGHTS, st.lists(AGES, min_size=12, max_size=12))
TAKE = st.tuples(st.just("take"), st.integers(0, 5) | st.just(50))
FAIL = st.tuples(st.just("fail"), st.sampled_from([True, True, False]))
SUCCEED = st.tuples(st.just("succeed"), st.integers(1, 9))
WAIT = st.tuples(st.just("wait"), st.integers(1, 6))
RARE = st.one_of(
    st.tuples(st.just("limited"), st.integers(0, 8)),
    st.tuples(st.just("put back"), st.integers(1, 3)),
    st.tuples(st.just("recall"), st.none()),
    st.tuples(st.just("jump"), st.integers(-20, 20)),
    st.tuples(st.just("finish"), st.integers(0, 7)),
    st.tuples(st.just("gap"), st.none()),
    st.tuples(st.just("skip"), st.integers(1, 9)),
)
PART = st.tuples(st.just("fail at"), st.integers(0, 4))
BACK = st.tuples(st.just("back"), st.integers(1, 9))
STEPS = st.one_of(OFFER, TAKE, TAKE, TAKE, FAIL, FAIL, SUCCEED, PART, BACK, WAIT, WAIT, RARE)
# A list strategy alone would draw some five steps on average.
LIVES = st.integers(0, 90).flatmap(lambda steps: st.lists(STEPS, min_size=steps, max_size=steps))
SAYS = st.builds(Says, st.sampled_from([None, 0, 1, 2]), st.booleans(), st.sampled_from([None, 10, 20]))


def live(batch_size: int, window_ms: int, says: Says, steps: Iterable[tuple[object, ...]]) -> None:
    """Let a lane and the model live through the same steps."""
    rules = BatchRules(batch_size, window_ms * MS, event_bytes_max=ROOM + 3, frame_bytes=3)
    policy = FailurePolicy(Backoff(2 * MS, 2, 8 * MS), says.retries, says.age_ms, says.bisect)
    lane = Lane(rules, policy, 0, 0, lambda: 0.5)
    model = NaiveLane(batch_size, window_ms * MS, says)
    now, drift, jumped = 0, 0, True
    for step in steps:
        time_ms = BORN_MS + now // MS + drift
        match step:
            case "offer", list(weights), list(ages):
                if model.end is None and model.gap is None:
                    arrivals = [time_ms + age for age in ages]
                    lane.offer(Chunk(lane.next_offset, list(accumulate(weights, initial=100)), arrivals))
                    model.weights += weights
                    model.arrivals += arrivals[: len(weights)]
            case "take" | "limited", int(number):
                most, limit = (number, None) if step[0] == "take" else (50, number)
                wake, idle = lane.wake_at(now), not model.flying
                before = len(model.discards)
                taken = flat(lane.take(now, most, limit, time_ms=time_ms))
                assert taken == model.take(now, most, limit, time_ms)
                something = bool(taken) or len(model.discards) > before
                if limit is None and not jumped:
                    assert not something or (wake is not None and wake <= now)
                    assert something or most == 0 or not idle or wake is None or wake > now
                jumped = jumped and (most == 0 or model.draining)  # else it has seen both clocks
            case "succeed", int(count):
                count = min(count, len(model.flying))
                if count and not model.broken:
                    lane.succeeded(count, now)
                    model.succeed(count, now)
            case "fail", bool(charged):
                if model.flying and not model.broken:
                    lane.failed(now, FAULT, charged=charged)
                    model.fail(now, charged)
            case "fail at", int(count):
                if model.flying and not model.broken:
                    count = min(count, model.flying[0].records - 1)
                    lane.partly(count, now, FAULT)
                    model.progress(count, now)
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
                now += passed * MS
            case "jump", int(passed):
                drift += passed
                jumped = True
            case "finish", 0:
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
        assert lane.undelivered == model.never
        assert lane.attempts == next((b.attempt - 1 for b in [*model.flying, model.retry] if b is not None), 0)
        assert model.retry is None or (lane.retrying is not None and lane.retrying.due_ns == model.due)
        assert lane.unfinished == (model.retry is not None or bool(model.waiting))
        discards = [(first, records, str(why), attempts) for first, records, why, attempts, _ in lane.take_discards()]
        assert discards == model.discards
        model.discards.clear()
        wake = lane.wake_at(now)
        if wake is not None:
            assert wake >= now
            assert lane.take(wake - 1, 0) == []
            if wake > now and not jumped:
                assert lane.take(now, 1, time_ms=BORN_MS + now // MS + drift) == []
                assert lane.take_discards() == []


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 5), st.sampled_from([0, 3, 10]), SAYS, LIVES)
def test_the_lane_does_what_a_record_by_record_model_does(
    batch_size: int, window_ms: int, says: Says, steps: list[tuple[object, ...]]
) -> None:
    live(batch_size, window_ms, says, steps)


def a_step(draw: Random) -> tuple[object, ...]:
    """As `STEPS` has them, but longer lives are affordable, and so is what only they get to."""
    some = draw.randint
    match draw.choices(range(13), [10, 20, 14, 8, 6, 6, 10, 2, 2, 1, 2, 1, 3])[0]:
        case 0:
            most = draw.choice([1, 1, 12])
            weights = [draw.choice([1, some(1, most), some(1, 23) if most > 1 else 1]) for _ in range(some(1, 12))]
            return "offer", weights, [draw.choice([0, 0, 0, 3, -3, -6, -8, -9, -25]) for _ in range(12)]
        case 1:
            return "take", draw.choice([0, 1, 2, 5, 50])
        case 2:
            return "fail", draw.random() < 0.7
        case 3:
            return "succeed", some(1, 3)
        case 4:
            return "fail at", some(0, 4)
        case 5:
            return "back", some(1, 9)
        case 6:
            return "wait", some(1, 4)
        case 7:
            return "limited", some(0, 8)
        case 8:
            return "put back", some(1, 3)
        case 9:
            return "recall", None
        case 10:
            return "jump", draw.choice([-20, -5, -1, 1, 5, 20])
        case 11:
            return "gap", None
        case _:
            return "skip", some(1, 9)


@pytest.mark.parametrize("block", range(4))
def test_long_lives_of_a_lane_equal_the_model_s(block: int) -> None:
    for seed in range(block * LIVES_IN_A_BLOCK, (block + 1) * LIVES_IN_A_BLOCK):
        draw = Random(seed)
        says = Says(draw.choice([None, 0, 1, 2]), draw.random() < 0.4, draw.choice([None, 10, 10, 20]))
        steps = [a_step(draw) for _ in range(draw.choice([30, 100, 300]))]
        try:
            live(draw.randint(1, 5), draw.choice([0, 3, 10]), says, [*steps, ("finish", 0), ("take", 50)])
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


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
