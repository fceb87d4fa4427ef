"""streamfn: AWS-Lambda-style functions on event streams, on your own machine, fast.

    async with streamfn.open() as session:              # from Trio
        await session.put("clicks", b'{"page": "/"}')
        result = await session.run_until_caught_up("app.handler", "clicks")

    with streamfn.open_sync() as session:               # from anywhere else
        ...

Names are imported when they are first used: a worker process imports `streamfn` too, and must not pay for trio
and pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamfn.version import VERSION as __version__

if TYPE_CHECKING:
    from streamfn.errors import (
        BusyError,
        FailedError,
        HandlerImportError,
        LogDamaged,
        RefusedError,
        StreamfnError,
    )
    from streamfn.mapping.mapping import RunResult
    from streamfn.mapping.outcome import Outcome
    from streamfn.session import Session, open
    from streamfn.sync import SyncSession, open_sync
    from streamfn.types import NewRecord, Record

_HOMES = {
    "BusyError": "streamfn.errors",
    "FailedError": "streamfn.errors",
    "HandlerImportError": "streamfn.errors",
    "LogDamaged": "streamfn.errors",
    "NewRecord": "streamfn.types",
    "Outcome": "streamfn.mapping.outcome",
    "Record": "streamfn.types",
    "RefusedError": "streamfn.errors",
    "RunResult": "streamfn.mapping.mapping",
    "Session": "streamfn.session",
    "StreamfnError": "streamfn.errors",
    "SyncSession": "streamfn.sync",
    "open": "streamfn.session",
    "open_sync": "streamfn.sync",
}

__all__ = [
    "BusyError",
    "FailedError",
    "HandlerImportError",
    "LogDamaged",
    "NewRecord",
    "Outcome",
    "Record",
    "RefusedError",
    "RunResult",
    "Session",
    "StreamfnError",
    "SyncSession",
    "__version__",
    "open",
    "open_sync",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'streamfn' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
