"""Times that do not rise, made to: when the records of a shard count as having arrived, in the order they have.

A shard's order is kept whatever its arrival times say, so in a replay a record is due no earlier than the one before.
If it simply waited for its own time, one record with a time far ahead would hold up everybody behind it; so those times
are taken that rise and are nearest to the recorded ones: their differences, all added up, are the least there can be.
Where times rise already they are those very times, and one that is far off counts like its neighbours.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from heapq import heappush, heapreplace
from itertools import islice
from operator import le
from typing import NamedTuple


class Steps(NamedTuple):
    """From each of the offsets on, up to the next one, records count as having arrived at that time."""

    offsets: array[int]
    times: array[int]

    def at(self, first_offset: int, count: int) -> array[int]:
        """Return the times of so many records from an offset on; those before the first step have its time."""
        offsets, times, found = self.offsets, self.times, array("q")
        place = max(0, bisect_right(offsets, first_offset) - 1)
        while len(found) < count:
            left = count - len(found)
            ahead = offsets[place + 1] - first_offset - len(found) if place + 1 < len(offsets) else left
            found.extend([times[place]] * min(left, ahead))
            place += 1
        return found


def is_rising(times: Sequence[int]) -> bool:
    """Whether no time is earlier than the one before it."""
    return all(map(le, times, islice(times, 1, None)))


def risen(times: Sequence[int]) -> array[int]:
    """Return the times that never go back and are nearest to `times`, by the sum of the differences.

    O(n log n): the heap holds the times so far, largest first, as the slope of what the best sum is for each time that
    the last of them might get; its top is where that is least.
    """
    found, heap = array("q", times), list[int]()
    for row, time in enumerate(found):
        heappush(heap, -time)
        if -heap[0] > time:
            heapreplace(heap, -time)
        found[row] = -heap[0]
    for row in range(len(found) - 2, -1, -1):
        found[row] = min(found[row], found[row + 1])
    return found


def steps_of(runs: Iterable[tuple[int, int]], times: Sequence[int]) -> Steps:
    """Return times that rise as steps; `runs` are where their records lie: first offset and count, ascending."""
    steps, row, last = Steps(array("q"), array("q")), 0, None
    for first_offset, count in runs:
        for offset, time in zip(range(first_offset, first_offset + count), times[row : row + count], strict=True):
            if time != last:
                steps.offsets.append(offset)
                steps.times.append(time)
                last = time
        row += count
    return steps
