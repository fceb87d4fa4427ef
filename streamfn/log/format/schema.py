"""The bytes of a message, and what a segment begins and ends with.

A message is an encapsulated Arrow record batch: 8 bytes of prefix, a flatbuffer, the body.  The flatbuffers
of all messages of a layout are alike, only their numbers differ; so each is written once, as a template, and
a message patches its numbers in.  The SFN1 value in its custom metadata is described in sf_log.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from streamfn._native import ffi, lib
from streamfn.log.format.flatbuffer import Scalar, Structs, Table, Tables, Text, write
from streamfn.log.format.layout import BYTES, KINESIS, LAYOUTS, Layout

FORMAT_VERSION = "1"

# Numbers of Arrow's Message.fbs.
_V5 = 4
_SCHEMA, _RECORD_BATCH = 1, 3
_ZSTD, _BY_BUFFER = 1, 0

_VALUE = b"SFN1:00000000:%08x:%016x:%08x:%016x:%016x"
_VALUE_BYTES = 82
_CRC_AT = 5
_PADDING = bytes(8)
END_OF_STREAM = struct.pack("<II", 0xFFFFFFFF, 0)

# The offset's part of a sequence number that is given here.
COUNTER_DIGITS = 20


def _pairs(**pairs: str) -> Tables:
    return Tables([Table({0: Text(key.replace("_", ".")), 1: Text(value)}) for key, value in pairs.items()])


def _schema_table(shard_name: str, layout: Layout) -> Table:
    fields = [
        Table(
            {
                0: Text(column.name),
                1: Scalar("B", int(column.nullable)),
                2: Scalar("B", column.arrow_type),
                3: column.type_table,
                5: Tables([]),
            }
        )
        for column in layout.columns
    ]
    return Table({1: Tables(fields), 2: _pairs(streamfn_format=FORMAT_VERSION, streamfn_shard=shard_name)})


def _framed(metadata: bytes) -> bytes:
    return struct.pack("<II", 0xFFFFFFFF, len(metadata)) + metadata


@lru_cache(maxsize=4096)
def schema_message(shard_name: str, layout: Layout = KINESIS) -> bytes:
    """Return the encapsulated schema message that every segment of a shard with that layout begins with.

    `shard_name` is `<stream id>/<shard id>`: a segment that was moved elsewhere is recognised by it.
    """
    message = Table(
        {
            0: Scalar("h", _V5),
            1: Scalar("B", _SCHEMA),
            2: _schema_table(shard_name, layout),
            3: Scalar("q", 0),
        }
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
    nodes: struct.Struct
    places: struct.Struct


def _template(layout: Layout) -> _Template:
    # Values that occur nowhere else in so small a buffer say where the fields came to lie.
    columns = len(layout.columns)
    rows, body = 0x5AFE_0001_5AFE_0002, 0x5AFE_0003_5AFE_0004
    nodes, buffers = b"\xd1" * 16 * columns, b"\xd2" * 16 * layout.arrow_buffers
    value = "v" * _VALUE_BYTES
    batch = Table(
        {0: Scalar("q", rows), 1: Structs(columns, nodes), 2: Structs(layout.arrow_buffers, buffers)}
    )
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
    rows_at, body_at, nodes_at, buffers_at, value_at = (encoded.index(mark) for mark in wanted)
    return _Template(
        encoded,
        rows_at,
        body_at,
        nodes_at,
        buffers_at,
        value_at,
        struct.Struct(f"<{2 * columns}q"),
        struct.Struct(f"<{2 * layout.arrow_buffers}q"),
    )


_INT64 = struct.Struct("<q")
_TEMPLATES = {layout.id: _template(layout) for layout in LAYOUTS}


def _sizes(layout: Layout, rows: int, texts: Sequence[int]) -> list[int]:
    """Return the bytes of each buffer, in canonical order."""
    fixed = ((rows + 7) >> 3, 4 * (rows + 1), 0, 8 * rows)
    left = iter(texts)
    return [next(left) if what == BYTES else fixed[what] for what, _ in layout.buffers]


def message_bytes(layout: Layout, rows: int, texts: Sequence[int]) -> int:
    """Return how long a message is whose text columns have `texts` bytes, each in turn."""
    return len(_TEMPLATES[layout.id].encoded) + sum((size + 7) & ~7 for size in _sizes(layout, rows, texts))


def _laid_out(
    layout: Layout, rows: int, sizes: Sequence[int], *, whole: bool
) -> tuple[bytearray, list[int], int]:
    """Return prefix and metadata of a message without its SFN1 value, where its buffers go, and how long it is.

    With room for all of it if it is to be `whole`.
    """
    encoded, rows_at, body_at, nodes_at, buffers_at, _, nodes, entries = _TEMPLATES[layout.id]
    start = at = len(encoded)
    places = [0] * (2 * layout.arrow_buffers)
    columns = []
    for (_, index), size in zip(layout.buffers, sizes):  # noqa: B905 - it is the loop that every append is in
        places[2 * index] = at - start
        places[2 * index + 1] = size
        columns.append(at)
        at += (size + 7) & -8
    buffer = bytearray(at if whole else start)
    buffer[:start] = encoded
    _INT64.pack_into(buffer, rows_at, rows)
    _INT64.pack_into(buffer, body_at, at - start)
    nodes.pack_into(buffer, nodes_at, *(rows, 0) * len(layout.columns))
    entries.pack_into(buffer, buffers_at, *places)
    return buffer, columns, at


def loose_message(
    layout: Layout, first_offset: int, rows: int, buffers: Sequence[memoryview], epoch: int, durable_upto: int
) -> list[memoryview]:
    """Return a message as the pieces it is made of: its head, and the buffers as they lie in memory.

    `buffers` are those of the layout, whose columns may not be null, in canonical order.  Written one behind the
    other the pieces are what a `Draft` would be.
    """
    assert not layout.nullable, "nobody has counted the nulls"
    head, _, length = _laid_out(layout, rows, [buffer.nbytes for buffer in buffers], whole=False)
    at = _TEMPLATES[layout.id].value_at
    head[at : at + _VALUE_BYTES] = _value(epoch, first_offset, rows, length - len(head), durable_upto)
    pieces = [memoryview(head)]
    for buffer in buffers:
        pieces.append(buffer.cast("B"))
        pieces.append(memoryview(_PADDING[: -buffer.nbytes % 8]))
    crc = 0
    for piece in pieces:
        crc = lib.sf_crc32c(crc, ffi.from_buffer(piece), len(piece))
    head[at + _CRC_AT : at + _CRC_AT + 8] = b"%08x" % crc
    return pieces


def compressed_head(
    rows: int,
    nodes: bytes,
    places: Sequence[tuple[int, int]],
    body_bytes: int,
    epoch: int,
    first_offset: int,
    durable_upto: int,
) -> tuple[bytearray, int]:
    """Return prefix and metadata of a message whose buffers are compressed with zstd, and where its CRC goes.

    `nodes` are Arrow's field nodes as they were; `places` where each buffer lies in the body, and its bytes.
    """
    value = _value(epoch, first_offset, rows, body_bytes, durable_upto)
    packed = b"".join(struct.pack("<qq", *place) for place in places)
    batch: dict[int, Any] = {
        0: Scalar("q", rows),
        1: Structs(len(nodes) // 16, nodes),
        2: Structs(len(places), packed),
        3: Table({0: Scalar("b", _ZSTD), 1: Scalar("b", _BY_BUFFER)}),
    }
    fields: dict[int, Any] = {
        0: Scalar("h", _V5),
        1: Scalar("B", _RECORD_BATCH),
        2: Table(batch),
        3: Scalar("q", body_bytes),
        4: Tables([Table({0: Text("streamfn"), 1: Text(value.decode())})]),
    }
    head = bytearray(_framed(write(Table(fields))))
    return head, head.rindex(value) + _CRC_AT


def numbers(sequence_base: bytes, first_offset: int, rows: int) -> tuple[bytearray, bytearray]:
    """Return the two buffers of a column of sequence numbers: `sequence_base`, then the offset in 20 digits."""
    offsets = bytearray(4 * (rows + 1))
    texts = bytearray((len(sequence_base) + COUNTER_DIGITS) * rows)
    lib.sf_sequence_numbers(
        sequence_base,
        len(sequence_base),
        first_offset,
        rows,
        ffi.from_buffer("int32_t[]", offsets),
        ffi.from_buffer("uint8_t[]", texts),
    )
    return offsets, texts


def _value(epoch: int, first_offset: int, rows: int, body_bytes: int, durable_upto: int) -> bytes:
    """Return the SFN1 value of a message, its CRC's digits zeros."""
    value = _VALUE % (epoch, first_offset, rows, body_bytes, durable_upto)
    assert len(value) == _VALUE_BYTES, "a number of the SFN1 value outgrew its field"
    return value


