"""What the checker has to know: the mapping's options, facts about records, and how it says what it found."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

EXHAUSTED = "RetryAttemptsExhausted"
TOO_OLD = "RecordAgeExceeded"
TOO_LARGE = "RecordTooLarge"


class Violation(NamedTuple):
    """A rule that was broken, by which event (its number in the history; -1 for the end), and how."""

    rule: str
    name: str
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Rules:
    """The options of the mapping that the history is about.

    `maximum_retry_attempts` and `maximum_record_age_ms` are None for "for ever", `window_ms` 0 for "no windows".
    """

    batch_size: int
    event_bytes_max: int
    maximum_retry_attempts: int | None = None
    maximum_record_age_ms: int | None = None
    bisect: bool = False
    window_ms: int = 0


def _one_lane(shard: str, offset: int) -> Hashable:
    return 0


def _all(shard: str, offset: int) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the records, by (shard, offset); it must not change.

    Args:
        lane: what keeps its order. With `keys` it is something finer than the runtime's lanes, such as partition
            keys: a batch may then have records of several, and what is told of halves and attempts holds for batches
            only.
        covered: whether the mapping is to deliver it (no filter drops it).
        arrival_ms: when it arrived; needed to judge discards for age, and windows.
        event_bytes: how long its event is alone; needed to judge discards for size.
    """

    lane: Callable[[str, int], Hashable] = _one_lane
    covered: Callable[[str, int], bool] = _all
    arrival_ms: Callable[[str, int], int] | None = None
    event_bytes: Callable[[str, int], int] | None = None
    keys: bool = False
