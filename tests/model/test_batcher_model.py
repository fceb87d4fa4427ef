"""The batcher against a model that looks at every record."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streamfn.core.batcher import Batcher, BatchRules, Chunk
from streamfn.types import Run

FRAME = 7


def rules_of(batch_size: int, room: int, window_ns: int = 0) -> BatchRules:
    return BatchRules(batch_size, window_ns, event_bytes_max=room + FRAME, frame_bytes=FRAME)


def naive_batches(
    weights: list[int], batch_size: int, room: int, *, ends: bool
) -> tuple[list[int], int | None]:
    """Sizes of the closed batches of all records, and the index of the first that does not fit alone."""
    sizes: list[int] = []
    count = weight = 0
    for index, record in enumerate(weights):
        if count == batch_size or (count and weight + record > room):
            sizes.append(count)
            count = weight = 0
        if record > room:
            return sizes, index
        count += 1
        weight += record
    if count == batch_size or (count and ends):
        sizes.append(count)
    return sizes, None


def chunked(weights: list[int], cuts: list[int], start: int) -> list[Chunk]:
    """The same records as chunks that end at `cuts`, each with a running sum of its own."""
    edges = sorted({0, len(weights), *(cut % (len(weights) + 1) for cut in cuts)})
    chunks = []
    for first, end in pairwise(edges):
        sums = [first * 1000]
        for weight in weights[first:end]:
            sums.append(sums[-1] + weight)
        chunks.append(Chunk(start + first, memoryview(bytearray(8 * len(sums))).cast("Q")))
        for index, value in enumerate(sums):
            chunks[-1].prefix_bytes[index] = value  # type: ignore[index]
    return chunks


def flat(runs: list[Run], start: int) -> list[int]:
    """The batch sizes in `runs`, which must follow one another from `start` on."""
    sizes = []
    for run in runs:
        assert run.first_offset == start
        assert run.attempt == 1
        sizes += [run.records] * run.batches
        start += run.records * run.batches
    return sizes


WEIGHTS = st.lists(st.integers(1, 12) | st.just(1), max_size=120)
CUTS = st.lists(st.integers(0, 200), max_size=20)


@given(WEIGHTS, CUTS, st.integers(1, 9), st.integers(3, 40), st.integers(1, 50), st.booleans())
def test_cuts_equal_a_record_by_record_model(
    weights: list[int], cuts: list[int], batch_size: int, room: int, batches_max: int, ends: bool
) -> None:
    start = 1000
    batcher = Batcher(rules_of(batch_size, room), start, now_ns=0)
    for chunk in chunked(weights, cuts, start):
        batcher.offer(chunk)
    if ends:
        batcher.finish_at(start + len(weights))
    expected, too_big = naive_batches(weights, batch_size, room, ends=ends)

    sizes: list[int] = []
    while runs := batcher.take(0, batches_max, only_full=True):
        taken = flat(runs, start + sum(sizes))
        assert len(taken) <= batches_max
        sizes += taken

    assert sizes == expected
    if too_big is None:
        assert batcher.oversize is None
    else:
        assert batcher.oversize == (start + too_big, FRAME + weights[too_big])
    assert batcher.buffered_records == len(weights) - sum(sizes)
    assert batcher.buffered_bytes == sum(weights[sum(sizes) :])


@given(WEIGHTS, CUTS, CUTS, st.integers(1, 9), st.integers(12, 40), st.lists(st.integers(0, 9), max_size=60))
def test_how_records_are_chunked_does_not_matter(
    weights: list[int], cuts: list[int], other: list[int], batch_size: int, room: int, takes: list[int]
) -> None:
    taken = []
    for edges in (cuts, other):
        batcher = Batcher(rules_of(batch_size, room), 0, now_ns=0)
        for chunk in chunked(weights, edges, 0):
            batcher.offer(chunk)
        taken.append([batcher.take(0, most, only_full=False) for most in takes])
    assert taken[0] == taken[1]


@given(WEIGHTS, CUTS, st.integers(1, 9), st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_records_max_is_exact_and_the_last_batch_is_cut_there(
    weights: list[int], cuts: list[int], batch_size: int, limits: list[int]
) -> None:
    batcher = Batcher(rules_of(batch_size, 40, window_ns=10), 0, now_ns=0)
    for chunk in chunked(weights, cuts, 0):
        batcher.offer(chunk)
    for limit in limits:
        before, here = batcher.cut_offset, batcher.buffered_records
        sizes = flat(batcher.take(0, 10_000, records_max=limit, only_full=True), before)
        taken = weights[before : before + (limit if limit <= here else here)]
        expected, _ = naive_batches(taken, batch_size, 40, ends=limit <= here)
        if limit > here:  # nothing behind it is known: only what is closed by itself
            assert sizes == expected
        else:
            assert sum(sizes) == limit
            assert sizes == expected


@given(WEIGHTS, CUTS, st.integers(0, 130), st.integers(0, 20), st.integers(1, 9))
def test_nothing_behind_the_end_is_cut_whenever_it_is_set(
    weights: list[int], cuts: list[int], end: int, taken_before: int, batch_size: int
) -> None:
    chunks = chunked(weights, cuts, 0)
    early = Batcher(rules_of(batch_size, 40), 0, now_ns=0)
    early.finish_at(end)
    for chunk in chunks:
        if chunk.first_offset < end:
            early.offer(chunk)
    late = Batcher(rules_of(batch_size, 40), 0, now_ns=0)
    for chunk in chunks:
        late.offer(chunk)
    before = flat(late.take(0, taken_before, only_full=True), 0)
    late.finish_at(end)
    assert late.next_offset == max(late.cut_offset, min(end, len(weights)))
    assert late.buffered_bytes == sum(weights[late.cut_offset : late.next_offset])
    after = flat(late.take(0, 10_000, only_full=True), sum(before))
    if sum(before) <= end <= len(weights):
        assert before + after == flat(early.take(0, 10_000, only_full=True), 0)
        assert early.cut_offset == late.cut_offset == end
