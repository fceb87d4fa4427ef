"""Results as a bench would have measured them, without a bench: drawn from a seed."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import product

from streamfn.measure.counts import Counts
from streamfn.measure.result import Result, Row, Sample
from streamfn.measure.threshold import parse

STAGES = {"waiting": 14.0, "queueing": 10.5, "building": 11.0, "handler": 12.6, "completion": 10.0, "checkpoint": 15.2}
ENVIRONMENT = {
    "cpu": "AMD EPYC 9R14", "architecture": "x86_64", "cores": 2, "usable_cores": 2, "quota_cores": None,
    "threads_per_core": 1, "governor": None, "turbo": None, "virtual": True, "memory_bytes": 25_276_502_016,
    "kernel": "6.18.44", "python": "3.11.7", "streamfn": "0.8.0", "load": [0.12, 0.3, 0.25],
    "versions": {"trio": "0.31.0", "orjson": "3.11.0", "hdrhistogram": "0.10.8", "pyarrow": "21.0.0"},
    "time": "2026-11-26T04:26:55Z",
}  # fmt: skip
NOISE = {
    "cores": 2, "stolen": 0.0134, "worst_pause_ms": 0.41, "wakeup_ms": {"p50": 0.06, "max": 0.2}, "speed": 1892.4,
    "steal": 0.0, "load": 0.12, "noisy": False, "reasons": [],
}  # fmt: skip


def latencies(dice: random.Random, number: int, middle: float, spread: float = 0.5) -> Counts:
    """Log-normal, `middle` being the logarithm of the median in nanoseconds."""
    return Counts.of_values(int(dice.lognormvariate(middle, spread)) for _ in range(number))


def row(
    *,
    batch_size: int = 100,
    workers: int = 2,
    record_size: int = 1024,
    offered: float | None = 50_000.0,
    stalls: bool = False,
    seed: int = 1,
) -> Row:
    """A row of ten seconds in intervals of 100 ms; with a stall, nothing is finished for one of them."""
    dice = random.Random(seed)
    capacity = 42_000 * workers * batch_size / (batch_size + 12) * 1024 / (record_size + 900)
    rate = min(capacity, offered) if offered else capacity
    middle = 13.2 + math.log10(batch_size) / 2 - 0.1 * workers + record_size / 20_000
    samples = []
    for number in range(100):
        stalled = stalls and 40 <= number < 50
        records = 0 if stalled else int(rate / 10 * dice.uniform(0.93, 1.05))
        late = 3.5 if stalls and 50 <= number < 56 else 0.0
        samples.append(Sample(records, 0.1, latencies(dice, 0 if stalled else 40, middle + late)))
    records = sum(sample.records for sample in samples)
    return Row(
        handler="orders.handler",
        source={"kind": "generated", "keys": 1000, "distribution": "uniform"},
        mode="open" if offered else "closed",
        rate_offered=offered,
        records=records,
        batches=records // batch_size,
        errors=0,
        discarded=0,
        seconds=10.0,
        batch_size=batch_size,
        workers=workers,
        record_size=record_size,
        latency=Counts.merged(sample.latency for sample in samples),
        stages={name: latencies(dice, 300, at, 0.6) for name, at in STAGES.items()},
        cold_starts=latencies(dice, workers, 14.8, 0.2),
        runtime_cpu_s=records * 0.9e-6,
        workers_cpu_s=records * 18.4e-6,
        context_switches={"voluntary": 18_211, "involuntary": 903},
        page_faults={"minor": 22_518, "major": 0},
        peak_memory_bytes={"runtime": 81_264_640, "workers": 96_468_992},
        samples=samples,
    )


def one_row() -> Result:
    """A run at a rate, with a stall in it, and thresholds one of which was missed."""
    reasons = ["31% of its 2 cores' time went elsewhere just before the run (load 1.6)"]
    noise = {**NOISE, "stolen": 0.31, "noisy": True, "reasons": reasons}
    found = Result([row(stalls=True)], 0, ENVIRONMENT, noise)
    asked = ("p99<50ms", "rate>30k", "errors==0")
    return replace(found, thresholds=[parse(text).check(found).document() for text in asked])


def thirty_rows() -> Result:
    """A sweep of five batch sizes, two numbers of workers and three sizes of records, as fast as possible."""
    settings = product((1, 10, 100, 1000, 10_000), (1, 2), (128, 1024, 16_384))
    rows = [
        row(batch_size=batch, workers=workers, record_size=size, offered=None, seed=number)
        for number, (batch, workers, size) in enumerate(settings)
    ]
    best = max(range(len(rows)), key=lambda number: rows[number].rate_achieved)
    return Result(rows, best, ENVIRONMENT, NOISE)
