"""What tests of handlers and mappings are made of: time that a test owns, events, and a mapping that runs in it.

    from streamfn.testing import Raises, Returns, Script, run_mapping

    result = run_mapping(Script(Raises(ValueError("no"))), [b"a", b"b"], maximum_retry_attempts=2)
    assert [batch.attempt for batch in result.batches] == [1, 2]

See docs/testing.md. Names are imported when they are first used: the pytest plugin must cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfn.mapping.context import LambdaContext
    from streamfn.testing.builders import (
        DynamoDBEvent,
        KinesisEvent,
        change,
        dynamodb_batch,
        dynamodb_event,
        kinesis_batch,
        kinesis_event,
        lambda_context,
        record,
    )
    from streamfn.testing.clock import VirtualClock
    from streamfn.testing.results import Batch, Checkpoint, Discarded, MappingResult
    from streamfn.testing.running import run_mapping
    from streamfn.testing.scripts import Dies, Raises, Returns, Script, Throttled, TimesOut

_HOMES = {
    "Batch": "results",
    "Checkpoint": "results",
    "Dies": "scripts",
    "Discarded": "results",
    "DynamoDBEvent": "builders",
    "KinesisEvent": "builders",
    "LambdaContext": "builders",
    "MappingResult": "results",
    "Raises": "scripts",
    "Returns": "scripts",
    "Script": "scripts",
    "Throttled": "scripts",
    "TimesOut": "scripts",
    "VirtualClock": "clock",
    "change": "builders",
    "dynamodb_batch": "builders",
    "dynamodb_event": "builders",
    "kinesis_batch": "builders",
    "kinesis_event": "builders",
    "lambda_context": "builders",
    "record": "builders",
    "run_mapping": "running",
}

__all__ = [
    "Batch",
    "Checkpoint",
    "Dies",
    "Discarded",
    "DynamoDBEvent",
    "KinesisEvent",
    "LambdaContext",
    "MappingResult",
    "Raises",
    "Returns",
    "Script",
    "Throttled",
    "TimesOut",
    "VirtualClock",
    "change",
    "dynamodb_batch",
    "dynamodb_event",
    "kinesis_batch",
    "kinesis_event",
    "lambda_context",
    "record",
    "run_mapping",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'streamfn.testing' has no attribute {name!r}")
    value = getattr(import_module(f"streamfn.testing.{home}"), name)
    globals()[name] = value
    return value
