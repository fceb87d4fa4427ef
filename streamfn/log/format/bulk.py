"""Whole Arrow columns on their way into messages: no Python object is made per record."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from streamfn import limits
from streamfn._native import ffi, lib
from streamfn.errors import RefusedError
from streamfn.log.format.batch import Content, Rows, cuts
from streamfn.log.format.layout import KINESIS, KINESIS_SOURCE

if TYPE_CHECKING:
    import pyarrow as pa



def from_columns(
    data: pa.Array,
    keys: pa.Array,
    arrival: pa.Array | None,
    *,
    sequence: pa.Array | None = None,
    source_sequence: pa.Array | None = None,
    source_subsequence: pa.Array | None = None,
    message_bytes: int | None = None,
) -> Iterator[Rows]:
    """Cut Arrow columns into messages.

    `data` is binary or text, `keys` text, `arrival` timestamps of any unit (UTC where they have no zone) or
    int64 milliseconds, `sequence` captured sequence numbers as text, which must rise.  The two source columns (text,
    integers) may hold nulls, the others not.  A message takes `message_bytes` at most (None: MESSAGE_BYTES_TARGET),
    one record's excepted.  Everything is checked before the first message is given out.

    Chunked arrays are taken as well; without captured columns nothing of them is joined, and no message spans chunks.

    Raises:
        RefusedError: the columns differ in length or type, or a record breaks a limit.
    """
    import pyarrow as pa

    if sequence is not None or source_sequence is not None or source_subsequence is not None:
        data, keys, arrival, sequence, source_sequence, source_subsequence = map(
            _whole, (data, keys, arrival, sequence, source_sequence, source_subsequence)
        )
    columns = [data, keys, arrival, sequence, source_sequence, source_subsequence]
    if any(column is not None and len(column) != len(data) for column in columns):
        raise RefusedError("the columns of an append differ in length")
    if any(column is not None and column.null_count for column in columns[:4]):
        raise RefusedError("the columns of an append must not hold nulls")
    sourced = source_sequence is not None or source_subsequence is not None
    try:
        data, keys = data.cast(pa.binary()), keys.cast(pa.string())
        if arrival is not None:
            arrival = arrival.cast(pa.timestamp("ms")) if pa.types.is_timestamp(arrival.type) else arrival
            arrival = arrival.cast(pa.int64())
        if sequence is not None:
            sequence = sequence.cast(pa.string())
        if sourced:
            missing = pa.nulls(len(data))
            source_sequence = (missing if source_sequence is None else source_sequence).cast(pa.string())
            source_subsequence = (missing if source_subsequence is None else source_subsequence).cast(
                pa.int64()
            )
    except pa.ArrowException as error:
        raise RefusedError(f"the columns of an append are not as they should be: {error}") from error
    _check_columns(data, keys, arrival)
    _check_numbers(sequence, source_sequence, source_subsequence)
    if isinstance(data, pa.ChunkedArray) or isinstance(keys, pa.ChunkedArray) or isinstance(arrival, pa.ChunkedArray):
        return _chunks(data, keys, arrival, message_bytes)
    return _slices(data, keys, arrival, sequence, source_sequence, source_subsequence, message_bytes)


def _whole(column: pa.Array | pa.ChunkedArray | None) -> pa.Array | None:
    import pyarrow as pa

    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _chunks(
    data: pa.ChunkedArray, keys: pa.ChunkedArray, arrival: pa.ChunkedArray | None, message_bytes: int | None
) -> Iterator[Rows]:
    """Cut columns into messages that do not reach over the edge of a chunk of any of them."""
    import pyarrow as pa

    columns = [column for column in (data, keys, arrival) if column is not None]
    for batch in pa.Table.from_arrays(columns, names=[str(number) for number in range(len(columns))]).to_batches():
        times = batch.column(2) if arrival is not None else None
        yield from _slices(batch.column(0), batch.column(1), times, None, None, None, message_bytes)


def _check_columns(data: pa.Array, keys: pa.Array, arrival: pa.Array | None) -> None:
    import pyarrow.compute as pc

    if not len(data):
        return
    longest = pc.max(pc.binary_length(data)).as_py()
    if longest > limits.RECORD_BYTES_MAX:
        raise RefusedError(f"a record has at most {limits.RECORD_BYTES_MAX} bytes of data, not {longest}")
    span = pc.min_max(pc.binary_length(keys)).as_py()
    if span["max"] > limits.PARTITION_KEY_CHARS_MAX:  # in bytes; in characters it may be less
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


def _check_numbers(
    sequence: pa.Array | None, source: pa.Array | None, subsequence: pa.Array | None
) -> None:
    import pyarrow.compute as pc

    for numbers in (sequence, source):
        if numbers is None:
            continue
        if _are_numbers(numbers):
            continue
        digits = pc.less_equal(pc.binary_length(numbers), limits.SEQUENCE_DIGITS_MAX)
        wrong = pc.index(pc.and_(pc.ascii_is_decimal(numbers), digits), False).as_py()
        if wrong >= 0:
            raise RefusedError(
                f"a sequence number is 1 to {limits.SEQUENCE_DIGITS_MAX} decimal digits, "
                f"not {numbers[wrong].as_py()[:140]!r}"
            )
    if sequence is not None and len(sequence) > 1:
        span = pc.min_max(pc.binary_length(sequence)).as_py()
        same = span["min"] == span["max"]  # nearly always, and padding costs more than everything else here
        texts = sequence if same else pc.utf8_lpad(sequence, limits.SEQUENCE_DIGITS_MAX, "0")
        fell = pc.index(pc.less(texts[:-1], texts[1:]), False).as_py()
        if fell >= 0:
            raise RefusedError(
                f"sequence number {sequence[fell + 1]} follows {sequence[fell]}; captured ones must rise"
            )
    if subsequence is not None:
        least = pc.min(subsequence).as_py()
        if least is not None and least < 0:
            raise RefusedError(f"a sub-sequence number is 0 or more and below 2**63, not {least}")


def _are_numbers(texts: pa.Array) -> bool:
    """Whether all are 1 to SEQUENCE_DIGITS_MAX digits, and none is null; looks at the bytes of all at once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.min_max(pc.binary_length(texts)).as_py()
    if texts.null_count or not len(texts) or not 1 <= lengths["min"] <= lengths["max"] <= limits.SEQUENCE_DIGITS_MAX:
        return False
    _, offsets, content = texts.buffers()
    places = memoryview(offsets).cast("B").cast("i")
    first, end = places[texts.offset], places[texts.offset + len(texts)]
    digits = pa.Array.from_buffers(pa.uint8(), end - first, [None, content.slice(first, end - first)])
    values = pc.min_max(digits).as_py()
    return bool(values["min"] >= ord("0") and values["max"] <= ord("9"))


