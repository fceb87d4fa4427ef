"""What a replay is said to take: the model of a lane, held against the machine that really cuts batches."""

import random
from array import array
from itertools import accumulate

from streamfn.core.batcher import Batcher, BatchRules, Chunk
from streamfn.replay.estimate import LaneModel, estimate

MS = 1_000_000


def rules(batch_size=10, window_ms=0, room=1_000_000):
    return BatchRules(batch_size, window_ms * MS, room + 10, 10)


def offered(model, due, sizes=None, pieces=1):
    """The model, told of the records in so many pieces."""
    sizes = sizes or [1] * len(due)
    step = -(-len(due) // pieces)
    for first in range(0, len(due), step):
        part = sizes[first : first + step]
        model.offer(array("q", due[first : first + step]), array("Q", accumulate(part, initial=7)))
    model.finish()
    return model


def test_records_that_are_all_due_make_full_batches():
    model = offered(LaneModel(rules(), 3 * MS), [0] * 25)
    assert (model.invocations, model.free_ns) == (3, 9 * MS)


def test_batches_are_cut_as_the_machine_cuts_them_however_the_records_come():
    chance = random.Random(8)
    for _ in range(200):
        given = rules(chance.randint(1, 8), 0, chance.randint(20, 60))
        sizes = [chance.randint(1, 25) for _ in range(chance.randint(1, 60))]
        batcher = Batcher(given, 0, 0)
        batcher.finish_at(len(sizes))
        batcher.offer(Chunk(0, list(accumulate(sizes, initial=0))))
        expected = 0
        while batcher.next_offset > batcher.cut_offset:
            expected += sum(run.batches for run in batcher.take(0, 100, only_full=False))
            if batcher.oversize is not None:
                batcher.pass_over()
        model = offered(LaneModel(given, 0), [0] * len(sizes), sizes, chance.randint(1, 5))
        assert model.invocations == expected


def test_a_record_goes_when_it_is_due_and_what_comes_meanwhile_goes_together():
    due = [0, 1 * MS, 2 * MS, 3 * MS, 100 * MS]
    model = offered(LaneModel(rules(), 10 * MS), due)
    assert (model.invocations, model.free_ns) == (3, 110 * MS)


def test_a_batch_waits_for_its_window_unless_it_is_full():
    due = [number * MS for number in range(40)]
    assert offered(LaneModel(rules(100, window_ms=15), 0), due).invocations == 3
    assert offered(LaneModel(rules(5, window_ms=15), 0), due).invocations == 8


def test_how_the_records_are_told_makes_no_difference():
    chance = random.Random(5)
    for _ in range(100):
        due = sorted(chance.randint(0, 200 * MS) for _ in range(50))
        sizes = [chance.randint(1, 9) for _ in due]
        args = (rules(chance.randint(1, 9), chance.choice([0, 7]), 30), chance.randint(0, 9) * MS)
        whole, cut = (offered(LaneModel(*args), due, sizes, pieces) for pieces in (1, 7))
        assert (whole.invocations, whole.free_ns) == (cut.invocations, cut.free_ns)


def test_lanes_share_the_workers():
    lanes = [offered(LaneModel(rules(1), 10 * MS), [0] * 5) for _ in range(4)]
    assert estimate(lanes, workers=4) == (20, 0.05)
    assert estimate(lanes, workers=2) == (20, 0.1)
    assert estimate([], workers=2) == (0, 0.0)
