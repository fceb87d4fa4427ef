"""`streamfn mapping`: event source mappings as things, with the AWS CLI's options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from streamfn.cli.options import Settings, common_options, examples

F = TypeVar("F", bound=Callable[..., Any])

_GROUP_EPILOG = """\b
Examples:
  streamfn mapping create --function-name app.handler --event-source-arn orders \\
      --starting-position TRIM_HORIZON --batch-size 500
  streamfn mapping list
  streamfn run                      (runs all that are enabled)
  streamfn mapping disable UUID     (takes effect at the edge of a batch)

\b
Options are those of `aws lambda create-event-source-mapping` and its neighbours, and
so are the answers. A mapping is named by its UUID, by its --name, or as
HANDLER@STREAM where only one is meant. Every one of these commands takes --data-dir, and
--json, which prints the answer on one line.
"""

_CREATE_EPILOG = """\b
Examples:
  streamfn mapping create --function-name app.handler --event-source-arn orders \\
      --starting-position LATEST
  streamfn mapping create --function-name src/app.handler --event-source-arn orders \\
      --starting-position AT_TIMESTAMP --starting-position-timestamp 2025-11-25T08:00:00Z \\
      --filter-criteria '{"Filters": [{"Pattern": "{\\"data\\": {\\"total\\": [{\\"numeric\\": [\\">\\", 99]}]}}"}]}' \\
      --maximum-retry-attempts 2 --bisect-batch-on-function-error \\
      --destination-config 'OnFailure={Destination=failed-orders}'
  streamfn mapping create --cli-input-json file://mapping.json

\b
The starting position is that of this moment: a mapping that starts at LATEST delivers
what is put from now on, whenever it is run. The handler is looked for in the current
directory, which is remembered. A destination is a stream's name, file:DIR or s3:DIR, or
an ARN whose last part names the stream or bucket.

\b
Exit codes: 0 made, 2 refused with Lambda's words and nothing made.
"""

_RESET_EPILOG = """\b
Examples:
  streamfn mapping reset-checkpoint app.handler@orders --to TRIM_HORIZON
  streamfn mapping reset-checkpoint UUID --to 2025-11-25T08:00:00Z
  streamfn mapping reset-checkpoint UUID --to 49590338271490256608559692538361571095921575989136588898

