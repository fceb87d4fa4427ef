"""What a mapping may be told, in Lambda's own words."""

from __future__ import annotations

from typing import Any

import pytest

from streamfn.errors import RefusedError
from streamfn.functions.configuration import Configuration
from streamfn.mapping.options import RunOptions, of_function, validate

NOW_MS = 1_750_000_000_000


def check(**changes: Any) -> None:
    validate(RunOptions(**{"handler": "app.handler", "stream": "orders", **changes}), now_ms=NOW_MS)


def test_a_mapping_is_named_after_its_handler_and_stream() -> None:
    assert RunOptions(handler="a.b", stream="s").name == "a.b@s"
    assert RunOptions(handler="a.b", stream="s", name="n").name == "n"


def test_the_defaults_are_lambdas_own() -> None:
    options = RunOptions(handler="a.b", stream="s")
    assert (options.batch_size, options.maximum_batching_window_in_seconds, options.timeout_s) == (100, 0, 3)
    check()


@pytest.mark.parametrize(
    ("changes", "member", "value", "rule"),
    [
        ({"batch_size": 0}, "batchSize", "0", "greater than or equal to 1"),
        ({"batch_size": 10_001}, "batchSize", "10001", "less than or equal to 10000"),
        (
            {"maximum_batching_window_in_seconds": 301},
            "maximumBatchingWindowInSeconds",
            "301",
            "less than or equal to 300",
        ),
        (
            {"maximum_batching_window_in_seconds": -1},
            "maximumBatchingWindowInSeconds",
            "-1",
            "greater than or equal to 0",
        ),
        ({"parallelization_factor": 0}, "parallelizationFactor", "0", "greater than or equal to 1"),
        ({"parallelization_factor": 11}, "parallelizationFactor", "11", "less than or equal to 10"),
        ({"maximum_retry_attempts": -2}, "maximumRetryAttempts", "-2", "greater than or equal to -1"),
        ({"maximum_retry_attempts": 10_001}, "maximumRetryAttempts", "10001", "less than or equal to 10000"),
        ({"maximum_record_age_in_seconds": -2}, "maximumRecordAgeInSeconds", "-2", "greater than or equal to -1"),
        (
            {"maximum_record_age_in_seconds": 604_801},
            "maximumRecordAgeInSeconds",
            "604801",
            "less than or equal to 604800",
        ),
        ({"tumbling_window_in_seconds": -1}, "tumblingWindowInSeconds", "-1", "greater than or equal to 0"),
        ({"tumbling_window_in_seconds": 901}, "tumblingWindowInSeconds", "901", "less than or equal to 900"),
        ({"timeout_s": 901}, "timeout", "901", "less than or equal to 900"),
        ({"memory_size": 127}, "memorySize", "127", "greater than or equal to 128"),
        ({"memory_size": 10_241}, "memorySize", "10241", "less than or equal to 10240"),
        ({"ephemeral_storage": 511}, "ephemeralStorage.size", "511", "greater than or equal to 512"),
        ({"ephemeral_storage": 10_241}, "ephemeralStorage.size", "10241", "less than or equal to 10240"),
        ({"provisioned_concurrency": 0}, "provisionedConcurrentExecutions", "0", "greater than or equal to 1"),
        ({"reserved_concurrency": -1}, "reservedConcurrentExecutions", "-1", "greater than or equal to 0"),
        ({"workers": 0}, "workers", "0", "greater than or equal to 1"),
        ({"limit": 0}, "limit", "0", "greater than or equal to 1"),
    ],
)
def test_a_value_out_of_range_is_refused_in_lambdas_words(
    changes: dict[str, Any], member: str, value: str, rule: str
) -> None:
    with pytest.raises(RefusedError) as raised:
        check(**changes)
    assert str(raised.value) == (
        f"1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: "
        f"Member must have value {rule}"
    )


def test_an_unknown_starting_position_is_refused_as_it_was_recorded() -> None:
    with pytest.raises(RefusedError) as raised:
        check(starting_position="invalid")
    assert str(raised.value) == (
        "1 validation error detected: Value 'invalid' at 'startingPosition' failed to satisfy constraint: "
        "Member must satisfy enum value set: [LATEST, AT_TIMESTAMP, TRIM_HORIZON]"
    )


