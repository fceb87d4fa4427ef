"""Records on their way into a message: checked, measured, cut to size and laid out.

Two sources with one outcome, a `Draft` per message: `NewRecord`s one by one, and whole Arrow columns
without a Python object per record.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from streamfn import limits
from streamfn._native import ffi, lib
from streamfn.errors import RefusedError
from streamfn.log.schema import SEQUENCE_BYTES, Draft
from streamfn.types import NewRecord

if TYPE_CHECKING:
    import pyarrow as pa

# What a record takes beside its key and its data: sequence number, three offsets, arrival time.
_FIXED_BYTES = SEQUENCE_BYTES + 3 * 4 + 8
assert array("i").itemsize == 4
assert array("q").itemsize == 8


class Rows(NamedTuple):
    """Rows in memory, as column buffers; offsets begin at 0; no `arrival` means the time of the append."""

    rows: int
    key_offsets: memoryview
    keys: memoryview | bytes
    arrival: memoryview | None
    data_offsets: memoryview
    data: memoryview | bytes

    @property
    def data_bytes(self) -> int:
        """Roughly what the message takes on disk."""
        return len(self.keys) + len(self.data) + _FIXED_BYTES * self.rows

    def draft(self, first_offset: int, sequence_base: bytes, arrival_ms: int) -> Draft:
        """Lay the rows out as a message that begins at a shard offset; it still has to be finished."""
        draft = Draft(first_offset, self.rows, SEQUENCE_BYTES * self.rows, len(self.keys), len(self.data))
        draft.number(sequence_base)
        arrival = self.arrival if self.arrival is not None else array("q", [arrival_ms]) * self.rows
        for column, content in zip(
            draft.columns[2:],
            (self.key_offsets, self.keys, arrival, self.data_offsets, self.data),
            strict=True,
        ):
            view = memoryview(content).cast("B")
            draft.buffer[column : column + len(view)] = view
        return draft


def from_records(records: Sequence[NewRecord], arrival_ms: int) -> Iterator[Rows]:
    """Cut records into messages; those without an arrival time get `arrival_ms`.

    Everything is checked before the first message is given out.

    Raises:
        RefusedError: a record breaks a limit; the text says which and how.
    """
    keys, data, arrival = [], [], []
    for record in records:
        key = check_record(record)
        keys.append(key)
        data.append(record.data)
        arrival.append(arrival_ms if record.arrival_ms is None else record.arrival_ms)
    data_offsets = [0, *accumulate(map(len, data))]
    key_offsets = [0, *accumulate(map(len, keys))]
    return _rows_of(keys, data, array("q", arrival), key_offsets, data_offsets)


def _rows_of(
    keys: list[bytes], data: list[bytes], arrival: array[int], key_offsets: list[int], data_offsets: list[int]
) -> Iterator[Rows]:
    edges = list(cuts(data_offsets, key_offsets))
    if len(edges) == 2:  # nearly always: all of it is one message
        yield Rows(
            len(data),
            _int32(key_offsets),
            b"".join(keys),
            memoryview(arrival),
            _int32(data_offsets),
            b"".join(data),
        )
        return
    for start, stop in pairwise(edges):
        yield Rows(
            stop - start,
            _int32([offset - key_offsets[start] for offset in key_offsets[start : stop + 1]]),
            b"".join(keys[start:stop]),
            memoryview(arrival)[start:stop],
            _int32([offset - data_offsets[start] for offset in data_offsets[start : stop + 1]]),
            b"".join(data[start:stop]),
        )


def _int32(offsets: list[int]) -> memoryview:
    return memoryview(array("i", offsets))


def check_record(record: NewRecord) -> bytes:
    """Return the record's partition key in UTF-8.

    Raises:
        RefusedError: data, key or arrival time break Kinesis' limits, or the key is not valid Unicode.
    """
    data, key, arrival_ms = record[:3]
    if not 1 <= len(key) <= limits.PARTITION_KEY_CHARS_MAX:
        raise RefusedError(
            f"a partition key has 1 to {limits.PARTITION_KEY_CHARS_MAX} characters, not {len(key)}"
        )
    if len(data) > limits.RECORD_BYTES_MAX:
        raise RefusedError(f"a record has at most {limits.RECORD_BYTES_MAX} bytes of data, not {len(data)}")
    if arrival_ms is not None and not 0 <= arrival_ms <= limits.ARRIVAL_MS_MAX:
        raise RefusedError(f"arrival time {arrival_ms} ms is not between 1970 and the end of year 9999")
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise RefusedError(f"partition key {key!r} is not valid Unicode") from None


def cuts(data_offsets: Sequence[int], key_offsets: Sequence[int]) -> Iterator[int]:
    """Yield the row numbers at which messages begin, and the end.

    Each takes at most MESSAGE_BYTES_TARGET and MESSAGE_ROWS_MAX.  A record that is larger alone is a
    message alone.  Looks at a few rows of each message only.
    """
    row, rows = 0, len(data_offsets) - 1
    yield 0
    while row < rows:
        stop = min(rows, row + limits.MESSAGE_ROWS_MAX)

        def weight(end: int, start: int = row) -> int:
            fixed = _FIXED_BYTES * (end - start)
            return fixed + data_offsets[end] - data_offsets[start] + key_offsets[end] - key_offsets[start]

        if weight(stop) > limits.MESSAGE_BYTES_TARGET:
            stop = max(
                row + 1,
                bisect_right(range(stop + 1), limits.MESSAGE_BYTES_TARGET, lo=row + 1, key=weight) - 1,
            )
        yield stop
        row = stop


def from_columns(data: pa.Array, keys: pa.Array, arrival: pa.Array | None) -> Iterator[Rows]:
    """Cut Arrow columns into messages; no Python object is made per record.

    `data` is binary or text, `keys` text, `arrival` timestamps of any unit (UTC where they have no zone) or
    int64 milliseconds.  Nothing may be null.  Everything is checked before the first message is given out.

    Raises:
        RefusedError: the columns differ in length or type, or a record breaks a limit.
    """
    import pyarrow as pa

    if len(keys) != len(data) or (arrival is not None and len(arrival) != len(data)):
        raise RefusedError("the columns of an append differ in length")
    if data.null_count or keys.null_count or (arrival is not None and arrival.null_count):
        raise RefusedError("the columns of an append must not hold nulls")
    try:
        data, keys = data.cast(pa.binary()), keys.cast(pa.string())
        if arrival is not None:
            arrival = arrival.cast(pa.timestamp("ms")) if pa.types.is_timestamp(arrival.type) else arrival
            arrival = arrival.cast(pa.int64())
    except pa.ArrowException as error:
        raise RefusedError(f"the columns of an append are not as they should be: {error}") from error
    _check_columns(data, keys, arrival)
    return _slices(data, keys, arrival)


def _check_columns(data: pa.Array, keys: pa.Array, arrival: pa.Array | None) -> None:
    import pyarrow.compute as pc

    if not len(data):
        return
    longest = pc.max(pc.binary_length(data)).as_py()
    if longest > limits.RECORD_BYTES_MAX:
        raise RefusedError(f"a record has at most {limits.RECORD_BYTES_MAX} bytes of data, not {longest}")
    span = pc.min_max(pc.utf8_length(keys)).as_py()
    if span["min"] < 1 or span["max"] > limits.PARTITION_KEY_CHARS_MAX:
        worst = span["min"] if span["min"] < 1 else span["max"]
        raise RefusedError(
            f"a partition key has 1 to {limits.PARTITION_KEY_CHARS_MAX} characters, not {worst}"
        )
    if arrival is not None:
        span = pc.min_max(arrival).as_py()
        if span["min"] < 0 or span["max"] > limits.ARRIVAL_MS_MAX:
            worst = span["min"] if span["min"] < 0 else span["max"]
            raise RefusedError(f"arrival time {worst} ms is not between 1970 and the end of year 9999")


def _slices(data: pa.Array, keys: pa.Array, arrival: pa.Array | None) -> Iterator[Rows]:
    data_offsets, data_bytes = _text_buffers(data)
    key_offsets, key_bytes = _text_buffers(keys)
    times = None
    if arrival is not None:
        times = (
            memoryview(arrival.buffers()[1])
            .cast("B")
            .cast("q")[arrival.offset : arrival.offset + len(arrival)]
        )
    for start, stop in pairwise(cuts(data_offsets, key_offsets)):
        yield Rows(
            stop - start,
            _rebased(key_offsets, start, stop),
            key_bytes[key_offsets[start] : key_offsets[stop]],
            times[start:stop] if times is not None else None,
            _rebased(data_offsets, start, stop),
            data_bytes[data_offsets[start] : data_offsets[stop]],
        )


def _text_buffers(column: pa.Array) -> tuple[memoryview, memoryview]:
    """Return offsets (int32, one more than rows) and bytes of a binary or text column."""
    _, offsets, content = column.buffers()
    view = memoryview(offsets).cast("B").cast("i")[column.offset : column.offset + len(column) + 1]
    return view, memoryview(content).cast("B") if content is not None else memoryview(b"")


def _rebased(offsets: memoryview, start: int, stop: int) -> memoryview:
    out = bytearray(4 * (stop - start + 1))
    source: Any = ffi.from_buffer("int32_t[]", offsets[start : stop + 1])
    lib.sf_rebase_offsets(source, stop - start, ffi.from_buffer("int32_t[]", out))
    return memoryview(out)
