"""Reading a shard: any number of processes, no lock, no copy.

A reader follows the commit file and never looks past what it says.  It stands at a shard offset; the
segment that holds it is mapped, and `poll` returns where in it the next messages lie.  At a segment's end
the reader goes on in the one whose name is its position, in whichever form it is by then, or says that
there is a gap: every offset is there, or in the ledger, or damage.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple

from streamfn._native import ffi, lib
from streamfn.errors import LogDamaged, LogError
from streamfn.log.catalog.stream import Shard
from streamfn.log.segment.rows import changes, records
from streamfn.log.segment.scan import Message, Scan, next_message
from streamfn.log.segment.segment import Segment, SegmentFile, list_segments, open_segment, sealed_path, stream_path
from streamfn.log.shard import damage, gaps, recovery, reserve
from streamfn.log.shard.gaps import Gap
from streamfn.log.storage.commit import Commit, CommitFile, decode
from streamfn.log.storage.disk import stored_bytes

__all__ = [
    "Message",
    "Segment",
    "SegmentInfo",
    "ShardReader",
    "changes",
    "horizon",
    "records",
    "segments",
]

_MESSAGES_MAX = 64
_EVERYTHING = 1 << 62
# What one step on the way to a position proves: in a sealed segment one row group, and not those behind it as well.
_SEEK_BYTES = 1 << 20
_MESSAGE_BYTES = ffi.sizeof("sf_message")


class ShardReader:
    """A position in a shard.  Each call may wait for the disk.

    Not thread-safe, but not bound to a thread either: calls may come from different ones, one at a time.

    `gap` is None, or what the reader stands before: records that are gone.  `poll` returns nothing until `skip`
    has moved the reader behind it.  What was trimmed or lost is a gap always; damage is one for a reader that
    was opened with `salvage`, and an error for others.
    """

    def __init__(
        self, shard: Shard, commit_file: CommitFile, commit: Commit, raw: bytes, offset: int, *, salvage: bool
    ) -> None:
        self.shard = shard
        self.gap: Gap | None = None
        self._commit_file = commit_file
        self._commit = commit
        self._raw = raw
        self._position = offset
        self._salvage = salvage
        self._scan: Scan | None = None
        # Where in the segment the records behind `gap` begin; None if they are in another one.
        self._resume_at: int | None = None

    @classmethod
    def open(cls, shard: Shard, offset: int, *, salvage: bool = False) -> ShardReader:
        """Stand at a shard offset, at most the committed end; below `horizon(shard)` there is a gap.

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
            commit = recovery.settle(shard, commit_file, salvage=salvage)
            reader = cls(shard, commit_file, commit, raw, offset, salvage=salvage)
            end = reader.committed().end_offset
            # Records that were read may be lost later; the log will then go on behind what is reserved.
            if offset > end and offset > reserve.read(shard).offset:
                raise LogDamaged(
                    f"{shard.directory} ends at offset {end}, before {offset}, where reading should go on",
                    first_offset=end,
                    end_offset=offset,
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
        """The offset after the last record that `poll` returned, or that `skip` passed over."""
        return self._position

    def at_hand(self) -> bool:
        """Whether what comes next lies in the active segment, which never takes long to read.

        Costs one look at the commit file.
        """
        self._refresh()
        return self._position >= self._commit.segment

    def committed(self) -> Commit:
        """Return the newest published commit."""
        self._refresh()
        return self._commit

    def poll(
        self, bytes_max: int, until_offset: int | None = None, messages_max: int = _MESSAGES_MAX
    ) -> list[Message]:
        """Return the next messages, in order; none if the reader is caught up or stands before a `gap`.

        At least one message if there is one, and then as long as together they stay below `bytes_max` bytes;
        none that begins at or after `until_offset`; never more than 64, and all of one segment.  The first
        may begin before `position`, when that lies inside it: the caller skips rows.  Cost when caught up:
        one look at the commit file.

        Raises:
            LogDamaged: what was committed is not there; the text names file, byte position and offsets.
            LogError: a file cannot be read.
        """
        if self.gap is not None:
            return []
        if self._position >= self._commit.end_offset and not self._refresh():
            return []
        if until_offset is not None and self._position >= until_offset:
            return []
        try:
            return self._next_messages(bytes_max, until_offset, min(messages_max, _MESSAGES_MAX))
        except OSError as error:
            raise _log_error(self.shard, error) from error

    def skip(self) -> Gap:
        """Move behind the gap that the reader stands before, and return it."""
        gap = self.gap
        assert gap is not None, "there is no gap to skip"
        self._position = gap.end_offset
        self.gap = None
        if self._scan is not None and self._resume_at is not None:
            self._scan.move(self._scan.segment, self._resume_at, gap.end_offset)
        else:
            self._leave_segment()
        return gap

    def pass_to(self, offset: int) -> None:
        """Go on at a later offset; nothing for an earlier one. What lies between is nobody's business, gaps included.

        Costs a scan over what lies between in the same segment, or in the same row group of a sealed one.

        Raises:
            LogDamaged: the message that holds the offset is not what was written.
            LogError: a file cannot be read.
        """
        if offset <= self._position:
            return
        self._position, self.gap = offset, None
        scan = self._scan
        if scan is None or offset >= self._end_of(scan.segment):
            self._leave_segment()
            return
        position, first = self._begin(scan.segment)
        if first > scan.next_offset:
            scan.move(scan.segment, position, first)
        self._seek(scan)

    def _end_of(self, segment: Segment) -> int:
        """The offset behind a segment's last record, as far as that is known; 0 where it is not."""
        if self._is_active(segment):
            return self._commit.end_offset
        return segment.footer.end_offset if segment.footer is not None else 0

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
                    f"{self._commit_file.path} is damaged; open the stream for writing once to restore it",
                    path=self._commit_file.path,
                )
            self._raw = raw
            self._commit = commit
        return self._position < self._commit.end_offset

    def _next_messages(self, bytes_max: int, until_offset: int | None, messages_max: int) -> list[Message]:
        while True:
            scan = self._scan or self._enter(self._locate())
            if scan is None:
                return []
            segment = scan.segment
            active = self._is_active(segment)
            end = min(self._commit.length, segment.size) if active else segment.size
            status, found, count = scan.step(end, messages_max, bytes_max)
            if count:
                return self._taken(scan, found, count, until_offset)
            if active:
                if status != lib.SF_SCAN_LIMIT or self._position < self._commit.end_offset:
                    cut = f"where the file was cut to {end} bytes, " if end < self._commit.length else ""
                    why = f"{cut}but records up to {self._commit.end_offset} were committed"
                    self._stand_before_damage(scan, why)
                return []
            if status == lib.SF_SCAN_DAMAGED and not self._ends(scan):
                self._stand_before_damage(scan, "in a segment that is complete")
                return []
            if self._position >= self._commit.end_offset and not self._refresh():
                self._leave_segment()
                return []
            if not self._go_on_behind(scan):
                return []

    def _ends(self, scan: Scan) -> bool:
        """Whether what is damaged is the end of a segment, behind its last record: no record is lost with it."""
        if scan.segment.flaw is None:
            return False
        end = scan.next_offset
        return end >= self._commit.end_offset or any(file.first_offset == end for file in list_segments(self.shard))

    def _is_active(self, segment: Segment) -> bool:
        return not segment.sealed and segment.first_offset == self._commit.segment

    def _taken(self, scan: Scan, found: Any, count: int, until_offset: int | None) -> list[Message]:
        if until_offset is not None and found[count - 1].first_offset >= until_offset:
            count = bisect_right(range(count), until_offset - 1, key=lambda i: found[i].first_offset)
            scan.move(scan.segment, found[count].position, found[count].first_offset)
        keep = ffi.new("sf_message[]", count)
        ffi.memmove(keep, found, count * _MESSAGE_BYTES)
        self._position = scan.next_offset
        return [Message(scan.segment, keep, index) for index in range(count)]

    def _go_on_behind(self, scan: Scan) -> bool:
        """Go on in the segment that holds what comes next, now that this one is at its end; False before a gap.

        That may have the same name: segments are merged, and an empty one is replaced by one in sealed form.
        """
        following = self._locate()
        if following is scan.segment:
            following.release()
            after = damage.next_start(self.shard, scan.next_offset)
            if after is not None:
                self._stand_before_damage(scan, f"but the next segment begins at {after}")
            else:
                self._stand_before_damage(scan, f"but records up to {self._commit.end_offset} were committed")
            return False
        if following is None:
            return False
        self._leave_segment()
        return self._enter(following) is not None

    def _locate(self) -> Segment | None:
        """Open the segment that holds `position`, in whichever form it has just now; None before a gap."""
        for _ in range(3):  # between looking and opening it may be sealed, and unlinked
            files = list_segments(self.shard)
            # The ledger after the directory: what is removed is in the ledger first.
            gap = gaps.read(self.shard).at(self._position)
            if gap is not None:
                self._stand_before(gap.clipped(self._position, gap.end_offset), None)
                return None
            starts = [file.first_offset for file in files if file.first_offset <= self._position]
            if not starts:
                break
            for path in (sealed_path, stream_path, sealed_path):
                file = SegmentFile(starts[-1], path is sealed_path, path(self.shard, starts[-1]))
                try:
                    return open_segment(self.shard, file, salvage=self._salvage)
                except FileNotFoundError:
                    continue
                except LogDamaged as error:
                    self._stand_before_file(file, str(error))
                    return None
        self._stand_before_file(None, f"{self.shard.directory} has no segment with offset {self._position}")
        return None

    def _enter(self, segment: Segment | None) -> Scan | None:
        """Go to the message that holds `position`, in the segment that does; the reference is taken over."""
        if segment is None:
            return None
        scan = self._scan = Scan(segment, *self._begin(segment), _MESSAGES_MAX)
        if segment.sealed:
            self._refresh()  # it was sealed after it was committed, so the commit we know may be too old
        try:
            return scan if self._seek(scan) else None
        except BaseException:
            self._leave_segment()
            raise

    def _begin(self, segment: Segment) -> tuple[int, int]:
        """Return where to begin to look for `position` in a segment: a file position, and the offset there."""
        groups = segment.footer.groups if segment.footer is not None else ()
        index = bisect_right(groups, self._position, key=lambda group: group.first_offset) - 1
        if index <= 0:
            return segment.data_at, segment.first_offset
        return groups[index].position, groups[index].first_offset

    def _seek(self, scan: Scan) -> bool:
        """Go to the message that holds `position`; False before a gap.  Damage that lies before it is passed."""
        segment = scan.segment
        end = min(self._commit.length, segment.size) if self._is_active(segment) else segment.size
        while scan.next_offset < self._position:
            status, found, count = scan.step(end, _MESSAGES_MAX, _SEEK_BYTES)
            if scan.next_offset > self._position:
                index = bisect_right(range(count), self._position, key=lambda i: found[i].first_offset) - 1
                scan.move(segment, found[index].position, found[index].first_offset)
                return True
            if status != lib.SF_SCAN_MORE and scan.next_offset < self._position:
                behind = next_message(segment, scan.position, end, scan.next_offset + 1, self._position + 1)
                if behind is None:
                    self._stand_before_damage(scan, f"but records up to {self._commit.end_offset} were committed")
                    return False
                scan.move(segment, int(behind.position), int(behind.first_offset))
        return True

    def _leave_segment(self) -> None:
        if self._scan is not None:
            self._scan.segment.release()
            self._scan = None

    def _stand_before(self, gap: Gap, resume_at: int | None) -> None:
        self.gap = gap
        self._resume_at = resume_at

    def _stand_before_damage(self, scan: Scan, why: str) -> None:
        """What follows in a segment is not there: a gap if the ledger knows it, or for salvage, or an error."""
        found = damage.in_segment(self.shard, self._commit, scan, self._position)
        if not found.named and not self._salvage:
            byte, offset = scan.segment.file_position(scan.position), found.gap.first_offset
            where = f"is damaged at byte {byte}: no valid record at offset {offset}"
            raise found.error(scan.segment.path, f"{scan.segment.path} {where}, {why}")
        self._stand_before(found.gap, found.resume_at)

    def _stand_before_file(self, file: SegmentFile | None, why: str) -> None:
        """A whole segment cannot be read, or is not there: a gap for salvage, or an error."""
        found = damage.in_file(self.shard, self._commit, file, self._position)
        if not self._salvage:
            raise found.error(file.path if file else self.shard.directory, why)
        self._stand_before(found.gap, None)


