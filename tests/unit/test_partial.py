"""What a response with ReportBatchItemFailures means for its batch."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfn._native import lib
from streamfn.events.partial import Failed, Partly, Whole, is_whole, judge
from streamfn.events.response import marshal
from streamfn.mapping.worker import _outcomes

# Of two lengths: the numbers of a shard are compared as integers, not as texts.
NUMBERS = ["98", "99", "100", "101"]


def reporting(*identifiers: object) -> bytes:
    return marshal({"batchItemFailures": [{"itemIdentifier": each} for each in identifiers]})


@pytest.mark.parametrize(
    "response",
    [None, "", [], {}, {"batchItemFailures": []}, {"batchItemFailures": None}, b"", {"statusCode": 200}],
    ids=repr,
)
def test_these_say_that_all_of_it_is_done(response: object) -> None:
    assert judge(marshal(response), NUMBERS) == Whole()
    assert is_whole(marshal(response))


@pytest.mark.parametrize(
    ("failures", "reason"),
    [
        ([{"itemIdentifier": 123}], "an itemIdentifier is a number, not a sequence number"),
        ([{"itemIdentifier": 99}], "an itemIdentifier is a number, not a sequence number"),
        ([{"itemIdentifier": ""}], "the itemIdentifier '' is not of the batch"),
        ([{"itemIdentifier": None}], "an itemIdentifier is null, not a sequence number"),
        ([{"itemIdentifier": "102"}], "the itemIdentifier '102' is not of the batch"),
        ([{"itemIdentifier": "099"}], "the itemIdentifier '099' is not of the batch"),
        ([{"foo": 123}], "a batch item failure has no itemIdentifier"),
        ([{"foo": None}], "a batch item failure has no itemIdentifier"),
        (["99"], "a batch item failure has no itemIdentifier"),
        ([{"itemIdentifier": "99"}, {"itemIdentifier": "7"}], "the itemIdentifier '7' is not of the batch"),
        ([{"itemIdentifier": "98"}], "the batch's first record was reported"),
        ({"itemIdentifier": "99"}, "batchItemFailures is an object, not a list"),
        ("99", "batchItemFailures is a text, not a list"),
        (False, "batchItemFailures is a boolean, not a list"),
    ],
    ids=repr,
)
def test_these_fail_the_whole_batch(failures: object, reason: str) -> None:
    payload = marshal({"batchItemFailures": failures})
    assert judge(payload, NUMBERS) == Failed(reason)
    assert not is_whole(payload)


@pytest.mark.parametrize("payload", [b"done", b'"ok"', b"1", b"true", b"[1]", b"\xff", b"[" * 5000, b"NaN"])
def test_what_is_no_response_at_all_fails_the_whole_batch(payload: bytes) -> None:
    assert isinstance(judge(payload, NUMBERS), Failed)
    assert not is_whole(payload)


def test_everything_before_the_lowest_reported_record_is_done() -> None:
    assert judge(reporting("101"), NUMBERS) == Partly(3)
    assert judge(reporting("101", "99", "100"), NUMBERS) == Partly(1)
    assert judge(reporting("100", "100"), NUMBERS) == Partly(2)


def test_of_two_records_with_one_number_the_first_one_counts() -> None:
    """A captured stream may hold one twice; delivering one again is allowed, skipping one is not."""
    assert judge(reporting("99"), ["98", "99", "99", "100"]) == Partly(1)


def test_other_members_do_not_matter() -> None:
    payload = b'{"a":[{}],"batchItemFailures":[{"error":"no","itemIdentifier":"99"}]}'
    assert judge(payload, NUMBERS) == Partly(1)


names = st.sampled_from(["batchItemFailures", "itemIdentifier", "foo"])
scalars = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(NUMBERS)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=8)


@given(values)
def test_the_worker_calls_certain_success_what_the_mapping_calls_whole(response: object) -> None:
    """What it lets pass is never looked at again, so it must not let pass more, whatever the batch is."""
    payload = json.dumps(response).encode()
    outcome_of = _outcomes("batch_item_failures")
    assert outcome_of is not None
    assert (outcome_of(payload) == lib.SF_OK) == isinstance(judge(payload, NUMBERS), Whole)


def test_without_a_judge_every_response_is_success_and_with_windows_none_is() -> None:
    assert _outcomes(None) is None
    in_windows = _outcomes("window")
    assert in_windows is not None
    assert in_windows(b'{"state": {}}') == lib.SF_PARTLY
