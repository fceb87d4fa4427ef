"""Prometheus' text format, version 0.0.4: what a scrape is answered with.

Source: prometheus.io/docs/instrumenting/exposition_formats ("Text-based format"); names by .../practices/naming.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]


@dataclass(slots=True)
class Family:
    """All samples of one name. `kind` is counter or gauge; a counter's name ends in `_total`."""

    name: str
    help: str
    kind: Literal["counter", "gauge"] = "gauge"
    samples: list[tuple[Labels, float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> None:
        """One more sample."""
        self.samples.append((labels, value))

    def lines(self) -> Iterable[str]:
        """Its samples, a line each."""
        for labels, value in self.samples:
            yield f"{self.name}{_labels(labels)} {number(value)}"


@dataclass(frozen=True, slots=True)
class Distribution:
    """What one histogram has counted: up to each bound (ascending, without infinity), in all, and the sum."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: int
    sum: float


@dataclass(slots=True)
class HistogramFamily:
    """All histograms of one name, which ends in its unit."""

    name: str
    help: str
    kind: Literal["histogram"] = "histogram"
    samples: list[tuple[Labels, Distribution]] = field(default_factory=list)

    def add(self, value: Distribution, **labels: str) -> None:
        """One more histogram."""
        self.samples.append((labels, value))

    def lines(self) -> Iterable[str]:
        """Its buckets, sums and counts, a line each."""
        for labels, value in self.samples:
            for bound, count in zip(value.bounds, value.counts, strict=True):
                yield f"{self.name}_bucket{_labels({**labels, 'le': number(bound)})} {count}"
            yield f"{self.name}_bucket{_labels({**labels, 'le': '+Inf'})} {value.total}"
            yield f"{self.name}_sum{_labels(labels)} {number(value.sum)}"
            yield f"{self.name}_count{_labels(labels)} {value.total}"


def render(families: Iterable[Family | HistogramFamily]) -> bytes:
    """The whole answer; a family without samples is left out."""
    lines = []
    for family in families:
        if family.samples:
            lines.append(f"# HELP {family.name} {_escaped(family.help)}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines.extend(family.lines())
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def number(value: float) -> str:
    """A value as Go's ParseFloat reads it."""
    if isinstance(value, int):
        return str(int(value))  # True is 1
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_quoted(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')
