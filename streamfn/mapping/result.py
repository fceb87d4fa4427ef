"""What a run of a mapping counts, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(slots=True)
class Counts:
    """What this run has done so far. `records` and `batches` are those that succeeded.

    `trimmed` are records that retention took before they could be handed over, `lost` those that a crash or damage
    took, `filtered` those that no filter wanted. `errors` are failed invocations, `retries` invocations with a batch
    that had failed before. `windows_closed` are tumbling windows whose final invocation succeeded, `windows_given_up`
    calls of windows whose retries were used up.
    """

    records: int = 0
    batches: int = 0
    errors: int = 0
    discarded: int = 0
    trimmed: int = 0
    lost: int = 0
    filtered: int = 0
    windows_closed: int = 0
    windows_given_up: int = 0
    retries: int = 0

    def __add__(self, more: Counts) -> Counts:
        return Counts(*(getattr(self, each.name) + getattr(more, each.name) for each in fields(Counts)))


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one `run` did.

    `seconds` is from the first hand-over to the last durable checkpoint; `resumes_at` the durable checkpoint of
    each shard (an offset: the first record that the next run delivers). `why` says what ended it: `caught up`,
    `limit`, `drained`, or `stopped` in front of a failed batch. `trimmed` and `lost` count records that were gone
    before they could be handed over: by retention, or by a crash or damage; `filtered` those that no filter wanted.
    `retries` counts invocations with a batch that had failed before.
    `on_failure_pending` counts on-failure records that have not reached their destination yet, also those of
    earlier runs: the next run carries them there. `windows_closed` counts tumbling windows whose final invocation
    succeeded, `windows_given_up` final invocations and early terminations whose retries were used up;
    `open_windows` says of each shard whose window has not had its final invocation when that window ends: it goes
    on with the next run.
    `billed_duration_ms` is the time of all invocations as Lambda bills it, each rounded up to a whole millisecond;
    `gb_seconds` and `estimated_price_usd` are what that comes to (see `functions.prices`), None without a memory size.
    """

    records: int
    batches: int
    errors: int
    discarded: int
    seconds: float
    why: str
    resumes_at: dict[str, int] = field(default_factory=dict)
    trimmed: int = 0
    lost: int = 0
    on_failure_pending: int = 0
    filtered: int = 0
    windows_closed: int = 0
    windows_given_up: int = 0
    open_windows: dict[str, str] = field(default_factory=dict)
    billed_duration_ms: int = 0
    gb_seconds: float | None = None
    estimated_price_usd: float | None = None
    retries: int = 0

    @property
    def counts(self) -> Counts:
        """What was counted, without what is worked out from it."""
        return Counts(**{each.name: getattr(self, each.name) for each in fields(Counts)})

    @property
    def records_per_second(self) -> float:
        """Records by seconds; 0 when there were none."""
        return self.records / self.seconds if self.seconds else 0.0
