"""The scanner against hostile bytes: whatever it accepts is what was written, and it never reads outside."""

from __future__ import annotations

import contextlib
import hashlib
import random
import struct
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn._native import ffi, lib
from streamfn.log.format import batch, changes
from streamfn.log.format.layout import DYNAMODB, KINESIS, KINESIS_SOURCE, LAYOUTS, Layout
from streamfn.log.format.schema import END_OF_STREAM, Draft, schema_message
from streamfn.log.segment import rows
from streamfn.types import NewChange, NewRecord

SHARD = "0123456789abcdef/shardId-000000000000"
HEADER = schema_message(SHARD)
BASE = b"49" + b"7" * 34


def message(
    first: int, records: Sequence[NewRecord] | Sequence[NewChange], durable_upto: int = 0
) -> bytes:
    (rows,) = cut(records)
    return bytes(rows.draft(first, BASE, 5).finish(3, durable_upto))


def cut(records: Sequence[NewRecord] | Sequence[NewChange]) -> Iterable[batch.Rows]:
    if isinstance(records[0], NewChange):
        return changes.from_changes([one for one in records if isinstance(one, NewChange)], 5)
    return batch.from_records([one for one in records if isinstance(one, NewRecord)], 5)


def some(count: int, size: int = 7) -> list[NewRecord]:
    return [NewRecord(bytes([i % 251]) * (size + i % 3), f"key-{i}", 1000 + i) for i in range(count)]


def sourced(count: int) -> list[NewRecord]:
    """Records of which some have a source's number, some a sub-sequence number, some neither."""
    return [
        one._replace(
            source_sequence_number=str(10**i) if i % 3 else None,
            source_subsequence_number=i if i % 2 else None,
        )
        for i, one in enumerate(some(count), 1)
    ]


def changed(count: int) -> list[NewChange]:
    keys = [b'{"id":{"N":"%d"}}' % i for i in range(count)]
    return [
        NewChange(
            "MODIFY" if i % 2 else "REMOVE",
            key,
            new_image=key if i % 2 else None,
            old_image=None if i % 3 else key,
            event_id=f"{i:032x}",
            creation_ms=1000 + i,
            size_bytes=i,
            user_identity=b'{"type":"Service"}' if i % 5 == 2 else None,
        )
        for i, key in enumerate(keys)
    ]


class Found(NamedTuple):
    status: int
    position: int
    next_offset: int
    messages: list[Any]


def scan(
    content: bytes,
    first: int = 0,
    *,
    budget: int = 1 << 60,
    capacity: int = 16,
    proven: int = 0,
    layout: Layout = KINESIS,
) -> Found:
    # An exact allocation of its own, so that AddressSanitizer sees every byte too many.
    memory = ffi.new("uint8_t[]", content)
    position, next_offset, count = ffi.new("uint64_t *", 0), ffi.new("uint64_t *", first), ffi.new("size_t *")
    out = ffi.new("sf_message[]", capacity)
    status = lib.sf_scan_proven(
        memory, len(content), layout.id, proven, position, next_offset, budget, out, capacity, count
    )
    return Found(
        status, position[0], next_offset[0], [ffi.new("sf_message *", out[i]) for i in range(count[0])]
    )


def read_rows(content: bytes, found: Any) -> None:
    """Touch every byte that the message says it has, as event builders and readers do."""
    memory = ffi.new("uint8_t[]", content)
    segment = SimpleNamespace(base=memory)
    read = rows.changes if found.layout == DYNAMODB.id else rows.records
    one: Any = SimpleNamespace(cdata=found, segment=segment, first_offset=found.first_offset, rows=found.rows)
    with contextlib.suppress(UnicodeDecodeError):  # of a forger's text
        assert len(read(one)) == found.rows
    span = ffi.new("int64_t[2]")
    lib.sf_arrival_span(memory, found, span, span + 1)
    totals = ffi.new("uint64_t[12]")
    lib.sf_measure(memory, found, 1, totals)
    draft = Draft(LAYOUTS[found.layout], 0, totals[0], list(totals[1 : 1 + len(LAYOUTS[found.layout].texts)]))
    start = ffi.from_buffer("uint8_t[]", draft.buffer)
    lib.sf_gather(memory, found, 1, ffi.new("uint8_t *[]", [start + at for at in draft.columns]))
    if found.layout == DYNAMODB.id:
        return
    for column in (0, 2, 5):
        at = found.column[column]
        offsets = memoryview(content)[at : at + 4 * (found.rows + 1)].cast("i")
        assert list(offsets) == sorted(offsets)
        assert offsets[0] >= 0
        assert found.column[column + 1] + offsets[-1] <= found.position + found.length
    assert found.column[4] + 8 * found.rows <= found.position + found.length


