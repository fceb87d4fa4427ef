"""A Kinesis data stream as a `Source`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from streamfn.capture.client import call, member, server_ms
from streamfn.capture.source import Answer, Description, Position, SourceShard, Trouble
from streamfn.capture.target import Target
from streamfn.log.catalog.stream import KINESIS
from streamfn.types import NewRecord

RECORDS_MAX = 10_000  # of one GetRecords
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_HOUR_MS = 3_600_000


class KinesisSource:
    """See `Source`."""

    def __init__(self, client: Any, target: Target) -> None:
        self._client = client
        # By name where only the name is known: emulators know names better than ARNs.
        self._named = {"StreamName": target.name} if target.arn is None else {"StreamARN": target.arn}
        self._by_arn = {} if target.arn is None else {"StreamARN": target.arn}

    def describe(self) -> Description:
        """See `Source`."""
        answer = call(self._client, "describe_stream_summary", **self._named)
        summary = member(answer, "StreamDescriptionSummary")
        return Description(
            name=summary["StreamName"],
            arn=summary["StreamARN"],
            kind=KINESIS,
            created_ms=ms_of(summary.get("StreamCreationTimestamp")) or 0,
            retention_ms=int(summary.get("RetentionPeriodHours") or 24) * _HOUR_MS,
            active=summary["StreamStatus"] != "DELETING",
            server_ms=server_ms(answer),
        )

    def shards(self) -> list[SourceShard]:
        """See `Source`."""
        while True:
            try:
                return self._list()
            except Trouble as trouble:
                if trouble.code != "ExpiredNextTokenException":  # a page's token lives 300 s: begin anew
                    raise

    def _list(self) -> list[SourceShard]:
        found: list[SourceShard] = []
        page: dict[str, object] = dict(self._named)
        while True:
            answer = call(self._client, "list_shards", **page)
            found += [_shard_of(shard) for shard in member(answer, "Shards")]
            token = answer.get("NextToken")
            if not token:
                return found
            page = {"NextToken": token}  # which names the stream, and must be alone

    def iterator(self, shard_id: str, position: Position) -> str:
        """See `Source`."""
        parameters: dict[str, object] = {**self._named, "ShardId": shard_id, "ShardIteratorType": position.type}
        if position.sequence_number is not None:
            parameters["StartingSequenceNumber"] = position.sequence_number
        if position.type == "AT_TIMESTAMP":
            parameters["Timestamp"] = _EPOCH + (position.at_ms or 0) * _MILLISECOND
        return str(member(call(self._client, "get_shard_iterator", **parameters), "ShardIterator"))

    def records(self, iterator: str) -> Answer:
        """See `Source`."""
        answer = call(self._client, "get_records", ShardIterator=iterator, Limit=RECORDS_MAX, **self._by_arn)
        records = [
            NewRecord(
                record["Data"],
                record["PartitionKey"],
                ms_of(record.get("ApproximateArrivalTimestamp")),
                record["SequenceNumber"],
            )
            for record in member(answer, "Records")
        ]
        return Answer(
            records=records,
            next_iterator=answer.get("NextShardIterator"),
            children=[_child_of(child) for child in answer.get("ChildShards") or ()],
            behind_ms=answer.get("MillisBehindLatest"),
            size=sum(len(record.data) + len(record.partition_key.encode()) for record in records),
            server_ms=server_ms(answer),
        )

    def close(self) -> None:
        """See `Source`."""
        self._client.close()


def ms_of(moment: datetime | None) -> int | None:
    """Return milliseconds since 1970, UTC; the SDK has rounded the source's decimals to microseconds."""
    return None if moment is None else (moment - _EPOCH) // _MILLISECOND


def _shard_of(shard: dict[str, Any]) -> SourceShard:
    parents = (shard.get("ParentShardId"), shard.get("AdjacentParentShardId"))
    return SourceShard(
        shard["ShardId"],
        tuple(parent for parent in parents if parent),
        int(shard["HashKeyRange"]["StartingHashKey"]),
        int(shard["HashKeyRange"]["EndingHashKey"]),
        shard["SequenceNumberRange"].get("EndingSequenceNumber"),
    )


def _child_of(child: dict[str, Any]) -> SourceShard:
    hashes = child["HashKeyRange"]
    return SourceShard(
        child["ShardId"],
        tuple(child.get("ParentShards") or ()),
        int(hashes["StartingHashKey"]),
        int(hashes["EndingHashKey"]),
    )
