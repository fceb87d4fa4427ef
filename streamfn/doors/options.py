"""The options of a mapping as the library takes them: Lambda's parameter names in snake_case."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypedDict

from streamfn.clock import SystemClock
from streamfn.errors import RefusedError
from streamfn.formats.times import parse_time_ms
from streamfn.functions.configuration import Configuration
from streamfn.mapping.options import RunOptions, of_function, validate
from streamfn.mapping.request import patterns_of


class FunctionOptions(TypedDict, total=False):
    """What may be said of a function.

    Attributes:
        workers: worker processes; one for each processor where nothing is said.
        timeout: of one invocation, in whole seconds, 1 to 900; 3 where nothing is said.
        memory_size: of one worker, in MB, 128 to 10,240; no limit where nothing is said.
        ephemeral_storage: the size of a worker's own /tmp, in MB, 512 to 10,240; the machine's /tmp where nothing is
            said.
        layers: up to 5 directories that are put on the path behind the code directory: the `python/` in each, and the
            directory itself.
        isolation: `process`, where nothing is said, or `sandbox`.
        allow_network: whether a sandbox has the machine's network.
        provisioned_concurrency: how many workers are kept warm; all where nothing is said.
        start_method: `fork`, where nothing is said: workers are forked when the module was imported; or `spawn`: each
            imports it itself.
        environment: variables added to the handlers' environment.
        code_dir: where workers start, and where a handler's name is looked up first; the current directory where
            nothing is said.
    """

    workers: int
    timeout: int
    memory_size: int
    ephemeral_storage: int
    layers: Sequence[str | os.PathLike[str]]
    isolation: Literal["process", "sandbox"]
    allow_network: bool
    provisioned_concurrency: int
    start_method: Literal["fork", "spawn"]
    environment: Mapping[str, str]
    code_dir: str | os.PathLike[str]


class MappingOptions(FunctionOptions, total=False):
    """What may be said of a mapping: the words, ranges and defaults of Lambda's event source mappings.

    Attributes:
        name: the mapping's name, under which it remembers how far it is; `HANDLER@STREAM` where nothing is said.
        batch_size: records in a batch, at most; 1 to 10,000, 100 where nothing is said.
        maximum_batching_window_in_seconds: how long a batch may wait to become full; 0 to 300.
        starting_position: where the mapping's first run begins; later ones go on from the checkpoint.
        starting_position_timestamp: with AT_TIMESTAMP: a datetime, ISO 8601, or seconds since 1970; UTC without a zone.
        parallelization_factor: batches of one shard that may run at a time, in order for each partition key, or item of
            a DynamoDB stream; 1 to 10, 1 where nothing is said.
        maximum_retry_attempts: deliveries of a failed batch beyond the first, 0 to 10,000; then it is discarded. For
            ever (-1) where nothing is said.
        maximum_record_age_in_seconds: records that are older are discarded, not delivered; 60 to 604,800. -1 where
            nothing is said: none is too old.
        bisect_batch_on_function_error: deliver a failed batch in halves, down to single records.
        function_response_types: `["ReportBatchItemFailures"]` where the handler says which records of a batch failed.
        tumbling_window_in_seconds: windows of that length, 1 to 900: each invocation is given the state that the one
            before it in its window returned, and each window has a final one. 0 where nothing is said: no windows.
        on_failure: where a description of each discarded batch goes: a stream's name, `file:DIR`, `s3:DIR`, or an ARN
            whose last part names one. Directories begin at the code directory. Nowhere, where nothing is said.
        filter_criteria: `{"Filters": [{"Pattern": JSON text}, ...]}`: only records that match one of up to 5 patterns
            are delivered.
        filters_max: how many patterns are allowed: 5 where nothing is said, up to 10.
        logs: which invocations write Lambda's log lines: those that failed or printed, all, or none.
        on_damage: a damaged shard stops (strict, where nothing is said), or goes on behind what cannot be read and
            counts it as lost (salvage).
    """

    name: str
    batch_size: int
    maximum_batching_window_in_seconds: int
    starting_position: Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]
    starting_position_timestamp: datetime | str | float
    parallelization_factor: int
    maximum_retry_attempts: int
    maximum_record_age_in_seconds: int
    bisect_batch_on_function_error: bool
    function_response_types: Sequence[Literal["ReportBatchItemFailures"]]
    tumbling_window_in_seconds: int
    on_failure: str
    filter_criteria: Mapping[str, Any]
    filters_max: int
    logs: Literal["failed", "all", "none"]
    on_damage: Literal["strict", "salvage"]


_WHOLE = (
    "workers",
    "timeout",
    "memory_size",
    "ephemeral_storage",
    "provisioned_concurrency",
    "reserved_concurrency",
    "batch_size",
    "maximum_batching_window_in_seconds",
    "parallelization_factor",
    "maximum_retry_attempts",
    "maximum_record_age_in_seconds",
    "tumbling_window_in_seconds",
    "filters_max",
    "limit",
)
_OPTIONAL = ("reserved_concurrency", "provisioned_concurrency")  # None unsets them
_FLAGS = ("allow_network", "bisect_batch_on_function_error", "enabled")
_LISTS = ("function_response_types",)
_TEXT = (
    "name",
    "starting_position",
    "on_failure",
    "logs",
    "on_damage",
    "isolation",
    "start_method",
    "handler",
    "description",
    "role",
)


def mapping_options(
    handler: str, stream: str, given: Mapping[str, Any], stored: Configuration | None = None
) -> RunOptions:
    """Check a mapping's options; `handler` is the handler's name. What is not given is that of a `stored` function.

    Raises:
        RefusedError: an option is unknown, of the wrong type, or out of its range.
    """
    return _checked(handler, stream, given, MappingOptions.__annotations__, stored)


def function_options(
    handler: str,
    given: Mapping[str, Any],
    known: Mapping[str, Any] = FunctionOptions.__annotations__,
    stored: Configuration | None = None,
) -> RunOptions:
    """Check a function's options. Those of the result that speak of a mapping mean nothing.

    Raises:
        RefusedError: as for `mapping_options`.
    """
    return _checked(handler, "none", given, known, stored)


def check_options(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse, with RefusedError, options that are unknown or of the wrong type."""
    for option, value in given.items():
        if option not in known:
            raise RefusedError(_unknown(option, known))
        _check_type(option, value)


