"""Whether row numbers that another process wrote are among those that it was asked about."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from streamfn._native import ffi, lib

number = st.integers(0, 12) | st.integers(2**32 - 3, 2**32 - 1)
numbers = st.lists(number, max_size=8)
ascending = st.sets(number, max_size=8).map(sorted)


def among(rows: Sequence[int], of: Sequence[int]) -> bool:
    # Memory of exactly their size, so that AddressSanitizer sees a read too many.
    return bool(
        lib.sf_rows_among(ffi.new("uint32_t[]", list(rows)), len(rows), ffi.new("uint32_t[]", list(of)), 0, len(of))
    )


@given(numbers, ascending)
def test_rows_are_among_others_if_they_are_some_of_them_in_order(rows: list[int], of: list[int]) -> None:
    assert among(rows, of) == (rows == sorted(set(rows)) and set(rows) <= set(of))


@given(ascending, st.data())
def test_a_part_is_among_the_whole(of: list[int], data: st.DataObject) -> None:
    assert among(sorted(data.draw(st.sets(st.sampled_from(of)))) if of else [], of)


@given(numbers, number, st.integers(0, 10))
def test_a_run_of_rows_is_as_the_list_of_them(rows: list[int], first: int, count: int) -> None:
    run = [first + i for i in range(count) if first + i < 2**32]
    found = lib.sf_rows_among(ffi.new("uint32_t[]", rows), len(rows), ffi.NULL, first, len(run))
    assert bool(found) == among(rows, run)