class Draft:
    """One message being laid out: room for its columns, to be filled by the caller, then `finish`ed.

    `texts` are the bytes of each text column in turn.  `columns[i]` is the position in `buffer` of the i-th buffer
    of the layout.
    """

    __slots__ = ("_template", "buffer", "columns", "first_offset", "layout", "rows")

    def __init__(self, layout: Layout, first_offset: int, rows: int, texts: Sequence[int]) -> None:
        buffer, columns, _ = _laid_out(layout, rows, _sizes(layout, rows, texts), whole=True)
        self.buffer = buffer
        self.columns = columns
        self.first_offset = first_offset
        self.layout = layout
        self.rows = rows
        self._template = _TEMPLATES[layout.id]

    def number(self, sequence_base: bytes) -> None:
        """Fill the sequence number column: `sequence_base` (at most 109 digits), then the offset in 20."""
        at = ffi.from_buffer(self.buffer)
        column = self.layout.sequence
        lib.sf_sequence_numbers(
            sequence_base,
            len(sequence_base),
            self.first_offset,
            self.rows,
            ffi.cast("int32_t *", at + self.columns[column]),
            ffi.cast("uint8_t *", at + self.columns[column + 1]),
        )

    def finish(self, epoch: int, durable_upto: int) -> bytearray:
        """Count nulls, write the SFN1 value with the CRC of everything else, and return the message."""
        buffer, template = self.buffer, self._template
        if self.layout.nullable:
            self._count_nulls()
        body_bytes = len(buffer) - len(template.encoded)
        at = template.value_at
        buffer[at : at + _VALUE_BYTES] = _value(epoch, self.first_offset, self.rows, body_bytes, durable_upto)
        crc = lib.sf_crc32c(0, ffi.from_buffer(buffer), len(buffer))
        buffer[at + _CRC_AT : at + _CRC_AT + 8] = b"%08x" % crc
        return buffer

    def _count_nulls(self) -> None:
        length = (self.rows + 7) >> 3
        for column, bitmap in self.layout.nullable:
            at = self.columns[bitmap]
            valid = int.from_bytes(self.buffer[at : at + length], "little").bit_count()
            _INT64.pack_into(self.buffer, self._template.nodes_at + 16 * column + 8, self.rows - valid)
