"""What the batcher keeps, and what it costs."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Sequence
from typing import Any

import pytest

from streamfn.core.batcher import Batcher, BatchRules, Chunk
from streamfn.types import Run


def batcher_of(batch_size: int, event_bytes_max: int = 6 * 1024 * 1024) -> Batcher:
    return Batcher(BatchRules(batch_size, 0, event_bytes_max, frame_bytes=14), 0, now_ns=0)


class Counting(Sequence[int]):
    """Running sums of equal records that count how often they are looked at."""

    def __init__(self, rows: int, weight: int) -> None:
        self.rows, self.weight, self.looks = rows, weight, 0

    def __len__(self) -> int:
        return self.rows + 1

    def __getitem__(self, index: Any) -> Any:
        assert 0 <= index <= self.rows
        self.looks += 1
        return index * self.weight


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 50), (1, 4000), (100, 40)])
def test_equal_small_batches_are_cut_together_without_looking_at_each(batch_size: int, batches: int) -> None:
    sums = Counting(4000, weight=1024)
    batcher = batcher_of(batch_size)
    batcher.offer(Chunk(0, sums))
    assert batcher.take(0, batches, only_full=True) == [Run(0, batch_size, batches, 1)]
    assert sums.looks <= 8


def test_asking_again_and_again_for_a_batch_that_is_not_full_looks_at_nothing() -> None:
    chunks = [Counting(1, weight=100) for _ in range(500)]
    batcher = batcher_of(batch_size=1000)
    for offset, chunk in enumerate(chunks):
        batcher.offer(Chunk(offset, chunk))
        assert batcher.take(0, 9, only_full=True) == []
    assert sum(chunk.looks for chunk in chunks) == 2 * len(chunks)


def test_a_chunk_is_let_go_with_its_last_row() -> None:
    batcher = batcher_of(batch_size=2)
    views = [memoryview(array("Q", [5, 10, 15, 20])) for _ in range(2)]
    alive = [weakref.ref(view) for view in views]
    for number, view in enumerate(views):
        batcher.offer(Chunk(3 * number, view))
    del view, views
    batcher.take(0, 1, only_full=True)
    assert [view() is not None for view in alive] == [True, True]
    batcher.take(0, 1, only_full=True)
    assert [view() is not None for view in alive] == [False, True]
    batcher.take(0, 1, only_full=True)
    assert [view() is not None for view in alive] == [False, False]


def test_an_empty_chunk_is_nothing() -> None:
    batcher = batcher_of(batch_size=2)
    batcher.offer(Chunk(0, [7]))
    assert (batcher.buffered_records, batcher.deadline_ns) == (0, None)


def test_deadline_is_the_window_s_end_or_already_past_for_a_closed_batch() -> None:
    batcher = Batcher(BatchRules(2, 100, 1000, frame_bytes=14), 0, now_ns=40)
    batcher.offer(Chunk(0, [0, 1]))
    assert batcher.deadline_ns == 140
    batcher.offer(Chunk(1, [0, 1]))
    assert batcher.deadline_ns == 40


def test_an_end_that_is_moved_up_lets_reading_go_on_where_it_was_dropped() -> None:
    batcher = batcher_of(batch_size=10)
    batcher.finish_at(3)
    batcher.offer(Chunk(0, list(range(6))))
    assert batcher.next_offset == 3
    batcher.finish_at(5)
    batcher.offer(Chunk(3, [0, 1, 2]))
    assert batcher.take(0, 9, only_full=True) == [Run(0, 5, 1, 1)]
