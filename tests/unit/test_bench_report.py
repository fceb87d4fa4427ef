"""What `streamfn bench` says at its end: it fits the terminal, and its figures are those of the result."""

import io

import pytest
from rich.console import Console

from streamfn.cli.bench_report import heading, render, shown_ms, shown_rate
from streamfn.measure.counts import Counts
from streamfn.measure.result import Result, Row
from streamfn.measure.threshold import parse


def row(**what):
    usual = {
        "handler": "app.handler", "source": {"kind": "generated"}, "mode": "open", "rate_offered": 20_000.0,
        "records": 200_000, "batches": 2_000, "errors": 0, "discarded": 0, "seconds": 10.0, "batch_size": 100,
        "workers": 2, "record_size": 1024, "latency": Counts.of_values([10**6, 2 * 10**6, 3 * 10**9]),
        "stages": {"handler": Counts.of_values([5 * 10**5]), "waiting": Counts()},
        "cold_starts": Counts.of_values([25 * 10**6]), "runtime_cpu_s": 1.0, "workers_cpu_s": 3.0,
        "context_switches": {"voluntary": 12, "involuntary": 3}, "page_faults": {"minor": 7, "major": 0},
        "peak_memory_bytes": {"runtime": 50 << 20, "workers": 20 << 20},
    }  # fmt: skip
    return Row(**usual | what)


def shown(result, width=80, **more):
    out = io.StringIO()
    render(result, Console(file=out, width=width), **more)
    return out.getvalue()


def test_one_row_is_shown_with_its_stages_what_it_used_and_its_notes():
    text = shown(Result([row()]), notes=["somebody ought to know"])
    for said in (
        "app.handler · open loop, 20,000 records/s offered · batch size 100 · 2 workers · records of 1 KiB",
        "CPU 5.00 µs a record in the runtime, 15.00 µs in the workers",
        "memory 50.0 MiB and 20.0 MiB at most",
        "12 context switches wanted, 3 not; page faults 7 minor, 0 major",
        "1 cold start, p50 25.0 ms",
        "the handler",
        "all of it",
        "somebody ought to know",
    ):
        assert said in " ".join(text.split()), said
    assert "until its batch was due" not in text  # nothing was recorded of it
    assert "closed loop" not in text


def test_a_closed_loop_is_said_to_be_one_and_what_that_means():
    text = " ".join(shown(Result([row(mode="closed", rate_offered=None)])).split())
    assert "app.handler · closed loop · batch size 100" in text
    assert "A stall is seen by the few records that were on their way" in text


def test_of_a_sweep_only_what_differs_is_a_column_and_the_best_row_is_marked():
    result = Result([row(batch_size=size, records=size * 1000) for size in (1, 10, 1000)], best=1)
    lines = shown(result).splitlines()
    assert heading(result) == "app.handler · open loop, 20,000 records/s offered · 2 workers · records of 1 KiB"
    assert [line.split()[:2] for line in lines if "▶" in line] == [["▶", "10"]]
    assert "the best row, batch size 10:" in lines


@pytest.mark.parametrize("width", [80, 120])
def test_the_largest_figures_fit_the_terminal_and_none_is_cut_off(width):
    rows = [
        row(
            batch_size=batch, workers=workers, record_size=size, rate_offered=rate, records=12_345_678, errors=batch,
            latency=Counts.of_values([10**k for k in range(3, 13)]), runtime_cpu_s=9e4,
        )
        for batch in (1, 10_000) for workers in (1, 64) for size in (128, 1 << 20) for rate in (500.0, 1_500_000.0)
    ]  # fmt: skip
    text = shown(Result(rows), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for name in ("batch", "workers", "record", "p50", "p99", "errors"):
        assert name in text
    if width == 120:
        assert "1,234,568" in text


def test_thresholds_say_what_was_measured():
    result = Result([row()])
    outcomes = [parse(text).check(result) for text in ("rate>=20k", "p50<1ms")]
    lines = shown(result, thresholds=outcomes).splitlines()
    assert "kept    rate>=20k: 20,000/s" in lines
    assert any(line.startswith("MISSED  p50<1ms: 2") for line in lines)


@pytest.mark.parametrize(
    ("rate", "text"), [(0.0, "0.00"), (0.517, "0.52"), (14.23, "14.2"), (905, "905"), (12_340.4, "12,340")]
)
def test_rates_have_the_figures_that_mean_something(rate, text):
    assert shown_rate(rate) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(None, "-"), (0.0421, "0.042"), (1.234, "1.23"), (45.62, "45.6"), (1234.5, "1,234")]
)
def test_times_have_three_figures_or_a_little_more(ms, text):
    assert shown_ms(ms) == text
