"""Tumbling windows in events and responses."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn.events.partial import Failed, Partly, Whole
from streamfn.events.response import marshal
from streamfn.events.window import document, judge, room
from streamfn.limits import EVENT_BYTES_MAX, WINDOW_STATE_BYTES_MAX
from streamfn.types import Envelope

ARN = "arn:aws:kinesis:us-east-1:123456789012:stream/lambda-stream"
MINUTES = Envelope(1_607_497_440_000, 1_607_497_560_000, b'{"1": 282, "2": 715}', False, False)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.conformance(
    "windows/event",
    source="documented",
    rule="Beside Records an event has window (start, end), state, shardId, eventSourceARN, "
    "isFinalInvokeForWindow and isWindowTerminatedEarly, in this order.",
)
def test_the_keys_and_their_order_are_those_of_the_developer_guide() -> None:
    beside = json.loads(document(MINUTES, "shardId-000000000006", ARN))
    assert list(beside.items()) == [
        ("window", {"start": "2020-12-09T07:04:00Z", "end": "2020-12-09T07:06:00Z"}),
        ("state", {"1": 282, "2": 715}),
        ("shardId", "shardId-000000000006"),
        ("eventSourceARN", ARN),
        ("isFinalInvokeForWindow", False),
        ("isWindowTerminatedEarly", False),
    ]
    early = json.loads(document(MINUTES._replace(is_terminated_early=True), "s", ARN))
    assert (early["isFinalInvokeForWindow"], early["isWindowTerminatedEarly"]) == (False, True)
    final = json.loads(document(MINUTES._replace(is_final=True), "s", ARN))
    assert (final["isFinalInvokeForWindow"], final["isWindowTerminatedEarly"]) == (True, False)


def test_room_is_kept_for_the_largest_state() -> None:
    state = b'{"a":"' + b"x" * (WINDOW_STATE_BYTES_MAX - 8) + b'"}'
    beside = document(MINUTES._replace(state=state, is_final=True), "shardId-000000000006", ARN)
    assert len(beside) <= room("shardId-000000000006", ARN)


@given(st.dictionaries(st.text(), VALUES), st.dictionaries(st.text(), VALUES, max_size=3))
def test_a_state_comes_back_as_it_was_returned(state: dict[str, object], others: dict[str, object]) -> None:
    others.pop("batchItemFailures", None)
    payload = marshal({"before": 1, **others, "state": state, "after": [{"state": {}}]})
    verdict, carried = judge(payload, ())
    assert verdict == Whole()
    again = json.loads(document(MINUTES._replace(state=carried), "s", ARN))["state"]
    assert repr(again) == repr(json.loads(json.dumps(state)))  # repr: NaN is not itself


def test_numbers_keep_their_digits() -> None:
    _, carried = judge(b'{"state": {"n": 123456789012345678901234567890, "x": 0.10}}', None)
    assert carried == b'{"n": 123456789012345678901234567890, "x": 0.10}'


@pytest.mark.conformance(
    "windows/state-is-required",
    source="documented",
    rule="A response without an object `state` counts as failed; also that of a final invocation.",
)
@pytest.mark.parametrize(
    "payload",
    [
        b"", b"null", b"[]", b"{}", b'""', b"1", b'{"batchItemFailures": []}', b'{"state": null}', b'{"state": []}',
        b'{"state": "{}"}', b'{"State": {}}', b'{"state": {}', b'{"state": {}} {}', b'{"state": {},}', b'{"state" {}}',
        b'{state: {}}', b'{"state": {}, 1: 2}', b'{"state": }', b"\xff", b'[{"state": {}}]',
        b'{"a": "\xff", "state": {}}',
        b"[" * 100_000, b'{"state":' * 100_000, b'{"state": {"a": 01}}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("numbers", [None, ("1", "2")])
def test_a_response_without_an_object_state_counts_as_failed(payload: bytes, numbers: tuple[str, ...] | None) -> None:
    verdict, _ = judge(payload, numbers)
    assert isinstance(verdict, Failed)
    assert verdict.reason


def test_white_space_and_doubled_keys_are_read_as_json_reads_them() -> None:
    assert judge(b' { "state" : {"a": 1} , "state" :\n{"b": 2} } ', None) == (Whole(), b'{"b": 2}')


@pytest.mark.conformance(
    "windows/item-failures",
    source="documented",
    rule="batchItemFailures may come with the state, and means something with ReportBatchItemFailures only.",
)
def test_item_failures_come_with_a_state_and_mean_nothing_unless_they_are_asked_for() -> None:
    payload = b'{"state": {"n": 1}, "batchItemFailures": [{"itemIdentifier": "12"}]}'
    assert judge(payload, ["11", "12", "13"]) == (Partly(1), b'{"n": 1}')
    assert isinstance(judge(payload, ["12", "13"])[0], Failed)
    assert isinstance(judge(payload, [])[0], Failed)
    assert judge(payload, None) == (Whole(), b'{"n": 1}')
    assert judge(b'{"state": {}, "batchItemFailures": null}', ["11"]) == (Whole(), b"{}")
    assert isinstance(judge(b'{"state": {}, "batchItemFailures": [{"foo": 1}]}', ["11"])[0], Failed)


def test_a_state_that_would_not_fit_into_any_event_counts_as_failed() -> None:
    beyond, most = b'{"a":"' + b"x" * EVENT_BYTES_MAX + b'"}', b'{"a":"' + b"x" * (EVENT_BYTES_MAX - 2048) + b'"}'
    assert isinstance(judge(b'{"state":' + beyond + b"}", None)[0], Failed)
    verdict, carried = judge(b'{"state":' + most + b"}", None)
    assert verdict == Whole()
    arn = "arn:aws:kinesis:us-east-1:123456789012:stream/" + "n" * 128
    assert len(document(MINUTES._replace(state=carried), "s" * 127, arn)) + len('{"Records":[]') <= EVENT_BYTES_MAX