def test_an_unknown_response_type_is_refused_in_the_words_for_lists() -> None:
    with pytest.raises(RefusedError) as raised:
        check(function_response_types=("ReportAll",))
    assert str(raised.value) == (
        "1 validation error detected: Value '[ReportAll]' at 'functionResponseTypes' failed to satisfy constraint: "
        "Member must satisfy constraint: [Member must satisfy enum value set: [ReportBatchItemFailures]]"
    )


@pytest.mark.parametrize(
    ("changes", "member", "most"),
    [
        ({"function_response_types": ("ReportBatchItemFailures",) * 2}, "functionResponseTypes", 1),
        ({"filters": ("{}", "x" * 4097)}, "filterCriteria.filters.2.member.pattern", 4096),
        ({"on_failure": "x" * 351}, "destinationConfig.onFailure.destination", 350),
    ],
)
def test_a_value_that_is_too_long_is_refused_in_lambdas_words(changes: dict[str, Any], member: str, most: int) -> None:
    with pytest.raises(RefusedError) as raised:
        check(**changes)
    assert str(raised.value).startswith("1 validation error detected: Value '")
    assert str(raised.value).endswith(
        f"' at '{member}' failed to satisfy constraint: Member must have length less than or equal to {most}"
    )


@pytest.mark.parametrize("age", [0, 1, 59])
def test_a_record_age_below_a_minute_is_refused_with_the_range(age: int) -> None:
    with pytest.raises(RefusedError, match=rf"^Value '{age}' at 'maximumRecordAgeInSeconds' .* 60 to 604800, or -1"):
        check(maximum_record_age_in_seconds=age)


def test_a_window_needs_a_factor_of_one() -> None:
    with pytest.raises(RefusedError, match=r"'tumblingWindowInSeconds' 60.* 'parallelizationFactor' of 1, not 2"):
        check(tumbling_window_in_seconds=60, parallelization_factor=2)


