"""Sealing: a full segment, written anew as an Arrow file with few large row groups.

The messages of the file are messages of ours (SFN1 value, CRC, offsets), so one scanner reads both forms;
the file's footer makes it what pandas, Polars and DuckDB open directly.  The sealed file takes its name
when it is whole and synced, and only then is the other form unlinked: at every moment at least one is
there, and who has the other one mapped keeps it.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from streamfn import limits
from streamfn._native import lib
from streamfn.errors import BusyError, LogError
from streamfn.log.catalog import description
from streamfn.log.catalog.age import Moment, ShardClock
from streamfn.log.catalog.stream import KEEP_ALL, Shard, Stream
from streamfn.log.segment.sealed_writer import SUFFIX, SealedWriter
from streamfn.log.segment.segment import (
    Segment,
    SegmentFile,
    open_segment,
    stream_path,
)
from streamfn.log.shard import retention
from streamfn.log.shard.chain import read_chain
from streamfn.log.shard.compact import compress_cold
from streamfn.log.shard.merge import merged
from streamfn.log.shard.recovery import Scan, damaged
from streamfn.log.storage.disk import floor_bytes
from streamfn.log.storage.lock import FileLock

_log = logging.getLogger(__name__)

# Messages merged into one row group: with single-record messages the group stays below its target size.
_GROUP_MESSAGES = 8192


def seal(shard: Shard, first_offset: int, end_offset: int, appended: Moment) -> Path:
    """Write the sealed form of a segment of records `first_offset` .. `end_offset`, and unlink the other.

    `appended` is when the last of them was appended.  The shard's lock is held.  Every message is proven before it is
    copied.

    Raises:
        LogDamaged: a message is not as it was written; nothing was changed.
        DiskFull: there is no room for a second copy; nothing was changed.
        OSError: a file cannot be read or written.
    """
    file = SegmentFile(first_offset, False, stream_path(shard, first_offset))
    segment = open_segment(shard, file)
    try:
        writer = SealedWriter(shard, first_offset, segment.layout)
        try:
            _copy(segment, file, end_offset, writer)
            path = writer.finish(end_offset, appended)
        except BaseException:
            writer.abandon()
            raise
    finally:
        segment.release()
    shard.disk.unlink(file.path)
    return path


def _copy(segment: Segment, file: SegmentFile, end_offset: int, writer: SealedWriter) -> None:
    scan = Scan(segment, segment.data_at, file.first_offset, _GROUP_MESSAGES)
    status = lib.SF_SCAN_MORE
    while status == lib.SF_SCAN_MORE:
        status, messages, count = scan.step(segment.size, _GROUP_MESSAGES, limits.SEALED_GROUP_BYTES)
        if count:
            writer.add_draft(merged(segment, messages, count, end_offset))
    if status == lib.SF_SCAN_DAMAGED or scan.next_offset != end_offset:
        raise damaged(
            file, scan.position, scan.next_offset, f"though the next segment begins at {end_offset}"
        )


class Sealer:
    """Seals segments of one shard, and then trims it, in a thread of its own, which exists only when there is work.

    With `threaded` False each call does the work itself, so that a simulation has one order of events.
    """

    def __init__(self, shard: Shard, clock: ShardClock, *, threaded: bool = True) -> None:
        self.problem: str | None = None
        self._shard = shard
        self._clock = clock
        self._threaded = threaded
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def seal(self, first_offset: int, end_offset: int, appended: tuple[int, int] | None = None) -> None:
        """Have a full segment sealed.

        `appended` is what both clocks of the machine (wall: ms, monotonic: ns) said at the last append, if known.
        """
        self._do(lambda: self._seal(first_offset, end_offset, appended))

    def tidy(self) -> None:
        """Have the shard trimmed, and its cold segments compressed, if its stream asks for either."""
        stream = description.current(self._shard)
        if stream is not None and (stream.retention != KEEP_ALL or stream.cold_after_s is not None):
            self._do(self._tidy)

    def sweep(self, active: int) -> None:
        """Deal with what a crash left: unfinished files, files beside the chain, segments nobody sealed.

        `active` is the first offset of the active segment; the shard's lock is held.
        """
        shard = self._shard
        for name in sorted(shard.disk.list_directory(shard.directory)):
            if name.endswith((".tmp", SUFFIX)):
                shard.disk.unlink(shard.directory / name)
        retention.remove_leftovers(shard)
        for link in read_chain(shard).links:
            if not link.file.sealed and link.file.first_offset != active:
                assert link.end_offset is not None, "the active segment is the last one"
                self.seal(link.file.first_offset, link.end_offset)

    def close(self) -> None:
        """Wait until everything handed over is sealed."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            task()

    def _do(self, task: Callable[[], None]) -> None:
        if not self._threaded:
            task()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"seal {self._shard.id}", daemon=True)
            self._thread.start()
        self._queue.put(task)

    def _tidy(self) -> None:
        try:
            stream = description.current(self._shard)
            if stream is None:
                return
            self._keep(stream, self._shard, self._clock)
            for shard in _closed_before(stream, self._shard):
                with suppress(BusyError):  # somebody else is at it
                    self._keep_closed(stream, shard)
        except LogError as error:
            self._tell(str(error))
        except OSError as error:
            self._tell(f"cannot trim or compress shard {self._shard.id}: {error.strerror}")

    def _keep(self, stream: Stream, shard: Shard, clock: ShardClock) -> None:
        if stream.retention != KEEP_ALL:
            retention.apply(shard, stream.retention, clock)
        if stream.cold_after_s is not None:
            compress_cold(shard, clock.now().wall_ms, stream.cold_after_s)

    def _keep_closed(self, stream: Stream, shard: Shard) -> None:
        """The same for a shard that nobody writes to any more."""
        if stream.retention == KEEP_ALL and stream.cold_after_s is None:
            return
        lock = FileLock(shard.directory / "lock", shard.disk)
        lock.acquire(f"shard {shard.id}", 0)
        try:
            self._keep(stream, shard, self._clock.of(shard))
        finally:
            lock.release()

    def _seal(self, first_offset: int, end_offset: int, appended: tuple[int, int] | None) -> None:
        try:
            modified_ms = self._look(first_offset)
            if appended is not None:
                at = self._clock.at(*appended)
            else:
                # By the shard's own clock it was not later than now: at worst the segment is kept longer.
                noted_ms = self._clock.appended_by(end_offset)
                at = Moment(modified_ms, self._clock.now().lived_ms if noted_ms is None else noted_ms)
            seal(self._shard, first_offset, end_offset, at)
        except LogError as error:
            self._tell(str(error))
        except OSError as error:
            self._tell(f"cannot seal segment {first_offset} of shard {self._shard.id}: {error.strerror}")
        else:
            self._tidy()

    def _tell(self, problem: str) -> None:
        """Nothing is lost, all segments stay as they were; but somebody has to know why."""
        self.problem = problem
        _log.warning("streamfn: %s", problem)

    def _look(self, first_offset: int) -> int:
        """Return when a segment's file was changed last (since 1970, UTC); raise LogError if it has no second room."""
        path = stream_path(self._shard, first_offset)
        disk = self._shard.disk
        fd = disk.open(path, os.O_RDONLY)
        try:
            space, status = disk.space(fd), disk.status(fd)
        finally:
            disk.close(fd)
        if space.free < floor_bytes(space) + status.stored:
            raise LogError(f"segment {path} is not sealed yet: too little disk space for a second copy")
        return status.modified_ms


def _closed_before(stream: Stream, shard: Shard) -> list[Shard]:
    """Return the closed shards that a shard descends from."""
    found: dict[str, Shard] = {}
    pending = list(shard.parents)
    while pending:
        parent = stream.shard(pending.pop())
        if parent is not None and not parent.open and parent.id not in found:
            found[parent.id] = parent
            pending += parent.parents
    return list(found.values())
