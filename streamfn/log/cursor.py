"""Reading a stream as one sequence: a cursor per shard, merged by arrival time.

Each shard's order is kept whatever its times are: only the heads of the shards are compared.  What is held
in memory is a few records per shard.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence

from streamfn.limits import MIB
from streamfn.log.reader import Message, ShardReader, records
from streamfn.log.stream import Shard
from streamfn.types import Record

# Records of one message that exist as Python objects at a time.
_ROWS = 256


class ShardCursor:
    """The records of one shard, one after the other; a context manager."""

    def __init__(self, shard: Shard, offset: int, until_offset: int | None) -> None:
        """Begin at `offset`; end before `until_offset`, or (None) never."""
        self.shard = shard
        self._next = offset
        self._until = until_offset
        self._reader = ShardReader.open(shard, offset)
        self._messages: deque[Message] = deque()

    def __enter__(self) -> ShardCursor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._reader.close()

    def __iter__(self) -> Iterator[Record]:
        """Yield what is there; when it is exhausted, iterate again for what has come since."""
        while self._until is None or self._next < self._until:
            if not self._messages:
                self._messages.extend(self._reader.poll(MIB, self._until))
            if not self._messages:
                return
            message = self._messages[0]
            for record in records(message, self._next - message.first_offset, self._wanted(message)):
                self._next = record.offset + 1
                yield record
            if self._next >= message.first_offset + message.rows:
                self._messages.popleft()

    def _wanted(self, message: Message) -> int:
        end = message.first_offset + message.rows
        if self._until is not None:
            end = min(end, self._until)
        return min(_ROWS, end - self._next)


def merged(cursors: Sequence[ShardCursor]) -> Iterator[tuple[Shard, Record]]:
    """Yield what the cursors have, by arrival time; equal times in the order of the shards."""

    def labelled(number: int, cursor: ShardCursor) -> Iterator[tuple[int, int, Record]]:
        # The latest time so far stands for a record that came late, so that it does not hold up its shard.
        latest = 0
        for record in cursor:
            latest = max(latest, record.arrival_ms)
            yield latest, number, record

    streams = [labelled(number, cursor) for number, cursor in enumerate(cursors)]
    for _, number, record in heapq.merge(*streams, key=lambda item: item[:2]):
        yield cursors[number].shard, record
