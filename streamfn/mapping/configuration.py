"""A mapping's configuration under Lambda's parameter names: what the store keeps, and what the API answers.

The store keeps the whole of it as JSON, absent parameters as their defaults, so that one made by `mapping create` and
one left behind by `run` read alike. `RunOptions` is the same in the words of our code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamfn import limits
from streamfn.functions.naming import is_stored_name
from streamfn.mapping.options import RunOptions

# Lambda's parameters that are one plain value, and our field for each.
PLAIN = {
    "BatchSize": "batch_size",
    "BisectBatchOnFunctionError": "bisect_batch_on_function_error",
    "MaximumBatchingWindowInSeconds": "maximum_batching_window_in_seconds",
    "MaximumRecordAgeInSeconds": "maximum_record_age_in_seconds",
    "MaximumRetryAttempts": "maximum_retry_attempts",
    "ParallelizationFactor": "parallelization_factor",
    "StartingPosition": "starting_position",
    "StartingPositionTimestamp": "starting_position_timestamp",
    "TumblingWindowInSeconds": "tumbling_window_in_seconds",
}

# What may be asked of a mapping and is no option of a run: kept, and answered where Lambda answers it.
_KEPT = ("EventSourceArn", "FunctionArn", "MetricsConfig", "Tags")


def stored(options: RunOptions) -> dict[str, object]:
    """The configuration of a run, for the store."""
    configuration: dict[str, object] = {name: getattr(options, field) for name, field in PLAIN.items()}
    configuration["FunctionResponseTypes"] = list(options.function_response_types)
    configuration["FilterCriteria"] = {"Filters": [{"Pattern": pattern} for pattern in options.filters]}
    failure = {"Destination": options.on_failure} if options.on_failure else {}
    configuration["DestinationConfig"] = {"OnFailure": failure}
    if options.filters_max != limits.FILTERS_MAX_DEFAULT:
        configuration["FiltersMax"] = options.filters_max
    return configuration


def run_options(configuration: Mapping[str, Any], **ours: Any) -> RunOptions:
    """What a run of this configuration is told; `ours` are handler, stream, name, and what belongs to the function.

    Parameters that are absent have their defaults: a store of an older version kept fewer.
    """
    given = {field: configuration[name] for name, field in PLAIN.items() if configuration.get(name) is not None}
    filters = (configuration.get("FilterCriteria") or {}).get("Filters") or []
    failure = (configuration.get("DestinationConfig") or {}).get("OnFailure") or {}
    return RunOptions(
        **given,
        function_response_types=tuple(configuration.get("FunctionResponseTypes") or ()),
        filters=tuple(each.get("Pattern", "") for each in filters),
        filters_max=configuration.get("FiltersMax") or limits.FILTERS_MAX_DEFAULT,
        on_failure=failure.get("Destination") or "",
        **ours,
    )


def target(handler: str) -> dict[str, str]:
    """What `run_options` is told of a mapping's function, as the store has it: a handler's name or a function's."""
    return {"handler": "", "function": handler} if is_stored_name(handler) else {"handler": handler}


def merged(configuration: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration after a request: what it names is replaced whole, the rest stays."""
    known = {*PLAIN, *_KEPT, "FunctionResponseTypes", "FilterCriteria", "DestinationConfig", "FiltersMax"}
    return {**configuration, **{name: value for name, value in request.items() if name in known}}


def kept(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be stored beside `stored`."""
    return {name: configuration[name] for name in _KEPT if name in configuration}


def answer(
    configuration: Mapping[str, Any],
    *,
    uuid: str,
    stream_arn: str,
    function_arn: str,
    state: str,
    reason: str,
    last_result: str,
    modified_ms: int,
) -> dict[str, Any]:
    """The mapping as the API answers it: the key set that was recorded for Kinesis and DynamoDB streams.

    `LastModified` and `StartingPositionTimestamp` are seconds since 1970, as on the wire. Filter criteria without a
    filter are left out, and so is what was never given and has no default.
    """
    whole = {**stored(run_options(configuration, handler="", stream="")), **kept(configuration)}
    region = stream_arn.split(":")[3] or "us-east-1"
    answered = {
        **{name: value for name, value in whole.items() if name not in ("Tags", "FiltersMax")},
        "EventSourceArn": whole.get("EventSourceArn") or stream_arn,
        "EventSourceMappingArn": f"arn:aws:lambda:{region}:{limits.ACCOUNT}:event-source-mapping:{uuid}",
        "FunctionArn": whole.get("FunctionArn") or function_arn,
        "LastModified": modified_ms / 1000,
        "LastProcessingResult": last_result,
        "State": state,
        "StateTransitionReason": reason,
        "UUID": uuid,
    }
    if not (answered["FilterCriteria"] or {}).get("Filters"):
        del answered["FilterCriteria"]
    if answered["StartingPositionTimestamp"] is None:
        del answered["StartingPositionTimestamp"]
    return dict(sorted(answered.items()))
