"""Where the columns of a message lie in its mapped segment, without making anything of their values.

For whoever computes over a column, or looks at some values of it: in the runtime or in a worker that has mapped the
segment. Places are offsets from the segment's first byte, in canonical order (native/include/sf_layout.h).
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any, NamedTuple

from streamfn._native import ffi, lib
from streamfn.log.format.layout import DYNAMODB, KINESIS, Column, Layout
from streamfn.log.segment.scan import Message


class Place(NamedTuple):
    """A column's buffers. `validity` is None where no value may be null, `offsets` where each has 8 bytes."""

    column: Column
    validity: int | None
    offsets: int | None
    values: int
    bytes: int


def places(base: Any, layout: Layout, body: int, rows: int, names: Collection[str]) -> dict[str, Place]:
    """Return where the columns of these names lie in a message that has been verified.

    `base` is cdata `uint8_t *` of the mapped segment, `body` where the message's first buffer begins in it.
    """
    found, at = {}, body
    for column in layout.columns:
        validity = offsets = None
        if column.nullable:
            validity = at
            at += _padded((rows + 7) >> 3)
        if column.fixed:
            size = 8 * rows
        else:
            offsets = at
            at += _padded(4 * (rows + 1))
            size = int(ffi.cast("int32_t *", base + offsets)[rows])
        if column.name in names:
            found[column.name] = Place(column, validity, offsets, at, size)
            if len(found) == len(names):
                break
        at += _padded(size)
    return found


class Places:
    """Where one column lies in scanned messages; asked for one after the other."""

    __slots__ = ("_column", "_index", "_place")

    def __init__(self, layout: Layout, name: str) -> None:
        self._index = layout.names.index(name)
        self._column = layout.columns[self._index]
        self._place = ffi.new("uint64_t[4]")

    def of(self, message: Message) -> Place:
        """Return the column's place in a message."""
        place, column = self._place, self._column
        lib.sf_column_place(message.segment.base, message.cdata, self._index, place)
        return Place(
            column, place[0] if column.nullable else None, None if column.fixed else place[1], place[2], place[3]
        )


def values_at(base: Any, place: Place, rows: int) -> list[Any]:
    """Return a column's values: bytes of a text, an int, None where it is null."""
    values: list[Any]
    if place.offsets is None:
        values = ffi.unpack(ffi.cast("int64_t *", base + place.values), rows)
    else:
        offsets = ffi.unpack(ffi.cast("int32_t *", base + place.offsets), rows + 1)
        content = ffi.buffer(base + place.values, place.bytes)[:]
        values = [content[start:end] for start, end in pairwise(offsets)]
    if place.validity is None:
        return values
    bits = ffi.buffer(base + place.validity, (rows + 7) >> 3)[:]
    return [value if bits[row >> 3] >> (row & 7) & 1 else None for row, value in enumerate(values)]


def layout_of(kind: str) -> Layout:
    """Return the layout whose columns every message of a stream of that kind begins with."""
    return DYNAMODB if kind == "dynamodb" else KINESIS


def _padded(size: int) -> int:
    return (size + 7) & ~7
