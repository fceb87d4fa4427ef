"""Thresholds: what they read, what they refuse, and what is missed."""

from __future__ import annotations

from typing import Any

import pytest

from streamfn.errors import RefusedError
from streamfn.measure.counts import Counts
from streamfn.measure.result import Result, Row
from streamfn.measure.threshold import parse


def result(**changed: Any) -> Result:
    """1,000 records in 10 s; latencies of 1 to 1,000 ms, one of each."""
    given: dict[str, Any] = {
        "handler": "app.handler",
        "source": {"kind": "generated"},
        "mode": "closed",
        "rate_offered": None,
        "records": 1000,
        "batches": 98,
        "errors": 2,
        "discarded": 0,
        "seconds": 10.0,
        "batch_size": 10,
        "workers": 2,
        "record_size": 100,
        "latency": Counts.of_values(number * 1_000_000 for number in range(1, 1001)),
        "stages": {"handler": Counts.of_values([2_000_000])},
        "runtime_cpu_s": 0.001,
        "workers_cpu_s": 0.004,
        "peak_memory_bytes": {"runtime": 40 * 2**20, "workers": 60 * 2**20},
    }
    return Result([Row(**(given | changed))])


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("p50<501ms", True),
        ("p50 < 499ms", False),
        ("p99>=990ms", True),
        ("p99.9<=0.999s", False),  # a bucket's highest value
        ("p99.9<1s", True),
        ("p12.5>124ms", True),
        ("max<=1.001s", True),
        ("max<=900ms", False),
        ("min<1.1ms", True),
        ("mean>500ms", True),
        ("handler.p99<2.1ms", True),
        ("handler.max>5ms", False),
        ("rate>=100", True),
        ("rate>100k", False),
        ("rate>0.05k", True),
        ("rate>50/s", True),
        ("records==1,000", True),
        ("errors==2", True),
        ("errors!=2", False),
        ("error_rate<=2%", True),
        ("discarded==0", True),
        ("seconds<11s", True),
        ("cpu<=5us", True),
        ("runtime_cpu<1us", False),
        ("workers_cpu<5µs", True),
        ("memory<=100MiB", True),
        ("memory<100MB", False),
        ("cold_starts==0", True),
    ],
)
def test_a_threshold_is_held_against_the_figure_it_names(text: str, met: bool) -> None:
    outcome = parse(text).check(result())
    assert (outcome.text, outcome.met) == (text, met), outcome


@pytest.mark.parametrize(
    "text", ["p99<50ms", "handler.p50>0ms", "cpu<1s", "error_rate<1%", "waiting.max<1s", "memory>1B"]
)
def test_what_was_never_measured_keeps_no_threshold(text: str) -> None:
    nothing = result(records=0, batches=0, errors=0, latency=Counts(), stages={}, peak_memory_bytes={})
    outcome = parse(text).check(nothing)
    assert outcome.document() == {"text": text, "value": None, "met": False}
    assert outcome.shown == "nothing measured"


def test_of_a_sweep_the_best_row_is_what_counts() -> None:
    slow, quick = result(seconds=100.0).rows[0], result().rows[0]
    assert not parse("rate>50").check(Result([slow, quick], 0)).met
    assert parse("rate>50").check(Result([slow, quick], 1)).met


@pytest.mark.parametrize(
    ("text", "shown"),
    [("p50<1s", "500.2 ms"), ("max<2s", "1 s"), ("rate>1", "100/s"), ("cpu<1s", "5 us"), ("memory>1B", "100 MiB")],
)
def test_a_value_is_shown_in_the_unit_that_suits_it(text: str, shown: str) -> None:
    assert parse(text).check(result()).shown == shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p99", "threshold 'p99' is not FIGURE<VALUE"),
        ("p99=50ms", "is not FIGURE<VALUE"),
        ("<50ms", "is not FIGURE<VALUE"),
        ("", "is not FIGURE<VALUE"),
        ("p99<", "is not FIGURE<VALUE"),
        ("p101<50ms", "there is no figure 'p101'"),
        ("p99.<50ms", "there is no figure 'p99.'"),
        ("speed>5", "there is no figure 'speed'"),
        ("handler<5ms", "there is no figure 'handler'"),
        ("disk.p99<5ms", "there is no figure 'disk.p99'"),
        ("p99<50", "'50' will not do for p99: give a time with its unit, such as 50ms"),
        ("p99<50kB", "'50kB' will not do for p99"),
        ("rate>100ms", "'100ms' will not do for rate: give records per second"),
        ("rate>ten", "'ten' will not do for rate"),
        ("errors<1%", "'1%' will not do for errors: give a number"),
        ("error_rate<0.1", "'0.1' will not do for error_rate: give a percentage"),
        ("memory<100", "'100' will not do for memory: give a size with its unit"),
        ("rate>nan", "'nan' will not do for rate"),
    ],
)
def test_what_is_no_threshold_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse(text)
    assert said in str(refused.value)
    assert repr(text) in str(refused.value)
