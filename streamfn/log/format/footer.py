"""What a sealed segment ends with: the end-of-stream mark, Arrow's footer, its length, magic.

Arrow's footer is what pandas, Polars and DuckDB open the file by.  Ours carries, in its custom metadata under
the key `streamfn`, a checksum of all of it, so that no byte of a sealed file is without one, and an index:

    SFF1:<crc:8>:<codec:1>:<end_offset:16>:<appended_ms:16>:<lived_ms:16>:<groups:8>
        and for each row group  :<first_offset:16>:<latest_ms:16>

All numbers are lower-case hexadecimal of fixed width.  The CRC32C covers everything from the end-of-stream mark
to the end of the file, with its own eight digits taken as '0'.  Files that were sealed before there was a
checksum end in exactly the bytes that `encode_old` returns for their messages: that is how those are checked.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from streamfn._native import ffi, lib
from streamfn.log.format.flatbuffer import Embedded, Scalar, Structs, Table, Tables, Text, root_field, write
from streamfn.log.format.schema import END_OF_STREAM

MAGIC = b"ARROW1"
# Footer length and magic: what the file ends with.
TRAILER_BYTES = 4 + len(MAGIC)
# A footer of a segment full of the smallest row groups is far below this.
_FOOTER_BYTES_MAX = 64 << 20

_V5 = 4
_TAG = b"SFF1:"
_CRC_AT = len(_TAG)
_HEAD = b"SFF1:00000000:%x:%016x:%016x:%016x:%08x"
_HEAD_BYTES = 75
_ENTRY = b":%016x:%016x"
_ENTRY_BYTES = 34

PLAIN, ZSTD = 0, 1


class Group(NamedTuple):
    """One message of a sealed segment, a row group: where it lies, and what the index says of it.

    `latest_ms` is the latest arrival time (since 1970, UTC) in the segment up to and with this group.
    """

    position: int
    metadata_bytes: int
    body_bytes: int
    first_offset: int
    latest_ms: int

    @property
    def end(self) -> int:
        """The file position behind it."""
        return self.position + 8 + self.metadata_bytes + self.body_bytes


class Footer(NamedTuple):
    """The footer of a sealed segment.

    `codec` is PLAIN or ZSTD; `appended_ms` the wall-clock time of the last append (since 1970, UTC);
    `lived_ms` the same on the shard's own clock (see `age.py`), 0 where nobody knew it.
    """

    codec: int
    end_offset: int
    appended_ms: int
    lived_ms: int
    groups: tuple[Group, ...]


class FooterDamaged(Exception):
    """The end of a sealed file is not what was written; the text says in what respect."""


def encode(schema: bytes, footer: Footer) -> bytes:
    """Return everything that follows the last message of a file whose encapsulated schema message is `schema`."""
    value = _HEAD % (footer.codec, footer.end_offset, footer.appended_ms, footer.lived_ms, len(footer.groups))
    assert len(value) == _HEAD_BYTES, "a number of the SFF1 value outgrew its field"
    value += b"".join(_ENTRY % (group.first_offset, group.latest_ms) for group in footer.groups)
    assert len(value) == _HEAD_BYTES + _ENTRY_BYTES * len(footer.groups), "an arrival time is negative"
    out = bytearray(_encode(schema, footer.groups, value.decode()))
    at = out.rindex(_TAG) + _CRC_AT
    out[at : at + 8] = b"%08x" % _crc(out, at)
    return bytes(out)


def encode_old(schema: bytes, groups: Sequence[Group]) -> bytes:
    """The same as files end that were sealed before there was a checksum."""
    return _encode(schema, groups, None)


def _encode(schema: bytes, groups: Sequence[Group], value: str | None) -> bytes:
    embedded = schema[8:]
    packed = b"".join(struct.pack("<qi4xq", g.position, 8 + g.metadata_bytes, g.body_bytes) for g in groups)
    fields: dict[int, Scalar | Embedded | Structs | Tables] = {
        0: Scalar("h", _V5),
        1: Embedded(embedded, root_field(embedded, 2)),
        2: Structs(0, b""),
        3: Structs(len(groups), packed),
    }
    if value is not None:
        fields[4] = Tables([Table({0: Text("streamfn"), 1: Text(value)})])
    encoded = write(Table(fields))
    return END_OF_STREAM + encoded + struct.pack("<i", len(encoded)) + MAGIC


def footer_bytes(trailer: bytes, file_bytes: int) -> int:
    """Return how many bytes before the file's end the end-of-stream mark lies; `trailer` is the end's 10 bytes.

    Raises:
        FooterDamaged: the trailer is not that of an Arrow file.
    """
    if len(trailer) != TRAILER_BYTES or trailer[4:] != MAGIC:
        raise FooterDamaged("does not end as an Arrow file ends")
    (length,) = struct.unpack_from("<i", trailer)
    whole = len(END_OF_STREAM) + length + TRAILER_BYTES
    if not 0 < length <= min(_FOOTER_BYTES_MAX, file_bytes) or whole > file_bytes:
        raise FooterDamaged(f"has a footer length of {length} bytes, which cannot be")
    return int(whole)


def decode(end: bytes) -> Footer | None:
    """Return what `encode` was given, or None if the file was sealed before there was a checksum.

    Raises:
        FooterDamaged: `end`, everything from the end-of-stream mark on, is not as it was written.
    """
    if end[:8] != END_OF_STREAM:
        raise FooterDamaged("has no end-of-stream mark before its footer")
    at = end.rfind(_TAG)
    if at < 0:
        return None
    try:
        if end[at + _CRC_AT : at + _CRC_AT + 8] != b"%08x" % _crc(end, at + _CRC_AT):
            raise FooterDamaged("has a footer whose checksum is wrong")
        return _parse(end, at)
    except (ValueError, struct.error) as error:
        raise FooterDamaged(f"has a footer that makes no sense ({error})") from error


def _parse(end: bytes, at: int) -> Footer:
    head = end[at : at + _HEAD_BYTES].split(b":")
    codec, end_offset, appended_ms, lived_ms, count = (int(field, 16) for field in head[2:])
    encoded = end[len(END_OF_STREAM) : -TRAILER_BYTES]
    blocks_at = root_field(encoded, 3)
    if struct.unpack_from("<I", encoded, blocks_at)[0] != count:
        raise FooterDamaged("has an index that does not fit its row groups")
    groups = []
    for number in range(count):
        position, metadata_bytes, body_bytes = struct.unpack_from("<qi4xq", encoded, blocks_at + 4 + 24 * number)
        entry = end[at + _HEAD_BYTES + _ENTRY_BYTES * number :][:_ENTRY_BYTES].split(b":")
        groups.append(Group(position, metadata_bytes - 8, body_bytes, int(entry[1], 16), int(entry[2], 16)))
    return Footer(codec, end_offset, appended_ms, lived_ms, tuple(groups))


def _crc(end: bytes | bytearray, crc_at: int) -> int:
    crc = lib.sf_crc32c(0, ffi.from_buffer(memoryview(end)[:crc_at]), crc_at)
    crc = lib.sf_crc32c(crc, b"00000000", 8)
    rest = memoryview(end)[crc_at + 8 :]
    return int(lib.sf_crc32c(crc, ffi.from_buffer(rest), len(rest)))
