"""Appending to a shard: the one process that holds its lock.

    append    body first, then the 8 bytes of prefix: what is not complete reads as the end of the stream
    commit    what the durability promises (`fsync`: fdatasync), then one write to the commit file: readers
              see what was committed and nothing else
    sync      fdatasync and publish, whatever the durability
    roll      sync; a new segment is written, synced and renamed into place, published; then the old one
              is sealed by a thread of the writer

A failed write leaves nothing: a hole is punched over it and the log ends where it did.  After a failed
sync nothing is known about what is on the disk, and trying again would lie; so the writer is fenced, and
only a new one, which reads the log again, can go on.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from streamfn import limits
from streamfn.clock import Clock, SystemClock
from streamfn.errors import DiskFull, FailedError, LogError, RefusedError, ShardClosed
from streamfn.log.catalog import description
from streamfn.log.catalog.age import ShardClock
from streamfn.log.catalog.stream import DYNAMODB, KINESIS, Shard
from streamfn.log.format import batch, bulk, changes
from streamfn.log.format.layout import Layout, initial
from streamfn.log.segment.segment import header, stream_path
from streamfn.log.shard import recovery
from streamfn.log.shard.active import ActiveSegment
from streamfn.log.shard.fence import Fence, log_error
from streamfn.log.shard.numbering import Numbering
from streamfn.log.shard.recovery import Recovery, Tail
from streamfn.log.shard.reserve import ReserveFile
from streamfn.log.shard.retention import Fullness, Rolling
from streamfn.log.shard.seal import Sealer
from streamfn.log.shard.straight import StraightAppend
from streamfn.log.sharing.broker import request_release
from streamfn.log.storage.commit import Commit, CommitFile
from streamfn.log.storage.disk import floor_bytes
from streamfn.log.storage.durability import FSYNC, Durability
from streamfn.log.storage.lock import FileLock
from streamfn.types import NewChange, NewRecord

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)


class ShardWriter:
    """The writer of one shard.  Not thread-safe; every call may wait for the disk.

    `recovered` says what opening found to repair; `durability` may be changed between appends.  Close it, or use
    it as a context manager.
    """

    def __init__(
        self,
        shard: Shard,
        lock: FileLock,
        commit_file: CommitFile,
        clock: Clock,
        segments: Rolling,
        *,
        durability: Durability = FSYNC,
        threaded: bool = True,
    ) -> None:
        self.shard = shard
        self.durability = durability
        self._disk = shard.disk
        self._boot_id = ""
        self.recovered = Recovery("", 0, 0, 0)
        self._lock = lock
        self._commit_file = commit_file
        self._clock = clock
        self._fullness = Fullness(shard, clock, segments)
        self._appended: tuple[int, int] | None = None  # what both clocks said when something was appended last
        self._active: ActiveSegment | None = None
        self._end_offset = 0
        self._epoch = 0
        self._arrival_ms = 0
        self._reserve: ReserveFile | None = None
        self._numbering: Numbering | None = None
        self._committed = Commit("", 0, 0, 0, 0, "", 0)
        self._fence = Fence(shard)
        self._closed = False
        self._age = ShardClock(shard, clock)
        self._threaded = threaded
        self._sealer = Sealer(shard, self._age, threaded=threaded)

    @classmethod
    def open(
        cls,
        shard: Shard,
        *,
        wait_s: float = 5.0,
        clock: Clock | None = None,
        segment_bytes: int = limits.SEGMENT_BYTES,
        durability: Durability = FSYNC,
        segment_age_s: float | None = None,
        threaded: bool = True,
    ) -> ShardWriter:
        """Take the shard's lock, waiting up to `wait_s` seconds for it, and repair what a crash left.

        Who holds it and takes along what others put is asked to let go, unless `wait_s` is 0.

        With a `durability` of `interval` the caller sees to it that `sync` is called often enough.  A segment is full
        at `segment_bytes`, or when something is appended to it `segment_age_s` seconds after it was begun (None:
        never, unless the stream's retention needs it).  Full segments are sealed by a thread of the writer, with
        `threaded` False by the call that fills them.

        Raises:
            BusyError: another process is writing; the text names its pid.
            ShardClosed: the shard was split or merged.
            LogDamaged: records that were durable are not there any more; nothing was changed.
            DiskFull: the shard has no segment yet and there is no room for one.
            LogError: a system call failed; nothing was appended.
            FailedError: the shard is gone or cannot be written.
        """
        lock = FileLock(shard.directory / "lock", shard.disk)
        try:
            what = f"shard {shard.id} in {shard.directory.parent}"
            lock.acquire(what, wait_s, ask=partial(request_release, shard))
            description.refuse_closed(shard)
            commit_file = CommitFile.open(shard.disk, shard.directory, write=True)
        except ShardClosed:
            lock.release()
            raise
        except OSError as error:
            lock.release()
            why = f"uid {os.geteuid()}: {error.strerror}"
            raise FailedError(
                f"cannot write to shard {shard.id} in {shard.directory.parent} as {why}"
            ) from error
        time, segments = clock or SystemClock(), Rolling(segment_bytes, segment_age_s)
        writer = cls(shard, lock, commit_file, time, segments, durability=durability, threaded=threaded)
        try:
            writer._recover()
        except OSError as error:
            writer._abandon()
            raise log_error(shard, "cannot open", error) from error
        except BaseException:
            writer._abandon()
            raise
        return writer

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def epoch(self) -> int:
        """Which of the shard's writers this is: each one's is higher than that of the one before."""
        return self._epoch

    @property
    def sequence_base(self) -> str:
        """What the sequence numbers that this writer gives now begin with."""
        return self._numbers.base

    @property
    def end_offset(self) -> int:
        """The offset that the next record gets."""
        return self._end_offset

    @property
    def committed_offset(self) -> int:
        """The offset below which every record is visible to readers; durable, as far as the durability promises."""
        return self._committed.end_offset

    @property
    def synced_offset(self) -> int:
        """The offset below which every record is known to be on the disk."""
        return self._committed.synced_offset

    @property
    def sealing_problem(self) -> str | None:
        """Why a segment could not be sealed, in one line; it stays readable, and is tried again next time."""
        return self._sealer.problem

    def sequence_number(self, offset: int) -> str:
        """Return the sequence number of a record that this writer appended, and that came without one."""
        return f"{self._numbers.base}{offset:020d}"

    def append(self, records: Sequence[NewRecord]) -> range:
        """Append records as one message, or more where they are large, and return their offsets.

        Readers see them after `commit`.  A record without arrival time gets the clock's, never less than
        one given before; one without a sequence number gets one above all that the shard has seen.

        Raises:
            RefusedError: a record breaks a limit, captured sequence numbers do not rise, or the shard holds records of
                the other kind; nothing was appended.
            DiskFull: too little disk space is left; nothing was appended, except whole messages of an
                append of many, which stay.
            LogError: a write failed (the same holds), or the writer is fenced.
        """
        now_ms = self._now_ms()
        self._require_kind(KINESIS)
        offsets = self._append(batch.from_records(records, now_ms), now_ms)
        if any(record.arrival_ms is None for record in records):
            self._arrival_ms = now_ms
        return offsets

    def append_changes(self, changed: Sequence[NewChange]) -> range:
        """The same for DynamoDB change records."""
        now_ms = self._now_ms()
        self._require_kind(DYNAMODB)
        offsets = self._append(changes.from_changes(changed, now_ms), now_ms)
        if any(change.creation_ms is None for change in changed):
            self._arrival_ms = now_ms
        return offsets

    def append_columns(
        self, data: pa.Array, keys: pa.Array, arrival: pa.Array | None = None, **captured: pa.Array | None
    ) -> range:
        """The same for Arrow columns (see `bulk.from_columns`), without a Python object per record.

        From STRAIGHT_BYTES on they go straight into sealed segments, and are durable and visible at once.
        """
        return self.append_parts([{"data": data, "keys": keys, "arrival": arrival, **captured}])

    def append_parts(self, parts: Sequence[Mapping[str, Any]]) -> range:
        """The same for columns in several parts, one after the other, which need not be joined before.

        Each part has the arguments of `append_columns` by name.
        """
        now_ms = self._now_ms()
        self._require_kind(KINESIS)
        size = sum(part["data"].nbytes + part["keys"].nbytes for part in parts)
        straight = size >= limits.STRAIGHT_BYTES
        message_bytes = limits.SEALED_GROUP_BYTES if straight else None
        # All parts are checked before the first message of any is made.
        checked = [bulk.from_columns(**part, message_bytes=message_bytes) for part in parts]
        messages = itertools.chain.from_iterable(checked)
        offsets = self._append_straight(messages, now_ms) if straight else self._append(messages, now_ms)
        if offsets and any(part.get("arrival") is None for part in parts):
            self._arrival_ms = now_ms
        return offsets

    def commit(self) -> None:
        """Make everything appended as durable as the durability promises, and then visible.

        Raises:
            LogError: the sync failed; the writer is fenced, and it is unknown which of the records that were
                not committed before will be there when the shard is opened again.
        """
        if self.durability.synced:
            self.sync()
            return
        self._require_open()
        if self._committed.end_offset != self._end_offset:
            self._publish(self._committed.synced_offset)

    def sync(self) -> None:
        """Make everything appended durable whatever the durability, and then visible; see `commit`."""
        self._require_open()
        if self._committed.synced_offset != self._end_offset or self._committed.end_offset != self._end_offset:
            self._fence.sync(self._current.fd)
            self._publish(self._end_offset)

    def close(self) -> None:
        """Commit, wait for segments being sealed, and release the shard.  A second call does nothing.

        Raises:
            LogError: the last commit failed, or what was reserved could not be given back; the shard is released all
                the same.
        """
        if self._closed:
            return
        try:
            if self._fence.reason is None:
                self.sync()
                self._fence.sync(self._commit_file.fileno())
                self._give_back()
                self._note_age()
        finally:
            self._abandon()

    def _give_back(self) -> None:
        """Reserve no offsets any more; where that fails, the next writer passes over what is reserved."""
        try:
            self._reserved.give_back(self._end_offset)
        except OSError as error:
            raise log_error(self.shard, "everything is kept, but offsets are passed over in", error) from error

    def _note_age(self) -> None:
        """Leave for the next process when the last append was, where retention asks for it."""
        try:
            stream = description.current(self.shard)
            if self._appended is not None and stream is not None and stream.retention.age_s is not None:
                self._age.note(self._end_offset, *self._appended)
        except (OSError, FailedError) as error:
            what = "its last records are kept longer, as if they were new"
            _log.warning("streamfn: shard %s: %s: %s", self.shard.id, what, error)

    def _abandon(self) -> None:
        """Give everything back without touching the log."""
        self._closed = True
        self._sealer.close()
        if self._active is not None:
            self._active.close()
        if self._reserve is not None:
            self._reserve.close()
        self._commit_file.close()
        self._lock.release()

    def _recover(self) -> None:
        self._boot_id = self._disk.boot_id()
        known = self._commit_file.read()
        tail = recovery.find_tail(self.shard, known)
        recovery.cut(self._disk, tail)
        self.recovered = tail.recovery
        self._reserve = ReserveFile(self.shard, self._boot_id)
        self._numbering = Numbering(self.shard, self._reserve)
        self._epoch = max(tail.epoch, known.epoch if known else 0) + 1
        self._arrival_ms = known.arrival_ms if known else 0
        self._end_offset = tail.next_offset
        # Who was killed after a rename may have left a name that the next loss of power takes away again.
        self._fence.sync_directory()
        self._continue(tail)
        self._publish(self._end_offset)
        self._sealer.sweep(self._segment)
        self._sealer.tidy()

    def _continue(self, tail: Tail) -> None:
        """Go on in the active segment, or begin one."""
        layout = initial(self.shard.kind)
        if tail.active is not None:
            active = self._active = ActiveSegment.resume(self.shard, tail.active, tail.position)
            layout = active.layout
            self._fullness.resume(active.first_offset)
            active.write_again(tail.kept_from)
            if tail.position > tail.kept_from or tail.kept_records:
                self._fence.sync(active.fd)
        if tail.next_offset > tail.end_offset:
            recovery.pass_over(self.shard, tail, self._clock.unix_ms())
            # Not before the ledger has it: what is reserved by an earlier run of the machine counts until then.
            self._reserved.give_up()
        if tail.active is None or tail.next_offset > tail.end_offset:
            self._begin_segment(layout)

    @property
    def _reserved(self) -> ReserveFile:
        assert self._reserve is not None, "opened"
        return self._reserve

    @property
    def _numbers(self) -> Numbering:
        assert self._numbering is not None, "opened"
        return self._numbering

    @property
    def _current(self) -> ActiveSegment:
        assert self._active is not None, "opened"
        return self._active

    @property
    def _segment(self) -> int:
        """The offset with which the active segment begins."""
        return self._current.first_offset

    @property
    def _position(self) -> int:
        """The file position where the active segment ends."""
        return self._current.position

    def _now_ms(self) -> int:
        self._require_open()
        return max(self._arrival_ms, min(self._clock.unix_ms(), limits.ARRIVAL_MS_MAX))

    def _append(self, messages: Iterable[batch.Rows], arrival_ms: int) -> range:
        first = self._end_offset
        for rows in messages:
            base = self._number(rows)
            layout = self._current.layout
            if rows.layout is not layout and layout.holds(rows.layout):
                rows = rows.widened(layout)
            draft = rows.draft(self._end_offset, base, arrival_ms)
            self._require_space(len(draft.buffer))
            self._make_room(len(draft.buffer), rows.layout)
            if not self.durability.synced:
                self._reserve_offsets(self._end_offset + rows.rows)
            message = draft.finish(self._epoch, self._committed.synced_offset)
            self._write(message)
            self._end_offset += rows.rows
        self._appended = (self._clock.unix_ms(), self._clock.monotonic_ns())
        return range(first, self._end_offset)

    def _append_straight(self, messages: Iterable[batch.Rows], arrival_ms: int) -> range:
        """Write messages into sealed segments of their own, and go on in an active one behind them."""
        if self._end_offset > self._segment:
            self._roll()
        first = self._segment
        straight: StraightAppend | None = None
        try:
            appended = self._age.now()
            straight = StraightAppend(
                self.shard, first, self._fullness.segment_bytes, appended, threaded=self._threaded
            )
            for rows in messages:
                base = self._number(rows)
                self._require_space(rows.message_bytes(base))
                straight.add(rows, base, arrival_ms, self._epoch, first)
                self._end_offset = straight.next_offset
            straight.finish()
        except OSError as error:
            raise log_error(self.shard, "cannot append to", error) from error
        finally:
            if straight is not None:
                straight.abandon()
                self._end_offset = straight.end_offset
            if self._end_offset > first:
                self._leave_empty(first)
        return range(first, self._end_offset)

    def _leave_empty(self, first: int) -> None:
        """Go on behind sealed segments, the first of which has the name of the active one, which has no records."""
        self._replace(self._current.layout)
        try:
            self._disk.unlink(stream_path(self.shard, first))
        except OSError as error:
            raise log_error(self.shard, "cannot tidy up", error) from error
        self._sealer.tidy()

    def _number(self, rows: batch.Rows) -> bytes:
        """Return the base of the sequence numbers that rows get; those they bring along are checked and reserved."""
        if rows.captured is None:
            return self._numbers.give(self._end_offset).encode()
        try:
            self._numbers.capture(*rows.captured, self._end_offset)
        except OSError as error:
            raise self._fence.shut_unless_full("sequence numbers could not be reserved", error) from error
        return self._numbers.base.encode()

    def _reserve_offsets(self, end_offset: int) -> None:
        """Under a weaker durability: what a crash takes must not have an offset that is given out again."""
        try:
            self._reserved.cover(end_offset)
        except OSError as error:
            raise self._fence.shut_unless_full("offsets could not be reserved", error) from error

    def _make_room(self, size: int, needed: Layout) -> None:
        """Begin a segment where the message does not fit the active one, or has other columns.

        A segment without a record gives way to one of the other layout by rename: no reader has it mapped.
        """
        active = self._current
        if self._end_offset > active.first_offset:
            if size > active.room or needed is not active.layout or self._fullness.old:
                self._roll(needed)
        elif needed is not active.layout:
            self._replace(needed)

    def _write(self, message: bytearray) -> None:
        """Write one message at the end of the active segment: all of it, or nothing."""
        active = self._current
        try:
            active.write(message)
        except OSError as error:
            self._fence.reason = active.torn
            raise log_error(self.shard, "cannot append to", error) from error

    def _require_open(self) -> None:
        self._fence.check()
        if self._closed:
            raise LogError(f"the writer of shard {self.shard.id} is closed")

    def _require_kind(self, kind: str) -> None:
        if self.shard.kind != kind:
            raise RefusedError(f"shard {self.shard.id} in {self.shard.directory.parent} is of kind {self.shard.kind}")

    def _require_space(self, length: int) -> None:
        space = self._disk.space(self._commit_file.fileno())
        needed = floor_bytes(space) + length
        if space.free < needed:
            raise DiskFull(
                f"no append to shard {self.shard.id}: {space.free} bytes are free on its disk, {needed} must be"
            )

    def roll(self) -> None:
        """Commit, begin a segment, and have the one before it sealed; does nothing where that has no records.

        Raises:
            DiskFull: there is no room for a segment; everything is as it was.
            LogError: as `commit`, or the segment cannot be made.
        """
        self._require_open()
        if self._end_offset > self._segment:
            self._roll()

    def finish_sealing(self) -> None:
        """Wait until every segment that is full has been sealed, and retention applied."""
        self._sealer.close()

    def _roll(self, needed: Layout | None = None) -> None:
        """Begin the next segment, with the same columns unless others are needed, and have the full one sealed."""
        self.sync()
        full = self._segment
        self._replace(needed or self._current.layout)
        self._sealer.seal(full, self._segment, self._appended)

    def _replace(self, needed: Layout) -> None:
        """Begin a segment at the log's end, and go on in it."""
        try:
            self._begin_segment(needed)
            self._publish(self._end_offset)
            self._fence.sync(self._commit_file.fileno())  # so that a segment that is gone later is missed
        except OSError as error:
            raise log_error(self.shard, "cannot begin a segment of", error) from error

    def _begin_segment(self, needed: Layout) -> None:
        """Make the segment that begins at the log's end, and go on in it; the one before it is closed."""
        self._fullness.begin()
        self._require_space(len(header(self.shard, sealed=False, layout=needed)))
        made = ActiveSegment.begin(self.shard, self._end_offset, needed, self._fullness.segment_bytes)
        try:
            # From here on the segment exists, or not, as the disk pleases: there is no way back.
            self._fence.sync_directory()
        except BaseException:
            made.close()
            raise
        if self._active is not None:
            self._active.close()
        self._active = made

    def _publish(self, synced_offset: int) -> None:
        self._committed = Commit(
            self._boot_id,
            self._epoch,
            self._segment,
            self._position,
            self._end_offset,
            self._numbers.base,
            self._arrival_ms,
            synced_offset,
        )
        try:
            self._commit_file.publish(self._committed)
        except OSError as error:
            raise self._fence.shut("the commit file could not be written", error) from error
