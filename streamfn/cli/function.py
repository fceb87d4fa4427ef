"""`streamfn function`: functions that are stored under a name, with the AWS CLI's options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from streamfn.cli.options import Settings, common_options, examples

F = TypeVar("F", bound=Callable[..., Any])

_GROUP_EPILOG = """\b
Examples:
  streamfn function create orders --handler app.handler --memory-size 256 --timeout 10
  streamfn function list
  streamfn invoke orders -e event.json
  streamfn run orders --stream orders --until-caught-up
  streamfn mapping create --function-name orders --event-source-arn orders \\
      --starting-position TRIM_HORIZON

\b
Options are those of `aws lambda create-function` and its neighbours, and so are the
answers. A function is named as the argument or by --function-name: its name or its ARN.
Every one of these commands takes --data-dir, and --json, which prints the answer on one
line.
"""

_CREATE_EPILOG = """\b
Examples:
  streamfn function create orders --handler app.handler
  streamfn function create orders --handler src/app.handler --code-dir /srv/orders \\
      --memory-size 512 --timeout 30 --ephemeral-storage Size=1024 \\
      --environment 'Variables={STAGE=test,TABLE=orders}' --layers /srv/layers/common
  streamfn function create orders --handler app.handler --reserved-concurrency 4 \\
      --provisioned-concurrency 2
  streamfn function create --cli-input-json file://function.json

\b
The code is not copied: it is what lies in the code directory. Its digest is CodeSha256,
and a change of it is a new version, which running mappings pick up at the edge of a
batch. Of a layer, python/ and the directory itself are put on the path.

\b
Exit codes: 0 made, 2 refused with Lambda's words and nothing made.
"""

_UPDATE_EPILOG = """\b
Examples:
  streamfn function update orders --timeout 30 --memory-size 512
  streamfn function update orders --env STAGE=live          (the other variables go)
  streamfn function update orders --reserved-concurrency none
"""


@click.group(epilog=_GROUP_EPILOG)
def function() -> None:
    """Create, list, change and delete functions."""


def _values(command: F) -> F:
    """The options that `create` and `update` share."""
    for option in reversed(
        (
            click.option("--handler", metavar="HANDLER", help="module.function, or module:function."),
            click.option("--code-dir", metavar="DIR", help="Where the code is.  [default: the current directory]"),
            click.option("--timeout", type=int, metavar="S", help="Of one invocation: 1 to 900.  [default: 3]"),
            click.option("--memory-size", type=int, metavar="MB", help="128 to 10240.  [default: 128]"),
            click.option(
                "--ephemeral-storage", metavar="MB", help="Its /tmp: 512 to 10240, or Size=512.  [default: 512]"
            ),
            click.option("--environment", metavar="JSON", help="Variables={NAME=VALUE,...}: 4 KB at most."),
            click.option("--env", "env", multiple=True, metavar="K=V", help="Ours: one variable; may be repeated."),
            click.option(
                "--layers", multiple=True, metavar="DIR", help="A directory for the path; up to 5 times, in order."
            ),
            click.option("--description", metavar="TEXT", help="Up to 256 characters."),
            click.option(
                "--reserved-concurrency",
                "--reserved-concurrent-executions",
                "reserved_concurrency",
                metavar="N",
                help="Invocations at a time, at most; 0: none; none: no limit.",
            ),
            click.option(
                "--provisioned-concurrency",
                "--provisioned-concurrent-executions",
                "provisioned_concurrency",
                metavar="N",
                help="So many workers are kept warm; none: as many as it may have.",
            ),
            click.option(
                "--isolation", metavar="process|sandbox", help="Ours: how far it is kept away.  [default: process]"
            ),
            click.option("--allow-network/--no-allow-network", default=None, help="Ours: a sandbox has the network."),
            click.option(
                "--start-method", metavar="fork|spawn", help="Ours: spawn: every worker imports it.  [default: fork]"
            ),
            click.option("--runtime", metavar="pythonX.Y", help="Only this Python's own."),
            click.option("--role", metavar="ARN", help="Kept, and of no effect."),
            click.option("--cli-input-json", metavar="JSON", help="The request as JSON, or file://PATH."),
        )
    ):
        command = option(command)
    return command


def _which(command: F) -> F:
    """The function, as an argument or as the AWS CLI has it."""
    command = click.option("--function-name", metavar="NAME", help="The same as the argument.")(command)
    return click.argument("which", metavar="NAME", required=False)(command)


@function.command(epilog=_CREATE_EPILOG)
@_which
@_values
@common_options
def create(settings: Settings, /, which: str | None, function_name: str | None, **given: Any) -> None:
    """Store a function under a name."""
    from streamfn.cli.functions import create as work

    work(settings, _at_most_one(which, function_name), given)


@function.command(
    "list",
    epilog=examples(
        "streamfn function list",
        "streamfn function list --json | jq -r '.Functions[].FunctionName'",
    ),
)
@click.option("--max-items", type=click.IntRange(min=1), metavar="N", help="So many at most.")
@common_options
def list_(settings: Settings, max_items: int | None) -> None:
    """List the functions."""
    from streamfn.cli.functions import list_ as work

    work(settings, max_items)


@function.command(epilog=examples("streamfn function show orders", "streamfn function show orders --qualifier 2"))
@_which
@click.option("--qualifier", metavar="VERSION", help="$LATEST, or the number of a version.")
@common_options
def show(settings: Settings, which: str | None, function_name: str | None, qualifier: str | None) -> None:
    """Show a function."""
    from streamfn.cli.functions import show as work

    work(settings, _one(which, function_name), qualifier)


@function.command(epilog=_UPDATE_EPILOG)
@_which
@_values
@common_options
def update(settings: Settings, /, which: str | None, function_name: str | None, **given: Any) -> None:
    """Change a function, at the edge of a batch where it runs; what is not given stays."""
    from streamfn.cli.functions import update as work

    work(settings, _at_most_one(which, function_name), given)


@function.command(epilog=examples("streamfn function delete orders"))
@_which
@common_options
def delete(settings: Settings, which: str | None, function_name: str | None) -> None:
    """Forget a function; its code and its mappings stay."""
    from streamfn.cli.functions import delete as work

    work(settings, _one(which, function_name))


@function.command(epilog=examples("streamfn function versions orders"))
@_which
@click.option("--max-items", type=click.IntRange(min=1), metavar="N", help="So many at most.")
@common_options
def versions(settings: Settings, which: str | None, function_name: str | None, max_items: int | None) -> None:
    """Show the versions that a function has had: code and configuration."""
    from streamfn.cli.functions import versions as work

    work(settings, _one(which, function_name), max_items)


def _at_most_one(which: str | None, function_name: str | None) -> str | None:
    if which is not None and function_name is not None:
        raise click.UsageError("name one function: as the argument, or by --function-name")
    return which if which is not None else function_name


def _one(which: str | None, function_name: str | None) -> str:
    name = _at_most_one(which, function_name)
    if name is None:
        raise click.UsageError("name a function: as the argument, or by --function-name")
    return name
