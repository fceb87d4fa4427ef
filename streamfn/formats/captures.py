"""Documents of captured records as rows; records are counted through all documents of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from streamfn.formats.aggregated import Deaggregator
from streamfn.formats.captured import (
    GET_RECORDS,
    form_of,
    get_records_record,
    lambda_record,
    sequence_number,
    shard_id,
    stream_arn,
)
from streamfn.formats.changes import members, parse_change
from streamfn.formats.documents import Document
from streamfn.formats.json_values import elements
from streamfn.formats.rows import BadRecord, Changes, Origin, Reading, Rows
from streamfn.types import NewChange, NewRecord

# Records handed on at a time, also in the middle of a document.
_ROWS = 4096
_CALLED = {"kinesis": "a Kinesis record", "dynamodb": "a DynamoDB change record"}


def read_captures(
    documents: Iterable[list[Document]], reading: Reading, form: str | None = None
) -> Iterator[Rows | Changes]:
    """Read documents; all must be of the format `form`, where it is given, and all of one kind.

    Raises:
        BadRecord: see rows.py; of a document that is not one the records in it are not known, so it counts as one.
        RefusedError: records are to be taken apart and the package for that is missing.
    """
    gathered = _Gathered(reading, form)
    for group in documents:
        for document in group:
            yield from gathered.read(document)
        yield from gathered.take()
        if not group:
            yield Rows([], [], None, gathered.number, 0)


class _Gathered:
    """Good records of one origin, to be handed on together."""

    def __init__(self, reading: Reading, form: str | None) -> None:
        self.number = 0
        self._reading = reading
        self._form = form
        self._kind: str | None = None
        self._keeps_numbers = not (reading.new_numbers or reading.deaggregate)
        self._deaggregator = Deaggregator() if reading.deaggregate else None
        self._origin = Origin()
        self._records: list[NewRecord] = []
        self._changes: list[NewChange] = []

    def read(self, document: Document) -> Iterator[Rows | Changes]:
        """Read one document; what is handed on before its end is yielded."""
        try:
            records, texts, document_shard = _opened(document)
        except ValueError as error:
            self.number += 1
            yield from self._refuse(error, document.where)
            return
        for value, text in zip(records, texts, strict=True):
            self.number += 1
            if self.number <= self._reading.skip_lines:
                continue
            try:
                record, origin = self._record(value, text, document_shard)
            except ValueError as error:
                yield from self._refuse(error, document.where)
                continue
            if origin != self._origin or len(self._records) + len(self._changes) >= _ROWS:
                self.number -= 1  # this one is not among those handed on
                yield from self.take()
                self.number += 1
                self._origin = origin
            if isinstance(record, NewRecord):
                self._records += self._taken_apart(record)
            else:
                self._changes.append(record if self._keeps_numbers else record._replace(sequence_number=None))

    def take(self) -> Iterator[Rows | Changes]:
        """Hand on what is gathered, and start again."""
        records, changes = self._records, self._changes
        self._records, self._changes = [], []
        origin = self._origin if self._keeps_numbers else None
        if changes:
            yield Changes(changes, self.number, 0, origin)
        elif records:
            yield rows_of(records, self.number, origin)

    def _record(
        self, value: Any, text: bytes, document_shard: str | None
    ) -> tuple[NewRecord | NewChange, Origin]:
        form = form_of(value)
        if self._form not in (None, form):
            raise ValueError(f"it is of format {form}, not {self._form}")
        kind = "kinesis" if form == GET_RECORDS or "kinesis" in value else "dynamodb"
        if self._kind is None:
            self._kind = kind
        elif self._kind != kind:
            raise ValueError(f"it is {_CALLED[kind]}, and those before are of the other kind")
        if kind == "kinesis":
            record, origin = get_records_record(value) if form == GET_RECORDS else lambda_record(value)
        elif self._deaggregator is not None:
            raise ValueError("it is a DynamoDB change record, and those are not aggregated: leave out --deaggregate")
        else:
            change, origin = _change(value, text)
        if origin.shard_id is None and document_shard is not None:
            origin = origin._replace(shard_id=document_shard)
        return (record if kind == "kinesis" else change), origin

    def _taken_apart(self, record: NewRecord) -> Sequence[NewRecord]:
        if self._deaggregator is None:
            return [record] if self._keeps_numbers else [record._replace(sequence_number=None)]
        number = record.sequence_number
        ordinary = record._replace(sequence_number=None, source_sequence_number=number)
        parts = self._deaggregator.user_records(record.data)
        if parts is None:
            return [ordinary]
        return [
            NewRecord(part.data, part.partition_key, record.arrival_ms, None, number, place)
            for place, part in enumerate(parts)
        ]

    def _refuse(self, error: ValueError, where: str) -> Iterator[Rows | Changes]:
        if self.number <= self._reading.skip_lines:
            return
        # Those before are handed on: so what is handed on together was counted without a gap.
        self.number -= 1
        yield from self.take()
        self.number += 1
        if not self._reading.skip_bad:
            raise BadRecord(self.number, str(error), where)
        yield Rows([], [], None, self.number, 1)


def rows_of(records: Sequence[NewRecord], last_line: int, origin: Origin | None) -> Rows:
    """Return records, all of which have an arrival time, as columns."""
    sourced = any(
        record.source_sequence_number is not None or record.source_subsequence_number is not None
        for record in records
    )
    return Rows(
        [record.data for record in records],
        [record.partition_key for record in records],
        [record.arrival_ms for record in records],
        last_line,
        0,
        [record.sequence_number for record in records] if origin is not None else None,
        [record.source_sequence_number for record in records] if sourced else None,
        [record.source_subsequence_number for record in records] if sourced else None,
        origin,
    )


def _opened(document: Document) -> tuple[list[Any], list[bytes], str | None]:
    """Return a document's records, parsed and as text (for changes only), and its shard if it says that.

    Raises:
        ValueError: it is not JSON, or no document of records.
    """
    if document.problem:
        raise ValueError(document.problem)
    try:
        value = orjson.loads(document.text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg}") from None
    shard = None
    text = document.text
    if isinstance(value, dict) and "Records" in value:
        records = value["Records"]
        named = value.get("shardId", value.get("ShardId"))
        shard = shard_id(named) if named is not None else None
        if isinstance(records, list) and _are_changes(records):
            text = members(text)["Records"]
    elif isinstance(value, list):
        records = value
    else:
        return [value], [document.text], None
    if not isinstance(records, list):
        raise ValueError("its Records are not an array")
    if not _are_changes(records):
        return records, [b""] * len(records), shard
    return records, [each.text for each in elements(text)], shard


def _are_changes(records: list[Any]) -> bool:
    """Whether there are changes among them: of those the text is needed."""
    return any(isinstance(record, dict) and "dynamodb" in record for record in records)


def _change(value: Any, text: bytes) -> tuple[NewChange, Origin]:
    """Read a DynamoDB change record of either form; ValueError says what is wrong with it."""
    change = parse_change(text)
    sequence_number(change.sequence_number, "its SequenceNumber")
    if change.creation_ms is None:
        raise ValueError("it has no ApproximateCreationDateTime")
    arn, shard = value.get("eventSourceARN"), value.get("ShardId")
    return change, Origin(
        shard_id(shard) if shard is not None else None, stream_arn(arn) if isinstance(arn, str) else None
    )
