"""CRC32C by instruction and by table, against each other and against published values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn._native import ffi, lib


@pytest.mark.parametrize(
    ("content", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # the following: RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(content: bytes, crc: int) -> None:
    assert lib.sf_crc32c(0, content, len(content)) == crc
    assert lib.sf_crc32c_by_table(0, content, len(content)) == crc


@pytest.mark.parametrize("length", [*range(64), 767, 768, 769, 1023, 12287, 12288, 12289, 40_000])
def test_instruction_and_table_agree_at_every_block_edge_and_alignment(length: int) -> None:
    content = bytes((7 * i + (i >> 8)) & 0xFF for i in range(length + 8))
    start = ffi.from_buffer("uint8_t[]", content)
    for shift in range(8):
        assert lib.sf_crc32c(1, start + shift, length) == lib.sf_crc32c_by_table(1, start + shift, length)


@given(st.binary(max_size=5000), st.binary(max_size=5000))
def test_a_crc_goes_on_where_another_ended(first: bytes, second: bytes) -> None:
    whole = first + second
    step = lib.sf_crc32c(lib.sf_crc32c(0, first, len(first)), second, len(second))
    assert step == lib.sf_crc32c(0, whole, len(whole))
