"""The end of a sealed file as it lies on the disk: found, read, and checked."""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from streamfn._native import ffi
from streamfn.errors import LogDamaged
from streamfn.log.format import footer
from streamfn.log.format.footer import Footer, FooterDamaged, Group
from streamfn.log.storage.disk import Disk

_VALUE = re.compile(rb"SFN1:[0-9a-f]{8}:[0-9a-f]{8}:([0-9a-f]{16}):[0-9a-f]{8}:([0-9a-f]{16}):")


class SealedEnd(NamedTuple):
    """The end of a sealed file: `content` is everything from the end-of-stream mark, at `position`, on.

    `footer` is None where the file was sealed before footers had a checksum.
    """

    position: int
    content: bytes
    footer: Footer | None

    def fits(self, base: Any, schema_at: int, data_at: int) -> bool:
        """Whether a footer without a checksum is what belongs to the messages before it; one with it always is.

        The file is mapped at `base`.  Where the messages do not reach up to the footer, one of them is damaged, and
        reading will say which: then nobody knows.
        """
        if self.footer is not None:
            return True
        groups = walk(base, data_at, self.position)
        reached = groups[-1].end if groups else data_at
        schema = bytes(ffi.buffer(base + schema_at, data_at - schema_at))
        return reached != self.position or self.content == footer.encode_old(schema, groups)


def read_end(disk: Disk, fd: int, path: Path, size: int) -> SealedEnd:
    """Read and check the end of a sealed file of `size` bytes.

    Raises:
        LogDamaged: it is not as it was written.
        OSError: it cannot be read.
    """
    try:
        trailer_at = max(0, size - footer.TRAILER_BYTES)
        length = footer.footer_bytes(disk.pread(fd, footer.TRAILER_BYTES, trailer_at), size)
        content = disk.pread(fd, length, size - length)
        return SealedEnd(size - length, content, footer.decode(content))
    except FooterDamaged as damage:
        raise LogDamaged(f"{path} {damage}") from None


def walk(base: Any, start: int, end: int) -> list[Group]:
    """Return the messages mapped at `base` from one file position to another, by their lengths alone.

    Nothing is proven; where something is no message of ours, that is the end.
    """
    found: list[Group] = []
    at = start
    while at + 8 <= end:
        (metadata_bytes,) = struct.unpack("<I", ffi.buffer(base + at + 4, 4))
        metadata = bytes(ffi.buffer(base + at + 8, min(metadata_bytes, end - at - 8)))
        value = _VALUE.search(metadata)
        if value is None:
            break
        first_offset, body_bytes = int(value[1], 16), int(value[2], 16)
        found.append(Group(at, metadata_bytes, body_bytes, first_offset, 0))
        at = found[-1].end
    return found


class FileFacts(NamedTuple):
    """A segment file from outside.

    `footer` is None where it is not sealed, was sealed before there was a checksum, or is damaged; `stored_bytes` is
    what it takes on the disk, `modified_ms` when it was changed last (milliseconds since 1970, UTC).
    """

    footer: Footer | None
    stored_bytes: int
    modified_ms: int


def facts(disk: Disk, path: Path, *, sealed: bool) -> FileFacts:
    """Look at a segment file; costs no more than reading its footer.

    Raises:
        FileNotFoundError: there is no such file (any more).
        OSError: it cannot be read.
    """
    fd = disk.open(path, os.O_RDONLY)
    try:
        status = disk.status(fd)
        found: Footer | None = None
        if sealed:
            with suppress(LogDamaged):  # whoever reads its records is told
                found = read_end(disk, fd, path, status.size).footer
        return FileFacts(found, status.stored, status.modified_ms)
    finally:
        disk.close(fd)
