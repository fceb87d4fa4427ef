"""Parquet files as rows.

Each row becomes a compact JSON object: times are ISO 8601 (without a zone: UTC), binary is base64, decimals
are strings in full precision, NaN and infinity are null.  A "line" is a row.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from streamfn.errors import FailedError, RefusedError
from streamfn.formats.rows import Collector, Reading, Rows

# Rows decoded at a time: as Python objects they take some fifty times their size in the file.
BATCH_ROWS = 2048
_OPTIONS = orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z


class ParquetRows:
    """The rows of one Parquet file."""

    def __init__(self, path: Path, reading: Reading) -> None:
        """Open the file and read its footer.

        Raises:
            RefusedError: it is no Parquet file, or two columns have one name.
        """
        try:
            self._file = pq.ParquetFile(path)
        except pa.ArrowException as error:
            raise RefusedError(f"{path} is not a Parquet file: {error}") from None
        names = self._file.schema_arrow.names
        if len(set(names)) != len(names):
            raise RefusedError(f"{path} has two columns of one name")
        self._path = path
        self._reading = reading
        self.rows: int = self._file.metadata.num_rows

    def __iter__(self) -> Iterator[Rows]:
        """Yield the rows; a file damaged in the middle raises FailedError after those before."""
        collector = Collector(self._reading)
        number = 0
        for batch in self._batches():
            last = number + batch.num_rows
            if last <= self._reading.skip_lines:
                number = last
                continue
            for row in batch.to_pylist():
                number += 1
                if number <= self._reading.skip_lines:
                    continue
                try:
                    collector.add(_dumps(row), row)
                except ValueError as error:
                    if stop := collector.refuse(number, error):
                        yield collector.take(number - 1)
                        raise stop from None
            yield collector.take(number)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """Yield batches with times in microseconds: Python's own have no nanoseconds."""
        fields = [
            field.with_type(pa.timestamp("us", field.type.tz))
            if pa.types.is_timestamp(field.type) and field.type.unit == "ns"
            else field
            for field in self._file.schema_arrow
        ]
        schema = pa.schema(fields)
        try:
            for batch in self._file.iter_batches(BATCH_ROWS):
                columns = [
                    column.cast(field.type, safe=False) if column.type != field.type else column
                    for column, field in zip(batch.columns, schema, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
        except (pa.ArrowException, OSError) as error:
            raise FailedError(f"{self._path} cannot be read any further: {error}") from None


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
