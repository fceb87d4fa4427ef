"""The parameters of the event source mapping API: which there are, and of what type.

Types and names are checked as botocore does it (`functions.shapes`); ranges and meaning are checked in `options` and
`managing`. Two parameters are ours: `Name`, and `FiltersMax`, Lambda's raised quota.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamfn.functions.shapes import OTHER, Shape, check

_DESTINATION = {"Destination": str}

CREATE: dict[str, Shape] = {
    "EventSourceArn": str,
    "FunctionName": str,
    "Enabled": bool,
    "BatchSize": int,
    "FilterCriteria": {"Filters": [{"Pattern": str}]},
    "KMSKeyArn": OTHER,
    "MetricsConfig": {"Metrics": [str]},
    "LoggingConfig": OTHER,
    "ScalingConfig": OTHER,
    "MaximumBatchingWindowInSeconds": int,
    "ParallelizationFactor": int,
    "StartingPosition": str,
    "StartingPositionTimestamp": float,
    "DestinationConfig": {"OnSuccess": _DESTINATION, "OnFailure": _DESTINATION},
    "MaximumRecordAgeInSeconds": int,
    "BisectBatchOnFunctionError": bool,
    "MaximumRetryAttempts": int,
    "Tags": {},
    "TumblingWindowInSeconds": int,
    "Topics": OTHER,
    "Queues": OTHER,
    "SourceAccessConfigurations": OTHER,
    "SelfManagedEventSource": OTHER,
    "FunctionResponseTypes": [str],
    "AmazonManagedKafkaEventSourceConfig": OTHER,
    "SelfManagedKafkaEventSourceConfig": OTHER,
    "DocumentDBEventSourceConfig": OTHER,
    "ProvisionedPollerConfig": OTHER,
    "Name": str,
    "FiltersMax": int,
}
# Developer Guide and model: what an update does not take.
_CREATE_ONLY = {
    "EventSourceArn",
    "StartingPosition",
    "StartingPositionTimestamp",
    "Tags",
    "Topics",
    "Queues",
    "SelfManagedEventSource",
    "Name",
}
UPDATE: dict[str, Shape] = {
    "UUID": str,
    **{name: shape for name, shape in CREATE.items() if name not in _CREATE_ONLY},
}
LIST: dict[str, Shape] = {"EventSourceArn": str, "FunctionName": str, "MaxItems": int}


def patterns_of(criteria: Mapping[str, Any]) -> tuple[str, ...]:
    """The patterns of a FilterCriteria structure.

    Raises:
        RefusedError: it is none, in botocore's words.
    """
    check({"FilterCriteria": criteria}, CREATE)
    return tuple(each.get("Pattern", "") for each in criteria.get("Filters") or ())


def unsupported(request: Mapping[str, Any], shapes: Mapping[str, Shape]) -> str | None:
    """The first parameter that Lambda has for other sources than streams, in the form in which it names it."""
    for name in request:
        if shapes[name] is OTHER:
            return name[0].lower() + name[1:]
    return None
