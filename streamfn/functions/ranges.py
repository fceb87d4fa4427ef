"""Which values of a function's configuration are refused: the ranges of Lambda's service model, in Lambda's words.

Where a parameter is ours, so are the words. A `run` of a handler and a stored function are checked here and nowhere
else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Protocol

from streamfn import limits
from streamfn.errors import RefusedError
from streamfn.functions.constraints import in_range, one_of, refuse
from streamfn.pool.confine.isolation import LEVELS, SANDBOX

HANDLER_CHARS_MAX = 128  # Lambda's
WORKERS_MAX = 256  # ours: far beyond the cores of one machine
START_METHODS = ("fork", "spawn")

# Lambda's words, the first two as recorded from the service, the third as its users report it.
_UNABLE = (
    "Lambda was unable to configure your environment variables because the environment variables you have provided "
)
_RESERVED = (
    f"{_UNABLE}contains reserved keys that are currently not supported for modification. "
    "Reserved keys used in this request: "
)
_TOO_LARGE = f"{_UNABLE}exceeded the 4KB limit. String measured: "
_LAYERS = f"Cannot reference more than {limits.LAYERS_MAX} layers."
_PROVISIONED = (
    "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
)


class FunctionOptions(Protocol):
    """What both `RunOptions` and a stored function's configuration say of a function; None: not said."""

    @property
    def timeout_s(self) -> int | None:
        """Of one invocation."""

    @property
    def memory_size(self) -> int | None:
        """In MB."""

    @property
    def ephemeral_storage(self) -> int | None:
        """In MB."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Directories."""

    @property
    def isolation(self) -> str:
        """The level."""

    @property
    def allow_network(self) -> bool:
        """Of a sandbox."""

    @property
    def provisioned_concurrency(self) -> int | None:
        """Workers that are kept warm."""

    @property
    def reserved_concurrency(self) -> int | None:
        """Invocations at a time."""

    @property
    def start_method(self) -> str:
        """How workers start."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables."""


def function_violations(options: FunctionOptions) -> Iterator[str]:
    """Yield, in Lambda's words, each value that is out of its range."""
    numbers = (
        ("timeout", options.timeout_s, 1, limits.FUNCTION_TIMEOUT_S_MAX),
        ("memorySize", options.memory_size, limits.MEMORY_MB_MIN, limits.MEMORY_MB_MAX),
        ("ephemeralStorage.size", options.ephemeral_storage, limits.STORAGE_MB_MIN, limits.STORAGE_MB_MAX),
        ("provisionedConcurrentExecutions", options.provisioned_concurrency, 1, WORKERS_MAX),
        ("reservedConcurrentExecutions", options.reserved_concurrency, 0, WORKERS_MAX),
    )
    for member, value, least, most in numbers:
        if value is not None:
            yield from in_range(member, value, least, most)
    yield from one_of("isolation", options.isolation, LEVELS)
    yield from one_of("startMethod", options.start_method, START_METHODS)


def check_concurrency(concurrency: int | None) -> None:
    """Raise RefusedError unless so many workers may be what all functions have together; None: no limit."""
    if concurrency is not None:
        refuse(list(in_range("concurrency", concurrency, 1, WORKERS_MAX)))


def check_function(options: FunctionOptions) -> None:
    """Refuse what each value's range allows, and what cannot be meant.

    Raises:
        RefusedError: with the first of them.
    """
    if len(options.layers) > limits.LAYERS_MAX:
        raise RefusedError(_LAYERS)
    for number, layer in enumerate(options.layers):
        if layer in options.layers[:number]:
            raise RefusedError(f"the layer {layer!r} is given twice: each directory once")
    provisioned, reserved = options.provisioned_concurrency, options.reserved_concurrency
    if provisioned is not None and reserved is not None and provisioned > reserved:
        raise RefusedError(_PROVISIONED)
    if options.allow_network and options.isolation != SANDBOX:
        raise RefusedError(
            f"allowing the network goes with isolation {SANDBOX!r}: at {options.isolation!r} nothing keeps it away"
        )
    check_environment(options.environment)


def check_environment(environment: Mapping[str, str]) -> None:
    """Raise RefusedError where a variable is one of Lambda's own or malformed, or all of them are too large."""
    reserved = sorted(key for key in environment if key == "_HANDLER" or key.startswith("AWS_LAMBDA_"))
    if reserved:
        raise RefusedError(_RESERVED + ", ".join(reserved))
    for key, value in environment.items():
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", key):
            raise RefusedError(f"environment variable {key!r} is not valid: letters, digits and _ only")
        if "\0" in value:
            raise RefusedError(f"the value of environment variable {key} contains a null character")
    measured = json.dumps(dict(environment), separators=(",", ":"), ensure_ascii=False)
    if len(measured.encode("utf-8", "surrogateescape")) > limits.ENVIRONMENT_BYTES_MAX:
        raise RefusedError(_TOO_LARGE + measured)


def check_handler(handler: str) -> None:
    """Raise RefusedError unless it is `module.function` or `module:function`, with `dir/` in front or without.

    Behind the colon there may be a method: `module:Class.method`.
    """
    module, name = r"[^\s:]*[^\s:./]", r"[^\s:./]+"
    if len(handler) > HANDLER_CHARS_MAX or not re.fullmatch(rf"{module}(\.{name}|:{name}(\.{name})*)", handler):
        raise RefusedError(f"Bad handler {handler!r}: it is named as module.function or module:function")
    if not all(re.split(r"[./]", re.split(r":|\.(?=[^./]*$)", handler)[0])):  # ./app.f, ../app.f, /srv/app.f
        raise RefusedError(
            f"Bad handler {handler!r}: its module is looked for in the code directory and below it, "
            "as in dir/module.function"
        )
