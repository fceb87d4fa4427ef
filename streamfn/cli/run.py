"""`streamfn run`: the options of a mapping, as the AWS CLI names them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from streamfn import limits
from streamfn.cli.features import Features, feature_options
from streamfn.cli.function_options import NAMES, FunctionFlags, function_options
from streamfn.cli.options import Settings, common_options
from streamfn.errors import RefusedError
from streamfn.functions.naming import is_stored_name
from streamfn.functions.ranges import check_concurrency
from streamfn.mapping.options import LOGS, ON_DAMAGE, RunOptions, check_not_throttled, of_function, validate

_EPILOG = """\b
Examples:
  streamfn run app.handler --stream orders --until-caught-up
  streamfn run src/app.handler --stream orders --batch-size 500 --workers 4
  streamfn run app:handler --stream orders --starting-position LATEST --logs all
  streamfn run app.handler --stream orders --maximum-retry-attempts 2 \\
      --bisect-batch-on-function-error --on-failure orders-failed
  streamfn run app.handler --stream orders --parallelization-factor 4
  streamfn run app.handler --stream orders --debug --limit 1     (breakpoint() works)
  streamfn run orders --stream orders    (the function that `function create` stored)
  streamfn run                           (all mappings that `mapping create` made)

\b
HANDLER is module.function as in Lambda, or module:function, from the current
directory; NAME is a stored function, with its own options where none are said. A change
of the code is picked up at the edge of a batch. The mapping remembers how far it is under its name (default
HANDLER@STREAM): run it again and it goes on from there, whatever the starting
position. Ctrl-C ends it at the edge of a batch; a second one at once.

\b
Without HANDLER: every enabled mapping that `streamfn mapping create` made, and those
that are made or enabled meanwhile. A request to one takes effect at the edge of a
batch. Mappings of one handler share its workers.

\b
With --json: one object at the end, with records, batches, errors, discarded,
trimmed (gone by retention before they were handed over), lost (gone by damage or
a crash), filtered (no filter wanted them), records_per_second.

