"""A large append that goes straight into sealed segments: each byte of it is written once.

What comes in small pieces is appended to the active segment and copied into a sealed one later.  What comes in
tens of megabytes has the size of row groups already.  Its segments have their names, durably, one after the
other, before anything of them is published: a crash leaves the first of them whole or not at all.

While one row group is laid out and written, those before it are on their way to the disk: a thread syncs the file
over and over, and the last sync finds little left to do.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from streamfn.log.catalog.age import Moment
from streamfn.log.catalog.stream import Shard
from streamfn.log.format.batch import Rows
from streamfn.log.format.schema import loose_message
from streamfn.log.segment.sealed_writer import SealedWriter


class StraightAppend:
    """The sealed segments of one append, up to `segment_bytes` each.

    `end_offset` is behind what is durable, `next_offset` behind what was added.  Call `finish`, and `abandon` whatever
    happened.  With `threaded` False nothing is synced meanwhile, so that a simulation has one order of events.
    """

    def __init__(
        self, shard: Shard, first_offset: int, segment_bytes: int, appended: Moment, *, threaded: bool
    ) -> None:
        self.end_offset = first_offset
        self.next_offset = first_offset
        self._shard = shard
        self._segment_bytes = segment_bytes
        self._appended = appended
        self._file: SealedWriter | None = None
        self._thread = ThreadPoolExecutor(1, f"sync {shard.id}") if threaded else None
        self._syncing: Future[None] | None = None

    def add(self, rows: Rows, sequence_base: bytes, arrival_ms: int, epoch: int, durable_upto: int) -> None:
        """Add rows as one message; what the append gives them are sequence numbers and the time `arrival_ms`.

        Raises:
            OSError: it cannot be written, or a segment before it cannot be finished.
        """
        if self._file is not None and self._file.position + rows.message_bytes(sequence_base) > self._segment_bytes:
            self.finish()
        if self._file is None:
            self._file = SealedWriter(self._shard, self.next_offset, rows.layout)
        layout = rows.layout
        if any(column.nullable for column in layout.columns):
            draft = rows.draft(self.next_offset, sequence_base, arrival_ms)
            draft.finish(epoch, durable_upto)
            self._file.add_draft(draft)
        else:
            buffers = rows.loose(self.next_offset, sequence_base, arrival_ms)
            pieces = loose_message(layout, self.next_offset, rows.rows, buffers, epoch, durable_upto)
            self._file.add(pieces, self.next_offset, buffers[layout.time])
        self.next_offset += rows.rows
        self._sync_behind(self._file)

    def _sync_behind(self, file: SealedWriter) -> None:
        """Have what was written synced, unless a sync is under way; one that failed fails the append."""
        if self._thread is None or (self._syncing is not None and not self._syncing.done()):
            return
        self._wait()
        self._syncing = self._thread.submit(file.sync)

    def _wait(self) -> None:
        syncing, self._syncing = self._syncing, None
        if syncing is not None:
            syncing.result()

    def finish(self) -> None:
        """Make what was added durable.

        Raises:
            OSError: it failed; nothing of the last segment counts.
        """
        if self._file is not None:
            self._wait()
            self._file.finish(self.next_offset, self._appended)
            self._file, self.end_offset = None, self.next_offset

    def abandon(self) -> None:
        """Leave nothing of a segment that was not finished, and no thread."""
        if self._thread is not None:
            self._thread.shutdown()
        if self._file is not None:
            self._file.abandon()
            self._file = None