def code_directory(given: Mapping[str, Any]) -> Path:
    """The code directory: `code_dir`, else the current one.

    Raises:
        RefusedError: it is no directory.
    """
    code_dir = given.get("code_dir")
    if code_dir is None:
        return Path.cwd()
    try:
        directory = Path(code_dir).resolve()
    except TypeError:
        raise RefusedError(f"option code_dir takes a path, not {code_dir!r}") from None
    if not directory.is_dir():
        raise RefusedError(f"option code_dir: {directory} is not a directory")
    return directory


def check_limit(limit: int | None) -> int | None:
    """Return `limit`; RefusedError unless it is None or at least 1."""
    if limit is not None:
        _check_type("limit", limit)
        if limit < 1:
            raise RefusedError(f"option limit takes a number from 1 on, or None, not {limit}")
    return limit


def _checked(
    handler: str, stream: str, given: Mapping[str, Any], known: Mapping[str, Any], stored: Configuration | None
) -> RunOptions:
    check_options(given, known)
    if not isinstance(stream, str):
        raise RefusedError(f"a stream is given by its name, not {stream!r}")
    processors = len(os.sched_getaffinity(0))
    base: dict[str, Any] = {"handler": handler, "workers": processors}
    if stored is not None:
        base = of_function(stored, processors, given.get("workers"))
        if "environment" in given:
            given = {**given, "environment": {**stored.environment, **given["environment"]}}
    wanted = {**base, **given}
    wanted.pop("code_dir", None)
    if "timeout" in wanted:
        wanted["timeout_s"] = wanted.pop("timeout")
    if wanted.get("starting_position_timestamp") is not None:
        wanted["starting_position_timestamp"] = time_ms("starting_position_timestamp", given) / 1000
    if "layers" in wanted:
        wanted["layers"] = tuple(os.path.abspath(os.fspath(layer)) for layer in wanted["layers"])
    for option in _LISTS:
        if option in wanted:
            wanted[option] = tuple(wanted[option])
    if "filter_criteria" in wanted:
        wanted["filters"] = patterns_of(wanted.pop("filter_criteria"))
    options = RunOptions(stream=stream, **wanted)
    validate(options, now_ms=SystemClock().unix_ms())
    return options


def time_ms(option: str, given: Mapping[str, Any]) -> int:
    """An option that is a time, in milliseconds since 1970; RefusedError if it is none."""
    try:
        return parse_time_ms(given[option])
    except ValueError as error:
        raise RefusedError(f"option {option}: {error}") from None


def _unknown(option: str, known: Mapping[str, Any]) -> str:
    # BatchSize and batchSize are what somebody types who knows Lambda's API.
    squeezed = {name.replace("_", ""): name for name in known}
    close = difflib.get_close_matches(option.replace("_", "").lower(), squeezed, n=1, cutoff=0.7)
    hint = f"did you mean {squeezed[close[0]]}?" if close else "there is " + ", ".join(sorted(known))
    return f"unknown option {option!r}: {hint}"


def _check_type(option: str, value: object) -> None:
    if value is None and option in _OPTIONAL:
        return
    if option in _WHOLE and (not isinstance(value, int) or isinstance(value, bool)):
        raise RefusedError(f"option {option} takes a whole number, not {value!r}")
    if option in _FLAGS and not isinstance(value, bool):
        raise RefusedError(f"option {option} takes True or False, not {value!r}")
    if option in _LISTS and not (isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)):
        raise RefusedError(f"option {option} takes a list of texts, not {value!r}")
    if option == "layers" and not _are_paths(value):
        raise RefusedError(f"option layers takes a list of directories, not {value!r}")
    if option in _TEXT and not isinstance(value, str):
        raise RefusedError(f"option {option} takes a text, not {value!r}")
    if option == "environment":
        pairs = list(value.items()) if isinstance(value, Mapping) else [(None, None)]
        if not all(isinstance(text, str) for pair in pairs for text in pair):
            raise RefusedError(f"option environment takes a mapping of texts to texts, not {value!r}")


def _are_paths(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str | os.PathLike) for each in value)
