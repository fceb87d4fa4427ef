"""Files of columns, Parquet and Arrow, as record batches; and their rows as JSON where they mean nothing to us."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from decimal import Decimal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from streamfn.errors import FailedError, RefusedError
from streamfn.formats.arrow_files import open_arrow
from streamfn.formats.opening import Input
from streamfn.formats.rows import Collector, Reading, Rows
from streamfn.limits import MIB

# Rows decoded at a time: as Python objects they take some fifty times their size in the file.
_OBJECT_ROWS = 2048
# Rows of a Parquet file decoded at a time, and how many bytes columns that are handed on at a time may have: they are
# views of what was read or mapped, and the fewer the pieces, the less is copied later.
_PARQUET_ROWS = 65_536
BATCH_BYTES = 96 * MIB
_OPTIONS = orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z


class Table:
    """The columns of one file.  `name` is for people; `schema` is Arrow's."""

    def __init__(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.name = name
        self.schema = schema
        self._batches = batches
        if len(set(schema.names)) != len(schema.names):
            raise RefusedError(f"{name} has two columns of one name")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, once, in pieces of some MiB.

        Raises:
            FailedError: the file is damaged or cut; the rows before have been yielded.
        """
        row = 0
        try:
            for batch in self._batches:
                for piece in _pieces(batch):
                    row += piece.num_rows
                    yield piece
        except (pa.ArrowException, OSError, ValueError) as error:
            raise FailedError(f"{self.name} cannot be read behind row {row}: {error}") from None


def open_table(source: Input, format_name: str) -> Table:
    """Open a Parquet or Arrow file.

    Raises:
        RefusedError: it is none, or two columns have one name.
        FailedError: a copy is needed, and there is no room for it.
    """
    called = "a Parquet file" if format_name == "parquet" else "an Arrow file, stream or Feather file"
    try:
        if format_name == "parquet":
            file = pq.ParquetFile(source.seekable(), page_checksum_verification=True)
            return Table(source.name, file.schema_arrow, file.iter_batches(_PARQUET_ROWS))
        return Table(source.name, *open_arrow(source))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"{source.name} is not {called}: {error}") from None


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield a batch in slices of at most BATCH_BYTES, or one row."""
    if batch.num_rows > 1 and batch.nbytes > BATCH_BYTES:
        middle = batch.num_rows // 2
        yield from _pieces(batch.slice(0, middle))
        yield from _pieces(batch.slice(middle))
    else:
        yield batch


def read_objects(table: Table, reading: Reading) -> Iterator[Rows]:
    """Read each row as a compact JSON object; a "line" is a row.

    Times are ISO 8601 (without a zone: UTC), binary is base64, decimals are strings in full precision, NaN and
    infinity are null.
    """
    collector = Collector(reading)
    number = 0
    for batch in table.batches():
        for start in range(0, batch.num_rows, _OBJECT_ROWS):
            piece = batch.slice(start, _OBJECT_ROWS)
            if number + piece.num_rows <= reading.skip_lines:
                number += piece.num_rows
                continue
            for row in _in_microseconds(piece).to_pylist():
                number += 1
                if number <= reading.skip_lines:
                    continue
                try:
                    collector.add(_dumps(row), row)
                except ValueError as error:
                    if stop := collector.refuse(number, error):
                        yield collector.take(number - 1)
                        raise stop from None
            yield collector.take(number)


def _in_microseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch with times in microseconds: Python's own have no nanoseconds."""
    fields = [
        field.with_type(pa.timestamp("us", field.type.tz))
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns"
        else field
        for field in batch.schema
    ]
    columns = [
        column.cast(field.type, safe=False) if column.type != field.type else column
        for column, field in zip(batch.columns, fields, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _dumps(row: object) -> bytes:
    try:
        return orjson.dumps(row, default=_as_json, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        raise ValueError(f"it cannot be written as JSON: {error}") from None


def _as_json(value: object) -> object:
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return str(value)
        case datetime() | time():  # a subclass, or one with a zone that orjson does not know
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
    raise TypeError(f"a value of type {type(value).__name__}")
