"""A stream in memory with real records: what `run_mapping` reads from, and what its events are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import orjson

from streamfn._native import lib
from streamfn.core.filter import compile_filters
from streamfn.core.filter.expression import DATA, DYNAMODB, KINESIS, NOT_JSON
from streamfn.errors import RefusedError
from streamfn.events import window
from streamfn.events.dynamodb import DynamoDBSource, dynamodb_record
from streamfn.events.kinesis import kinesis_record
from streamfn.limits import FILTERS_MAX
from streamfn.testing.builders import (
    Data,
    dynamodb_source,
    kinesis_source,
    record,
    stored_change,
    stored_record,
)
from streamfn.testing.memory import MemoryShard
from streamfn.types import Change, Envelope, NewChange, Record

Given: TypeAlias = "Sequence[Data | NewChange] | Mapping[str, Sequence[Data | NewChange]]"
"""Records of one shard, or of several by their ids."""

_FIRST = "shardId-000000000000"
_COMMA_BYTES = 1


class MemoryStream:
    """The shards, what is in them so far, and what is still to come."""

    def __init__(self, records: Given, *, name: str, start_ms: int) -> None:
        """Nothing has arrived yet.

        Raises:
            RefusedError: records of both kinds, or one that is not a record.
        """
        by_shard = records if isinstance(records, Mapping) else {_FIRST: records}
        changes = {isinstance(each, NewChange) for shard in by_shard.values() for each in shard}
        if len(changes) > 1:
            raise RefusedError("a stream has Kinesis records or DynamoDB changes, not both")
        self.kind = DYNAMODB if True in changes else KINESIS
        self.logs = {shard: MemoryShard() for shard in by_shard}
        self._sources = {
            shard: dynamodb_source(name) if self.kind == DYNAMODB else kinesis_source(name, shard) for shard in by_shard
        }
        self.stored: dict[str, list[Record | Change]] = {
            shard: [_stored(each, offset, start_ms) for offset, each in enumerate(given)]
            for shard, given in by_shard.items()
        }

    @property
    def arn(self) -> str:
        """The stream's."""
        return next(iter(self._sources.values())).arn if self._sources else ""

    def arrive(self, shard: str, offset: int, at_ms: int) -> None:
        """The record at an offset of a shard is there from now on; `at_ms` is what its age counts from."""
        one = self.stored[shard][offset]
        size = len(orjson.dumps(self._record(shard, one))) + _COMMA_BYTES
        self.logs[shard].append([size], [at_ms])

    def event(self, shard: str, offsets: Sequence[int], envelope: Envelope | None) -> dict[str, Any]:
        """What a handler is given, made anew at every call."""
        records = [self._record(shard, self.stored[shard][offset]) for offset in offsets]
        event: dict[str, Any] = {"Records": records}
        if envelope is not None:
            event.update(json.loads(window.document(envelope, shard, self.arn)))
        return event

    def sequence_numbers(self, shard: str, offsets: Sequence[int]) -> tuple[str, ...]:
        """Those of some records."""
        return tuple(self.stored[shard][offset].sequence_number for offset in offsets)

    def lane(self, shard: str, offset: int, factor: int) -> int:
        """Which of `factor` lanes a record belongs to."""
        one = self.stored[shard][offset]
        if isinstance(one, Record):
            key = one.partition_key.encode()
            return int(lib.sf_key_lane(key, len(key), factor))
        return int(lib.sf_item_lane(one.keys, len(one.keys), factor))

    def _record(self, shard: str, one: Record | Change) -> dict[str, object]:
        source = self._sources[shard]
        if isinstance(source, DynamoDBSource):
            assert isinstance(one, Change)
            return dynamodb_record(source, one)
        assert isinstance(one, Record)
        return kinesis_record(source, one)

    # ---- filters

    def compile(self, patterns: Sequence[str]) -> None:
        """Take the filter criteria.  Raises RefusedError, with Lambda's words, where they are not valid."""
        self._filters = compile_filters(patterns, self.kind, at_most=FILTERS_MAX)

    def wanted(self, shard: str, offset: int) -> bool:
        """Whether a record passes the filters."""
        one = self.stored[shard][offset]
        if isinstance(one, Record):
            return self._filters.matches({DATA: _parsed(one.data), "partitionKey": one.partition_key})
        fields = self._record(shard, one)
        for name, value in fields.pop("dynamodb").items():  # type: ignore[attr-defined]
            fields[f"dynamodb.{name}"] = value
        return self._filters.matches(fields)


def time_ms(one: Record | Change) -> int:
    """When a record arrived, or a change was made."""
    return one.arrival_ms if isinstance(one, Record) else one.creation_ms


def _stored(given: Data | NewChange, offset: int, start_ms: int) -> Record | Change:
    if isinstance(given, NewChange):
        return stored_change(given, offset, start_ms)
    return stored_record(record(given), offset, start_ms)


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return NOT_JSON