def test_columns_lie_where_pyarrow_finds_them() -> None:
    encoded = message(9, some(5))
    found = scan(encoded, 9).messages[0]
    table = pa.ipc.open_stream(HEADER + encoded).read_all()
    table.validate(full=True)
    assert table.column_names == list(KINESIS.names)
    read_rows(encoded, found)
    data = table["data"].combine_chunks()
    _, offsets, content = data.buffers()
    assert encoded[found.column[5] :][: len(offsets)] == offsets.to_pybytes()
    assert encoded[found.column[6] :][: len(content)] == content.to_pybytes()
    assert table["sequence_number"].to_pylist() == [f"{BASE.decode()}{9 + i:020d}" for i in range(5)]
    assert (found.first_offset, found.rows, found.epoch, found.length) == (9, 5, 3, len(encoded))


def test_scan_stops_at_capacity_budget_limit_and_end() -> None:
    messages = [message(3 * i, some(3)) for i in range(4)]
    content = b"".join(messages)
    assert scan(content, capacity=2)[:3] == (lib.SF_SCAN_MORE, len(messages[0] + messages[1]), 6)
    assert scan(content, budget=1)[:3] == (lib.SF_SCAN_MORE, len(messages[0]), 3)
    assert scan(content)[:3] == (lib.SF_SCAN_LIMIT, len(content), 12)
    for end in (bytes(8), END_OF_STREAM):
        assert scan(content + end + b"anything")[:3] == (lib.SF_SCAN_END, len(content), 12)
    assert scan(content, first=1)[:3] == (lib.SF_SCAN_DAMAGED, 0, 1)
    assert scan(content + b"\1" * 8)[:3] == (lib.SF_SCAN_DAMAGED, len(content), 12)
    assert scan(content + b"\1" * 4)[:3] == (lib.SF_SCAN_DAMAGED, len(content), 12)
    assert scan(b"")[:3] == (lib.SF_SCAN_LIMIT, 0, 0)


@pytest.mark.parametrize(
    ("layout", "records"),
    [
        (KINESIS, some(1)),
        (KINESIS, some(7)),
        (KINESIS, [NewRecord(b"", "k", 0)]),
        (KINESIS_SOURCE, sourced(3)),
        (DYNAMODB, changed(3)),
    ],
    ids=["one", "seven", "empty", "sourced", "changed"],
)
def test_every_flipped_bit_is_detected(layout: Layout, records: Sequence[NewRecord]) -> None:
    encoded = message(0, records)
    assert scan(encoded, layout=layout).status == lib.SF_SCAN_LIMIT
    for bit in range(8 * len(encoded)):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        assert scan(bytes(damaged), layout=layout).messages == [], f"bit {bit}"


