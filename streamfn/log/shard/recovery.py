"""Where a shard's log ends, after whatever happened to the last process that wrote to it.

Rules (a record's *offset* is its ordinal in the shard; sequence numbers play no part):

1. A message is good if its CRC is right, it begins at the offset where the one before it ended, and its
   epoch is not lower.  Good messages are kept, published or not.  What the ledger of gaps names may be missing.
2. At the first bad one, at offset X: if the commit file promised more than X, or a good message further
   on was written when more than X was known to be synced, bytes that were durable have changed: the log is
   damaged, and nothing is touched.  Promised is what was published, while the machine runs; after it was
   started anew, what had been synced.
3. Otherwise it is the torn tail of an append that nobody was told is durable: a hole is punched over it.  The
   file keeps its size, because who has it mapped would be killed if it shrank.
4. After a restart of the machine the log goes on behind every offset that may have been given out (reserve.py):
   what lies between its end and there is lost, and goes into the ledger before anything is appended.

Within the boot that wrote the commit file everything below the committed length is still as it was, so
the scan starts there; after a reboot it starts at the segment's beginning.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from typing import NamedTuple

from streamfn._native import lib
from streamfn.errors import BusyError, LogDamaged
from streamfn.log.catalog.stream import Shard
from streamfn.log.segment.scan import SCAN_MESSAGES, Scan, next_message
from streamfn.log.segment.segment import Segment, SegmentFile, list_files, open_segment, stream_path
from streamfn.log.shard import gaps, reserve
from streamfn.log.shard.damage import damaged, lost, missing, numbers_given
from streamfn.log.shard.gaps import LOST, Gap, Ledger
from streamfn.log.storage.commit import Commit, CommitFile
from streamfn.log.storage.disk import Disk
from streamfn.log.storage.lock import FileLock

__all__ = ["Recovery", "Scan", "Tail", "cut", "damaged", "find_tail", "pass_over", "settle"]

# With no logging set up, as on the command line, Python writes a warning to standard error as it is.
_log = logging.getLogger(__name__)

_EVERYTHING = 1 << 62
_CHUNK = 1 << 20
# How long a first opener after a reboot may take before we stop waiting for its commit file.
_SETTLE_S = 30.0


class Recovery(NamedTuple):
    """What opening a shard for writing found to do; all zero after an orderly end.

    `cut_bytes` of a torn append were removed at file position `cut_at` of segment file `file`;
    `kept_records` were whole, but had not been published; `lost_offsets` were passed over, because under a
    weaker durability they may have been given out and are not there.
    """

    file: str
    cut_at: int
    cut_bytes: int
    kept_records: int
    lost_offsets: int = 0


class Tail(NamedTuple):
    """Where the log ends: at `end_offset`; the next append gets `next_offset`.

    `active` is the segment where it goes on, at file position `position`, None where the last one is sealed.
    Where `next_offset` is higher than `end_offset` it goes on in a new segment in any case.  `data_end` is above
    `position` where there is something to cut.  The `kept_records` are good and were not published; everything
    between file position `kept_from` and `position` is not known to be on the disk.
    """

    active: SegmentFile | None
    position: int
    end_offset: int
    next_offset: int
    epoch: int
    data_end: int
    kept_records: int
    kept_from: int

    @property
    def recovery(self) -> Recovery:
        """The same for a report."""
        name = self.active.path.name if self.active else ""
        return Recovery(
            name,
            self.position,
            self.data_end - self.position,
            self.kept_records,
            self.next_offset - self.end_offset,
        )


def find_tail(shard: Shard, commit: Commit | None) -> Tail:
    """Find where the log of a shard ends.  Changes nothing; the writer's lock should be held.

    Raises:
        LogDamaged: what was durable is not there any more.
        OSError: a file cannot be read.
    """
    files = list_files(shard)
    ledger = gaps.read(shard)
    if files:
        last = max(files, key=lambda file: (file.first_offset, file.sealed))
        segment = _open_last(shard, last, promised(shard, commit))
        try:
            tail = _Ending(shard, segment, last, commit, ledger).find()
        finally:
            segment.release()
    else:
        tail = Tail(None, 0, 0, 0, commit.epoch if commit else 0, 0, 0, 0)
    covered = ledger.end_at(tail.end_offset)
    due = promised(shard, commit)
    if commit is not None and due > covered:
        numbers = numbers_given(shard, covered, due)
        raise missing(stream_path(shard, commit.segment), covered, due, numbers)
    reserved = reserve.read(shard)
    if reserved.boot_id != shard.disk.boot_id():
        covered = max(covered, reserved.offset)
    return tail._replace(next_offset=covered)


def _open_last(shard: Shard, file: SegmentFile, due: int) -> Segment:
    try:
        return open_segment(shard, file)
    except LogDamaged as damage:
        first = file.first_offset
        end = due if due > first else None
        text = str(damage) + lost(first, end, numbers_given(shard, first, end or first))
        raise LogDamaged(text, path=file.path, byte=0, first_offset=first, end_offset=end) from None


def promised(shard: Shard, commit: Commit | None) -> int:
    """Return the offset below which every record has to be there, unless the ledger names it."""
    if commit is None:
        return 0
    return commit.end_offset if commit.boot_id == shard.disk.boot_id() else commit.synced_offset


class _Ending:
    """The last segment of a shard, and the search for where its records end."""

    def __init__(
        self, shard: Shard, segment: Segment, file: SegmentFile, commit: Commit | None, ledger: Ledger
    ) -> None:
        self._shard = shard
        self._segment = segment
        self._file = file
        self._commit = commit
        self._ledger = ledger
        self._promised = promised(shard, commit)
        self._synced = commit.synced_offset if commit else 0
        # What we know of this segment by the commit file is true for as long as the machine runs.
        self._rebooted = commit is not None and commit.boot_id != shard.disk.boot_id()
        active = commit is not None and commit.segment == file.first_offset and not file.sealed
        self._known = commit if active and not self._rebooted else None

    def find(self) -> Tail:
        """Return the tail, as far as this segment knows: `next_offset` is where its records end."""
        file, segment = self._file, self._segment
        status, position, end_offset, epoch, kept_from = self._scan()
        begun = self._commit.segment if self._commit else 0
        if self._promised > self._ledger.end_at(end_offset) and begun <= file.first_offset:
            cut = self._known is not None and self._known.length > segment.size
            how = f"where the file was cut to {segment.size} bytes, " if cut else ""
            raise self._damaged(position, end_offset, f"{how}but {self._promised} records were committed")
        published = self._commit.end_offset if self._commit else 0
        kept = max(0, end_offset - max(published, file.first_offset))
        if file.sealed:
            if status != lib.SF_SCAN_END:
                raise self._damaged(position, end_offset, "and the end of a sealed segment is further on")
            return Tail(None, 0, end_offset, end_offset, epoch, 0, kept, 0)
        data_end = _data_end(self._shard.disk, segment, position)
        if data_end > position:
            self._refuse_durable_beyond(position, end_offset, data_end)
        if self._rebooted:
            kept_from = position  # we read what is on the disk
        return Tail(file, position, end_offset, end_offset, epoch, max(position, data_end), kept, kept_from)

    def _scan(self) -> tuple[int, int, int, int, int]:
        """Walk over good messages, and over what the ledger says is gone.

        Returns why it ended, position and offset there, the last epoch, and where the first message begins that is
        not known to be synced.
        """
        segment, known = self._segment, self._known
        scan = Scan(segment, segment.data_at, self._file.first_offset)
        epoch = 0
        if known is not None and self._is_proven(known):
            scan.move(segment, known.length, known.end_offset)
            epoch = known.epoch
        kept_from = -1
        while True:
            status, messages, count = scan.step(segment.size, SCAN_MESSAGES, _EVERYTHING)
            for i in range(count):
                message = messages[i]
                if message.epoch < epoch:
                    segment.proven = min(segment.proven, message.position)
                    at = int(message.position)
                    return lib.SF_SCAN_DAMAGED, at, int(message.first_offset), epoch, at if kept_from < 0 else kept_from
                epoch = message.epoch
                if kept_from < 0 and message.first_offset + message.rows > self._synced:
                    kept_from = int(message.position)
            if status == lib.SF_SCAN_MORE or self._pass_gap(scan):
                continue
            return status, scan.position, scan.next_offset, epoch, scan.position if kept_from < 0 else kept_from

    def _is_proven(self, known: Commit) -> bool:
        """Whether all that was committed is on the disk and whole, so that nobody need look at it again."""
        return (
            known.synced_offset == known.end_offset == self._ledger.start_before(known.end_offset)
            and self._segment.data_at <= known.length <= self._segment.size
        )

    def _pass_gap(self, scan: Scan) -> bool:
        """Go on behind a gap that the ledger knows, if something of this segment lies there."""
        gap = self._ledger.at(scan.next_offset)
        if gap is None:
            return False
        segment = self._segment
        found = next_message(segment, scan.position, segment.size, gap.end_offset, gap.end_offset + 1)
        if found is None:
            return False
        scan.move(segment, int(found.position), int(found.first_offset))
        return True

    def _refuse_durable_beyond(self, position: int, end_offset: int, data_end: int) -> None:
        """Raise LogDamaged if a good message behind `position` shows that what lies there had been synced."""
        end = min(self._segment.size, data_end + 7)
        covered = self._ledger.end_at(end_offset)
        found = next_message(self._segment, position, end, end_offset + 1, _EVERYTHING)
        while found is not None:
            if found.durable_upto > covered:
                why = f"but records up to {found.durable_upto} were durable"
                raise self._damaged(position, end_offset, why)
            found = next_message(
                self._segment, int(found.position + found.length), end, end_offset + 1, _EVERYTHING
            )

    def _damaged(self, position: int, offset: int, why: str) -> LogDamaged:
        """Return the error, with the range: up to the next good record here, or to what was promised."""
        found = next_message(self._segment, position, self._segment.size, offset + 1, _EVERYTHING)
        end = int(found.first_offset) if found is not None else max(offset, self._promised)
        numbers = numbers_given(self._shard, offset, end)
        return damaged(
            self._file, position, offset, why, end_offset=end if end > offset else None, numbers=numbers
        )


def _data_end(disk: Disk, segment: Segment, position: int) -> int:
    """Return where the last byte that is not zero ends, at or after `position`.  Holes are not read."""
    end = position
    for start, stop in disk.data_extents(segment.fd, position, segment.size):
        for at in range(start, stop, _CHUNK):
            chunk = disk.pread(segment.fd, min(_CHUNK, stop - at), at).rstrip(b"\0")
            if chunk:
                end = at + len(chunk)
    return end


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


def pass_over(shard: Shard, tail: Tail, now_ms: int) -> None:
    """Note, durably, that what lies between the log's end and where it goes on is lost, and say so.

    The caller holds the writer's lock, and appends nothing before this.
    """
    known = gaps.read(shard)
    numbers = numbers_given(shard, tail.end_offset, tail.next_offset)
    gap = Gap(tail.end_offset, tail.next_offset, LOST, *numbers, at_ms=now_ms)
    if gaps.record(shard, gap).gaps == known.gaps:
        return  # the ledger says it already
    _log.warning(
        "streamfn: %s: up to %d records from offset %d on were lost with what the system had not written yet; "
        "the log goes on at offset %d",
        shard.directory,
        tail.next_offset - tail.end_offset,
        tail.end_offset,
        tail.next_offset,
    )


def settle(shard: Shard, commit_file: CommitFile, *, salvage: bool = False) -> Commit:
    """Return the commit to start from; if the machine was restarted since it was written, recover first.

    With `salvage` a damaged tail leaves things as they are: what was committed is read as far as it goes.

    Raises:
        LogDamaged: what was durable is not there any more.
        BusyError: another process recovers the log and does not get done.
        OSError: a file cannot be read.
    """
    deadline = time.monotonic() + _SETTLE_S
    boot_id = shard.disk.boot_id()
    while True:
        commit = commit_file.read()
        if commit is not None and commit.boot_id == boot_id:
            return commit
        try:
            settled = _recover(shard, commit_file)
        except LogDamaged:
            if commit is None or not salvage:
                raise
            return commit
        if settled is not None:
            return settled
        if commit is not None and commit.synced_offset == commit.end_offset:
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
        end_offset = gaps.read(shard).end_at(tail.end_offset)
        settled = known._replace(
            boot_id=boot_id,
            epoch=max(known.epoch, tail.epoch),
            segment=tail.active.first_offset if tail.active else end_offset,
            length=tail.position,
            end_offset=end_offset,
            synced_offset=end_offset,
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
