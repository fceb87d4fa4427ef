"""ReportBatchItemFailures: the forms of response that were recorded from the service, through the whole engine.

Kinesis was recorded with batches of one record and two retries, DynamoDB with batches of three and three retries, so
the same is run here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from delivery_rig import KINDS, Delivered, deliver
from trio.testing import trio_test

REPORTING: dict[str, Any] = {"function_response_types": ["ReportBatchItemFailures"]}
RECORDED: dict[str, dict[str, Any]] = {
    "kinesis": {"batch_size": 1, "maximum_retry_attempts": 2, **REPORTING},
    "dynamodb": {"batch_size": 3, "maximum_retry_attempts": 3, **REPORTING},
}
DELIVERIES = {"kinesis": 3, "dynamodb": 4}


async def answering(tmp_path: Path, kind: str, answer: object, **options: Any) -> Delivered:
    """One batch, as it was recorded, and a function that answers this."""
    data = [str(number) for number in range(RECORDED[kind]["batch_size"])]
    environment = {"ANSWER": json.dumps(answer)}
    return await deliver(tmp_path, kind, "answering.answers", data, environment=environment, **RECORDED[kind] | options)


def one(failure: object) -> object:
    return {"batchItemFailures": [failure]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            "",
            id="an-empty-string",
            marks=pytest.mark.conformance(
                "responses/empty-string",
                source="recorded",
                rule="An empty string means that the whole batch succeeded.",
            ),
        ),
        pytest.param(
            [],
            id="an-empty-list",
            marks=pytest.mark.conformance(
                "responses/empty-list", source="recorded", rule="An empty list means that the whole batch succeeded."
            ),
        ),
        pytest.param(
            None,
            id="null",
            marks=pytest.mark.conformance(
                "responses/null",
                source="recorded",
                rule="null, which is no return value, means that the whole batch succeeded.",
            ),
        ),
        pytest.param(
            {},
            id="an-empty-object",
            marks=pytest.mark.conformance(
                "responses/empty-object",
                source="recorded",
                rule="An empty object means that the whole batch succeeded.",
            ),
        ),
        pytest.param(
            {"batchItemFailures": []},
            id="no-failures",
            marks=pytest.mark.conformance(
                "responses/no-failures",
                source="recorded",
                rule="An empty batchItemFailures means that the whole batch succeeded.",
            ),
        ),
        pytest.param(
            {"batchItemFailures": None},
            id="null-failures",
            marks=pytest.mark.conformance(
                "responses/null-failures",
                source="recorded",
                rule="A null batchItemFailures means that the whole batch succeeded.",
            ),
        ),
    ],
)
@trio_test
async def test_this_answer_is_a_whole_success(tmp_path: Path, kind: str, answer: object) -> None:
    delivered = await answering(tmp_path, kind, answer)
    assert len(delivered.invocations) == 1
    assert (delivered.result.records, delivered.result.discarded) == (RECORDED[kind]["batch_size"], 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            one({"itemIdentifier": 123}),
            id="an-identifier-that-is-a-number",
            marks=pytest.mark.conformance(
                "responses/number-as-identifier",
                source="recorded",
                rule="An itemIdentifier that is a number, or not of the batch, fails the whole batch.",
            ),
        ),
        pytest.param(
            one({"itemIdentifier": "49590338271490256608559692538361571095921575989136588898"}),
            id="an-identifier-that-is-not-of-the-batch",
            marks=pytest.mark.conformance("responses/number-as-identifier"),
        ),
        pytest.param(
            one({"itemIdentifier": ""}),
            id="an-empty-identifier",
            marks=pytest.mark.conformance(
                "responses/empty-identifier", source="recorded", rule="An empty itemIdentifier fails the whole batch."
            ),
        ),
        pytest.param(
            one({"itemIdentifier": None}),
            id="a-null-identifier",
            marks=pytest.mark.conformance(
                "responses/null-identifier", source="recorded", rule="A null itemIdentifier fails the whole batch."
            ),
        ),
        pytest.param(
            one({"foo": 123}),
            id="a-wrong-key",
            marks=pytest.mark.conformance(
                "responses/wrong-key",
                source="recorded",
                rule="A batch item failure under another key, whatever its value, fails the whole batch.",
            ),
        ),
        pytest.param(
            one({"foo": None}), id="a-wrong-key-with-null", marks=pytest.mark.conformance("responses/wrong-key")
        ),
    ],
)
@trio_test
async def test_this_answer_fails_the_whole_batch(tmp_path: Path, kind: str, answer: object) -> None:
    delivered = await answering(tmp_path, kind, answer)
    size = RECORDED[kind]["batch_size"]
    assert delivered.batches == [[str(number) for number in range(size)]] * DELIVERIES[kind]
    assert delivered.result.discarded == size


@pytest.mark.conformance(
    "responses/exception",
    source="recorded",
    rule="With ReportBatchItemFailures, too, a function that raises fails the whole batch.",
)
@pytest.mark.parametrize("kind", KINDS)
@trio_test
async def test_an_exception_fails_the_whole_batch(tmp_path: Path, kind: str) -> None:
    data = [str(number) for number in range(RECORDED[kind]["batch_size"])]
    delivered = await deliver(tmp_path, kind, "answering.raises", data, **RECORDED[kind])
    assert delivered.batches == [data] * DELIVERIES[kind]


@pytest.mark.conformance("responses/lowest")
@pytest.mark.parametrize("kind", KINDS)
@trio_test
async def test_the_lowest_reported_record_is_where_it_goes_on(tmp_path: Path, kind: str) -> None:
    delivered = await deliver(
        tmp_path, kind, "answering.reports", ["a", "b", "c", "d"], environment={"FAILING": '["b", "d"]'},
        batch_size=4, maximum_retry_attempts=1, **REPORTING,
    )  # fmt: skip
    assert delivered.batches == [["a", "b", "c", "d"], ["b", "c", "d"], ["b", "c", "d"]]
    assert delivered.result.discarded == 3


@pytest.mark.conformance("retries/fresh-after-progress")
@pytest.mark.parametrize("kind", KINDS)
@trio_test
async def test_a_partial_success_begins_the_count_of_attempts_anew(tmp_path: Path, kind: str) -> None:
    delivered = await deliver(
        tmp_path, kind, "answering.reports", ["1", "2", "3", "4", "5", "6"], environment={"FAILING": '["6"]'},
        batch_size=3, maximum_retry_attempts=3, **REPORTING,
    )  # fmt: skip
    assert delivered.batches == [["1", "2", "3"], ["4", "5", "6"], *[["6"]] * 4]
    assert delivered.result.discarded == 1


@pytest.mark.conformance(
    "responses/empty-body",
    source="recorded",
    rule="A function that posts no body at all has succeeded; so it is with ReportBatchItemFailures, where that was "
    "not recorded.",
)
@pytest.mark.parametrize("options", [{}, REPORTING], ids=["without-reports", "with-reports"])
@trio_test
async def test_an_empty_body_is_a_success(tmp_path: Path, options: dict[str, Any]) -> None:
    delivered = await deliver(tmp_path, "kinesis", "answering.posts_nothing", ["a"], **options)
    assert len(delivered.invocations) == 1


@pytest.mark.conformance(
    "responses/feature-off",
    source="documented",
    rule="Without ReportBatchItemFailures what a function returns is not looked at.",
)
@trio_test
async def test_without_the_feature_reports_mean_nothing(tmp_path: Path) -> None:
    delivered = await answering(tmp_path, "kinesis", one({"itemIdentifier": ""}), function_response_types=[])
    assert len(delivered.invocations) == 1
    assert delivered.result.discarded == 0


@pytest.mark.conformance(
    "responses/no-response",
    source="ours",
    rule="What is neither an object with a list, nor empty, nor null, fails the whole batch: nothing in it says that a "
    "record was done. Other members of an object are not looked at.",
)
@pytest.mark.parametrize(
    ("answer", "succeeds"), [("done", False), (1, False), ([1], False), ({"statusCode": 200}, True)]
)
@trio_test
async def test_an_answer_that_is_no_response_fails_the_whole_batch(
    tmp_path: Path, answer: object, succeeds: bool
) -> None:
    delivered = await answering(tmp_path, "kinesis", answer)
    assert len(delivered.invocations) == (1 if succeeds else 3)
