"""What became of one invocation, as a value: for those who watch a mapping, and for the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from streamfn.events import document
from streamfn.types import Fault

if TYPE_CHECKING:
    from streamfn.pool.lane import Answer, FailureKind


# Ours: a response with failures is no error to Lambda, so it has no name for it.
REPORTED = "BatchItemFailures"


class Outcome(NamedTuple):
    """One invocation's outcome.

    `request_id` is what the handler saw as `context.aws_request_id`. Its records lie in the shard from `first_offset`
    to `end_offset` (exclusive), where filters and other lanes may leave gaps between them; `attempt` counts deliveries
    of the same batch from 1. Times are nanoseconds on CLOCK_MONOTONIC; `response` is the handler's answer as JSON
    (empty when it raised), `fault` says why it is no success: of a response that reports failures its type is
    `BatchItemFailures`.
    """

    request_id: str
    shard_id: str
    first_offset: int
    end_offset: int
    records: int
    attempt: int
    invocation: int
    submitted_ns: int
    started_ns: int
    finished_ns: int
    response: bytes
    fault: Fault | None

    @property
    def succeeded(self) -> bool:
        """The handler returned, its response could be marshalled, and reports no failures."""
        return self.fault is None

    @property
    def result(self) -> Any:
        """What the handler returned, as it comes out of JSON; None when it raised."""
        return orjson.loads(self.response) if self.response else None

    @classmethod
    def of(
        cls, shard_id: str, answer: Answer, request_id: str, bounds: tuple[int, int], attempt: int, fault: Fault | None
    ) -> Outcome:
        """From the pool's answer about the batch that lies between these offsets."""
        return cls(
            request_id,
            shard_id,
            *bounds,
            answer.records,
            attempt,
            answer.invocation,
            answer.submitted_ns,
            answer.started_ns,
            answer.finished_ns,
            answer.payload if fault is None or fault.error_type == REPORTED else b"",
            fault,
        )


def fault_of(answer: Answer, how: FailureKind, request_id: str, timeout_s: float | None) -> Fault:
    """Lambda's words for a failure: the handler's own document, a timeout, or how the process ended."""
    if how.name == "TIMEOUT":
        return document.timed_out(request_id, timeout_s or 0.0)
    if how.name == "OUT_OF_MEMORY":
        return document.out_of_memory(request_id)
    if how.name == "CRASHED":
        return document.exited(request_id, answer.detail)
    try:
        parsed = orjson.loads(answer.payload)
        kind, message = parsed["errorType"], parsed["errorMessage"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        kind = message = None
    if not isinstance(kind, str) or not isinstance(message, str):
        # A handler can write anything into its own rings, so even this document is not to be trusted.
        return document.exited(request_id, "an unreadable error document")
    return Fault(kind, message, answer.payload)


def reported(reason: str, response: bytes) -> Fault:
    """What a response says that reports failures."""
    return Fault(REPORTED, reason, response)
