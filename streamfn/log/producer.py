"""Group commit: many putters, one sync.

Each shard that is put to has a lane: its writer, a list of what is waiting, and a thread that takes all of
that list at once, appends it as one message, syncs, and answers.  While a sync runs the list grows, so the
more putters there are, the more share a sync, and a lone one waits for nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from streamfn import limits
from streamfn.clock import Clock
from streamfn.errors import LogError, RefusedError, ShardClosed
from streamfn.log import description
from streamfn.log.answer import Answer, Placed, settle
from streamfn.log.batch import check_record
from streamfn.log.durability import FSYNC, Durability
from streamfn.log.stream import Shard, Stream
from streamfn.log.writer import ShardWriter
from streamfn.types import NewRecord

# What may wait in all lanes together; a put beyond it waits for others to be done.
QUEUE_BYTES_MAX = 64 * limits.MIB
# A waiting record's own weight, beside its data and key: objects and column entries.
_RECORD_BYTES = 256
# What is written, at most, between a sync and the answers to it: well under a millisecond.
_BEFORE_ANSWER_BYTES = 256 * 1024
# From so many puts in a group on, the next group waits, at most so long, until they have been told.
_TURN_PUTS = 8
_TURN_S = 0.001


class _Put:
    """One call of `submit`: its future, and what the shards have answered so far."""

    __slots__ = ("answer", "parts_left", "placed", "size")

    def __init__(self, answer: Answer, records: int, parts: int, size: int) -> None:
        self.answer = answer
        self.placed: Placed = [("", "")] * records
        self.parts_left = parts
        self.size = size


class _Part:
    """The records of a put that go to one shard, and their places in the put."""

    __slots__ = ("places", "put", "records")

    def __init__(self, put: _Put, places: Sequence[int], records: Sequence[NewRecord]) -> None:
        self.put = put
        self.places = places
        self.records = records


class Producer:
    """Puts records into a stream's shards.  Thread-safe.

    Shards are opened for writing, and their locks taken, when the first record for them comes.  Where a shard
    turns out to be closed, because it was split or merged, the stream is read anew and the records go to those
    that took over its keys, in the order in which they were put.  Close it, or use it as a context manager.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        durability: Durability = FSYNC,
        wait_s: float = 5.0,
        clock: Clock | None = None,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
    ) -> None:
        self.stream = stream
        self.durability = durability
        self._wait_s = wait_s
        self._clock = clock
        self._queue_bytes_max = queue_bytes_max
        self._queued_bytes = 0
        # One lock for all lanes: held for a few instructions, and a put takes it once.
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._waiting_for_room = 0
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

    def submit(
        self,
        records: Sequence[NewRecord],
        then: Callable[[list[Answer]], None] | None = None,
        durability: Durability | None = None,
    ) -> Answer:
        """Queue records; the future gives (shard id, sequence number) of each once all are durable.

        Waits while too much is queued, so a caller that must not wait looks at `queued_bytes` first.  Records
        for one shard stay in order and together.  The future fails with BusyError (another process writes to
        the shard), DiskFull or another LogError; then it is unknown whether the records are in the log.
        `then` is described at `Answer`.

        Raises:
            RefusedError: a record breaks a limit, or no shard is open; nothing was queued.
            LogError: the producer is closed.
        """
        size = 0
        for record in records:
            check_record(record)
            size += len(record[0]) + len(record[1]) + _RECORD_BYTES
        answer = Answer(then)
        if not records:
            settle([(answer, [], None)])
            return answer
        with self._lock:
            if self._queued_bytes and self._queued_bytes + size > self._queue_bytes_max:
                self._wait_for_room(size)
            if self._closed:
                raise LogError(f"the producer of stream {self.stream.name!r} is closed")
            if not self.stream.open_shards:
                raise RefusedError(f"stream {self.stream.name!r} has no open shard: nothing can be put into it")
            self._queued_bytes += size
            # All under the lock: two puts reach all their shards in the same order.
            if len(records) == 1:
                put = _Put(answer, 1, 1, size)
                self._lane(self.stream.shard_for(records[0].partition_key)).add(_Part(put, (0,), records))
            else:
                self._divide(answer, records, size)
        return answer

    def close(self) -> None:
        """Wait until everything queued is answered, and release the shards.  Harmless twice.

        Raises:
            LogError: a shard could not be closed in order; all are released.
        """
        with self._lock:
            self._closed = True
            self._room.notify_all()
        problems: list[LogError] = []
        while lane := self._next_to_close():  # one whose shard was closed may make more of them
            lane.finish()
            if lane.problem:
                problems.append(lane.problem)
        if problems:
            raise problems[0]

    def _next_to_close(self) -> _Lane | None:
        with self._lock:
            return self._lanes.popitem()[1] if self._lanes else None

    def _wait_for_room(self, size: int) -> None:
        self._waiting_for_room += 1
        while (
            self._queued_bytes and self._queued_bytes + size > self._queue_bytes_max and not self._closed
        ):
            self._room.wait()
        self._waiting_for_room -= 1

    def _divide(self, answer: Answer, records: Sequence[NewRecord], size: int) -> None:
        put = _Put(answer, len(records), 0, size)
        put.parts_left = self._spread(put, range(len(records)), records)

    def _spread(self, put: _Put, places: Sequence[int], records: Sequence[NewRecord]) -> int:
        """Queue these records of a put, which have those places in it, and return in how many parts.

        The lock is held.
        """
        mine: dict[str, tuple[Shard, list[int]]] = {}
        for index, record in enumerate(records):
            shard = self.stream.shard_for(record.partition_key)
            mine.setdefault(shard.id, (shard, []))[1].append(index)
        for shard, found in mine.values():
            if len(found) == len(records):
                part = _Part(put, places, records)
            else:
                part = _Part(put, [places[index] for index in found], [records[index] for index in found])
            self._lane(shard).add(part)
        return len(mine)

    def _reread(self) -> None:
        """A shard was closed: learn which took over its keys; the lock is held."""
        try:
            stream = description.read(self.stream.directory, self.stream.disk)
        except OSError as error:
            raise LogError(f"stream {self.stream.name!r} cannot be read again: {error.strerror}") from error
        if not stream.open_shards:
            raise ShardClosed(f"stream {stream.name!r} has no open shard any more")
        self.stream = stream

    def _lane(self, shard: Shard) -> _Lane:
        lane = self._lanes.get(shard.id)
        if lane is None:
            lane = self._lanes[shard.id] = _Lane(self, shard)
        return lane

    def _answered(
        self, parts: Sequence[_Part], error: BaseException | None, turn: threading.Lock | None = None
    ) -> None:
        """Resolve what has all its parts; called by lanes."""
        done: list[_Put] = []
        with self._lock:
            for part in parts:
                put = part.put
                # The first failure answers for all parts.
                put.parts_left = put.parts_left - 1 if error is None or put.parts_left <= 0 else 0
                if put.parts_left == 0:
                    done.append(put)
                    self._queued_bytes -= put.size
            if self._waiting_for_room:
                self._room.notify_all()
        if error is None:
            settle([(put.answer, put.placed, None) for put in done], turn)
        else:
            settle([(put.answer, None, error) for put in done])


