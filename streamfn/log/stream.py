"""Streams and shards as they are named and found; nothing here opens a log."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

from streamfn.errors import FailedError
from streamfn.log.disk import SYSTEM_DISK, Disk

HASH_KEYS = 2**128
ARN_DEFAULT = "arn:aws:kinesis:us-east-1:000000000000:stream/"


class Shard(NamedTuple):
    """One shard: its id as Kinesis names it, its directory, and the hash keys it takes, ends included.

    `disk` is what the directory lies on.
    """

    id: str
    directory: Path
    start_hash: int
    end_hash: int
    disk: Disk = SYSTEM_DISK

    @property
    def stream_id(self) -> str:
        """The 16 hexadecimal digits of the stream the shard belongs to."""
        return self.directory.parent.name

    @property
    def name(self) -> str:
        """`<stream id>/<shard id>`: what the shard's segments carry in their schema."""
        return f"{self.stream_id}/{self.id}"

    @property
    def sequence_base(self) -> str:
        """The first 36 digits of the sequence numbers given here; the shard offset follows in 20.

        `49` as in Kinesis, the stream (20 digits), the shard (14): no two shards share a number.
        """
        return f"49{int(self.stream_id, 16):020d}{int(self.id.rpartition('-')[2]):014d}"


class Stream:
    """A stream: an immutable description, read from its `stream.json`.

    `id` is 16 hexadecimal digits, `created_ms` milliseconds since 1970, UTC; `shards` are in order of
    their hash keys.
    """

    __slots__ = ("_starts", "arn", "created_ms", "directory", "id", "name", "shards")

    def __init__(
        self, directory: Path, name: str, arn: str, created_ms: int, shards: tuple[Shard, ...]
    ) -> None:
        self.id = directory.name
        self.directory = directory
        self.name = name
        self.arn = arn
        self.created_ms = created_ms
        self.shards = shards
        self._starts = [shard.start_hash for shard in shards]

    def __repr__(self) -> str:
        return f"<Stream {self.name} {self.id} of {len(self.shards)} shards>"

    @property
    def region(self) -> str:
        """The region in the stream's ARN."""
        return self.arn.split(":")[3]

    def shard_for(self, partition_key: str) -> Shard:
        """Return the shard whose hash keys include the MD5 of the partition key, as Kinesis does."""
        digest = hashlib.md5(partition_key.encode(), usedforsecurity=False).digest()
        return self.shards[bisect_right(self._starts, int.from_bytes(digest, "big")) - 1]

    def shard_index(self, partition_key: str) -> int:
        """The same as an index into `shards`."""
        digest = hashlib.md5(partition_key.encode(), usedforsecurity=False).digest()
        return bisect_right(self._starts, int.from_bytes(digest, "big")) - 1


def shard_id(number: int) -> str:
    """Return a shard's id as Kinesis writes it."""
    return f"shardId-{number:012d}"


def uniform_shards(directory: Path, count: int, disk: Disk = SYSTEM_DISK) -> tuple[Shard, ...]:
    """Divide the hash keys as CreateStream does: equal ranges, the last one takes the remainder."""
    width = HASH_KEYS // count
    starts = [number * width for number in range(count)]
    ends = [start - 1 for start in starts[1:]] + [HASH_KEYS - 1]
    return tuple(
        Shard(shard_id(number), directory / shard_id(number), start, end, disk)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    )


def encode(stream: Stream) -> str:
    """Return the text of `stream.json`."""
    shards = [
        {"id": s.id, "start_hash": str(s.start_hash), "end_hash": str(s.end_hash)} for s in stream.shards
    ]
    described = {"name": stream.name, "arn": stream.arn, "created_ms": stream.created_ms, "shards": shards}
    return json.dumps(described, indent=1) + "\n"


def decode(directory: Path, text: str, disk: Disk = SYSTEM_DISK) -> Stream:
    """Return the stream that lies in `directory`.

    Raises:
        FailedError: the text is not what `encode` writes.
    """
    try:
        described = json.loads(text)
        shards = tuple(
            Shard(
                str(s["id"]), directory / shard_id(number), int(s["start_hash"]), int(s["end_hash"]), disk
            )
            for number, s in enumerate(described["shards"])
        )
        return Stream(
            directory, str(described["name"]), str(described["arn"]), int(described["created_ms"]), shards
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FailedError(f"{directory / 'stream.json'} is damaged: {error!r}") from error
