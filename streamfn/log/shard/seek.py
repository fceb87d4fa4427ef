"""Finding the first record that arrived at or after a time, without reading what lies before it.

Arrival times need not rise, so the index of a sealed segment has for each row group the latest time up to and with it:
the first group where that reaches the time holds the record.  In a segment without an index the messages are gone
through by their headers; only the one that is found has its checksum proven.
"""

from __future__ import annotations

from bisect import bisect_left

from streamfn._native import ffi, lib
from streamfn.errors import LogError
from streamfn.log.catalog.stream import Shard
from streamfn.log.format.footer import PLAIN, Group
from streamfn.log.segment.cold import read_group
from streamfn.log.segment.segment import Segment, open_segment, read_header
from streamfn.log.shard.chain import Link, read_chain
from streamfn.log.shard.reader import ShardReader, horizon, poll_or_skip
from streamfn.log.shard.recovery import Scan
from streamfn.log.storage.commit import Commit

_MESSAGES = 4096
_EVERYTHING = 1 << 62
# Between looking and opening a segment may be sealed, merged or trimmed.
_ATTEMPTS = 3


def offset_at_time(shard: Shard, ms: int) -> int:
    """Return the offset of the first record, in log order, that arrived at or after `ms` (since 1970, UTC).

    The committed end if there is none.

    Raises:
        LogDamaged: the message that should hold it is damaged.
        LogError: a file cannot be read.
    """
    with ShardReader.open(shard, horizon(shard)) as reader:
        commit = reader.committed()
    for attempt in range(_ATTEMPTS):
        try:
            return min(_search(shard, commit, ms), commit.end_offset)
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise LogError(f"the segments of shard {shard.id} change faster than they can be opened") from None
        except OSError as error:
            raise LogError(
                f"cannot read shard {shard.id} in {shard.directory.parent}: {error.strerror} ({error.filename})"
            ) from error
    raise AssertionError("unreachable")


def _search(shard: Shard, commit: Commit, ms: int) -> int:
    for link in read_chain(shard).links:
        if link.file.first_offset >= commit.end_offset:
            break
        found: int | None = None
        if link.footer is None:
            found = _walk(shard, link, commit, ms)
        else:
            index = bisect_left(link.footer.groups, ms, key=lambda group: group.latest_ms)
            if index < len(link.footer.groups):
                found = _in_group(shard, link, link.footer.groups[index], ms)
        if found is not None:
            return found
    return commit.end_offset


def _in_group(shard: Shard, link: Link, group: Group, ms: int) -> int:
    """Return the record in the row group that holds it."""
    if link.footer is not None and link.footer.codec != PLAIN:
        return _in_cold_group(shard, link, group, ms)
    segment = open_segment(shard, link.file)
    try:
        return _in_message(shard, segment, group.position, group.first_offset, ms)
    finally:
        segment.release()


def _in_message(shard: Shard, segment: Segment, position: int, first_offset: int, ms: int) -> int:
    """Prove the message at a file position, and return the record in it."""
    scan = Scan(segment, position, first_offset, 1)
    _, messages, count = scan.step(segment.size, 1, 0)
    row = lib.sf_first_arrival(segment.base, messages, ms) if count else -1
    return first_offset + int(row) if row >= 0 else _read_on(shard, first_offset, ms)


def _in_cold_group(shard: Shard, link: Link, group: Group, ms: int) -> int:
    """The same, with this row group alone inflated."""
    disk = shard.disk
    fd = disk.open(link.file.path, 0)
    try:
        layout, _ = read_header(shard, link.file, fd)
        size = disk.status(fd).size
        address = disk.map(fd, size)
        try:
            message = read_group(link.file.path, ffi.cast("uint8_t *", address), group, layout)
        finally:
            disk.unmap(address, size)
    finally:
        disk.close(fd)
    found, count = ffi.new("sf_message *"), ffi.new("size_t *")
    at, following = ffi.new("uint64_t *"), ffi.new("uint64_t *", group.first_offset)
    with ffi.from_buffer("uint8_t[]", message) as base:
        lib.sf_scan(base, len(message), layout.id, at, following, _EVERYTHING, found, 1, count)
        assert count[0] == 1, "what was just made is a message"
        return group.first_offset + int(lib.sf_first_arrival(base, found, ms))


def _walk(shard: Shard, link: Link, commit: Commit, ms: int) -> int | None:
    """Go through a segment that has no index; None if nothing in it arrived so late."""
    segment = open_segment(shard, link.file)
    try:
        active = not segment.sealed and segment.first_offset == commit.segment
        end = min(segment.size, commit.length) if active else segment.size
        position, following = ffi.new("uint64_t *", segment.data_at), ffi.new("uint64_t *", segment.first_offset)
        messages, count = ffi.new("sf_message[]", _MESSAGES), ffi.new("size_t *")
        status = lib.SF_SCAN_MORE
        while status == lib.SF_SCAN_MORE:
            # As if all of it had been proven: what a damaged message says of itself is bounded, and not believed.
            status = lib.sf_scan_proven(
                segment.base, end, segment.layout.id, end, position, following, _EVERYTHING, messages, _MESSAGES, count
            )
            index = lib.sf_first_message(segment.base, messages, count[0], ms)
            if index >= 0:
                first = messages[index]
                return _in_message(shard, segment, first.position, first.first_offset, ms)
        if status == lib.SF_SCAN_DAMAGED:
            return _read_on(shard, int(following[0]), ms)
        return None
    finally:
        segment.release()


def _read_on(shard: Shard, offset: int, ms: int) -> int:
    """Look at everything from a damaged message on: it may be known to be gone; else the reader says what is wrong."""
    with ShardReader.open(shard, offset) as reader:
        end = reader.committed().end_offset
        while reader.position < end:
            for message in poll_or_skip(reader, end):
                row = lib.sf_first_arrival(message.segment.base, message.cdata, ms)
                if row >= 0:
                    return message.first_offset + int(row)
    return end
