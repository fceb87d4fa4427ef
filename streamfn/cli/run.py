"""`streamfn run`: the options of a mapping, as the AWS CLI names them."""

from __future__ import annotations

import time

import click
from click.core import ParameterSource

from streamfn.cli.function_options import NAMES
from streamfn.cli.options import Settings, common_options, metrics_option
from streamfn.cli.run_options import HandlerFlags, check_terminal, handler_options, options_of_all, run_options
from streamfn.errors import RefusedError
from streamfn.functions.ranges import check_concurrency
from streamfn.mapping.options import validate

_EPILOG = """\b
Examples:
  streamfn run app.handler --stream orders --until-caught-up
  streamfn run src/app.handler --stream orders --batch-size 500 --workers 4
  streamfn run app:handler --stream orders --starting-position LATEST --logs all
  streamfn run app.handler --stream orders --maximum-retry-attempts 2 \\
      --bisect-batch-on-function-error --on-failure orders-failed
  streamfn run app.handler --stream orders --parallelization-factor 4
  streamfn run app.handler --stream orders --debug --limit 1     (breakpoint() works)
  streamfn run app.handler --stream orders --metrics-port 9464   (for Prometheus)
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
@handler_options
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
@click.option(
    "--concurrency",
    type=int,
    metavar="N",
    help="Without HANDLER: workers of all functions together; they share them.  [default: no limit]",
)
@click.option("--until-caught-up", is_flag=True, help="End when what is there now has been handled.")
@click.option("--limit", type=int, metavar="N", help="Hand over N records, then end.")
@metrics_option
@common_options
def run(
    settings: Settings,
    flags: HandlerFlags,
    handler: str | None,
    stream: str | None,
    name: str,
    starting_position: str,
    starting_position_timestamp: str | None,
    concurrency: int | None,
    until_caught_up: bool,
    limit: int | None,
    metrics_port: int | None,
) -> int:
    """Run the Lambda handler HANDLER, or the stored function NAME, on the records of a stream.

    Without either: all mappings made by `mapping create`.
    """
    if handler is None:
        check_concurrency(concurrency)
        return _run_managed(settings, flags, concurrency, until_caught_up, metrics_port)
    if concurrency is not None:
        raise RefusedError("--concurrency goes without a HANDLER: one function has --workers")
    if stream is None:
        raise click.UsageError("a handler needs a --stream to run on")
    options, code_dir = run_options(
        settings,
        handler,
        flags,
        stream=stream,
        name=name,
        starting_position=starting_position,
        starting_position_timestamp=parse_timestamp(starting_position_timestamp),
        until_caught_up=until_caught_up,
        limit=limit,
    )
    validate(options, now_ms=time.time_ns() // 1_000_000)
    check_terminal(options)
    from streamfn.cli.execute import execute

    return execute(options, settings.data_dir, settings.json_output, code_dir, metrics_port)


# What a run of all mappings is told; everything else is theirs.
_OF_ALL = {
    *NAMES, "workers", "concurrency", "timeout", "until_caught_up", "environment", "logs", "on_damage",
    "common_data_dir", "common_json", "metrics_port",
}  # fmt: skip


def _run_managed(
    settings: Settings,
    flags: HandlerFlags,
    concurrency: int | None,
    until_caught_up: bool,
    metrics_port: int | None,
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
    ours = options_of_all(
        flags.function,
        workers=flags.workers,
        timeout=flags.timeout,
        environment=flags.environment,
        logs=flags.logs,
        on_damage=flags.on_damage,
    )
    from streamfn.cli.serve import serve

    ours["concurrency"] = concurrency
    return serve(
        settings.data_dir, settings.json_output, until_caught_up=until_caught_up, metrics_port=metrics_port, **ours
    )


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
