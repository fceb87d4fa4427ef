"""How shards are split and merged: which ranges of hash keys are closed, and which take their place.

A range is a shard's hash keys, both ends included.  A step closes one range (a split) or two that adjoin (a
merge) and makes the ranges that take over; what a step makes, a later one may close again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Range(NamedTuple):
    """The hash keys `start` to `end` of the shard with that number."""

    number: int
    start: int
    end: int


class Step(NamedTuple):
    """One split or merge: the shards `closed` give their keys to those `made`."""

    closed: tuple[Range, ...]
    made: tuple[Range, ...]


def split(parent: Range, at: int, next_number: int) -> Step:
    """Split a range: `at` is the first key of the second part."""
    assert parent.start < at <= parent.end, "nothing would be left of one part"
    first = Range(next_number, parent.start, at - 1)
    return Step((parent,), (first, Range(next_number + 1, at, parent.end)))


def merge(first: Range, second: Range, next_number: int) -> Step:
    """Merge two ranges that adjoin, in the order in which they are named."""
    assert adjacent(first, second), "there is something between them"
    return Step(
        (first, second), (Range(next_number, min(first.start, second.start), max(first.end, second.end)),)
    )


def adjacent(first: Range, second: Range) -> bool:
    """Whether two ranges follow each other, in either order."""
    return first.end + 1 == second.start or second.end + 1 == first.start


def middle(parent: Range) -> int:
    """Return where a range is split into halves."""
    return parent.start + (parent.end - parent.start + 1) // 2


def uniform_steps(ranges: Sequence[Range], wanted: Sequence[tuple[int, int]], next_number: int) -> list[Step]:
    """Return the splits and merges that turn `ranges` into those `wanted`; both in order and without gaps.

    Every range is split where a wanted one begins inside it; then what lies in one wanted range is merged,
    from the left.  A range that is as it should be is left alone.
    """
    starts = {start for start, _ in wanted}
    steps: list[Step] = []
    pieces: list[Range] = []
    for parent in ranges:
        for at in sorted(start for start in starts if parent.start < start <= parent.end):
            step = split(parent, at, next_number)
            next_number += 2
            steps.append(step)
            pieces.append(step.made[0])
            parent = step.made[1]
        pieces.append(parent)
    place = 0
    for _, end in wanted:
        whole = pieces[place]
        while whole.end < end:
            place += 1
            step = merge(whole, pieces[place], next_number)
            next_number += 1
            steps.append(step)
            whole = step.made[0]
        assert whole.end == end, "the wanted ranges cover other keys"
        place += 1
    return steps
