"""What all events of one shard have in common: for their sizes, and for the workers that build them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from streamfn import _events
from streamfn.events.dynamodb import DynamoDBSource
from streamfn.events.kinesis import KinesisSource

if TYPE_CHECKING:
    from streamfn.log.catalog.stream import Shard, Stream

_DYNAMODB = "dynamodb"

# Introduces a descriptor to a worker that is not a segment's: what stands beside an event's records, as JSON.
DOCUMENT_HEADER = b'{"kind":"document"}'
# And what is the event itself.
EVENT_HEADER = b'{"kind":"event"}'


def event_source(stream: Stream, shard: Shard, role_arn: str) -> KinesisSource | DynamoDBSource:
    """Return what the oracle of the stream's kind needs to know of a shard."""
    if stream.kind == _DYNAMODB:
        return DynamoDBSource(stream.arn, stream.region)
    return KinesisSource(stream.arn, stream.region, shard.id, role_arn)


def source_header(stream: Stream, shard: Shard, role_arn: str) -> bytes:
    """Return the same as JSON, to go to a worker with a segment's descriptor."""
    header = {"kind": stream.kind, "arn": stream.arn, "region": stream.region, "shard": shard.id, "identity": role_arn}
    return orjson.dumps(header)


def native_source(header: bytes) -> _events.Source:
    """Return what `_events.build` needs to know, in the worker."""
    source = orjson.loads(header)
    return _events.Source(source["arn"], source["region"], source["shard"], source["identity"], source["kind"])
