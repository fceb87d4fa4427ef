"""A stream's description, `stream.json`: read whole, replaced whole.

    {"format": 2, "name": ..., "arn": ..., "kind": "kinesis" | "dynamodb", "created_ms": ...,
     "retention": {"age_s": null, "bytes": null}, "cold_after_s": null,
     "shards": [{"number": 0, "id": "shardId-000000000000", "start_hash": "0", "end_hash": "...", "parents": [],
                 "created_ms": ..., "end_offset": null, "starting_sequence_number": null,
                 "ending_sequence_number": null}, ...]}

Shards are never taken out of it: a shard that was split or merged is closed (`end_offset` says where), and
those that took over its hash keys name it as their parent.

The rename of a new one over the old is the one moment at which anything about a stream changes: whoever reads
it finds the stream as it was or as it is, and so does a machine that lost its power.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from streamfn.errors import FailedError, ShardClosed
from streamfn.log.catalog.stream import HASH_KEYS, KINDS, KINESIS, Retention, Shard, Stream, shard_id
from streamfn.log.storage.disk import SYSTEM_DISK, Disk, FileStatus, read_file
from streamfn.log.storage.disk import replace as replace_file

FILE = "stream.json"
FORMAT_VERSION = 2
# So many streams are remembered as they were read last.
_STREAMS_KNOWN = 64

_known: dict[Path, tuple[FileStatus, Stream]] = {}


def read(directory: Path, disk: Disk = SYSTEM_DISK) -> Stream:
    """Return the stream that lies in `directory`, as it is now.

    Raises:
        FailedError: its description is damaged, or a newer streamfn wrote it.
        OSError: it cannot be read; FileNotFoundError where the stream was deleted.
    """
    return decode(directory, read_file(disk, directory / FILE).decode(errors="replace"), disk)


def replace(stream: Stream) -> None:
    """Put the description of a stream in place of the one it has; durable when this returns.

    The data directory's lock of streams is held, and everything that it speaks of is on the disk already.
    """
    replace_file(stream.disk, stream.directory / FILE, encode(stream).encode())


def current(shard: Shard) -> Stream | None:
    """Return the shard's stream as it is described now; None where the shard lies outside a stream.

    Costs a look at the file; it is read only when it was replaced.
    """
    directory = shard.directory.parent
    try:
        fd = shard.disk.open(directory / FILE, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        found = shard.disk.status(fd)
    finally:
        shard.disk.close(fd)
    status, stream = _known.get(directory, (None, None))
    if stream is None or status != found or stream.disk is not shard.disk:
        stream = read(directory, shard.disk)
        if len(_known) >= _STREAMS_KNOWN:
            _known.clear()
        _known[directory] = (found, stream)
    return stream


def end_offset(shard: Shard) -> int | None:
    """Return where the shard was closed, as its stream is described now; None while it is open.

    Whoever holds the shard's lock knows by this that it stays so.  A shard that lies outside a stream is open.
    """
    stream = current(shard)
    return None if stream is None or shard.number >= len(stream.shards) else stream.shards[shard.number].end_offset


def refuse_closed(shard: Shard) -> None:
    """Raise ShardClosed if the shard is closed; its lock is held."""
    end = end_offset(shard)
    if end is not None:
        raise ShardClosed(
            f"shard {shard.id} in {shard.directory.parent} was closed at offset {end}: read its stream again"
        )


def encode(stream: Stream) -> str:
    """Return the text of `stream.json`."""
    described = {
        "format": FORMAT_VERSION,
        "name": stream.name,
        "arn": stream.arn,
        "kind": stream.kind,
        "created_ms": stream.created_ms,
        "retention": stream.retention._asdict(),
        "cold_after_s": stream.cold_after_s,
        "shards": [
            {
                "number": shard.number,
                "id": shard.id,
                "start_hash": str(shard.start_hash) if shard.ranged else None,
                "end_hash": str(shard.end_hash) if shard.ranged else None,
                "parents": list(shard.parents),
                "created_ms": shard.created_ms,
                "end_offset": shard.end_offset,
                "starting_sequence_number": shard.starting_sequence_number,
                "ending_sequence_number": shard.ending_sequence_number,
            }
            for shard in stream.shards
        ],
    }
    return json.dumps(described, indent=1) + "\n"


def decode(directory: Path, text: str, disk: Disk = SYSTEM_DISK) -> Stream:
    """Return the stream that lies in `directory`.  What streamfn wrote before format 2 is read too.

    Raises:
        FailedError: the text is not what `encode` writes, or a newer streamfn wrote it.
    """
    path = directory / FILE
    try:
        described = json.loads(text)
        version = described.get("format", 1)
    except (ValueError, AttributeError) as error:
        raise FailedError(f"{path} is damaged: {error!r}") from error
    if version not in (1, FORMAT_VERSION):
        raise FailedError(f"{path} has format {version!r}, which this streamfn does not read: upgrade streamfn")
    try:
        return _stream_of(directory, described, disk)
    except (ValueError, KeyError, TypeError) as error:
        raise FailedError(f"{path} is damaged: {error!r}") from error


def _stream_of(directory: Path, described: dict[str, Any], disk: Disk) -> Stream:
    created_ms = int(described["created_ms"])
    kind = described.get("kind", KINESIS)
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}")
    retention = described.get("retention", {})
    shards = [
        _shard_of(directory, number, one, created_ms, kind, disk)
        for number, one in enumerate(described["shards"])
    ]
    return Stream(
        directory,
        str(described["name"]),
        str(described["arn"]),
        created_ms,
        shards,
        kind=kind,
        retention=Retention(_number(retention.get("age_s")), _number(retention.get("bytes"))),
        cold_after_s=_number(described.get("cold_after_s")),
        disk=disk,
    )


def _shard_of(
    directory: Path, number: int, one: dict[str, Any], created_ms: int, kind: str, disk: Disk
) -> Shard:
    if one.get("number", number) != number:
        raise ValueError(f"shard {one['number']!r} in place {number}")
    start, end = one["start_hash"], one["end_hash"]
    return Shard(
        number,
        str(one["id"]),
        directory / shard_id(number),
        0 if start is None else int(start),
        HASH_KEYS - 1 if end is None else int(end),
        start is not None and end is not None,
        tuple(map(str, one.get("parents", ()))),
        int(one.get("created_ms", created_ms)),
        _number(one.get("end_offset")),
        _digits(one.get("starting_sequence_number")),
        _digits(one.get("ending_sequence_number")),
        kind,
        disk,
    )


def _number(value: object) -> int | None:
    return None if value is None else int(str(value))


def _digits(value: object) -> str | None:
    if value is None:
        return None
    if not (isinstance(value, str) and value.isdecimal()):
        raise ValueError(f"sequence number {value!r}")
    return value
