"""The commit file: how far a shard's log is durable, for readers in other processes.

One record of fixed size, overwritten in place by one `pwrite` after every sync, read by one `pread`.  The
two may overlap, so the record carries its own CRC and a torn one is read again.  Nothing depends on this
file being durable: it names the boot in which it was written, and after another boot the log itself is
scanned before anybody reads.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from streamfn.log.disk import Disk

_MAGIC = b"SFCOMMT1"
_RECORD = struct.Struct("<8s36sIQQQq132s")
_CRC = struct.Struct("<I")
_BYTES = _RECORD.size + _CRC.size
_ATTEMPTS = 1000


class Commit(NamedTuple):
    """What is durable.

    The active segment is the one that begins at offset `segment`; its first `length` bytes and all
    segments before it are synced, and hold every record below `end_offset`.  `sequence_base` is what the
    sequence numbers given here begin with (at most 129 digits); `arrival_ms` the latest arrival time that
    was given here, in milliseconds since 1970, UTC.
    """

    boot_id: str
    epoch: int
    segment: int
    length: int
    end_offset: int
    sequence_base: str
    arrival_ms: int


def encode(commit: Commit) -> bytes:
    """Return the file's content."""
    record = _RECORD.pack(
        _MAGIC,
        commit.boot_id.encode(),
        commit.epoch,
        commit.segment,
        commit.length,
        commit.end_offset,
        commit.arrival_ms,
        commit.sequence_base.encode(),
    )
    return record + _CRC.pack(zlib.crc32(record))


def decode(content: bytes) -> Commit | None:
    """Return what the content says, or None if it is torn, damaged or empty."""
    if len(content) != _BYTES or zlib.crc32(content[:-4]) != _CRC.unpack_from(content, _RECORD.size)[0]:
        return None
    magic, boot, epoch, segment, length, end_offset, arrival_ms, base = _RECORD.unpack_from(content)
    if magic != _MAGIC:
        return None
    text = base.rstrip(b"\0").decode()
    return Commit(boot.rstrip(b"\0").decode(), epoch, segment, length, end_offset, text, arrival_ms)


class CommitFile:
    """One open commit file.  Reading and writing are one system call each; not thread-safe."""

    __slots__ = ("_disk", "_fd", "path")

    def __init__(self, disk: Disk, fd: int, path: Path) -> None:
        self._disk = disk
        self._fd = fd
        self.path = path

    @classmethod
    def open(cls, disk: Disk, directory: Path, *, write: bool) -> CommitFile:
        """Open the commit file in a shard's directory; with `write` it is created where missing.

        Raises:
            OSError: it is missing, or cannot be opened.
        """
        path = directory / "commit"
        flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
        return cls(disk, disk.open(path, flags), path)

    def raw(self) -> bytes:
        """Return the content as it is this moment, perhaps torn: for cheap comparison with an earlier one."""
        return self._disk.pread(self._fd, _BYTES, 0)

    def read(self) -> Commit | None:
        """Return what is published, or None if there is nothing valid however often it is read."""
        for _ in range(_ATTEMPTS):
            content = self.raw()
            commit = decode(content)
            if commit is not None:
                return commit
            if not content:
                break
        return None

    def publish(self, commit: Commit) -> None:
        """Show readers a new state.

        Raises:
            OSError: the write failed or was cut short.
        """
        content = encode(commit)
        if self._disk.pwrite(self._fd, content, 0) != len(content):
            raise OSError(f"short write to {self.path}")

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor."""
        self._disk.close(self._fd)