def _log_error(shard: Shard, error: OSError) -> LogError:
    where = "" if error.filename is None else f" ({error.filename})"
    return LogError(f"cannot read shard {shard.id} in {shard.directory.parent}: {error.strerror}{where}")


def horizon(shard: Shard) -> int:
    """Return the first offset that was not trimmed; 0 for a shard that never had one."""
    try:
        return gaps.read(shard).horizon
    except OSError as error:
        raise _log_error(shard, error) from error


def last_from(shard: Shard, end: int, count: int) -> int:
    """Return the offset from which on the last `count` records before `end` lie; the horizon if there are fewer."""
    try:
        return gaps.read(shard).back(end, count)
    except OSError as error:
        raise _log_error(shard, error) from error


def poll_or_skip(reader: ShardReader, end: int) -> list[Message]:
    """Return the next messages before an offset, or none after passing over a gap, for who needs no word of it."""
    messages = reader.poll(_EVERYTHING, end)
    if reader.gap is not None:
        reader.skip()
    return messages


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
    with ShardReader.open(shard, max(horizon(shard), files[0].first_offset)) as reader:
        end = reader.committed().end_offset
        ends = [file.first_offset for file in files[1:]] + [max(end, files[-1].first_offset)]
        return [_describe(reader, file, min(stop, end)) for file, stop in zip(files, ends, strict=True)]


def _describe(reader: ShardReader, file: SegmentFile, stop: int) -> SegmentInfo:
    first_ms: int | None = None
    last_ms: int | None = None
    span = ffi.new("int64_t[2]")
    held = 0
    while reader.position < stop:
        start = reader.position
        for message in poll_or_skip(reader, stop):
            held += message.first_offset + message.rows - max(start, message.first_offset)
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
        held,
        size,
        first_ms,
        last_ms,
    )
