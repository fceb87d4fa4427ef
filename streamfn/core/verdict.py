"""What becomes of a batch whose delivery was not a certain success.  Pure: outcome in, verdict out.

A certain success needs no judgement: the worker recognises it and goes on by itself.  Everything else is
decided here, in this order:

    the function was not to blame (a throttle, an error of the service)      the same batch again, no attempt used
    more than one record, and bisecting is on                                two halves, no attempt used
    deliveries so far > MaximumRetryAttempts                                 discarded
    otherwise                                                                the same batch again

With Lambda's defaults (MaximumRetryAttempts -1, MaximumRecordAgeInSeconds -1, no bisecting) a batch is tried
until it succeeds.  A verdict is a value that carries all the lane needs to act on it.  Age is not judged here
but when a batch is handed over (lane.py), because it also ends the life of what never failed.

Where somebody wants to decide instead (`asks`), what the function is to blame for is a retry that is never due
(`UNDECIDED_NS`): the lane waits, until it is told a `Decision`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from streamfn.core.backoff import Backoff, Draw
from streamfn.types import Fault, Run

UNDECIDED_NS = 1 << 62
"""When a retry is due that waits for a decision: at no time that a clock reaches."""


class Condition(StrEnum):
    """Why records were discarded.  The first two are Lambda's words; for the others AWS has none."""

    RETRY_ATTEMPTS_EXHAUSTED = "RetryAttemptsExhausted"
    RECORD_AGE_EXCEEDED = "RecordAgeExceeded"
    RECORD_TOO_LARGE = "RecordTooLarge"
    SKIPPED = "Skipped"


class Decision(StrEnum):
    """What somebody who was asked says of a failed batch."""

    RETRY = "retry"  # the same batch again, at once
    SKIP = "skip"  # given up
    BISECT = "bisect"  # two halves, at once; not of one record
    FOLLOW = "follow"  # what the policy says where nobody is asked


class Discarded(NamedTuple):
    """Records that have their disposition without a success.  Offsets are the lane's positions.

    `attempts` counts deliveries of these records as one batch, 0 if there was none; `fault` is that of the
    last one, None if there was none or nobody remembers it.
    """

    first_offset: int
    records: int
    condition: Condition
    attempts: int
    fault: Fault | None


class Retry(NamedTuple):
    """The same records again as one batch: delivery number `attempt`, not before `due_ns`.

    `failures` is how often in a row these records did not succeed, what cost no attempt included: the wait grows
    with it.
    """

    first_offset: int
    records: int
    attempt: int
    due_ns: int
    fault: Fault
    failures: int


class Split(NamedTuple):
    """The first `records` of the batch as a batch of its own, and the rest as another; both at once, and new."""

    records: int


class Discard(NamedTuple):
    """The batch is given up after `attempts` deliveries."""

    condition: Condition
    attempts: int
    fault: Fault


Verdict: TypeAlias = Retry | Split | Discard


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What a mapping says about failures; the defaults are Lambda's.

    `maximum_retry_attempts`: a batch is delivered at most once more often than this, then discarded; None is
    Lambda's -1, for ever.  `maximum_record_age_ms`: older records are not delivered any more but discarded; None is
    Lambda's -1.  `bisect` is BisectBatchOnFunctionError.  `backoff` paces the retries.  `asks`: what becomes of a
    failed batch is decided elsewhere, `FOLLOW` by the other fields.
    """

    backoff: Backoff = field(default_factory=Backoff)
    maximum_retry_attempts: int | None = None
    maximum_record_age_ms: int | None = None
    bisect: bool = False
    asks: bool = False

    def __post_init__(self) -> None:
        assert self.maximum_retry_attempts is None or self.maximum_retry_attempts >= 0
        assert self.maximum_record_age_ms is None or self.maximum_record_age_ms >= 0

    def judge(
        self, batch: Run, failures: int, fault: Fault, now_ns: int, draw: Draw, *, charged: bool = True
    ) -> Verdict:
        """Decide about `batch` (one batch), which was delivered and whose `failures`-th failure in a row `fault` is.

        `charged` is False where the function is not to blame: that costs no attempt (Lambda's developer guide, "How
        Lambda processes records from stream and queue-based event sources": throttles and service errors do not
        use up MaximumRetryAttempts).

        Splitting costs neither an attempt nor a wait: that it does not use up the retries is the guide's word, that
        the halves begin anew is what it amounts to.  So with bisecting only single records are ever retried.
        """
        assert batch.batches == 1
        if charged and self.asks:
            return Retry(batch.first_offset, batch.records, batch.attempt + 1, UNDECIDED_NS, fault, failures)
        if charged and self.bisect and batch.records > 1:
            return Split(batch.records // 2)
        limit = self.maximum_retry_attempts
        if charged and limit is not None and batch.attempt > limit:
            return Discard(Condition.RETRY_ATTEMPTS_EXHAUSTED, batch.attempt, fault)
        due_ns = now_ns + self.backoff.delay_ns(failures, draw)
        return Retry(batch.first_offset, batch.records, batch.attempt + charged, due_ns, fault, failures)

    def decide(self, decision: Decision, waiting: Retry, now_ns: int, draw: Draw) -> Verdict:
        """Return what a decision about a batch that waits for one comes to; bisecting needs two records at least."""
        first_offset, records, attempt, _, fault, failures = waiting
        attempts = max(1, attempt - 1)  # what is left of a batch was delivered in it
        match decision:
            case Decision.BISECT:
                assert records > 1, "one record has no halves"
                return Split(records // 2)
            case Decision.SKIP:
                return Discard(Condition.SKIPPED, attempts, fault)
            case Decision.FOLLOW if failures:
                batch = Run(first_offset, records, 1, attempts)
                return replace(self, asks=False).judge(batch, failures, fault, now_ns, draw)
            case _:  # what is left of a batch is new, and goes at once whatever the policy says
                return waiting._replace(due_ns=now_ns)
