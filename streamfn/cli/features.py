"""The options of event source mappings beyond batching, with the AWS CLI's names: for every command that makes one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from streamfn.errors import RefusedError

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
        given["on_failure"] = _destination(given["on_failure"], kwargs.pop("destination_config", None))
        criteria = kwargs.pop("filter_criteria", None)
        if criteria is not None:
            given["filters"] = _patterns(str(criteria))
        return command({name: value for name, value in given.items() if value is not None}, *args, **kwargs)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def _destination(on_failure: str | None, config: object) -> str | None:
    """The on-failure destination of the two options that name one.

    Raises:
        RefusedError: both do, or the structure is not Lambda's.
    """
    if config is None:
        return on_failure
    if on_failure is not None:
        raise RefusedError("--on-failure and --destination-config name the same thing: give one of them")
    from streamfn.cli.shorthand import structure

    option = "--destination-config"
    found = structure(option, str(config))
    if "OnSuccess" in found:
        raise RefusedError("Unsupported DestinationConfig parameter for given event source mapping type.")
    failure = found.pop("OnFailure", {})
    if found or not isinstance(failure, dict):
        raise RefusedError(f"{option} takes OnFailure={{Destination=...}}, not {config!r}")
    destination = failure.pop("Destination", "")
    if failure or not isinstance(destination, str):
        raise RefusedError(f"{option} takes OnFailure={{Destination=...}}, not {config!r}")
    return destination


_NAMES = (
    "parallelization_factor",
    "bisect_batch_on_function_error",
    "maximum_retry_attempts",
    "maximum_record_age_in_seconds",
    "function_response_types",
    "on_failure",
    "filters_max",
    "tumbling_window_in_seconds",
)


def _patterns(criteria: str) -> tuple[str, ...]:
    from streamfn.cli.shorthand import structure
    from streamfn.mapping.request import patterns_of

    return patterns_of(structure("--filter-criteria", criteria))


_OPTIONS = (
    click.option(
        "--parallelization-factor",
        type=int,
        metavar="N",
        help="Batches of one shard that may run at a time, in order for each partition key or item.  [default: 1]",
    ),
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
    click.option(
        "--on-failure",
        metavar="NAME|file:DIR|s3:DIR",
        help="Where a description of each discarded batch goes: a stream, or files.",
    ),
    click.option(
        "--destination-config",
        metavar="JSON",
        help="The same as Lambda has it: OnFailure={Destination=ARN} or JSON.",
    ),
    click.option(
        "--filter-criteria",
        metavar="JSON",
        help="Filters=[{Pattern=...}]: only records that match one are delivered.",
    ),
    click.option("--filters-max", type=int, metavar="N", help="How many filters are allowed: 5, or up to 10."),
    click.option(
        "--tumbling-window-in-seconds",
        type=int,
        metavar="S",
        help="Windows of that length: each invocation is given the state that the one before it in its window "
        "returned, and each window has a final one.  [default: 0, no windows]",
    ),
)
