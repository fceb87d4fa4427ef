"""Options that every command has, and how they reach it.

A command takes `settings: Settings` as its first argument:

    @click.command()
    @common_options
    def inspect(settings: Settings, ...) -> None: ...

`--data-dir` may be given before or after the command's name; the later one wins.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")


class _DataDirOption(NamedTuple):
    envvar: str
    default: str
    help: str


DATA_DIR = _DataDirOption(
    "STREAMFN_DATA_DIR",
    ".streamfn",
    "Where streams and checkpoints are.  [env: STREAMFN_DATA_DIR; default: ./.streamfn]",
)
_KEY = "streamfn.data_dir"


@dataclass(frozen=True, slots=True)
class Settings:
    """What every command is told: where its data is, and whether a program reads its output."""

    data_dir: Path
    json_output: bool


def remember_data_dir(ctx: click.Context, data_dir: str | None) -> None:
    """Keep the `--data-dir` given before the command's name."""
    ctx.meta[_KEY] = data_dir


def common_options(command: Callable[Concatenate[Settings, P], R]) -> Callable[P, R]:
    """Give a command `--data-dir` and `--json` as one `Settings`."""

    @click.option("--data-dir", "common_data_dir", type=click.Path(), default=None, help=DATA_DIR.help)
    @click.option("--json", "common_json", is_flag=True, help="Print JSON on standard output, for programs.")
    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        given = (
            kwargs.pop("common_data_dir") or click.get_current_context().meta.get(_KEY) or DATA_DIR.default
        )
        settings = Settings(Path(str(given)), bool(kwargs.pop("common_json")))
        return command(settings, *args, **kwargs)

    return wrapped


def examples(*lines: str) -> str:
    """The end of a command's help that shows how it is called."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def metrics_option(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command `--metrics-port` as `metrics_port: int | None`, for `doors.metrics.metrics_at`."""
    return click.option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        help="Answer Prometheus' scrapes at http://127.0.0.1:PORT/metrics; 0: any free port, which is said.",
    )(command)


def durability_option(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command `--durability` as `durability: Durability`; a value that is none exits 2."""
    return click.option(
        "--durability",
        metavar="MODE",
        default="fsync",
        callback=_durability,
        help="What an acknowledged record has survived: fsync, interval(MS) or os.  [default: fsync]",
    )(command)


def _durability(ctx: click.Context, param: click.Parameter, value: str) -> object:
    # Here, so that commands without it load nothing for it.
    from streamfn.log.storage.durability import Durability

    return Durability.parse(value)
