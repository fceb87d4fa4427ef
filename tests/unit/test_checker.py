"""One history for every rule of the checker, and some that break none."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from streamfn.testing.checker import (
    Accepted,
    Acknowledged,
    Attempted,
    Committed,
    Discard,
    Ended,
    Event,
    Facts,
    Gone,
    Logged,
    Owned,
    Put,
    Resharded,
    Rules,
    Seen,
    Settled,
    Window,
    check,
)

S = "s"
EXHAUSTED = "RetryAttemptsExhausted"
AGED = "RecordAgeExceeded"


def seen(invocation: int, first: int, end: int, epoch: int = 1, size: int = 0, time: int | None = None) -> Seen:
    return Seen(S, epoch, invocation, range(first, end), size, time)


def some(invocation: int, *offsets: int, epoch: int = 1) -> Seen:
    return Seen(S, epoch, invocation, offsets)


def ok(invocation: int) -> Ended:
    return Ended(invocation, True)


def bad(invocation: int) -> Ended:
    return Ended(invocation, False)


def partly(invocation: int, done: int) -> Ended:
    return Ended(invocation, False, done)


def throttled(invocation: int) -> Ended:
    return Ended(invocation, False, charged=False)


def at(offset: int, epoch: int = 1, *discards: Discard, time: int | None = None) -> Committed:
    return Committed(S, epoch, offset, discards, time)


def given_up(first: int, end: int, condition: str = EXHAUSTED, attempts: int = 1) -> Discard:
    return Discard(range(first, end), condition, attempts)


def names(history: list[Event], end: int, facts: Facts | None = None, **options: Any) -> list[str]:
    rules = Rules(batch_size=options.pop("batch_size", 3), event_bytes_max=100, **options)
    found = check(history, starts={S: 0}, ends={S: end}, rules=rules, facts=facts or Facts())
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
        ([Owned(1), some(1, 0, 2), ok(1)], 0, ["R5 int-skip"]),
        ([Owned(1), some(1, 1, 0), ok(1)], 0, ["R5 int-skip", "R4 skip", "R4 skip"]),
        ([Owned(1), seen(1, 0, 4), ok(1)], 0, ["R5 batch-too-big"]),
        ([Owned(1), seen(1, 0, 1, size=101), ok(1)], 0, ["R5 batch-too-big"]),
        ([Owned(1), seen(1, 0, 3), bad(1), seen(2, 0, 2), ok(2)], 0, ["R5 retry-differs"]),
        ([Owned(1), seen(1, 0, 2), bad(1), seen(2, 0, 3), ok(2)], 0, ["R5 retry-differs"]),
        ([Owned(1), seen(1, 0, 2), partly(1, 1), seen(2, 1, 4), ok(2)], 0, ["R5 retry-differs"]),
        (
            [Owned(1), seen(1, 0, 1), seen(2, 0, 1)],
            0,
            ["R6 overlapping-invocations", "R10 unexplained-duplicate"],
        ),
        ([Owned(1), seen(1, 0, 3), at(3), ok(1)], 0, ["R7 checkpoint-ahead"]),
        ([Owned(1), seen(1, 0, 3), partly(1, 1), at(2)], 0, ["R7 checkpoint-ahead"]),
        ([Owned(1), seen(1, 0, 3), ok(1), at(3), at(2)], 0, ["R7 checkpoint-backwards"]),
        (
            [Owned(1), seen(1, 0, 3), ok(1), at(3), Owned(2), seen(2, 0, 3, 2), ok(2)],
            0,
            ["R7 delivered-after-checkpoint", "R10 unexplained-duplicate"],
        ),
        ([Owned(1), Owned(1)], 0, ["R8 epoch-not-increasing"]),
        ([Owned(1), seen(1, 0, 3), ok(1), Owned(2), at(3, 1)], 0, ["R8 stale-epoch-checkpoint"]),
        (
            [Owned(1), Resharded({S: 2}, ["t"]), seen(1, 0, 2), Seen("t", 1, 2, [0])],
            0,
            ["R9 child-before-parent"],
        ),
        (
            [Owned(1), Resharded({S: 2}, ["t"]), seen(1, 0, 2), ok(1), Seen("t", 1, 2, [0])],
            0,
            ["R9 child-before-checkpoint"],
        ),
        ([Owned(1), seen(1, 0, 3), ok(1), seen(2, 0, 3), ok(2)], 0, ["R10 unexplained-duplicate"]),
        (
            [Owned(1), seen(1, 0, 3), partly(1, 2), seen(2, 0, 3), ok(2)],
            0,
            ["R10 unexplained-duplicate"],
        ),
        ([Owned(1), seen(1, 0, 1), bad(1), at(1, 1, given_up(0, 1))], 1, ["R11 discard-with-infinite-retries"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and isinstance(value[0], str) else "",  # the rule
)
def test_every_rule_is_seen_broken(history: list[Event], end: int, expected: list[str]) -> None:
    assert names(history, end) == expected


# ---- the log: R1 and R2


def logged(*records: str, first: int = 0) -> list[Event]:
    return [Logged(S, offset, record, str(100 + offset)) for offset, record in enumerate(records, first)]


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([Put("a"), Acknowledged(S, 0, "a", "100"), Put("b"), *logged("a", "b")], []),
        ([Put("a"), Acknowledged(S, 0, "a"), Put("b"), Acknowledged(S, 1, "b"), *logged("a")], ["R1 lost-append"]),
        ([Put("a"), Acknowledged(S, 0, "a"), Put("b"), Gone(S, 0, 1), *logged("b", first=1)], []),
        ([Put("a"), *logged("a", "a")], ["R1 phantom-record"]),
        ([Put("a"), Acknowledged(S, 0, "a"), *logged("b")], ["R1 corrupt-record", "R2 inconsistent-content"]),
        ([Put("a"), Put("b"), *logged("a"), *logged("b", first=2)], ["R2 log-nonmonotonic"]),
        ([Logged(S, 0, "a", "7"), Logged(S, 1, "b", "6")], ["R2 log-nonmonotonic"]),
        ([Acknowledged(S, 0, "a", "7"), Acknowledged(S, 1, "b", "7")], ["R2 inconsistent-content"]),
        (
            [Acknowledged(S, 0, "a"), Seen(S, 1, 1, [0], records=["b"]), ok(1), *logged("a")],
            ["R2 inconsistent-content"],
        ),
    ],
)
def test_the_log_has_what_was_put_and_nothing_else(history: list[Event], expected: list[str]) -> None:
    assert names(history, 0) == expected


# ---- giving up: R3, R4, R7, R11


def test_records_are_given_up_when_their_attempts_are_used_up() -> None:
    failing = [seen(1, 0, 3), bad(1), seen(2, 0, 3), throttled(2), seen(3, 0, 3), bad(3)]
    history = [Owned(1), *failing, seen(4, 3, 4), ok(4), at(4, 1, given_up(0, 3, attempts=2))]
    assert names(history, 4, maximum_retry_attempts=1) == []


def test_progress_gives_a_fresh_budget() -> None:
    history = [
        Owned(1),
        seen(1, 0, 3), partly(1, 2), seen(2, 2, 3), bad(2), seen(3, 2, 3), bad(3),
        at(3, 1, given_up(2, 3, attempts=2)),
    ]  # fmt: skip
    assert names(history, 3, maximum_retry_attempts=1) == []


def test_a_bisected_batch_is_halved_and_only_the_poison_record_is_given_up() -> None:
    history = [
        Owned(1),
        seen(1, 0, 3), bad(1), seen(2, 0, 1), ok(2), seen(3, 1, 3), bad(3), seen(4, 1, 2), bad(4),
        seen(5, 2, 3), ok(5), at(3, 1, given_up(1, 2)),
    ]  # fmt: skip
    assert names(history, 3, maximum_retry_attempts=0, bisect=True) == []


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([seen(1, 0, 1), bad(1), at(1, 1, given_up(0, 1))], ["R11 discard-too-early"]),
        ([seen(1, 0, 1), bad(1), seen(2, 0, 1), bad(2), at(1, 1, given_up(0, 1))], ["R11 discard-too-early"]),
        ([seen(1, 0, 1), bad(1), seen(2, 1, 2), ok(2)], ["R4 skip", "R4 skip", "R3 lost-delivery"]),
        ([seen(1, 0, 1), bad(1), seen(2, 0, 1), bad(2), at(1)], ["R7 checkpoint-ahead", "R3 lost-delivery"]),
        (
            [seen(1, 0, 1), bad(1), seen(2, 0, 1), bad(2), seen(3, 1, 2), ok(3), at(2)],
            ["R7 checkpoint-ahead", "R3 lost-delivery"],
        ),
        (
            [seen(1, 0, 1), bad(1), seen(2, 0, 1), bad(2), seen(3, 0, 1), bad(3), at(1, 1, given_up(0, 1, attempts=2))],
            ["R11 too-many-attempts"],
        ),
        (
            [seen(1, 0, 1), ok(1), at(1, 1, given_up(0, 1, attempts=2))],
            ["R11 discard-too-early", "R11 discard-after-success"],
        ),
        (
            [seen(1, 0, 1), bad(1), seen(2, 0, 1), bad(2)] + [at(1, 1, given_up(0, 1, attempts=2))] * 2,
            ["R3 two-dispositions"],
        ),
        ([at(1, 1, given_up(0, 1, "Boredom"))], ["R11 discard-unexplained"]),
        ([at(1, 1, given_up(0, 1, AGED))], ["R11 discard-with-infinite-retries"]),
    ],
)
def test_nothing_is_given_up_too_early_or_without_a_word(history: list[Event], expected: list[str]) -> None:
    assert names([Owned(1), *history], 1, maximum_retry_attempts=1) == expected


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([seen(1, 0, 3), bad(1), seen(2, 0, 3), ok(2)], ["R5 retry-differs"]),
        ([seen(1, 0, 3), bad(1), seen(2, 0, 1), ok(2), seen(3, 1, 2), ok(3)], ["R5 retry-differs"]),
        ([seen(1, 0, 3), bad(1), seen(2, 0, 1), ok(2), seen(3, 1, 4), ok(3)], ["R5 retry-differs"]),
    ],
)
def test_halves_are_halves_and_are_not_topped_up(history: list[Event], expected: list[str]) -> None:
    assert names([Owned(1), *history], 0, bisect=True) == expected


def test_old_records_are_given_up_and_young_ones_are_not() -> None:
    facts = Facts(arrival_ms=lambda shard, offset: 1000 * offset)
    history = [
        Owned(1),
        seen(1, 0, 3, time=3000), bad(1), seen(2, 1, 3, time=4001), ok(2),
        at(3, 1, given_up(0, 1, AGED), time=4001),
    ]  # fmt: skip
    assert names(history, 3, facts, maximum_record_age_ms=4000) == []
    early = [Owned(1), at(1, 1, given_up(0, 1, AGED), time=4000)]
    assert names(early, 1, facts, maximum_record_age_ms=4000) == ["R11 discard-too-early"]
    skipping = [Owned(1), seen(1, 1, 3, time=4000), ok(1)]
    assert names(skipping, 0, facts, maximum_record_age_ms=4000) == ["R4 skip", "R4 skip"]


def test_a_record_that_is_too_large_alone_is_given_up_without_a_delivery() -> None:
    facts = Facts(event_bytes=lambda shard, offset: 101 if offset == 0 else 50)
    history = [Owned(1), seen(1, 1, 3), ok(1), at(3, 1, given_up(0, 1, "RecordTooLarge", 0))]
    assert names(history, 3, facts) == []
    assert names([Owned(1), at(1, 1, given_up(0, 1, "RecordTooLarge", 0))], 1) == []
    small = Facts(event_bytes=lambda shard, offset: 50)
    assert names([Owned(1), at(1, 1, given_up(0, 1, "RecordTooLarge", 0))], 1, small) == ["R11 discard-unexplained"]


def test_what_is_gone_needs_no_delivery() -> None:
    history = [Owned(1), seen(1, 0, 2), ok(1), Gone(S, 2, 5), at(5), seen(2, 5, 6), ok(2), at(6)]
    assert names(history, 6) == []


# ---- parallel lanes and filters

PAIR = Facts(lane=lambda shard, offset: offset % 2)
EVEN = Facts(covered=lambda shard, offset: offset % 2 == 0)


def test_lanes_are_independent_and_the_checkpoint_waits_for_the_last() -> None:
    history = [Owned(1), some(1, 0, 2, 4), some(2, 1, 3), ok(2), some(3, 5), ok(1), ok(3), at(6)]
    assert names(history, 6, PAIR) == []


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([some(1, 0, 1), ok(1)], ["R5 mixed-lanes"]),
        ([some(1, 0, 4), ok(1)], ["R5 int-skip"]),
        ([some(1, 0, 2), some(2, 4)], ["R6 overlapping-invocations", "R4 skip", "R4 skip"]),
        ([some(1, 0, 2), some(2, 1, 3), ok(2), at(3)], ["R7 checkpoint-ahead"]),
    ],
)
def test_in_a_lane_the_rules_hold(history: list[Event], expected: list[str]) -> None:
    assert names([Owned(1), *history], 0, PAIR) == expected


def test_with_keys_a_batch_may_have_several_and_their_order_is_kept() -> None:
    keys = Facts(lane=lambda shard, offset: "abab"[offset], keys=True)
    fine = [Owned(1), seen(1, 0, 3), bad(1), seen(2, 0, 1), ok(2), seen(3, 1, 3), ok(3), seen(4, 3, 4), ok(4), at(4)]
    assert names(fine, 4, keys, bisect=True) == []
    assert names([Owned(1), some(1, 1, 2)], 0, keys) == ["R4 skip", "R4 skip"]


def test_filtered_records_are_passed_and_move_the_checkpoint() -> None:
    assert names([Owned(1), some(1, 0, 2), ok(1), at(4)], 4, EVEN) == []
    assert names([Owned(1), some(1, 0, 2), ok(1), at(6)], 6, EVEN) == ["R7 checkpoint-ahead", "R3 lost-delivery"]
    assert names([Owned(1), some(1, 0, 1), ok(1)], 0, EVEN) == ["R5 not-covered"]


# ---- tumbling windows of a second, one record every 400 ms

TIMES = Facts(arrival_ms=lambda shard, offset: 400 * offset)


def windowed(invocation: int, first: int, end: int, window: Window, epoch: int = 1) -> Seen:
    return Seen(S, epoch, invocation, range(first, end), window=window)


def gave(invocation: int, state: object) -> Ended:
    return Ended(invocation, True, state=state)


FIRST_WINDOW: list[Event] = [
    windowed(1, 0, 2, Window(0, None)), gave(1, "a"), windowed(2, 2, 3, Window(0, "a")), gave(2, "b"),
    windowed(3, 0, 0, Window(0, "b", final=True)), ok(3),
]  # fmt: skip


def test_state_goes_from_invocation_to_invocation_until_the_final_one() -> None:
    history = [Owned(1), *FIRST_WINDOW, windowed(4, 3, 5, Window(1000, None)), gave(4, "c"), at(5)]
    assert names(history, 5, TIMES, window_ms=1000) == []


def test_a_new_owner_begins_with_the_state_of_the_checkpoint() -> None:
    before = [Owned(1), windowed(1, 0, 1, Window(0, None)), gave(1, "a"), at(1)]
    lost = [windowed(2, 1, 2, Window(0, "a")), gave(2, "b"), Owned(2)]
    right = windowed(3, 1, 2, Window(0, "a"), 2)
    assert names([*before, *lost, right, gave(3, "c"), at(2, 2)], 2, TIMES, window_ms=1000) == []
    ahead = windowed(3, 1, 2, Window(0, "b"), 2)
    assert names([*before, *lost, ahead], 0, TIMES, window_ms=1000) == ["R5 state-differs"]


def test_a_state_that_is_too_large_ends_early_and_the_window_goes_on() -> None:
    early = [windowed(1, 0, 1, Window(0, None)), gave(1, "a"), windowed(2, 0, 0, Window(0, "a", early=True)), ok(2)]
    history = [Owned(1), *early, windowed(3, 1, 2, Window(0, None)), gave(3, "b"), at(2)]
    assert names(history, 2, TIMES, window_ms=1000) == []


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (
            [windowed(1, 0, 3, Window(0, None)), gave(1, "a"), windowed(2, 3, 4, Window(1000, None))],
            ["R5 window-order"],
        ),
        ([windowed(1, 2, 3, Window(0, None))], ["R4 skip", "R4 skip"]),
        ([windowed(1, 0, 1, Window(0, None)), gave(1, "a"), windowed(2, 1, 2, Window(0, None))], ["R5 state-differs"]),
        ([windowed(1, 0, 1, Window(0, "x"))], ["R5 state-differs"]),
        ([*FIRST_WINDOW, windowed(4, 3, 4, Window(0, None))], ["R5 window-order", "R5 mixed-windows"]),
        ([windowed(1, 0, 4, Window(0, None))], ["R5 batch-too-big", "R5 mixed-windows"]),
        ([seen(1, 0, 1)], ["R5 mixed-windows"]),
    ],
)
def test_windows_follow_each_other_and_keep_their_records(history: list[Event], expected: list[str]) -> None:
    assert sorted(names([Owned(1), *history], 0, TIMES, window_ms=1000)) == sorted(expected)


# ---- what is to be done later: R12


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([Accepted(1), Attempted(1), Attempted(1), Settled(1, "done"), Accepted(2), Settled(2, "expired")], []),
        ([Accepted(1), Attempted(1)], ["R12 unsettled"]),
        ([Accepted(1), Settled(1, "done")], ["R12 never-tried"]),
        ([Accepted(1), Attempted(1), Settled(1, "done"), Settled(1, "done")], ["R12 settled-twice"]),
        ([Accepted(1), Attempted(1), Settled(1, "done"), Attempted(1)], ["R12 settled-twice"]),
        ([Attempted(1)], ["R12 unknown-request"]),
    ],
)
def test_what_was_accepted_comes_to_its_end_once(history: list[Event], expected: list[str]) -> None:
    assert names(history, 0) == expected


def test_the_checker_imports_nothing_else_of_streamfn() -> None:
    script = (
        "import sys, streamfn.testing.checker\n"
        "ours = {name for name in sys.modules if name.startswith('streamfn') and 'checker' not in name}\n"
        "sys.exit(str(ours) if ours != {'streamfn', 'streamfn.testing', 'streamfn.version'} else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
