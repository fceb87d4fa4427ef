"""Which records of a message go into which lane of their shard, and what the lanes' machines must know of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence

from streamfn.events.rows import arrivals, group, lanes, select_prefix
from streamfn.log.shard.reader import Message
from streamfn.types import Part

Measure = Callable[[Message, memoryview | None], memoryview]


def parts_of(
    message: Message,
    sizes: memoryview | Measure,
    rows: memoryview | None,
    *,
    factor: int,
    dated: bool,
    start: int,
    stop: int | None,
    dates: Sequence[int] | None = None,
) -> list[Part]:
    """Return the parts of a message, at most one for each lane.

    Args:
        message: the message.
        sizes: the running sums of its records' sizes as JSON, or what gives them for some rows, or for all (None).
        rows: the numbers of the rows that are to be delivered, ascending; None for all of them.
        factor: how many lanes there are.
        dated: whether the machines need to know when records arrived.
        dates: where they count from other times than those of the log: the times of the rows from `start` on.
        start: the shard offset below which nothing is to be delivered any more.
        stop: the one from which on nothing is; None for no such offset.
    """
    first = message.first_offset
    low = max(0, start - first)
    high = message.rows if stop is None else min(message.rows, stop - first)
    if low >= high:
        return []
    if rows is not None:
        rows = rows[bisect_left(rows, low) : bisect_left(rows, high)]
    elif factor > 1 and (low, high) != (0, message.rows):
        rows = memoryview(array("I", range(low, high)))
    groups: Sequence[memoryview | None] = [rows]
    if factor > 1:
        groups = group(lanes(message.segment.address, message.cdata, factor), factor, rows)
    parts = []
    for lane, chosen in enumerate(groups):
        if chosen is None or len(chosen) == high - low:  # all that there is: they follow one another
            times = _times(message, None, low, high, dates) if dated else None
            sums = sizes(message, None) if callable(sizes) else sizes
            return [Part(lane, first + low, None, sums[low : high + 1], times)]
        if len(chosen):
            times = _times(message, chosen, low, high, dates) if dated else None
            sums = sizes(message, chosen) if callable(sizes) else select_prefix(sizes, chosen)
            parts.append(Part(lane, first, chosen, sums, times))
    return parts


def _times(
    message: Message, chosen: memoryview | None, low: int, high: int, dates: Sequence[int] | None
) -> Sequence[int]:
    """The times of some rows, or of those from `low` to `high`."""
    if dates is not None:
        return dates[: high - low] if chosen is None else array("q", [dates[row - low] for row in chosen])
    if chosen is None:
        return arrivals(message.segment.address, message.cdata)[low:high]
    return arrivals(message.segment.address, message.cdata, chosen)
