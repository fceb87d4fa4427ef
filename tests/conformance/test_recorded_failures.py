"""Failure handling as recorded from the service, and as its documents have it: one test a case, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from streamfn.core.backoff import Backoff
from streamfn.testing import (
    Dies,
    Raises,
    Returns,
    Script,
    Throttled,
    TimesOut,
    VirtualClock,
    change,
    record,
    run_mapping,
)
from streamfn.testing.builders import START_MS

ERROR = Raises(ValueError("no"))
REPORT = ("ReportBatchItemFailures",)


def number(each: Any) -> str:
    """The sequence number of a record of either kind."""
    return str(each["kinesis"]["sequenceNumber"] if "kinesis" in each else each["dynamodb"]["SequenceNumber"])


def numbers(event: Any) -> list[str]:
    """The sequence numbers of an event's records."""
    return [number(each) for each in event["Records"]]


def six(kind: str) -> list[Any]:
    """Six records."""
    if kind == "kinesis":
        return [str(number) for number in range(6)]
    return [change("INSERT", {"id": {"N": str(number)}}) for number in range(6)]


@pytest.mark.conformance("retries/fresh-after-progress")
@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_progress_resets_the_retry_counter(kind: str) -> None:
    def handler(event: Any, context: Any) -> Any:
        sizes.append(len(event["Records"]))
        sixth = [each for each in event["Records"] if "NQ==" in str(each) or "'5'" in str(each)]
        return {"batchItemFailures": [{"itemIdentifier": number(each)} for each in sixth]}

    sizes: list[int] = []
    result = run_mapping(handler, six(kind), batch_size=3, maximum_retry_attempts=3, function_response_types=REPORT)
    assert sizes == [3, 3, 1, 1, 1, 1]
    told = result.failure_records[0]
    assert told["requestContext"]["approximateInvokeCount"] == 4
    assert told["KinesisBatchInfo" if kind == "kinesis" else "DDBStreamBatchInfo"]["batchSize"] == 1


