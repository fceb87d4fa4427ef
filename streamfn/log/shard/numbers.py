"""The sequence numbers that a shard holds: the last one, where one is, and whether some are among them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

from streamfn.log.catalog.stream import Shard, Stream, sequence_order
from streamfn.log.format.layout import DYNAMODB, LAYOUTS
from streamfn.log.segment import rows
from streamfn.log.shard import gaps
from streamfn.log.shard.chain import read_chain
from streamfn.log.shard.reader import Message, ShardReader, horizon, poll_or_skip

if TYPE_CHECKING:
    import pyarrow as pa


def last_sequence_number(shard: Shard) -> str | None:
    """Return the sequence number of the last committed record, None if there is none any more.

    Raises:
        LogDamaged: the message that should hold it is damaged.
        LogError: a file cannot be read.
    """
    with ShardReader.open(shard, horizon(shard)) as reader:
        end = reader.committed().end_offset
    ledger = gaps.read(shard)
    last = ledger.start_before(end) - 1  # what was lost may stand at the log's end
    if last < ledger.horizon:
        return None
    return _number_at(shard, last)


def sequence_numbers(message: Message, first_row: int = 0) -> list[str]:
    """Return the sequence numbers of a message from a row on."""
    read = rows.changes if LAYOUTS[message.cdata.layout] is DYNAMODB else rows.records
    return [record.sequence_number for record in read(message, first_row)]


def offset_of(shard: Shard, number: str) -> int | None:
    """Return the offset of the record with a sequence number, None if the shard has none with it (any more).

    Costs and errors: as `offset_from`.
    """
    offset, is_there = offset_from(shard, number)
    return offset if is_there else None


def offset_from(shard: Shard, number: str) -> tuple[int, bool]:
    """Return the offset of the first record whose sequence number is not below `number`, and whether it has that one.

    The committed end if there is none. Reads the last record of some segments, and of one segment what lies before the
    record.

    Raises:
        LogDamaged: the log is damaged on the way.
        LogError: a file cannot be read.
    """
    wanted = sequence_order(number)
    first = horizon(shard)
    ends = [
        link.end_offset
        for link in read_chain(shard).links
        if link.end_offset is not None and link.end_offset > max(first, link.file.first_offset)
    ]
    passed = bisect_left(ends, wanted, key=lambda end: sequence_order(_number_at(shard, end - 1)))
    with ShardReader.open(shard, ends[passed - 1] if passed else first) as reader:
        committed = reader.committed().end_offset
        while reader.position < committed:
            for message in poll_or_skip(reader, committed):
                if sequence_order(sequence_numbers(message, message.rows - 1)[0]) < wanted:
                    continue
                numbers = sequence_numbers(message)
                row = bisect_left(numbers, wanted, key=sequence_order)
                return message.first_offset + row, numbers[row] == number
    return committed, False


def sequence_number_at(shard: Shard, offset: int) -> str | None:
    """Return the sequence number of the record at an offset below the committed end; None where it is gone.

    Raises:
        LogDamaged: the message that should hold it is damaged.
        LogError: a file cannot be read.
    """
    with ShardReader.open(shard, offset) as reader:
        found = reader.poll(1)
        return sequence_numbers(found[0], offset - found[0].first_offset)[0] if found else None


def _number_at(shard: Shard, offset: int) -> str:
    number = sequence_number_at(shard, offset)
    assert number is not None, "asked of offsets that are there"
    return number


class Membership:
    """Whether sequence numbers are in a shard; questions that rise go through its log once."""

    def __init__(self, stream: Stream, shard: Shard) -> None:
        self._stream = stream
        self._shard = shard
        self._batches: Iterator[pa.Array] = iter(())
        self._current: pa.Array | None = None
        # Below it numbers are taken as held: the shard was trimmed.
        self._trimmed_below: tuple[int, str] = (0, "")

    def missing(self, numbers: pa.Array) -> int | None:
        """Return the place of the first of `numbers`, which rise, that the shard does not hold; None if it holds all.

        Those below the first one that is still there count as held, if anything was ever trimmed.

        Raises:
            LogDamaged: the log is damaged on the way.
            LogError: a file cannot be read.
        """
        import pyarrow.compute as pc

        if not len(numbers):
            return None
        fresh = self._current is None or _order(numbers[0]) < _order(self._current[0])
        if fresh:
            self._restart()
        place = bisect_left(range(len(numbers)), self._trimmed_below, key=lambda i: _order(numbers[i]))
        while place < len(numbers):
            while self._current is not None and _order(self._current[-1]) < _order(numbers[place]):
                self._current = next(self._batches, None)
                if self._current is None and not fresh:  # the shard may have grown since this passage began
                    fresh = True
                    self._restart()
            if self._current is None:
                return place
            last = _order(self._current[-1])
            stop = bisect_right(range(len(numbers)), last, lo=place, key=lambda i: _order(numbers[i]))
            held = pc.is_in(numbers.slice(place, stop - place), value_set=self._current)
            absent = pc.index(held, False).as_py()
            if absent >= 0:
                return place + int(absent)
            place = stop
        return None

    def _restart(self) -> None:
        from streamfn.log.shard.columns import scan

        batches = scan(self._stream, [self._shard.id])
        self._batches = (batch.column("sequence_number") for batch in batches)
        self._current = next(self._batches, None)
        if self._current is not None and horizon(self._shard) > 0:
            self._trimmed_below = _order(self._current[0])


def _order(number: pa.Scalar) -> tuple[int, str]:
    return sequence_order(number.as_py())