\b
Exit codes: 0 done, 1 failed (handler cannot be imported, mapping runs already,
damage, disk), 2 refused before anything was made, 3 finished but records were
discarded or lost, 130 and 143 interrupted before it was done.
"""


@click.command(epilog=_EPILOG)
@click.argument("handler", metavar="HANDLER|NAME", required=False)
@click.option("--stream", metavar="S", help="Read this stream.")
@click.option("--name", metavar="NAME", default="", help="The mapping's name.  [default: HANDLER@STREAM]")
@click.option(
    "--batch-size",
    type=int,
    default=limits.BATCH_SIZE_DEFAULT,
    show_default=True,
    metavar="N",
    help="Records in a batch, at most.",
)
@click.option(
    "--maximum-batching-window-in-seconds",
    type=int,
    default=0,
    show_default=True,
    metavar="S",
    help="How long a batch may wait to become full.",
)
@click.option(
    "--starting-position",
    default="TRIM_HORIZON",
    show_default=True,
    metavar="TRIM_HORIZON|LATEST|AT_TIMESTAMP",
    help="Where the mapping's first run begins.",
)
@click.option(
    "--starting-position-timestamp", metavar="TIME", help="With AT_TIMESTAMP: ISO 8601 or seconds since 1970."
)
@feature_options
@click.option("--workers", type=int, metavar="N", help="Worker processes, at most.  [default: one per processor]")
@click.option(
    "--concurrency",
    type=int,
    metavar="N",
    help="Without HANDLER: workers of all functions together; they share them.  [default: no limit]",
)
@click.option(
    "--timeout",
    type=int,
    metavar="S",
    help=f"Of one invocation.  [default: {limits.FUNCTION_TIMEOUT_S_DEFAULT}, or the stored function's]",
)
@function_options
@click.option("--until-caught-up", is_flag=True, help="End when what is there now has been handled.")
@click.option("--limit", type=int, metavar="N", help="Hand over N records, then end.")
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="K=V",
    help="Set a variable for the handler; may be repeated.",
)
@click.option(
    "--logs",
    default="failed",
    show_default=True,
    metavar="|".join(LOGS),
    help="Log lines of which invocations; failed: of those that failed or printed.",
)
@click.option(
    "--on-damage",
    default="strict",
    show_default=True,
    metavar="|".join(ON_DAMAGE),
    help="A damaged shard stops; or what cannot be read is skipped, said and counted as lost.",
)
@click.option("--debug", is_flag=True, help="One worker on this terminal, no timeout: breakpoint() works.")
@common_options
def run(
    settings: Settings,
    flags: FunctionFlags,
    features: Features,
    handler: str | None,
    stream: str | None,
    name: str,
    batch_size: int,
    maximum_batching_window_in_seconds: int,
    starting_position: str,
    starting_position_timestamp: str | None,
    workers: int | None,
    concurrency: int | None,
    timeout: int | None,
    until_caught_up: bool,
    limit: int | None,
    environment: tuple[str, ...],
    logs: str,
    on_damage: str,
    debug: bool,
) -> int:
    """Run the Lambda handler HANDLER, or the stored function NAME, on the records of a stream.

    Without either: all mappings made by `mapping create`.
    """
    if handler is None:
        check_concurrency(concurrency)
        return _run_managed(
            settings, flags, workers, concurrency, timeout, until_caught_up, environment, logs, on_damage
        )
    if concurrency is not None:
        raise RefusedError("--concurrency goes without a HANDLER: one function has --workers")
    if stream is None:
        raise click.UsageError("a handler needs a --stream to run on")
    if debug and (workers not in (None, 1) or timeout is not None):
        raise RefusedError("--debug means one worker and no timeout: leave --workers and --timeout out")
    function, code_dir = _function(settings, handler, workers, parse_environment(environment))
    function.update(flags)
    if workers is None:
        function["workers"] = max(function["workers"], function.get("provisioned_concurrency") or 0)
    if workers is not None or debug:
        function["workers"] = 1 if debug else workers
    if timeout is not None or debug:
        function["timeout_s"] = None if debug else timeout
    options = RunOptions(
        stream=stream,
        name=name,
        batch_size=batch_size,
        maximum_batching_window_in_seconds=maximum_batching_window_in_seconds,
        starting_position=starting_position,
        starting_position_timestamp=parse_timestamp(starting_position_timestamp),
        until_caught_up=until_caught_up,
        limit=limit,
        logs=logs,
        on_damage=on_damage,
        debug=debug,
        **function,
        **features,
    )
    validate(options, now_ms=time.time_ns() // 1_000_000)
    if debug and not sys.stdin.isatty():
        raise RefusedError("--debug needs a terminal as standard input")
    from streamfn.cli.execute import execute

    return execute(options, settings.data_dir, settings.json_output, code_dir)


def _function(
    settings: Settings, handler: str, workers: int | None, environment: dict[str, str]
) -> tuple[dict[str, Any], Path | None]:
    """What is run, as fields of `RunOptions`, and where its code is if that is not the current directory."""
    if not is_stored_name(handler):
        wanted = default_workers() if workers is None else workers
        return {"handler": handler, "workers": wanted, "environment": environment}, None
    from streamfn.cli.functions import configuration_of
    from streamfn.functions.managing import GET

    stored = configuration_of(settings, GET, handler)
    check_not_throttled(stored)
    fields = of_function(stored, default_workers(), workers)
    return {**fields, "environment": {**stored.environment, **environment}}, Path(stored.code_dir)


# What a run of all mappings is told; everything else is theirs.
_OF_ALL = {
    *NAMES, "workers", "concurrency", "timeout", "until_caught_up", "environment", "logs", "on_damage",
    "common_data_dir", "common_json",
}  # fmt: skip


def _run_managed(
    settings: Settings,
    flags: FunctionFlags,
    workers: int | None,
    concurrency: int | None,
    timeout: int | None,
    until_caught_up: bool,
    environment: tuple[str, ...],
    logs: str,
    on_damage: str,
) -> int:
    """Run every enabled mapping.

    Raises:
        RefusedError: an option was given that belongs to a mapping, or is out of its range.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in _OF_ALL and parameter.opts[0].startswith("-"):
            raise RefusedError(
                f"{parameter.opts[0]} goes with a HANDLER: without one, what `mapping create` made is run as it was "
                "made (streamfn mapping update changes it)"
            )
    ours: dict[str, Any] = {
        "workers": max(default_workers(), flags.get("provisioned_concurrency", 0)) if workers is None else workers,
        "timeout_s": limits.FUNCTION_TIMEOUT_S_DEFAULT if timeout is None else timeout,
        "environment": parse_environment(environment),
        "logs": logs,
        "on_damage": on_damage,
        **flags,
    }
    validate(RunOptions(handler="module.function", stream="stream", **ours), now_ms=time.time_ns() // 1_000_000)
    from streamfn.cli.serve import serve

    ours["concurrency"] = concurrency
    return serve(settings.data_dir, settings.json_output, until_caught_up=until_caught_up, **ours)


def default_workers() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0))


def parse_timestamp(text: str | None) -> float | None:
    """Return seconds since 1970, UTC.

    Raises:
        RefusedError: it is no time.
    """
    if text is None:
        return None
    from streamfn.formats.times import parse_time_ms

    try:
        return parse_time_ms(text) / 1000
    except ValueError as error:
        raise RefusedError(f"--starting-position-timestamp: {error}") from None


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
