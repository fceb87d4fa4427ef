"""Comparisons of runs that were recorded: of one build they show no difference, a slowdown of 5 % they find.

`tests/data/bench-runs.json.xz` holds 15 runs of each of two handlers that wait, one 20 ms and one 21 ms, in a closed
loop (two workers, batch size 10) and as many in an open one (500 records/s): 12 s a run, taken in turns, as 20
intervals of [records, seconds, latencies as pairs of (how many buckets further, count)], latencies to 0.4 %. The
machine had much else to do (two cores, load 7 to 9), so they were recorded at real-time priority, and nothing is said
of what others did or of CPU times, which others change through the caches whatever the priority. Each run is compared
with many.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import pytest

from streamfn.measure.comparison import compare
from streamfn.measure.counts import Counts
from streamfn.measure.result import Result, Row, Sample

FILE = Path(__file__).parent.parent / "data" / "bench-runs.json.xz"
COARSE = 4  # neighbouring buckets that were recorded as one
PAIRS = 100


def counts(flat: Sequence[int]) -> Counts:
    found, index = {}, 0
    for further, count in zip(flat[::2], flat[1::2], strict=True):
        index += COARSE * further
        found[index] = count
    return Counts(found)


def result(mode: str, intervals: Sequence[Sequence[Any]]) -> Result:
    samples = [Sample(records, seconds, counts(latencies)) for records, seconds, latencies in intervals]
    row = Row(
        handler="app.handler",
        source={"kind": "generated"},
        mode=mode,
        rate_offered=500.0 if mode == "open" else None,
        records=sum(sample.records for sample in samples),
        batches=0,
        errors=0,
        discarded=0,
        seconds=sum(sample.seconds for sample in samples),
        batch_size=10,
        workers=2,
        record_size=200,
        latency=Counts.merged(sample.latency for sample in samples),
        samples=samples,
    )
    return Result([row])


@cache
def recorded() -> dict[str, list[Result]]:
    runs = json.loads(lzma.decompress(FILE.read_bytes()))
    return {name: [result(name.split("-")[0], run) for run in each] for name, each in runs.items()}


def verdicts(pairs: Iterable[tuple[Result, Result]]) -> list[str]:
    found = [compare([first], [second]).verdict for first, second in islice(pairs, PAIRS)]
    assert len(found) == PAIRS
    return found


@pytest.mark.parametrize("mode", ["closed", "open"])
def test_runs_of_the_same_build_show_no_difference(mode: str, record_property: Callable[[str, object], None]) -> None:
    same = verdicts(combinations(recorded()[f"{mode}-a"], 2)).count("no difference")
    record_property("figure", f"bench compare, {mode} loop: no difference in {same} of {PAIRS} pairs of one build")
    assert same >= 95


@pytest.mark.parametrize("mode", ["closed", "open"])
def test_a_slowdown_of_five_percent_is_found(mode: str, record_property: Callable[[str, object], None]) -> None:
    quick, slow = recorded()[f"{mode}-a"], recorded()[f"{mode}-b"]
    pairs = ((quick[at], slow[(at + by) % len(slow)]) for by in range(len(slow)) for at in range(len(quick)))
    worse = verdicts(pairs).count("worse")
    record_property("figure", f"bench compare, {mode} loop: a slowdown of 5 % found in {worse} of {PAIRS} pairs")
    assert worse >= 90
