"""The command line of a process of ours: an interpreter that runs one module of this very package."""

from __future__ import annotations

import sys
from pathlib import Path

# The directory that holds this very package goes in front for its import only: neither the working
# directory nor the user's PYTHONPATH decides which streamfn is run, and handlers do not see it.
_BOOT = (
    "import sys; fd = int(sys.argv[1]); sys.path.insert(0, sys.argv[2]); import streamfn.pool.{0} as module; "
    "del sys.path[0], sys.argv[1:]; module.serve(fd)"
)
_ROOT = str(Path(__file__).resolve().parents[2])


def command(module: str, fd: int) -> list[str]:
    """Give the arguments of an interpreter that calls `serve(fd)` of a module of `streamfn.pool`."""
    return [sys.executable, "-P", "-c", _BOOT.format(module), str(fd), _ROOT]
