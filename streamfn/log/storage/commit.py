"""The commit file: how far a shard's log may be read, and how far it is durable, for readers in other processes.

One record of fixed size, overwritten in place by one `pwrite` after every commit, read by one `pread`.  The
two may overlap, so the record carries its own CRC and a torn one is read again.  Nothing depends on this
file being durable: it names the boot in which it was written, and after another boot the log itself is
scanned before anybody reads.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from pathlib import Path
from typing import ClassVar, NamedTuple

from streamfn.log.storage.disk import Disk

_MAGIC = b"SFCOMMT2"
_RECORD = struct.Struct("<8s36sIQQQqQI132s")
_CRC = struct.Struct("<I")
_BYTES = _RECORD.size + _CRC.size
_CLOSED = 1

# What streamfn wrote before it knew any durability but fsync.
_MAGIC_1 = b"SFCOMMT1"
_RECORD_1 = struct.Struct("<8s36sIQQQq132s")

_ATTEMPTS = 1000
# Looking at one that is open takes a tenth of the time; this many cost few of the 1,024 descriptors that a process may
# have to do with.
READ_OPEN_MAX = 64


class Commit(NamedTuple):
    """What is committed.

    The active segment is the one that begins at offset `segment`; its first `length` bytes and all
    segments before it hold every record below `end_offset` that is not in the ledger of gaps, and those
    below `synced_offset` (never more than `end_offset`) are known to be on the disk.  `sequence_base` is what
    the sequence numbers given here begin with (at most 129 digits); `arrival_ms` the latest arrival time that
    was given here, in milliseconds since 1970, UTC.  `closed`: no more will come, as stream.json says.
    """

    boot_id: str
    epoch: int
    segment: int
    length: int
    end_offset: int
    sequence_base: str
    arrival_ms: int
    synced_offset: int = 0
    closed: bool = False


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
        commit.synced_offset,
        _CLOSED if commit.closed else 0,
        commit.sequence_base.encode(),
    )
    return record + _CRC.pack(zlib.crc32(record))


def decode(content: bytes) -> Commit | None:
    """Return what the content says, or None if it is torn, damaged or empty."""
    if content[:8] == _MAGIC_1:
        return _decode_1(content)
    if not _sound(content, _RECORD, _MAGIC):
        return None
    _, boot, epoch, segment, length, end_offset, arrival_ms, synced, flags, base = _RECORD.unpack_from(content)
    closed = bool(flags & _CLOSED)
    return Commit(_text(boot), epoch, segment, length, end_offset, _text(base), arrival_ms, synced, closed)


def _decode_1(content: bytes) -> Commit | None:
    if not _sound(content, _RECORD_1, _MAGIC_1):
        return None
    _, boot, epoch, segment, length, end_offset, arrival_ms, base = _RECORD_1.unpack_from(content)
    return Commit(_text(boot), epoch, segment, length, end_offset, _text(base), arrival_ms, end_offset)


def _sound(content: bytes, record: struct.Struct, magic: bytes) -> bool:
    if len(content) != record.size + _CRC.size or content[:8] != magic:
        return False
    return bool(zlib.crc32(content[: record.size]) == _CRC.unpack_from(content, record.size)[0])


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode()


class CommitFile:
    """A shard's commit file.  Not thread-safe.

    One that is written is open, and so are the first READ_OPEN_MAX that a process reads.  The others are opened each
    time they are looked at: a process may follow a thousand shards, each with a segment open.
    """

    __slots__ = ("_disk", "_fd", "_write", "path")

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _read_open: ClassVar[int] = 0

    def __init__(self, disk: Disk, path: Path, fd: int, *, write: bool) -> None:
        """Private: use `open`.  `fd` is -1 for one that is opened when it is looked at."""
        self._disk = disk
        self._fd = fd
        self._write = write
        self.path = path

    @classmethod
    def open(cls, disk: Disk, directory: Path, *, write: bool) -> CommitFile:
        """Open the commit file in a shard's directory; with `write` it is created where missing.

        Raises:
            OSError: it is missing, or cannot be opened.
        """
        path = directory / "commit"
        if write:
            return cls(disk, path, disk.open(path, os.O_RDWR | os.O_CREAT), write=True)
        fd = disk.open(path, os.O_RDONLY)
        with cls._lock:
            keep = cls._read_open < READ_OPEN_MAX
            cls._read_open += keep
        if not keep:
            disk.close(fd)
        return cls(disk, path, fd if keep else -1, write=False)

    def raw(self) -> bytes:
        """Return the content as it is this moment, perhaps torn: for cheap comparison with an earlier one."""
        if self._fd >= 0:
            return self._disk.pread(self._fd, _BYTES, 0)
        fd = self._disk.open(self.path, os.O_RDONLY)
        try:
            return self._disk.pread(fd, _BYTES, 0)
        finally:
            self._disk.close(fd)

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
        """Return the descriptor of one that is written."""
        assert self._write, "it was opened for reading"
        return self._fd

    def close(self) -> None:
        """Let it go."""
        if self._fd < 0:
            return
        if not self._write:
            with self._lock:
                CommitFile._read_open -= 1
        self._disk.close(self._fd)
        self._fd = -1
