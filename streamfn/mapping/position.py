"""Where a new mapping begins, as Lambda's StartingPosition says (Lambda Developer Guide, "Kinesis")."""

from __future__ import annotations

from streamfn.errors import RefusedError
from streamfn.log.catalog.stream import DYNAMODB, Shard, Stream
from streamfn.log.shard.reader import ShardReader, horizon
from streamfn.log.shard.seek import offset_at_time


def check_position(stream: Stream, position: str) -> None:
    """Refuse a starting position that a stream of this kind does not have, in the words that were recorded.

    Raises:
        RefusedError: AT_TIMESTAMP on a DynamoDB stream.
    """
    if position == "AT_TIMESTAMP" and stream.kind == DYNAMODB:
        raise RefusedError(f"Unsupported starting position for arn type: {stream.arn}")


def starting_offsets(stream: Stream, position: str, timestamp: float | None) -> dict[str, int]:
    """The first offset to deliver, for each shard.

    TRIM_HORIZON: the oldest record there is. LATEST: the log's end at this very moment. AT_TIMESTAMP: the first record
    in the log's order that arrived at or after `timestamp` (seconds since 1970). Reads the disk.
    """
    if position == "LATEST":
        return {shard.id: committed_end(shard) for shard in stream.shards}
    if position == "AT_TIMESTAMP":
        assert timestamp is not None, "checked with the other options"
        milliseconds = round(timestamp * 1000)
        return {shard.id: offset_at_time(shard, milliseconds) for shard in stream.shards}
    return {shard.id: horizon(shard) for shard in stream.shards}


def committed_end(shard: Shard) -> int:
    """The offset that the shard's next record will have. Reads the disk."""
    with ShardReader.open(shard, horizon(shard)) as reader:
        return reader.committed().end_offset
