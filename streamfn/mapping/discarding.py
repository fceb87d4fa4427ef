"""What is kept of a batch that was given up: everything its on-failure record will say, read while it is at hand."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamfn.log.segment.rows import time_ms
from streamfn.state.discards import Discard
from streamfn.types import Failure

if TYPE_CHECKING:
    from streamfn.log.segment.rows import Row
    from streamfn.types import Fault

# A line for people: what a handler raised may be megabytes of text.
DETAIL_CHARS_MAX = 1_000


def discard_of(
    shard_id: str,
    offsets: Sequence[int],
    first: Row,
    last: Row,
    *,
    condition: str,
    attempts: int,
    fault: Fault | None,
    unhandled: bool,
    request_id: str | None,
    function_arn: str,
    destination: str,
    now_ms: int,
) -> Discard:
    """Return the row of a discarded batch.

    Args:
        shard_id: the shard's.
        offsets: of the batch's records, shard offsets, ascending; a range where they are all of it.
        first: its first record, as `log.segment.rows.rows` reads it.
        last: its last one.
        condition: why: see `Discard`.
        attempts: deliveries of this batch.
        fault: why the last one did not succeed; None without one.
        unhandled: whether it failed by an error. A response may also say that the batch failed.
        request_id: of its last invocation; None without one, and a fresh one is made.
        function_arn: the function's.
        destination: as `--on-failure` has it, "" for none.
        now_ms: milliseconds since 1970, UTC.
    """
    start, end = offsets[0], offsets[-1] + 1
    whole = end - start == len(offsets)
    failure = Failure(
        attempts,
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
    detail = "" if fault is None else f"{fault.error_type}: {fault.message}"
    return Discard(shard_id, start, end, condition, detail[:DETAIL_CHARS_MAX], failure)
