"""The scanner against hostile bytes: whatever it accepts is what was written, and it never reads outside."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from streamfn._native import ffi, lib
from streamfn.log import batch
from streamfn.log.schema import COLUMNS, END_OF_STREAM, schema_message
from streamfn.types import NewRecord

HEADER = schema_message("0123456789abcdef/shardId-000000000000")
BASE = b"49" + b"7" * 34


def message(first: int, records: list[NewRecord], durable_upto: int = 0) -> bytes:
    (rows,) = batch.from_records(records, 5)
    return bytes(rows.draft(first, BASE, 5).finish(3, durable_upto))


def some(count: int, size: int = 7) -> list[NewRecord]:
    return [NewRecord(bytes([i % 251]) * (size + i % 3), f"key-{i}", 1000 + i) for i in range(count)]


class Found(NamedTuple):
    status: int
    position: int
    next_offset: int
    messages: list[Any]


def scan(
    content: bytes, first: int = 0, *, budget: int = 1 << 60, capacity: int = 16, proven: int = 0
) -> Found:
    # An exact allocation of its own, so that AddressSanitizer sees every byte too many.
    memory = ffi.new("uint8_t[]", content)
    position, next_offset, count = ffi.new("uint64_t *", 0), ffi.new("uint64_t *", first), ffi.new("size_t *")
    out = ffi.new("sf_message[]", capacity)
    status = lib.sf_scan_proven(
        memory, len(content), proven, position, next_offset, budget, out, capacity, count
    )
    return Found(
        status, position[0], next_offset[0], [ffi.new("sf_message *", out[i]) for i in range(count[0])]
    )


def read_rows(content: bytes, found: Any) -> None:
    """Touch every byte that the message says it has."""
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
    assert table.column_names == list(COLUMNS)
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
    "records", [some(1), some(7), [NewRecord(b"", "k", 0)]], ids=["one", "seven", "empty"]
)
def test_every_flipped_bit_is_detected(records: list[NewRecord]) -> None:
    encoded = message(0, records)
    assert scan(encoded).status == lib.SF_SCAN_LIMIT
    for bit in range(8 * len(encoded)):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        assert scan(bytes(damaged)).messages == [], f"bit {bit}"


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


def test_forged_metadata_with_a_right_crc_is_refused_or_harmless() -> None:
    """What an attacker could write: any metadata, a CRC to match.  Nothing may lie outside the message."""
    chance = random.Random(11)
    encoded = message(0, some(4))
    metadata = 8 + int.from_bytes(encoded[4:8], "little")
    accepted = 0
    for _ in range(30_000):
        forged = bytearray(encoded)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(4, metadata)
            forged[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        memory = ffi.from_buffer("uint8_t[]", forged)
        crc_at = lib.sf_message_crc_at(memory, len(forged))
        if crc_at >= 0:
            forged[crc_at : crc_at + 8] = b"%08x" % lib.sf_message_crc(memory, len(forged), crc_at)
        found = scan(bytes(forged))
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
    assert lib.sf_find_message(memory, len(content), position, found) == 1
    assert (position[0], found.first_offset, found.durable_upto) == (56, 77, 76)
    position[0] = 57
    assert lib.sf_find_message(memory, len(content), position, found) == 0


def test_sequence_numbers_count_on_across_carries() -> None:
    offsets, content = ffi.new("int32_t[]", 13), ffi.new("uint8_t[]", 56 * 12)
    lib.sf_sequence_numbers(BASE, 99_999_999_995, 12, offsets, content)
    texts = [bytes(ffi.buffer(content))[56 * i : 56 * i + 56].decode() for i in range(12)]
    assert texts == [f"{BASE.decode()}{99_999_999_995 + i:020d}" for i in range(12)]
    assert list(offsets) == [56 * i for i in range(13)]


def test_gathered_messages_are_one_message_of_all_rows() -> None:
    from streamfn.log.schema import Draft

    parts, offset = b"", 0
    expected = []
    for count in (1, 3, 2):
        parts += message(offset, some(count, 5 * count))
        expected += some(count, 5 * count)
        offset += count
    memory = ffi.new("uint8_t[]", parts)
    position, next_offset, count = ffi.new("uint64_t *"), ffi.new("uint64_t *"), ffi.new("size_t *")
    out, totals = ffi.new("sf_message[]", 8), ffi.new("uint64_t[4]")
    lib.sf_scan(memory, len(parts), position, next_offset, 1 << 60, out, 8, count)
    lib.sf_measure(memory, out, count[0], totals)
    draft = Draft(0, *totals)
    start = ffi.from_buffer("uint8_t[]", draft.buffer)
    lib.sf_gather(memory, out, count[0], ffi.new("uint8_t *[]", [start + at for at in draft.columns]))
    merged = pa.ipc.open_stream(HEADER + bytes(draft.finish(3, 6))).read_all().to_pylist()
    assert [row["data"] for row in merged] == [record.data for record in expected]
    assert [row["partition_key"] for row in merged] == [record.partition_key for record in expected]
    assert [row["sequence_number"][-20:] for row in merged] == [f"{i:020d}" for i in range(6)]
