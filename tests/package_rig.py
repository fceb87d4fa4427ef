"""What the C core has recorded, as the `hdrhistogram` package's own object."""

from __future__ import annotations

import ctypes
from typing import Any

from hdrh.histogram import HdrHistogram

from streamfn._native import ffi, lib
from streamfn.measure.histogram import HIGHEST_NS, percentile_ns, total


def snapshot(histogram: Any) -> HdrHistogram:
    """The package's histogram with the counts of an `sf_histogram *` put into it as they stand."""
    found = HdrHistogram(1, HIGHEST_NS, 3)
    counts = lib.sf_histogram_counts(histogram)
    ffi.memmove(ffi.cast("char *", ctypes.addressof(found.counts)), counts, ctypes.sizeof(found.counts))
    if total(histogram):
        found.total_count = total(histogram)
        found.min_value = percentile_ns(histogram, 0)
        found.max_value = percentile_ns(histogram, 100)
    return found
