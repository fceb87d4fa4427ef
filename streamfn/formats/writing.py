"""Records out of a shard log into a file, in batches of its own columns.

    parquet, arrow   the columns as they are, and `shard_id`; the stream's ARN and shards in the metadata
    jsonl            a line is a record's data, as it is; or, `full`, a JSON object with all that is known of it
    get-records      documents as GetRecords answers them, one a line

`lost` says what a reader of such a file cannot get back.
"""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streamfn.errors import FailedError
from streamfn.formats.changes import get_records_json
from streamfn.formats.log_columns import ARN_KEY, CHANGE_COLUMNS, CREATED, SHARDS_KEY, SOURCES, TIME
from streamfn.formats.rows import ShardOrigin
from streamfn.limits import MIB
from streamfn.types import Change

EXPORT_FORMATS = ("parquet", "arrow", "jsonl", "get-records")
# Rows of columns are gathered to so much before they are written: a row group of a Parquet file.
_GROUP_BYTES = 64 * MIB
# A document of get-records holds at most so many records.
_DOCUMENT_RECORDS = 1000
_RECORD_COLUMNS = ("sequence_number", "partition_key", TIME, "data")


class Described(NamedTuple):
    """The stream that is exported: what a file says of it, and whether its records have the source's numbers."""

    kind: str
    arn: str
    region: str
    shards: tuple[ShardOrigin, ...]
    sourced: bool


class Writer(ABC):
    """Writes batches, each of one shard, into a sink; `close` ends the file.  `lost` is what it does not carry."""

    lost: tuple[str, ...] = ()

    @abstractmethod
    def write(self, batch: pa.RecordBatch, shard_id: str) -> None:
        """Write a batch of a shard log's columns.

        Raises:
            FailedError: a record cannot be written in this format; the text says which and what to do.
        """

    @abstractmethod
    def close(self) -> None:
        """End the file; the sink stays open."""

    def abandon(self) -> None:  # noqa: B027 - most formats have nothing to do
        """Leave the file as it is, without an end; harmless twice."""


def writer_for(format_name: str, sink: pa.NativeFile, stream: Described, *, full: bool, streaming: bool) -> Writer:
    """Return the writer of a format.

    `full` is of jsonl; `streaming` makes Arrow's stream format, which needs no place to jump to.
    """
    if format_name == "parquet":
        return _Parquet(sink, stream)
    if format_name == "arrow":
        return _Arrow(sink, stream, streaming=streaming)
    if format_name == "get-records":
        return _GetRecords(sink, stream)
    return _Lines(sink, stream, full=full or stream.kind == "dynamodb")


class _Columns(Writer):
    """Columns as they are; `_flush` writes what was gathered."""

    def __init__(self, stream: Described) -> None:
        self.schema = _schema(stream)
        self._gathered: list[pa.RecordBatch] = []
        self._bytes = 0

    def write(self, batch: pa.RecordBatch, shard_id: str) -> None:
        """Gather a batch; see `Writer`."""
        shards = pa.repeat(pa.scalar(shard_id, pa.string()), batch.num_rows)
        names = set(batch.schema.names)
        if SOURCES[0] in names and SOURCES[0] not in self.schema.names:
            raise FailedError("records out of aggregated ones came while the export began: export again")
        columns = [
            batch.column(field.name) if field.name in names else pa.nulls(batch.num_rows, field.type)
            for field in self.schema
            if field.name != "shard_id"
        ]
        self._gathered.append(pa.RecordBatch.from_arrays([*columns, shards], schema=self.schema))
        self._bytes += batch.nbytes
        if self._bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._gathered:
            self._write(pa.Table.from_batches(self._gathered, self.schema))
            self._gathered, self._bytes = [], 0

    @abstractmethod
    def _write(self, table: pa.Table) -> None:
        """Write what was gathered."""


class _Parquet(_Columns):
    def __init__(self, sink: pa.NativeFile, stream: Described) -> None:
        super().__init__(stream)
        repeated = ["shard_id", "partition_key", "event_name", "event_version", "stream_view_type", "user_identity"]
        dictionary = [name for name in repeated if name in self.schema.names]
        self._writer = pq.ParquetWriter(
            sink, self.schema, compression="zstd", use_dictionary=dictionary, write_page_checksum=True
        )

    def _write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))

    def close(self) -> None:
        """End the file; see `Writer`."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Leave the file without a footer; see `Writer`."""
        self._writer.is_open = False  # or pyarrow ends it when it is collected, into a sink that is closed by then


class _Arrow(_Columns):
    def __init__(self, sink: pa.NativeFile, stream: Described, *, streaming: bool) -> None:
        super().__init__(stream)
        self._writer = (pa.ipc.new_stream if streaming else pa.ipc.new_file)(sink, self.schema)

    def _write(self, table: pa.Table) -> None:
        self._writer.write_table(table)

    def close(self) -> None:
        """End the file; see `Writer`."""
        self._flush()
        self._writer.close()


def _schema(stream: Described) -> pa.Schema:
    texts = {
        "data": pa.binary(),
        TIME: pa.timestamp("ms", "UTC"),
        CREATED: pa.timestamp("ms", "UTC"),
        SOURCES[1]: pa.int64(),
        "size_bytes": pa.int64(),
    }
    maybe = {*SOURCES, "new_image", "old_image", "user_identity"}
    names = CHANGE_COLUMNS if stream.kind == "dynamodb" else _RECORD_COLUMNS + (SOURCES if stream.sourced else ())
    fields = [pa.field(name, texts.get(name, pa.string()), nullable=name in maybe) for name in (*names, "shard_id")]
    shards = [
        {
            "id": shard.id,
            "start_hash": None if shard.start_hash is None else str(shard.start_hash),
            "end_hash": None if shard.end_hash is None else str(shard.end_hash),
            "parents": list(shard.parents),
            "closed": shard.closed,
        }
        for shard in stream.shards
    ]
    return pa.schema(fields, metadata={ARN_KEY: stream.arn.encode(), SHARDS_KEY: json.dumps(shards).encode()})


