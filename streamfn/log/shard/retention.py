"""Retention: which segments go, and their going.

Only whole segments go, the oldest first, never the active one.  The ledger names what goes, durably, before the first
file is unlinked; who has a segment mapped, for a batch in flight say, keeps it until done with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from streamfn import limits
from streamfn.clock import Clock
from streamfn.log.catalog import description
from streamfn.log.catalog.age import Moment, ShardClock
from streamfn.log.catalog.stream import KEEP_ALL, Retention, Shard
from streamfn.log.shard import gaps
from streamfn.log.shard.chain import Link, read_chain

_SEGMENTS_KEPT = 8


class Trimmed(NamedTuple):
    """What went: so many segments with so many records and bytes; the first record that is left is `horizon`."""

    segments: int
    records: int
    bytes: int
    horizon: int


class Rolling(NamedTuple):
    """When a segment is full: at so many bytes, or, where `age_s` is not None, so long after it was begun."""

    segment_bytes: int
    age_s: float | None


class Fullness:
    """When the active segment of a shard is full: by its size, which is given when it is begun, and by its age."""

    __slots__ = ("_asked", "_clock", "_full_at_ns", "_shard", "segment_bytes")

    def __init__(self, shard: Shard, clock: Clock, asked: Rolling) -> None:
        """`asked` holds unless the stream's retention needs smaller segments, or younger ones."""
        self._shard = shard
        self._clock = clock
        self._asked = asked
        self._full_at_ns: int | None = None
        self.segment_bytes = asked.segment_bytes

    @property
    def old(self) -> bool:
        """Whether the segment is full by its age."""
        return self._full_at_ns is not None and self._clock.monotonic_ns() >= self._full_at_ns

    def begin(self) -> None:
        """A segment begins now."""
        self._set(0)

    def resume(self, first_offset: int) -> None:
        """Go on in the segment that was begun at an offset some time ago."""
        if self._set(0) is not None:
            self._set(max(0, self._clock.unix_ms() - begun_ms(self._shard, first_offset)))

    def _set(self, elapsed_ms: int) -> int | None:
        self.segment_bytes, age_s = rolling(self._shard, self._asked)
        self._full_at_ns = None
        if age_s is not None:
            left_ns = round(1e9 * age_s) - elapsed_ms * 1_000_000
            self._full_at_ns = self._clock.monotonic_ns() + max(0, left_ns)
        return self._full_at_ns


def rolling(shard: Shard, asked: Rolling) -> Rolling:
    """Return how the segments of a shard roll: as asked for, and so that its retention has something to remove.

    Whole segments are removed, so about eight of them make what is to be kept.
    """
    stream = description.current(shard)
    kept = KEEP_ALL if stream is None else stream.retention
    segment_bytes, age_s = asked
    if kept.bytes is not None:
        segment_bytes = min(segment_bytes, max(limits.SEGMENT_BYTES_RETAINED_MIN, kept.bytes // _SEGMENTS_KEPT))
    if age_s is None and kept.age_s is not None:
        age_s = kept.age_s / _SEGMENTS_KEPT
    return Rolling(segment_bytes, age_s)


def begun_ms(shard: Shard, first_offset: int) -> int:
    """Return when the unsealed segment at `first_offset` was begun (since 1970, UTC), as near as the files tell.

    That is when the one before it was appended to last; for the first one, when the shard was made.
    """
    before = [link for link in read_chain(shard).links if link.file.first_offset < first_offset]
    return appended(before[-1]).wall_ms if before else shard.created_ms


def removable(links: Sequence[Link], *, unsealed: bool = False) -> list[Link]:
    """Return the segments that could go: the oldest up to the first that is not sealed.

    `unsealed` takes along those that are full and wait to be sealed, perhaps for room on the disk: nobody seals now.
    """
    found = []
    for link in links:
        if not (link.file.sealed or unsealed) or link.end_offset is None:
            break
        found.append(link)
    return found


def appended(link: Link) -> Moment:
    """Return when the last record of a sealed segment was appended; the file's own time where its footer has none."""
    if link.footer is None:
        return Moment(link.modified_ms, 0)
    return Moment(link.footer.appended_ms, link.footer.lived_ms)


def expired(links: Sequence[Link], retention: Retention, now: Moment, *, unsealed: bool = False) -> int:
    """Return how many segments of a chain, counted from the oldest, retention wants gone; `unsealed` as of `removable`.

    By age those whose last append both clocks have as longer ago.  By bytes those without which the rest still has at
    least as many as are to be kept.
    """
    candidates = removable(links, unsealed=unsealed)
    count = 0
    if retention.age_s is not None:
        span_ms = 1000 * retention.age_s
        aged = sum(1 for link in candidates if link.file.sealed)  # the others do not know when they were appended to
        while count < aged and _older(appended(candidates[count]), now, span_ms):
            count += 1
    if retention.bytes is not None:
        left = sum(link.bytes for link in links[count:])
        while count < len(candidates) and left - candidates[count].bytes >= retention.bytes:
            left -= candidates[count].bytes
            count += 1
    return count


def _older(last_append: Moment, now: Moment, span_ms: int) -> bool:
    return now.wall_ms - last_append.wall_ms > span_ms and now.lived_ms - last_append.lived_ms > span_ms


def apply(shard: Shard, retention: Retention, clock: ShardClock, *, unsealed: bool = False) -> Trimmed:
    """Trim what a shard's retention wants gone; `unsealed` as of `removable`.  The shard's lock is held.

    Raises:
        LogDamaged: the ledger is not as it was written; nothing was removed.
        OSError: a file cannot be read or removed.
    """
    links = read_chain(shard).links
    candidates = removable(links, unsealed=unsealed)
    if retention == KEEP_ALL or not candidates:
        return trim(shard, [], 0)
    now = clock.now(at_least_ms=max(appended(link).lived_ms for link in candidates))
    return trim(shard, links[: expired(links, retention, now, unsealed=unsealed)], now.wall_ms)


def trim(shard: Shard, links: Sequence[Link], at_ms: int) -> Trimmed:
    """Remove the oldest segments of a shard, `at_ms` since 1970.  The shard's lock is held; errors as of `apply`."""
    if not links:
        left = read_chain(shard).links
        return Trimmed(0, 0, 0, left[0].file.first_offset if left else 0)
    first, horizon = links[0].file.first_offset, links[-1].end_offset
    assert horizon is not None, "an active segment is not trimmed"
    gaps.record_trim(shard, horizon, at_ms=at_ms)
    remove_leftovers(shard)
    return Trimmed(len(links), horizon - first, sum(link.bytes for link in links), horizon)


def remove_leftovers(shard: Shard) -> None:
    """Unlink the files beside the chain, oldest first.  The shard's lock is held.

    Errors as of `apply`.
    """
    for file in read_chain(shard).leftovers:
        shard.disk.unlink(file.path)
