"""The stream that a source is captured into, and the logs of its shards.

What is stored decides where reading goes on, so the order of the writes is the whole care: children are there
before their parent is closed, and a record is durable before the reader counts on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from streamfn.capture import memo
from streamfn.capture.lineage import parents_first
from streamfn.capture.memo import Memo, NotedLoss
from streamfn.capture.reading import Beginning, Loss, Stored
from streamfn.capture.source import Captured, Description, SourceShard
from streamfn.errors import FailedError, RefusedError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import DYNAMODB, OFFSET_DIGITS, CapturedShard, Shard, Stream
from streamfn.log.producer.porter import Porter
from streamfn.log.segment.rows import changes, records
from streamfn.log.shard import gaps
from streamfn.log.shard.reader import ShardReader
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.durability import FSYNC, Durability
from streamfn.log.storage.lock import FileLock
from streamfn.log.upkeep import reshard
from streamfn.types import NewChange, NewRecord

_TIP_BYTES = 1 << 20
_LOCK = "capture.lock"


class Start(NamedTuple):
    """How the reading of a shard is to begin; see `ShardReading`."""

    beginning: Beginning
    stored: Stored | None
    seen_until_ms: int | None


class CapturedStream:
    """A stream that this process alone captures into.  Thread-safe.

    `resumed` says that an earlier run had begun it; its `beginning` holds then, whatever was asked for now.
    """

    def __init__(
        self,
        data_dir: DataDir,
        stream: Stream,
        noted: Memo,
        lock: FileLock,
        durability: Durability,
        *,
        resumed: bool,
    ) -> None:
        self.stream = stream
        self._durability = durability
        # Of `interval` alone: what was acknowledged has to be synced although nothing more comes.
        self._porter = Porter(durability) if durability.interval_ms is not None else None
        self.resumed = resumed
        self._data_dir = data_dir
        self._memo = noted
        self._lock = lock
        self._changing = threading.Lock()
        self._began_with = frozenset(shard.id for shard in stream.shards) if resumed else frozenset()

    @classmethod
    def open(
        cls,
        data_dir: DataDir,
        name: str,
        source: str,
        described: Description,
        listed: Sequence[SourceShard],
        beginning: Beginning,
        durability: Durability = FSYNC,
    ) -> CapturedStream:
        """Go on with a capture, or begin one: with the shards there are, but with LATEST only those not closed.

        Raises:
            RefusedError: the name breaks the rule, or belongs to a stream that was not captured from this source.
            BusyError: another process is capturing into it; the text names its pid.
            FailedError: it cannot be written.
        """
        fresh = Memo(source, described.created_ms, beginning, frozenset(shard.id for shard in listed))
        found = data_dir.find(name)
        if found is None:
            wanted = [shard for shard in listed if not (beginning.type == "LATEST" and shard.closed)]
            made = [_captured_shard(shard) for shard in parents_first(wanted)]
            found = data_dir.create_captured_stream(name, described.arn, described.kind, made)
        lock = FileLock(found.directory / _LOCK, found.disk)
        try:
            lock.acquire(f"the capture into stream {name!r}", 0)
        except OSError as error:
            raise FailedError(f"cannot write to {found.directory}: {error.strerror}") from error
        try:
            noted = memo.read(found)
            _check(found, noted, described)
            if noted is None:
                memo.write(found, fresh)
            return cls(data_dir, found, noted or fresh, lock, durability, resumed=noted is not None)
        except BaseException:
            lock.release()
            raise

    @property
    def beginning(self) -> Beginning:
        """Where the capture began, or begins."""
        return self._memo.beginning

    @property
    def losses(self) -> int:
        """How many losses have been noticed since the capture began."""
        return len(self._memo.losses)

    def wanted(self, listed: Iterable[SourceShard]) -> list[SourceShard]:
        """Return those of the source's shards that are captured: not those that were closed before a LATEST."""
        return [s for s in listed if s.id not in self._memo.listed or self.stream.shard(s.id) is not None]

    def is_finished(self, shard_id: str) -> bool:
        """Whether a shard has been captured to its end."""
        shard = self.stream.shard(shard_id)
        return shard is not None and not shard.open

    def add(self, shards: Sequence[SourceShard]) -> None:
        """Add shards that are not there yet.

        Raises:
            RefusedError: the stream was deleted.
            FailedError: it cannot be written.
        """
        with self._changing:
            new = [shard for shard in parents_first(shards) if self.stream.shard(shard.id) is None]
            if new:
                self.stream = self._data_dir.add_captured_shards(self.stream, map(_captured_shard, new))

    def open_log(self, shard_id: str) -> ShardLog:
        """Open the log of a shard that is not finished; it may have to be repaired first.

        Raises:
            BusyError: another process writes to it; the text names its pid.
            LogError: it is damaged or cannot be written.
        """
        shard = self._shard(shard_id)
        return ShardLog(shard, ShardWriter.open(shard, durability=self._durability), self._porter)

    def start_of(self, shard_id: str, log: ShardLog) -> Start:
        """Say where reading a shard goes on."""
        shard = self._shard(shard_id)
        beginning = self._memo.beginning if shard_id in self._memo.listed else Beginning("TRIM_HORIZON")
        return Start(beginning, log.stored(), shard.created_ms if shard_id in self._began_with else None)

    def finish(self, shard: SourceShard) -> None:
        """Close a shard that has been captured to its end; its `ShardLog` is closed, its children are there.

        Raises:
            RefusedError: the stream was deleted.
            FailedError: it cannot be written.
        """
        with self._changing:
            self.stream = reshard.close_shard(
                self._data_dir, self.stream, shard.id, ending_sequence_number=shard.ending_sequence_number
            )

    def lost(self, shard_id: str, losses: Iterable[Loss]) -> None:
        """Note losses, durably."""
        now_ms = time.time_ns() // 1_000_000
        with self._changing:
            self._memo = self._memo.with_losses(NotedLoss(shard_id, loss, now_ms) for loss in losses)
            memo.write(self.stream, self._memo)

    def close(self) -> None:
        """Let another process capture into it; its shards' logs are closed.  Harmless twice."""
        if self._porter is not None:
            self._porter.close()
        self._lock.release()

    def _shard(self, shard_id: str) -> Shard:
        shard = self.stream.shard(shard_id)
        assert shard is not None, f"{shard_id} was never added"
        return shard


