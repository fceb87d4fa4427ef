"""Tables that have a shard log's own columns: an export, a segment, or what any tool made with these names.

    data, partition_key                 needed
    approximate_arrival_timestamp       else the time of the append
    sequence_number                     captured: kept, and with it the shard
    source_sequence_number, source_subsequence_number
    shard_id                            else that of the segment's header, else unknown

They are handed on as columns, without a Python object per record.  A table with any other column is not one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from streamfn.errors import RefusedError
from streamfn.formats.rows import BadRecord, Origin, Reading, Rows, ShardOrigin
from streamfn.formats.tables import Table
from streamfn.limits import ARRIVAL_MS_MAX, PARTITION_KEY_CHARS_MAX, RECORD_BYTES_MAX, SEQUENCE_DIGITS_MAX

TIME = "approximate_arrival_timestamp"
SOURCES = ("source_sequence_number", "source_subsequence_number")
_NEEDED = {"data", "partition_key"}
_KNOWN = {*_NEEDED, TIME, "sequence_number", *SOURCES, "shard_id"}
CREATED = "approximate_creation_date_time"
CHANGE_COLUMNS = (
    "event_id",
    "event_name",
    "event_version",
    "sequence_number",
    CREATED,
    "keys",
    "new_image",
    "old_image",
    "size_bytes",
    "stream_view_type",
    "user_identity",
)

# What an export says of the stream in the schema's metadata.
ARN_KEY, SHARDS_KEY = b"streamfn.arn", b"streamfn.shards"
# What a segment says: `<stream id>/<shard id>`.
_SEGMENT_KEY = b"streamfn.shard"


def kind_of(schema: pa.Schema) -> str | None:
    """Return `kinesis` or `dynamodb` for tables of a shard log's columns, None for others."""
    names = set(schema.names)
    if names >= _NEEDED and names <= _KNOWN and _is_texts(schema):
        return "kinesis"
    if names >= {"event_name", "keys"} and names <= {*CHANGE_COLUMNS, "shard_id"}:
        return "dynamodb"
    return None


def _is_texts(schema: pa.Schema) -> bool:
    """Whether the columns are of types that can be a shard log's."""
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary, _is_view)
    binary = (*texts, pa.types.is_binary, pa.types.is_large_binary)
    wanted = {"data": binary, TIME: (pa.types.is_timestamp,), SOURCES[1]: (pa.types.is_integer, pa.types.is_null)}
    nothing = (pa.types.is_null,) if SOURCES[0] in schema.names else ()
    return all(
        any(check(field.type) for check in wanted.get(field.name, (*texts, *nothing))) for field in schema
    )


def _is_view(kind: pa.DataType) -> bool:
    return str(kind) in ("string_view", "binary_view")


def origin_of(schema: pa.Schema) -> Origin:
    """Return what a table's metadata says of where its records come from."""
    metadata = schema.metadata or {}
    segment = metadata.get(_SEGMENT_KEY, b"").decode(errors="replace").partition("/")[2]
    arn = metadata.get(ARN_KEY)
    return Origin(segment or None, arn.decode() if arn else None, _shards(metadata.get(SHARDS_KEY)))


def _shards(text: bytes | None) -> tuple[ShardOrigin, ...]:
    if text is None:
        return ()
    try:
        return tuple(
            ShardOrigin(
                str(shard["id"]),
                None if shard["start_hash"] is None else int(shard["start_hash"]),
                None if shard["end_hash"] is None else int(shard["end_hash"]),
                tuple(map(str, shard["parents"])),
                bool(shard["closed"]),
            )
            for shard in json.loads(text)
        )
    except (ValueError, TypeError, KeyError) as error:
        raise RefusedError(f"the file's metadata {SHARDS_KEY.decode()} is damaged: {error!r}") from None


class _Columns(NamedTuple):
    """The columns of a batch in the types of the log, and which rows are bad, and why (no mask: none is)."""

    data: pa.Array
    keys: pa.Array
    arrivals: pa.Array | None
    numbers: pa.Array | None
    sources: pa.Array | None
    subsources: pa.Array | None
    shards: pa.Array | None


def read_records(table: Table, reading: Reading) -> Iterator[Rows]:
    """Read records as columns; a "line" is a row.

    Raises:
        BadRecord: see rows.py.
        FailedError: the file is damaged; the rows before have been yielded.
    """
    origin = origin_of(table.schema)
    number = 0
    for batch in table.batches():
        first = number
        number += batch.num_rows
        if number <= reading.skip_lines:
            continue
        batch = batch.slice(max(0, reading.skip_lines - first))
        yield from _read_batch(batch, reading, origin, number - batch.num_rows)


def _read_batch(batch: pa.RecordBatch, reading: Reading, origin: Origin, before: int) -> Iterator[Rows]:
    columns = _columns(batch, keep_numbers=not reading.new_numbers)
    wrong, reasons = _wrong(columns)
    if wrong is None:
        yield from _handed_on(columns, origin, before)
        return
    if not reading.skip_bad:
        first = pc.index(wrong, True).as_py()
        yield from _handed_on(_cut(columns, 0, first), origin, before)
        raise BadRecord(before + first + 1, _reason(reasons, first))
    start = 0
    for at in [*pc.indices_nonzero(wrong).to_pylist(), len(wrong)]:
        yield from _handed_on(_cut(columns, start, at), origin, before + start)
        if at < len(wrong):
            yield Rows([], [], None, before + at + 1, 1)
        start = at + 1


