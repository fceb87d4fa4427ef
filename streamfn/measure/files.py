"""Histograms as the files that HdrHistogram's own tools read: `.hgrm` to plot, `.hlog` to take apart by time.

Both hold milliseconds where they hold figures; the histograms inside a `.hlog` count nanoseconds, as all of ours do.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from hdrh.histogram import HdrHistogram

from streamfn.errors import FailedError
from streamfn.measure.counts import Counts
from streamfn.measure.histogram import NS_PER_MS
from streamfn.measure.result import Sample

# Steps towards 100 %: five to each halving of what is left, which is what every HdrHistogram prints.
TICKS_PER_HALF_DISTANCE = 5


def hgrm(counts: Counts) -> bytes:
    """The percentile distribution in milliseconds, to the byte as the `hdrhistogram` package prints it.

    With one of its ways: `StdDeviation` in the last lines is in nanoseconds, because the package does not scale it.
    Not quick (some 0.1 s): the package goes through all 34,816 counts in Python.
    """
    out = io.BytesIO()
    package = HdrHistogram.decode(counts.encode())
    package.output_percentile_distribution(out, NS_PER_MS, TICKS_PER_HALF_DISTANCE)
    return out.getvalue()


def hlog(samples: Iterable[Sample], started_s: float) -> str:
    """An interval log, format 1.3: one compressed histogram a line, times relative to the run's start.

    Args:
        samples: in their order, each where the one before it ended; empty ones are written too, so that a stall is
            a line and not a gap.
        started_s: when the first one began, in seconds since the epoch.
    """
    started = datetime.fromtimestamp(round(started_s, 3), UTC).isoformat(timespec="milliseconds")
    lines = [
        "#[Latencies in nanoseconds, Interval_Max in milliseconds]",
        "#[Histogram log format version 1.3]",
        f"#[StartTime: {started_s:.3f} (seconds since epoch), {started}]",
        f"#[BaseTime: {started_s:.3f} (seconds since epoch)]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    start_s = 0.0
    for sample in samples:
        max_ms = sample.latency.max / NS_PER_MS
        lines.append(f"{start_s:.3f},{sample.seconds:.3f},{max_ms:.3f},{sample.latency.encode()}")
        start_s += sample.seconds
    return "\n".join(lines) + "\n"


def write_hgrm(path: Path, counts: Counts) -> None:
    """Write a `.hgrm` file. Raises FailedError where it cannot be written."""
    write_whole(path, hgrm(counts))


def write_hlog(path: Path, samples: Iterable[Sample], started_s: float) -> None:
    """Write a `.hlog` file. Raises FailedError where it cannot be written."""
    write_whole(path, hlog(samples, started_s))


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that it is there whole or not at all; one that was there before stays until then.

    Raises:
        FailedError: it cannot be written; the text names it and says why.
    """
    data = content.encode() if isinstance(content, str) else content
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():  # /dev/stdout and the like: nothing may take its place
            path.write_bytes(data)
            return
        try:
            half.write_bytes(data)
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        raise FailedError(f"{path} cannot be written: {error.strerror or error}") from None
