"""Group commit: many putters, one sync.

Each shard that is put to has a lane (lane.py): a list of what is waiting, and a thread that takes all of that list at
once, appends it as one message, syncs, and answers.  While a sync runs the list grows, so the more putters there
are, the more share a sync, and a lone one waits for nothing.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence

from streamfn import limits
from streamfn.clock import Clock
from streamfn.errors import LogError, RefusedError, ShardClosed
from streamfn.log.catalog import description
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.format.batch import check_record
from streamfn.log.format.changes import check_change, item_key
from streamfn.log.producer.answer import Answer, Placed, Then, settle
from streamfn.log.producer.lane import Lane
from streamfn.log.producer.part import New, Part
from streamfn.log.producer.relay import cut, weight
from streamfn.log.storage.durability import FSYNC, Durability
from streamfn.types import NewChange

# What may wait in all lanes together; a put beyond it waits for others to be done.
QUEUE_BYTES_MAX = 64 * limits.MIB
# A waiting record's own weight, beside its data and key: objects and column entries.
_RECORD_BYTES = 256

class _Put:
    """One call of `submit`: its future, and what the shards have answered so far."""

    __slots__ = ("answer", "parts_left", "placed", "size")

    def __init__(self, answer: Answer, records: int, parts: int, size: int) -> None:
        self.answer = answer
        self.placed: Placed = [("", "")] * records
        self.parts_left = parts
        self.size = size


class _LocalPart(Part):
    """The records of a put that go to one shard, and their places in the put."""

    __slots__ = ("places", "put")

    def __init__(
        self, put: _Put, places: Sequence[int], records: Sequence[New], durability: Durability, size: int
    ) -> None:
        super().__init__(records, durability, size)
        self.put = put
        self.places = places

    def placed(self, shard: Shard, first: int, base: str) -> None:
        """See `Part`."""
        placed = self.put.placed
        if self.alone:  # they brought their numbers along
            for place, record in zip(self.places, self.records, strict=True):
                placed[place] = (shard.id, record.sequence_number or "")
            return
        for offset, place in enumerate(self.places, first):
            placed[place] = (shard.id, f"{base}{offset:020d}")


class Producer:
    """Puts records into a stream's shards.  Thread-safe.

    A shard is opened for writing, or the process found that writes to it, when the first record for it comes.  Where
    one turns out to be closed, because it was split or merged, the stream is read anew and the records go to those
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
        self.wait_s = wait_s
        self.clock = clock
        # One lock for all lanes: held for a few instructions, and a put takes it once.
        self.lock = threading.Lock()
        self._queue_bytes_max = queue_bytes_max
        self._queued_bytes = 0
        self._room = threading.Condition(self.lock)
        self._waiting_for_room = 0
        self._closed = False
        self._lanes: dict[int, Lane] = {}
        # Lanes of closed shards that do not know it yet, or have puts under way all the same.
        self._late: set[Lane] = set()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def queued_bytes(self) -> int:
        """Roughly how many bytes wait to become durable."""
        return self._queued_bytes

    @property
    def last_guest_s(self) -> float:
        """When another process last put something through this one, on the monotonic clock; 0: never."""
        return max((lane.last_guest_s for lane in list(self._lanes.values())), default=0.0)

    def submit(
        self,
        records: Sequence[New],
        then: Then | None = None,
        durability: Durability | None = None,
    ) -> Answer:
        """Queue records; the future gives (shard id, sequence number) of each once all are durable.

        Waits while too much is queued, so a caller that must not wait looks at `queued_bytes` first.  Records
        for one shard stay in order and together (through another process, together as long as they have less than
        12 MiB).  What "durable" means for them is the producer's to say unless `durability` does.  The future fails
        with BusyError (a process that takes no puts of others writes to the shard), DiskFull or another LogError;
        then it is unknown whether the records are in the log.  `then` is described at `Answer`.

        Raises:
            RefusedError: a record breaks a limit, or no shard is open; nothing was queued.
            LogError: the producer is closed, or a shard cannot be reached at all; nothing was queued.
        """
        size = 0
        for record in records:
            size += _weigh(record)
        answer = Answer(then)
        if not records:
            settle([(answer, [], None)])
            return answer
        mode = durability or self.durability
        with self.lock:
            if self._queued_bytes and self._queued_bytes + size > self._queue_bytes_max:
                self._wait_for_room(size)
            if self._closed:
                raise LogError(f"the producer of stream {self.stream.name!r} is closed")
            if not self.stream.open_shards:
                raise RefusedError(f"stream {self.stream.name!r} has no open shard: nothing can be put into it")
            # All under the lock: two puts reach all their shards in the same order.
            if len(records) == 1:
                lane = self._lane(self.stream.shard_for(routing_key(records[0])))
                self._queued_bytes += size
                lane.add(_LocalPart(_Put(answer, 1, 1, size), (0,), records, mode, size))
            else:
                self._divide(answer, records, mode, size)
        return answer

    def close(self) -> None:
        """Wait until everything queued is answered, and release the shards.  Harmless twice.

        Raises:
            LogError: a shard could not be closed in order; all are released.
        """
        with self.lock:
            self._closed = True
            self._room.notify_all()
        problems = []
        while True:
            with self.lock:
                if not self._lanes:
                    break
                number, lane = next(iter(self._lanes.items()))
            lane.finish()  # which may move what waits there to lanes that are new
            with self.lock:
                self._lanes.pop(number, None)
            if lane.problem is not None:
                problems.append(lane.problem)
        if problems:
            raise problems[0]

    def answered(
        self, parts: Sequence[Part], error: Exception | None, turn: threading.Lock | None = None
    ) -> None:
        """Resolve what has all its parts; called by lanes."""
        done: list[_Put] = []
        with self.lock:
            for part in parts:
                assert isinstance(part, _LocalPart)
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
            settle([(put.answer, None, error) for put in done], turn)

    def moved(self, lane: Lane, parts: list[Part]) -> None:
        """Read the stream again, because a lane's shard is closed, and put what waits there where it goes now.

        Records of one key stay in order: what was put before is queued at the new shards before anything that is put
        from now on.  Other shards may have been closed with this one, and their lanes may not have found out yet; so
        the new shards' lanes stand behind those until they are moved, too, or have nothing left.

        Raises:
            ShardClosed: no shard of the stream is open any more.  `parts` are those that went nowhere.
            LogError: the stream cannot be read; likewise.
        """
        with self.lock:
            late = lane in self._late
            try:
                parts += lane.take_all()
                try:
                    stream = description.read(self.stream.directory, self.stream.disk)
                except OSError as error:
                    raise LogError(f"stream {self.stream.name!r} cannot be read again: {error.strerror}") from error
                closed = {shard.number for shard in stream.shards if not shard.open}
                for number, other in self._lanes.items():
                    if number in closed and lane in other.behind:  # closed before its turn had come
                        parts += other.take_all()
                if not stream.open_shards:
                    raise ShardClosed(f"stream {stream.name!r} has no open shard any more")
                self.stream = stream
                self._late |= {
                    other for number, other in self._lanes.items() if number in closed and not other.idle
                }
                self._route(parts, first=late)
            finally:
                self.cleared(lane)

    def cleared(self, lane: Lane) -> None:
        """See `Owner`."""
        if lane not in self._late:
            return
        self._late.remove(lane)
        for other in self._lanes.values():
            other.let_pass(lane)

    def _route(self, parts: list[Part], *, first: bool) -> None:
        """Queue parts where the stream as it is now has them, before what waits there or behind it."""
        queues: dict[int, tuple[Shard, list[Part]]] = {}
        for part in parts:
            assert isinstance(part, _LocalPart)
            groups = self._by_shard(part.records)
            if part.put.parts_left > 0:  # else another part failed, and it is answered
                part.put.parts_left += len(groups) - 1
            for shard, mine in groups:
                places = [part.places[i] for i in mine]
                records = [part.records[i] for i in mine]
                moved = _LocalPart(part.put, places, records, part.durability, part.size)
                queues.setdefault(shard.number, (shard, []))[1].append(moved)
        for shard, queue in queues.values():
            target = self._lane(shard)
            if first:
                target.add_first(queue)
            else:
                for part in queue:
                    target.add(part)

    def _wait_for_room(self, size: int) -> None:
        self._waiting_for_room += 1
        try:
            while (
                self._queued_bytes and self._queued_bytes + size > self._queue_bytes_max and not self._closed
            ):
                self._room.wait()
        finally:
            self._waiting_for_room -= 1

    def _divide(self, answer: Answer, records: Sequence[New], durability: Durability, size: int) -> None:
        """Queue the records of one put at their shards, in pieces that can be sent to another process."""
        pieces = [
            (self._lane(shard), places, piece)
            for shard, mine in self._by_shard(records)
            for places, piece in _pieces(mine, records)
        ]
        put = _Put(answer, len(records), len(pieces), size)
        self._queued_bytes += size
        for lane, places, piece in pieces:
            lane.add(_LocalPart(put, places, piece, durability, size))

    def _by_shard(self, records: Sequence[New]) -> list[tuple[Shard, Sequence[int]]]:
        if len(self.stream.open_shards) == 1:
            return [(self.stream.open_shards[0], range(len(records)))]
        places: dict[int, tuple[Shard, list[int]]] = {}
        for place, record in enumerate(records):
            shard = self.stream.shard_for(routing_key(record))
            places.setdefault(shard.number, (shard, []))[1].append(place)
        return list(places.values())

    def _lane(self, shard: Shard) -> Lane:
        lane = self._lanes.get(shard.number)
        if lane is None:
            try:
                lane = self._lanes[shard.number] = Lane(self, shard)
            except OSError as error:
                why = f"{error.strerror}" + (" (a shard takes 8: ulimit -n)" if error.errno == errno.EMFILE else "")
                raise LogError(f"cannot put to shard {shard.id} of stream {self.stream.name!r}: {why}") from error
            lane.behind = {other for other in self._late if _overlap(other.shard, shard)}
        return lane


def _overlap(one: Shard, other: Shard) -> bool:
    """Whether keys of one shard may have become keys of another."""
    ranged = one.ranged and other.ranged
    return not ranged or (one.start_hash <= other.end_hash and other.start_hash <= one.end_hash)


def routing_key(record: New) -> str:
    """Return the text whose hash says to which shard a record goes: an item's changes all go to one."""
    return item_key(record.keys) if isinstance(record, NewChange) else record.partition_key


def _weigh(record: New) -> int:
    if isinstance(record, NewChange):
        check_change(record)
        return weight(record)
    check_record(record)
    return len(record[0]) + len(record[1]) + _RECORD_BYTES


def _pieces(places: Sequence[int], records: Sequence[New]) -> Iterator[tuple[Sequence[int], Sequence[New]]]:
    mine = records if len(places) == len(records) else [records[place] for place in places]
    start = 0
    for piece in cut(mine):
        yield places[start : start + len(piece)], piece
        start += len(piece)
