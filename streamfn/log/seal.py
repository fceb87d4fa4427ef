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
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from streamfn import limits
from streamfn._native import ffi, lib
from streamfn.errors import LogError
from streamfn.log import gaps
from streamfn.log.disk import Space
from streamfn.log.layout import Layout
from streamfn.log.recovery import Scan, damaged
from streamfn.log.schema import Draft
from streamfn.log.sealed_writer import SUFFIX, SealedWriter
from streamfn.log.segment import (
    Segment,
    SegmentFile,
    list_files,
    open_segment,
    stream_path,
)
from streamfn.log.stream import Shard

_log = logging.getLogger(__name__)

# Messages merged into one row group: with single-record messages the group stays below its target size.
_GROUP_MESSAGES = 8192


def seal(shard: Shard, first_offset: int, end_offset: int) -> Path:
    """Write the sealed form of a segment of records `first_offset` .. `end_offset`, and unlink the other.

    Every message is proven before it is copied.

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
            path = writer.finish(end_offset, shard.disk.status(segment.fd).modified_ms, 0)
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


class Mapped(Protocol):
    """Mapped messages of one layout."""

    base: Any
    layout: Layout


def merged(segment: Mapped, messages: Any, count: int, end_offset: int) -> Draft:
    """Return the rows of `count` messages as one; everything below `end_offset` is durable, so it says so."""
    totals = ffi.new("uint64_t[]", 1 + lib.SF_COLUMNS_MAX)
    lib.sf_measure(segment.base, messages, count, totals)
    texts = [totals[1 + i] for i in range(len(segment.layout.texts))]
    draft = Draft(segment.layout, messages[0].first_offset, totals[0], texts)
    start = ffi.from_buffer("uint8_t[]", draft.buffer)
    lib.sf_gather(segment.base, messages, count, ffi.new("uint8_t *[]", [start + at for at in draft.columns]))
    ffi.release(start)
    draft.finish(int(messages[count - 1].epoch), end_offset)
    return draft


class Sealer:
    """Seals segments of one shard in a thread of its own, which exists only when there was one to seal.

    With `threaded` False each call of `seal` does the work itself, so that a simulation has one order of events.
    """

    def __init__(self, shard: Shard, *, threaded: bool = True) -> None:
        self.problem: str | None = None
        self._shard = shard
        self._threaded = threaded
        self._queue: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def seal(self, first_offset: int, end_offset: int) -> None:
        """Have a full segment sealed."""
        if not self._threaded:
            self._seal(first_offset, end_offset)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"seal {self._shard.id}", daemon=True)
            self._thread.start()
        self._queue.put((first_offset, end_offset))

    def sweep(self, active: int) -> None:
        """Deal with what a crash left: unfinished files, both forms of a segment, segments nobody sealed.

        `active` is the first offset of the active segment; the writer's lock is held.
        """
        shard = self._shard
        for name in sorted(shard.disk.list_directory(shard.directory)):
            if name.endswith((".tmp", SUFFIX)):
                shard.disk.unlink(shard.directory / name)
        files = list_files(self._shard)
        sealed = {file.first_offset for file in files if file.sealed}
        starts = sorted({file.first_offset for file in files})
        ledger = gaps.read(shard)
        ends = {start: ledger.start_before(following) for start, following in pairwise(starts)}
        for file in files:
            if file.sealed or file.first_offset == active:
                continue
            if file.first_offset in sealed or ends[file.first_offset] <= file.first_offset:
                shard.disk.unlink(file.path)  # there twice, or empty before a loss
            else:
                self.seal(file.first_offset, ends[file.first_offset])

    def close(self) -> None:
        """Wait until everything handed over is sealed."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            self._seal(*task)

    def _seal(self, first_offset: int, end_offset: int) -> None:
        try:
            self._require_space(first_offset)
            seal(self._shard, first_offset, end_offset)
        except LogError as error:
            self._tell(str(error))
        except OSError as error:
            self._tell(f"cannot seal segment {first_offset} of shard {self._shard.id}: {error.strerror}")

    def _tell(self, problem: str) -> None:
        """Nothing is lost, the segment stays as it was; but somebody has to know why it is not sealed."""
        self.problem = problem
        _log.warning("streamfn: %s", problem)

    def _require_space(self, first_offset: int) -> None:
        path = stream_path(self._shard, first_offset)
        disk = self._shard.disk
        fd = disk.open(path, os.O_RDONLY)
        try:
            space, stored = disk.space(fd), disk.status(fd).stored
        finally:
            disk.close(fd)
        if space.free < floor_bytes(space) + stored:
            raise LogError(f"segment {path} is not sealed yet: too little disk space for a second copy")


def floor_bytes(space: Space) -> int:
    """Return how much of a file system must stay free, so that checkpoints and discards still fit."""
    return min(limits.FREE_BYTES_MIN, space.total // 4)
