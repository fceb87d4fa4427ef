"""What is kept of a batch that was given up: everything its on-failure record will say, read while it is at hand."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from streamfn.log.segment.rows import rows, time_ms
from streamfn.state.discards import Discard
from streamfn.types import Failure

if TYPE_CHECKING:
    from streamfn.log.segment.rows import Row
    from streamfn.mapping.pieces import Span
    from streamfn.types import Fault

# A line for people: what a handler raised may be megabytes of text.
DETAIL_CHARS_MAX = 1_000


class Disposed(Protocol):
    """What a lane machine says of a batch that it gave up: see `core.verdict`."""

    @property
    def condition(self) -> str:
        """Why, in the on-failure record's words."""

    @property
    def attempts(self) -> int:
        """How often this batch was delivered."""

    @property
    def fault(self) -> Fault | None:
        """Why its last delivery did not succeed; None where there was none."""


def discard_of(
    shard_id: str,
    spans: Sequence[Span],
    disposed: Disposed,
    *,
    request_id: str = "",
    function_error: str | None,
    function_arn: str,
    destination: str,
    now_ms: int,
) -> Discard:
    """Return the row of a batch that was given up.

    Args:
        shard_id: the shard's.
        spans: where the batch's records lie, in order.
        disposed: what became of it.
        request_id: of its last invocation; empty without one, and a fresh one is made.
        function_error: `Unhandled`, or None where its response said that it failed.
        function_arn: the function's.
        destination: where the on-failure record goes, as `resolve_destination` returns it; empty: nowhere.
        now_ms: milliseconds since 1970, UTC.
    """
    first = _row(spans[0], spans[0].rows[0])
    last = _row(spans[-1], spans[-1].rows[-1])
    records = sum(len(span.rows) for span in spans)
    start, end = first.offset, last.offset + 1
    offsets = None
    if end - start != records:
        offsets = tuple(span.message.first_offset + row for span in spans for row in span.rows)
    failure = Failure(
        attempts=disposed.attempts,
        request_id=request_id or str(uuid.uuid4()),
        function_arn=function_arn,
        function_error=function_error,
        records=records,
        first_sequence_number=first.sequence_number,
        last_sequence_number=last.sequence_number,
        first_arrival_ms=time_ms(first),
        last_arrival_ms=time_ms(last),
        time_ms=now_ms,
        offsets=offsets,
        destination=destination,
    )
    fault = disposed.fault
    detail = "" if fault is None else f"{fault.error_type}: {fault.message}"
    return Discard(shard_id, start, end, disposed.condition, detail[:DETAIL_CHARS_MAX], failure)


def _row(span: Span, number: int) -> Row:
    return rows(span.message, number, 1)[0]