class _Lane:
    """One shard's writer and the thread that owns it."""

    def __init__(self, producer: Producer, shard: Shard) -> None:
        self.problem: LogError | None = None
        self._producer = producer
        self._shard = shard
        self._writer: ShardWriter | None = None
        self._waiting: list[_Part] = []
        self._closing = False
        self._asleep = False
        # Held while the thread sleeps; who finds it asleep lets it go, once, under the producer's lock.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._thread = threading.Thread(target=self._run, name=f"put {shard.id}", daemon=True)
        self._thread.start()

    def add(self, part: _Part) -> None:
        """Queue a part, under the producer's lock, and wake the thread if it sleeps."""
        self._waiting.append(part)
        if self._asleep:
            self._rouse()

    def finish(self) -> None:
        """Answer what is queued, close the writer, end the thread."""
        with self._producer._lock:
            self._closing = True
            if self._asleep:
                self._rouse()
        self._thread.join()

    def _rouse(self) -> None:
        self._asleep = False
        self._wake.release()

    def _run(self) -> None:
        durable: list[_Part] = []
        while True:
            parts = self._take(wait=not durable)
            # Who is answered at once wants the GIL at once, all of them; so the next group is written before
            # that, while they sleep, unless writing it takes long.
            if durable and _bytes(parts) > _BEFORE_ANSWER_BYTES:
                self._producer._answered(durable, None)
                durable = []
            error = self._attempt(self._append, parts) if parts else None
            moved = isinstance(error, ShardClosed)
            if moved:
                error = self._attempt(self._route_anew, parts)
                parts = parts if error is not None else []
            turn = self._answer(durable)
            if not parts and not durable and not moved:
                break
            if parts and error is None:
                error = self._attempt(self._commit, parts)
            if error is not None:
                self._producer._answered(parts, error)
            durable = parts if error is None else []
            if turn is not None:
                turn.acquire(timeout=_TURN_S)
        if self._writer is not None:
            try:
                self._writer.close()
            except LogError as error:
                self.problem = error

    def _answer(self, durable: list[_Part]) -> threading.Lock | None:
        """Answer what is durable.  The lock, if any, comes free when all who were answered are awake.

        Many who put and wait, and were answered together, put again together in a moment: waiting for them
        makes the groups twice as large (16 and 31 of 64 putters), and syncs are what there are fewest of.
        """
        turn = None
        if len(durable) >= _TURN_PUTS:
            turn = threading.Lock()
            turn.acquire()
        if durable:
            self._producer._answered(durable, None, turn)
        return turn

    def _attempt(self, step: Callable[[list[_Part]], None], parts: list[_Part]) -> Exception | None:
        try:
            step(parts)
        except Exception as caught:  # the boundary of this thread: who waits is told, whatever it was
            return caught
        return None

    def _take(self, *, wait: bool) -> list[_Part]:
        """Return all that waits: nothing if the lane is closing, or if we are not to `wait` for it."""
        while True:
            with self._producer._lock:
                if self._waiting or self._closing or not wait:
                    parts, self._waiting = self._waiting, []
                    return parts
                self._asleep = True
            self._wake.acquire()

    def _append(self, parts: list[_Part]) -> None:
        producer = self._producer
        if self._writer is None:
            self._writer = ShardWriter.open(self._shard, wait_s=producer._wait_s, clock=producer._clock)
        writer = self._writer
        offset = writer.append([record for part in parts for record in part.records]).start
        for part in parts:
            placed = part.put.placed
            for place in part.places:
                placed[place] = (self._shard.id, writer.sequence_number(offset))
                offset += 1

    def _route_anew(self, parts: list[_Part]) -> None:
        """Give what was meant for this shard, which is closed, to the lanes of those that took over its keys."""
        producer = self._producer
        with producer._lock:
            producer._reread()
            parts, self._waiting = parts + self._waiting, []
            for part in parts:
                made = producer._spread(part.put, part.places, part.records)
                if part.put.parts_left > 0:  # else another part failed, and it is answered
                    part.put.parts_left += made - 1

    def _commit(self, parts: list[_Part]) -> None:
        assert self._writer is not None
        self._writer.commit()


def _bytes(parts: list[_Part]) -> int:
    return sum(part.put.size for part in parts)
