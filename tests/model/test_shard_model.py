"""A shard with several lanes and a filter, against a model that knows every record by its offset."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import accumulate
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules
from streamfn.core.lane import Lane
from streamfn.core.shard import Reach, ShardWork
from streamfn.core.verdict import FailurePolicy
from streamfn.types import Fault, Part

FAULT = Fault("E", "", b"{}")
START = 1000
LIVES_OF_A_RUN = int(os.environ.get("STREAMFN_LIVES", "60")) * 4
Outcome = tuple[int, ...]


class NaiveShard:
    """Every offset by itself: whose it is, and whether it has its disposition."""

    def __init__(self, factor: int) -> None:
        self.read = START
        self.lane: dict[int, int | None] = {}  # of every offset that was looked at; None: filtered away
        self.done: set[int] = set()
        self.queues: list[list[int]] = [[] for _ in range(factor)]  # not handed over
        self.flying: list[list[list[int]]] = [[] for _ in range(factor)]
        self.again: list[list[list[int]]] = [[] for _ in range(factor)]
        self.discards: list[list[int]] = []  # not released
        self.end: int | None = None

    @property
    def watermark(self) -> int:
        """The highest offset with nothing unfinished below it, and no discard on both sides of it."""
        raw = next((offset for offset in range(START, self.read) if not self._finished(offset)), self.read)
        while any(offsets[0] < raw <= offsets[-1] for offsets in self.discards):
            raw -= 1
        return raw

    def _finished(self, offset: int) -> bool:
        return self.lane[offset] is None or offset in self.done

    def released(self) -> list[list[int]]:
        watermark = self.watermark
        out = [offsets for offsets in self.discards if offsets[-1] < watermark]
        self.discards = [offsets for offsets in self.discards if offsets[-1] >= watermark]
        return sorted(out, key=lambda offsets: offsets[-1])


def parts_of(first: int, lanes: list[int | None], contiguous: bool, before: int) -> list[Part]:
    """One message as parts, by lanes in any order; `before` rows of it lie before `first`."""
    parts = []
    for lane in sorted({lane for lane in lanes if lane is not None}, reverse=bool(first % 2)):
        rows = [before + row for row, whose in enumerate(lanes) if whose == lane]
        weights = [1 + (first + row) % 3 for row in rows]
        prefix = list(accumulate(weights, initial=first))
        if contiguous and rows[-1] - rows[0] == len(rows) - 1:
            parts.append(Part(lane, first - before + rows[0], None, prefix))
        else:
            parts.append(Part(lane, first - before, rows, prefix))
    return parts


STEPS = st.one_of(
    st.tuples(
        st.just("read"),
        st.lists(st.sampled_from([None, 0, 1, 2]), min_size=1, max_size=9),
        st.booleans(),
        st.integers(0, 3),
    ),
    st.tuples(st.just("take"), st.integers(0, 2), st.integers(1, 4)),
    st.tuples(st.just("succeed"), st.integers(0, 2), st.integers(1, 4)),
    st.tuples(st.just("fail"), st.integers(0, 2)),
    st.tuples(st.just("back"), st.integers(0, 2)),
    st.tuples(st.just("finish"), st.integers(-9, 9)),
    st.tuples(st.just("gap"), st.integers(1, 9)),
)

# A list strategy alone would draw some five steps on average.
LIVES = st.integers(0, 90).flatmap(lambda steps: st.lists(STEPS, min_size=steps, max_size=steps))


def live(factor: int, batch_size: int, steps: Iterable[tuple[object, ...]]) -> None:
    """Let a shard and the model live through the same steps."""
    rules = BatchRules(batch_size, 0, event_bytes_max=20, frame_bytes=3)
    policy = FailurePolicy(Backoff(0, 1, 0), maximum_retry_attempts=0)
    lanes = [Lane(rules, policy, 0, 0, lambda: 0.5) for _ in range(factor)]
    work: ShardWork[list[int]] = ShardWork(lanes, START, Reach(5, 30, 40))
    model = NaiveShard(factor)
    broken = [False] * factor
    fate: dict[int, int | None] = {}
    for step in steps:
        match step:
            case "read", list(whose), bool(contiguous), int(before):
                first = model.read
                whose = [None if lane is None else lane % factor for lane in whose]
                # A record that was dropped and is read again is in the lane it was in before.
                whose = [fate.setdefault(first + place, lane) for place, lane in enumerate(whose)]
                work.offer(first + len(whose), parts_of(first, whose, contiguous, before))
                for place, lane in enumerate(whose):
                    offset = first + place
                    if model.end is None or offset < model.end:
                        model.read = offset + 1
                        new = offset not in model.lane or model.lane[offset] is None
                        if new:
                            model.lane[offset] = lane
                            if lane is not None:
                                model.queues[lane].append(offset)
            case "take", int(index), int(most):
                index %= factor
                for run in lanes[index].take(0, most):
                    all_of_it = list(work.offsets(index, run.first_offset, run.records * run.batches))
                    for number in range(run.batches):
                        batch = all_of_it[number * run.records : (number + 1) * run.records]
                        if model.again[index]:
                            assert batch == model.again[index].pop(0)
                        else:
                            assert batch == model.queues[index][: len(batch)]
                            del model.queues[index][: len(batch)]
                        model.flying[index].append(batch)
            case "succeed", int(index), int(count):
                index %= factor
                count = min(count, len(model.flying[index]))
                if count and not broken[index]:
                    lanes[index].succeeded(count, 0)
                    for batch in model.flying[index][:count]:
                        model.done.update(batch)
                    del model.flying[index][:count]
            case "fail", int(index):
                index %= factor
                if model.flying[index] and not broken[index]:
                    lanes[index].failed(0, FAULT)
                    (discard,) = lanes[index].take_discards()
                    offsets = work.offsets(index, discard.first_offset, discard.records)
                    batch = model.flying[index].pop(0)
                    assert list(offsets) == batch
                    model.done.update(batch)
                    model.discards.append(batch)
                    work.hold(index, offsets[0], offsets[-1], batch)
                    broken[index] = bool(model.flying[index])
            case "back", int(index):
                index %= factor
                if model.flying[index]:
                    lanes[index].returned(len(model.flying[index]))
                    model.again[index] = model.flying[index] + model.again[index]
                    model.flying[index], broken[index] = [], False
            case "finish", int(distance):
                model.end = max(START, model.read + distance)
                work.finish_at(model.end)
                dropped = [offset for queue in model.queues for offset in queue if offset >= model.end]
                model.queues = [[offset for offset in queue if offset < model.end] for queue in model.queues]
                model.read = min([model.read, *dropped])
                # Of what is read again only what was dropped is new; what was filtered away may be filtered anew.
                for offset in [offset for offset in model.lane if offset >= model.read]:
                    taken = any(
                        offset in batch for lane in range(factor) for batch in model.flying[lane] + model.again[lane]
                    )
                    if not taken and offset not in model.done:
                        model.lane[offset] = None
            case "gap", int(length):
                if model.end is None:
                    work.meet_gap()
                    everything = not any(model.queues) and not any(model.flying) and not any(model.again)
                    assert work.at_gap == everything
                    while not work.at_gap:
                        for index, lane in enumerate(lanes):
                            lane.returned(lane.in_flight) if lane.in_flight else None
                            model.flying[index], model.again[index], broken[index] = [], [], False
                            lane.take(0, 50)
                            lane.succeeded(lane.in_flight, 0) if lane.in_flight else None
                            model.done.update(model.queues[index])
                            model.queues[index].clear()
                    model.done.update(offset for offset, lane in model.lane.items() if lane is not None)
                    work.moved()
                    assert (work.watermark, work.next_offset) == (model.watermark, model.read)
                    work.skip_gap(model.read + length, 0)
                    model.lane.update(dict.fromkeys(range(model.read, model.read + length)))
                    model.read += length
        work.moved()
        assert work.next_offset == model.read
        assert work.watermark == model.watermark
        assert work.release() == model.released()
        ends = model.end is not None and work.watermark >= model.end
        assert work.finished == ends
        assert [lane.buffered_records for lane in lanes] == [len(queue) for queue in model.queues]
        if work.hungry:
            assert model.read - model.watermark < 30


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), LIVES)
def test_a_shard_does_what_a_model_of_every_record_does(
    factor: int, batch_size: int, steps: list[tuple[object, ...]]
) -> None:
    live(factor, batch_size, steps)


def a_step(draw: Random) -> tuple[object, ...]:
    """As `STEPS` has them; longer lives are affordable."""
    some = draw.randint
    match draw.choices(range(7), [12, 20, 10, 8, 4, 1, 1])[0]:
        case 0:
            whose = [draw.choice([None, 0, 1, 2]) for _ in range(some(1, 9))]
            return "read", whose, draw.random() < 0.5, some(0, 3)
        case 1:
            return "take", some(0, 2), some(1, 4)
        case 2:
            return "succeed", some(0, 2), some(1, 4)
        case 3:
            return "fail", some(0, 2)
        case 4:
            return "back", some(0, 2)
        case 5:
            return "finish", some(-9, 30)
        case _:
            return "gap", some(1, 9)


def test_long_lives_of_a_shard_equal_the_model_s() -> None:
    for seed in range(LIVES_OF_A_RUN):
        draw = Random(seed)
        steps = [a_step(draw) for _ in range(draw.choice([30, 100, 200]))]
        try:
            live(draw.randint(1, 3), draw.randint(1, 4), [*steps, ("finish", 0)])
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@given(st.lists(st.sampled_from([None, 0, 1, 2]), max_size=60), st.integers(1, 5), st.integers(1, 9))
def test_every_record_is_delivered_once_and_in_the_order_of_its_lane(
    whose: list[int | None], batch_size: int, message: int
) -> None:
    rules = BatchRules(batch_size, 0, event_bytes_max=1000, frame_bytes=3)
    lanes = [Lane(rules, FailurePolicy(), 0, 0, lambda: 0.5) for _ in range(3)]
    work: ShardWork[None] = ShardWork(lanes, START, Reach(3, 20, 1000))
    end = START + len(whose)
    work.finish_at(end)
    delivered: list[list[int]] = [[], [], []]
    while not work.finished:
        if work.hungry:
            first = work.next_offset
            lanes_of = whose[first - START : first - START + message]
            work.offer(first + len(lanes_of), parts_of(first, lanes_of, True, 0))
            continue
        for index, lane in enumerate(lanes):
            for run in lane.take(0, 2):
                delivered[index] += work.offsets(index, run.first_offset, run.records * run.batches)
            lane.succeeded(lane.in_flight, 0) if lane.in_flight else None
        work.moved()
    expected = [[START + place for place, lane in enumerate(whose) if lane == index] for index in range(3)]
    assert delivered == expected
