"""The options of event source mappings beyond batching, with the AWS CLI's names: for every command that makes one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")

Features = Mapping[str, Any]
"""What was given, by the names of `RunOptions`; what was not given is not in it."""


def feature_options(command: Callable[Concatenate[Features, P], R]) -> Callable[P, R]:
    """Give a command the options as one `features: Features`, its first argument."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = {name: kwargs.pop(name, None) for name in _NAMES}
        if not given["function_response_types"]:
            given["function_response_types"] = None
        return command({name: value for name, value in given.items() if value is not None}, *args, **kwargs)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


_NAMES = (
    "bisect_batch_on_function_error",
    "maximum_retry_attempts",
    "maximum_record_age_in_seconds",
    "function_response_types",
)
_OPTIONS = (
    click.option(
        "--maximum-retry-attempts",
        type=int,
        metavar="N",
        help="Deliveries of a failed batch beyond the first; then it is discarded.  [default: -1, for ever]",
    ),
    click.option(
        "--maximum-record-age-in-seconds",
        type=int,
        metavar="S",
        help="Older records are discarded, not delivered.  [default: -1, none is too old]",
    ),
    click.option(
        "--bisect-batch-on-function-error/--no-bisect-batch-on-function-error",
        default=None,
        help="Deliver a failed batch in halves, down to single records.",
    ),
    click.option(
        "--function-response-types",
        multiple=True,
        metavar="ReportBatchItemFailures",
        help="The handler says which records of a batch failed.",
    ),
)
