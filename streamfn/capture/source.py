"""The vocabulary of a capture: what a live stream is asked, and what it answers.

Nothing here knows boto3, HTTP or the disk.  `Source` is a live stream; its calls block, and are made from
threads.  What goes wrong in one is a `Trouble`, whose kind decides what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol, TypeAlias

from streamfn.types import NewChange, NewRecord

Captured: TypeAlias = NewRecord | NewChange


class SourceShard(NamedTuple):
    """A shard as the source lists it.

    Hash keys are None in DynamoDB.  `ending_sequence_number` is not None once the shard is closed: nothing
    is written to it any more.
    """

    id: str
    parents: tuple[str, ...] = ()
    start_hash: int | None = None
    end_hash: int | None = None
    ending_sequence_number: str | None = None

    @property
    def closed(self) -> bool:
        """Whether the source writes nothing to it any more."""
        return self.ending_sequence_number is not None


class Description(NamedTuple):
    """A live stream.

    `created_ms` (since 1970, UTC) tells a stream from one of the same name that was deleted; `server_ms` is
    the source's clock at the time of the answer.  Records older than `retention_ms` are trimmed away.
    `active` is False once nothing will be written any more: deleted, or switched off.
    """

    name: str
    arn: str
    kind: str
    created_ms: int
    retention_ms: int
    active: bool
    server_ms: int


class Position(NamedTuple):
    """Where an iterator is to stand; `type` is a ShardIteratorType."""

    type: str
    sequence_number: str | None = None
    at_ms: int | None = None


class Answer(NamedTuple):
    """What GetRecords has answered.

    `next_iterator` is None at the shard's end, and then `children` names its children where the source does.
    `behind_ms` is how far the last record is behind the newest, None where the source does not say.
    `size` is in bytes, as the read limits count them; `server_ms` the source's clock.
    """

    records: Sequence[Captured]
    next_iterator: str | None
    children: Sequence[SourceShard]
    behind_ms: int | None
    size: int
    server_ms: int


class TroubleKind(Enum):
    """What a failed call means for the reader."""

    THROTTLED = "throttled"  # too much was asked: wait, and ask the same again
    TRANSIENT = "transient"  # the network, or the source itself: likewise
    EXPIRED = "expired"  # the iterator is too old: get a new one
    TRIMMED = "trimmed"  # the position was trimmed away: go on from the oldest record there is
    GONE = "gone"  # the shard, or the whole stream, is not there
    FATAL = "fatal"  # refused, and will be again


class Trouble(Exception):
    """A call to the source has failed.  `code` is AWS's error code or the SDK's exception; the text is one line."""

    def __init__(self, kind: TroubleKind, code: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code


class Source(Protocol):
    """A live stream.  Thread-safe; every call may block, raises `Trouble`, and is never repeated by itself.

    Close it when it is not needed any more.
    """

    def describe(self) -> Description:
        """Say what the stream is, now."""

    def shards(self) -> list[SourceShard]:
        """List all shards there are, parents before their children."""

    def iterator(self, shard_id: str, position: Position) -> str:
        """Return a shard iterator (GetShardIterator)."""

    def records(self, iterator: str) -> Answer:
        """Return what is at an iterator (GetRecords)."""

    def close(self) -> None:
        """Let its connections go."""


def time_of(record: Captured) -> int | None:
    """Return when the source took a record, in ms since 1970, UTC."""
    return record.arrival_ms if isinstance(record, NewRecord) else record.creation_ms


def data_bytes(record: Captured) -> int:
    """Return a record's size as the source counts it."""
    if isinstance(record, NewRecord):
        return len(record.data) + len(record.partition_key.encode())
    return record.size_bytes or 0
