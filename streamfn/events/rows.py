"""Which rows of a message go where: the lanes of its records, and what the planner must know of selected rows.

`base` is the address at which the message's segment is mapped, `message` is cdata `sf_message *` as the scanner
verified it: nothing is checked here. Row numbers are those of one message, ascending, in a buffer of uint32 (a
memoryview of format 'I'). What is returned owns its memory, and outlives the mapping.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamfn._native import ffi, lib


def lanes(base: int, message: Any, factor: int) -> bytearray:
    """Return each row's lane, 0 to `factor` - 1, a byte a row.

    Records of one partition key, or changes of one item, have one lane, in every message and process; those without
    a key have lane 0. O(bytes of the keys).
    """
    found = bytearray(message.rows)
    lib.sf_lanes(_bytes(base), message, factor, ffi.from_buffer(found))
    return found


def group(row_lanes: bytearray, factor: int, rows: Any = None) -> list[memoryview]:
    """Return the row numbers of each of the `factor` lanes, ascending: of `rows`, or of all rows where that is None."""
    numbers, count = (ffi.NULL, len(row_lanes)) if rows is None else (_numbers(rows), len(rows))
    room = bytearray(4 * count)
    starts = ffi.new("uint32_t[]", factor + 1)
    lib.sf_group(ffi.from_buffer(row_lanes), numbers, count, factor, ffi.from_buffer("uint32_t[]", room), starts)
    grouped = memoryview(room).cast("I")
    return [grouped[starts[lane] : starts[lane + 1]] for lane in range(factor)]


def select_prefix(prefix: memoryview, rows: Any) -> memoryview:
    """Return the running sums of the JSON bytes of `rows` alone, from those of all rows (`size.json_prefix`).

    Shape (len(rows) + 1,), format 'Q', the first of them 0.
    """
    room = bytearray(8 * (len(rows) + 1))
    lib.sf_select_prefix(
        ffi.from_buffer("uint64_t[]", prefix), _numbers(rows), len(rows), ffi.from_buffer("uint64_t[]", room)
    )
    return memoryview(room).cast("Q")


def arrivals(base: int, message: Any, rows: Any = None) -> memoryview:
    """Return when `rows` arrived, or were created: milliseconds since 1970, format 'q'. All rows where that is None."""
    numbers, count = (ffi.NULL, message.rows) if rows is None else (_numbers(rows), len(rows))
    room = bytearray(8 * count)
    lib.sf_select_arrivals(_bytes(base), message, numbers, count, ffi.from_buffer("int64_t[]", room))
    return memoryview(room).cast("q")


def sequence_numbers(base: int, message: Any, rows: Iterable[int]) -> list[str]:
    """Return the sequence numbers of `rows`."""
    mapped, place, found = _bytes(base), ffi.new("uint64_t[2]"), []
    for row in rows:
        lib.sf_sequence_number(mapped, message, row, place)
        found.append(str(ffi.buffer(mapped + place[0], place[1])[:], "ascii"))
    return found


def aim(message_extent: Any, rows: Any, out: Any) -> bool:
    """Make `out` (`sf_extent *`) the extent of `rows`, of which there is at least one; True if they need the selection.

    Of `message_extent` segment, columns and `first_offset` are used, the last being that of the message's first row.
    Rows that follow each other make an ordinary extent; the numbers of others go into the batch's selection.
    """
    return bool(lib.sf_aim(message_extent, _numbers(rows), len(rows), out))


def _bytes(base: int) -> Any:
    return ffi.cast("uint8_t *", base)


def _numbers(rows: Any) -> Any:
    return ffi.from_buffer("uint32_t[]", rows)
