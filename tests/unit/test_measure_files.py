"""`.hgrm` and `.hlog`, against the package whose tools read them."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from streamfn.errors import FailedError
from streamfn.measure.counts import Counts
from streamfn.measure.files import hgrm, hlog, write_hgrm, write_hlog, write_whole
from streamfn.measure.histogram import HIGHEST_NS
from streamfn.measure.result import Sample

STARTED_S = 1_790_000_000.125
PERCENTILES = (0, 50, 90, 99, 99.9, 99.99, 100)


def drawn(number: int, seed: int) -> list[int]:
    dice = random.Random(seed)
    return [int(dice.lognormvariate(14, 1.5)) for _ in range(number)]


def theirs(values: list[int]) -> HdrHistogram:
    histogram = HdrHistogram(1, HIGHEST_NS, 3)
    for value in values:
        histogram.record_value(value)
    return histogram


@pytest.mark.parametrize("number", [0, 1, 2, 1000, 20_000])
def test_hgrm_is_what_the_package_prints(tmp_path: Path, number: int) -> None:
    values = drawn(number, number)
    printed = io.BytesIO()
    theirs(values).output_percentile_distribution(printed, 1_000_000)
    write_hgrm(tmp_path / "run.hgrm", Counts.of_values(values))
    assert (tmp_path / "run.hgrm").read_bytes() == printed.getvalue()


def test_hgrm_has_milliseconds() -> None:
    first = hgrm(Counts.of_values([2_500_000])).decode().splitlines()[2]
    assert re.fullmatch(r" +2\.50\d 0\.0{12} +1 +1\.00", first)


def sample(values: list[int], seconds: float = 1.0) -> Sample:
    return Sample(records=len(values), seconds=seconds, latency=Counts.of_values(values))


def log_of(tmp_path: Path, *numbers: int) -> tuple[Path, list[list[int]]]:
    drawings = [drawn(number, seed) for seed, number in enumerate(numbers)]
    path = tmp_path / "run.hlog"
    write_hlog(path, [sample(values) for values in drawings], STARTED_S)
    return path, drawings


def test_hlog_is_read_back_by_the_package_interval_for_interval(tmp_path: Path) -> None:
    path, drawings = log_of(tmp_path, 500, 0, 1200, 1)
    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST_NS, 3))
    for second, values in enumerate(drawings):
        found, expected = reader.get_next_interval_histogram(), theirs(values)
        assert [found.get_value_at_percentile(p) for p in PERCENTILES] == [
            expected.get_value_at_percentile(p) for p in PERCENTILES
        ]
        assert list(found.counts) == list(expected.counts)
        assert found.get_start_time_stamp() == pytest.approx((STARTED_S + second) * 1000)
        assert found.get_end_time_stamp() == pytest.approx((STARTED_S + second + 1) * 1000)
        assert found.get_tag() is None
    assert reader.get_next_interval_histogram() is None
    assert reader.get_start_time_sec() == STARTED_S
    reader.input_file.close()


def test_the_intervals_of_an_hlog_add_up_to_the_run(tmp_path: Path) -> None:
    path, drawings = log_of(tmp_path, 300, 700)
    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST_NS, 3))
    whole = HdrHistogram(1, HIGHEST_NS, 3)
    while reader.add_next_interval_histogram(whole):
        pass
    reader.input_file.close()
    assert list(whole.counts) == list(theirs(drawings[0] + drawings[1]).counts)


def test_an_hlog_line_says_when_how_long_and_the_maximum_in_milliseconds(tmp_path: Path) -> None:
    lines = hlog([sample([], 2.0), sample([1_500_000], 0.5)], STARTED_S).splitlines()
    assert lines[1] == "#[Histogram log format version 1.3]"
    assert lines[2] == "#[StartTime: 1790000000.125 (seconds since epoch), 2026-09-21T14:13:20.125+00:00]"
    assert lines[-2].startswith("0.000,2.000,0.000,HISTFAAA")
    assert lines[-1].startswith("2.000,0.500,1.500,HISTFAAA")


def test_a_file_is_replaced_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.hgrm"
    path.write_text("old")
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedError, match=r"nowhere/run\.hgrm cannot be written: No such file"):
        write_whole(tmp_path / "nowhere" / "run.hgrm", b"")
    (tmp_path / "place").mkdir()
    with pytest.raises(FailedError, match="place cannot be written: Is a directory"):
        write_whole(tmp_path / "place", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
