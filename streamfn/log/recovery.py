"""Where a shard's log ends, after whatever happened to the last process that wrote to it.

Rules (a record's *offset* is its ordinal in the shard; sequence numbers play no part):

1. A message is good if its CRC is right, it begins at the offset where the one before it ended, and its
   epoch is not lower.  Good messages are kept, published or not.
2. At the first bad one, at offset X: if the commit file published more than X, or a good message further
   on was written when more than X was known to be synced, bytes that were durable have changed: the log is
   damaged, and nothing is touched.
3. Otherwise it is the torn tail of an append that was never acknowledged: a hole is punched over it.  The
   file keeps its size, because who has it mapped would be killed if it shrank.

Within the boot that wrote the commit file everything below the committed length is still as it was, so
the scan starts there; after a reboot it starts at the segment's beginning.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import Any, NamedTuple

from streamfn._native import ffi, lib
from streamfn.errors import BusyError, LogDamaged
from streamfn.log.commit import Commit, CommitFile
from streamfn.log.disk import Disk
from streamfn.log.lock import FileLock
from streamfn.log.segment import Segment, SegmentFile, list_files, open_segment
from streamfn.log.stream import Shard

# With no logging set up, as on the command line, Python writes a warning to standard error as it is.
_log = logging.getLogger(__name__)

_SCAN_MESSAGES = 256
_CHUNK = 1 << 20
# How long a first opener after a reboot may take before we stop waiting for its commit file.
_SETTLE_S = 30.0


class Recovery(NamedTuple):
    """What opening a shard for writing found to do; all zero after an orderly end.

    `cut_bytes` of a torn append were removed at file position `cut_at` of segment file `file`;
    `kept_records` were whole, but had not been published.
    """

    file: str
    cut_at: int
    cut_bytes: int
    kept_records: int


class Tail(NamedTuple):
    """Where the log ends: `active` is None where the next append needs a new segment, at `end_offset`.

    `position` is the file position in the active segment where it goes on; `data_end` is above it where
    there is something to cut.  The `kept_records` between `kept_from` and `position` are good, and nobody
    was told that they are durable.
    """

    active: SegmentFile | None
    position: int
    end_offset: int
    epoch: int
    data_end: int
    kept_records: int
    kept_from: int

    @property
    def recovery(self) -> Recovery:
        """The same for a report."""
        name = self.active.path.name if self.active else ""
        return Recovery(name, self.position, self.data_end - self.position, self.kept_records)


def find_tail(shard: Shard, commit: Commit | None) -> Tail:
    """Find where the log of a shard ends.  Changes nothing; the writer's lock should be held.

    Raises:
        LogDamaged: what was durable is not there any more.
        OSError: a file cannot be read.
    """
    files = list_files(shard)
    published = commit.end_offset if commit else 0
    if not files:
        if published:
            raise LogDamaged(f"{shard.directory} has no segments, but {published} records were committed")
        return Tail(None, 0, 0, commit.epoch if commit else 0, 0, 0, 0)
    last = max(files, key=lambda file: (file.first_offset, file.sealed))
    if commit and last.first_offset < commit.segment:
        missing = f"{commit.segment:020d}.arrows"
        raise LogDamaged(
            f"{shard.directory / missing} is missing; records from offset {commit.segment} on are gone"
        )
    segment = open_segment(shard, last)
    try:
        return _scan_tail(shard, segment, last, commit)
    finally:
        segment.release()


def _scan_tail(shard: Shard, segment: Segment, file: SegmentFile, commit: Commit | None) -> Tail:
    trusted = (
        commit is not None
        and commit.boot_id == shard.disk.boot_id()
        and commit.segment == file.first_offset
    )
    start = (commit.length, commit.end_offset) if commit and trusted and not file.sealed else (0, 0)
    if start[0] < segment.data_at:
        start = (segment.data_at, file.first_offset)
    published = commit.end_offset if commit else 0
    if start[0] > segment.size:
        raise damaged(
            file, segment.size, published, f"where the file was cut; {start[0]} bytes were committed"
        )
    status, position, end_offset, epoch = _scan_all(segment, start, commit.epoch if commit and trusted else 0)
    if published > end_offset:
        raise damaged(file, position, end_offset, f"but {published} records were committed")
    if file.sealed:
        if status != lib.SF_SCAN_END:
            raise damaged(file, position, end_offset, "and the end of a sealed segment is further on")
        return Tail(None, 0, end_offset, epoch, 0, max(0, end_offset - published), 0)
    data_end = _data_end(shard.disk, segment, position)
    if data_end > position:
        _refuse_durable_beyond(segment, file, position, end_offset, data_end)
    return Tail(
        file,
        position,
        end_offset,
        epoch,
        max(position, data_end),
        end_offset - max(published, file.first_offset),
        start[0],
    )


def damaged(file: SegmentFile, position: int, offset: int, why: str) -> LogDamaged:
    """Return the error that names file, byte position and shard offset."""
    return LogDamaged(f"{file.path} is damaged at byte {position}: no valid record at offset {offset}, {why}")


def _scan_all(segment: Segment, start: tuple[int, int], epoch: int) -> tuple[int, int, int, int]:
    """Scan good messages; return why it ended, position and offset there, and the last epoch."""
    scan = Scan(segment, *start)
    while True:
        status, messages, count = scan.step(segment.size, _SCAN_MESSAGES, 1 << 62)
        for i in range(count):
            if messages[i].epoch < epoch:
                segment.proven = min(segment.proven, messages[i].position)
                return lib.SF_SCAN_DAMAGED, messages[i].position, messages[i].first_offset, epoch
            epoch = messages[i].epoch
        if status != lib.SF_SCAN_MORE:
            return status, scan.position, scan.next_offset, epoch


class Scan:
    """A cursor over a segment's messages: a file position and the shard offset of the message there."""

    __slots__ = ("_count", "_next", "_out", "_position", "segment")

    def __init__(
        self, segment: Segment, position: int, next_offset: int, capacity: int = _SCAN_MESSAGES
    ) -> None:
        self.segment = segment
        self._position = ffi.new("uint64_t *", position)
        self._next = ffi.new("uint64_t *", next_offset)
        self._count = ffi.new("size_t *")
        self._out = ffi.new("sf_message[]", capacity)

    @property
    def position(self) -> int:
        """Where the scan goes on, in the file."""
        return int(self._position[0])

    @property
    def next_offset(self) -> int:
        """The shard offset of the message there."""
        return int(self._next[0])

    def move(self, segment: Segment, position: int, next_offset: int) -> None:
        """Go on elsewhere."""
        self.segment = segment
        self._position[0] = position
        self._next[0] = next_offset

    def step(self, end: int, messages_max: int, bytes_max: int) -> tuple[int, Any, int]:
        """Scan on, up to file position `end`; return an SF_SCAN code, the messages and how many they are.

        The messages are overwritten by the next step.
        """
        segment = self.segment
        proven = segment.proven
        start = self._position[0]
        status = lib.sf_scan_proven(
            segment.base,
            end,
            segment.layout.id,
            proven,
            self._position,
            self._next,
            bytes_max,
            self._out,
            messages_max,
            self._count,
        )
        if start <= max(proven, segment.data_at) and self._position[0] > proven:
            segment.proven = self._position[0]
        return status, self._out, self._count[0]