def test_there_are_five_filters_or_ten_when_asked() -> None:
    pattern = '{"partitionKey":["a"]}'
    check(filters=(pattern,) * 5)
    check(filters=(pattern,) * 10, filters_max=10)
    with pytest.raises(RefusedError, match=r"at most 5 filters, not 6; up to 10"):
        check(filters=(pattern,) * 6)
    with pytest.raises(RefusedError, match=r"at most 10 filters, not 11$"):
        check(filters=(pattern,) * 11, filters_max=10)
    with pytest.raises(RefusedError, match=r"'filtersMax'.*less than or equal to 10"):
        check(filters_max=11)


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        ("file:", "name a directory"),
        ("s3:", "name a directory"),
        ("file:a\0b", "name a directory"),
        ("http://x", "a stream's name, file:DIR, s3:DIR or an ARN"),
        ("a b", "a stream's name, file:DIR, s3:DIR or an ARN"),
        ("orders", "is the stream that the mapping reads"),
    ],
)
def test_a_destination_that_is_none_is_refused(destination: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        check(on_failure=destination)


def test_every_option_of_failures_lanes_windows_and_filters_is_taken_at_its_bounds() -> None:
    check(parallelization_factor=10, maximum_retry_attempts=10_000, maximum_record_age_in_seconds=604_800)
    check(maximum_retry_attempts=0, maximum_record_age_in_seconds=60, tumbling_window_in_seconds=900)
    check(bisect_batch_on_function_error=True, function_response_types=("ReportBatchItemFailures",))
    for destination in ("failed", "file:x", "s3:/tmp/a b"):
        check(on_failure=destination)


def test_all_violations_are_told_at_once() -> None:
    with pytest.raises(RefusedError, match=r"^2 validation errors detected: .*batchSize.*; .*'timeout'"):
        check(batch_size=0, timeout_s=0)


@pytest.mark.parametrize(
    "handler", ["app.handler", "src/app.handler", "app:handler", "a.b.handler", "x/y.z/app.h", "pkg.mod:f", "m:C.f"]
)
def test_handlers_are_named_as_in_lambda_or_with_a_colon(handler: str) -> None:
    check(handler=handler)


@pytest.mark.parametrize(
    "handler", ["", "handler", ".handler", "app.", "a b.c", "app:", ":f", "a/.f", "x." + "y" * 127]
)
def test_a_handler_without_module_or_function_is_refused(handler: str) -> None:
    with pytest.raises(RefusedError, match="Bad handler"):
        check(handler=handler)


@pytest.mark.parametrize(
    "handler", ["./app.f", "../x/app.h", "/srv/app.f", "a/../app.f", "a//app:f", ".a.f", "./app:C.f"]
)
def test_a_handler_that_is_not_below_the_code_directory_is_refused(handler: str) -> None:
    with pytest.raises(RefusedError, match="in the code directory and below it, as in dir/module.function"):
        check(handler=handler)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stream": "../x"}, "stream name"),
        ({"name": "a\nb"}, "mapping name"),
        ({"starting_position": "AT_TIMESTAMP"}, "needs a starting position timestamp"),
        ({"starting_position_timestamp": 5.0}, "goes with AT_TIMESTAMP"),
        (
            {"starting_position": "AT_TIMESTAMP", "starting_position_timestamp": NOW_MS / 1000 + 1},
            "not between",
        ),
        (
            {"environment": {"_HANDLER": "x", "AWS_LAMBDA_A": "", "B": ""}},
            "reserved keys.*: AWS_LAMBDA_A, _HANDLER$",
        ),
        ({"environment": {"a-b": "x"}}, "'a-b' is not valid"),
        ({"environment": {"A": "\0"}}, "null character"),
        ({"logs": "some"}, "'logs'"),
        ({"timeout_s": None}, "timeout"),
        ({"debug": True}, "one worker and no timeout"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        check(**changes)


def test_what_can_be_meant_is_taken() -> None:
    check(starting_position="AT_TIMESTAMP", starting_position_timestamp=1_700_000_000.25)
    check(debug=True, timeout_s=None, workers=1)
    check(environment={"AWS_REGION": "eu-central-1", "_X": ""})
    check(batch_size=10_000, maximum_batching_window_in_seconds=300, timeout_s=900, limit=1, stream="..")


def test_a_timestamp_is_seconds_and_known_to_the_millisecond() -> None:
    options = RunOptions(handler="a.b", stream="s", starting_position_timestamp=1545084650.987)
    assert options.starting_position_ms == 1_545_084_650_987


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"layers": tuple("abcdef")}, "Cannot reference more than 5 layers."),
        ({"layers": ("a", "b", "a")}, "the layer 'a' is given twice"),
        (
            {"provisioned_concurrency": 2, "reserved_concurrency": 1, "workers": 2},
            "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function",
        ),
        ({"provisioned_concurrency": 3, "workers": 2}, "a provisioned concurrency of 3 needs as many workers, not 2"),
        ({"allow_network": True}, "goes with isolation 'sandbox'"),
        ({"environment": {"A": "x" * 4096}}, 'exceeded the 4KB limit. String measured: {"A":"xxx'),
        ({"isolation": "vm"}, "Member must satisfy enum value set: [process, sandbox]"),
        ({"start_method": "forkserver"}, "Member must satisfy enum value set: [fork, spawn]"),
    ],
)
def test_what_a_function_cannot_be_is_refused_by_name(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(RefusedError) as raised:
        check(**changes)
    assert text in str(raised.value)


def test_an_environment_of_4096_bytes_as_json_is_allowed() -> None:
    check(environment={"A": "x" * (4096 - len('{"A":""}'))})


@pytest.mark.parametrize(
    ("reserved", "provisioned", "said", "workers", "warm"),
    [
        (None, None, None, 2, None),
        (None, None, 5, 5, None),
        (None, 1, None, 2, 1),
        (None, 4, None, 4, 4),
        (8, None, None, 8, None),
        (8, 3, None, 8, 3),
        (1, None, None, 1, None),
        (8, 3, 1, 1, 1),
        (8, 3, 5, 5, 3),
    ],
)
def test_a_stored_function_has_as_many_workers_as_are_reserved_or_said(
    reserved: int | None, provisioned: int | None, said: int | None, workers: int, warm: int | None
) -> None:
    stored = Configuration(
        name="f",
        handler="app.handler",
        code_dir="/",
        reserved_concurrency=reserved,
        provisioned_concurrency=provisioned,
    )
    options = RunOptions(stream="s", **of_function(stored, 2, said))
    assert (options.workers, options.provisioned_concurrency) == (workers, warm)
    validate(options, now_ms=NOW_MS)
