"""The records that a discard speaks of, out of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamfn.errors import LogDamaged
from streamfn.events.dynamodb import DynamoDBSource, dynamodb_record
from streamfn.events.kinesis import KinesisSource, kinesis_record
from streamfn.log.catalog import description
from streamfn.log.shard.cursor import ShardCursor
from streamfn.mapping.source import event_source
from streamfn.types import Change, Record

if TYPE_CHECKING:
    from streamfn.log.catalog.stream import Shard, Stream
    from streamfn.log.segment.rows import Row
    from streamfn.state.discards import Discard


def records_of(stream: Stream, discard: Discard) -> list[Row]:
    """Return what is left of a discard's records, in order. Reads the disk.

    Fewer than there were are returned where retention has trimmed the log meanwhile, or it is damaged.
    """
    shard = _shard(stream, discard.shard_id)
    wanted = None
    if discard.failure is not None and discard.failure.offsets is not None:
        wanted = frozenset(discard.failure.offsets)
    found: list[Row] = []
    try:
        with ShardCursor(shard, discard.first_offset, discard.end_offset) as cursor:
            for row in cursor:
                if wanted is None or row.offset in wanted:
                    found.append(row)
    except LogDamaged:
        pass  # who lists or carries discards can do nothing about it; `verify` says it
    return found


def event_of(stream: Stream, shard_id: str, rows: list[Row], role_arn: str) -> dict[str, Any]:
    """Return the event that a handler would be given of these records of one shard."""
    source = event_source(stream, _shard(stream, shard_id), role_arn)
    records = []
    for row in rows:
        if isinstance(source, KinesisSource) and isinstance(row, Record):
            records.append(kinesis_record(source, row))
        elif isinstance(source, DynamoDBSource) and isinstance(row, Change):
            records.append(dynamodb_record(source, row))
    return {"Records": records}


def _shard(stream: Stream, shard_id: str) -> Shard:
    """The shard of that id, which the stream may have got since it was read."""
    shard = stream.shard(shard_id) or description.read(stream.directory, stream.disk).shard(shard_id)
    assert shard is not None, "shards of a stream stay in its description for ever"
    return shard
