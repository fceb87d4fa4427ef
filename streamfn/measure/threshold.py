"""What a bench must keep: `p99<50ms`, `rate>100k`, `errors==0`, one comparison of one figure of its result.

    FIGURE  OP  VALUE
      │     │     └─ a number with a unit where the figure has one: ns us ms s m, k M, KB MB GiB, %
      │     └─ < <= > >= == !=
      └─ p50 p99.9 pN min max mean      latency; `handler.p99` that of a stage
         rate records batches errors discarded seconds error_rate cold_starts
         cpu runtime_cpu workers_cpu    CPU for one record
         memory                         peak of runtime and workers together

A figure that was never measured keeps nothing: where no record was handled, `p99<50ms` is missed.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from streamfn.errors import RefusedError
from streamfn.measure.counts import Counts
from streamfn.measure.result import Result, Row

STAGES = ("waiting", "queueing", "building", "handler", "completion", "checkpoint")

_SPLIT = re.compile(r"\s*([A-Za-z_][\w.]*?(?:\.\d+)?)\s*(<=|>=|==|!=|<|>)\s*(\S.*?)\s*")
_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([a-zµμ%]*)(?:/s)?", re.IGNORECASE)
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True, slots=True)
class _Unit:
    """What a kind of figure is written in: factors to its base unit, how an error lists them, how values are shown."""

    factors: dict[str, float]
    advice: str
    show: Callable[[float], str]


def _time(ms: float) -> str:
    for limit, factor, unit in ((1e-3, 1e6, "ns"), (1.0, 1e3, "us"), (1e3, 1.0, "ms")):
        if abs(ms) < limit:
            return f"{ms * factor:.4g} {unit}"
    return f"{ms / 1e3:.4g} s"


def _size(number: float) -> str:
    for limit, factor, unit in ((1024.0, 1.0, "B"), (2.0**20, 1024.0, "KiB"), (2.0**30, 2.0**20, "MiB")):
        if number < limit:
            return f"{number / factor:.4g} {unit}"
    return f"{number / 2**30:.4g} GiB"


_TIME = _Unit(
    {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "min": 6e4},
    "a time with its unit, such as 50ms, 250us or 1s",
    _time,
)
_COUNT = _Unit(
    {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}, "a number, such as 100k or 1.5M", lambda value: f"{value:,.10g}"
)
_RATE = _Unit(_COUNT.factors, "records per second, such as 100k or 1.5M", lambda value: f"{value:,.0f}/s")
_SHARE = _Unit({"%": 1.0}, "a percentage, such as 1%", lambda value: f"{value:.4g}%")
_BYTES = _Unit(
    {
        "b": 1.0,
        **{f"{letter}b": 1000.0**power for power, letter in enumerate("kmgt", 1)},
        **{f"{letter}ib": 1024.0**power for power, letter in enumerate("kmgt", 1)},
    },
    "a size with its unit, such as 500MB or 1GiB",
    _size,
)

_Read = Callable[[Row], float | None]


def _error_rate(row: Row) -> float | None:
    tried = row.batches + row.errors
    return 100.0 * row.errors / tried if tried else None


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _in_ms(us: float | None) -> float | None:
    return None if us is None else us / 1e3


def _memory(row: Row) -> float | None:
    return sum(row.peak_memory_bytes.values()) if row.peak_memory_bytes else None


_FIGURES: dict[str, tuple[_Unit, _Read]] = {
    "rate": (_RATE, lambda row: row.rate_achieved),
    "records": (_COUNT, lambda row: row.records),
    "batches": (_COUNT, lambda row: row.batches),
    "errors": (_COUNT, lambda row: row.errors),
    "discarded": (_COUNT, lambda row: row.discarded),
    "error_rate": (_SHARE, _error_rate),
    "seconds": (_TIME, lambda row: row.seconds * 1e3),
    "cold_starts": (_COUNT, lambda row: row.cold_starts.total),
    "cpu": (_TIME, lambda row: _in_ms(_sum(row.runtime_us_per_record, row.workers_us_per_record))),
    "runtime_cpu": (_TIME, lambda row: _in_ms(row.runtime_us_per_record)),
    "workers_cpu": (_TIME, lambda row: _in_ms(row.workers_us_per_record)),
    "memory": (_BYTES, _memory),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a threshold. `value` is in milliseconds, records per second, bytes, percent or a plain number."""

    text: str
    value: float | None
    met: bool
    shown: str

    def document(self) -> dict[str, object]:
        """As it stands in a result."""
        return {"text": self.text, "value": self.value, "met": self.met}


@dataclass(frozen=True, slots=True)
class Threshold:
    """One comparison, as `parse` has read it."""

    text: str
    figure: str
    sign: str
    limit: float

    def check(self, result: Result) -> Outcome:
        """Hold it against the result's own figures: of a sweep, those of its best row."""
        unit, read = _figure(self.figure)
        value = read(result.rows[result.best])
        met = value is not None and _OPERATORS[self.sign](value, self.limit)
        return Outcome(self.text, value, met, "nothing measured" if value is None else unit.show(value))


def parse(text: str) -> Threshold:
    """Read `p99<50ms`. RefusedError names the threshold, what is wrong with it, and what would do."""
    found = _SPLIT.fullmatch(text)
    if found is None:
        raise RefusedError(
            f"threshold {text!r} is not FIGURE<VALUE: write one of < <= > >= == != between a figure and a value, "
            "such as 'p99<50ms' or 'rate>100k' (quoted, or the shell takes < and > for itself)"
        )
    figure, sign, value = found.groups()
    try:
        unit, _ = _figure(figure)
    except KeyError:
        raise RefusedError(
            f"threshold {text!r}: there is no figure {figure!r}; there are p50, p99.9 (any pN), min, max, mean, "
            f"the same of a stage ({', '.join(f'{stage}.p99' for stage in STAGES)}), and {', '.join(_FIGURES)}"
        ) from None
    number = _NUMBER.fullmatch(value.replace(",", "").replace("_", ""))
    factor = None if number is None else unit.factors.get(number[2].lower())
    if number is None or factor is None:
        raise RefusedError(f"threshold {text!r}: {value!r} will not do for {figure}: give {unit.advice}")
    return Threshold(text, figure, sign, float(number[1]) * factor)


def _figure(name: str) -> tuple[_Unit, _Read]:
    """The unit of a figure, and how it is read from a row; KeyError where there is none of that name."""
    known = _FIGURES.get(name)
    if known is not None:
        return known
    stage, dot, rest = name.partition(".")
    if dot and stage in STAGES:
        return _TIME, _latency(rest, lambda row: row.stages.get(stage, Counts()))
    return _TIME, _latency(name, lambda row: row.latency)


def _latency(name: str, of: Callable[[Row], Counts]) -> _Read:
    """How a percentile, `min`, `max` or `mean` of a row's histogram is read, in milliseconds."""
    ask = _OF_COUNTS.get(name) or _percentile(name)
    return lambda row: ask(of(row)) / 1e6 if of(row).total else None


def _percentile(name: str) -> Callable[[Counts], float]:
    found = _PERCENTILE.fullmatch(name)
    if found is None or float(found[1]) > 100:
        raise KeyError(name)
    percent = float(found[1])
    return lambda counts: counts.percentile(percent)


_OF_COUNTS: dict[str, Callable[[Counts], float]] = {
    "min": lambda counts: counts.percentile(0),
    "max": lambda counts: counts.max,
    "mean": lambda counts: counts.mean,
}
