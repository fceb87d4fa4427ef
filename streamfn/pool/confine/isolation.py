"""How far an execution environment is kept from the machine: its level, and what it may reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
    and Python's own.  `data_dir` is empty to it even where it lies in what it may read, as it usually does, below
    the code; segments come to it as descriptors of a read-only mount of it.
    """

    level: str = PROCESS
    network: bool = False
    readable: tuple[str, ...] = ()
    data_dir: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"an isolation level is one of {', '.join(LEVELS)}, not {self.level!r}")

    @property
    def is_sandbox(self) -> bool:
        """Whether there are walls at all."""
        return self.level == SANDBOX

    def to_json(self) -> dict[str, object]:
        """Give what `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Isolation:
        """Take what `to_json` gave."""
        return cls(
            level=fields["level"],
            network=fields["network"],
            readable=tuple(fields["readable"]),
            data_dir=fields["data_dir"],
        )


# What a sandbox inherits of the environment the runtime was started with: what makes Python, its libraries and its
# certificates be found, and how text and numbers are treated.  A list of what is allowed: what else there is may be
# a secret, credentials above all, and `--env` gives whatever a function is to have.
_INHERITED = frozenset(
    {
        "PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LANG", "LANGUAGE", "TERM", "VIRTUAL_ENV", "CONDA_PREFIX",
        "PYTHONHOME", "PYTHONPATH", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONHASHSEED", "PYTHONOPTIMIZE",
        "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "PYTHONUNBUFFERED", "PYTHONWARNINGS", "PYTHONMALLOC",
        "PYTHONFAULTHANDLER", "SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
        "AWS_REGION", "AWS_DEFAULT_REGION", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS", "ARROW_DEFAULT_MEMORY_POOL", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS",
        "TSAN_OPTIONS",
    }
)  # fmt: skip


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What a sandbox gets of the runtime's environment."""
    return {name: value for name, value in environment.items() if name in _INHERITED or name.startswith("LC_")}
