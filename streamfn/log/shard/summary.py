"""What a shard holds, found without reading its records: by segments' names, footers and message headers.

Nothing is proven by it; `verify` proves.  What the numbers rest on was checked when it was written down: the
committed end by the commit file's CRC, a sealed segment's index by its footer's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from streamfn._native import ffi, lib
from streamfn.errors import LogDamaged, LogError
from streamfn.log.catalog.stream import Shard
from streamfn.log.format import footer
from streamfn.log.format.footer import Footer
from streamfn.log.segment.sealed import read_end
from streamfn.log.segment.segment import Segment, SegmentFile, list_segments, open_segment, sealed_path
from streamfn.log.shard import gaps
from streamfn.log.shard.gaps import Ledger
from streamfn.log.shard.reader import SegmentInfo, ShardReader
from streamfn.log.storage.commit import Commit

_MESSAGES = 1024
_EVERYTHING = 1 << 62


class Summary(NamedTuple):
    """Records are there from offset `horizon` up to `end_offset`, but for those that the ledger of gaps names."""

    gaps: Ledger
    end_offset: int
    segments: list[SegmentInfo]

    @property
    def horizon(self) -> int:
        """The first offset that was not trimmed."""
        return self.gaps.horizon

    def held(self, start: int) -> int:
        """Return how many records there are from an offset on."""
        return _held(self.gaps, start, self.end_offset)

    @property
    def bytes(self) -> int:
        """What the shard takes on disk."""
        return sum(segment.bytes for segment in self.segments)


def stored_records(shard: Shard) -> int:
    """Return how many records a shard has; costs a look at its commit file and its directory.

    Raises:
        LogError: a file cannot be read.
    """
    ledger = _ledger(shard)
    with ShardReader.open(shard, ledger.horizon) as reader:
        return _held(ledger, 0, reader.committed().end_offset)


def summarize(shard: Shard) -> Summary:
    """Describe a shard and its segments, committed records only.

    Of a sealed segment `first_ms` is the earliest arrival of its first row group, None where that is compressed.

    Raises:
        LogDamaged: the end of a sealed segment, or what should be a message of another, is none.
        LogError: a file cannot be read.
    """
    ledger = _ledger(shard)
    with ShardReader.open(shard, ledger.horizon) as reader:
        commit = reader.committed()
    try:
        files = list_segments(shard)
        if not files:
            return Summary(ledger, commit.end_offset, [])
        stops = [file.first_offset for file in files[1:]] + [max(commit.end_offset, files[-1].first_offset)]
        found = [_describe(shard, file, stop, commit, ledger) for file, stop in zip(files, stops, strict=True)]
    except OSError as error:
        where = f"shard {shard.id} in {shard.directory.parent}"
        raise LogError(f"cannot read {where}: {error.strerror} ({error.filename})") from error
    return Summary(ledger, commit.end_offset, found)


def arrival_ms(shard: Shard, offset: int) -> int | None:
    """Return when the record at an offset arrived (since 1970, UTC), or was made.

    None where it is not there, or compressed.

    Raises:
        LogDamaged, LogError: as `summarize`.
    """
    with ShardReader.open(shard, _ledger(shard).horizon) as reader:
        commit = reader.committed()
    files = [file for file in list_segments(shard) if file.first_offset <= offset]
    if not files or _end(shard, files[-1]).codec == footer.ZSTD:
        return None
    segment = open_segment(shard, files[-1])
    try:
        for message in _messages(segment, _committed(segment, commit)):
            row = offset - message.first_offset
            if 0 <= row < message.rows:
                return int(lib.sf_arrival(segment.base, ffi.addressof(message), row))
        return None
    finally:
        segment.release()


def _describe(shard: Shard, file: SegmentFile, stop: int, commit: Commit, ledger: Ledger) -> SegmentInfo:
    try:
        return _described(shard, file, stop, commit, ledger)
    except FileNotFoundError:  # sealed since we listed it
        sealed = SegmentFile(file.first_offset, True, sealed_path(shard, file.first_offset))
        return _described(shard, sealed, stop, commit, ledger)


def _described(shard: Shard, file: SegmentFile, stop: int, commit: Commit, ledger: Ledger) -> SegmentInfo:
    end = _end(shard, file)
    records = _held(ledger, file.first_offset, end.footer.end_offset if end.footer else stop)
    first_ms: int | None = None
    last_ms: int | None = None
    if records and end.codec != footer.ZSTD:
        segment = open_segment(shard, file)
        try:
            groups = end.footer.groups if end.footer else ()
            upto = groups[0].end if groups else _committed(segment, commit)
            for message in _messages(segment, upto):
                earliest, latest = _span(segment, message)
                first_ms = earliest if first_ms is None else min(first_ms, earliest)
                last_ms = latest if last_ms is None else max(last_ms, latest)
        finally:
            segment.release()
    if end.footer and end.footer.groups:
        last_ms = end.footer.groups[-1].latest_ms
    return SegmentInfo(str(file.path), file.sealed, file.first_offset, records, end.stored, first_ms, last_ms)


def _ledger(shard: Shard) -> Ledger:
    try:
        return gaps.read(shard)
    except OSError as error:
        raise LogError(f"cannot read {shard.directory / gaps.FILE_NAME}: {error.strerror}") from error


def _held(ledger: Ledger, start: int, stop: int) -> int:
    """Return how many records lie between two offsets, what is gone left out."""
    gone = (min(stop, gap.end_offset) - max(start, gap.first_offset) for gap in ledger.gaps)
    return max(0, stop - start - sum(max(0, one) for one in gone))


class _End(NamedTuple):
    """What a segment file takes on the disk, and the footer of a sealed one that has an index."""

    stored: int
    footer: Footer | None

    @property
    def codec(self) -> int:
        return self.footer.codec if self.footer else footer.PLAIN


def _end(shard: Shard, file: SegmentFile) -> _End:
    fd = shard.disk.open(file.path, os.O_RDONLY)
    try:
        status = shard.disk.status(fd)
        found = read_end(shard.disk, fd, file.path, status.size).footer if file.sealed else None
        return _End(status.stored, found)
    finally:
        shard.disk.close(fd)


def _committed(segment: Segment, commit: Commit) -> int:
    """Return the file position up to which a segment holds committed messages."""
    active = not segment.sealed and segment.first_offset == commit.segment
    return min(commit.length, segment.size) if active else segment.size


def _messages(segment: Segment, end: int) -> Iterator[Any]:
    """Yield the segment's messages as `sf_message`, up to a file position; each until the next one.

    None is proven, and only their fixed columns may be read: the scan has checked that these lie inside them.

    Raises:
        LogDamaged: something is no message.
    """
    position, following = ffi.new("uint64_t *", segment.data_at), ffi.new("uint64_t *", segment.first_offset)
    count, found = ffi.new("size_t *"), ffi.new("sf_message[]", _MESSAGES)
    layout, status = segment.layout.id, lib.SF_SCAN_MORE
    while status == lib.SF_SCAN_MORE:
        status = lib.sf_scan_proven(
            segment.base, end, layout, end, position, following, _EVERYTHING, found, _MESSAGES, count
        )
        for number in range(count[0]):
            yield found[number]
    if status == lib.SF_SCAN_DAMAGED:
        raise LogDamaged(f"{segment.path} is damaged at byte {position[0]}: no record of offset {following[0]}")


def _span(segment: Segment, message: Any) -> tuple[int, int]:
    """Return the earliest and the latest arrival in a message."""
    span = ffi.new("int64_t[2]")
    lib.sf_arrival_span(segment.base, ffi.addressof(message), span, span + 1)
    return span[0], span[1]
