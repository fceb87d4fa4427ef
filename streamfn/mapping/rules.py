"""What a mapping's options mean for the machines of its lanes."""

from __future__ import annotations

from streamfn.core.backoff import Backoff
from streamfn.core.batcher import BatchRules
from streamfn.core.verdict import FailurePolicy
from streamfn.events.size import EVENT_FRAME_BYTES
from streamfn.limits import EVENT_BYTES_MAX
from streamfn.mapping.options import FOR_EVER, RunOptions


def batch_rules(batch_size: int, window_s: float) -> BatchRules:
    """Lambda's batching rules for a mapping's two parameters."""
    return BatchRules(
        batch_size=batch_size,
        window_ns=int(window_s * 1e9),
        event_bytes_max=EVENT_BYTES_MAX,
        frame_bytes=EVENT_FRAME_BYTES,
    )


def failure_policy(options: RunOptions, backoff: Backoff) -> FailurePolicy:
    """What a mapping's options say about failures, which are paced by `backoff`."""
    age_s = options.maximum_record_age_in_seconds
    return FailurePolicy(
        backoff,
        maximum_retry_attempts=None if options.maximum_retry_attempts == FOR_EVER else options.maximum_retry_attempts,
        maximum_record_age_ms=None if age_s == FOR_EVER else age_s * 1000,
        bisect=options.bisect_batch_on_function_error,
    )
