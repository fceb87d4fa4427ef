"""How far an execution environment is kept from the machine: its level, and what it may reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PROCESS = "process"
SANDBOX = "sandbox"
LEVELS = (PROCESS, SANDBOX)


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """The walls around one function's zygote and its workers.

    `level` is one of LEVELS.  `process` contains a crash and nothing else: a worker has a process of its own,
    and everything the user who runs the runtime has.  `sandbox` adds namespaces, landlock and a seccomp filter.
    `network` and `readable` count at level `sandbox` only: `network` leaves the machine's network to the function;
    `readable` are absolute paths of files and directories it may read (its code, its layers), beside the system's
    and Python's own.
    """

    level: str = PROCESS
    network: bool = False
    readable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"an isolation level is one of {', '.join(LEVELS)}, not {self.level!r}")

    @property
    def is_sandbox(self) -> bool:
        """Whether there are walls at all."""
        return self.level == SANDBOX

    def to_json(self) -> dict[str, object]:
        """Give what `from_json` takes."""
        return {"level": self.level, "network": self.network, "readable": list(self.readable)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Isolation:
        """Take what `to_json` gave."""
        return cls(level=fields["level"], network=fields["network"], readable=tuple(fields["readable"]))
