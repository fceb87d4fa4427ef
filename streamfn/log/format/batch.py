"""Records on their way into a message: checked, measured, cut to size and laid out.

Three sources with one outcome, a `Draft` per message: `NewRecord`s and `NewChange`s one by one (here and in
changes.py), and whole Arrow columns without a Python object per record (bulk.py).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from streamfn import limits
from streamfn.errors import RefusedError
from streamfn.log.format.layout import KINESIS, KINESIS_SOURCE, Layout
from streamfn.log.format.schema import COUNTER_DIGITS, Draft, message_bytes, numbers
from streamfn.types import NewRecord

# Looked at for every record.
_KEY_CHARS_MAX = limits.PARTITION_KEY_CHARS_MAX
_DATA_BYTES_MAX = limits.RECORD_BYTES_MAX
_ARRIVAL_MS_MAX = limits.ARRIVAL_MS_MAX

assert array("i").itemsize == 4
assert array("q").itemsize == 8

Content = memoryview | bytes | bytearray
# A column of values in Python: texts as bytes or 8-byte numbers, None where null; or None for a whole column
# that is given by the append (sequence number, time).
Values = Sequence[bytes | None] | Sequence[int | None] | None


class Rows(NamedTuple):
    """Rows in memory, as the buffers of their layout in canonical order, all in bytes; offsets begin at 0.

    None stands for what the append gives: in both buffers of the sequence number for those of the shard, in the
    time for the time of the append.  `captured` are the first and the last sequence number where the rows brought
    theirs along; between them they rise.
    """

    layout: Layout
    rows: int
    buffers: tuple[Content | None, ...]
    captured: tuple[str, str] | None = None

    def draft(self, first_offset: int, sequence_base: bytes, arrival_ms: int) -> Draft:
        """Lay the rows out as a message that begins at a shard offset; it still has to be finished."""
        layout, buffers = self.layout, self.buffers
        draft = Draft(layout, first_offset, self.rows, self._texts(sequence_base))
        if buffers[layout.sequence] is None:
            draft.number(sequence_base)
        view = memoryview(draft.buffer)
        for at, content in zip(draft.columns, buffers, strict=True):
            if content is not None:
                view[at : at + len(content)] = content
        if buffers[layout.time] is None:
            at = draft.columns[layout.time]
            view[at : at + 8 * self.rows] = self._times(arrival_ms)
        return draft

    def loose(self, first_offset: int, sequence_base: bytes, arrival_ms: int) -> list[memoryview]:
        """Return every buffer as it lies in memory, with what the append gives: for `schema.loose_message`."""
        layout = self.layout
        buffers = list(self.buffers)
        if buffers[layout.sequence] is None:
            buffers[layout.sequence : layout.sequence + 2] = numbers(sequence_base, first_offset, self.rows)
        if buffers[layout.time] is None:
            buffers[layout.time] = self._times(arrival_ms)
        return [memoryview(buffer) for buffer in buffers if buffer is not None]

    def message_bytes(self, sequence_base: bytes) -> int:
        """Return how many bytes the message takes."""
        return message_bytes(self.layout, self.rows, self._texts(sequence_base))

    def _texts(self, sequence_base: bytes) -> list[int]:
        given = (len(sequence_base) + COUNTER_DIGITS) * self.rows
        buffers = self.buffers
        return [given if (text := buffers[index]) is None else len(text) for index in self.layout.texts]

    def _times(self, arrival_ms: int) -> bytes:
        return array("q", [arrival_ms]).tobytes() * self.rows

    def widened(self, layout: Layout) -> Rows:
        """Return the same rows in a layout that `holds` theirs, with nulls in what they have not."""
        empty = (bytes((self.rows + 7) >> 3), bytes(4 * (self.rows + 1)), b"", bytes(8 * self.rows))
        more = tuple(empty[what] for what, _ in layout.buffers[len(self.buffers) :])
        return Rows(layout, self.rows, self.buffers + more, self.captured)


def from_records(records: Sequence[NewRecord], arrival_ms: int) -> Iterable[Rows]:
    """Cut records into messages; those without an arrival time get `arrival_ms`.

    Everything is checked before the first message is given out.

    Raises:
        RefusedError: a record breaks a limit, or captured sequence numbers do not rise; the text says which and how.
    """
    keys: list[bytes] = []
    data: list[bytes] = []
    arrival: list[int] = []
    plain = True
    for record in records:
        content, key, at, number, source, place = record
        if (
            not 0 < len(key) <= _KEY_CHARS_MAX
            or len(content) > _DATA_BYTES_MAX
            or (at is not None and not 0 <= at <= _ARRIVAL_MS_MAX)
            or number is not None
            or source is not None
            or place is not None
        ):
            check_record(record)
            plain = False
        try:
            keys.append(key.encode())
        except UnicodeEncodeError:
            check_record(record)  # says it
        data.append(content)
        arrival.append(arrival_ms if at is None else at)
    if plain:
        return assemble(KINESIS, len(records), (None, keys, arrival, data))
    return _captured(records, [keys, arrival, data])


def _captured(records: Sequence[NewRecord], columns: list[Values]) -> Iterable[Rows]:
    """The same for records that bring along numbers of their own, or of what they were taken out of."""
    numbers = [record.sequence_number for record in records if record.sequence_number is not None]
    if numbers:
        require_rising(numbers, len(records))
    columns.insert(0, _encoded(numbers) if numbers else None)
    sources = _encoded(record.source_sequence_number for record in records)
    places = [record.source_subsequence_number for record in records]
    if all(source is None and place is None for source, place in zip(sources, places, strict=True)):
        return assemble(KINESIS, len(records), columns, numbers)
    return assemble(KINESIS_SOURCE, len(records), [*columns, sources, places], numbers)


def _encoded(texts: Iterable[str | None]) -> list[bytes | None]:
    return [None if text is None else text.encode() for text in texts]


def check_record(record: NewRecord) -> bytes:
    """Return the record's partition key in UTF-8.

    Raises:
        RefusedError: data, key, arrival time or a sequence number break Kinesis' limits, or the key is not valid
            Unicode.
    """
    data, key, arrival_ms, number, source, place = record
    if not 1 <= len(key) <= limits.PARTITION_KEY_CHARS_MAX:
        raise RefusedError(
            f"a partition key has 1 to {limits.PARTITION_KEY_CHARS_MAX} characters, not {len(key)}"
        )
    if len(data) > limits.RECORD_BYTES_MAX:
        raise RefusedError(f"a record has at most {limits.RECORD_BYTES_MAX} bytes of data, not {len(data)}")
    if arrival_ms is not None and not 0 <= arrival_ms <= limits.ARRIVAL_MS_MAX:
        raise RefusedError(f"arrival time {arrival_ms} ms is not between 1970 and the end of year 9999")
    if number is not None:
        check_sequence_number(number)
    if source is not None:
        check_sequence_number(source)
    if place is not None and not 0 <= place < 2**63:
        raise RefusedError(f"a sub-sequence number is 0 or more and below 2**63, not {place}")
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise RefusedError(f"partition key {key!r} is not valid Unicode") from None


def check_sequence_number(number: str) -> None:
    """Raise RefusedError unless the text is 1 to 129 decimal digits."""
    if not (number.isascii() and number.isdigit() and len(number) <= limits.SEQUENCE_DIGITS_MAX):
        raise RefusedError(
            f"a sequence number is 1 to {limits.SEQUENCE_DIGITS_MAX} decimal digits, not {number[:140]!r}"
        )


def require_rising(numbers: Sequence[str], rows: int) -> None:
    """Raise RefusedError unless every row of an append brought a sequence number, each higher than the one before."""
    if len(numbers) != rows:
        raise RefusedError(
            f"{len(numbers)} of {rows} records bring a sequence number; in one append all do, or none"
        )
    for lower, higher in pairwise(numbers):
        if int(lower) >= int(higher):
            raise RefusedError(f"sequence number {higher} follows {lower}; captured ones must rise")


def assemble(
    layout: Layout, rows: int, columns: Sequence[Values], captured: Sequence[str] = ()
) -> Iterable[Rows]:
    """Cut columns of Python values, which have been checked, into messages.

    `captured` are the sequence numbers that the rows brought along, of all or none.
    """
    offsets: list[list[int] | None] = []
    weight = layout.row_bytes * rows
    for column, values in zip(layout.columns, columns, strict=True):
        if values is None or column.fixed:
            offsets.append(None)
        else:
            sizes: Any = [len(value or b"") for value in values] if column.nullable else map(len, values)  # type: ignore[arg-type]
            ends = [0, *accumulate(sizes)]
            offsets.append(ends)
            weight += ends[-1]
    if rows and weight <= limits.MESSAGE_BYTES_TARGET and rows <= limits.MESSAGE_ROWS_MAX:
        span = (captured[0], captured[-1]) if captured else None
        return (Rows(layout, rows, _buffers(layout, columns, offsets), span),)  # nearly always: one message
    return _parts(layout, rows, columns, offsets, captured)


def _parts(
    layout: Layout,
    rows: int,
    columns: Sequence[Values],
    offsets: Sequence[list[int] | None],
    captured: Sequence[str],
) -> Iterator[Rows]:
    weights = [column for column in offsets if column is not None]
    for start, stop in pairwise(cuts(rows, layout.row_bytes, weights)):
        part = [values and values[start:stop] for values in columns]
        rebased = [
            None if column is None else [at - column[start] for at in column[start : stop + 1]]
            for column in offsets
        ]
        ends = (captured[start], captured[stop - 1]) if captured else None
        yield Rows(layout, stop - start, _buffers(layout, part, rebased), ends)


def _buffers(
    layout: Layout, columns: Sequence[Any], offsets: Sequence[list[int] | None]
) -> tuple[Content | None, ...]:
    buffers: list[Content | None] = []
    for column, values, ends in zip(layout.columns, columns, offsets, strict=True):
        if column.nullable:
            buffers.append(_bitmap(values))
            values = [value or (0 if column.fixed else b"") for value in values]
        if ends is not None:
            buffers += (array("i", ends).tobytes(), b"".join(values))
        elif values is not None:
            buffers.append(array("q", values).tobytes())
        else:
            buffers += (None,) if column.fixed else (None, None)
    return tuple(buffers)


def _bitmap(values: Sequence[bytes | int | None]) -> bytes:
    """Return Arrow's validity bitmap: a bit for each value that is there, lowest first."""
    bits = int("".join("0" if value is None else "1" for value in reversed(values)), 2)
    return bits.to_bytes((len(values) + 7) >> 3, "little")


def cuts(
    rows: int, fixed: int, offsets: Sequence[Sequence[int]], target_bytes: int | None = None
) -> Iterator[int]:
    """Yield the row numbers at which messages begin, and the end.

    Each takes at most `target_bytes` (None: MESSAGE_BYTES_TARGET) and MESSAGE_ROWS_MAX; a row weighs `fixed` bytes
    and what it has in the columns of `offsets`.  One that is larger alone is a message alone.  Looks at a few rows of
    each message only.
    """
    target = limits.MESSAGE_BYTES_TARGET if target_bytes is None else target_bytes
    row = 0
    yield 0
    while row < rows:
        stop = min(rows, row + limits.MESSAGE_ROWS_MAX)

        def weight(end: int, start: int = row) -> int:
            return fixed * (end - start) + sum(column[end] - column[start] for column in offsets)

        if weight(stop) > target:
            stop = max(row + 1, bisect_right(range(stop + 1), target, lo=row + 1, key=weight) - 1)
        yield stop
        row = stop
