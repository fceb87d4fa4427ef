"""Compaction: small sealed segments become one, cold ones are compressed.

Every new file takes the name of the first segment whose records it holds, by one rename when it is whole and
synced; then the others are unlinked.  So at every moment each record is in at least one file under a name that readers
look for; what a crash leaves lies wholly inside the merged segment, and whoever opens the shard for writing next
removes it.  Who has one of the old files mapped keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from streamfn import limits
from streamfn._native import ffi, lib
from streamfn.errors import LogError
from streamfn.log.catalog.age import Moment
from streamfn.log.catalog.stream import Shard
from streamfn.log.format.footer import PLAIN, ZSTD
from streamfn.log.format.layout import Layout
from streamfn.log.segment.cold import compressed
from streamfn.log.segment.sealed_writer import SealedWriter
from streamfn.log.segment.segment import Segment, open_segment
from streamfn.log.shard import retention
from streamfn.log.shard.chain import Link, read_chain
from streamfn.log.shard.merge import merged
from streamfn.log.shard.recovery import Scan, damaged
from streamfn.log.storage.disk import floor_bytes

# Messages looked at, and merged into one row group, at a time.
_MESSAGES = 8192
# A segment from this part of the full size on is not worth being written again.
_FULL = 0.5
# Compressed, a segment must be at least this much smaller.
_WORTH_IT = 0.95


class Compacted(NamedTuple):
    """What compaction did to a shard: its segments and their bytes on the disk before and after, bytes written.

    `merged` segments were made into fewer, `compressed` ones are cold now.
    """

    segments_before: int
    segments_after: int
    bytes_before: int
    bytes_after: int
    bytes_written: int
    merged: int
    compressed: int


def compact(
    shard: Shard, now_ms: int, *, cold_after_s: int | None = None, segment_bytes: int = limits.SEGMENT_BYTES
) -> Compacted:
    """Merge the small sealed segments of a shard, up to `segment_bytes`, and compress those that are cold.

    Cold is what was appended to last more than `cold_after_s` seconds before `now_ms` (since 1970, UTC); None
    compresses nothing.  The shard's lock is held, and nothing is being sealed.

    Raises:
        LogDamaged: a message is not as it was written; that segment stays as it was.
        LogError: there is no room for a second copy of a segment.
        OSError: a file cannot be read or written.
    """
    before = read_chain(shard).links
    written = merges = colds = 0
    for neighbours in plan(before, segment_bytes):
        for group in _alike(shard, neighbours):
            written += _merge(shard, group)
            merges += len(group)
    if cold_after_s is not None:
        for link in read_chain(shard).links:
            if is_cold(link, now_ms, cold_after_s) and (size := _compress(shard, link)):
                written += size
                colds += 1
    after = read_chain(shard).links
    bytes_before, bytes_after = (sum(link.bytes for link in links) for links in (before, after))
    return Compacted(len(before), len(after), bytes_before, bytes_after, written, merges, colds)


def plan(links: Sequence[Link], segment_bytes: int) -> list[list[Link]]:
    """Return which neighbours are to become one: sealed, not compressed, less than half full, without a gap between."""
    groups: list[list[Link]] = [[]]
    for link in links:
        fits = link.file.sealed and _plain(link) and link.bytes < _FULL * segment_bytes
        last = groups[-1]
        joined = sum(one.bytes for one in last) + link.bytes <= segment_bytes
        if not last or not fits or not joined or last[-1].end_offset != link.file.first_offset:
            groups.append([])
        if fits:
            groups[-1].append(link)
    return [group for group in groups if len(group) > 1]


def is_cold(link: Link, now_ms: int, cold_after_s: int) -> bool:
    """Whether a segment is to be compressed: sealed, not compressed yet, and old enough by the wall clock."""
    if not link.file.sealed or not _plain(link) or link.footer is None:
        return False
    return now_ms - link.footer.appended_ms >= 1000 * cold_after_s


def compress_cold(shard: Shard, now_ms: int, cold_after_s: int) -> None:
    """Compress the segments of a shard that are cold; see `compact`."""
    for link in read_chain(shard).links:
        if is_cold(link, now_ms, cold_after_s):
            _compress(shard, link)


def _plain(link: Link) -> bool:
    return link.footer is None or link.footer.codec == PLAIN


class _Joined(NamedTuple):
    """Mapped messages of several segments, all seen from the lowest address."""

    base: Any
    layout: Layout


def _alike(shard: Shard, links: Sequence[Link]) -> list[list[Link]]:
    """Divide neighbours where their columns change; what is then alone stays as it is."""
    groups: list[list[Link]] = []
    layout: Layout | None = None
    for link in links:
        segment = open_segment(shard, link.file)
        if segment.layout is not layout:
            groups.append([])
        layout = segment.layout
        segment.release()
        groups[-1].append(link)
    return [group for group in groups if len(group) > 1]


def _merge(shard: Shard, links: Sequence[Link]) -> int:
    """Make one segment of several with the same columns; return the bytes written."""
    _require_space(shard, sum(link.bytes for link in links))
    with ExitStack() as held:
        segments = [_opened(held, shard, link) for link in links]
        end_offset = links[-1].end_offset
        assert end_offset is not None, "a sealed segment has an end"
        lowest = min(segments, key=lambda segment: segment.address)
        joined = _Joined(lowest.base, lowest.layout)
        writer = SealedWriter(shard, links[0].file.first_offset, joined.layout)
        try:
            for group in _row_groups(segments, links, lowest.address):
                batch = ffi.new("sf_message[]", [message[0] for message in group])
                writer.add_draft(merged(joined, batch, len(group), end_offset))
            writer.finish(end_offset, _latest_append(links))
        except BaseException:
            writer.abandon()
            raise
    retention.remove_leftovers(shard)
    return writer.position


def _row_groups(segments: Sequence[Segment], links: Sequence[Link], lowest: int) -> Iterator[list[Any]]:
    """Yield the messages of some segments in row groups of the target size, at the places seen from `lowest`."""
    group: list[Any] = []
    size = 0
    for segment, link in zip(segments, links, strict=True):
        for message in _messages(segment, link):
            if group and (size + message.length > limits.SEALED_GROUP_BYTES or len(group) == _MESSAGES):
                yield group
                group, size = [], 0
            size += message.length
            _shift(message, segment.address - lowest)
            group.append(message)
    if group:
        yield group


def _messages(segment: Segment, link: Link) -> Iterator[Any]:
    """Yield copies of the messages of a segment; every one is proven."""
    scan = Scan(segment, segment.data_at, segment.first_offset, _MESSAGES)
    status = lib.SF_SCAN_MORE
    while status == lib.SF_SCAN_MORE:
        status, found, count = scan.step(segment.size, _MESSAGES, limits.SEALED_GROUP_BYTES)
        for number in range(count):
            yield ffi.new("sf_message *", found[number])
    if scan.next_offset != link.end_offset:
        raise damaged(link.file, scan.position, scan.next_offset, f"though it should end at offset {link.end_offset}")


def _shift(message: Any, distance: int) -> None:
    """Give a message the place that it has from a base `distance` bytes lower."""
    message.position += distance
    places = 1 if message.layout == lib.SF_DYNAMODB else lib.SF_COLUMN_BUFFERS
    for number in range(places):
        message.column[number] += distance


def _compress(shard: Shard, link: Link) -> int:
    """Compress a segment; return the bytes written, 0 where it would hardly become smaller and so stays."""
    _require_space(shard, link.bytes)
    assert link.footer is not None, "only what has a time can be cold"
    with ExitStack() as held:
        segment = _opened(held, shard, link)
        writer = SealedWriter(shard, link.file.first_offset, segment.layout, ZSTD)
        try:
            for message, group in zip(_messages(segment, link), link.footer.groups, strict=True):
                content = memoryview(ffi.buffer(segment.base + message.position, message.length))
                writer.add_group(compressed(content, segment.layout), message.first_offset, group.latest_ms)
            if writer.position > _WORTH_IT * segment.size:
                writer.abandon()
                return 0
            writer.finish(link.footer.end_offset, Moment(link.footer.appended_ms, link.footer.lived_ms))
        except BaseException:
            writer.abandon()
            raise
    return writer.position


def _opened(held: ExitStack, shard: Shard, link: Link) -> Segment:
    segment = open_segment(shard, link.file)
    held.callback(segment.release)
    return segment


def _latest_append(links: Sequence[Link]) -> Moment:
    """Return the latest of the segments' last appends by either clock: together they are as young as the youngest."""
    moments = [retention.appended(link) for link in links]
    return Moment(max(moment.wall_ms for moment in moments), max(moment.lived_ms for moment in moments))


def _require_space(shard: Shard, needed: int) -> None:
    fd = shard.disk.open(shard.directory / "commit", 0)
    try:
        space = shard.disk.space(fd)
    finally:
        shard.disk.close(fd)
    if space.free < floor_bytes(space) + needed:
        needed += floor_bytes(space)
        raise LogError(
            f"shard {shard.id} is not compacted: {space.free} bytes are free on its disk, {needed} must be for a "
            "second copy of a segment"
        )
