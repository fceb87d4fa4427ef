"""`streamfn.testing`: what a test of somebody's handler gets, and that it says what happens and nothing else."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamfn.core.backoff import Backoff
from streamfn.errors import RefusedError
from streamfn.testing import (
    Raises,
    Returns,
    Script,
    TimesOut,
    VirtualClock,
    change,
    dynamodb_event,
    kinesis_event,
    lambda_context,
    record,
    run_mapping,
)
from streamfn.testing.builders import START_MS
from streamfn.types import NewRecord

pytest_plugins = ("pytester",)

S = 1000


def data(event: Any) -> list[str]:
    return [base64.b64decode(each["kinesis"]["data"]).decode() for each in event["Records"]]


def only(pattern: str) -> dict[str, Any]:
    """Filter criteria of one pattern."""
    return {"Filters": [{"Pattern": pattern}]}


def at(seconds: float, text: str) -> NewRecord:
    """A record that arrives so long after the start."""
    return record(text, arrival_ms=START_MS + int(seconds * S))


# ---- events and contexts


def test_a_kinesis_event_is_made_of_texts_bytes_objects_and_records() -> None:
    event = kinesis_event(["text", b"\xff", {"a": 1}, record("own", "key", START_MS + 1)], stream="clicks")
    first, second, third, last = event["Records"]
    assert base64.b64decode(first["kinesis"]["data"]) == b"text"
    assert base64.b64decode(second["kinesis"]["data"]) == b"\xff"
    assert base64.b64decode(third["kinesis"]["data"]) == b'{"a":1}'
    assert last["kinesis"]["partitionKey"] == "key"
    assert last["kinesis"]["approximateArrivalTimestamp"] == 1_700_000_000.001
    assert last["eventSourceARN"] == "arn:aws:kinesis:us-east-1:000000000000:stream/clicks"
    numbers = [int(each["kinesis"]["sequenceNumber"]) for each in event["Records"]]
    assert numbers == sorted(set(numbers))
    assert len(str(numbers[0])) == 56


def test_a_dynamodb_event_is_made_of_changes() -> None:
    key = {"id": {"N": "42"}}
    event = dynamodb_event([change("MODIFY", key, new_image=key | {"s": {"S": "ab"}}, old_image=key)], table="things")
    (one,) = event["Records"]
    assert one["eventName"] == "MODIFY"
    assert one["dynamodb"]["NewImage"] == {"id": {"N": "42"}, "s": {"S": "ab"}}
    assert one["dynamodb"]["SizeBytes"] == 3 * 4 + 3
    assert len(one["eventID"]) == 32
    assert event == dynamodb_event(
        [change("MODIFY", key, new_image=key | {"s": {"S": "ab"}}, old_image=key)], table="things"
    )


def test_a_context_s_time_passes_on_its_clock_and_never_below_nothing() -> None:
    clock = VirtualClock()
    context = lambda_context("clicks", timeout_seconds=2, clock=clock)
    assert context.get_remaining_time_in_millis() == 2000
    clock.sleep(1.5)
    assert context.get_remaining_time_in_millis() == 500
    clock.sleep(1.5)
    assert context.get_remaining_time_in_millis() == 0
    assert context.function_name == "clicks"
    assert context.memory_limit_in_mb == "128"
    assert context.invoked_function_arn.endswith(":function:clicks")


# ---- a mapping in virtual time


@pytest.mark.conformance(
    "batches/no-window",
    source="documented",
    rule="Without a batching window a batch is sent as soon as there is anything to send.",
)
def test_batches_are_full_and_in_order_and_everything_is_checkpointed() -> None:
    result = run_mapping(lambda event, context: data(event), list("abcde"), batch_size=2)
    assert [batch.response for batch in result.batches] == [["a", "b"], ["c", "d"], ["e"]]
    assert [batch.outcome for batch in result.batches] == ["succeeded"] * 3
    assert result.caught_up
    assert result.checkpoints[-1].offset == 5
    assert result.seconds < 1


@pytest.mark.conformance(
    "batches/window",
    source="documented",
    rule="A batch that is not full waits for the batching window, 0 to 300 seconds, before it is sent.",
)
def test_a_batching_window_gathers_in_virtual_time() -> None:
    arrivals = [at(0, "a"), at(1, "b"), at(4, "c"), at(20, "d")]
    result = run_mapping(
        lambda event, context: data(event), arrivals, batch_size=100, maximum_batching_window_in_seconds=5
    )
    assert [(batch.started, batch.response) for batch in result.batches] == [(5, ["a", "b", "c"]), (20, ["d"])]


def test_a_handler_takes_time_by_sleeping_on_the_clock_and_its_context_follows() -> None:
    clock = VirtualClock()
    left: list[int] = []

    def handler(event: Any, context: Any) -> None:
        clock.sleep(2)
        left.append(context.get_remaining_time_in_millis())

    result = run_mapping(handler, list("ab"), batch_size=1, clock=clock, timeout_seconds=5)
    assert [(batch.started, batch.ended) for batch in result.batches] == [(0, 2), (2, 4)]
    assert left == [3000, 3000]


def test_a_handler_that_sleeps_past_its_timeout_is_ended_there() -> None:
    clock = VirtualClock()

    def handler(event: Any, context: Any) -> None:
        try:
            clock.sleep(100)
        except Exception:  # whatever a handler catches, the end of its time is not among it
            pytest.fail("a timeout is no exception of the handler's")

    result = run_mapping(handler, ["a"], clock=clock, timeout_seconds=3, maximum_retry_attempts=0)
    assert [(batch.ended, batch.outcome) for batch in result.batches] == [(3, "timed out")]


def test_a_script_plays_its_steps_and_then_succeeds() -> None:
    script = Script(Raises(KeyError("x")), TimesOut(), Returns({"n": 1}, seconds=0.5))
    result = run_mapping(script, ["a"], timeout_seconds=1)
    assert [batch.outcome for batch in result.batches] == ["failed", "timed out", "succeeded"]
    assert [batch.attempt for batch in result.batches] == [1, 2, 3]
    assert result.batches[0].error is not None
    assert result.batches[0].error["errorType"] == "KeyError"
    assert result.batches[2].response == {"n": 1}
    assert len(script.events) == 3
    assert script.events[0] == result.batches[0].event


def test_a_script_may_go_on_for_ever_in_one_way() -> None:
    result = run_mapping(Script(Returns(), then=Raises(ValueError())), list("ab"), batch_size=1, max_seconds=600)
    assert not result.caught_up
    assert result.seconds == 600
    assert {batch.outcome for batch in result.batches[1:]} == {"failed"}


def test_the_pace_of_retries_is_the_backoff_s() -> None:
    steady = Backoff(initial_ns=1_000_000_000, factor=1, max_ns=1_000_000_000)
    result = run_mapping(Script(*[Raises(ValueError())] * 9), ["a"], backoff=steady, seed=3)
    gaps = [after.started - before.ended for before, after in zip(result.batches, result.batches[1:], strict=False)]
    assert all(0 <= gap < 1 for gap in gaps)
    assert result.batches == run_mapping(Script(*[Raises(ValueError())] * 9), ["a"], backoff=steady, seed=3).batches


def test_systemexit_is_the_end_of_the_process() -> None:
    def handler(event: Any, context: Any) -> None:
        sys.exit(3)

    result = run_mapping(handler, ["a"], maximum_retry_attempts=0)
    assert [batch.outcome for batch in result.batches] == ["died"]
    assert result.batches[0].error is not None
    assert result.batches[0].error["errorMessage"].endswith("Runtime exited with error: exit status 3")


def test_filters_leave_only_what_matches() -> None:
    records = [{"x": number} for number in range(10)] + ["no json"]
    result = run_mapping(
        lambda event, context: data(event),
        records,
        batch_size=2,
        filter_criteria=only('{"data": {"x": [{"numeric": [">", 6]}]}}'),
    )
    assert [batch.response for batch in result.batches] == [['{"x":7}', '{"x":8}'], ['{"x":9}']]
    assert result.checkpoints[-1].offset == 11


def test_dynamodb_filters_see_the_records_fields() -> None:
    changes = [change(name, {"id": {"S": name}}) for name in ("INSERT", "MODIFY", "REMOVE")]
    result = run_mapping(lambda event, context: None, changes, filter_criteria=only('{"eventName": ["REMOVE"]}'))
    assert [each["eventName"] for batch in result.batches for each in batch.records] == ["REMOVE"]


def test_windows_carry_their_state_and_end_in_virtual_time() -> None:
    def handler(event: Any, context: Any) -> Any:
        if event["isFinalInvokeForWindow"]:
            totals.append((event["window"]["start"], event["state"]["sum"]))
        return {"state": {"sum": event["state"].get("sum", 0) + sum(map(int, data(event)))}}

    totals: list[tuple[str, int]] = []
    records = [at(seconds, str(seconds)) for seconds in (0, 10, 20, 45, 50, 100)]
    result = run_mapping(handler, records, tumbling_window_in_seconds=30)
    # 22:13:20 is when it begins; windows are aligned to the half minute.
    assert totals == [
        ("2023-11-14T22:13:00Z", 0),
        ("2023-11-14T22:13:30Z", 30),
        ("2023-11-14T22:14:00Z", 95),
        ("2023-11-14T22:15:00Z", 100),
    ]
    assert result.caught_up


def test_shards_are_served_side_by_side_and_lanes_by_key() -> None:
    clock = VirtualClock()
    result = run_mapping(
        lambda event, context: clock.sleep(1),
        {"shardId-000000000000": [record(str(n), f"key {n}") for n in range(40)], "shardId-000000000001": ["b"]},
        parallelization_factor=4,
        clock=clock,
    )
    assert [batch.started for batch in result.batches] == [0] * 5
    assert {batch.shard_id for batch in result.batches} == {"shardId-000000000000", "shardId-000000000001"}


def test_retention_takes_what_nobody_could_deliver() -> None:
    records = [at(0, "a"), at(1, "b"), at(100, "c")]
    result = run_mapping(
        Script(then=Raises(ValueError())), records, batch_size=2, retention_seconds=50, max_seconds=120
    )
    assert any(batch.sequence_numbers == result.batches[-1].sequence_numbers for batch in result.batches)
    assert not result.caught_up


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "Value '0' at 'batchSize' failed to satisfy constraint"),
        ({"parallelization_factor": 11}, "parallelizationFactor"),
        ({"maximum_record_age_in_seconds": 7}, "maximumRecordAgeInSeconds"),
        ({"filter_criteria": {"Filters": [{"Pattern": "{"}]}}, "Invalid filter pattern definition."),
        ({"function_response_types": "ReportBatchItemFailures"}, "takes a list of texts"),
        ({"parents": {"b": ["a"]}}, "no records of: a, b"),
    ],
)
def test_options_are_checked_as_in_production(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=".*") as refused:
        run_mapping(lambda event, context: None, ["a"], **options)
    assert words in str(refused.value)


def test_records_of_both_kinds_are_no_stream() -> None:
    with pytest.raises(RefusedError, match="not both"):
        run_mapping(lambda event, context: None, ["a", change("INSERT", {"id": {"S": "1"}})])


# ---- the plugin


def test_the_plugin_gives_fixtures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def handler(event, context):
            return context.get_remaining_time_in_millis()

        def test_events(kinesis_event, dynamodb_event, lambda_context, virtual_clock):
            from streamfn.testing import change
            assert handler(kinesis_event(["a"]), lambda_context) == 3000
            virtual_clock.sleep(1)
            assert handler(dynamodb_event([change("INSERT", {"id": {"S": "1"}})]), lambda_context) == 2000

        def test_mapping(run_mapping):
            assert run_mapping(handler, ["a", "b"], batch_size=1).caught_up
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_the_plugin_loads_nothing_before_it_is_used() -> None:
    script = (
        "import sys, pytest; before = set(sys.modules); import streamfn.testing.plugin\n"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('streamfn')))\n"
        "print(sorted(name for name in sys.modules if name.startswith('streamfn')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    others, ours = done.stdout.splitlines()
    assert json.loads(ours.replace("'", '"')) == [
        "streamfn",
        "streamfn.testing",
        "streamfn.testing.plugin",
        "streamfn.version",
    ]
    heavy = {"trio", "pyarrow", "orjson", "cffi", "numpy", "sqlite3"}
    assert not heavy & set(json.loads(others.replace("'", '"')))


# ---- its documentation

APP = """
import base64, json

def handler(event, context):
    for record in event["Records"]:
        json.loads(base64.b64decode(record["kinesis"]["data"]))["user"].title()
    return {"batchItemFailures": []}
"""


def test_what_the_documentation_shows_is_so(pytester: pytest.Pytester) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    tests = [block for block in blocks if "def test_" in block]
    assert len(tests) >= 4
    pytester.makepyfile(app=APP)
    files = {f"test_block_{number}": f"import app\n{block}" for number, block in enumerate(blocks)}
    pytester.makepyfile(**files)
    pytester.runpytest_inprocess().assert_outcomes(passed=len(tests))
