"""Where the columns of a message lie in its mapped segment, without making anything of their values.

For whoever computes over a column, or looks at some values of it: in the runtime or in a worker that has mapped the
segment. Places are offsets from the segment's first byte, in canonical order (native/include/sf_layout.h).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from streamfn._native import ffi
from streamfn.log.format.layout import DYNAMODB, KINESIS, Column, Layout
from streamfn.log.segment.scan import Message


class Place(NamedTuple):
    """A column's buffers. `validity` is None where no value may be null, `offsets` where each has 8 bytes."""

    column: Column
    validity: int | None
    offsets: int | None
    values: int
    bytes: int


def places(base: Any, layout: Layout, body: int, rows: int) -> dict[str, Place]:
    """Return where the columns lie of a message that has been verified, by their names.

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
        found[column.name] = Place(column, validity, offsets, at, size)
        at += _padded(size)
    return found


def places_of(message: Message) -> dict[str, Place]:
    """Return where the columns of a scanned message lie."""
    return places(message.segment.base, message.segment.layout, message.cdata.column[0], message.rows)


def layout_of(kind: str) -> Layout:
    """Return the layout whose columns every message of a stream of that kind begins with."""
    return DYNAMODB if kind == "dynamodb" else KINESIS


def _padded(size: int) -> int:
    return (size + 7) & ~7
