"""Streams and shards as they are named and found; nothing here opens a log or reads a file."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from streamfn import limits
from streamfn.errors import RefusedError
from streamfn.log.storage.disk import SYSTEM_DISK, Disk

HASH_KEYS = 2**128
KINESIS = "kinesis"
DYNAMODB = "dynamodb"
KINDS = (KINESIS, DYNAMODB)

# Of a sequence number given here, the last digits are the record's offset in its shard.
OFFSET_DIGITS = 20


def default_arn(name: str, kind: str, created_ms: int) -> str:
    """Return the ARN of a stream that has none from elsewhere; a DynamoDB stream's ends in the time it was made."""
    if kind == KINESIS:
        return f"arn:aws:kinesis:us-east-1:{limits.ACCOUNT}:stream/{name}"
    made = datetime.fromtimestamp(created_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"arn:aws:dynamodb:us-east-1:{limits.ACCOUNT}:table/{name}/stream/{made}.{created_ms % 1000:03d}"


class Shard(NamedTuple):
    """One shard.

    `number` counts the shards of the stream in the order they were made and names the directory; `id` is what
    Kinesis calls it.  It takes the hash keys from `start_hash` to `end_hash`, both included; where `ranged` is
    False the source gave none, and the open shards divide them evenly.  `parents` are the ids of the shards
    whose keys it took over: none, one after a split, two after a merge.  `end_offset` is None while it is
    open, and then the offset behind its last record.  The sequence numbers are those of its first and last
    record, None where nobody gave any.  `created_ms` is in milliseconds since 1970, UTC.  `disk` is what the
    directory lies on.
    """

    number: int
    id: str
    directory: Path
    start_hash: int
    end_hash: int
    ranged: bool = True
    parents: tuple[str, ...] = ()
    created_ms: int = 0
    end_offset: int | None = None
    starting_sequence_number: str | None = None
    ending_sequence_number: str | None = None
    kind: str = KINESIS
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
    def open(self) -> bool:
        """Whether it can be appended to: it was neither split nor merged."""
        return self.end_offset is None

    @property
    def sequence_base(self) -> str:
        """What the sequence numbers given here begin with; the shard offset follows in 20 digits.

        `49` as in Kinesis, the stream (20 digits), the shard (14): no two shards share a number.  DynamoDB's have
        40 digits at most: `7`, of the stream 13, the shard in 6.  A shard that has a starting sequence number gives
        none below it.
        """
        if self.starting_sequence_number is not None:
            return str(-(-int(self.starting_sequence_number) // 10**OFFSET_DIGITS))
        return default_sequence_base(self.stream_id, self.number, self.kind)


class Retention(NamedTuple):
    """How much of a stream is kept: seconds since the append, bytes a shard.  None keeps everything."""

    age_s: int | None = None
    bytes: int | None = None


KEEP_ALL = Retention()


class CapturedShard(NamedTuple):
    """A shard as its source describes it.  Without hash keys (DynamoDB has none) they are divided evenly."""

    id: str
    start_hash: int | None = None
    end_hash: int | None = None
    parents: tuple[str, ...] = ()
    starting_sequence_number: str | None = None


class Stream:
    """A stream: an immutable description, read from its `stream.json`.

    `id` is 16 hexadecimal digits, `created_ms` milliseconds since 1970, UTC.  `shards` are all it ever had, by
    number; `open_shards` those that can be appended to, by their hash keys; `disk` is what it lies on.
    """

    __slots__ = (
        "_by_id", "_starts", "arn", "cold_after_s", "created_ms", "directory", "disk", "id", "kind", "name",
        "open_shards", "retention", "shards",
    )  # fmt: skip

    def __init__(
        self,
        directory: Path,
        name: str,
        arn: str,
        created_ms: int,
        shards: Iterable[Shard],
        *,
        kind: str = KINESIS,
        retention: Retention = KEEP_ALL,
        cold_after_s: int | None = None,
        disk: Disk = SYSTEM_DISK,
    ) -> None:
        self.id = directory.name
        self.directory = directory
        self.disk = disk
        self.name = name
        self.arn = arn
        self.kind = kind
        self.created_ms = created_ms
        self.retention = retention
        self.cold_after_s = cold_after_s
        self.shards = _evenly(tuple(shards))
        self.open_shards = tuple(sorted((s for s in self.shards if s.open), key=lambda shard: shard.start_hash))
        self._starts = [shard.start_hash for shard in self.open_shards]
        self._by_id = {shard.id: shard for shard in self.shards}

    def __repr__(self) -> str:
        return f"<Stream {self.name} {self.id} of {len(self.open_shards)} open shards>"

    @property
    def region(self) -> str:
        """The region in the stream's ARN."""
        return self.arn.split(":")[3]

    @property
    def account(self) -> str:
        """The account in the stream's ARN."""
        return self.arn.split(":")[4]

    def shard(self, shard_id: str) -> Shard | None:
        """Return the shard of that id, None if there never was one."""
        return self._by_id.get(shard_id)

    def shard_for(self, partition_key: str) -> Shard:
        """Return the open shard whose hash keys include the MD5 of the partition key, as Kinesis does.

        Raises:
            RefusedError: no shard of the stream is open.
        """
        return self.open_shards[self.shard_index(partition_key)]

    def shard_index(self, partition_key: str) -> int:
        """The same as an index into `open_shards`."""
        if not self._starts:
            raise RefusedError(f"stream {self.name!r} has no open shard: nothing can be put into it")
        digest = hashlib.md5(partition_key.encode(), usedforsecurity=False).digest()
        return max(0, bisect_right(self._starts, int.from_bytes(digest, "big")) - 1)

    def with_shards(self, shards: Iterable[Shard]) -> Stream:
        """Return the same stream with these shards."""
        return self._changed(tuple(shards), self.retention, self.cold_after_s)

    def with_retention(self, retention: Retention, cold_after_s: int | None) -> Stream:
        """Return the same stream that keeps its records so long."""
        return self._changed(self.shards, retention, cold_after_s)

    def _changed(self, shards: tuple[Shard, ...], retention: Retention, cold_after_s: int | None) -> Stream:
        return Stream(
            self.directory,
            self.name,
            self.arn,
            self.created_ms,
            shards,
            kind=self.kind,
            retention=retention,
            cold_after_s=cold_after_s,
            disk=self.disk,
        )


def shard_id(number: int) -> str:
    """Return a shard's id as Kinesis writes it; also the name of its directory, whatever its id is."""
    return f"shardId-{number:012d}"


def require_numbers(base: str, shard_id: str) -> None:
    """Raise RefusedError if the sequence numbers with this base, the next ones of a shard, would be too long."""
    if len(base) + OFFSET_DIGITS > limits.SEQUENCE_DIGITS_MAX:
        raise RefusedError(
            f"sequence numbers have at most {limits.SEQUENCE_DIGITS_MAX} digits, and above those that were captured "
            f"shard {shard_id} has none left: put into another stream, or import the captured records "
            "with --new-sequence-numbers"
        )


def default_sequence_base(stream_id: str, number: int, kind: str) -> str:
    """Return what the sequence numbers of a shard that began here begin with: 36 digits, of a DynamoDB stream 20."""
    if kind == DYNAMODB:
        return f"7{int(stream_id, 16) % 10**13:013d}{number:06d}"
    return f"49{int(stream_id, 16):020d}{number:014d}"


def sequence_order(sequence_number: str) -> tuple[int, str]:
    """Return what sequence numbers are compared by: they are integers of up to 129 digits."""
    return len(sequence_number), sequence_number


def uniform_ranges(count: int) -> list[tuple[int, int]]:
    """Divide the hash keys as CreateStream does: equal ranges, the last one takes the remainder."""
    width = HASH_KEYS // count
    starts = [number * width for number in range(count)]
    ends = [start - 1 for start in starts[1:]] + [HASH_KEYS - 1]
    return list(zip(starts, ends, strict=True))


def uniform_shards(
    directory: Path, count: int, created_ms: int = 0, kind: str = KINESIS, disk: Disk = SYSTEM_DISK
) -> tuple[Shard, ...]:
    """Return the shards of a new stream."""
    return tuple(
        Shard(
            number,
            shard_id(number),
            directory / shard_id(number),
            *ends,
            created_ms=created_ms,
            kind=kind,
            disk=disk,
        )
        for number, ends in enumerate(uniform_ranges(count))
    )


def captured_shards(
    directory: Path,
    first_number: int,
    captured: Iterable[CapturedShard],
    created_ms: int,
    kind: str = KINESIS,
    disk: Disk = SYSTEM_DISK,
) -> tuple[Shard, ...]:
    """Return shards as their source has them, numbered from `first_number` on."""
    made = []
    for number, one in enumerate(captured, start=first_number):
        start, end = one.start_hash, one.end_hash
        ranged = start is not None and end is not None
        made.append(
            Shard(
                number,
                one.id,
                directory / shard_id(number),
                start if ranged and start is not None else 0,
                end if ranged and end is not None else HASH_KEYS - 1,
                ranged,
                tuple(one.parents),
                created_ms,
                starting_sequence_number=one.starting_sequence_number,
                kind=kind,
                disk=disk,
            )
        )
    return tuple(made)


def _evenly(shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
    """Give shards that have no hash keys of their own equal parts of them while they are open, then all."""
    if all(shard.ranged for shard in shards):
        return shards
    unranged = [shard.number for shard in shards if shard.open and not shard.ranged]
    ranges = dict(zip(unranged, uniform_ranges(len(unranged)), strict=True)) if unranged else {}
    whole = (0, HASH_KEYS - 1)
    return tuple(
        shard if shard.ranged else shard._replace(start_hash=start, end_hash=end)
        for shard in shards
        for start, end in (ranges.get(shard.number, whole),)
    )
