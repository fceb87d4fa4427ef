"""What kind of world a seed makes: how much there is of everything that may happen, and the mapping's options."""

from __future__ import annotations

from dataclasses import dataclass, fields
from random import Random

from streamfn.testing.clock import NS_PER_MS, NS_PER_S

FRAME_BYTES = 14


@dataclass(frozen=True)
class Plan:
    """Rates are per event, 0 to 1."""

    seed: int
    shards: int
    messages: int  # per shard
    message_rows_max: int
    # the mapping
    batch_size: int
    window_ns: int
    event_bytes_max: int
    factor: int
    retries: int | None
    age_ms: int | None
    bisect: bool
    partial: bool
    tumbling_ms: int
    passing: float | None  # how many records the filter lets pass; None: there is no filter
    # the machinery
    workers: int
    capacity: int
    buffered_max: int
    backoff_ns: int  # the first bound
    duration_ns_max: int
    reap_ns_max: int
    commit_ns_max: int
    # what goes wrong
    fail_rate: float
    poison_rate: float
    malformed_rate: float
    throttle_rate: float
    timeout_rate: float
    crash_rate: float
    commit_failures: float
    revokes: int
    runtime_crashes: int
    jumps: int
    trims: int
    reshards: int
    heal_ns: int

    @classmethod
    def draw(cls, seed: int) -> Plan:
        draw = Random(seed)
        choice = draw.choice
        tumbling_ms = choice([0, 0, 0, 0, 50, 1000])
        retries = choice([None, None, 0, 1, 3])
        return cls(
            seed=seed,
            shards=draw.randint(1, 3),
            messages=choice([0, 3, 12, 40]),
            message_rows_max=choice([1, 1, 3, 30]),
            batch_size=choice([1, 2, 3, 5, 20]),
            window_ns=choice([0, 0, 5 * NS_PER_MS, NS_PER_S]),
            event_bytes_max=FRAME_BYTES + choice([45, 120, 100_000]),
            factor=1 if tumbling_ms else choice([1, 1, 1, 2, 4, 10]),
            retries=retries,
            age_ms=choice([None, None, None, 30, 500, 60_000]),
            bisect=choice([False, False, True]),
            partial=choice([False, True]),
            tumbling_ms=tumbling_ms,
            passing=choice([None, None, None, 0.0, 0.1, 0.5, 0.95]),
            workers=draw.randint(1, 3),
            capacity=choice([1, 2, 8]),
            buffered_max=choice([1, 10, 100]),
            backoff_ns=choice([1, 500]) * NS_PER_MS,
            duration_ns_max=choice([1, 3, 30]) * NS_PER_MS,
            reap_ns_max=choice([0, 1, 20]) * NS_PER_MS,
            commit_ns_max=choice([1, 3, 100]) * NS_PER_MS,
            fail_rate=choice([0, 0, 0.05, 0.4]),
            poison_rate=0 if retries is None else choice([0, 0.01, 0.1]),
            malformed_rate=choice([0, 0, 0.05]),
            throttle_rate=choice([0, 0, 0.05, 0.3]),
            timeout_rate=choice([0, 0, 0.05]),
            crash_rate=choice([0, 0, 0.02, 0.2]),
            commit_failures=choice([0, 0, 0.1, 0.5]),
            revokes=choice([0, 0, 20]),
            runtime_crashes=choice([0, 0, 1, 8]),
            jumps=choice([0, 0, 3]),
            trims=choice([0, 0, 0, 3]),
            reshards=choice([0, 0, 1, 3, 8]),
            heal_ns=choice([50, 200, 2000]) * NS_PER_MS,
        )

    def __str__(self) -> str:
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