class ShardLog:
    """The log of one shard, open for appending.  Not thread-safe; every call may wait for the disk."""

    def __init__(self, shard: Shard, writer: ShardWriter, porter: Porter | None) -> None:
        self._shard = shard
        self._writer = writer
        self._porter = porter
        if porter is not None:
            # Nobody is served: what is put here would stand between the records of the source.
            porter.add([writer], serve=False)
        self.repaired = writer.recovered

    def stored(self) -> Stored | None:
        """Return the last record that is there, None if there never was one.

        What was lost or found damaged behind it is captured anew, as far as the source has it.

        Raises:
            FailedError: it did not come from the source, or was trimmed away here and its number is not known.
        """
        ledger = gaps.read(self._shard)
        end = ledger.start_before(self._writer.committed_offset)
        if end == 0:
            return self._trimmed(ledger.gaps[0]) if ledger.horizon else None
        last = self._read(end - 1)
        if _given_here(last.sequence_number, end - 1):
            raise FailedError(
                f"shard {self._shard.id} of {self._shard.directory.parent} ends in a record that was put here: it "
                "cannot follow its source any more; record into another --stream"
            )
        return last

    def _trimmed(self, gap: gaps.Gap) -> Stored:
        """Return the last record of a log that retention has emptied: so old that nothing is taken for granted."""
        if gap.last_sequence_number is None:
            raise FailedError(
                f"shard {self._shard.id} of {self._shard.directory.parent}: its last record is gone ({gap}), and so it "
                "is not known where to go on: record into another --stream"
            )
        return Stored(gap.last_sequence_number, 0)

    def append(self, captured: Sequence[Captured]) -> None:
        """Append records, and return when they are durable.

        Raises:
            FailedError: the log refuses a record; the text names it.
            DiskFull: there is too little room.
            LogError: a write or a sync failed.
        """
        with self._porter.exclusive() if self._porter is not None else nullcontext():
            self._append(captured)

    def _append(self, captured: Sequence[Captured]) -> None:
        try:
            if self._shard.kind == DYNAMODB:
                self._writer.append_changes([one for one in captured if isinstance(one, NewChange)])
            else:
                self._writer.append([one for one in captured if isinstance(one, NewRecord)])
        except RefusedError as error:
            raise FailedError(f"shard {self._shard.id}: {error}") from error
        finally:
            self._writer.commit()

    def close(self) -> None:
        """Release the shard.

        Raises:
            LogError: the log could not be closed in order; it is released all the same.
        """
        if self._porter is not None:
            self._porter.remove(self._writer)
        self._writer.close()

    def _read(self, offset: int) -> Stored:
        with ShardReader.open(self._shard, offset) as reader:
            message = reader.poll(_TIP_BYTES)[-1]
            row = offset - message.first_offset
            if self._shard.kind == DYNAMODB:
                [change] = changes(message, row, 1)
                return Stored(change.sequence_number, change.creation_ms)
            [record] = records(message, row, 1)
            return Stored(record.sequence_number, record.arrival_ms)


def _given_here(sequence_number: str, offset: int) -> bool:
    """Whether a record's number is one that the log gave: those end in the record's offset, the source's do not."""
    return len(sequence_number) > OFFSET_DIGITS and sequence_number.endswith(f"{offset:0{OFFSET_DIGITS}d}")


def _check(stream: Stream, noted: Memo | None, described: Description) -> None:
    """Raise RefusedError unless a stream was captured, or is to be, from the source that is described."""
    if stream.arn != described.arn:
        raise RefusedError(
            f"stream {stream.name!r} exists and is {stream.arn}, not {described.arn}: choose another --stream"
        )
    if noted is None:
        if any(shard.end_offset or _has_records(shard) for shard in stream.shards):
            raise RefusedError(f"stream {stream.name!r} exists and was not recorded: choose another --stream")
    elif noted.source_created_ms != described.created_ms:
        raise RefusedError(
            f"{described.arn} is not the one that stream {stream.name!r} was recorded from: it was deleted and made "
            "again since; choose another --stream"
        )


def _has_records(shard: Shard) -> bool:
    with ShardReader.open(shard, 0) as reader:
        return reader.committed().end_offset > 0


def _captured_shard(shard: SourceShard) -> CapturedShard:
    return CapturedShard(shard.id, shard.start_hash, shard.end_hash, shard.parents)