@pytest.mark.conformance(
    "retries/limit",
)
@pytest.mark.parametrize(("retries", "invocations"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_n_retries_are_n_and_one_invocations(retries: int, invocations: int) -> None:
    result = run_mapping(Script(then=ERROR), ["a", "b"], maximum_retry_attempts=retries)
    assert [batch.attempt for batch in result.batches] == list(range(1, invocations + 1))
    assert {batch.sequence_numbers for batch in result.batches} == {result.batches[0].sequence_numbers}
    (told,) = result.failure_records
    assert told["requestContext"]["approximateInvokeCount"] == invocations
    assert told["requestContext"]["condition"] == "RetryAttemptsExhausted"


@pytest.mark.conformance("retries/unlimited")
def test_without_a_limit_a_batch_is_tried_until_the_stream_trims_it() -> None:
    tried = run_mapping(Script(*[ERROR] * 30), ["a"])
    assert [batch.outcome for batch in tried.batches] == ["failed"] * 30 + ["succeeded"]
    gone = run_mapping(Script(then=ERROR), ["a", record("b", arrival_ms=START_MS + 7_200_000)], retention_seconds=3600)
    assert not gone.caught_up or gone.batches[-1].sequence_numbers != gone.batches[0].sequence_numbers


@pytest.mark.conformance("retries/pace")
def test_eight_invocations_fit_into_a_minute() -> None:
    counts = [
        len(run_mapping(Script(then=ERROR), ["a"], maximum_record_age_in_seconds=60, seed=seed).batches)
        for seed in range(20)
    ]
    assert 7 <= sum(counts) / len(counts) <= 9


@pytest.mark.conformance("retries/uncharged")
def test_throttles_use_up_no_attempt() -> None:
    script = Script(ERROR, *[Throttled()] * 5, ERROR, ERROR)
    result = run_mapping(script, ["a"], maximum_retry_attempts=2)
    assert [batch.attempt for batch in result.batches] == [1, 2, 2, 2, 2, 2, 2, 3]
    assert result.failure_records[0]["requestContext"]["approximateInvokeCount"] == 3


@pytest.mark.conformance("retries/process-end")
def test_a_timeout_and_a_death_are_failures() -> None:
    result = run_mapping(Script(TimesOut(), Dies(), Dies("signal: killed")), ["a"], maximum_retry_attempts=2)
    assert [batch.outcome for batch in result.batches] == ["timed out", "died", "died"]
    errors = [batch.error for batch in result.batches]
    assert errors[0] is not None
    assert errors[0]["errorType"] == "Sandbox.Timedout"
    assert errors[0]["errorMessage"].endswith("Error: Task timed out after 3.00 seconds")
    assert [each["errorType"] for each in errors[1:] if each] == ["Runtime.ExitError"] * 2
    assert result.failure_records[0]["responseContext"]["functionError"] == "Unhandled"


# ---- age


@pytest.mark.conformance("age/splits-a-batch")
def test_an_old_record_is_discarded_and_the_fresh_ones_are_delivered() -> None:
    records = [record("old", arrival_ms=START_MS - 100_000), *map(record, "abcde")]
    result = run_mapping(
        lambda event, context: None,
        records,
        batch_size=10,
        maximum_retry_attempts=0,
        maximum_record_age_in_seconds=60,
    )
    assert [len(batch.records) for batch in result.batches] == [5]
    (told,) = result.failure_records
    assert told["KinesisBatchInfo"]["batchSize"] == 1
    assert told["requestContext"]["condition"] == "RecordAgeExceeded"
    assert told["requestContext"]["approximateInvokeCount"] == 1


@pytest.mark.conformance("discards/record-of-an-aged-record")
def test_a_record_that_expires_while_it_is_retried_is_told_without_a_response() -> None:
    result = run_mapping(Script(then=ERROR), ["a"], maximum_record_age_in_seconds=60)
    (told,) = result.failure_records
    assert list(told) == ["requestContext", "version", "timestamp", "KinesisBatchInfo"]
    assert list(told["requestContext"]) == ["requestId", "functionArn", "condition", "approximateInvokeCount"]
    assert told["requestContext"]["approximateInvokeCount"] == len(result.batches)
    assert 60 <= result.discarded[0].at < 61


@pytest.mark.conformance("age/while-retrying")
def test_age_ends_retries_before_their_number_does() -> None:
    result = run_mapping(Script(then=ERROR), ["a"], maximum_retry_attempts=10_000, maximum_record_age_in_seconds=60)
    assert result.caught_up
    assert result.discarded[0].condition == "RecordAgeExceeded"
    assert 2 <= len(result.batches) < 100


# ---- bisect

POISON = "cG9pc29u"


def poisoned(event: Any, context: Any) -> None:
    """Fails whatever has the poison record in it."""
    if any(each["kinesis"]["data"] == POISON for each in event["Records"]):
        raise ValueError("poison")


@pytest.mark.conformance("bisect/halves")
@pytest.mark.conformance("bisect/budget")
def test_bisect_isolates_the_poison_record() -> None:
    records = [*"abcdefg", "poison", *"hijklmno"]
    result = run_mapping(poisoned, records, maximum_retry_attempts=2, bisect_batch_on_function_error=True)
    (discarded,) = result.discarded
    assert discarded.attempts == 3
    assert len(discarded.sequence_numbers) == 1
    sizes = [len(batch.records) for batch in result.batches]
    assert sizes == [16, 8, 4, 4, 2, 2, 1, 1, 1, 1, 8]
    succeeded = [
        number for batch in result.batches if batch.outcome == "succeeded" for number in batch.sequence_numbers
    ]
    assert len(succeeded) == len(set(succeeded)) == 15
    assert succeeded == sorted(succeeded)


@pytest.mark.conformance("bisect/partial-response")
def test_with_a_report_a_batch_is_split_where_it_says_and_an_exception_bisects() -> None:
    def report(event: Any) -> Any:
        return {"batchItemFailures": [{"itemIdentifier": numbers(event)[2]}]}

    result = run_mapping(
        Script(Returns(report), ERROR),
        list("abcdef"),
        bisect_batch_on_function_error=True,
        function_response_types=REPORT,
    )
    assert [len(batch.records) for batch in result.batches] == [6, 4, 2, 2]
    assert result.batches[1].sequence_numbers == result.batches[0].sequence_numbers[2:]


@pytest.mark.conformance("bisect/first-record-reported")
def test_a_response_that_fails_the_whole_batch_bisects_it() -> None:
    result = run_mapping(
        Script(Returns({"batchItemFailures": [{"itemIdentifier": ""}]})),
        list("abcd"),
        bisect_batch_on_function_error=True,
        function_response_types=REPORT,
    )
    assert [len(batch.records) for batch in result.batches] == [4, 2, 2]


# ---- responses: the recorded forms

SUCCESSES = ["", [], None, {}, {"batchItemFailures": []}, {"batchItemFailures": None}]
FAILURES = [
    {"batchItemFailures": [{"itemIdentifier": 123}]},
    {"batchItemFailures": [{"itemIdentifier": ""}]},
    {"batchItemFailures": [{"itemIdentifier": None}]},
    {"batchItemFailures": [{"foo": 123}]},
    {"batchItemFailures": [{"foo": None}]},
]


@pytest.mark.conformance("responses/whole-success")
@pytest.mark.parametrize("response", SUCCESSES, ids=repr)
@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_a_response_that_says_nothing_failed(kind: str, response: Any) -> None:
    result = run_mapping(Script(Returns(response)), six(kind), maximum_retry_attempts=2, function_response_types=REPORT)
    assert [batch.outcome for batch in result.batches] == ["succeeded"]
    assert not result.discarded


@pytest.mark.conformance("responses/whole-failure")
@pytest.mark.conformance("discards/record-of-a-response-failure")
@pytest.mark.parametrize("response", FAILURES, ids=repr)
@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_a_response_that_fails_the_whole_batch(kind: str, response: Any) -> None:
    result = run_mapping(
        Script(then=Returns(response)), six(kind), maximum_retry_attempts=2, function_response_types=REPORT
    )
    assert [len(batch.records) for batch in result.batches] == [6, 6, 6]
    context = result.failure_records[0]["responseContext"]
    assert context == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": None}


@pytest.mark.conformance("responses/lowest")
def test_the_lowest_reported_record_is_where_the_retry_begins() -> None:
    def report(event: Any) -> Any:
        return {"batchItemFailures": [{"itemIdentifier": numbers(event)[place]} for place in (4, 2, 5)]}

    result = run_mapping(Script(Returns(report)), list("abcdef"), function_response_types=REPORT)
    assert [batch.outcome for batch in result.batches] == ["partly", "succeeded"]
    assert result.batches[0].done == 2
    assert result.batches[1].sequence_numbers == result.batches[0].sequence_numbers[2:]


@pytest.mark.conformance("responses/remainder-discarded")
def test_what_is_left_of_a_batch_is_never_topped_up() -> None:
    def report(event: Any) -> Any:
        return {"batchItemFailures": [{"itemIdentifier": numbers(event)[1]}]}

    result = run_mapping(
        Script(Returns(report), ERROR),
        list("abcdef"),
        batch_size=3,
        maximum_retry_attempts=0,
        function_response_types=REPORT,
    )
    assert [len(batch.records) for batch in result.batches] == [3, 2, 3]
    assert result.discarded[0].sequence_numbers == result.batches[1].sequence_numbers


@pytest.mark.conformance("responses/feature-off")
@pytest.mark.parametrize("response", [*SUCCESSES, *FAILURES], ids=repr)
def test_without_the_option_every_response_is_a_success(response: Any) -> None:
    result = run_mapping(Script(Returns(response)), list("abc"), maximum_retry_attempts=0)
    assert [batch.outcome for batch in result.batches] == ["succeeded"]


# ---- on-failure records


@pytest.mark.conformance("discards/record-of-an-error")
@pytest.mark.conformance("discards/record-of-a-dynamodb-batch")
@pytest.mark.parametrize(
    ("kind", "info", "digits"), [("kinesis", "KinesisBatchInfo", 24), ("dynamodb", "DDBStreamBatchInfo", 20)]
)
def test_the_on_failure_record(kind: str, info: str, digits: int) -> None:
    result = run_mapping(Script(then=ERROR), six(kind), maximum_retry_attempts=0, function_name="clicks")
    (told,) = result.failure_records
    assert list(told) == ["requestContext", "responseContext", "version", "timestamp", info]
    assert told["requestContext"]["functionArn"] == "arn:aws:lambda:us-east-1:000000000000:function:clicks"
    assert told["requestContext"]["requestId"] == result.batches[-1].request_id
    assert told["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    assert list(told[info]) == [
        "shardId",
        "startSequenceNumber",
        "endSequenceNumber",
        "approximateArrivalOfFirstRecord",
        "approximateArrivalOfLastRecord",
        "batchSize",
        "streamArn",
    ]
    assert len(told[info]["approximateArrivalOfFirstRecord"]) == digits
    assert len(told["timestamp"]) == 24
    assert told[info]["startSequenceNumber"] == result.batches[0].sequence_numbers[0]
    assert told[info]["endSequenceNumber"] == result.batches[0].sequence_numbers[-1]


@pytest.mark.conformance(
    "discards/checkpoint-moves-past",
    source="documented",
    rule="After a discard the checkpoint moves past the batch, and delivery goes on behind it.",
)
def test_delivery_goes_on_behind_what_was_discarded() -> None:
    result = run_mapping(Script(ERROR), list("abc"), batch_size=1, maximum_retry_attempts=0)
    assert [batch.outcome for batch in result.batches] == ["failed", "succeeded", "succeeded"]
    assert result.checkpoints[-1].offset == 3


# ---- one shard waits, the others go on


@pytest.mark.conformance("lanes/one-waits")
@pytest.mark.conformance("lanes/checkpoint")
@pytest.mark.conformance("lanes/order-by-key")
def test_a_failing_lane_holds_up_no_other_and_keys_stay_in_order() -> None:
    clock = VirtualClock()
    seen: dict[str, list[str]] = {}

    def handler(event: Any, context: Any) -> None:
        clock.sleep(1)
        for each in event["Records"]:
            seen.setdefault(each["kinesis"]["partitionKey"], []).append(each["kinesis"]["sequenceNumber"])
        if clock.unix_ms() < START_MS + 10_000 and any(
            each["kinesis"]["partitionKey"] == "1" for each in event["Records"]
        ):
            raise ValueError("not yet")

    records = [record(str(number), partition_key=str(number % 8)) for number in range(64)]
    result = run_mapping(handler, records, batch_size=4, parallelization_factor=4, clock=clock, timeout_seconds=10)
    assert result.caught_up
    began = {batch.sequence_numbers: batch.started for batch in result.batches if batch.outcome == "failed"}
    assert began
    assert sum(batch.started < 10 and batch.outcome == "succeeded" for batch in result.batches) > 4
    assert result.checkpoints[0].at > 10 or result.checkpoints[0].offset <= 1
    for key, mine in seen.items():
        first = list(dict.fromkeys(mine))
        assert first == sorted(first), key


@pytest.mark.conformance("retries/only-the-shard-waits")
def test_while_a_batch_is_retried_the_other_shards_go_on() -> None:
    def handler(event: Any, context: Any) -> None:
        if event["Records"][0]["eventID"].startswith("shardId-000000000000"):
            raise ValueError("no")

    records = {"shardId-000000000000": ["a"], "shardId-000000000001": ["b", "c"]}
    result = run_mapping(handler, records, batch_size=1, maximum_retry_attempts=3, backoff=Backoff())
    other = [batch for batch in result.batches if batch.shard_id.endswith("1")]
    assert [batch.started for batch in other] == [0, 0]
    assert len(result.discarded) == 1


@pytest.mark.conformance("shards/parents-first")
def test_a_child_waits_for_its_parents() -> None:
    ids = [f"shardId-{number:012}" for number in range(3)]
    result = run_mapping(
        Script(ERROR, ERROR),
        {ids[0]: ["a"], ids[1]: ["b"], ids[2]: ["c"]},
        parents={ids[2]: [ids[0], ids[1]]},
    )
    assert [batch.shard_id for batch in result.batches][-1] == ids[2]
    child, parents = result.batches[-1], result.batches[:-1]
    assert child.started >= max(batch.ended for batch in parents)
