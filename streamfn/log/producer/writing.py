"""The writer's part of a lane: a shard opened for writing, and the other processes that put through it."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from streamfn.clock import Clock
from streamfn.errors import FailedError, LogError, StreamfnError
from streamfn.log.catalog.stream import Shard
from streamfn.log.producer.guests import GuestPart, Guests
from streamfn.log.producer.part import Part, run_of
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.durability import strongest


class Writing:
    """Belongs to the thread that has the writer."""

    def __init__(self, writer: ShardWriter, poll: select.epoll, *, releases: bool = True) -> None:
        """Serve others through an open writer; `releases` says whether it can be asked to let go of its shard."""
        self._writer = writer
        self.guests = Guests(
            writer.shard, poll, writer.epoch, writer.sequence_base, writer.end_offset, releases=releases
        )
        # When to look whether anybody wants to come in, on the monotonic clock.
        self.look_s = 0.0
        # When what is acknowledged under `interval` has to be on the disk at the latest, on the monotonic clock.
        self._sync_by_s: float | None = None
        # What came with parts that could not be appended together with them.
        self.held: list[Part] = []

    @classmethod
    def open(cls, shard: Shard, poll: select.epoll, clock: Clock | None) -> Writing:
        """Take the shard's lock, if it is free, and serve others.

        Raises:
            BusyError, ShardClosed, LogError, FailedError: as ShardWriter.open.
        """
        return cls(ShardWriter.open(shard, wait_s=0, clock=clock), poll)

    @property
    def base(self) -> str:
        """What sequence numbers given here begin with."""
        return self._writer.sequence_base

    def first_run(self, parts: list[Part]) -> list[Part]:
        """Return the parts that can be appended as one, and hold back the others."""
        count = run_of(parts) if parts else 0
        self.held = parts[count:]
        return parts if count == len(parts) else parts[:count]

    def append(self, parts: Sequence[Part]) -> Exception | None:
        """Append a run of parts, and tell each where it is; what went wrong is returned."""
        writer = self._writer
        writer.durability = strongest([part.durability for part in parts])  # each group has its own
        try:
            if self.guests.present:
                self.guests.note(parts, writer.end_offset)
            records: Any = parts[0].records
            if len(parts) > 1:
                records = [record for part in parts for record in part.records]
            appended = writer.append_changes(records) if parts[0].changes else writer.append(records)
        except Exception as error:  # the boundary of the lane's thread: who waits is told, whatever it was
            return error
        first = appended.start
        for part in parts:
            part.placed(writer.shard, first, writer.sequence_base)
            first += len(part.records)
        return None

    def commit(self) -> Exception | None:
        """Make what was appended as durable as the parts ask; what went wrong is returned."""
        writer = self._writer
        try:
            writer.commit()
        except Exception as error:  # as in `append`
            return error
        if writer.synced_offset == writer.end_offset:
            self._sync_by_s = None
        elif writer.durability.interval_ms is not None:
            by_s = time.monotonic() + writer.durability.interval_ms / 1000
            self._sync_by_s = by_s if self._sync_by_s is None else min(self._sync_by_s, by_s)
        return None

    def answer(self, parts: list[Part], error: Exception | None) -> list[Part]:
        """Answer the parts that came from other processes, and return the others."""
        if not self.guests.present:
            return [part for part in parts if not isinstance(part, GuestPart)]
        told = error if error is None or isinstance(error, StreamfnError) else FailedError(repr(error))
        self.guests.answer(parts, told, self._writer.sequence_base)
        return [part for part in parts if not isinstance(part, GuestPart)]

    def sync_in(self, now_s: float) -> float | None:
        """In how many seconds something that was acknowledged has to be synced; None: nothing has."""
        return None if self._sync_by_s is None else max(0.0, self._sync_by_s - now_s)

    def sync_if_due(self, now_s: float) -> None:
        """Sync what was acknowledged long enough ago.  If that fails the writer is fenced, and the next put is told."""
        if self._sync_by_s is not None and now_s >= self._sync_by_s:
            self._sync_by_s = None
            with suppress(LogError):
                self._writer.sync()

    def close(self) -> None:
        """Say goodbye to the others and release the shard.

        Raises:
            LogError: the last commit failed; the shard is released all the same.
        """
        self.guests.close()
        try:
            self._writer.close()
        finally:
            self.guests.part()
