"""Latencies as the C core records them: as they are read out while a run goes on.

The layout is that of HdrHistogram(1, 2**42, 3): values in nanoseconds, three significant figures. Every figure is what
the `hdrhistogram` package computes from the same counts, so `p99` in a result, in a `.hgrm` and from a `.hlog` is one
number: the highest value of the bucket that the percentile falls into, at most 0.1 % above what was recorded.

`native/include/sf_histogram.h` is the manual of the recording side. A histogram here is its `sf_histogram *`; it is
used in one thread at a time, which is the thread that reaps while a run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamfn._native import ffi, lib

HIGHEST_NS = 2**42
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
NS_PER_MS = 1e6


def new_histogram() -> Any:
    """An empty `sf_histogram *` for the pool to record into; freed with its last reference."""
    return ffi.gc(lib.sf_histogram_new(), lib.sf_histogram_free)


def total(histogram: Any) -> int:
    """How many values were recorded."""
    return int(lib.sf_histogram_total(histogram))


def percentile_ns(histogram: Any, percentile: float) -> int:
    """The value at a percentile from 0 to 100, in nanoseconds; 0 where nothing was recorded. Some 10 µs."""
    return int(lib.sf_histogram_percentile(histogram, percentile))


def milliseconds(histogram: Any, percentiles: Sequence[float] = PERCENTILES) -> dict[str, float]:
    """Percentiles by name (`p50`, `p99.9`) and `max`, in milliseconds; all 0 where nothing was recorded."""
    found = {f"p{percent:g}": percentile_ns(histogram, percent) / NS_PER_MS for percent in percentiles}
    found["max"] = percentile_ns(histogram, 100) / NS_PER_MS
    return found
