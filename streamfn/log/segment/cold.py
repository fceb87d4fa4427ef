"""Cold segments: sealed ones whose row groups are compressed with zstd, as Arrow files may be.

Each buffer of a row group is compressed by itself, behind the length it had (int64; -1: it is stored as it was), so
any Arrow tool opens the file.  Our CRC32C is that of the compressed message, and nothing is decompressed before it was
found right.  Readers do not map such a file: it is inflated, into a file without a name, and that is mapped as any
segment is.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from streamfn._native import ffi, lib
from streamfn.errors import LogDamaged
from streamfn.log.format.flatbuffer import field_at, follow, root_at
from streamfn.log.format.footer import Footer, Group
from streamfn.log.format.layout import LAYOUTS, Layout
from streamfn.log.format.schema import END_OF_STREAM, Draft, compressed_head
from streamfn.log.storage.disk import Disk, write_all

if TYPE_CHECKING:
    import pyarrow as pa

_LEVEL = 3
_LENGTH = struct.Struct("<q")
_PLACE = struct.Struct("<qq")
_VALUE = re.compile(rb"SFN1:([0-9a-f]{8}):([0-9a-f]{8}):([0-9a-f]{16}):([0-9a-f]{8}):([0-9a-f]{16}):([0-9a-f]{16})")
# Slots of Arrow's tables (Message.fbs).
_HEADER, _LENGTH_SLOT, _NODES, _BUFFERS, _COMPRESSION = 2, 0, 1, 2, 3
_MARK = re.compile(rb"\xff\xff\xff\xff")
_METADATA_BYTES_MAX = 1 << 20
# Neither a message nor an end; no metadata, no body.
_NO_MESSAGE = bytearray(b"\1\1\1\1\0\0\0\0")
# A buffer that would be larger is no buffer of a segment.
_BUFFER_BYTES_MAX = 1 << 31


class _Head(NamedTuple):
    """What the metadata of a message says; `places` are where its buffers lie in the body, and their bytes."""

    rows: int
    nodes: bytes
    places: list[tuple[int, int]]
    epoch: int
    first_offset: int
    durable_upto: int


def _read_head(metadata: bytes) -> _Head:
    batch = follow(metadata, field_at(metadata, root_at(metadata), _HEADER))
    (rows,) = _LENGTH.unpack_from(metadata, field_at(metadata, batch, _LENGTH_SLOT))
    nodes = follow(metadata, field_at(metadata, batch, _NODES))
    buffers = follow(metadata, field_at(metadata, batch, _BUFFERS))
    (columns,), (count,) = struct.unpack_from("<I", metadata, nodes), struct.unpack_from("<I", metadata, buffers)
    places = [_PLACE.unpack_from(metadata, buffers + 4 + 16 * number) for number in range(count)]
    value = _VALUE.search(metadata)
    if value is None:
        raise ValueError("no SFN1 value")
    epoch, first_offset, durable_upto = (int(value[field], 16) for field in (2, 3, 6))
    return _Head(rows, metadata[nodes + 4 : nodes + 4 + 16 * columns], places, epoch, first_offset, durable_upto)


def compressed(message: memoryview, layout: Layout) -> list[memoryview]:
    """Return a proven message of that layout with its buffers compressed, as the pieces to write."""
    codec = _codec()
    (metadata_bytes,) = struct.unpack_from("<I", message, 4)
    head = _read_head(bytes(message[8 : 8 + metadata_bytes]))
    body = message[8 + metadata_bytes :]
    places = [(0, 0)] * layout.arrow_buffers
    pieces: list[memoryview] = []
    position = 0
    for _, index in layout.buffers:
        at, length = head.places[index]
        stored = _compressed_buffer(codec, body[at : at + length])
        size = sum(map(len, stored))
        places[index] = (position, size)
        pieces += [*stored, memoryview(bytes(-size % 8))]
        position += (size + 7) & ~7
    first, crc_at = compressed_head(
        head.rows, head.nodes, places, position, head.epoch, head.first_offset, head.durable_upto
    )
    crc = 0
    for piece in (memoryview(first), *pieces):
        crc = lib.sf_crc32c(crc, ffi.from_buffer(piece), len(piece))
    first[crc_at : crc_at + 8] = b"%08x" % crc
    return [memoryview(first), *pieces]


def _compressed_buffer(codec: pa.Codec, content: memoryview) -> list[memoryview]:
    if not content:
        return []
    small = memoryview(codec.compress(content)).cast("B")
    if len(small) < len(content):
        return [memoryview(_LENGTH.pack(len(content))), small]
    return [memoryview(_LENGTH.pack(-1)), content]


def proven(base: Any, group: Group) -> bool:
    """Whether the checksum of a compressed row group, in a file mapped at `base`, is right."""
    metadata = bytes(ffi.buffer(base + group.position + 8, group.metadata_bytes))
    value = _VALUE.search(metadata)
    prefix = bytes(ffi.buffer(base + group.position, 8))
    if value is None or prefix != struct.pack("<iI", -1, group.metadata_bytes):
        return False
    crc = lib.sf_message_crc(base + group.position, group.end - group.position, 8 + value.start(1))
    return value[1] == b"%08x" % crc and int(value[3], 16) == group.first_offset


def find_groups(base: Any, start: int, end: int) -> Iterator[tuple[Group, int]]:
    """Yield every proven compressed row group between two positions of a file mapped at `base`, and its number of rows.

    For files whose footer cannot be believed: every eighth byte may begin one.  The arrival times of the groups are
    not known (0).
    """
    content = ffi.buffer(base, end)
    at = start
    while (mark := _MARK.search(content, at)) is not None:
        at = mark.start()
        found = _group_at(content, base, at, end) if at % 8 == 0 else None
        if found is None:
            at += 1
        else:
            yield found
            at = found[0].end


def _group_at(content: Any, base: Any, at: int, end: int) -> tuple[Group, int] | None:
    (metadata_bytes,) = struct.unpack("<I", content[at + 4 : at + 8]) if at + 8 <= end else (0,)
    if not 0 < metadata_bytes <= min(_METADATA_BYTES_MAX, end - at - 8):
        return None
    metadata = bytes(content[at + 8 : at + 8 + metadata_bytes])
    value = _VALUE.search(metadata)
    if value is None:
        return None
    group = Group(at, metadata_bytes, int(value[5], 16), int(value[3], 16), 0)
    if group.end > end or not _is_compressed(metadata) or not proven(base, group):
        return None
    return group, int(value[4], 16)


def _is_compressed(metadata: bytes) -> bool:
    try:
        return field_at(metadata, follow(metadata, field_at(metadata, root_at(metadata), _HEADER)), _COMPRESSION) > 0
    except struct.error:  # it points out of itself: it is no metadata
        return False


def layout_of(base: Any, group: Group) -> Layout | None:
    """Return the layout that has as many buffers as a proven row group, None if there is none."""
    head = _read_head(bytes(ffi.buffer(base + group.position + 8, group.metadata_bytes)))
    return next((layout for layout in LAYOUTS if layout.arrow_buffers == len(head.places)), None)


def inflate(disk: Disk, path: Path, base: Any, header: bytes, footer: Footer, layout: Layout) -> tuple[int, Footer]:
    """Inflate a compressed file, mapped at `base`, into a file without a name beside it.

    Returns a descriptor of that file, which begins with `header` and ends with an end-of-stream mark, and the footer
    with the places that the row groups have there.  Where one is not as it was written, something lies that is no
    message: who reads the file finds the damage there, and what is good before and behind it.

    Raises:
        OSError: there is no room for it, on the disk or in memory.
    """
    groups: list[Group] = []

    def write(fd: int) -> None:
        groups.clear()
        write_all(disk, fd, memoryview(header), 0)
        position = len(header)
        for group in footer.groups:
            message = read_group(path, base, group, layout) if proven(base, group) else _NO_MESSAGE
            write_all(disk, fd, memoryview(message), position)
            (metadata_bytes,) = struct.unpack_from("<I", message, 4)
            body_bytes = len(message) - 8 - metadata_bytes
            groups.append(Group(position, metadata_bytes, body_bytes, group.first_offset, group.latest_ms))
            position += len(message)
        write_all(disk, fd, memoryview(END_OF_STREAM), position)

    fd = disk.unnamed(path.parent, write)
    return fd, footer._replace(groups=tuple(groups))


def read_group(path: Path, base: Any, group: Group, layout: Layout) -> bytearray:
    """Return a row group, in a file mapped at `base`, as the message it was before it was compressed.

    Raises:
        LogDamaged: it is not as it was written.
    """
    if not proven(base, group):
        raise LogDamaged(
            f"{path} is damaged at byte {group.position}: the row group that begins at offset {group.first_offset} has "
            "a wrong checksum",
            path=path,
            byte=group.position,
            first_offset=group.first_offset,
        )
    codec = _codec()
    head = _read_head(bytes(ffi.buffer(base + group.position + 8, group.metadata_bytes)))
    body = memoryview(ffi.buffer(base + group.position + 8 + group.metadata_bytes, group.body_bytes))
    contents = [_inflated_buffer(codec, body, *head.places[index]) for _, index in layout.buffers]
    draft = Draft(layout, head.first_offset, head.rows, [len(contents[index]) for index in layout.texts])
    for at, content in zip(draft.columns, contents, strict=True):
        draft.buffer[at : at + len(content)] = content
    return draft.finish(head.epoch, head.durable_upto)


def _inflated_buffer(codec: pa.Codec, body: memoryview, at: int, length: int) -> memoryview:
    if length == 0:
        return memoryview(b"")
    (before,) = _LENGTH.unpack_from(body, at)
    content = body[at + _LENGTH.size : at + length]
    if before == -1:
        return content
    assert 0 < before <= _BUFFER_BYTES_MAX, "a buffer that cannot be has a right checksum"
    return memoryview(codec.decompress(content, before)).cast("B")


def _codec() -> pa.Codec:
    import pyarrow as pa

    return pa.Codec("zstd", _LEVEL)
