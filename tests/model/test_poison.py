"""One record in ten thousand that no handler can digest, somewhere: bisecting finds it, and it alone.

A thousand times by hand: STREAMFN_POISONS=1000 pytest tests/model/test_poison.py
"""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import accumulate
from math import ceil, log2
from random import Random
from typing import NamedTuple

import pytest

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules
from streamfn.core.lane import Lane
from streamfn.core.shard import Reach, ShardWork
from streamfn.core.verdict import Condition, FailurePolicy
from streamfn.types import Fault, Part

RECORDS = 10_000
LANES = 4
RETRIES = 2
POISONS = int(os.environ.get("STREAMFN_POISONS", "24"))
FAULT = Fault("ValueError", "indigestible", b"{}")


class Story(NamedTuple):
    """What became of the records of a shard."""

    delivered: list[tuple[int, ...]]  # batches, as they were started
    succeeded: list[int]  # records, in the order of their successes
    discarded: list[tuple[tuple[int, ...], Condition, int]]
    watermarks: list[int]


def live(poison: int, batch_size: int, keys: list[int], draw: Random) -> Story:
    """Deliver all records, lanes in any order, with whatever staged; a batch with `poison` in it fails."""
    rules = BatchRules(batch_size, 0, event_bytes_max=6 << 20, frame_bytes=14)
    policy = FailurePolicy(Backoff(1000, 2, 8000), maximum_retry_attempts=RETRIES, bisect=True)
    lanes = [Lane(rules, policy, 0, 0, draw.random) for _ in range(LANES)]
    work: ShardWork[tuple[tuple[int, ...], Condition, int]] = ShardWork(lanes, 0, Reach(500_000, 8_000, 50_000_000))
    work.finish_at(RECORDS)
    story, now = Story([], [], [], []), 0
    while not work.finished:
        while work.hungry:
            first, count = work.next_offset, draw.choice([1, 500, 1000])
            rows: list[list[int]] = [[] for _ in lanes]
            for row, key in enumerate(keys[first : first + count]):
                rows[key % LANES].append(row)
            parts = [
                Part(index, first, mine, list(accumulate([1024] * len(mine), initial=0)))
                for index, mine in enumerate(rows)
                if mine
            ]
            work.offer(min(RECORDS, first + count), parts)
        index = draw.randrange(LANES)
        lane = lanes[index]
        if not lane.in_flight:
            now = max(now, lane.wake_at(now) or 0)
        lane.take(now, draw.randint(1, 4))
        if lane.in_flight:
            run = lane.oldest
            assert run is not None
            batch = tuple(work.offsets(index, run.first_offset, run.records))
            story.delivered.append(batch)
            if poison in batch:
                lane.failed(now, FAULT)
                if lane.in_flight:
                    lane.returned(lane.in_flight)
                for first, records, condition, attempts, _ in lane.take_discards():
                    lost = tuple(work.offsets(index, first, records))
                    work.hold(index, lost[0], lost[-1], (lost, condition, attempts))
            else:
                lane.succeeded(1, now)
                story.succeeded.extend(batch)
        work.moved()
        story.discarded.extend(work.release())
        story.watermarks.append(work.watermark)
    return story


@pytest.mark.conformance(
    "bisect/poison",
    source="documented",
    rule="Bisecting isolates one bad record: it alone is discarded, and its neighbours succeed.",
)
@pytest.mark.parametrize("block", range(4))
def test_bisecting_isolates_the_poison_record(block: int) -> None:
    for seed in range(block, POISONS, 4):
        draw = Random(seed)
        poison, batch_size = draw.randrange(RECORDS), draw.choice([7, 100, 1000, 10_000])
        keys = [draw.randrange(300) for _ in range(RECORDS)]
        story = live(poison, batch_size, keys, draw)
        said = f"seed {seed}: poison {poison}, batch size {batch_size}"

        # Exactly that record is discarded, and every other one succeeds, once.
        assert story.discarded == [((poison,), Condition.RETRY_ATTEMPTS_EXHAUSTED, RETRIES + 1)], said
        assert sorted(story.succeeded) == [offset for offset in range(RECORDS) if offset != poison], said

        # It is found in the fewest steps, and has all its attempts when it is alone; only its batches are repeated.
        tried = [batch for batch in story.delivered if poison in batch]
        levels = len({len(batch) for batch in tried})
        assert levels <= ceil(log2(len(tried[0]))) + 1, said
        assert [len(batch) for batch in tried].count(1) == RETRIES + 1, said
        assert len(tried) == levels + RETRIES, said

        # What must stay in order does, and the checkpoint never goes back.
        by_key: defaultdict[int, list[int]] = defaultdict(list)
        for offset in story.succeeded:
            by_key[keys[offset]].append(offset)
        assert all(offsets == sorted(offsets) for offsets in by_key.values()), said
        assert story.watermarks == sorted(story.watermarks), said