def _columns(batch: pa.RecordBatch, *, keep_numbers: bool) -> _Columns:
    present = set(batch.schema.names)

    def column(name: str, kind: pa.DataType) -> pa.Array | None:
        return batch.column(name).cast(kind, safe=False) if name in present else None

    arrivals = column(TIME, pa.timestamp("ms"))  # what is finer is cut off
    return _Columns(
        column("data", pa.binary()),
        column("partition_key", pa.string()),
        None if arrivals is None else arrivals.view(pa.int64()),
        column("sequence_number", pa.string()) if keep_numbers else None,
        _unless_empty(column(SOURCES[0], pa.string())),
        _unless_empty(column(SOURCES[1], pa.int64())),
        column("shard_id", pa.string()) if keep_numbers else None,
    )


def _unless_empty(column: pa.Array | None) -> pa.Array | None:
    return None if column is not None and column.null_count == len(column) else column


def _wrong(columns: _Columns) -> tuple[pa.Array | None, list[tuple[pa.Array, str]]]:
    """Return which rows are bad (None: none is), and of each check that failed anywhere which rows and why."""
    data, keys, arrivals, numbers, sources, _, shards = columns
    reasons: list[tuple[pa.Array, str]] = []

    def check(good: pa.Array, why: str) -> None:
        if not pc.all(good, skip_nulls=False).as_py():
            reasons.append((pc.invert(pc.fill_null(good, False)), why))

    check(
        pc.less_equal(pc.binary_length(data), RECORD_BYTES_MAX),
        f"its data is null or has more than {RECORD_BYTES_MAX} bytes, and a record may not",
    )
    characters = pc.binary_length(keys)
    if (pc.max(characters).as_py() or 0) > PARTITION_KEY_CHARS_MAX:  # in bytes; in characters it may be less
        characters = pc.utf8_length(keys)
    check(
        pc.and_(pc.greater_equal(characters, 1), pc.less_equal(characters, PARTITION_KEY_CHARS_MAX)),
        f"its partition key does not have 1 to {PARTITION_KEY_CHARS_MAX} characters",
    )
    if arrivals is not None:
        check(
            pc.and_(pc.greater_equal(arrivals, 0), pc.less_equal(arrivals, ARRIVAL_MS_MAX)),
            "its arrival time is not between the years 1970 and 9999",
        )
    if numbers is not None and not _all_numbers(numbers):
        check(_are_numbers(numbers), f"its sequence number is not 1 to {SEQUENCE_DIGITS_MAX} decimal digits")
    if sources is not None:
        check(
            pc.or_kleene(pc.is_null(sources), _are_numbers(sources)),
            f"its source's sequence number is not 1 to {SEQUENCE_DIGITS_MAX} decimal digits",
        )
    if shards is not None:
        check(pc.and_(pc.is_valid(shards), pc.not_equal(shards, "")), "it has no shard id")
    wrong = None
    for rows, _ in reasons:
        wrong = rows if wrong is None else pc.or_(wrong, rows)
    return wrong, reasons


def _are_numbers(texts: pa.Array) -> pa.Array:
    digits = pc.binary_length(texts)
    canonical = pc.or_(pc.invert(pc.starts_with(texts, "0")), pc.equal(digits, 1))
    return pc.and_(pc.and_(pc.ascii_is_decimal(texts), pc.less_equal(digits, SEQUENCE_DIGITS_MAX)), canonical)


def _all_numbers(texts: pa.Array) -> bool:
    """Whether all are numbers, none null: looks at their bytes at once, and says False too often, not too seldom."""
    lengths = pc.min_max(pc.binary_length(texts)).as_py()
    if texts.null_count or not len(texts) or not 1 <= lengths["min"] <= lengths["max"] <= SEQUENCE_DIGITS_MAX:
        return False
    _, offsets, content = texts.buffers()
    places = memoryview(offsets).cast("B").cast("i")
    first, end = places[texts.offset], places[texts.offset + len(texts)]
    digits = pa.Array.from_buffers(pa.uint8(), end - first, [None, content.slice(first, end - first)])
    values = pc.min_max(digits).as_py()
    zeros = pc.any(pc.starts_with(texts, "0")).as_py()
    return bool(values["min"] >= ord("0") and values["max"] <= ord("9") and not zeros)


def _reason(reasons: list[tuple[pa.Array, str]], row: int) -> str:
    return next(why for rows, why in reasons if rows[row].as_py())


def _cut(columns: _Columns, start: int, stop: int) -> _Columns:
    return _Columns(*(None if column is None else column.slice(start, stop - start) for column in columns))


def _handed_on(columns: _Columns, origin: Origin, before: int) -> Iterator[Rows]:
    """Yield good rows: captured ones shard by shard, as they change."""
    if columns.shards is None or not len(columns.data):
        yield _rows(columns, origin, before)
        return
    shards = columns.shards
    changes = pc.indices_nonzero(pc.not_equal(shards[1:], shards[:-1])).to_pylist() if len(shards) > 1 else []
    for start, stop in pairwise([0, *(at + 1 for at in changes), len(shards)]):
        named = origin._replace(shard_id=shards[start].as_py())
        yield _rows(_cut(columns, start, stop), named, before + start)


def _rows(columns: _Columns, origin: Origin, before: int) -> Rows:
    return Rows(
        columns.data,
        columns.keys,
        columns.arrivals,
        before + len(columns.data),
        0,
        columns.numbers,
        columns.sources,
        columns.subsources,
        origin if columns.numbers is not None else None,
    )
