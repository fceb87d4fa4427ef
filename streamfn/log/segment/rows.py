"""Rows of a scanned message as Python objects: for tail, export and tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from streamfn._native import ffi
from streamfn.log.format.layout import DYNAMODB, LAYOUTS, Column, Layout
from streamfn.types import Change, Record

if TYPE_CHECKING:
    from streamfn.log.segment.scan import Message


Row = Record | Change


def rows(message: Message, first_row: int = 0, count: int | None = None) -> Sequence[Row]:
    """Return rows of a message as what they are, records or changes; to its end unless `count` says how many."""
    of_kind = changes if message.cdata.layout == DYNAMODB.id else records
    return of_kind(message, first_row, count)


def time_ms(row: Row) -> int:
    """Return when a record arrived, or a change was made, in milliseconds since 1970, UTC."""
    return row.arrival_ms if isinstance(row, Record) else row.creation_ms


def records(message: Message, first_row: int = 0, rows: int | None = None) -> list[Record]:
    """Return rows of a message of a Kinesis shard log; to its end unless `rows` says how many."""
    number, key, arrival, data, *source = _columns(message, first_row, rows)
    if not source:
        source = [[None] * len(number)] * 2
    offset = message.first_offset + first_row
    return [
        Record(
            offset + row,
            number[row].decode(),
            key[row].decode(),
            arrival[row],
            data[row],
            source[0][row] and source[0][row].decode(),
            source[1][row],
        )
        for row in range(len(number))
    ]


def changes(message: Message, first_row: int = 0, rows: int | None = None) -> list[Change]:
    """Return rows of a message of a DynamoDB shard log; to its end unless `rows` says how many."""
    event_id, name, version, number, created, keys, new, old, size, view, user = _columns(
        message, first_row, rows
    )
    offset = message.first_offset + first_row
    return [
        Change(
            offset + row,
            number[row].decode(),
            event_id[row].decode(),
            name[row].decode(),
            version[row].decode(),
            created[row],
            keys[row],
            new[row],
            old[row],
            size[row],
            view[row].decode(),
            user[row],
        )
        for row in range(len(number))
    ]


def _columns(message: Message, first_row: int, rows: int | None) -> list[list[Any]]:
    """Return the values of some rows, a list for each column."""
    stop = message.rows if rows is None else min(message.rows, first_row + rows)
    layout: Layout = LAYOUTS[message.cdata.layout]
    walk = _Walk(message.segment.base, message.cdata.column[0], message.rows)
    return [walk.column(column, first_row, max(first_row, stop)) for column in layout.columns]


class _Walk:
    """From buffer to buffer of a scanned message, in canonical order (native/include/sf_layout.h)."""

    def __init__(self, base: Any, at: int, rows: int) -> None:
        self._base = base
        self._at = at
        self._rows = rows

    def column(self, column: Column, start: int, stop: int) -> list[Any]:
        """Return rows `start` .. `stop` of the next column: int or bytes each, None where null."""
        validity = self._take((self._rows + 7) >> 3) if column.nullable else None
        if column.fixed:
            at = self._take(8 * self._rows)
            values: list[Any] = list(self._unpack("q", at + 8 * start, stop - start))
        else:
            values = self._texts(start, stop)
        if validity is None:
            return values
        bitmap = bytes(ffi.buffer(self._base + validity, (self._rows + 7) >> 3))
        return [
            value if bitmap[row >> 3] >> (row & 7) & 1 else None
            for row, value in zip(range(start, stop), values, strict=True)
        ]

    def _texts(self, start: int, stop: int) -> list[bytes]:
        at = self._take(4 * (self._rows + 1))
        (used,) = self._unpack("i", at + 4 * self._rows, 1)
        content_at = self._take(used)
        offsets = self._unpack("i", at + 4 * start, stop - start + 1)
        first = offsets[0]
        content = bytes(ffi.buffer(self._base + content_at + first, offsets[-1] - first))
        return [content[offsets[i] - first : offsets[i + 1] - first] for i in range(stop - start)]

    def _take(self, size: int) -> int:
        at = self._at
        self._at += (size + 7) & ~7
        return at

    def _unpack(self, form: str, at: int, count: int) -> tuple[int, ...]:
        width = struct.calcsize(form)
        return struct.unpack(f"<{count}{form}", ffi.buffer(self._base + at, width * count))
