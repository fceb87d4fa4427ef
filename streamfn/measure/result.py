"""The result document: what `streamfn bench --json` prints, and whatever reads it.

    Result                     one document: where it ran, what was asked of it, and
      └─ rows: Row             one measured run each, or several of a sweep
           ├─ latency, stages  histograms (`Counts`, nanoseconds)
           └─ samples: Sample  the same run, cut into intervals of equal length: what comparisons draw from

A row holds counts and histograms; every percentile of the document is worked out from them when it is written, so that
no figure can contradict another. Times in the document are milliseconds, histograms nanoseconds; what was never
measured is null. The document's own figures are those of the best row, without its samples and histograms: those are
in `rows`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamfn.errors import RefusedError
from streamfn.measure.counts import Counts
from streamfn.measure.histogram import NS_PER_MS, PERCENTILES

FORMAT = "streamfn-bench/1"


@dataclass(frozen=True, slots=True)
class Sample:
    """What was finished in one interval of a run.

    `run` counts the runs of a row. `cpu_s` is of runtime and workers together, `others` the share of all cores' time
    that other processes used meanwhile (`measure.noise.Others`); None where it was not measured.
    """

    records: int
    seconds: float
    latency: Counts
    run: int = 0
    cpu_s: float | None = None
    others: float | None = None

    def document(self) -> dict[str, object]:
        """As it stands in a result."""
        found: dict[str, object] = {"run": self.run, "records": self.records, "seconds": self.seconds}
        for name, value in (("cpu_s", self.cpu_s), ("others", self.others)):
            if value is not None:
                found[name] = value
        return found | {"latency": self.latency.encode()}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Sample:
        """Read it back; KeyError, TypeError or ValueError where it is none."""
        return cls(
            int(document["records"]),
            float(document["seconds"]),
            Counts.decode(document["latency"]),
            int(document.get("run", 0)),
            *(None if (value := document.get(name)) is None else float(value) for name in ("cpu_s", "others")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of one configuration.

    `mode` is `open` (records were due by a schedule, and latency counts from then) or `closed` (each was due when there
    was room for it). `rate_offered` is in records per second, None for as fast as possible; of a `ramp`, the rates that
    it went from and to, it is the mean. `records` and `batches` are those that succeeded within the `seconds` that were
    measured. `record_size` is in bytes, the mean one of records that were not generated. `cold_starts` are times from a
    fork to readiness. CPU is in seconds, memory in bytes.
    """

    handler: str
    source: Mapping[str, object]
    mode: str
    rate_offered: float | None
    records: int
    batches: int
    errors: int
    discarded: int
    seconds: float
    batch_size: int
    workers: int
    record_size: int
    latency: Counts
    stages: Mapping[str, Counts] = field(default_factory=dict)
    cold_starts: Counts = field(default_factory=Counts)
    runtime_cpu_s: float | None = None
    workers_cpu_s: float | None = None
    context_switches: Mapping[str, int] = field(default_factory=dict)
    page_faults: Mapping[str, int] = field(default_factory=dict)
    peak_memory_bytes: Mapping[str, int] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    ramp: tuple[float, float] | None = None

    @property
    def rate_achieved(self) -> float:
        """Records per second; 0.0 where nothing was measured."""
        return self.records / self.seconds if self.seconds else 0.0

    @property
    def runtime_us_per_record(self) -> float | None:
        """CPU of the runtime, in microseconds for a record."""
        return _us_per(self.runtime_cpu_s, self.records)

    @property
    def workers_us_per_record(self) -> float | None:
        """CPU of the workers, in microseconds for a record."""
        return _us_per(self.workers_cpu_s, self.records)

    @property
    def case(self) -> dict[str, object]:
        """What two rows must have in common to be compared, in the words of the document."""
        found: dict[str, object] = {"source": self.source.get("kind"), "mode": self.mode}
        if self.rate_offered is not None:
            found["rate_offered"] = self.rate_offered
        if self.ramp is not None:
            found["ramp"] = list(self.ramp)
        found |= {"batch_size": self.batch_size, "workers": self.workers}
        if self.source.get("kind") == "generated":
            found["record_size"] = self.record_size
        return found

    def figures(self) -> dict[str, object]:
        """The row's figures, without its samples and histograms."""
        cold = self.cold_starts
        return {
            "handler": self.handler,
            "source": dict(self.source),
            "mode": self.mode,
            "rate_offered": self.rate_offered,
            "ramp": None if self.ramp is None else list(self.ramp),
            "rate_achieved": self.rate_achieved,
            "records": self.records,
            "batches": self.batches,
            "errors": self.errors,
            "discarded": self.discarded,
            "seconds": self.seconds,
            "batch_size": self.batch_size,
            "workers": self.workers,
            "record_size": self.record_size,
            "latency_ms": milliseconds(self.latency),
            "stages_ms": {name: milliseconds(stage) for name, stage in self.stages.items()},
            "cold_starts": {
                "count": cold.total,
                "p50": cold.percentile(50) / NS_PER_MS if cold.total else None,
                "max": cold.max / NS_PER_MS if cold.total else None,
            },
            "cpu": {
                "runtime_us_per_record": self.runtime_us_per_record,
                "workers_us_per_record": self.workers_us_per_record,
            },
            "context_switches": dict(self.context_switches),
            "page_faults": dict(self.page_faults),
            "peak_memory_bytes": dict(self.peak_memory_bytes),
            "over_time": self._over_time(),
        }

    def document(self) -> dict[str, object]:
        """The whole row, as it stands in `rows`."""
        histograms = {"latency": self.latency, "cold_starts": self.cold_starts, **self.stages}
        return self.figures() | {
            "samples": [sample.document() for sample in self.samples],
            "histograms": {name: counts.encode() for name, counts in histograms.items()},
        }

    def _over_time(self) -> dict[str, object]:
        """Records and p99 of each interval, of the first run where there are several."""
        first = [sample for sample in self.samples if sample.run == self.samples[0].run]
        return {
            "interval_s": first[0].seconds if first else None,
            "records": [sample.records for sample in first],
            "p99_ms": [sample.latency.percentile(99) / NS_PER_MS if sample.latency.total else None for sample in first],
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Row:
        """Read a row back; KeyError, TypeError or ValueError where it is none."""
        histograms = {name: Counts.decode(text) for name, text in document["histograms"].items()}
        records, cpu, rate = int(document["records"]), document.get("cpu", {}), document["rate_offered"]
        ramp = document.get("ramp")
        return cls(
            handler=str(document["handler"]),
            source=dict(document["source"]),
            mode=str(document["mode"]),
            rate_offered=None if rate is None else float(rate),
            ramp=None if ramp is None else (float(ramp[0]), float(ramp[1])),
            records=records,
            batches=int(document["batches"]),
            errors=int(document["errors"]),
            discarded=int(document["discarded"]),
            seconds=float(document["seconds"]),
            batch_size=int(document["batch_size"]),
            workers=int(document["workers"]),
            record_size=int(document["record_size"]),
            latency=histograms["latency"],
            stages={name: counts for name, counts in histograms.items() if name not in ("latency", "cold_starts")},
            cold_starts=histograms.get("cold_starts", Counts()),
            runtime_cpu_s=_seconds_of(cpu.get("runtime_us_per_record"), records),
            workers_cpu_s=_seconds_of(cpu.get("workers_us_per_record"), records),
            context_switches=dict(document.get("context_switches", {})),
            page_faults=dict(document.get("page_faults", {})),
            peak_memory_bytes=dict(document.get("peak_memory_bytes", {})),
            samples=tuple(Sample.of(sample) for sample in document["samples"]),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What a bench came to: its rows, which of them is the best, and where they were measured.

    `environment` and `noise` are as `measure.machine` has them, `thresholds` one object each: text, value, met.
    """

    rows: Sequence[Row]
    best: int = 0
    environment: Mapping[str, object] = field(default_factory=dict)
    noise: Mapping[str, object] = field(default_factory=dict)
    thresholds: Sequence[Mapping[str, object]] = ()

    def document(self) -> dict[str, object]:
        """The one object that `--json` prints."""
        return {
            "format": FORMAT,
            **self.rows[self.best].figures(),
            "environment": dict(self.environment),
            "noise": dict(self.noise),
            "thresholds": [dict(threshold) for threshold in self.thresholds],
            "rows": [row.document() for row in self.rows],
            "best": self.best,
        }

    @classmethod
    def of(cls, document: object, name: str = "the result") -> Result:
        """Read a document back. `name` is what errors call it; RefusedError where it is none of ours."""
        if not isinstance(document, Mapping) or not str(document.get("format", "")).startswith("streamfn-bench/"):
            raise RefusedError(f"{name} is no result of `streamfn bench --json`: it has no format {FORMAT!r}")
        if document["format"] != FORMAT:
            raise RefusedError(f"{name} has format {document['format']!r}; this streamfn reads {FORMAT!r}")
        try:
            rows = tuple(Row.of(row) for row in document["rows"])
            best = int(document["best"])
            if not 0 <= best < len(rows):
                raise ValueError(f"best is {best}, with {len(rows)} rows")
            return cls(
                rows,
                best,
                dict(document.get("environment", {})),
                dict(document.get("noise", {})),
                tuple(document.get("thresholds", ())),
            )
        except KeyError as error:
            raise RefusedError(f"{name} is no whole result of `streamfn bench --json`: {error} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise RefusedError(f"{name} is no whole result of `streamfn bench --json`: {error}") from None


def load(path: str | Path) -> list[Result]:
    """Read the results in a file: one, or several one after the other, each a run of its own.

    RefusedError names the file and what is wrong with it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise RefusedError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise RefusedError(f"{path} is no result of `streamfn bench --json`: it is not text") from None
    return [Result.of(document, str(path)) for document in _documents(text, str(path))]


def _documents(text: str, name: str) -> Iterator[object]:
    decoder = json.JSONDecoder()
    at = len(text) - len(text.lstrip())
    if at == len(text):
        raise RefusedError(f"{name} is empty: it should hold what `streamfn bench --json` prints")
    while at < len(text):
        try:
            found, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            raise RefusedError(f"{name} is no result of `streamfn bench --json`: {error}") from None
        yield found
        at += len(text[at:]) - len(text[at:].lstrip())


def milliseconds(counts: Counts) -> dict[str, float | None]:
    """`p50 p90 p99 p99.9 max mean` of a histogram, in milliseconds; None where nothing was recorded."""
    found: dict[str, float | None] = {
        f"p{percent:g}": counts.percentile(percent) / NS_PER_MS if counts.total else None for percent in PERCENTILES
    }
    found["max"] = counts.max / NS_PER_MS if counts.total else None
    found["mean"] = counts.mean / NS_PER_MS if counts.total else None
    return found


def _us_per(seconds: float | None, records: int) -> float | None:
    return None if seconds is None or not records else seconds * 1e6 / records


def _seconds_of(us_per_record: float | None, records: int) -> float | None:
    return None if us_per_record is None else us_per_record * records / 1e6
