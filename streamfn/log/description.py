"""A stream's `stream.json` on the disk: read whole, replaced whole.

The rename of a new one over the old is the one moment at which anything about a stream changes: whoever reads
it finds the stream as it was or as it is, and so does a machine that lost its power.
"""

from __future__ import annotations

import os
from pathlib import Path

from streamfn.errors import ShardClosed
from streamfn.log.disk import SYSTEM_DISK, Disk, FileStatus, read_file
from streamfn.log.disk import replace as replace_file
from streamfn.log.stream import Shard, Stream, decode, encode

FILE = "stream.json"
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
