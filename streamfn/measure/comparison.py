"""What two results differ in, and where no difference is to be seen.

Rows are compared where they were asked for the same thing (`Row.case`), figure by figure, as B by A with an interval
(`measure.statistics`). A figure has changed when its whole interval lies outside of `margin` on either side of 1. All
judged figures of all rows share the confidence (Bonferroni), so that "something differs" about two runs of the same
build is wrong once in a hundred times, however many rows there are.

    closed loop    rate, cpu                    latency there is how much is under way at once: shown, not judged
    open loop      rate, p50, p90, p99, cpu     further out there are too few values to say how sure one is: shown

A burst of latencies in a few blocks may be the code's or the machine's, and one run cannot tell which. So where blocks
are drawn, latencies are compared as a block in the middle has them, and bursts are said. Three runs or more tell whose
bursts are by how often they come: there latencies are those of everything.

Runs of a few seconds say nothing of what a machine does between them, and what other processes do is the most of it. So
where blocks are drawn the interval is widened by what others could have done: as much as they left to each side
differs, and a quarter of what they used (they share caches, clocks and cores' threads with us). On a quiet machine
that is nothing; with two other processes on two cores it hides most of everything. Whole runs need the first part only,
pairs of runs neither. On the machine this was written on, under five others' load, runs of 2 s of one build differed
in 59 of 100 pairs without the allowance, and in none with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from streamfn.errors import RefusedError
from streamfn.measure import statistics
from streamfn.measure.machine import differences
from streamfn.measure.result import Result, Row, Sample
from streamfn.measure.statistics import Ratio, Statistic, Unit, estimate, paired, ratio

FORMAT = "streamfn-compare/1"
CONFIDENCE = 0.99
MARGIN = 0.01
EXIT_WORSE = 5

_SHARING = 0.25  # of what others use, we are slowed down by so much, at most
_OTHERS_MAX = 0.98  # more cannot be told from all
_OTHERS_SAID = 0.05
_BURST = 1.25  # a latency of the whole run by that of a block in the middle, from which on it is said


@dataclass(frozen=True, slots=True)
class Figure:
    """Something to compare: its name, unit, and how it is read; `scale` makes what is read what is shown.

    `typical`, where there is one, reads it of a block in the middle.
    """

    name: str
    unit: str
    scale: float
    of: Callable[[Sequence[Unit]], Statistic]
    more_is_better: bool = False
    typical: Callable[[Sequence[Unit]], Statistic] | None = None


def _latency(percent: float) -> Figure:
    return Figure(
        f"p{percent:g}",
        "ms",
        1e-6,
        lambda units: statistics.percentile(units, percent),
        typical=lambda units: statistics.typical(units, percent),
    )


RATE = Figure("rate", "records/s", 1.0, statistics.rate, more_is_better=True)
CPU = Figure("cpu", "us/record", 1e6, statistics.cpu)
P50, P90, P99, P999 = (_latency(percent) for percent in (50.0, 90.0, 99.0, 99.9))


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure of A and of B. `verdict` is better, worse, no difference, unknown, or shown where it is not judged.

    `first` and `second` are what is compared; `whole` is the same of all that was measured, which differs from it where
    that is what a block in the middle says.
    """

    figure: Figure
    first: float
    second: float
    ratio: Ratio
    verdict: str
    whole: tuple[float, float] = (math.nan, math.nan)

    @property
    def bursts(self) -> bool:
        """Whether on some side a few blocks are much worse than the others."""
        return any(
            whole > _BURST * typical for whole, typical in zip(self.whole, (self.first, self.second), strict=True)
        )

    def document(self) -> dict[str, object]:
        """As it stands in the comparison; what is endless or unknown is null."""
        known = {"a": self.first, "b": self.second, "ratio": self.ratio.value}
        # An interval without an end is none.
        known |= {"low": self.ratio.low if math.isfinite(self.ratio.high) else math.inf, "high": self.ratio.high}
        known |= {"a_whole": self.whole[0], "b_whole": self.whole[1]}
        return {
            "figure": self.figure.name,
            "unit": self.figure.unit,
            **{name: value if math.isfinite(value) else None for name, value in known.items()},
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Case:
    """What both results were asked for, and what came of it.

    `drawn` is what the intervals rest on: blocks, runs or pairs. `runs` and `others` (the share of the machine that
    other processes used; None where it was not measured) are A's and B's. `allowance` is the share by which intervals
    were widened for that.
    """

    case: Mapping[str, object]
    drawn: str
    runs: tuple[int, int]
    others: tuple[float | None, float | None]
    allowance: float
    findings: Sequence[Finding]

    @property
    def verdict(self) -> str:
        """What the judged figures come to."""
        return _together({finding.verdict for finding in self.findings})

    def document(self) -> dict[str, object]:
        """As it stands in the comparison."""
        return {
            "case": dict(self.case),
            "verdict": self.verdict,
            "drawn": self.drawn,
            "runs": list(self.runs),
            "others": list(self.others),
            "allowance": self.allowance,
            "figures": [finding.document() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results against each other."""

    cases: Sequence[Case]
    only_first: Sequence[Mapping[str, object]] = ()
    only_second: Sequence[Mapping[str, object]] = ()
    remarks: Sequence[str] = ()
    confidence: float = CONFIDENCE
    margin: float = MARGIN

    @property
    def verdict(self) -> str:
        """`no difference`, `better`, `worse`, `mixed`, or `unknown` where nothing could be told."""
        return _together({case.verdict for case in self.cases})

    @property
    def exit_code(self) -> int:
        """5 where something became worse, else 0."""
        return EXIT_WORSE if self.verdict in ("worse", "mixed") else 0

    def document(self) -> dict[str, object]:
        """The one object that `--json` prints."""
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            "confidence": self.confidence,
            "margin": self.margin,
            "cases": [case.document() for case in self.cases],
            "only_in_a": [dict(case) for case in self.only_first],
            "only_in_b": [dict(case) for case in self.only_second],
            "remarks": list(self.remarks),
        }


def compare(
    first: Sequence[Result],
    second: Sequence[Result],
    *,
    names: tuple[str, str] = ("A", "B"),
    confidence: float = CONFIDENCE,
    margin: float = MARGIN,
) -> Comparison:
    """Compare the results of A with those of B, each one or several of the same bench.

    `names` are what a refusal calls them. `confidence` is that of all statements together, `margin` the difference
    that is too small to be called one.

    Raises:
        RefusedError: they have no row in common.
    """
    sides = [_Side.of(results) for results in (first, second)]
    common = [key for key in sides[0].rows if key in sides[1].rows]
    if not common:
        raise RefusedError(_nothing(sides, names))
    in_turns = _in_turns(first, second)
    pairs = [_Pair.of(sides[0].rows[key], sides[1].rows[key], in_turns=in_turns) for key in common]
    judged = sum(len(pair.judged) for pair in pairs)
    each = 1 - (1 - confidence) / judged
    cases = [pair.compare(each, margin) for pair in pairs]
    return Comparison(
        cases,
        [rows[0].case for key, rows in sides[0].rows.items() if key not in sides[1].rows],
        [rows[0].case for key, rows in sides[1].rows.items() if key not in sides[0].rows],
        _remarks(first, second, pairs) + _bursts(cases),
        confidence,
        margin,
    )


# ---- which rows, which units


@dataclass(frozen=True, slots=True)
class _Side:
    """The rows of all results of one side, by what they were asked for; the same row of each result in order."""

    rows: dict[str, list[Row]] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Sequence[Result]) -> _Side:
        found = cls()
        for result in results:
            for row in result.rows:
                found.rows.setdefault(_key(row.case), []).append(row)
        return found


@dataclass(frozen=True, slots=True)
class _Pair:
    """Everything that both sides have of one case, and what is to be drawn of it."""

    rows: tuple[Sequence[Row], Sequence[Row]]
    drawn: str
    units: tuple[Sequence[Unit], Sequence[Unit]]
    runs: tuple[int, int]

    @classmethod
    def of(cls, first: Sequence[Row], second: Sequence[Row], *, in_turns: bool) -> _Pair:
        sides = (first, second)
        runs = [[run for row in side for run in _runs(row.samples)] for side in sides]
        counted = (len(runs[0]), len(runs[1]))
        if in_turns and len(first) == len(second) >= statistics.RUNS_MIN:
            whole = [[Unit.of(row.samples) for row in side] for side in sides]
            return cls(sides, "pairs", (whole[0], whole[1]), counted)
        if min(counted) >= statistics.RUNS_MIN:
            whole = [[Unit.of(run) for run in side] for side in runs]
            return cls(sides, "runs", (whole[0], whole[1]), counted)
        cut = [[block for run in side for block in statistics.blocks(run)] for side in runs]
        return cls(sides, "blocks", (cut[0], cut[1]), counted)

    @property
    def judged(self) -> list[Figure]:
        cpu = [CPU] if all(unit.cpu_s is not None for side in self.units for unit in side) else []
        return [RATE, *([P50, P90, P99] if self._is_open else []), *cpu]

    @property
    def _is_open(self) -> bool:
        return self.rows[0][0].mode == "open"

    @property
    def others(self) -> tuple[float | None, float | None]:
        first, second = (_others(rows) for rows in self.rows)
        return first, second

    @property
    def allowance(self) -> float:
        """How much of a difference others could have made: the logarithm of a factor."""
        first, second = self.others
        if first is None or second is None or self.drawn == "pairs":
            return 0.0
        left = abs(math.log((1 - first) / (1 - second)))
        return left + _SHARING * (first + second) / 2 if self.drawn == "blocks" else left

    def compare(self, confidence: float, margin: float) -> Case:
        judged = self.judged
        shown = [figure for figure in (RATE, P50, P90, P99, P999, CPU) if figure in judged or figure.unit == "ms"]
        findings = [self._find(figure, confidence, margin, judged=figure in judged) for figure in shown]
        case = self.rows[0][0].case
        return Case(case, self.drawn, self.runs, self.others, math.expm1(self.allowance), findings)

    def _find(self, figure: Figure, confidence: float, margin: float, *, judged: bool) -> Finding:
        counts = len(self.units[0]), len(self.units[1])
        if not all(sum(unit.records for unit in units) for units in self.units):
            return Finding(figure, math.nan, math.nan, Ratio(math.nan, 0.0, math.inf), "unknown")
        whole = self._values(figure, figure.of)
        if not judged:
            return Finding(figure, *whole, Ratio(whole[1] / whole[0], 0.0, math.inf), "shown", whole)
        read = figure.typical if self.drawn == "blocks" and figure.typical is not None else figure.of
        first, second = (read(units) for units in self.units)
        if self.drawn == "pairs":
            found = paired(first, second, counts[0], confidence)
        else:
            found = ratio(estimate(first, counts[0]), estimate(second, counts[1], seed=2), confidence)
        width = math.exp(self.allowance)
        found = Ratio(found.value, found.low / width, found.high * width)
        return Finding(figure, *self._values(figure, read), found, _verdict(found, figure, margin), whole)

    def _values(self, figure: Figure, read: Callable[[Sequence[Unit]], Statistic]) -> tuple[float, float]:
        first, second = (read(units)([1] * len(units)) * figure.scale for units in self.units)
        return first, second


def _runs(samples: Sequence[Sample]) -> list[list[Sample]]:
    return [list(run) for _, run in groupby(samples, key=lambda sample: sample.run)]


def _others(rows: Sequence[Row]) -> float | None:
    """The share of the machine that others used while these rows were measured."""
    samples = [sample for row in rows for sample in row.samples if sample.others is not None]
    seconds = sum(sample.seconds for sample in samples)
    if not seconds:
        return None
    share = sum((sample.others or 0.0) * sample.seconds for sample in samples) / seconds
    return min(max(share, 0.0), _OTHERS_MAX)


def _in_turns(first: Sequence[Result], second: Sequence[Result]) -> bool:
    """Whether the results of both sides were measured one of each at a time, by when each says it was."""
    if len(first) != len(second):
        return False
    turns = [[str(result.environment.get("time", "")) for result in side] for side in (first, second)]
    if not all(text for side in turns for text in side):
        return False
    spans = [sorted(pair) for pair in zip(*turns, strict=True)]
    return all(earlier[1] <= later[0] for earlier, later in pairwise(spans))


# ---- what it means


def _verdict(found: Ratio, figure: Figure, margin: float) -> str:
    if not math.isfinite(found.high) or math.isnan(found.value):
        return "unknown"
    if found.low > 1 + margin:
        return "better" if figure.more_is_better else "worse"
    if found.high < 1 / (1 + margin):
        return "worse" if figure.more_is_better else "better"
    return "no difference"


def _together(verdicts: set[str]) -> str:
    found = verdicts & {"better", "worse", "mixed"}
    if len(found) == 1:
        return found.pop()
    if found:
        return "mixed"
    return "no difference" if "no difference" in verdicts else "unknown"


def _remarks(first: Sequence[Result], second: Sequence[Result], pairs: Sequence[_Pair]) -> list[str]:
    """What a reader of the comparison has to know before believing it."""
    found = []
    different = differences(first[-1].environment, second[-1].environment)
    if different:
        found.append(f"not the same surroundings: {'; '.join(different)}")
    for name, results in (("A", first), ("B", second)):
        noisy = [reasons for result in results if (reasons := _reasons(result))]
        if noisy:
            often = f" in {len(noisy)} of {len(results)} results, at last" if len(results) > 1 else ""
            found.append(f"{name} was measured on a noisy machine{often}: {'; '.join(noisy[-1])}")
        failed = sum(row.errors for result in results for row in result.rows)
        if failed:
            plural = "s" if failed > 1 else ""
            found.append(f"{name} has {failed:,} failed invocation{plural}: what fails costs something else")
    worst = max(pairs, key=lambda pair: pair.allowance)
    shares = worst.others
    if worst.allowance > _SHARING * _OTHERS_SAID and shares[0] is not None and shares[1] is not None:
        found.append(
            f"other processes used {shares[0]:.0%} of the machine in A and {shares[1]:.0%} in B: that "
            f"alone could make {math.expm1(worst.allowance):.0%}. Measure on a quieter machine, or take "
            f"{statistics.RUNS_MIN} runs or more of each, in turns"
        )
    return found


def _bursts(cases: Sequence[Case]) -> list[str]:
    """A remark on the largest burst, if there is any."""
    burst = [finding for case in cases for finding in case.findings if finding.bursts]
    if not burst:
        return []
    finding = max(burst, key=lambda each: max(each.whole[0] / each.first, each.whole[1] / each.second))
    whole, typical = max(
        zip(finding.whole, (finding.first, finding.second), strict=True), key=lambda both: both[0] / both[1]
    )
    side = "A" if whole == finding.whole[0] else "B"
    return [
        f"there are bursts: {finding.figure.name} of all that {side} measured is {whole:.4g} ms, of a block in the "
        f"middle {typical:.4g} ms; {statistics.RUNS_MIN} runs or more of each would tell whose they are"
    ]


def _reasons(result: Result) -> list[str]:
    found = result.noise.get("reasons", ())
    return [str(reason) for reason in found] if isinstance(found, list | tuple) else []


def _key(case: Mapping[str, object]) -> str:
    return json.dumps(case, sort_keys=True)


def _nothing(sides: Sequence[_Side], names: tuple[str, str]) -> str:
    """Why two sides have nothing in common, and what to do where that is easy to say."""
    wanted, has = (_cases_said(side) for side in sides)
    alike = [
        {_key({**rows[0].case, "rate_offered": None, "ramp": None}) for rows in side.rows.values()} for side in sides
    ]
    advice = "; all but the rate is the same: measure both at one --rate" if alike[0] & alike[1] else ""
    return f"there is nothing to compare: {names[0]} has {wanted}, {names[1]} has {has}{advice}"


def _cases_said(side: _Side) -> str:
    shown = [case_text(rows[0].case) for rows in side.rows.values()]
    more = len(shown) - 3
    return "; ".join(shown[:3]) + (f" and {more} more" if more > 0 else "")


def case_text(case: Mapping[str, object]) -> str:
    """A case in words: `closed loop, batch size 100, 2 workers, records of 1,024 bytes`."""
    rate, ramp, size = case.get("rate_offered"), case.get("ramp"), case.get("record_size")
    at = f" at {rate:,.10g} records/s" if isinstance(rate, float) else ""
    if isinstance(ramp, Sequence):
        at = f" from {ramp[0]:,.10g} to {ramp[1]:,.10g} records/s"
    parts = [
        f"{case['mode']} loop{at}",
        f"batch size {case['batch_size']:,}",
        f"{case['workers']} worker{'' if case['workers'] == 1 else 's'}",
        f"records of {size:,} bytes" if isinstance(size, int) else f"records of a {case['source']}",
    ]
    return ", ".join(parts)
