"""Every base64 encoder of this machine against the standard library's, with buffers of the exact size."""

from __future__ import annotations

import platform
import random
from base64 import b64encode

import pytest

from streamfn import _events
from streamfn._native import ffi

ENCODERS = _events._base64_encoders()


def encode(data: bytes, encoder: str) -> str:
    # A malloc of its own, so that AddressSanitizer sees a byte read past the end; bytes have one to spare.
    exact = ffi.new("uint8_t[]", data)
    view = memoryview(ffi.buffer(exact, len(data)))
    assert len(view) == len(data)
    return _events._base64(view, encoder)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_length_encodes_as_the_standard_library_does(encoder: str) -> None:
    random_bytes = random.Random(encoder).randbytes
    for length in range(201):
        data = random_bytes(length)
        assert encode(data, encoder) == b64encode(data).decode(), length


@pytest.mark.parametrize("encoder", ENCODERS)
def test_random_data_encodes_as_the_standard_library_does(encoder: str) -> None:
    source = random.Random(f"more {encoder}")
    for _ in range(300):
        data = source.randbytes(source.randrange(10_000))
        assert encode(data, encoder) == b64encode(data).decode()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_three_bytes_reach_every_character_in_every_place(encoder: str) -> None:
    groups = b"".join((value << shift).to_bytes(3) for shift in (0, 6, 12, 18) for value in range(64))
    for skew in range(3):
        data = b"\xff" * skew + groups
        assert encode(data, encoder) == b64encode(data).decode()


def test_there_is_a_portable_encoder_and_a_vector_one_where_the_machine_has_vectors() -> None:
    assert ENCODERS[-1] == "portable"
    if platform.machine() == "aarch64":
        assert ENCODERS[0] == "neon"


def test_an_encoder_that_is_not_there_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no base64 encoder 'mmx'"):
        _events._base64(b"", "mmx")
