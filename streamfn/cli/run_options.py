"""What can be said of running one handler on one stream: the options that `run` shares with `replay`."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from streamfn import limits
from streamfn.cli.features import Features, feature_options
from streamfn.cli.function_options import FunctionFlags, function_options
from streamfn.cli.options import Settings
from streamfn.errors import RefusedError
from streamfn.functions.naming import is_stored_name
from streamfn.mapping.options import LOGS, ON_DAMAGE, RunOptions, check_not_throttled, of_function, validate

P = ParamSpec("P")
R = TypeVar("R")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerFlags:
    """What was given; None: nothing was, and a stored function's own holds, or the default.

    `features` are the mapping's further options, `function` those of the execution environment.
    """

    features: Features
    function: FunctionFlags
    batch_size: int
    maximum_batching_window_in_seconds: int
    workers: int | None
    timeout: int | None
    environment: dict[str, str]
    logs: str
    on_damage: str
    debug: bool


_NAMES = (
    "batch_size", "maximum_batching_window_in_seconds", "workers", "timeout", "environment", "logs", "on_damage",
    "debug",
)  # fmt: skip


def handler_options(command: Callable[Concatenate[HandlerFlags, P], R]) -> Callable[P, R]:
    """Give a command the options as one `flags: HandlerFlags`, its first argument."""

    def collected(function: FunctionFlags, features: Features, *args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = {name: kwargs.pop(name) for name in _NAMES}
        given["environment"] = parse_environment(given["environment"])
        return command(HandlerFlags(features=features, function=function, **given), *args, **kwargs)

    wrapped: Callable[..., R] = functools.wraps(command)(collected)
    for option in reversed(_AFTER):
        wrapped = option(wrapped)
    wrapped = function_options(wrapped)
    for option in reversed(_BETWEEN):
        wrapped = option(wrapped)
    wrapped = feature_options(wrapped)
    for option in reversed(_BEFORE):
        wrapped = option(wrapped)
    return wrapped


def run_options(
    settings: Settings, handler: str, flags: HandlerFlags, *, stream: str, **more: Any
) -> tuple[RunOptions, Path | None]:
    """Return what these options come to, and where the code is if that is not the current directory; not yet validated.

    `handler` may be the name of a stored function; `more` are further fields of `RunOptions`.

    Raises:
        RefusedError: --debug goes with neither several workers nor a timeout; or there is no such function.
    """
    if flags.debug and (flags.workers not in (None, 1) or flags.timeout is not None):
        raise RefusedError("--debug means one worker and no timeout: leave --workers and --timeout out")
    function, code_dir = _function(settings, handler, flags)
    function.update(flags.function)
    if flags.workers is None:
        function["workers"] = max(function["workers"], function.get("provisioned_concurrency") or 0)
    if flags.workers is not None or flags.debug:
        function["workers"] = 1 if flags.debug else flags.workers
    if flags.timeout is not None or flags.debug:
        function["timeout_s"] = None if flags.debug else flags.timeout
    options = RunOptions(
        stream=stream,
        batch_size=flags.batch_size,
        maximum_batching_window_in_seconds=flags.maximum_batching_window_in_seconds,
        logs=flags.logs,
        on_damage=flags.on_damage,
        debug=flags.debug,
        **function,
        **flags.features,
        **more,
    )
    return options, code_dir


def options_of_all(
    function: FunctionFlags,
    *,
    workers: int | None,
    timeout: int | None,
    environment: Mapping[str, str],
    logs: str,
    on_damage: str,
) -> dict[str, Any]:
    """Return what is said of functions where their mappings say the rest, as fields of `RunOptions`.

    Raises:
        RefusedError: one is out of its range.
    """
    usual = max(default_workers(), function.get("provisioned_concurrency", 0))
    ours: dict[str, Any] = {
        "workers": usual if workers is None else workers,
        "timeout_s": limits.FUNCTION_TIMEOUT_S_DEFAULT if timeout is None else timeout,
        "environment": environment,
        "logs": logs,
        "on_damage": on_damage,
        **function,
    }
    validate(RunOptions(handler="module.function", stream="stream", **ours), now_ms=time.time_ns() // 1_000_000)
    return ours


def check_terminal(options: RunOptions) -> None:
    """Raise RefusedError for debugging without a terminal to do it on."""
    if options.debug and not sys.stdin.isatty():
        raise RefusedError("--debug needs a terminal as standard input")


def _function(settings: Settings, handler: str, flags: HandlerFlags) -> tuple[dict[str, Any], Path | None]:
    """What is run, as fields of `RunOptions`, and where its code is if that is not the current directory."""
    if not is_stored_name(handler):
        wanted = default_workers() if flags.workers is None else flags.workers
        return {"handler": handler, "workers": wanted, "environment": flags.environment}, None
    from streamfn.cli.functions import configuration_of
    from streamfn.functions.managing import GET

    stored = configuration_of(settings, GET, handler)
    check_not_throttled(stored)
    fields = of_function(stored, default_workers(), flags.workers)
    return {**fields, "environment": {**stored.environment, **flags.environment}}, Path(stored.code_dir)


def default_workers() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0))


def parse_environment(pairs: Sequence[str]) -> dict[str, str]:
    """Return the variables of `K=V` texts; the last one of a name wins.

    Raises:
        RefusedError: a text has no `=`.
    """
    environment = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise RefusedError(f"--env takes K=V, not {pair!r}")
        environment[key] = value
    return environment


def logs_option(default: str) -> Decorator:
    """Return `--logs` with this default."""
    return click.option(
        "--logs",
        default=default,
        show_default=True,
        metavar="|".join(LOGS),
        help="Log lines of which invocations; failed: of those that failed or printed.",
    )


window_option: Decorator = click.option(
    "--maximum-batching-window-in-seconds",
    type=int,
    default=0,
    show_default=True,
    metavar="S",
    help="How long a batch may wait to become full.",
)
workers_option: Decorator = click.option(
    "--workers", type=int, metavar="N", help="Worker processes, at most.  [default: one per processor]"
)
timeout_option: Decorator = click.option(
    "--timeout",
    type=int,
    metavar="S",
    help=f"Of one invocation.  [default: {limits.FUNCTION_TIMEOUT_S_DEFAULT}, or the stored function's]",
)
environment_option: Decorator = click.option(
    "--env", "environment", multiple=True, metavar="K=V", help="Set a variable for the handler; may be repeated."
)
on_damage_option: Decorator = click.option(
    "--on-damage",
    default="strict",
    show_default=True,
    metavar="|".join(ON_DAMAGE),
    help="A damaged shard stops; or what cannot be read is skipped, said and counted as lost.",
)

_BEFORE = (
    click.option(
        "--batch-size",
        type=int,
        default=limits.BATCH_SIZE_DEFAULT,
        show_default=True,
        metavar="N",
        help="Records in a batch, at most.",
    ),
    window_option,
)
_BETWEEN = (workers_option, timeout_option)
_AFTER = (
    environment_option,
    logs_option("failed"),
    on_damage_option,
    click.option("--debug", is_flag=True, help="One worker on this terminal, no timeout: breakpoint() works."),
)