def test_a_record_lies_in_a_segment_as_it_always_did() -> None:
    """Byte for byte what version 1 of the log wrote: schema and message."""
    written = [NewRecord(b"data %d" % i + b"x" * i, f"k\xe9y-{i}", 1733418659000 + i) for i in range(5)]
    (rows,) = batch.from_records(written, 5)
    encoded = rows.draft(7, b"49" + b"1" * 34, 5).finish(3, 6)
    assert [hashlib.sha256(part).hexdigest() for part in (HEADER, encoded)] == [
        "fbd9ede6fb20b4da70dc95cc70778f09b7a699fd698634ba1a1f40c61e4de483",
        "9b4af33a8c6663e56df39ed1487b8800b7bfa995f059e1d66413c510b46daed6",
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_two_tables_of_a_layout_are_one(layout: Layout) -> None:
    table = lib.sf_layout_of(layout.id)
    forms = [column.fixed * lib.SF_FIXED | column.nullable * lib.SF_NULLABLE for column in layout.columns]
    assert list(table.form)[: table.columns] == forms
    assert table.arrow_buffers == layout.arrow_buffers
    assert layout.columns[table.time].name.startswith("approximate_")
    assert layout.names.index("sequence_number") == (3 if layout is DYNAMODB else 0)
    assert lib.sf_layout_of(len(LAYOUTS)) == lib.sf_layout_of(-1) == ffi.NULL


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_message_of_another_layout_is_damage(layout: Layout) -> None:
    for other, records in ((KINESIS, some(2)), (KINESIS_SOURCE, sourced(2)), (DYNAMODB, changed(2))):
        found = scan(message(0, records), layout=layout)
        assert (found.status == lib.SF_SCAN_LIMIT) == (layout is other)


@pytest.mark.parametrize("shift", [-8, 8])
def test_a_buffer_that_is_not_where_it_must_be_is_refused_though_the_crc_is_right(shift: int) -> None:
    """Arrow would read it; but whoever walks from buffer to buffer would find something else there."""
    encoded = bytearray(message(0, changed(4)))
    memory = ffi.from_buffer("uint8_t[]", encoded)
    crc_at = lib.sf_message_crc_at(memory, len(encoded), DYNAMODB.id)
    # Offsets (5 int32) and bytes (32 each) of the event ids, which are the first two buffers.
    at = encoded.index(struct.pack("<4q", 0, 20, 24, 128))
    struct.pack_into("<q", encoded, at + 16, 24 + shift)
    encoded[crc_at : crc_at + 8] = b"%08x" % lib.sf_message_crc(memory, len(encoded), crc_at)
    assert scan(bytes(encoded), layout=DYNAMODB).messages == []
    struct.pack_into("<q", encoded, at + 16, 24)
    encoded[crc_at : crc_at + 8] = b"%08x" % lib.sf_message_crc(memory, len(encoded), crc_at)
    assert len(scan(bytes(encoded), layout=DYNAMODB).messages) == 1


def test_every_truncation_and_every_zeroed_tail_is_detected() -> None:
    encoded = message(0, some(3))
    for length in range(len(encoded)):
        assert scan(encoded[:length]).messages == []
        zeroed = encoded[:length] + bytes(len(encoded) - length)
        assert zeroed == encoded or scan(zeroed).messages == []


def test_smears_and_zero_runs_are_detected() -> None:
    chance = random.Random(4)
    encoded = message(0, some(20, 40))
    for _ in range(5000):
        at, length = chance.randrange(len(encoded)), chance.randrange(1, 64)
        smear = bytes(length) if chance.random() < 0.5 else chance.randbytes(length)
        damaged = encoded[:at] + smear[: len(encoded) - at] + encoded[at + length :]
        assert len(damaged) == len(encoded)
        assert damaged == encoded or scan(damaged).messages == []


@pytest.mark.parametrize(
    ("layout", "records"),
    [(KINESIS, some(4)), (KINESIS_SOURCE, sourced(4)), (DYNAMODB, changed(4))],
    ids=["plain", "sourced", "changed"],
)
def test_forged_messages_with_a_right_crc_are_refused_or_harmless(
    layout: Layout, records: Sequence[NewRecord]
) -> None:
    """What an attacker could write: any metadata and offsets, a CRC to match.  Nothing may lie outside the message."""
    chance = random.Random(11)
    encoded = message(0, records)
    metadata = 8 + int.from_bytes(encoded[4:8], "little")
    accepted = 0
    for attempt in range(15_000):
        forged = bytearray(encoded)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(4, metadata if attempt % 2 else len(encoded))
            forged[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        memory = ffi.from_buffer("uint8_t[]", forged)
        crc_at = lib.sf_message_crc_at(memory, len(forged), layout.id)
        if crc_at >= 0:
            forged[crc_at : crc_at + 8] = b"%08x" % lib.sf_message_crc(memory, len(forged), crc_at)
        found = scan(bytes(forged), layout=layout)
        for one in found.messages:
            accepted += 1
            read_rows(bytes(forged), one)
    assert accepted > 100, "the forger never got past the CRC, so nothing was tried"


def test_proven_messages_are_not_summed_again_but_still_walked() -> None:
    encoded = bytearray(message(0, some(3)))
    encoded[-9] ^= 1  # in the body
    assert scan(bytes(encoded)).messages == []
    assert len(scan(bytes(encoded), proven=len(encoded)).messages) == 1
    assert scan(bytes(encoded), proven=len(encoded) - 8).messages == []
    encoded[40] ^= 0xFF  # in the metadata
    assert scan(bytes(encoded), proven=len(encoded)).messages == []


def test_find_message_looks_past_damage() -> None:
    good = message(77, some(2), durable_upto=76)
    content = b"\xff" * 41 + bytes(15) + good + bytes(64)
    memory, found = ffi.new("uint8_t[]", content), ffi.new("sf_message *")
    position = ffi.new("uint64_t *", 3)
    assert lib.sf_find_message(memory, len(content), KINESIS.id, position, found) == 1
    assert (position[0], found.first_offset, found.durable_upto) == (56, 77, 76)
    position[0] = 57
    assert lib.sf_find_message(memory, len(content), KINESIS.id, position, found) == 0


def test_sequence_numbers_count_on_across_carries() -> None:
    offsets, content = ffi.new("int32_t[]", 13), ffi.new("uint8_t[]", 56 * 12)
    lib.sf_sequence_numbers(BASE, len(BASE), 99_999_999_995, 12, offsets, content)
    texts = [bytes(ffi.buffer(content))[56 * i : 56 * i + 56].decode() for i in range(12)]
    assert texts == [f"{BASE.decode()}{99_999_999_995 + i:020d}" for i in range(12)]
    assert list(offsets) == [56 * i for i in range(13)]


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_gathered_messages_are_one_message_of_all_rows(layout: Layout, counts: list[int]) -> None:
    make = {KINESIS: some, KINESIS_SOURCE: sourced, DYNAMODB: changed}[layout]
    parts, offset = b"", 0
    for size in counts:
        parts += message(offset, make(size))
        offset += size
    memory = ffi.new("uint8_t[]", parts)
    position, next_offset, count = ffi.new("uint64_t *"), ffi.new("uint64_t *"), ffi.new("size_t *")
    out, totals = ffi.new("sf_message[]", 8), ffi.new("uint64_t[12]")
    lib.sf_scan(memory, len(parts), layout.id, position, next_offset, 1 << 60, out, 8, count)
    assert count[0] == len(counts)
    lib.sf_measure(memory, out, count[0], totals)
    draft = Draft(layout, 0, totals[0], list(totals[1 : 1 + len(layout.texts)]))
    start = ffi.from_buffer("uint8_t[]", draft.buffer)
    lib.sf_gather(memory, out, count[0], ffi.new("uint8_t *[]", [start + at for at in draft.columns]))
    head = schema_message(SHARD, layout)
    merged = bytes(draft.finish(3, 6))
    assert scan(merged, layout=layout).status == lib.SF_SCAN_LIMIT
    gathered = pa.ipc.open_stream(head + merged).read_all()
    gathered.validate(full=True)
    assert gathered.to_pylist() == pa.ipc.open_stream(head + parts).read_all().to_pylist()
    assert gathered["sequence_number"].to_pylist() == [f"{BASE.decode()}{i:020d}" for i in range(offset)]


@pytest.mark.parametrize("digits", [1, 36, 109])
def test_a_sequence_base_may_have_any_length(digits: int) -> None:
    base = b"8" * digits
    (rows,) = batch.from_records(some(3), 5)
    encoded = bytes(rows.draft(8, base, 5).finish(1, 0))
    table = pa.ipc.open_stream(HEADER + encoded).read_all()
    assert table["sequence_number"].to_pylist() == [f"{base.decode()}{i:020d}" for i in (8, 9, 10)]
