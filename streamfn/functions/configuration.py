"""A function's configuration: what it is, whoever starts it, in the words of our code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamfn import limits
from streamfn.pool.confine.isolation import PROCESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a function is. Values have been checked (`ranges`).

    Attributes:
        name: the function's name.
        handler: `module.function`, `dir/module.function` or `module:function`.
        code_dir: an absolute directory: where workers start, and where the handler is looked up first.
        timeout_s: of one invocation; None, for debugging only: no timeout.
        memory_size: of one execution environment, in MB of 1,048,576 bytes; None: no limit.
        ephemeral_storage: the size of an environment's own /tmp, in MB; None: /tmp is the machine's.
        environment: variables added to the handlers' environment.
        layers: absolute directories that are put on the path behind the code directory.
        isolation: `process` or `sandbox`: see `pool.confine.isolation`.
        allow_network: a sandbox has the machine's network.
        provisioned_concurrency: how many workers are kept warm; None: as many as there may be.
        reserved_concurrency: how many invocations there may be at a time; None: as many as there are workers.
        start_method: `fork`: workers are forked when the module was imported; `spawn`: they import it themselves.
    """

    name: str
    handler: str
    code_dir: str
    timeout_s: int | None = limits.FUNCTION_TIMEOUT_S_DEFAULT
    memory_size: int | None = None
    ephemeral_storage: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    isolation: str = PROCESS
    allow_network: bool = False
    provisioned_concurrency: int | None = None
    reserved_concurrency: int | None = None
    start_method: str = "fork"


def function_name_of(handler: str) -> str:
    """The name of a function that is not stored: its handler's, with `.`, `:` and `/` turned into `-`."""
    return handler.translate(str.maketrans(".:/", "---"))


def function_arn(region: str, name: str) -> str:
    """The function's ARN, unqualified."""
    return f"arn:aws:lambda:{region}:{limits.ACCOUNT}:function:{name}"
