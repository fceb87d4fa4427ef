"""JSON values are found where they begin and end, however the bytes come."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.formats import json_values
from streamfn.formats.json_values import NotValues, Value, elements, split_values, value_end

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=6)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
CONTAINERS = st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=4), VALUES, max_size=3)


def found_in(blocks: list[bytes], *, skip_bad: bool = False) -> list[Value | NotValues]:
    return [value for group in split_values(blocks, skip_bad=skip_bad) for value in group]


@given(
    st.lists(st.tuples(CONTAINERS, st.sampled_from(["", "\n", " \r\n\t", ","])), max_size=5),
    st.lists(st.integers(1, 9), min_size=1),
    st.booleans(),
)
def test_values_do_not_depend_on_how_the_bytes_came(
    items: list[tuple[object, str]], sizes: list[int], spaced: bool
) -> None:
    texts = [json.dumps(value, ensure_ascii=False, indent=1 if spaced else None) for value, _ in items]
    content = "".join(text + after for text, (_, after) in zip(texts, items, strict=True)).encode()
    blocks, at, turn = [], 0, 0
    while at < len(content):
        size = sizes[turn % len(sizes)]
        blocks.append(content[at : at + size])
        at, turn = at + size, turn + 1
    values = found_in(blocks)
    assert [value.text.decode() for value in values if isinstance(value, Value)] == texts
    assert all(content[v.position : v.position + len(v.text)] == v.text for v in values if isinstance(v, Value))


@given(VALUES)
def test_a_values_end_is_where_its_text_ends(value: object) -> None:
    text = json.dumps(value).encode()
    assert value_end(text + b" , 1", 0) == len(text)


@given(st.lists(VALUES, max_size=5))
def test_an_arrays_elements_are_its_values(values: list[object]) -> None:
    text = json.dumps(values, indent=1).encode()
    assert [json.loads(element.text) for element in elements(text)] == values


def test_a_byte_order_mark_is_not_part_of_the_first_value() -> None:
    assert found_in([b"\xef", b"\xbb\xbf{}"]) == [Value(b"{}", 3)]


@pytest.mark.parametrize(
    ("content", "position", "reason"),
    [
        (b'{"a":1} nonsense', 8, "not a JSON object"),
        (b'{"a":1}\n{"a":[1}', 8, "closes another"),
        (b'{"a":1}{"a":"never closed', 7, "ends inside it"),
        (b'{"a":1}12', 7, "not a JSON object"),
        (b'{"a":1}"text"', 7, "not a JSON object"),
    ],
)
def test_what_is_no_value_is_named_by_its_byte(content: bytes, position: int, reason: str) -> None:
    values = split_values([content])
    assert next(values) == [Value(b'{"a":1}', 0)]
    with pytest.raises(NotValues, match=reason) as raised:
        list(values)
    assert raised.value.position == position


def test_what_is_bad_can_be_skipped_to_the_next_line() -> None:
    values = found_in([b'{"n":1}\nnonsense {"n":2}\n{"n":3}\n{"n":[4}\n{"n":5}\n{"n":'], skip_bad=True)
    assert [value.text for value in values if isinstance(value, Value)] == [b'{"n":1}', b'{"n":3}', b'{"n":5}']
    assert sum(isinstance(value, NotValues) for value in values) == 3


def test_an_endless_value_is_not_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "VALUE_BYTES_MAX", 100)
    with pytest.raises(NotValues, match="does not end"):
        found_in([b"[" * 60] * 1000)
