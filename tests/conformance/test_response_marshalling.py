"""Responses against AWS's own runtime client: the installed awslambdaric, with and without ASCII escapes."""

from __future__ import annotations

import enum
import math
import sys
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from decimal import Decimal
from typing import Any

import pytest
from awslambdaric.lambda_runtime_exception import FaultException
from awslambdaric.lambda_runtime_marshaller import LambdaMarshaller
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamfn.events.response import ASCII_ONLY, MarshalError, marshal

Point = namedtuple("Point", ["x", "y"])


class Colour(enum.IntEnum):
    RED = 3


class Shouting(str):
    def __str__(self) -> str:
        return self.upper()


class Loud(int):
    def __repr__(self) -> str:
        return "loud"

    __str__ = __repr__


class LoudFloat(float):
    def __repr__(self) -> str:
        return "loud"


class Row:
    def _asdict(self) -> dict[str, object]:
        return {"row": [Point(1, "é")]}


class Broken:
    def _asdict(self) -> dict[str, object]:
        raise RuntimeError("no dict today")


class TupleWithoutAsDict(tuple[int, ...]):
    def _asdict(self, needed: int) -> dict[str, object]:
        return {"needed": needed}


class WrongAsDict:
    def _asdict(self) -> list[int]:
        return [1]


class ListWithAsDict(list[object]):
    def _asdict(self) -> dict[str, object]:
        return {"n": len(self)}


def reference(monkeypatch: pytest.MonkeyPatch, ascii_only: bool) -> LambdaMarshaller:
    version = "3.11" if ascii_only else "3.13"
    monkeypatch.setenv("AWS_EXECUTION_ENV", f"AWS_Lambda_python{version}")
    return LambdaMarshaller()


def expected(marshaller: LambdaMarshaller, value: object) -> tuple[bytes | None, str | None]:
    """What the client would post, or the text of its MarshalError."""
    try:
        result, _content_type = marshaller.marshal_response(value)
    except FaultException as fault:
        return None, fault.msg
    return (result if isinstance(result, bytes) else result.encode("utf-8")), None


def ours(value: object, ascii_only: bool) -> tuple[bytes | None, str | None]:
    try:
        return marshal(value, ascii_only=ascii_only), None
    except MarshalError as error:
        return None, str(error)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters(exclude_categories=["Cs"]))
    | st.binary(max_size=6)
    | st.decimals()
    | st.sampled_from([Colour.RED, Shouting("loud"), Loud(7), LoudFloat(1.5), Decimal("sNaN"), Row(), object])
)
keys = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=2)
keys |= st.sampled_from([Colour.RED, Shouting("k"), Decimal(1), (1,)])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict)
        | st.builds(Point, inner, inner)
        | st.lists(inner, max_size=3).map(ListWithAsDict)
    ),
    max_leaves=12,
)
failed_items = st.lists(st.fixed_dictionaries({"itemIdentifier": st.text() | st.none()}))
failures = st.fixed_dictionaries({"batchItemFailures": st.none() | failed_items})
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(params=[True, False], ids=["ascii", "unicode"])
def ascii_only(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("strategy", [values, failures, plain], ids=["anything", "failures", "plain"])
def test_every_response_is_marshalled_as_the_runtime_client_does(
    strategy: st.SearchStrategy[object], ascii_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    marshaller = reference(monkeypatch, ascii_only)

    @settings(max_examples=250, deadline=None)
    @given(strategy)
    @example('\x00\x1f\x7f"\\/\u2028\u2029\ud7ffé😀<>&')
    def check(value: object) -> None:
        try:
            wanted = expected(marshaller, value)
        except UnicodeEncodeError:  # the client falls over outside its marshaller; we have a text for it
            wanted = None, ours(value, ascii_only)[1]
            assert (wanted[1] or "").startswith("Unable to marshal response: 'utf-8' codec can't encode")
        assert ours(value, ascii_only) == wanted

    check()


cycle: list[Any] = []
cycle.append(cycle)
cyclic_dict: dict[str, Any] = {}
cyclic_dict["self"] = {"again": cyclic_dict}
nested: list[Any] = []
for _ in range(400):
    nested = [nested]
shared = [1, 2]

CASES: dict[str, object] = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "big": 2**70,
    "too big to print": 10**5000,
    "short": "ok",
    "empty": "",
    "no failures": {"batchItemFailures": []},
    "no failures, tuple": {"batchItemFailures": ()},
    "no failures, none": {"batchItemFailures": None},
    "no failures, subclass": defaultdict(list, batchItemFailures=[]),
    "one failure": {"batchItemFailures": [{"itemIdentifier": "4959"}]},
    "more beside": {"batchItemFailures": [], "statusCode": 200},
    "bytes": b"\xff raw",
    "bytes inside": {"b": b"text", b"k": [b""]},
    "bad bytes inside": {"b": b"\xff"},
    "bad bytes key": {b"\xff": 1},
    "floats": [math.nan, math.inf, -math.inf, -0.0, 1e22, 1e-7],
    "float keys": {math.nan: 1, math.inf: 2, 1.5: 3},
    "decimals": [Decimal("1.10"), Decimal("1E+3"), Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity")],
    "namedtuple": {"p": Point(1, [Point(2, 3)])},
    "enum": [Colour.RED, {Colour.RED: 1}],
    "str subclass": [Shouting("loud"), {Shouting("key"): 1}],
    "int subclass": [Loud(1), LoudFloat(2.5)],
    "asdict": Row(),
    "asdict raises": [Broken()],
    "asdict not callable so": [TupleWithoutAsDict((1, 2))],
    "asdict no dict": [WrongAsDict()],
    "list with asdict": ListWithAsDict([1]),
    "set": {1, 2},
    "object inside": {"a": [object()]},
    "complex": 1j,
    "bytearray": bytearray(b"x"),
    "bytearray inside": [bytearray(b"x")],
    "generator": (i for i in range(3)),
    "user dict": UserDict(a=1),
    "class": Point,
    "tuple key": {(1, 2): 3},
    "decimal key": {Decimal(1): 2},
    "cycle": cycle,
    "cyclic dict": cyclic_dict,
    "nested": nested,
    "shared, no cycle": [shared, {"again": shared}, shared],
    "ellipsis": ...,
}


@pytest.mark.conformance(
    "responses/marshalling",
    source="documented",
    rule="What a handler returns becomes the bytes that AWS's own runtime client, awslambdaric, would post, "
    "or its Runtime.MarshalError.",
)
@pytest.mark.parametrize("name", CASES)
def test_this_response_is_marshalled_as_the_runtime_client_does(
    name: str, ascii_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = CASES[name]
    assert ours(value, ascii_only) == expected(reference(monkeypatch, ascii_only), value)


def test_a_response_too_deep_to_write_is_a_marshal_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(MarshalError, match=r"Unable to marshal response: .*recursion"):
        marshal(deep)


def test_escapes_follow_the_running_python() -> None:
    assert (sys.version_info < (3, 12)) == ASCII_ONLY
    assert marshal("é") == (b'"\\u00e9"' if ASCII_ONLY else '"é"'.encode())
