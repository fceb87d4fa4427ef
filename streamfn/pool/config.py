"""What the pool is told of a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from streamfn.core.scaling import IDLE_NS
from streamfn.pool.confine.isolation import Isolation
from streamfn.pool.confine.limits import Limits


@dataclass(frozen=True, kw_only=True)
class FunctionConfig:
    """What a function is.

    `main` names the module that workers run: it has `init(settings) -> state`, which may raise
    `protocol.InitFailed`, and `main(state, seat)`.  `settings` must be JSON-able.  `environment` is the
    complete environment of the workers.  `timeout_s` None: never.  `debug`: workers inherit the terminal.

    `minimum` workers are kept ready, and there are never more than `maximum`, which is set aside for the function
    where `reserved` (of the pool's concurrency).  `provisioned`: the minimum was asked for, so that Init has Lambda's
    time for that.  A worker beyond the minimum ends when it has been idle for `idle_s`.  `counted` false: none of the
    pool's concurrency is spent on it.

    `start_method` "fork": Init is done once and workers are forked from there; "spawn": each worker is a fresh
    interpreter and does Init itself.  Each does it itself also where Init leaves something behind that does not
    survive a fork.  `limits` and `isolation` are those of every execution environment.
    `callable`: a function without an importable name; its zygote is forked from this process, and `init`
    finds it as `settings["callable"]`.
    """

    name: str
    main: str
    settings: Mapping[str, object]
    code_dir: str
    environment: Mapping[str, str]
    minimum: int
    maximum: int
    timeout_s: float | None
    reserved: bool = False
    provisioned: bool = False
    idle_s: float = IDLE_NS / 1e9
    counted: bool = True
    start_method: Literal["fork", "spawn"] = "fork"
    limits: Limits = field(default_factory=Limits)
    isolation: Isolation = field(default_factory=Isolation)
    debug: bool = False
    callable: Callable[..., object] | None = None

    def __post_init__(self) -> None:
        assert 0 <= self.minimum <= self.maximum, (self.minimum, self.maximum)

    @property
    def spoken(self) -> str:
        """What a callable is called by; else the function's name."""
        return self.name if self.callable is None else str(getattr(self.callable, "__qualname__", repr(self.callable)))
