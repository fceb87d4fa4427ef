"""What a loader stores together: rows and changes measured, and rows joined into columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from streamfn.errors import FailedError
from streamfn.formats.rows import Changes, Column, Rows
from streamfn.limits import MIB
from streamfn.log.shard.writer import ShardWriter

Item: TypeAlias = Rows | Changes

# Rows with less data than this are joined with those behind them, so that small pieces do not become small messages.
PART_BYTES = 8 * MIB

# What a record weighs beside its texts: in memory two objects and three list entries; on disk, less.
_RECORD_BYTES = 128
# The same for a change: its numbers, names and offsets.
_CHANGE_BYTES = 256
# Columns of at least so many rows stay in chunks.
_CHUNK_ROWS = 16_384


def weight(item: Item) -> tuple[int, int]:
    """Return how many records there are, and the bytes of their data (of changes: keys and images)."""
    if isinstance(item, Changes):
        contents = (part for c in item.changes for part in (c.keys, c.new_image, c.old_image) if part is not None)
        return len(item.changes), sum(map(len, contents))
    if isinstance(item.data, pa.Array):
        return len(item.data), pc.sum(pc.binary_length(item.data)).as_py() or 0
    return len(item.data), sum(map(len, item.data))


def overhead(item: Item) -> int:
    """Return what an item weighs beside its data, at most."""
    if isinstance(item, Changes):
        return _CHANGE_BYTES * len(item.changes)
    texts = (item.keys, item.numbers, item.sources)
    return _RECORD_BYTES * len(item.data) + sum(map(_text_bytes, texts))


def _text_bytes(column: Column | None) -> int:
    if column is None:
        return 0
    if isinstance(column, pa.Array):
        return int(column.nbytes)
    return sum(len(text) for text in column if text is not None)


def listed(column: Column) -> Sequence[str]:
    """Return a column of texts as Python objects."""
    return column.to_pylist() if isinstance(column, pa.Array) else column


class Columns(NamedTuple):
    """Records as Arrow arrays; `arrivals` in ms since 1970, UTC, None for the time of the append."""

    data: pa.Array
    keys: pa.Array
    arrivals: pa.Array | None
    numbers: pa.Array | None
    sources: pa.Array | None
    subsources: pa.Array | None

    def as_part(self) -> dict[str, pa.Array | None]:
        """Return them as `ShardWriter.append_parts` takes them."""
        return {
            "data": self.data,
            "keys": self.keys,
            "arrival": self.arrivals,
            "sequence": self.numbers,
            "source_sequence": self.sources,
            "source_subsequence": self.subsources,
        }

    def filtered(self, mask: pa.Array) -> Columns:
        """Return the records of which `mask` is true."""
        return Columns(*(None if column is None else column.filter(mask) for column in self))


def columns_of(group: Sequence[Rows]) -> Columns:
    """Return rows as one set of columns.

    Raises:
        FailedError: some bring sequence numbers and others do not.
    """
    if len({rows.numbers is None for rows in group}) > 1:
        raise FailedError("some of the records are captured ones, and others are not")
    return Columns(
        _joined((rows.data for rows in group), pa.binary()),
        _joined((rows.keys for rows in group), pa.string()),
        _joined((rows.arrivals for rows in group if rows.arrivals is not None), pa.int64()),
        _joined((rows.numbers for rows in group if rows.numbers is not None), pa.string()),
        _optional([(rows.sources, len(rows.data)) for rows in group], pa.string()),
        _optional([(rows.subsources, len(rows.data)) for rows in group], pa.int64()),
    )


def append_rows(writer: ShardWriter, group: Sequence[Rows]) -> None:
    """Append rows to a shard.  Large ones are not copied before: only small ones are joined.

    Raises:
        FailedError: as `columns_of`.
        LogError: as `ShardWriter.append_columns`.
    """
    parts: list[list[Rows]] = []
    last_bytes = PART_BYTES
    for rows in group:
        if last_bytes >= PART_BYTES:
            parts.append([])
            last_bytes = 0
        parts[-1].append(rows)
        last_bytes += weight(rows)[1]
    writer.append_parts([columns_of(part).as_part() for part in parts])


def _joined(parts: Iterable[Column], kind: pa.DataType) -> pa.Array | None:
    arrays = [part if isinstance(part, pa.Array) else pa.array(part, kind) for part in parts]
    if len(arrays) == 1:
        return arrays[0]
    if arrays and len(arrays[0]) >= _CHUNK_ROWS:  # as large as messages anyway: joining them is a copy for nothing
        return pa.chunked_array(arrays)
    return pa.concat_arrays(arrays) if arrays else None


def _optional(parts: Sequence[tuple[Column | None, int]], kind: pa.DataType) -> pa.Array | None:
    """Return a column that some rows do not have, None if none has it."""
    if all(part is None for part, _ in parts):
        return None
    return _joined((pa.nulls(rows, kind) if part is None else part for part, rows in parts), kind)
