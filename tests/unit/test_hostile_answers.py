"""Whatever bytes a worker's answer has, it is judged: a handler can write anything into its own rings."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamfn.events import partial, window
from streamfn.mapping.outcome import fault_of
from streamfn.pool.inits import import_error
from streamfn.pool.lane import Answer, FailureKind
from streamfn.types import Fault

NUMBERS = ["1", "2", "3"]
names = st.sampled_from(
    ["batchItemFailures", "itemIdentifier", "state", "errorType", "errorMessage", "stackTrace", "x"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(NUMBERS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
payloads = st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode())

DEEP = [b"[" * depth + b"]" * depth for depth in (900, 1023, 1024, 100_000)]
DEEP += [
    b'{"errorType":%s,"errorMessage":%s,"batchItemFailures":%s,"state":%s}' % (deep, deep, deep, deep) for deep in DEEP
]
ODD = [
    b"",
    b"null",
    b"\xff",
    b'{"errorType":1,"errorMessage":2}',
    b"1" * 5000,
    b'{"a":' + b"9" * 5000 + b"}",
    b'"\\ud800"',
]


def answer(payload: bytes) -> Answer:
    return Answer(invocation=1, records=3, submitted_ns=1, started_ns=2, finished_ns=3, payload=payload, log=b"")


def judge_everywhere(payload: bytes) -> None:
    verdict = partial.judge(payload, NUMBERS)
    assert not isinstance(verdict, partial.Partly) or 0 < verdict.done < len(NUMBERS)
    assert isinstance(partial.is_whole(payload), bool)
    for numbers in (NUMBERS, [], None):
        found, state = window.judge(payload, numbers)
        assert isinstance(found, partial.Failed) or state.startswith(b"{")
    fault = fault_of(answer(payload), FailureKind.HANDLER, "request", 3.0)
    assert isinstance(fault, Fault)
    assert isinstance(fault.error_type, str)
    assert isinstance(fault.message, str)
    error = import_error(payload.decode("latin-1"))
    assert isinstance(str(error), str)
    for name, value in error.document.items():
        of_texts = name == "stackTrace" and all(isinstance(frame, str) for frame in value)
        assert of_texts or isinstance(value, str)


@given(payloads)
@example(b'{"batchItemFailures":[{"itemIdentifier":"2"}],"state":{}}')
def test_any_answer_is_judged(payload: bytes) -> None:
    judge_everywhere(payload)


@pytest.mark.parametrize("payload", DEEP + ODD, ids=lambda payload: f"{payload[:14]!r} {len(payload)}")
def test_what_is_nested_too_deeply_or_odd_is_judged(payload: bytes) -> None:
    judge_everywhere(payload)
