"""Rows of a log that random filters select, metadata by whole columns and data row by row, against the pure filters."""

from __future__ import annotations

import json
import random

import pytest
from filter_rig import expected, selected, some_changes, stream_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_filter_model import LISTS, PATTERNS

from streamfn.types import NewRecord

SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = ["", "a", "A", "ab", "aB", "b", "ba", "aba", "1", "10.0.0.1", "::1"]


def some_json(draw: random.Random, depth: int = 3) -> object:
    kind = draw.randrange(6 if depth else 4)
    if kind == 4:
        return {
            draw.choice(["a", "b", "A", "d.a", "d.b"]): some_json(draw, depth - 1) for _ in range(draw.randrange(4))
        }
    if kind == 5:
        return [some_json(draw, depth - 1) for _ in range(draw.randrange(4))]
    return draw.choice([draw.choice(TEXTS), draw.choice([0, 1, -1, 2.5, 300, 300.0]), None, True, False])


@pytest.fixture(scope="module")
def records(tmp_path_factory):  # type: ignore[no-untyped-def]
    draw = random.Random(7)
    made = []
    for number in range(240):
        data = json.dumps(some_json(draw)) if draw.random() < 0.9 else draw.choice(["", "text", "{", "\ufeff1"])
        made.append(NewRecord(data.encode(), draw.choice(TEXTS[1:]), number))
    return stream_of(tmp_path_factory.mktemp("records"), made, chunk=29)


@pytest.fixture(scope="module")
def changes(tmp_path_factory):  # type: ignore[no-untyped-def]
    return stream_of(tmp_path_factory.mktemp("changes"), some_changes(240), kind="dynamodb", chunk=29)


KINESIS = st.recursive(
    st.one_of(
        st.fixed_dictionaries({"partitionKey": LISTS}),
        st.fixed_dictionaries({"data": PATTERNS}),
        st.fixed_dictionaries({"partitionKey": LISTS, "data": PATTERNS}),
    ),
    lambda inner: st.lists(inner, min_size=2, max_size=3).map(lambda branches: {"$or": branches}),
    max_leaves=4,
)

NAMES = st.lists(
    st.sampled_from(["INSERT", "MODIFY", "REMOVE", {"anything-but": "INSERT"}, {"prefix": "I"}]), min_size=1
)
ATTRIBUTE = st.one_of(
    st.fixed_dictionaries({"kind": st.fixed_dictionaries({"S": st.lists(st.sampled_from("xyz"), min_size=1)})}),
    st.just({"n": {"N": [{"prefix": "1"}]}}),
    st.just({"n": {"N": [{"exists": False}]}}),
    st.just({"kind": [{"exists": False}]}),
)
IN_DYNAMODB = st.fixed_dictionaries(
    {},
    optional={
        "Keys": st.just({"id": {"S": [{"suffix": "7"}]}}),
        "NewImage": ATTRIBUTE,
        "OldImage": ATTRIBUTE,
        "SizeBytes": st.just([{"numeric": [">", 40]}]),
        "ApproximateCreationDateTime": st.just([{"numeric": ["<", 1_733_418_659.12]}]),
        "StreamViewType": st.just(["NEW_AND_OLD_IMAGES"]),
    },
).filter(bool)
DYNAMODB = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "eventName": NAMES,
            "eventSource": st.sampled_from([["aws:dynamodb"], ["aws:kinesis"]]),
            "userIdentity": st.just({"type": [{"exists": False}, "Service"]}),
            "dynamodb": IN_DYNAMODB,
        },
    ).filter(bool),
    lambda inner: st.lists(inner, min_size=2, max_size=3).map(lambda branches: {"$or": branches}),
    max_leaves=4,
)  # fmt: skip


@SETTINGS
@given(patterns=st.lists(KINESIS, min_size=1, max_size=3))
def test_rows_of_records_are_those_of_the_pure_filters(records, patterns):  # type: ignore[no-untyped-def]
    assert selected(records, patterns) == expected(records, patterns)


@SETTINGS
@given(patterns=st.lists(DYNAMODB, min_size=1, max_size=3))
def test_rows_of_changes_are_those_of_the_pure_filters(changes, patterns):  # type: ignore[no-untyped-def]
    assert selected(changes, patterns) == expected(changes, patterns)
