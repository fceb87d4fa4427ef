"""What is kept of a batch that was given up: everything its on-failure record will say, read while it is at hand."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamfn.events.window import bound_text
from streamfn.log.segment.rows import rows, time_ms
from streamfn.mapping.pieces import offsets_of
from streamfn.state.discards import Discard
from streamfn.types import Failure

if TYPE_CHECKING:
    from streamfn.core.verdict import Discarded
    from streamfn.mapping.pieces import Span
    from streamfn.types import Envelope, Fault

# A line for people: what a handler raised may be megabytes of text.
DETAIL_CHARS_MAX = 1_000


def discard_of(
    shard_id: str,
    gone: Discarded,
    spans: Sequence[Span],
    *,
    unhandled: bool,
    request_id: str | None,
    function_arn: str,
    destination: str,
    now_ms: int,
) -> Discard:
    """Return the row of a discarded batch.

    Args:
        shard_id: the shard's.
        gone: what the lane's machine says of it.
        spans: where its records lie, in order.
        unhandled: whether it failed by an error. A response may also say that the batch failed.
        request_id: of its last invocation; None without one, and a fresh one is made.
        function_arn: the function's.
        destination: as `--on-failure` has it, "" for none.
        now_ms: milliseconds since 1970, UTC.
    """
    (message, (row, *_)), (last_message, (*_, last_row)) = spans[0], spans[-1]
    (first,), (last,) = rows(message, row, 1), rows(last_message, last_row, 1)
    offsets = offsets_of(spans)
    start, end = offsets[0], offsets[-1] + 1
    whole = end - start == len(offsets)
    failure = Failure(
        gone.attempts,
        request_id or str(uuid.uuid4()),
        function_arn,
        "Unhandled" if unhandled else None,
        len(offsets),
        first.sequence_number,
        last.sequence_number,
        time_ms(first),
        time_ms(last),
        now_ms,
        None if whole else tuple(offsets),
        destination,
    )
    return Discard(shard_id, start, end, str(gone.condition), _told(gone.fault)[:DETAIL_CHARS_MAX], failure)


def said_of(discard: Discard, gone: Discarded) -> str:
    """A discarded batch as a line for people."""
    why = f"{gone.condition} after {_attempts(gone)}" if gone.attempts else str(gone.condition)
    what = "1 record at" if gone.records == 1 else f"{gone.records} records from"
    text = f"{discard.shard_id} discards {what} offset {discard.first_offset}, {why}"
    return f"{text}: {discard.detail}" if discard.detail else text


def call_given_up(shard_id: str, offset: int, gone: Discarded, told: Envelope) -> Discard:
    """Return the row of a window's call without records, which was tried often enough."""
    what = "final invocation" if told.is_final else "early termination"
    fault = _told(gone.fault)
    detail = f"{what} of the window {bound_text(told.start_ms)}, after {_attempts(gone)}{fault and ': '}{fault}"
    return Discard(shard_id, offset, offset, str(gone.condition), detail[:DETAIL_CHARS_MAX])


def _attempts(gone: Discarded) -> str:
    return "1 attempt" if gone.attempts == 1 else f"{gone.attempts} attempts"


def _told(fault: Fault | None) -> str:
    return "" if fault is None else f"{fault.error_type}: {fault.message}"
