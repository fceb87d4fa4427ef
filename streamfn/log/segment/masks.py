"""Asking whole columns of scanned messages: which rows have a value that passes a test, by pyarrow.compute.

A column is encoded as a dictionary, the test is asked of each different value once, and the answers go back to the
rows. So a test means here what it means for one value, and a column of few values costs next to nothing. pyarrow is
imported here: import this where it is needed, not before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from streamfn.log.segment.places import Place, Places, values_at
from streamfn.log.segment.scan import Message

# Rows that are renumbered one by one rather than through an array of their own.
_FEW = 1000
# Messages of so few rows are read row by row: an array of their own costs more.
_SMALL = 16
_NO_ROWS = memoryview(b"").cast("I")

# A row each, of all messages one behind the other; or one answer for all of them.
Mask = Any


class Columns:
    """The columns of some messages, one behind the other. The messages must stay mapped while this is asked."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def matching(self, name: str, test: Callable[[Any], bool]) -> Mask:
        """Return in which rows the value of a column passes: bytes of a text, an int, None where it is null."""
        encoded = pc.dictionary_encode(self._column(name), null_encoding="encode")
        answers = [test(value) for value in encoded.dictionary.to_pylist()]
        return pa.array(answers, pa.bool_()).take(encoded.indices)

    def _column(self, name: str) -> pa.Array:
        arrays: list[pa.Array] = []
        loose: list[Any] = []  # values of small messages in a row
        kind = pa.binary()  # bytes: nobody has ever proven that a text is UTF-8
        places: Places | None = None
        layout = None
        for message in self._messages:
            if places is None or message.segment.layout is not layout:
                layout = message.segment.layout
                places = Places(layout, name)
            place = places.of(message)
            if place.column.fixed:
                kind = pa.int64()
            if message.rows <= _SMALL:
                loose += values_at(message.segment.base, place, message.rows)
                continue
            if loose:
                arrays.append(pa.array(loose, kind))
                loose = []
            arrays.append(_array(message, place, kind))
        if loose:
            arrays.append(pa.array(loose, kind))
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)

    def rows(self, mask: Mask) -> list[memoryview | None]:
        """Return the numbers of the rows that are set, for each message: format 'I', ascending; None for all rows."""
        if isinstance(mask, bool):
            return [None if mask else _NO_ROWS] * len(self._messages)
        found = pc.indices_nonzero(mask)
        numbers = memoryview(found.buffers()[1]).cast("Q")[: len(found)] if len(found) else _NO_ROWS
        result: list[memoryview | None] = []
        start = place = 0
        for message in self._messages:
            end, upto = start + message.rows, bisect_left(numbers, start + message.rows, place)
            all_of_them = upto - place == message.rows
            result.append(None if all_of_them else _renumbered(found, numbers, place, upto, start))
            start, place = end, upto
        return result


def either(one: Mask, other: Mask) -> Mask:
    """Return what is set in one of two masks."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is True or other is True or (other if one is False else one)
    return pc.or_(one, other)


def both(one: Mask, other: Mask) -> Mask:
    """Return what is set in two masks."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is not False and other is not False and (other if one is True else one)
    return pc.and_(one, other)


def without(one: Mask, other: Mask) -> Mask:
    """Return what is set in one mask and not in the other."""
    return both(one, not other if isinstance(other, bool) else pc.invert(other))


def _array(message: Message, place: Place, kind: pa.DataType) -> pa.Array:
    """Return a column of one message as it is mapped."""
    rows = message.rows
    buffers = [None if place.validity is None else _buffer(message, place.validity, (rows + 7) >> 3)]
    if place.offsets is not None:
        buffers.append(_buffer(message, place.offsets, 4 * (rows + 1)))
    buffers.append(_buffer(message, place.values, place.bytes))
    return pa.Array.from_buffers(kind, rows, buffers)


def _renumbered(found: Any, numbers: memoryview, place: int, upto: int, start: int) -> memoryview:
    """Return the numbers at `place` .. `upto`, counted from `start`."""
    count = upto - place
    if not count:
        return _NO_ROWS
    if count > _FEW:
        local = pc.subtract(found.slice(place, count), start).cast(pa.uint32())
    else:
        local = pa.array([number - start for number in numbers[place:upto]], pa.uint32())
    return memoryview(local.buffers()[1]).cast("I")[:count]


def _buffer(message: Message, at: int, size: int) -> pa.Buffer:
    return pa.foreign_buffer(message.segment.address + at, size, message)
