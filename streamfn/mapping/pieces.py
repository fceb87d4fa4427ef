"""Rows of one message that lie in one lane, one after the other: what some batch may still need.

A lane counts its records by positions. Where a shard has one lane and nothing is filtered, a position is the shard's
offset; otherwise positions are dense, and a piece says which row of its message each of them is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from streamfn._native import ffi, lib
from streamfn.events import rows
from streamfn.log.shard.reader import Message


class Span(NamedTuple):
    """Some rows of a message, by their numbers, ascending; the offset of each is the message's first and its number."""

    message: Message
    rows: Sequence[int]


class Piece:
    """The records at the positions `first` .. `end` (exclusive) of a lane, all of one message.

    `rows` are their row numbers, ascending; None where they follow each other from `row` on. `extent` has the message's
    segment and columns filled in; its rows are set per batch.
    """

    __slots__ = ("end", "extent", "first", "message", "row", "rows")

    def __init__(
        self, message: Message, first: int, end: int, row: int, rows: Sequence[int] | None, extent: Any = None
    ) -> None:
        """`extent` may be shared by the pieces of one message; without it one is made."""
        self.message = message
        self.first = first
        self.end = end
        self.row = row
        self.rows = rows
        self.extent = extent_of(message) if extent is None else extent

    def aim(self, position: int, records: int) -> Any:
        """The extent of `records` rows in a row, from the one at `position` on; valid until the next call."""
        extent, row = self.extent, self.row + position - self.first
        extent.first_offset = self.message.first_offset + row
        extent.first_row = row
        extent.rows = records
        return extent

    def extent_of_all(self) -> Any:
        """The extent that begins with the message's first row; valid until the next call."""
        self.extent.first_offset = self.message.first_offset
        return self.extent

    def numbers(self, position: int, records: int) -> Any:
        """The row numbers of `records` records from `position` on: a range, or a memoryview of format 'I'."""
        place = position - self.first
        if self.rows is None:
            return range(self.row + place, self.row + place + records)
        return self.rows[place : place + records]

    def offset(self, position: int) -> int:
        """The shard offset of the record at `position`."""
        return self.message.first_offset + int(self.numbers(position, 1)[0])

    def arrival_ms(self, position: int) -> int:
        """When that record arrived, in milliseconds since 1970."""
        message = self.message
        return int(lib.sf_arrival(message.segment.base, message.cdata, self.numbers(position, 1)[0]))


def extent_of(message: Message) -> Any:
    """An extent with the message's segment and columns."""
    extent = ffi.new("sf_extent *")
    extent.segment_id = message.segment.id
    ffi.memmove(extent.column, message.cdata.column, 8 * lib.SF_COLUMN_BUFFERS)
    return extent


def offsets_of(spans: Sequence[Span]) -> Sequence[int]:
    """The shard offsets of some rows, ascending; a range if there is none between them."""
    count = sum(len(chosen) for _, chosen in spans)
    first = spans[0].message.first_offset + spans[0].rows[0]
    end = spans[-1].message.first_offset + spans[-1].rows[-1] + 1
    if end - first == count:
        return range(first, end)
    return [message.first_offset + row for message, chosen in spans for row in chosen]


def sequence_numbers(spans: Sequence[Span]) -> list[str]:
    """The sequence numbers of some rows."""
    numbers: list[str] = []
    for message, chosen in spans:
        numbers += rows.sequence_numbers(message.segment.address, message.cdata, chosen)
    return numbers
