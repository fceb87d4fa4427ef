"""Latencies as the C core records them, read out through the `hdrhistogram` package.

The layout is that of HdrHistogram(1, 2**42, 3): values in nanoseconds, three significant figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

from streamfn._native import ffi, lib

HIGHEST_NS = 2**42
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def new_histogram() -> Any:
    """An empty `sf_histogram *` for the pool to record into; freed with its last reference."""
    return ffi.gc(lib.sf_histogram_new(), lib.sf_histogram_free)


def snapshot(histogram: Any) -> HdrHistogram:
    """What has been recorded so far, as the package's own object. Call it in the thread that reaps."""
    found = HdrHistogram(1, HIGHEST_NS, 3)
    counts = ffi.unpack(lib.sf_histogram_counts(histogram), lib.sf_histogram_counts_len(histogram))
    for index, count in enumerate(counts):
        if count:
            found.record_value(found.get_value_from_index(index), count)
    return found


def milliseconds(histogram: Any, percentiles: Sequence[float] = PERCENTILES) -> dict[str, float]:
    """Percentiles by name (`p50`, `p99.9`) and `max`, in milliseconds; all 0 where nothing was recorded."""
    read = snapshot(histogram)
    found = {f"p{percent:g}": read.get_value_at_percentile(percent) / 1e6 for percent in percentiles}
    found["max"] = int(lib.sf_histogram_max(histogram)) / 1e6
    return found