\b
What follows the new position is delivered again; what lies between an old and a later
one is not delivered at all. A sequence number moves its shard alone. The state of a
tumbling window that is pending is dropped. Not while it runs, unless it is disabled.
"""


@click.group(epilog=_GROUP_EPILOG)
def mapping() -> None:
    """Create, list, change and delete event source mappings."""


def _values(command: F) -> F:
    """The options that `create` and `update` share."""
    for option in reversed(
        (
            click.option("--enabled/--no-enabled", default=None, help="Whether it is to run."),
            click.option("--batch-size", type=int, metavar="N", help="Records in a batch, at most: 1 to 10000."),
            click.option("--maximum-batching-window-in-seconds", type=int, metavar="S", help="0 to 300."),
            click.option(
                "--parallelization-factor", type=int, metavar="N", help="Batches of a shard at once: 1 to 10."
            ),
            click.option("--filter-criteria", metavar="JSON", help="Filters=[{Pattern=...}]: only what matches one."),
            click.option("--filters-max", type=int, metavar="N", help="How many filters are allowed: 5, or up to 10."),
            click.option("--destination-config", metavar="JSON", help="OnFailure={Destination=...}"),
            click.option("--function-response-types", multiple=True, metavar="TYPE", help="ReportBatchItemFailures"),
            click.option(
                "--bisect-batch-on-function-error/--no-bisect-batch-on-function-error",
                default=None,
                help="Split a failed batch in two.",
            ),
            click.option("--maximum-retry-attempts", type=int, metavar="N", help="-1 (for ever) to 10000."),
            click.option("--maximum-record-age-in-seconds", type=int, metavar="S", help="60 to 604800, or -1."),
            click.option("--tumbling-window-in-seconds", type=int, metavar="S", help="0 to 900."),
            click.option("--metrics-config", metavar="JSON", help="Metrics=[EventCount]: they are always counted."),
            click.option("--cli-input-json", metavar="JSON", help="The request as JSON, or file://PATH."),
        )
    ):
        command = option(command)
    return command


def _which(command: F) -> F:
    """The mapping, as an argument or as the AWS CLI has it."""
    command = click.option("--uuid", metavar="UUID", help="The same as the argument.")(command)
    return click.argument("which", metavar="MAPPING", required=False)(command)


@mapping.command(epilog=_CREATE_EPILOG)
@click.option("--function-name", metavar="HANDLER", help="module.function, from the current directory.")
@click.option("--event-source-arn", metavar="STREAM", help="The stream's name or ARN.")
@click.option("--starting-position", metavar="TRIM_HORIZON|LATEST|AT_TIMESTAMP", help="Where it begins.")
@click.option("--starting-position-timestamp", metavar="TIME", help="ISO 8601, or seconds since 1970.")
@click.option("--tags", metavar="JSON", help="KEY=VALUE,...: kept, and of no effect.")
@click.option("--name", metavar="NAME", help="Ours: a name of its own.  [default: its UUID]")
@_values
@common_options
def create(settings: Settings, /, **given: Any) -> None:
    """Make a mapping of a handler on a stream; `streamfn run` runs it."""
    from streamfn.cli.mappings import create as work

    work(settings, given)


@mapping.command(
    "list",
    epilog=examples(
        "streamfn mapping list",
        "streamfn mapping list --event-source-arn orders --all",
    ),
)
@click.option("--function-name", metavar="HANDLER", help="Those of this function.")
@click.option("--event-source-arn", metavar="STREAM", help="Those on this stream.")
@click.option("--max-items", type=click.IntRange(min=1), metavar="N", help="So many at most.")
@click.option("--all", "everything", is_flag=True, help="Ours: also those that `run HANDLER` left behind.")
@common_options
def list_(settings: Settings, /, everything: bool, **given: Any) -> None:
    """List the mappings."""
    from streamfn.cli.mappings import list_ as work

    work(settings, given, everything)


@mapping.command(
    epilog=examples(
        "streamfn mapping show totals",
        "streamfn mapping show totals --metrics --json",
    ),
)
@_which
@click.option("--metrics", is_flag=True, help="Ours: its event counts instead.")
@common_options
def show(settings: Settings, which: str | None, uuid: str | None, metrics: bool) -> None:
    """Show a mapping."""
    from streamfn.cli.mappings import show as work

    work(settings, _one(which, uuid), metrics)


@mapping.command(
    epilog=examples(
        "streamfn mapping update totals --batch-size 500",
        "streamfn mapping update totals --function-name app.other --maximum-retry-attempts 3",
    ),
)
@_which
@click.option("--function-name", metavar="HANDLER", help="Another handler, from the current directory.")
@_values
@common_options
def update(settings: Settings, /, which: str | None, uuid: str | None, **given: Any) -> None:
    """Change a mapping, at the edge of a batch where it runs; what is not given stays."""
    from streamfn.cli.mappings import update as work

    if which is not None and uuid is not None:
        raise click.UsageError("name one mapping: its UUID or name as the argument, or --uuid")
    work(settings, which or uuid, given)


@mapping.command(epilog=examples("streamfn mapping enable totals"))
@_which
@common_options
def enable(settings: Settings, which: str | None, uuid: str | None) -> None:
    """Have a mapping run again: it goes on where it was."""
    from streamfn.cli.mappings import update as work

    work(settings, _one(which, uuid), {"enabled": True})


@mapping.command(epilog=examples("streamfn mapping disable totals"))
@_which
@common_options
def disable(settings: Settings, which: str | None, uuid: str | None) -> None:
    """Have a mapping stop at the edge of a batch."""
    from streamfn.cli.mappings import update as work

    work(settings, _one(which, uuid), {"enabled": False})


@mapping.command(epilog=examples("streamfn mapping delete totals"))
@_which
@common_options
def delete(settings: Settings, which: str | None, uuid: str | None) -> None:
    """Delete a mapping and its checkpoints."""
    from streamfn.cli.mappings import delete as work

    work(settings, _one(which, uuid))


@mapping.command("reset-checkpoint", epilog=_RESET_EPILOG)
@_which
@click.option("--to", "position", required=True, metavar="POSITION", help="TRIM_HORIZON, LATEST, a time, or a number.")
@common_options
def reset_checkpoint(settings: Settings, which: str | None, uuid: str | None, position: str) -> None:
    """Put a mapping elsewhere in its stream."""
    from streamfn.cli.mappings import reset as work

    work(settings, _one(which, uuid), position)


def _one(which: str | None, uuid: str | None) -> str:
    if (which is None) == (uuid is None):
        raise click.UsageError("name one mapping: its UUID or name as the argument, or --uuid")
    return which or uuid or ""
