"""Request ids."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from streamfn.pool.request_id import INVOCATIONS_MAX, new_base, request_id

numbers = st.integers(0, INVOCATIONS_MAX - 1)


@given(numbers)
def test_an_id_is_a_random_uuid_in_shape_and_ends_in_its_number(number: int) -> None:
    text = request_id(new_base(), number)
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)
    assert parsed.node == number


@given(numbers, numbers)
def test_ids_of_one_base_differ_exactly_as_their_numbers(one: int, other: int) -> None:
    base = new_base()
    assert (request_id(base, one) == request_id(base, other)) == (one == other)


def test_bases_differ() -> None:
    assert len({new_base() for _ in range(1000)}) == 1000
