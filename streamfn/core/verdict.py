"""What becomes of a batch whose delivery was not a certain success.  Pure: outcome in, verdict out.

A certain success needs no judgement: the worker recognises it and goes on by itself.  Everything else is
decided here.  With Lambda's defaults (MaximumRetryAttempts -1, MaximumRecordAgeInSeconds -1) a batch is
tried until it succeeds, so there is one verdict.  A verdict is a value that carries all the lane needs to
act on it; stricter policies answer with other values of the same union.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from streamfn.core.backoff import Backoff, Draw
from streamfn.types import Fault, Run


class Retry(NamedTuple):
    """The same records again as one batch: delivery number `attempt`, not before `due_ns`."""

    first_offset: int
    records: int
    attempt: int
    due_ns: int
    fault: Fault


Verdict: TypeAlias = Retry


class RetryPolicy(NamedTuple):
    """Try for ever, as often as `backoff` allows."""

    backoff: Backoff

    def judge(self, batch: Run, fault: Fault, now_ns: int, draw: Draw) -> Verdict:
        """Decide about `batch` (one batch), whose delivery ended now with `fault`."""
        assert batch.batches == 1
        due_ns = now_ns + self.backoff.delay_ns(batch.attempt, draw)
        return Retry(batch.first_offset, batch.records, batch.attempt + 1, due_ns, fault)