class _Lines(Writer):
    def __init__(self, sink: pa.NativeFile, stream: Described, *, full: bool) -> None:
        self._sink = sink
        self._stream = stream
        self._full = full
        if full:
            self.lost = ("the stream's ARN", "its shards' hash keys and parents")
        else:
            self.lost = ("sequence numbers", "partition keys", "arrival times", "shards")

    def write(self, batch: pa.RecordBatch, shard_id: str) -> None:
        """Write a line for each record; see `Writer`."""
        if self._full:
            lines = record_lines(batch, self._stream, shard_id)
        else:
            _require_lines(batch)
            lines = batch.column("data").to_pylist()
        if lines:
            self._sink.write(b"\n".join(lines) + b"\n")

    def close(self) -> None:
        """Nothing is held back."""


def _require_lines(batch: pa.RecordBatch) -> None:
    """Raise FailedError unless the data of all records are lines of text."""
    data = batch.column("data")
    for row in pc.indices_nonzero(pc.match_substring(data, "\n")).to_pylist()[:1]:
        raise _no_line(batch, row, "holds a line feed")
    try:
        data.cast(pa.string())
    except pa.ArrowInvalid:
        for row, content in enumerate(data.to_pylist()):
            try:
                content.decode()
            except UnicodeDecodeError:
                raise _no_line(batch, row, "is not UTF-8") from None
        raise


def _no_line(batch: pa.RecordBatch, row: int, why: str) -> FailedError:
    number = batch.column("sequence_number")[row].as_py()
    return FailedError(
        f"the data of the record with sequence number {number} {why}, so it is no line: "
        "--full writes records as JSON objects, --format parquet or arrow as they are"
    )


class _GetRecords(Writer):
    def __init__(self, sink: pa.NativeFile, stream: Described) -> None:
        self._sink = sink
        self._stream = stream
        self.lost = ("the shard", "the stream's ARN", *(("the source's sequence numbers",) if stream.sourced else ()))

    def write(self, batch: pa.RecordBatch, shard_id: str) -> None:
        """Write documents; see `Writer`."""
        rest = b"]}\n" if self._stream.kind == "dynamodb" else b'],"MillisBehindLatest":0}\n'
        for start in range(0, batch.num_rows, _DOCUMENT_RECORDS):
            lines = record_lines(batch.slice(start, _DOCUMENT_RECORDS), self._stream, None)
            self._sink.write(b'{"Records":[' + b",".join(lines) + rest)

    def close(self) -> None:
        """Nothing is held back."""


def record_lines(batch: pa.RecordBatch, stream: Described, shard_id: str | None) -> list[bytes]:
    """Return each record as GetRecords gives it, as JSON; with `shard_id` also what it does not give."""
    if stream.kind == "dynamodb":
        return [get_records_json(change, stream.region, shard_id) for change in _changes(batch)]
    columns = [batch.column(name).to_pylist() for name in ("sequence_number", "partition_key", "data")]
    arrivals = batch.column(TIME).view(pa.int64()).to_pylist()
    sources: list[list[Any]] = [[None] * batch.num_rows] * 2
    if shard_id is not None and SOURCES[0] in batch.schema.names:
        sources = [batch.column(name).to_pylist() for name in SOURCES]
    return [
        _record_json(number, key, data, arrival, shard_id, source, place)
        for number, key, data, arrival, source, place in zip(*columns, arrivals, *sources, strict=True)
    ]


def _record_json(
    number: str, key: str, data: bytes, arrival_ms: int, shard_id: str | None, source: str | None, place: int | None
) -> bytes:
    record: dict[str, Any] = {
        "SequenceNumber": number,
        "ApproximateArrivalTimestamp": arrival_ms / 1000,
        "Data": base64.b64encode(data).decode(),
        "PartitionKey": key,
    }
    if shard_id is not None:
        record["ShardId"] = shard_id
    if source is not None:
        record["SourceSequenceNumber"] = source
    if place is not None:
        record["SourceSubsequenceNumber"] = place
    return orjson.dumps(record)


def _changes(batch: pa.RecordBatch) -> Iterator[Change]:
    """Yield a batch's rows as changes; their offsets are not known here."""
    texts = {name: batch.column(name).to_pylist() for name in CHANGE_COLUMNS if name != CREATED}
    created = batch.column(CREATED).view(pa.int64()).to_pylist()

    def encoded(values: Sequence[str | None]) -> list[bytes | None]:
        return [None if value is None else value.encode() for value in values]

    keys, new, old, users = (encoded(texts[name]) for name in ("keys", "new_image", "old_image", "user_identity"))
    for row in range(batch.num_rows):
        key = keys[row]
        assert key is not None
        yield Change(
            0,
            texts["sequence_number"][row],
            texts["event_id"][row],
            texts["event_name"][row],
            texts["event_version"][row],
            created[row],
            key,
            new[row],
            old[row],
            texts["size_bytes"][row],
            texts["stream_view_type"][row],
            users[row],
        )