def _slices(
    data: pa.Array,
    keys: pa.Array,
    arrival: pa.Array | None,
    sequence: pa.Array | None,
    source: pa.Array | None,
    subsequence: pa.Array | None,
    message_bytes: int | None,
) -> Iterator[Rows]:
    layout = KINESIS if source is None else KINESIS_SOURCE
    texts = [None if column is None else _Texts(column) for column in (sequence, keys, data, source)]
    offsets = [text.offsets for text in texts if text is not None]
    times = None if arrival is None else _int64s(arrival)
    for start, stop in pairwise(cuts(len(data), layout.row_bytes, offsets, message_bytes)):
        numbers, key, content, origin = (
            (None, None) if text is None else text.slice(start, stop) for text in texts
        )
        time = None if times is None else times[8 * start : 8 * stop]
        buffers: tuple[Content | None, ...] = (*numbers, *key, time, *content)
        if source is not None and subsequence is not None:
            places = _int64s(subsequence)[8 * start : 8 * stop]
            buffers += (_bitmap(source, start, stop), *origin, _bitmap(subsequence, start, stop), places)
        captured = None
        if sequence is not None:
            captured = (sequence[start].as_py(), sequence[stop - 1].as_py())
        yield Rows(layout, stop - start, buffers, captured)


class _Texts:
    """A binary or text column: its offsets (int32, one more than rows) and bytes."""

    def __init__(self, column: pa.Array) -> None:
        _, offsets, content = column.buffers()
        self.offsets = memoryview(offsets).cast("B").cast("i")[column.offset : column.offset + len(column) + 1]
        self._bytes = memoryview(content).cast("B") if content is not None else memoryview(b"")

    def slice(self, start: int, stop: int) -> tuple[memoryview, memoryview]:
        """Return offsets that begin at 0, and bytes, of rows `start` .. `stop`."""
        out = bytearray(4 * (stop - start + 1))
        source: Any = ffi.from_buffer("int32_t[]", self.offsets[start : stop + 1])
        lib.sf_rebase_offsets(source, stop - start, ffi.from_buffer("int32_t[]", out))
        return memoryview(out), self._bytes[self.offsets[start] : self.offsets[stop]]


def _int64s(column: pa.Array) -> memoryview:
    """Return the values, as bytes."""
    values = memoryview(column.buffers()[1]).cast("B")
    return values[8 * column.offset : 8 * (column.offset + len(column))]


def _bitmap(column: pa.Array, start: int, stop: int) -> bytes:
    """Return the validity bitmap of some rows, beginning at a byte's lowest bit."""
    rows = stop - start
    bits = (1 << rows) - 1
    validity = column.buffers()[0]
    if validity is not None:
        first = column.offset + start
        around = memoryview(validity).cast("B")[first >> 3 : (first + rows + 7) >> 3]
        bits &= int.from_bytes(around, "little") >> (first & 7)
    return bits.to_bytes((rows + 7) >> 3, "little")
