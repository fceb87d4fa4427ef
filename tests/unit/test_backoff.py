"""How long a failed batch waits, and what is decided about it."""

from __future__ import annotations

import pytest

from streamfn.core.backoff import Backoff
from streamfn.core.verdict import FailurePolicy, Retry
from streamfn.core.watermark import Watermark
from streamfn.types import Fault, Run

FAULT = Fault("ValueError", "no", b"{}")


def test_the_bound_doubles_up_to_its_limit_however_often_it_failed() -> None:
    backoff = Backoff(initial_ns=10, factor=2, max_ns=75)
    assert [backoff.bound_ns(failures) for failures in (1, 2, 3, 4, 5, 10**6)] == [10, 20, 40, 75, 75, 75]


def test_the_wait_is_drawn_uniformly_below_the_bound() -> None:
    backoff = Backoff(initial_ns=1000, max_ns=1000)
    assert [backoff.delay_ns(1, lambda draw=draw: draw) for draw in (0.0, 0.25, 0.999)] == [0, 250, 999]  # type: ignore[misc]


@pytest.mark.parametrize(("jitter", "least", "most"), [(0, 1000, 1000), (0.5, 500, 1000), (1, 0, 1000)])
def test_the_share_of_the_wait_that_is_drawn_is_the_jitter(jitter: float, least: int, most: int) -> None:
    backoff = Backoff(initial_ns=1000, max_ns=1000, jitter=jitter)
    assert (backoff.delay_ns(1, lambda: 0.0), backoff.delay_ns(1, lambda: 1.0)) == (least, most)


@pytest.mark.conformance(
    "retries/pace",
    source="ours",
    rule="Retries wait 0.5 s, doubling up to 60 s, with full jitter (AWS documents no pace; a recording fits this).",
)
def test_the_defaults_make_eight_invocations_in_a_minute_on_average() -> None:
    waits = [Backoff().bound_ns(failures) / 2e9 for failures in range(1, 9)]
    assert sum(waits[:7]) < 60 < sum(waits)


@pytest.mark.parametrize("attempt", [1, 2, 10_000])
def test_by_default_a_failure_is_always_followed_by_the_same_batch_again(attempt: int) -> None:
    policy = FailurePolicy(Backoff(initial_ns=8, factor=1, max_ns=8))
    verdict = policy.judge(Run(40, 5, 1, attempt), attempt, FAULT, now_ns=100, draw=lambda: 0.5)
    assert verdict == Retry(40, 5, attempt + 1, 104, FAULT, attempt)


def test_the_watermark_refuses_gaps_and_repeats() -> None:
    mark = Watermark(5)
    mark.dispose(5, 8)
    for first, end in ((9, 10), (5, 8), (8, 8)):
        with pytest.raises(AssertionError):
            mark.dispose(first, end)
    assert mark.offset == 8