def _data_end(disk: Disk, segment: Segment, position: int) -> int:
    """Return where the last byte that is not zero ends, at or after `position`.  Holes are not read."""
    end = position
    for start, stop in disk.data_extents(segment.fd, position, segment.size):
        for at in range(start, stop, _CHUNK):
            chunk = disk.pread(segment.fd, min(_CHUNK, stop - at), at).rstrip(b"\0")
            if chunk:
                end = at + len(chunk)
    return end


def _refuse_durable_beyond(
    segment: Segment, file: SegmentFile, position: int, end_offset: int, data_end: int
) -> None:
    """Raise LogDamaged if a good message behind `position` shows that what lies there had been synced."""
    found = ffi.new("sf_message *")
    at = ffi.new("uint64_t *", position)
    end = min(segment.size, data_end + 7)
    while lib.sf_find_message(segment.base, end, segment.layout.id, at, found):
        if found.durable_upto > end_offset and found.first_offset > end_offset:
            raise damaged(file, position, end_offset, f"but records up to {found.durable_upto} were durable")
        at[0] += found.length


def cut(disk: Disk, tail: Tail) -> None:
    """Remove the torn tail, if there is one, sync, and say so: writers and readers that recover both come here."""
    if tail.active is None or tail.data_end <= tail.position:
        return
    fd = disk.open(tail.active.path, os.O_RDWR)
    try:
        disk.punch_hole(fd, tail.position, tail.data_end - tail.position)
        disk.sync(fd)
    finally:
        disk.close(fd)
    length = tail.data_end - tail.position
    _log.warning(
        "streamfn: %s: cut %d half-written bytes at byte %d, from an append that a crash interrupted; "
        "the log goes on at offset %d",
        tail.active.path,
        length,
        tail.position,
        tail.end_offset,
    )


def settle(shard: Shard, commit_file: CommitFile) -> Commit:
    """Return the commit to start from; if the machine was restarted since it was written, recover first."""
    deadline = time.monotonic() + _SETTLE_S
    boot_id = shard.disk.boot_id()
    while True:
        commit = commit_file.read()
        if commit is not None and commit.boot_id == boot_id:
            return commit
        settled = _recover(shard, commit_file)
        if settled is not None:
            return settled
        if commit is not None:
            return commit  # a writer is alive; what an earlier boot committed is durable, and more will come
        if time.monotonic() > deadline:
            raise BusyError(
                f"shard {shard.id} in {shard.directory.parent} is being recovered by another process"
            )
        time.sleep(0.01)


def _recover(shard: Shard, commit_file: CommitFile) -> Commit | None:
    """Recover under the writer's lock, or return None if somebody else has it.

    Where we may not write the torn tail stays, and only we know where it begins.
    """
    boot_id = shard.disk.boot_id()
    lock = FileLock(shard.directory / "lock", shard.disk)
    try:
        lock.acquire("", 0, create=False)
    except BusyError:
        return None
    try:
        known = commit_file.read()
        if known is not None and known.boot_id == boot_id:
            return known  # somebody else was first
        tail = find_tail(shard, known)
        known = known or Commit("", 0, 0, 0, 0, shard.sequence_base, 0)
        settled = known._replace(
            boot_id=boot_id,
            epoch=max(known.epoch, tail.epoch),
            segment=tail.active.first_offset if tail.active else tail.end_offset,
            length=tail.position,
            end_offset=tail.end_offset,
        )
        try:
            writable = CommitFile.open(shard.disk, shard.directory, write=True)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            return settled
        try:
            cut(shard.disk, tail)
            writable.publish(settled)
        finally:
            writable.close()
        return settled
    finally:
        lock.release()
