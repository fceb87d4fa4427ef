"""Shards as Kinesis describes them."""

from __future__ import annotations

from typing import Any

from streamfn.log.catalog.stream import OFFSET_DIGITS, Shard, Stream


def list_shards(stream: Stream) -> list[dict[str, Any]]:
    """Return what ListShards answers for a stream: all its shards, in the order in which they were made."""
    return [describe_shard(shard) for shard in stream.shards]


def describe_shard(shard: Shard) -> dict[str, Any]:
    """Return one shard as ListShards has it; a closed one has an EndingSequenceNumber, its last record's.

    A closed shard that never had a record ends where it began.
    """
    start = shard.starting_sequence_number or shard.sequence_base + "0" * OFFSET_DIGITS
    numbers = {"StartingSequenceNumber": start}
    if not shard.open:
        numbers["EndingSequenceNumber"] = shard.ending_sequence_number or start
    described: dict[str, Any] = {"ShardId": shard.id}
    for name, parent in zip(("ParentShardId", "AdjacentParentShardId"), shard.parents, strict=False):
        described[name] = parent
    if shard.ranged:
        described["HashKeyRange"] = {
            "StartingHashKey": str(shard.start_hash),
            "EndingHashKey": str(shard.end_hash),
        }
    described["SequenceNumberRange"] = numbers
    return described
