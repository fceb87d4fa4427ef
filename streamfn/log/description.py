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
# Of so many streams it is remembered where their shards end.
_STREAMS_KNOWN = 64

_Ends = dict[int, int]
_known: dict[Path, tuple[FileStatus, _Ends]] = {}


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


def end_offset(shard: Shard) -> int | None:
    """Return where the shard was closed, as its stream is described now; None while it is open.

    Whoever holds the shard's lock knows by this that it stays so.  A shard that lies outside a stream is open.
    Costs a look at the file; it is read only when it was replaced.
    """
    try:
        fd = shard.disk.open(shard.directory.parent / FILE, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _ends(shard, shard.disk.status(fd)).get(shard.number)
    finally:
        shard.disk.close(fd)


def _ends(shard: Shard, found: FileStatus) -> _Ends:
    """Return where the closed shards of a stream end, by number; `found` is what its description is now."""
    directory = shard.directory.parent
    status, ends = _known.get(directory, (None, {}))
    if status != found:
        ends = {s.number: s.end_offset for s in read(directory, shard.disk).shards if s.end_offset is not None}
        if len(_known) >= _STREAMS_KNOWN:
            _known.clear()
        _known[directory] = (found, ends)
    return ends


def refuse_closed(shard: Shard) -> None:
    """Raise ShardClosed if the shard is closed; its lock is held."""
    end = end_offset(shard)
    if end is not None:
        raise ShardClosed(
            f"shard {shard.id} in {shard.directory.parent} was closed at offset {end}: read its stream again"
        )
