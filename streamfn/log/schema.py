"""The columns of a shard log and the bytes of a message.

    sequence_number               utf8                     not null
    partition_key                 utf8                     not null
    approximate_arrival_timestamp timestamp[ms, UTC]       not null
    data                          binary                   not null

A message is an encapsulated Arrow record batch: 8 bytes of prefix, a flatbuffer, the body.  The flatbuffer
of every message has the same layout, only its numbers differ; so it is written once, as a template, and
each message patches its numbers in.  The SFN1 value in its custom metadata is described in sf_log.h.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from streamfn._native import ffi, lib
from streamfn.log.flatbuffer import Scalar, Structs, Table, Tables, Text, write

COLUMNS = ("sequence_number", "partition_key", "approximate_arrival_timestamp", "data")
SEQUENCE_BYTES = 56
SEQUENCE_BASE_BYTES = 36
FORMAT_VERSION = "1"

# Numbers of Arrow's Schema.fbs and Message.fbs.
_V5 = 4
_SCHEMA, _RECORD_BATCH = 1, 3
_BINARY, _UTF8, _TIMESTAMP, _MILLISECOND = 4, 5, 10, 1
_COLUMN_TYPES = (
    (_UTF8, Table({})),
    (_UTF8, Table({})),
    (_TIMESTAMP, Table({0: Scalar("h", _MILLISECOND), 1: Text("UTC")})),
    (_BINARY, Table({})),
)

# Where the seven column buffers of sf_message stand among Arrow's eleven (validity bitmaps are empty).
_BUFFERS = 11
_BUFFER_INDEX = (1, 2, 4, 5, 7, 9, 10)

_VALUE = b"SFN1:00000000:%08x:%016x:%08x:%016x:%016x"
_VALUE_BYTES = 82
_CRC_AT = 5
END_OF_STREAM = struct.pack("<II", 0xFFFFFFFF, 0)


def _pairs(**pairs: str) -> Tables:
    return Tables([Table({0: Text(key.replace("_", ".")), 1: Text(value)}) for key, value in pairs.items()])


def _schema_table(shard_name: str) -> Table:
    fields = [
        Table({0: Text(name), 1: Scalar("B", 0), 2: Scalar("B", kind), 3: type_table, 5: Tables([])})
        for name, (kind, type_table) in zip(COLUMNS, _COLUMN_TYPES, strict=True)
    ]
    return Table({1: Tables(fields), 2: _pairs(streamfn_format=FORMAT_VERSION, streamfn_shard=shard_name)})


def _framed(metadata: bytes) -> bytes:
    return struct.pack("<II", 0xFFFFFFFF, len(metadata)) + metadata


def schema_message(shard_name: str) -> bytes:
    """Return the encapsulated schema message that every segment of a shard begins with.

    `shard_name` is `<stream id>/<shard id>`: a segment that was moved elsewhere is recognised by it.
    """
    message = Table(
        {0: Scalar("h", _V5), 1: Scalar("B", _SCHEMA), 2: _schema_table(shard_name), 3: Scalar("q", 0)}
    )
    return _framed(write(message))


class _Template(NamedTuple):
    """A message's prefix and flatbuffer, and where in it the numbers of a message go."""

    encoded: bytes
    rows_at: int
    body_at: int
    nodes_at: int
    buffers_at: int
    value_at: int


def _template() -> _Template:
    # Values that occur nowhere else in so small a buffer say where the fields came to lie.
    rows, body = 0x5AFE_0001_5AFE_0002, 0x5AFE_0003_5AFE_0004
    nodes, buffers, value = b"\xd1" * 64, b"\xd2" * 16 * _BUFFERS, "v" * _VALUE_BYTES
    batch = Table({0: Scalar("q", rows), 1: Structs(4, nodes), 2: Structs(_BUFFERS, buffers)})
    pairs = Tables([Table({0: Text("streamfn"), 1: Text(value)})])
    fields: dict[int, Any] = {
        0: Scalar("h", _V5),
        1: Scalar("B", _RECORD_BATCH),
        2: batch,
        3: Scalar("q", body),
        4: pairs,
    }
    encoded = _framed(write(Table(fields)))
    wanted = (struct.pack("<q", rows), struct.pack("<q", body), nodes, buffers, value.encode())
    assert all(encoded.count(mark) == 1 for mark in wanted), "the template's marks are not unique"
    return _Template(encoded, *(encoded.index(mark) for mark in wanted))


_TEMPLATE = _template()
# Without columns: prefix and metadata, padding of seven buffers, the one offset more than rows of three.
MESSAGE_OVERHEAD_BYTES = len(_TEMPLATE.encoded) + 7 * 8 + 3 * 4
_NODES = struct.Struct("<8q")
_PLACES = struct.Struct(f"<{2 * _BUFFERS}q")


class Draft:
    """One message being laid out: room for its columns, to be filled by the caller, then `finish`ed.

    `columns[i]` is the position in `buffer` of column buffer i of sf_extent.h.
    """

    __slots__ = ("_rows", "buffer", "columns", "first_offset")

    def __init__(
        self, first_offset: int, rows: int, sequence_bytes: int, key_bytes: int, data_bytes: int
    ) -> None:
        offsets_bytes = 4 * (rows + 1)
        sizes = (offsets_bytes, sequence_bytes, offsets_bytes, key_bytes, 8 * rows, offsets_bytes, data_bytes)
        start = len(_TEMPLATE.encoded)
        position = 0
        places = [0] * (2 * _BUFFERS)
        columns = []
        for size, index in zip(sizes, _BUFFER_INDEX, strict=True):
            places[2 * index] = position
            places[2 * index + 1] = size
            columns.append(start + position)
            position += (size + 7) & ~7
        buffer = bytearray(start + position)
        buffer[:start] = _TEMPLATE.encoded
        struct.pack_into("<q", buffer, _TEMPLATE.rows_at, rows)
        struct.pack_into("<q", buffer, _TEMPLATE.body_at, position)
        _NODES.pack_into(buffer, _TEMPLATE.nodes_at, rows, 0, rows, 0, rows, 0, rows, 0)
        _PLACES.pack_into(buffer, _TEMPLATE.buffers_at, *places)
        self.buffer = buffer
        self.columns = columns
        self.first_offset = first_offset
        self._rows = rows

    def number(self, sequence_base: bytes) -> None:
        """Fill the sequence number column: `sequence_base` (36 digits), then the offset in 20."""
        at = ffi.from_buffer(self.buffer)
        lib.sf_sequence_numbers(
            sequence_base,
            self.first_offset,
            self._rows,
            ffi.cast("int32_t *", at + self.columns[0]),
            ffi.cast("uint8_t *", at + self.columns[1]),
        )

    def finish(self, epoch: int, durable_upto: int) -> bytearray:
        """Write the SFN1 value with the CRC of everything else, and return the message."""
        buffer = self.buffer
        body_bytes = len(buffer) - len(_TEMPLATE.encoded)
        value = _VALUE % (epoch, self.first_offset, self._rows, body_bytes, durable_upto)
        assert len(value) == _VALUE_BYTES, "a number of the SFN1 value outgrew its field"
        at = _TEMPLATE.value_at
        buffer[at : at + _VALUE_BYTES] = value
        crc = lib.sf_crc32c(0, ffi.from_buffer(buffer), len(buffer))
        buffer[at + _CRC_AT : at + _CRC_AT + 8] = b"%08x" % crc
        return buffer
