"""One history for every rule of the checker, and one that breaks none."""

from __future__ import annotations

import pytest

from streamfn.testing.checker import Committed, Ended, Event, Owned, Seen, check

S = "s"


def seen(invocation: int, first: int, end: int, epoch: int = 1, size: int = 0) -> Seen:
    return Seen(S, epoch, invocation, range(first, end), size)


def ok(invocation: int) -> Ended:
    return Ended(invocation, True)


def bad(invocation: int) -> Ended:
    return Ended(invocation, False)


def at(offset: int, epoch: int = 1) -> Committed:
    return Committed(S, epoch, offset)


def names(history: list[Event], end: int) -> list[str]:
    found = check(history, starts={S: 0}, ends={S: end}, batch_size=3, event_bytes_max=100)
    return [f"{violation.rule} {violation.name}" for violation in found]


def test_failures_crashes_and_restarts_are_fine_when_everything_is_done_in_order() -> None:
    history = [
        Owned(1),
        seen(1, 0, 3), bad(1), seen(2, 0, 3), ok(2), at(3),
        seen(3, 3, 6), ok(3), seen(4, 6, 7),
        Owned(2),  # the first owner died; its worker is still at it
        bad(4), seen(5, 3, 6, 2), ok(5), seen(6, 6, 9, 2), ok(6), at(9, 2),
    ]  # fmt: skip
    assert names(history, 9) == []


@pytest.mark.parametrize(
    ("history", "end", "expected"),
    [
        ([Owned(1), seen(1, 0, 3), ok(1), at(3)], 4, ["R3 lost-delivery"]),
        ([Owned(1), seen(1, 0, 3), bad(1)], 3, ["R3 lost-delivery"]),
        ([Owned(1), seen(1, 0, 3), ok(1), at(2)], 3, ["R13 lag"]),
        (
            [Owned(1), seen(1, 0, 3), bad(1), seen(2, 3, 6), ok(2), seen(3, 0, 3), ok(3)],
            0,
            ["R4 skip", "R4 skip"],
        ),
        ([Owned(1), Seen(S, 1, 1, [0, 2]), ok(1)], 0, ["R5 int-skip"]),
        ([Owned(1), Seen(S, 1, 1, [1, 0]), ok(1)], 0, ["R5 int-skip", "R4 skip", "R4 skip"]),
        ([Owned(1), seen(1, 0, 4), ok(1)], 0, ["R5 batch-too-big"]),
        ([Owned(1), seen(1, 0, 1, size=101), ok(1)], 0, ["R5 batch-too-big"]),
        ([Owned(1), seen(1, 0, 3), bad(1), seen(2, 0, 2), ok(2)], 0, ["R5 retry-differs"]),
        (
            [Owned(1), seen(1, 0, 1), seen(2, 0, 1)],
            0,
            ["R6 overlapping-invocations", "R10 unexplained-duplicate"],
        ),
        ([Owned(1), seen(1, 0, 3), at(3), ok(1)], 0, ["R7 checkpoint-ahead"]),
        ([Owned(1), seen(1, 0, 3), ok(1), at(3), at(2)], 0, ["R7 checkpoint-backwards"]),
        (
            [Owned(1), seen(1, 0, 3), ok(1), at(3), Owned(2), seen(2, 0, 3, 2), ok(2)],
            0,
            ["R7 delivered-after-checkpoint", "R10 unexplained-duplicate"],
        ),
        ([Owned(1), Owned(1)], 0, ["R8 epoch-not-increasing"]),
        ([Owned(1), seen(1, 0, 3), ok(1), Owned(2), at(3, 1)], 0, ["R8 stale-epoch-checkpoint"]),
        ([Owned(1), seen(1, 0, 3), ok(1), seen(2, 0, 3), ok(2)], 0, ["R10 unexplained-duplicate"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and isinstance(value[0], str) else "",  # the rule
)
def test_every_rule_is_seen_broken(history: list[Event], end: int, expected: list[str]) -> None:
    assert names(history, end) == expected
