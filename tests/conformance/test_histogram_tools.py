"""`.hlog` files as JavaScript's HdrHistogram (npm: hdr-histogram-js) reads them.

It takes a percentile's rank up to the next whole number, where the Python package rounds it; so the totals here are
such that every rank is whole, and both have to find the same values.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from streamfn.measure.counts import Counts
from streamfn.measure.files import write_hlog
from streamfn.measure.histogram import HIGHEST_NS
from streamfn.measure.result import Sample

PERCENTILES = [0, 25, 50, 75, 90, 95, 99, 99.9, 99.99, 100]
SCRIPT = """
const hdr = require("hdr-histogram-js");
const [path, percentiles] = [process.argv[1], JSON.parse(process.argv[2])];
const reader = new hdr.HistogramLogReader(require("fs").readFileSync(path, "utf8"));
const found = [];
for (let h; (h = reader.nextIntervalHistogram()) !== null; )
    found.push({
        percentiles: percentiles.map((p) => h.getValueAtPercentile(p)),
        total: h.totalCount, max: h.maxValue, mean: h.mean, tag: h.tag,
        start: h.startTimeStampMsec, end: h.endTimeStampMsec,
    });
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def javascript() -> dict[str, str]:
    """The environment in which node finds the package."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed (Debian, Ubuntu: apt-get install nodejs npm)")
    root = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(root, "hdr-histogram-js").exists():
        pytest.skip("hdr-histogram-js is not installed (npm install -g hdr-histogram-js)")
    return {**os.environ, "NODE_PATH": root}


def test_hlog_has_the_same_percentiles_in_javascript_and_in_python(tmp_path: Path, javascript: dict[str, str]) -> None:
    dice = random.Random(3)
    samples = []
    for spread in (0.5, 2.0, 4.0):
        latency = Counts.of_values(int(dice.lognormvariate(13, spread)) for _ in range(20_000))
        samples.append(Sample(records=20_000, seconds=1.0, latency=latency))
    samples.append(Sample(records=0, seconds=0.25, latency=Counts()))  # a stall
    path = tmp_path / "run.hlog"
    write_hlog(path, samples, 1_790_000_000.0)

    command = ["node", "-e", SCRIPT, str(path), json.dumps(PERCENTILES)]
    done = subprocess.run(command, capture_output=True, text=True, env=javascript, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)

    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST_NS, 3))
    assert len(read) == len(samples)
    for theirs in read:
        found = reader.get_next_interval_histogram()
        assert theirs["percentiles"] == [found.get_value_at_percentile(percentile) for percentile in PERCENTILES]
        assert theirs["total"] == found.get_total_count()
        assert theirs["max"] == found.get_max_value()
        assert theirs["mean"] == pytest.approx(found.get_mean_value())
        assert theirs["start"] == pytest.approx(found.get_start_time_stamp())
        assert theirs["end"] == pytest.approx(found.get_end_time_stamp())
        assert theirs["tag"] == "NO TAG"
    reader.input_file.close()
