"""What became of puts from other processes whose writer died before it could answer.

A writer that takes puts along notes, before it appends a group, whose puts are in it and at which offset each
begins: one small write to `shardId-N.tickets` beside the shard's directory, over the note of the group before,
which has been answered by then.  The note lives in the page cache, so it survives the writer's death, and that is
all it is for: whoever could ask about it does not survive the machine's.  So the next writer knows, of each put
without an answer,

    not in the note                    it was never appended: it can safely be sent again
    in it, and the log goes beyond it  it was appended, and opening the log has made it durable
    in it, and the log ends before it  the writer died in between: never appended

The epochs say whether the note can be believed: the one of the note must be the one directly before the writer
that reads it.  Otherwise somebody else has written to the shard meanwhile, and nobody can say any more.  What a
writer has found out it keeps in its own file, for clients that ask only after it has died too.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from streamfn.log.catalog.stream import Shard
from streamfn.log.sharing.frames import Hello, Verdict
from streamfn.log.storage.disk import read_file, write_all

_MAGIC = b"SFTICK1\0"
# Magic, bytes of what was found out; then that, then the group.  Each begins with its CRC.
_HEAD = struct.Struct("<8sI4x")
_PART = struct.Struct("<III")  # CRC of all behind it, epoch, entries
_ENTRY = struct.Struct("<16sQqI")  # client, put, offset of its first record (-1: not appended), records

# Writers that died in a row, within the second in which their clients ask.
_GENERATIONS_MAX = 4
_ENTRIES_MAX = 1 << 16


class Ticket(NamedTuple):
    """A put in a group: its client, its number there, and the offsets its records take."""

    client: bytes
    number: int
    first: int
    records: int


_Found = dict[tuple[bytes, int], Verdict]


class Tickets:
    """The tickets of one shard, in the hands of its writer; not thread-safe."""

    def __init__(self, shard: Shard, epoch: int, end_offset: int) -> None:
        """Look what the writer before has left; `epoch` is ours, `end_offset` where the log ends now.

        Never raises: what cannot be read is not known.
        """
        self._shard = shard
        self._disk = shard.disk
        self._path = shard.directory.parent / f"{shard.directory.name}.tickets"
        self._epoch = epoch
        self._fd = -1
        self._group_at = 0
        # From this epoch on everything is known.
        self._since = epoch
        self._found: _Found = {}
        content = b""
        with suppress(OSError):
            content = read_file(self._disk, self._path)
        if content:
            self._read(content, end_offset)
            with suppress(OSError):
                self.begin()

    def verdict(self, hello: Hello, number: int) -> Verdict:
        """Return what became of a put that a client has no answer to."""
        if not self._since <= hello.lost_epoch < self._epoch:
            return Verdict(False)
        return self._found.get((hello.client, number), Verdict(True))

    def begin(self) -> None:
        """Make the file, before the first put is taken along, so that a missing one says that nobody knows.

        Raises:
            OSError: it could not be written.
        """
        if self._fd < 0:
            self._create()

    def note(self, tickets: Sequence[Ticket]) -> None:
        """Write down a group, before it is appended.

        Raises:
            OSError: it could not be written; the group must not be appended.
        """
        self.begin()
        body = b"".join(_ENTRY.pack(*ticket) for ticket in tickets)
        write_all(self._disk, self._fd, memoryview(_part(self._epoch, len(tickets), body)), self._group_at)

    def close(self) -> None:
        """Everything has been answered: there is nothing to know any more."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1
        with suppress(OSError):
            self._disk.unlink(self._path)

    def _create(self) -> None:
        entries = [
            (client, number, -1 if verdict.first is None else verdict.first, int(verdict.known))
            for (client, number), verdict in self._found.items()
        ]
        found = _part(self._since, len(entries), b"".join(_ENTRY.pack(*entry) for entry in entries))
        temporary = self._path.with_suffix(".tickets.tmp")
        fd = self._disk.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._group_at = _HEAD.size + len(found)
            write_all(self._disk, fd, memoryview(_HEAD.pack(_MAGIC, len(found)) + found), 0)
            write_all(self._disk, fd, memoryview(_part(self._epoch, 0, b"")), self._group_at)
            self._disk.rename(temporary, self._path)
        except BaseException:
            self._disk.close(fd)
            raise
        self._fd = fd

    def _read(self, content: bytes, end_offset: int) -> None:
        if len(content) < _HEAD.size or not content.startswith(_MAGIC):
            return
        _, length = _HEAD.unpack_from(content)
        found = _parse(content[_HEAD.size : _HEAD.size + length])
        group = _parse(content[_HEAD.size + length :])
        if found is None or group is None or group[0] != self._epoch - 1:
            return
        since, entries = found
        if self._epoch - since <= _GENERATIONS_MAX and len(entries) <= _ENTRIES_MAX:
            self._since = since
            self._found = {
                (client, number): Verdict(bool(known), None if first < 0 else first)
                for client, number, first, known in entries
            }
        else:
            self._since = group[0]
        for client, number, first, records in group[1]:
            if end_offset >= first + records:
                self._found[client, number] = Verdict(True, first)
            elif end_offset > first:  # some messages of a large put: it can neither be acknowledged nor repeated
                self._found[client, number] = Verdict(False)
            else:
                self._found.pop((client, number), None)


def _part(epoch: int, count: int, body: bytes) -> bytes:
    numbers = struct.pack("<II", epoch, count)
    return struct.pack("<I", zlib.crc32(numbers + body)) + numbers + body


def _parse(content: bytes) -> tuple[int, list[tuple[bytes, int, int, int]]] | None:
    """Return epoch and entries, None if they are not as they were written; what lies behind them is ignored."""
    if len(content) < _PART.size:
        return None
    crc, epoch, count = _PART.unpack_from(content)
    end = _PART.size + count * _ENTRY.size
    if end > len(content) or zlib.crc32(content[4:end]) != crc:
        return None
    return epoch, list(_ENTRY.iter_unpack(content[_PART.size : end]))
