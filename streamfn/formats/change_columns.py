"""Tables that have the columns of a DynamoDB shard log, as change records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from streamfn.formats.captured import sequence_number, shard_id
from streamfn.formats.changes import parse_change
from streamfn.formats.log_columns import CHANGE_COLUMNS, CREATED, origin_of
from streamfn.formats.rows import BadRecord, Changes, Origin, Reading, Rows
from streamfn.formats.tables import Table
from streamfn.types import NewChange

# Rows that exist as objects at a time.
_ROWS = 4096
_DOCUMENTS = ("keys", "new_image", "old_image", "user_identity")


def read_changes(table: Table, reading: Reading) -> Iterator[Rows | Changes]:
    """Read change records; a "line" is a row.

    Raises:
        BadRecord: see rows.py.
        FailedError: the file is damaged; the rows before have been yielded.
    """
    origin = origin_of(table.schema)
    captured = "sequence_number" in table.schema.names and not reading.new_numbers
    number = 0
    for batch in table.batches():
        for start in range(0, batch.num_rows, _ROWS):
            piece = batch.slice(start, _ROWS)
            yield from _read(piece, reading, origin if captured else None, number)
            number += piece.num_rows


def _read(batch: pa.RecordBatch, reading: Reading, origin: Origin | None, before: int) -> Iterator[Rows | Changes]:
    if before + batch.num_rows <= reading.skip_lines:
        return
    gathered: list[NewChange] = []
    at: Origin | None = origin
    number = before
    for row in _rows(batch):
        number += 1
        if number <= reading.skip_lines:
            continue
        try:
            change, mine = _change(row, origin)
        except ValueError as error:
            if gathered:
                yield Changes(gathered, number - 1, 0, at)
                gathered = []
            if not reading.skip_bad:
                raise BadRecord(number, str(error)) from None
            yield Rows([], [], None, number, 1)
            continue
        if gathered and mine != at:
            yield Changes(gathered, number - 1, 0, at)
            gathered = []
        at = mine
        gathered.append(change)
    if gathered:
        yield Changes(gathered, number, 0, at)


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    names = [name for name in batch.schema.names if name != CREATED]
    rows: list[dict[str, Any]] = batch.select(names).to_pylist()
    if CREATED in batch.schema.names:
        created = batch.column(CREATED).cast(pa.timestamp("ms"), safe=False).view(pa.int64()).to_pylist()
        for row, at in zip(rows, created, strict=True):
            row[CREATED] = at
    return rows


def _change(row: dict[str, Any], origin: Origin | None) -> tuple[NewChange, Origin | None]:
    """Make a change of a row; ValueError says what is wrong with it."""
    documents = {name: row.get(name) for name in _DOCUMENTS}
    for name, text in documents.items():
        if text is not None and not isinstance(text, str):
            raise ValueError(f"its {name} is not text")
    if documents["keys"] is None:
        raise ValueError("it has no keys")
    described = _as_json(row, documents)
    change = parse_change(described)
    if origin is None:
        return change._replace(sequence_number=None), None
    sequence_number(change.sequence_number, "its sequence_number")
    if change.creation_ms is None:
        raise ValueError(f"it has no {CREATED}")
    named = row.get("shard_id")
    return change, origin if named is None else origin._replace(shard_id=shard_id(named))


def _as_json(row: dict[str, Any], documents: dict[str, str | None]) -> bytes:
    """Return the row as GetRecords has it, so that it is checked as everything else is, and cut from there."""
    import orjson

    def member(name: str, column: str) -> str:
        value = row.get(column)
        return "" if value is None else f'"{name}":{orjson.dumps(value).decode()},'

    images = "".join(
        f'"{name}":{documents[column]},'
        for name, column in (("Keys", "keys"), ("NewImage", "new_image"), ("OldImage", "old_image"))
        if documents[column] is not None
    )
    created = row.get(CREATED)
    when = "" if created is None else f'"ApproximateCreationDateTime":{orjson.dumps(created / 1000).decode()},'
    numbers = member("SequenceNumber", "sequence_number") + member("SizeBytes", "size_bytes")
    inner = f"{when}{images}{numbers}{member('StreamViewType', 'stream_view_type')}".rstrip(",")
    outer = member("eventID", "event_id") + member("eventName", "event_name") + member("eventVersion", "event_version")
    user = documents["user_identity"]
    outer += "" if user is None else f'"userIdentity":{user},'
    return f'{{{outer}"dynamodb":{{{inner}}}}}'.encode()


assert set(_DOCUMENTS) < set(CHANGE_COLUMNS)
