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
    from streamfn.doors.exporting import ExportReport
    from streamfn.doors.files import ExportOptions, ImportOptions
    from streamfn.doors.functions import Functions
    from streamfn.doors.importing import ImportReport
    from streamfn.doors.managing import ManagedMappings
    from streamfn.doors.mapping import Mapping, Outcomes
    from streamfn.doors.options import FunctionOptions, MappingOptions
    from streamfn.doors.putting import Put
    from streamfn.doors.records import Changes, Records, StoredChange, StoredRecord
    from streamfn.doors.streams import Stream
    from streamfn.errors import (
        BusyError,
        DiskFull,
        FailedError,
        Fenced,
        HandlerImportError,
        LogDamaged,
        LogError,
        PoolClosed,
        RefusedError,
        StreamfnError,
    )
    from streamfn.events.arrow import arrow_handler
    from streamfn.mapping.invoking import Invocation
    from streamfn.mapping.loop import keep_task
    from streamfn.mapping.outcome import Outcome
    from streamfn.mapping.result import RunResult
    from streamfn.session import Function, MappingState, Session, open
    from streamfn.sync import (
        SyncChanges,
        SyncFunctions,
        SyncManagedMappings,
        SyncMapping,
        SyncOutcomes,
        SyncRecords,
        SyncSession,
        open_sync,
    )
    from streamfn.types import Fault, NewChange, NewRecord

_HOMES = {
    "BusyError": "streamfn.errors",
    "Changes": "streamfn.doors.records",
    "DiskFull": "streamfn.errors",
    "ExportOptions": "streamfn.doors.files",
    "ExportReport": "streamfn.doors.exporting",
    "FailedError": "streamfn.errors",
    "Fault": "streamfn.types",
    "Fenced": "streamfn.errors",
    "Function": "streamfn.session",
    "FunctionOptions": "streamfn.doors.options",
    "Functions": "streamfn.doors.functions",
    "HandlerImportError": "streamfn.errors",
    "ImportOptions": "streamfn.doors.files",
    "ImportReport": "streamfn.doors.importing",
    "Invocation": "streamfn.mapping.invoking",
    "LogDamaged": "streamfn.errors",
    "LogError": "streamfn.errors",
    "ManagedMappings": "streamfn.doors.managing",
    "Mapping": "streamfn.doors.mapping",
    "MappingOptions": "streamfn.doors.options",
    "MappingState": "streamfn.session",
    "NewChange": "streamfn.types",
    "NewRecord": "streamfn.types",
    "Outcome": "streamfn.mapping.outcome",
    "Outcomes": "streamfn.doors.mapping",
    "PoolClosed": "streamfn.errors",
    "Put": "streamfn.doors.putting",
    "Records": "streamfn.doors.records",
    "RedriveResult": "streamfn.replay.redriving",
    "RefusedError": "streamfn.errors",
    "RunResult": "streamfn.mapping.result",
    "Session": "streamfn.session",
    "StoredChange": "streamfn.doors.records",
    "StoredRecord": "streamfn.doors.records",
    "Stream": "streamfn.doors.streams",
    "StreamfnError": "streamfn.errors",
    "SyncChanges": "streamfn.sync",
    "SyncFunctions": "streamfn.sync",
    "SyncManagedMappings": "streamfn.sync",
    "SyncMapping": "streamfn.sync",
    "SyncOutcomes": "streamfn.sync",
    "SyncRecords": "streamfn.sync",
    "SyncSession": "streamfn.sync",
    "arrow_handler": "streamfn.events.arrow",
    "keep_task": "streamfn.mapping.loop",
    "open": "streamfn.session",
    "open_sync": "streamfn.sync",
}

__all__ = [
    "BusyError",
    "Changes",
    "DiskFull",
    "ExportOptions",
    "ExportReport",
    "FailedError",
    "Fault",
    "Fenced",
    "Function",
    "FunctionOptions",
    "Functions",
    "HandlerImportError",
    "ImportOptions",
    "ImportReport",
    "Invocation",
    "LogDamaged",
    "LogError",
    "ManagedMappings",
    "Mapping",
    "MappingOptions",
    "MappingState",
    "NewChange",
    "NewRecord",
    "Outcome",
    "Outcomes",
    "PoolClosed",
    "Put",
    "Records",
    "RedriveResult",
    "RefusedError",
    "RunResult",
    "Session",
    "StoredChange",
    "StoredRecord",
    "Stream",
    "StreamfnError",
    "SyncChanges",
    "SyncFunctions",
    "SyncManagedMappings",
    "SyncMapping",
    "SyncOutcomes",
    "SyncRecords",
    "SyncSession",
    "__version__",
    "arrow_handler",
    "keep_task",
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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
