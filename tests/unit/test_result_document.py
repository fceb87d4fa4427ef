"""What `bench --json` prints can be read back, and says what is wrong with what is none."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram

from streamfn._native import ffi, lib
from streamfn.errors import RefusedError
from streamfn.measure.counts import HALF, Counts, copied, index_of, lowest_of, middle_of
from streamfn.measure.result import Result, Row, Sample, load


def values(number: int, seed: int = 1) -> list[int]:
    chance = random.Random(seed)
    return [int(chance.lognormvariate(13, 2)) for _ in range(number)]


def row(**changed: Any) -> Row:
    """A run of 0.2 s in two intervals."""
    parts = [values(300, 1), values(200, 2)]
    given: dict[str, Any] = {
        "handler": "app.handler",
        "source": {"kind": "generated", "keys": 10},
        "mode": "open",
        "rate_offered": 2500.0,
        "records": 500,
        "batches": 5,
        "errors": 1,
        "discarded": 0,
        "seconds": 0.2,
        "batch_size": 100,
        "workers": 2,
        "record_size": 1024,
        "latency": Counts.of_values(parts[0] + parts[1]),
        "stages": {"handler": Counts.of_values([1_000_000] * 5)},
        "cold_starts": Counts.of_values([4_000_000, 5_000_000]),
        "runtime_cpu_s": 0.001,
        "workers_cpu_s": 0.002,
        "context_switches": {"voluntary": 3, "involuntary": 1},
        "page_faults": {"minor": 7, "major": 0},
        "peak_memory_bytes": {"runtime": 1, "workers": 2},
        "samples": [Sample(len(part), 0.1, Counts.of_values(part), cpu_s=0.0015, others=0.01) for part in parts],
    }
    return Row(**(given | changed))


@pytest.mark.parametrize("seed", range(5))
def test_counts_answer_as_the_package_does(seed: int) -> None:
    recorded = [*values(400, seed), 0, 2047, 2048, 2**42, 2**43]
    theirs = HdrHistogram(1, 2**42, 3)
    for value in recorded:
        theirs.record_value(min(value, 2**42))
    ours = Counts.of_values(recorded)
    assert ours.total == theirs.get_total_count() == sum(ours.counts)
    for percent in (0, 1, 50, 90, 99, 99.9, 99.99, 100):
        assert ours.percentile(percent) == theirs.get_value_at_percentile(percent)
    assert ours.mean == pytest.approx(theirs.get_mean_value())
    assert ours.encode() == theirs.encode().decode()
    assert Counts.decode(theirs.encode().decode()) == ours
    assert HdrHistogram.decode(ours.encode()).equals(theirs)


def test_counts_are_taken_from_what_c_recorded_since_the_last_copy() -> None:
    histogram = ffi.gc(lib.sf_histogram_new(), lib.sf_histogram_free)
    first, second = values(1000, 3), values(500, 4)
    for value in first:
        lib.sf_histogram_record(histogram, value)
    earlier = copied(histogram)
    for value in second:
        lib.sf_histogram_record(histogram, value)
    assert Counts.between(b"", earlier) == Counts.of_values(first)
    assert Counts.between(earlier, copied(histogram)) == Counts.of_values(second)
    assert Counts.of(histogram) == Counts.merged([Counts.of_values(first), Counts.of_values(second)])


def test_at_most_counts_whole_buckets() -> None:
    counts = Counts.of_values([5, 5, 4096, 4097, 10_000])
    asked = [4, 5, 4095, 4096, 4097, 9_999, 10_000, 2**42]
    assert [counts.at_most(value) for value in asked] == [0, 2, 2, 4, 4, 4, 5, 5]


def test_every_bucket_begins_where_the_one_before_ends() -> None:
    for index in (0, 1, 2047, 2048, 3071, 3072, 20_000, 33 * HALF):
        assert index_of(lowest_of(index)) == index == index_of(middle_of(index))
        if index:
            assert index_of(lowest_of(index) - 1) == index - 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!", "not an encoded HdrHistogram"),
        ("", "not an encoded HdrHistogram"),
        (HdrHistogram(1, 3_600_000_000, 2).encode().decode(), r"HdrHistogram\(1, 3600000000, 2\)"),
        (Counts.of_values([1]).encode()[:-8], "not an encoded HdrHistogram"),
    ],
)
def test_what_is_no_histogram_of_this_layout_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Counts.decode(text)


def test_a_document_read_back_is_the_same_result() -> None:
    result = Result([row(), row(batch_size=10, rate_offered=None, mode="closed")], 1, {"cores": 2}, {"noisy": False})
    document = json.loads(json.dumps(result.document()))
    assert Result.of(document).document() == result.document()
    assert document["batch_size"] == 10
    assert document["rate_offered"] is None
    assert document["rate_achieved"] == 2500
    assert document["latency_ms"]["p99.9"] == result.rows[1].latency.percentile(99.9) / 1e6
    assert document["cpu"] == {"runtime_us_per_record": 2.0, "workers_us_per_record": 4.0}
    assert document["over_time"]["records"] == [300, 200]
    assert "samples" not in document


def test_what_nothing_was_measured_of_is_null() -> None:
    empty = row(records=0, latency=Counts(), cold_starts=Counts(), samples=(), runtime_cpu_s=None, seconds=0.0)
    figures = json.loads(json.dumps(Result([empty]).document()))
    assert set(figures["latency_ms"].values()) == {None}
    assert figures["cold_starts"] == {"count": 0, "p50": None, "max": None}
    assert figures["cpu"]["runtime_us_per_record"] is None
    assert figures["rate_achieved"] == 0.0


def test_several_documents_in_one_file_are_several_runs(tmp_path: Path) -> None:
    one = json.dumps(Result([row()]).document())
    (tmp_path / "a.json").write_text(f"{one}\n{one}\n\n{json.dumps(json.loads(one), indent=2)}\n")
    assert len(load(tmp_path / "a.json")) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" \n", "is empty"),
        ("{", "is no result of `streamfn bench --json`"),
        ("[1]", "it has no format 'streamfn-bench/1'"),
        ('{"format": "streamfn-bench/2"}', "has format 'streamfn-bench/2'; this streamfn reads 'streamfn-bench/1'"),
        ('{"format": "streamfn-bench/1"}', "'rows' is missing"),
        ('{"format": "streamfn-bench/1", "rows": [], "best": 0}', "best is 0, with 0 rows"),
        ('{"format": "streamfn-bench/1", "rows": [{"histograms": {"latency": "x"}}], "best": 0}', "not an encoded"),
        ('{"format": "streamfn-bench/1", "rows": [3], "best": 0}', "is no whole result"),
    ],
)
def test_what_is_no_result_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(RefusedError, match="a.json") as refused:
        load(path)
    assert said in str(refused.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(RefusedError, match=r"nowhere\.json cannot be read: No such file"):
        load("nowhere.json")
