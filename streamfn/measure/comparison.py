"""What two results differ in, and where no difference is to be seen.

Rows are compared where they were asked for the same thing (`Row.case`), figure by figure, as B by A with an interval
(`measure.statistics`). A figure has changed when its whole interval lies outside of `margin` on either side of 1. All
judged figures of all rows share the confidence (Bonferroni), so that "something differs" about two runs of the same
build is wrong once in a hundred times, however many rows there are.

    closed loop    rate, cpu                    latency there is how much is under way at once: shown, not judged
    open loop      rate, p50, p90, p99, cpu     further out there are too few values to say how sure one is: shown

A burst of latencies in a few blocks may be the code's or the machine's, and one run cannot tell which. So where blocks
are drawn, latencies are compared as a block in the middle has them, and bursts are said. Three runs or more tell whose
bursts are by how often they come: there latencies are those of everything. What others did is left room for
(`measure.matching`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streamfn.measure import statistics
from streamfn.measure.machine import differences
from streamfn.measure.matching import Match, match_up
from streamfn.measure.result import Result
from streamfn.measure.statistics import Ratio, Statistic, Unit, estimate, paired, ratio

FORMAT = "streamfn-compare/1"
CONFIDENCE = 0.99
MARGIN = 0.01
EXIT_WORSE = 5

_ALLOWANCE_SAID = 0.0125
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
    matches, only_first, only_second = match_up(first, second, names)
    each = 1 - (1 - confidence) / sum(len(_judged(found)) for found in matches)
    cases = [_case(found, each, margin) for found in matches]
    remarks = _remarks(first, second, matches) + _bursts(cases)
    return Comparison(cases, only_first, only_second, remarks, confidence, margin)


# ---- one case


def _judged(match: Match) -> list[Figure]:
    """The figures that are judged of it."""
    cpu = [CPU] if all(unit.cpu_s is not None for side in match.units for unit in side) else []
    return [RATE, *([P50, P90, P99] if match.rows[0][0].mode == "open" else []), *cpu]


def _case(match: Match, confidence: float, margin: float) -> Case:
    judged = _judged(match)
    shown = [figure for figure in (RATE, P50, P90, P99, P999, CPU) if figure in judged or figure.unit == "ms"]
    findings = [_find(match, figure, confidence, margin, judged=figure in judged) for figure in shown]
    return Case(match.case, match.drawn, match.runs, match.others, math.expm1(match.allowance), findings)


def _find(match: Match, figure: Figure, confidence: float, margin: float, *, judged: bool) -> Finding:
    if not all(unit.records for unit in match.whole):
        return Finding(figure, math.nan, math.nan, Ratio(math.nan, 0.0, math.inf), "unknown")
    first, second = (figure.of([unit])([1]) * figure.scale for unit in match.whole)
    whole = first, second
    if not judged:
        return Finding(figure, *whole, Ratio(_quotient(whole), 0.0, math.inf), "shown", whole)
    read = figure.typical if match.drawn == "blocks" and figure.typical is not None else figure.of
    both = [read(units) for units in match.units]
    counts = [len(units) for units in match.units]
    if match.drawn == "pairs":
        found = paired(both[0], both[1], counts[0], confidence)
    else:
        found = ratio(estimate(both[0], counts[0]), estimate(both[1], counts[1], seed=2), confidence)
    width = math.exp(match.allowance)
    found = Ratio(found.value, found.low / width, found.high * width)
    compared = [each([1] * count) * figure.scale for each, count in zip(both, counts, strict=True)]
    return Finding(figure, compared[0], compared[1], found, _verdict(found, figure, margin), whole)


def _quotient(both: tuple[float, float]) -> float:
    return both[1] / both[0] if both[0] else math.nan


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


def _remarks(first: Sequence[Result], second: Sequence[Result], matches: Sequence[Match]) -> list[str]:
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
    worst = max(matches, key=lambda each: each.allowance)
    shares = worst.others
    if worst.allowance > _ALLOWANCE_SAID and shares[0] is not None and shares[1] is not None:
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
