"""The reserve: how far offsets and sequence numbers may have been given out, durably, before they are.

Under a weaker durability a crash may take records that readers have seen and mappings have checkpoints behind.
What is appended afterwards must lie above all of that.  So offsets are reserved in blocks, and a block is synced
before the first of it is used: after a loss the log goes on behind the last block.  Sequence numbers that were
captured elsewhere are remembered likewise, because numbers given here must be higher.

    reserve     two slots of 512 bytes, written in turn: a torn write leaves the other one
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from streamfn.errors import LogDamaged
from streamfn.log.catalog.stream import OFFSET_DIGITS, Shard
from streamfn.log.storage.disk import Disk, read_file, replace, write_all

FILE_NAME = "reserve"
# How many offsets one sync reserves: each time twice as many, so that a gap is about as large as what was given out
# since the shard was opened, up to as many as make the sync's cost vanish.
_FIRST_BLOCK = 64
BLOCK = 16_384
# A captured number reserves what is below the next multiple of ten to this power; Kinesis' own rise by some 10^27 a
# second, so one sync lasts for hours.
_NUMBER_BLOCK_DIGITS = 32

_MAGIC = b"SFRESRV1"
_SLOT_BYTES = 512
_SLOT = struct.Struct("<8sQQ36s132s132s")
_CRC = struct.Struct("<I")


class Reserve(NamedTuple):
    """What may have been given out.

    Offsets below `offset` may be used, as long as the machine's run is `boot_id`; in a later one they may have
    been.  Sequence numbers below `number` (an integer) may have been captured; below `floor` they may have been lost
    with their records, so that the log does not say any more which.
    """

    boot_id: str
    offset: int
    number: int
    floor: int = 0


NOTHING = Reserve("", 0, 0)


class ReserveFile:
    """The reserve of a shard, as its writer has it.  Made when there is something to reserve; not thread-safe."""

    def __init__(self, shard: Shard, boot_id: str) -> None:
        """Read it; `boot_id` is this run of the machine.

        Raises:
            LogDamaged: neither slot is whole.
            OSError: it cannot be read.
        """
        self._disk = shard.disk
        self._boot_id = boot_id
        self._path = shard.directory / FILE_NAME
        self._turn, self._known = _read(shard.disk, self._path)
        # Whoever wrote what was read may have been killed before it was synced.
        self._settled = False
        self._fd = -1
        self._block = min(_FIRST_BLOCK, BLOCK)

    @property
    def known(self) -> Reserve:
        """What is reserved."""
        return self._known

    def cover(self, end_offset: int) -> None:
        """Make sure that offsets below `end_offset` are reserved; if that takes a sync, a block more.  See `write`."""
        if not self._settled or end_offset > self._known.offset or self._known.boot_id != self._boot_id:
            self.write(self._known._replace(offset=max(self._known.offset, end_offset + self._block)))
            self._block = min(2 * self._block, BLOCK)

    def cover_number(self, number: str) -> None:
        """Make sure that a captured sequence number is reserved; see `write`."""
        if not self._settled or int(number) >= self._known.number:
            self.write(self._known._replace(number=max(self._known.number, number_block_end(number))))

    def give_up(self) -> None:
        """Records with captured numbers may be lost: remember how high those may have been; see `write`."""
        if not self._settled or self._known.floor < self._known.number:
            self.write(self._known._replace(floor=self._known.number))

    def give_back(self, end_offset: int) -> None:
        """Reserve nothing above `end_offset`: everything is on the disk, so that a loss after this takes nothing."""
        if self._known.offset > end_offset:
            self.write(self._known._replace(offset=end_offset))

    def write(self, reserve: Reserve) -> None:
        """Reserve in this run of the machine, durably.

        Raises:
            OSError: it is not known whether that is on the disk; what was reserved before is.  The whole of it would be
                written once more, so that one may try again.
        """
        reserve = reserve._replace(boot_id=self._boot_id)
        slot = _slot(self._turn + 1, reserve)
        if self._turn == 0:
            replace(self._disk, self._path, slot.ljust(2 * _SLOT_BYTES, b"\0"))
        else:
            if self._fd < 0:
                self._fd = self._disk.open(self._path, os.O_RDWR)
            write_all(self._disk, self._fd, memoryview(slot), self._turn % 2 * _SLOT_BYTES)
            self._disk.sync(self._fd)
        self._turn += 1
        self._known = reserve
        self._settled = True

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1


def read(shard: Shard) -> Reserve:
    """Return what is reserved, `NOTHING` where there is no such file.

    Raises:
        LogDamaged: neither slot is whole.
        OSError: it cannot be read.
    """
    return _read(shard.disk, shard.directory / FILE_NAME)[1]


def write_anew(shard: Shard, end_offset: int, *, settled: bool) -> None:
    """Put a reserve in the place of one that cannot be read, so that everything given out is covered again.

    The log's records, and what is known of others, end at `end_offset`.  Unless it is `settled` that they are all there
    were, because the machine has not been restarted since, two blocks behind them count as given out.

    Raises:
        OSError: it cannot be written; the old one is there.
    """
    # With a number in it, whoever opens the shard looks at the last record for the highest that was captured.
    boot_id, offset = (shard.disk.boot_id(), end_offset) if settled else ("", end_offset + 2 * BLOCK)
    content = _slot(1, Reserve(boot_id, offset, 1)).ljust(2 * _SLOT_BYTES, b"\0")
    replace(shard.disk, shard.directory / FILE_NAME, content)


def number_block_end(number: str) -> int:
    """Return what to reserve for a captured sequence number, so that many more are covered."""
    block: int = 10**_NUMBER_BLOCK_DIGITS
    return (int(number) // block + 1) * block


def base_above(number: int) -> str:
    """Return the sequence base whose numbers are all above `number`."""
    return str(number // 10**OFFSET_DIGITS + 1)


def _slot(turn: int, reserve: Reserve) -> bytes:
    boot_id, offset, number, floor = reserve
    packed = _SLOT.pack(_MAGIC, turn, offset, boot_id.encode(), str(number).encode(), str(floor).encode())
    return packed + _CRC.pack(zlib.crc32(packed))


def _read(disk: Disk, path: Path) -> tuple[int, Reserve]:
    """Return how often it was written, and what was written last."""
    try:
        content = read_file(disk, path)
    except FileNotFoundError:
        return 0, NOTHING
    slots = [slot for at in (0, _SLOT_BYTES) if (slot := _decode(content[at : at + _SLOT_BYTES])) is not None]
    if not slots:
        raise LogDamaged(f"{path} is damaged: it is not known which offsets were given out", path=path)
    return max(slots)


def _decode(slot: bytes) -> tuple[int, Reserve] | None:
    if len(slot) < _SLOT.size + _CRC.size or slot[:8] != _MAGIC:
        return None
    if zlib.crc32(slot[: _SLOT.size]) != _CRC.unpack_from(slot, _SLOT.size)[0]:
        return None
    _, turn, offset, boot_id, number, floor = _SLOT.unpack_from(slot)
    return turn, Reserve(boot_id.rstrip(b"\0").decode(), offset, int(number.rstrip(b"\0")), int(floor.rstrip(b"\0")))
