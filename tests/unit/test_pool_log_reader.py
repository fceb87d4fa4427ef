"""Reading a log file that grows, and that its writer may damage."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.limits import MIB
from streamfn.pool import linux
from streamfn.pool.logs import INVOCATION_BYTES_MAX, UNREAD_BYTES_MAX, LogReader


@pytest.fixture
def fd() -> Iterator[int]:
    fd = linux.growing_memfd("log", append=True)
    yield fd
    os.close(fd)


def held_bytes(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


@given(st.lists(st.tuples(st.binary(max_size=50), st.booleans()), max_size=30))
def test_every_byte_is_given_once_and_in_order(steps: list[tuple[bytes, bool]]) -> None:
    fd = linux.growing_memfd("log", append=True)
    try:
        reader, given_out = LogReader(fd), b""
        for text, is_partial in steps:
            os.write(fd, text)
            given_out += reader.partial(reader.size()) if is_partial else reader.settle(reader.size()).text
        assert given_out + reader.settle(reader.size()).text == b"".join(text for text, _ in steps)
    finally:
        os.close(fd)


def test_an_invocation_gives_a_mebibyte_and_counts_the_rest(fd: int) -> None:
    reader = LogReader(fd)
    os.write(fd, b"x" * (3 * MIB))
    first = reader.partial(MIB // 2)
    output = reader.settle(3 * MIB)
    assert len(first) + len(output.text) == INVOCATION_BYTES_MAX
    assert output.dropped == 2 * MIB
    os.write(fd, b"next")
    assert reader.settle(reader.size()) == (b"next", 0, True)
    assert reader.settle(reader.size()) == (b"", 0, False)


def test_output_that_was_handed_out_while_it_ran_still_counts_as_output(fd: int) -> None:
    reader = LogReader(fd)
    os.write(fd, b"early")
    assert reader.partial(reader.size()) == b"early"
    assert reader.settle(reader.size()) == (b"", 0, True)


def test_memory_is_given_back_behind_the_reader(fd: int) -> None:
    reader = LogReader(fd)
    for _ in range(100):
        os.write(fd, b"x" * (100 * 1024))
        reader.settle(reader.size())
    assert held_bytes(fd) < MIB


def test_what_nobody_reads_is_shed(fd: int) -> None:
    reader = LogReader(fd)
    for _ in range(3):
        for _ in range(UNREAD_BYTES_MAX // MIB + 1):
            os.write(fd, b"x" * MIB)
        reader.shed()
        assert held_bytes(fd) == 0
    os.write(fd, b"end")
    output = reader.settle(reader.size())
    assert (output.text, output.dropped) == (b"end", 3 * (UNREAD_BYTES_MAX + MIB))


def test_a_file_that_was_cut_or_blown_up_harms_nobody(fd: int) -> None:
    reader = LogReader(fd)
    os.write(fd, b"something")
    reader.settle(reader.size())
    os.ftruncate(fd, 0)
    assert reader.settle(reader.size()).text == b""
    os.ftruncate(fd, 1 << 40)
    output = reader.settle(reader.size())
    assert len(output.text) == INVOCATION_BYTES_MAX
    assert reader.settle(5).text == b""
