"""What can be said of a function's execution environments, with the AWS CLI's names where it has them.

For every command that starts a function or stores one. `--timeout`, `--env` and `--workers` are the commands' own:
their defaults differ.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from streamfn.errors import RefusedError

P = ParamSpec("P")
R = TypeVar("R")

FunctionFlags = Mapping[str, Any]
"""What was given, by the names of `RunOptions`; what was not given is not in it. Layers are absolute."""

NAMES = (
    "memory_size",
    "ephemeral_storage",
    "layers",
    "isolation",
    "allow_network",
    "provisioned_concurrency",
    "start_method",
)


def function_options(command: Callable[Concatenate[FunctionFlags, P], R]) -> Callable[P, R]:
    """Give a command the options as one `flags: FunctionFlags`, its first argument."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = {name: kwargs.pop(name, None) for name in NAMES}
        given["ephemeral_storage"] = storage_mb(given["ephemeral_storage"])
        given["layers"] = tuple(os.path.abspath(layer) for layer in given["layers"] or ()) or None
        if given["layers"]:
            from streamfn.functions.starting import layer_path

            layer_path(given["layers"])  # refuse early, before a worker is started
        return command({name: value for name, value in given.items() if value is not None}, *args, **kwargs)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def storage_mb(text: object) -> int | None:
    """Megabytes, from a number or from the AWS CLI's `Size=N` or `{"Size": N}`.

    Raises:
        RefusedError: it is neither.
    """
    if text is None:
        return None
    found = re.fullmatch(r'(?:Size=)?(-?[0-9]+)|\{\s*"Size"\s*:\s*(-?[0-9]+)\s*\}', str(text).strip())
    if found is None:
        raise RefusedError(f"--ephemeral-storage takes megabytes, as 512 or Size=512, not {text!r}")
    return int(found[1] or found[2])


_OPTIONS = (
    click.option(
        "--memory-size",
        type=int,
        metavar="MB",
        help="Of one worker: 128 to 10240.  [default: no limit]",
    ),
    click.option(
        "--ephemeral-storage",
        metavar="MB",
        help="A /tmp of its own for each worker, 512 to 10240; Size=512 is the same.  [default: the machine's /tmp]",
    ),
    click.option(
        "--layers",
        multiple=True,
        metavar="DIR",
        help="A directory whose python/ and itself are put on the path behind the code; may be repeated.",
    ),
    click.option("--isolation", metavar="process|sandbox", help="How far workers are kept away."),
    click.option("--allow-network", is_flag=True, default=None, help="A sandbox has the network."),
    click.option(
        "--provisioned-concurrency",
        type=int,
        metavar="N",
        help="So many workers are always warm; others come as they are needed.  [default: all]",
    ),
    click.option(
        "--start-method",
        metavar="fork|spawn",
        help="spawn: every worker imports the handler itself.  [default: fork]",
    ),
)
