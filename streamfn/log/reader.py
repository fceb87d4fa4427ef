"""Reading a shard: any number of processes, no lock, no copy.

A reader follows the commit file and never looks past what it says.  It stands at a shard offset; the
segment that holds it is mapped, and `poll` returns where in it the next messages lie.  At a segment's end
the reader goes on in the one whose name is its position, in whichever form it is by then.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple

from streamfn._native import ffi, lib
from streamfn.errors import LogDamaged, LogError
from streamfn.log import recovery
from streamfn.log.commit import Commit, CommitFile, decode
from streamfn.log.disk import stored_bytes
from streamfn.log.recovery import Scan, damaged
from streamfn.log.rows import changes, records
from streamfn.log.segment import Segment, SegmentFile, list_segments, open_segment, sealed_path, stream_path
from streamfn.log.stream import Shard

__all__ = [
    "Message",
    "Segment",
    "SegmentInfo",
    "ShardReader",
    "changes",
    "horizon",
    "offset_at_time",
    "records",
    "segments",
]

_MESSAGES_MAX = 64
_EVERYTHING = 1 << 62
_MESSAGE_BYTES = ffi.sizeof("sf_message")


class Message:
    """One proven message.

    `cdata` is its `sf_message *`; `bytes` is how much of the segment it takes.  The segment stays mapped
    until the reader's next `poll` or `close`; whoever needs it longer retains it.
    """

    __slots__ = ("_keep", "bytes", "cdata", "first_offset", "rows", "segment")

    def __init__(self, segment: Segment, keep: Any, index: int) -> None:
        cdata = keep + index
        self.segment = segment
        self.cdata = cdata
        self.first_offset: int = cdata.first_offset
        self.rows: int = cdata.rows
        self.bytes: int = cdata.length
        self._keep = keep

    def __repr__(self) -> str:
        return f"<Message of {self.rows} records from {self.first_offset} in {self.segment!r}>"


class ShardReader:
    """A position in a shard.  Each call may wait for the disk.

    Not thread-safe, but not bound to a thread either: calls may come from different ones, one at a time.
    """

    def __init__(
        self, shard: Shard, commit_file: CommitFile, commit: Commit, raw: bytes, offset: int
    ) -> None:
        self.shard = shard
        self._commit_file = commit_file
        self._commit = commit
        self._raw = raw
        self._position = offset
        self._scan: Scan | None = None

    @classmethod
    def open(cls, shard: Shard, offset: int) -> ShardReader:
        """Stand at a shard offset: at least `horizon(shard)`, at most the committed end.

        Where the commit file is of another boot, the log is first recovered under the writer's lock.

        Raises:
            LogDamaged: the log ends before `offset`, or is not what was committed.
            BusyError: another process is recovering the log and does not get done.
            LogError: a file cannot be read.
        """
        try:
            commit_file = CommitFile.open(shard.disk, shard.directory, write=False)
        except OSError as error:
            raise _log_error(shard, error) from error
        try:
            raw = commit_file.raw()
            reader = cls(shard, commit_file, recovery.settle(shard, commit_file), raw, offset)
            end = reader.committed().end_offset
            if offset > end:
                raise LogDamaged(
                    f"{shard.directory} ends at offset {end}, before {offset}, where reading should go on"
                )
        except BaseException as error:
            commit_file.close()
            if isinstance(error, OSError):
                raise _log_error(shard, error) from error
            raise
        return reader

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def position(self) -> int:
        """The offset after the last record that `poll` returned."""
        return self._position

    def committed(self) -> Commit:
        """Return the newest published commit."""
        self._refresh()
        return self._commit

    def poll(
        self, bytes_max: int, until_offset: int | None = None, messages_max: int = _MESSAGES_MAX
    ) -> list[Message]:
        """Return the next messages, in order; none if the reader is caught up.

        At least one message if there is one, and then as long as together they stay below `bytes_max` bytes;
        none that begins at or after `until_offset`; never more than 64, and all of one segment.  The first
        may begin before `position`, when that lies inside it: the caller skips rows.  Cost when caught up:
        one `pread`.

        Raises:
            LogDamaged: what was committed is not there; the text names file, byte position and offset.
            LogError: a file cannot be read.
        """
        if self._position >= self._commit.end_offset and not self._refresh():
            return []
        if until_offset is not None and self._position >= until_offset:
            return []
        try:
            return self._next_messages(bytes_max, until_offset, min(messages_max, _MESSAGES_MAX))
        except OSError as error:
            raise _log_error(self.shard, error) from error

    def close(self) -> None:
        """Let segment and commit file go."""
        self._leave_segment()
        self._commit_file.close()

    def _refresh(self) -> bool:
        """Read the commit file; True if it says more than `position`."""
        try:
            raw = self._commit_file.raw()
            commit = self._commit if raw == self._raw else decode(raw) or self._commit_file.read()
        except OSError as error:
            raise _log_error(self.shard, error) from error
        if raw != self._raw:
            if commit is None:
                raise LogDamaged(
                    f"{self._commit_file.path} is damaged; open the stream for writing once to restore it"
                )
            self._raw = raw
            self._commit = commit
        return self._position < self._commit.end_offset

    def _next_messages(self, bytes_max: int, until_offset: int | None, messages_max: int) -> list[Message]:
        while True:
            scan = self._scan or self._enter_segment(self._open_at(self._position))
            segment = scan.segment
            active = not segment.sealed and segment.first_offset == self._commit.segment
            end = self._commit.length if active else segment.size
            if end > segment.size:
                raise self._damaged(scan, f"because the file was cut to {segment.size} bytes")
            status, found, count = scan.step(end, messages_max, bytes_max)
            if count:
                return self._taken(scan, found, count, until_offset)
            if active:
                if status == lib.SF_SCAN_LIMIT and self._position >= self._commit.end_offset:
                    return []
                raise self._damaged(scan, f"but records up to {self._commit.end_offset} were committed")
            if status == lib.SF_SCAN_DAMAGED:
                raise self._damaged(scan, "in a segment that is complete")
            if self._position >= self._commit.end_offset and not self._refresh():
                self._leave_segment()
                return []
            self._enter_next(scan)

    def _taken(self, scan: Scan, found: Any, count: int, until_offset: int | None) -> list[Message]:
        if until_offset is not None and found[count - 1].first_offset >= until_offset:
            count = bisect_right(range(count), until_offset - 1, key=lambda i: found[i].first_offset)
            scan.move(scan.segment, found[count].position, found[count].first_offset)
        keep = ffi.new("sf_message[]", count)
        ffi.memmove(keep, found, count * _MESSAGE_BYTES)
        self._position = scan.next_offset
        return [Message(scan.segment, keep, index) for index in range(count)]

    def _enter_next(self, scan: Scan) -> None:
        """Go on in the segment that holds what comes next, now that this one is at its end.

        That may have the same name: segments are merged, and an empty one is replaced by one in sealed form.
        """
        following = self._open_at(self._position)
        if following is not scan.segment:
            self._leave_segment()
            self._enter_segment(following)
            return
        following.release()
        starts = [file.first_offset for file in list_segments(self.shard)]
        after = [start for start in starts if start > scan.next_offset]
        if after:
            raise self._damaged(scan, f"but the next segment begins at {min(after)}")
        raise self._damaged(scan, f"but records up to {self._commit.end_offset} were committed")

    def _enter_segment(self, segment: Segment) -> Scan:
        """Go to the message that holds `position`, in the segment that does; the reference is taken over."""
        scan = Scan(segment, segment.data_at, segment.first_offset, _MESSAGES_MAX)
        if segment.sealed:
            self._refresh()  # it was sealed after it was committed, so the commit we know may be too old
        try:
            self._seek(scan)
        except BaseException:
            segment.release()
            raise
        self._scan = scan
        return scan

    def _seek(self, scan: Scan) -> None:
        segment = scan.segment
        active = not segment.sealed and segment.first_offset == self._commit.segment
        end = min(self._commit.length, segment.size) if active else segment.size
        while scan.next_offset < self._position:
            status, found, count = scan.step(end, _MESSAGES_MAX, _EVERYTHING)
            if scan.next_offset > self._position:
                index = bisect_right(range(count), self._position, key=lambda i: found[i].first_offset) - 1
                scan.move(segment, found[index].position, found[index].first_offset)
                return
            if status != lib.SF_SCAN_MORE:
                break
        if scan.next_offset < self._position:
            raise self._damaged(scan, f"but records up to {self._position} were committed")

    def _open_at(self, offset: int) -> Segment:
        """Open the segment that holds an offset, in whichever form it has just now."""
        for _ in range(3):  # between looking and opening it may be sealed, and unlinked
            starts = [file for file in list_segments(self.shard) if file.first_offset <= offset]
            if not starts:
                break
            for path in (sealed_path, stream_path, sealed_path):
                first = starts[-1].first_offset
                try:
                    return open_segment(
                        self.shard, SegmentFile(first, path is sealed_path, path(self.shard, first))
                    )
                except FileNotFoundError:
                    continue
        raise LogDamaged(f"{self.shard.directory} has no segment with offset {offset}, which was committed")

    def _leave_segment(self) -> None:
        if self._scan is not None:
            self._scan.segment.release()
            self._scan = None

    def _damaged(self, scan: Scan, why: str) -> LogDamaged:
        segment = scan.segment
        file = SegmentFile(segment.first_offset, segment.sealed, segment.path)
        return damaged(file, scan.position, scan.next_offset, why)


def _log_error(shard: Shard, error: OSError) -> LogError:
    where = "" if error.filename is None else f" ({error.filename})"
    return LogError(f"cannot read shard {shard.id} in {shard.directory.parent}: {error.strerror}{where}")


def horizon(shard: Shard) -> int:
    """Return the first offset that is still there; 0 for a shard that never had one."""
    try:
        files = list_segments(shard)
    except OSError as error:
        raise _log_error(shard, error) from error
    return files[0].first_offset if files else 0


def offset_at_time(shard: Shard, ms: int) -> int:
    """Return the offset of the first record, in log order, that arrived at or after `ms` (since 1970, UTC).

    The committed end if there is none.  Arrival times need not rise, so every message before it is looked at.

    Raises:
        LogDamaged: a message on the way is damaged.
        LogError: a file cannot be read.
    """
    with ShardReader.open(shard, horizon(shard)) as reader:
        end = reader.committed().end_offset
        while messages := reader.poll(_EVERYTHING, end):
            for message in messages:
                row = lib.sf_first_arrival(message.segment.base, message.cdata, ms)
                if row >= 0:
                    return message.first_offset + int(row)
        return end


class SegmentInfo(NamedTuple):
    """A segment for people.  Times are milliseconds since 1970, UTC, None where there are no records.

    `bytes` is what it takes on disk; `first_ms` and `last_ms` are the earliest and latest arrival.
    """

    path: str
    sealed: bool
    first_offset: int
    records: int
    bytes: int
    first_ms: int | None
    last_ms: int | None


def segments(shard: Shard) -> list[SegmentInfo]:
    """Describe the segments of a shard, committed records only.  Reads and proves every message.

    Raises:
        LogDamaged: a message is damaged.
        LogError: a file cannot be read.
    """
    try:
        files = list_segments(shard)
    except OSError as error:
        raise _log_error(shard, error) from error
    if not files:
        return []
    with ShardReader.open(shard, files[0].first_offset) as reader:
        end = reader.committed().end_offset
        ends = [file.first_offset for file in files[1:]] + [max(end, files[-1].first_offset)]
        return [_describe(reader, file, min(stop, end)) for file, stop in zip(files, ends, strict=True)]


def _describe(reader: ShardReader, file: SegmentFile, stop: int) -> SegmentInfo:
    first_ms: int | None = None
    last_ms: int | None = None
    span = ffi.new("int64_t[2]")
    while reader.position < stop:
        for message in reader.poll(_EVERYTHING, stop):
            lib.sf_arrival_span(message.segment.base, message.cdata, span, span + 1)
            first_ms = span[0] if first_ms is None else min(first_ms, span[0])
            last_ms = span[1] if last_ms is None else max(last_ms, span[1])
    try:
        size = stored_bytes(reader.shard.disk, file.path)
    except FileNotFoundError:  # sealed since we listed it
        size = stored_bytes(reader.shard.disk, file.path.with_suffix(".arrow"))
    return SegmentInfo(
        str(file.path),
        file.sealed,
        file.first_offset,
        max(0, stop - file.first_offset),
        size,
        first_ms,
        last_ms,
    )
