"""Group commit: many putters, one sync.

Each shard that is put to has a lane: its writer, a list of what is waiting, and a thread that takes all of
that list at once, appends it as one message, syncs, and answers.  While a sync runs the list grows, so the
more putters there are, the more share a sync, and a lone one waits for nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

from streamfn import limits
from streamfn.clock import Clock
from streamfn.errors import LogError
from streamfn.log.batch import check_record
from streamfn.log.stream import Shard, Stream
from streamfn.log.writer import ShardWriter
from streamfn.types import NewRecord

# What may wait in all lanes together; a put beyond it waits for others to be done.
QUEUE_BYTES_MAX = 64 * limits.MIB
# A waiting record's own weight, beside its data and key: objects and column entries.
_RECORD_BYTES = 256

Placed = list[tuple[str, str]]


class _Put:
    """One call of `submit`: its future, and what the shards have answered so far."""

    __slots__ = ("future", "parts_left", "placed", "size")

    def __init__(self, records: int, parts: int, size: int) -> None:
        self.future: Future[Placed] = Future()
        self.future.set_running_or_notify_cancel()  # what is queued will be appended: no way back
        self.placed: Placed = [("", "")] * records
        self.parts_left = parts
        self.size = size


class _Part(NamedTuple):
    """The records of a put that go to one shard, and their places in the put."""

    put: _Put
    places: Sequence[int]
    records: Sequence[NewRecord]


class Producer:
    """Puts records into a stream's shards.  Thread-safe.

    Shards are opened for writing, and their locks taken, when the first record for them comes.  Close it,
    or use it as a context manager.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        wait_s: float = 5.0,
        clock: Clock | None = None,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
    ) -> None:
        self.stream = stream
        self._wait_s = wait_s
        self._clock = clock
        self._queue_bytes_max = queue_bytes_max
        self._queued_bytes = 0
        # One lock for all lanes: held for a few instructions, and a put takes it once.
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._closed = False
        self._lanes: dict[str, _Lane] = {}

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def queued_bytes(self) -> int:
        """Roughly how many bytes wait to become durable."""
        return self._queued_bytes

    def submit(self, records: Sequence[NewRecord]) -> Future[Placed]:
        """Queue records; the future gives (shard id, sequence number) of each once all are durable.

        Waits while too much is queued, so a caller that must not wait looks at `queued_bytes` first.  Records
        for one shard stay in order and together.  The future fails with BusyError (another process writes to
        the shard), DiskFull or another LogError; then it is unknown whether the records are in the log.

        Raises:
            RefusedError: a record breaks a limit; nothing was queued.
            LogError: the producer is closed.
        """
        size = 0
        for record in records:
            check_record(record)
            size += len(record.data) + len(record.partition_key) + _RECORD_BYTES
        parts = self._by_shard(records)
        put = _Put(len(records), len(parts), size)
        if not parts:
            put.future.set_result([])
            return put.future
        with self._lock:
            while (
                self._queued_bytes and self._queued_bytes + size > self._queue_bytes_max and not self._closed
            ):
                self._room.wait()
            if self._closed:
                raise LogError(f"the producer of stream {self.stream.name!r} is closed")
            self._queued_bytes += size
            # All under the lock: two puts reach all their shards in the same order.
            for shard, places in parts:
                self._lane(shard).add(_Part(put, places, [records[place] for place in places]))
        return put.future

    def close(self) -> None:
        """Wait until everything queued is answered, and release the shards.  Harmless twice.

        Raises:
            LogError: a shard could not be closed in order; all are released.
        """
        with self._lock:
            self._closed = True
            self._room.notify_all()
        for lane in self._lanes.values():
            lane.finish()
        problems = [lane.problem for lane in self._lanes.values() if lane.problem]
        self._lanes.clear()
        if problems:
            raise problems[0]

    def _by_shard(self, records: Sequence[NewRecord]) -> list[tuple[Shard, Sequence[int]]]:
        if len(self.stream.open_shards) == 1:
            return [(self.stream.open_shards[0], range(len(records)))] if records else []
        if len(records) == 1:
            return [(self.stream.shard_for(records[0].partition_key), (0,))]
        places: dict[str, tuple[Shard, list[int]]] = {}
        for place, record in enumerate(records):
            shard = self.stream.shard_for(record.partition_key)
            places.setdefault(shard.id, (shard, []))[1].append(place)
        return list(places.values())

    def _lane(self, shard: Shard) -> _Lane:
        lane = self._lanes.get(shard.id)
        if lane is None:
            lane = self._lanes[shard.id] = _Lane(self, shard)
        return lane

    def _answered(self, parts: Sequence[_Part], error: BaseException | None) -> None:
        """Resolve what has all its parts; called by lanes."""
        done: list[_Put] = []
        with self._lock:
            for put, _, _ in parts:
                put.parts_left -= 1
                if error is not None and put.parts_left >= 0:
                    put.parts_left = 0  # the first failure answers for all
                    done.append(put)
                    self._queued_bytes -= put.size
                elif put.parts_left == 0:
                    done.append(put)
                    self._queued_bytes -= put.size
            self._room.notify_all()
        for put in done:
            if error is not None:
                put.future.set_exception(error)
            else:
                put.future.set_result(put.placed)


class _Lane:
    """One shard's writer and the thread that owns it."""

    def __init__(self, producer: Producer, shard: Shard) -> None:
        self.problem: LogError | None = None
        self._producer = producer
        self._shard = shard
        self._writer: ShardWriter | None = None
        self._waiting: list[_Part] = []
        self._closing = False
        self._changed = threading.Condition(producer._lock)
        self._thread = threading.Thread(target=self._run, name=f"put {shard.id}", daemon=True)
        self._thread.start()

    def add(self, part: _Part) -> None:
        """Queue a part, under the producer's lock, and wake the thread if it sleeps."""
        self._waiting.append(part)
        if len(self._waiting) == 1:
            self._changed.notify()

    def finish(self) -> None:
        """Answer what is queued, close the writer, end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while parts := self._take():
            error: BaseException | None = None
            try:
                self._append(parts)
            except Exception as caught:  # the boundary of this thread: who waits is told, whatever it was
                error = caught
            self._producer._answered(parts, error)
        if self._writer is not None:
            try:
                self._writer.close()
            except LogError as error:
                self.problem = error

    def _take(self) -> list[_Part]:
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            parts, self._waiting = self._waiting, []
        return parts

    def _append(self, parts: list[_Part]) -> None:
        producer = self._producer
        if self._writer is None:
            self._writer = ShardWriter.open(self._shard, wait_s=producer._wait_s, clock=producer._clock)
        writer = self._writer
        offset = writer.append([record for part in parts for record in part.records]).start
        writer.commit()
        for put, places, _ in parts:
            for place in places:
                put.placed[place] = (self._shard.id, writer.sequence_number(offset))
                offset += 1
