"""Reading a stream as one sequence: a cursor per shard, merged by time of arrival or creation.

Each shard's order is kept whatever its times are: only the heads of the shards are compared.  What is held
in memory is a few records per shard.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress

from streamfn.limits import MIB
from streamfn.log.catalog import description
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.segment.rows import Row, rows, time_ms
from streamfn.log.shard.gaps import Gap
from streamfn.log.shard.reader import Message, ShardReader
from streamfn.log.shard.watch import CommitWatch

# Records of one message that exist as Python objects at a time.
_ROWS = 256


class ShardCursor:
    """The records of one shard, one after the other; a context manager."""

    def __init__(self, shard: Shard, offset: int, until_offset: int | None) -> None:
        """Begin at `offset`; end before `until_offset`, or (None) never.  `gaps` are those passed over."""
        self.shard = shard
        self.gaps: list[Gap] = []
        self._next = offset
        self._until = until_offset
        self._reader = ShardReader.open(shard, offset)
        self._messages: deque[Message] = deque()

    def __enter__(self) -> ShardCursor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._reader.close()

    def __iter__(self) -> Iterator[Row]:
        """Yield what is there; when it is exhausted, iterate again for what has come since."""
        while self._until is None or self._next < self._until:
            if not self._messages:
                self._messages.extend(self._reader.poll(MIB, self._until))
            if self._reader.gap is not None:
                self.gaps.append(self._reader.skip())
                self._next = self._reader.position
                continue
            if not self._messages:
                return
            message = self._messages[0]
            for record in rows(message, self._next - message.first_offset, self._wanted(message)):
                self._next = record.offset + 1
                yield record
            if self._next >= message.first_offset + message.rows:
                self._messages.popleft()

    def _wanted(self, message: Message) -> int:
        end = message.first_offset + message.rows
        if self._until is not None:
            end = min(end, self._until)
        return min(_ROWS, end - self._next)


class Followed:
    """A stream as it grows, by records and by shards; a context manager.

    `fileno()` becomes readable when `fresh` has something to say.
    """

    def __init__(self, stream: Stream, starts: Sequence[int]) -> None:
        """Stand at an offset in each of the stream's shards; those that it got since begin with their first record."""
        self.stream = stream
        self.cursors: list[ShardCursor] = []
        with ExitStack() as stack:
            self._watch: CommitWatch[int] = stack.enter_context(CommitWatch())
            self._watch.add(stream, -1)
            self._stack = stack
            for shard, start in zip(stream.shards, starts, strict=True):
                self._add(shard, start)
            self._reread()
            self._stack = stack.pop_all()

    def __enter__(self) -> Followed:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._watch.fileno()

    def fresh(self) -> list[ShardCursor]:
        """Return the cursors that may have more since the last call, new ones included.  Never waits for records."""
        told = self._watch.drain()
        known = len(self.cursors)
        if -1 in told:
            self._reread()
        return [self.cursors[number] for number in sorted(told - {-1} | set(range(known, len(self.cursors))))]

    def close(self) -> None:
        """Let everything go."""
        self._stack.close()

    def _reread(self) -> None:
        with suppress(FileNotFoundError):  # the stream was deleted: who follows it looks by itself
            self.stream = description.read(self.stream.directory, self.stream.disk)
        for shard in self.stream.shards[len(self.cursors) :]:
            self._add(shard, 0)

    def _add(self, shard: Shard, start: int) -> None:
        self._watch.add(shard, len(self.cursors))  # before it is opened, or what comes between goes unnoticed
        self.cursors.append(self._stack.enter_context(ShardCursor(shard, start, None)))


def merged(cursors: Sequence[ShardCursor]) -> Iterator[tuple[Shard, Row]]:
    """Yield what the cursors have, by time; equal times in the order of the shards."""

    def labelled(number: int, cursor: ShardCursor) -> Iterator[tuple[int, int, Row]]:
        # The latest time so far stands for a record that came late, so that it does not hold up its shard.
        latest = 0
        for record in cursor:
            latest = max(latest, time_ms(record))
            yield latest, number, record

    streams = [labelled(number, cursor) for number, cursor in enumerate(cursors)]
    for _, number, record in heapq.merge(*streams, key=lambda item: item[:2]):
        yield cursors[number].shard, record
