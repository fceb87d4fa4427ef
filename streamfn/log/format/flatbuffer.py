"""Writing the few flatbuffers of an Arrow segment.

Arrow's metadata has three forms here (schema, record batch, file footer), all made of tables of a few
fields.  They are written front to back: a table, then what it refers to, so that every reference points
forward as the format wants.  Doing it ourselves keeps pyarrow (a quarter of a second to import) out of
every command that only puts or reads; the tests hold each form against pyarrow and Polars.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scalar:
    """A number inside its table; `form` is its struct format without a byte order: b B h i I q Q."""

    form: str
    value: int


@dataclass(frozen=True)
class Text:
    """A string: length, UTF-8, NUL."""

    value: str


@dataclass(frozen=True)
class Tables:
    """A vector of references to tables."""

    items: Sequence[Table]


@dataclass(frozen=True)
class Structs:
    """A vector of `count` structs, already packed, each a multiple of 8 bytes long."""

    count: int
    packed: bytes


@dataclass(frozen=True)
class Embedded:
    """A table inside another finished flatbuffer, which is taken over whole."""

    buffer: bytes
    table_at: int


@dataclass(frozen=True)
class Table:
    """Fields by slot number."""

    fields: Mapping[int, Scalar | Text | Tables | Structs | Embedded | Table]


Node = Text | Tables | Structs | Embedded | Table


def write(root: Table) -> bytes:
    """Return the finished flatbuffer of `root`, padded to a multiple of 8 bytes."""
    out = bytearray(4)
    pending: list[tuple[int, Node]] = [(0, root)]
    while pending:
        reference_at, node = pending.pop(0)
        at = _write_node(out, node, pending)
        struct.pack_into("<I", out, reference_at, at - reference_at)
    _pad(out, 8)
    return bytes(out)


def root_field(buffer: bytes, slot: int) -> int:
    """Return the position of the table or vector in field `slot` of the root table of a buffer from `write`."""
    return follow(buffer, field_at(buffer, root_at(buffer), slot))


def root_at(buffer: bytes) -> int:
    """Return the position of the root table."""
    return follow(buffer, 0)


def field_at(buffer: bytes, table: int, slot: int) -> int:
    """Return the position of field `slot` of a table, 0 where it has none."""
    (back,) = struct.unpack_from("<i", buffer, table)
    (vtable_bytes,) = struct.unpack_from("<H", buffer, table - back)
    if 4 + 2 * slot >= vtable_bytes:
        return 0
    (offset,) = struct.unpack_from("<H", buffer, table - back + 4 + 2 * slot)
    return table + int(offset) if offset else 0


def follow(buffer: bytes, at: int) -> int:
    """Return what the reference at a position points to."""
    (forward,) = struct.unpack_from("<I", buffer, at)
    return at + int(forward)


def _pad(out: bytearray, alignment: int, before: int = 0) -> None:
    """Pad so that what comes `before` bytes later is aligned."""
    out.extend(bytes(-(len(out) + before) % alignment))


def _write_node(out: bytearray, node: Node, pending: list[tuple[int, Node]]) -> int:
    """Append a node, note its own references in `pending`, and return its position."""
    if isinstance(node, Table):
        return _write_table(out, node, pending)
    if isinstance(node, Embedded):
        _pad(out, 8)
        at = len(out) + node.table_at
        out += node.buffer
        return at
    if isinstance(node, Structs):
        _pad(out, 8, before=4)
        out += struct.pack("<I", node.count)
        out += node.packed
        return len(out) - len(node.packed) - 4
    _pad(out, 4)
    at = len(out)
    if isinstance(node, Text):
        encoded = node.value.encode()
        out += struct.pack("<I", len(encoded)) + encoded + b"\0"
        return at
    out += struct.pack("<I", len(node.items))
    for item in node.items:
        pending.append((len(out), item))
        out += bytes(4)
    return at


def _write_table(out: bytearray, table: Table, pending: list[tuple[int, Node]]) -> int:
    """Append the vtable and then the table; the widest fields come first, so all are aligned."""
    sizes = {s: struct.calcsize(f.form) if isinstance(f, Scalar) else 4 for s, f in table.fields.items()}
    slots = max(sizes, default=-1) + 1
    vtable_bytes = 4 + 2 * slots
    # The table begins with 4 bytes (the way back to its vtable); its fields then begin on a multiple of 8.
    _pad(out, 8, before=vtable_bytes + 4)
    vtable_at = len(out)
    out += bytes(vtable_bytes)
    at = len(out)
    out += struct.pack("<i", at - vtable_at)
    for slot in sorted(sizes, key=lambda slot: -sizes[slot]):
        field = table.fields[slot]
        struct.pack_into("<H", out, vtable_at + 4 + 2 * slot, len(out) - at)
        if isinstance(field, Scalar):
            out += struct.pack("<" + field.form, field.value)
        else:
            pending.append((len(out), field))
            out += bytes(4)
    struct.pack_into("<HH", out, vtable_at, vtable_bytes, len(out) - at)
    return at
