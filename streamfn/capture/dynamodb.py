"""A table's stream (DynamoDB Streams) as a `Source`.

Change records are cut out of the answers' bytes: attributes in the order and numbers in the digits in which DynamoDB
wrote them.  DynamoDB does not say how far behind a reader is, keeps everything for 24 hours, and not every SDK knows
iterators by time here, so those are begun at the horizon, and the machine leaves out what is too early.
"""

from __future__ import annotations

from typing import Any

from streamfn.capture.client import Access, call, member, open_client, raw_body, server_ms
from streamfn.capture.kinesis import ms_of
from streamfn.capture.source import Answer, Description, Position, SourceShard, Trouble, TroubleKind, data_bytes
from streamfn.capture.target import Target
from streamfn.errors import RefusedError
from streamfn.formats.changes import elements, members, parse_change
from streamfn.log.catalog.stream import DYNAMODB
from streamfn.types import NewChange

RECORDS_MAX = 1_000  # of one GetRecords
RETENTION_MS = 86_400_000


class DynamoDBSource:
    """See `Source`."""

    def __init__(self, client: Any, stream_arn: str) -> None:
        self._client = client
        self._arn = stream_arn

    def describe(self) -> Description:
        """See `Source`."""
        answer = call(self._client, "describe_stream", StreamArn=self._arn, Limit=1)
        described = member(answer, "StreamDescription")
        return Description(
            name=described["TableName"],
            arn=described["StreamArn"],
            kind=DYNAMODB,
            created_ms=ms_of(described.get("CreationRequestDateTime")) or 0,
            retention_ms=RETENTION_MS,
            active=described["StreamStatus"] not in ("DISABLING", "DISABLED"),
            server_ms=server_ms(answer),
        )

    def shards(self) -> list[SourceShard]:
        """See `Source`."""
        found: list[SourceShard] = []
        page: dict[str, object] = {"StreamArn": self._arn}
        while True:
            described = member(call(self._client, "describe_stream", **page), "StreamDescription")
            found += [_shard_of(shard) for shard in member(described, "Shards")]
            last = described.get("LastEvaluatedShardId")
            if not last:
                return found
            page["ExclusiveStartShardId"] = last

    def iterator(self, shard_id: str, position: Position) -> str:
        """See `Source`."""
        kind = "TRIM_HORIZON" if position.type == "AT_TIMESTAMP" else position.type
        parameters: dict[str, object] = {"StreamArn": self._arn, "ShardId": shard_id, "ShardIteratorType": kind}
        if position.sequence_number is not None:
            parameters["SequenceNumber"] = position.sequence_number
        return str(member(call(self._client, "get_shard_iterator", **parameters), "ShardIterator"))

    def records(self, iterator: str) -> Answer:
        """See `Source`."""
        answer = call(self._client, "get_records", ShardIterator=iterator, Limit=RECORDS_MAX)
        member(answer, "Records")  # which makes the body JSON
        changes = changes_of(raw_body(answer))
        return Answer(
            records=changes,
            next_iterator=answer.get("NextShardIterator"),
            children=(),
            behind_ms=None,
            size=sum(map(data_bytes, changes)),
            server_ms=server_ms(answer),
        )

    def close(self) -> None:
        """See `Source`."""
        self._client.close()


def changes_of(body: bytes) -> list[NewChange]:
    """Return the change records of a GetRecords answer, to the letter.

    Raises:
        Trouble: FATAL, a record is not what DynamoDB writes.
    """
    changes = []
    for text in elements(members(body)["Records"]):
        try:
            changes.append(parse_change(text))
        except ValueError as error:
            raise Trouble(
                TroubleKind.FATAL, "BadRecord", f"a record is not understood: {error}: {text[:200]!r}"
            ) from None
    return changes


def stream_arn_of(client: Any, target: Target, access: Access) -> str:
    """Return the ARN of a table's newest stream.

    Raises:
        RefusedError: there is no such table, or its stream was never switched on.
        Trouble: the source cannot be asked.
    """
    arns: list[str] = []
    page: dict[str, object] = {"TableName": target.name}
    try:
        while True:
            answer = call(client, "list_streams", **page)
            arns += [stream["StreamArn"] for stream in member(answer, "Streams")]
            if not answer.get("LastEvaluatedStreamArn"):
                break
            page["ExclusiveStartStreamArn"] = answer["LastEvaluatedStreamArn"]
    except Trouble as trouble:
        if trouble.kind is not TroubleKind.GONE:
            raise
    if arns:
        return max(arns)  # they end in the time at which they were switched on
    region = client.meta.region_name
    if not _table_exists(target, access):
        raise RefusedError(f"there is no table {target.name!r} in region {region}")
    raise RefusedError(
        f"table {target.name!r} in region {region} has no stream: switch it on with aws dynamodb update-table "
        f"--table-name {target.name} --stream-specification StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES"
    )


def _table_exists(target: Target, access: Access) -> bool:
    """Whether there is such a table; where we may not know, we take it that there is."""
    client = open_client("dynamodb", access, connections=1)
    try:
        call(client, "describe_table", TableName=target.name)
    except Trouble as trouble:
        return trouble.kind is not TroubleKind.GONE
    finally:
        client.close()
    return True


def _shard_of(shard: dict[str, Any]) -> SourceShard:
    parent = shard.get("ParentShardId")
    return SourceShard(
        shard["ShardId"],
        (parent,) if parent else (),
        ending_sequence_number=shard.get("SequenceNumberRange", {}).get("EndingSequenceNumber"),
    )
