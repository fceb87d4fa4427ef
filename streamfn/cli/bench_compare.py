"""`streamfn bench compare`: what two results differ in."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from streamfn.cli.options import Settings, common_options
from streamfn.cli.output import print_json

if TYPE_CHECKING:
    from streamfn.measure.comparison import Case, Comparison, Finding
    from streamfn.measure.result import Result

_EPILOG = """\b
Examples:
  streamfn bench compare A.json B.json
  streamfn bench compare A.json B.json --json | jq -r .verdict
  streamfn bench compare before.json after.json --margin 3%

\b
A.json and B.json are what `streamfn bench HANDLER ... --json` printed before and after a
change. On a machine that does other things as well, take several runs of each, in turns: a
file may hold several results, one after the other, and what was slow for both counts for
neither.
  for run in 1 2 3 4 5; do
    (cd old && streamfn bench app.handler --rate max --json) >> A.json
    (cd new && streamfn bench app.handler --rate max --json) >> B.json
  done

\b
Each figure is shown as B by A, with the interval that this ratio lies in; all intervals
together hold with the --confidence. A figure has changed when its interval lies wholly
outside of the --margin; everything else is "no difference seen". docs/bench.md says how
the intervals are made.

\b
Exit codes: 0 nothing became worse, 2 a file that is no result or two that have nothing in
common, 5 something became worse.
"""

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%?")


class _Percent(click.ParamType):  # type: ignore[type-arg]
    """A number of percent, with or without the sign, as a share."""

    name = "PERCENT"

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the share."""
        if isinstance(value, float):  # a default
            return value
        found = _PERCENT.fullmatch(str(value).strip())
        if found is None or not self._low <= float(found[1]) <= self._high:
            self.fail(
                f"{value!r} is not a percentage from {self._low:g} to {self._high:g}: give one such as {self._low:g}%",
                param,
                ctx,
            )
        return float(found[1]) / 100


@click.command(epilog=_EPILOG)
@click.argument("first", metavar="A.json")
@click.argument("second", metavar="B.json")
@click.option(
    "--confidence", type=_Percent(50, 99.99), default=0.99, help="Of all statements together.  [default: 99%]"
)
@click.option("--margin", type=_Percent(0, 100), default=0.01, help="A change below this is none.  [default: 1%]")
@common_options
@click.pass_context
def compare(ctx: click.Context, settings: Settings, first: str, second: str, confidence: float, margin: float) -> None:
    """Say what two results of `streamfn bench --json` differ in: B.json by A.json."""
    from streamfn.measure.comparison import compare as work
    from streamfn.measure.result import load

    before, after = load(first), load(second)
    found = work(before, after, names=(first, second), confidence=confidence, margin=margin)
    if settings.json_output:
        print_json(found.document())
    else:
        click.echo(f"A  {_origin(first, before)}\nB  {_origin(second, after)}\n")
        click.echo(text(found))
    ctx.exit(found.exit_code)


def say(name: str, baseline: Sequence[Result], result: Result, *, quiet: bool = False) -> Comparison:
    """Compare a run that has just ended with a baseline, and print it unless `quiet`.

    `name` is the baseline's file.

    Raises:
        RefusedError: they have no row in common.
    """
    from streamfn.measure.comparison import compare as work

    found = work(baseline, [result], names=(name, "this run"))
    if not quiet:
        click.echo(f"\nA  {_origin(name, baseline)}\nB  {_origin('this run', [result])}\n")
        click.echo(text(found))
    return found


# ---- for people


def text(found: Comparison) -> str:
    """The comparison as it is printed, 80 columns wide where names are not longer."""
    from streamfn.measure.matching import case_text

    lines: list[str] = []
    for case in found.cases:
        lines += _table(case)
    for which, cases in (("A", found.only_first), ("B", found.only_second)):
        lines += [f"only in {which}: {case_text(case)}" for case in cases]
    lines += [f"note: {remark}" for remark in found.remarks]
    if lines[-1]:
        lines.append("")
    lines.append(_conclusion(found))
    return "\n".join(lines)


def _origin(name: str, results: Sequence[Result]) -> str:
    """Where a side is from: `A.json, app.handler, 5 results, streamfn 0.1.0, 2025-11-25T08:00:00Z`."""
    last = results[-1]
    handlers = sorted({row.handler for result in results for row in result.rows})
    parts = [name, ", ".join(handlers)]
    if len(results) > 1:
        parts.append(f"{len(results)} results")
    parts += [f"streamfn {last.environment['streamfn']}"] if "streamfn" in last.environment else []
    return ", ".join([*parts, *([str(last.environment["time"])] if "time" in last.environment else [])])


_DRAWN = {
    "blocks": "intervals from blocks of each run, not from several runs",
    "runs": "intervals from {} and {} runs",
    "pairs": "intervals from {} pairs of runs, taken in turns",
}


_UNITS = {"records/s": "/s", "us/record": "us"}
_VERDICTS = {"no difference": "no difference seen", "shown": "not judged", "unknown": "cannot be told"}


def _table(case: Case) -> list[str]:
    from streamfn.measure.matching import case_text

    lines = [case_text(case.case), f"{'':6}{'A':>11}{'B':>11}{'':4}{'B : A':>8}  interval"]
    lines += [_line(finding) for finding in case.findings]
    drawn = _DRAWN[case.drawn].format(*case.runs)
    if case.allowance >= 0.005:
        drawn += f", widened by {case.allowance:.0%} for what others did"
    return [*lines, f"({drawn})", ""]


def _line(finding: Finding) -> str:
    first, second, ratio = _number(finding.first), _number(finding.second), finding.ratio
    unit = _UNITS.get(finding.figure.unit, finding.figure.unit)
    bounds = f"{_factor(ratio.low)} to {_factor(ratio.high)}" if math.isfinite(ratio.high) else ""
    verdict = _VERDICTS.get(finding.verdict, finding.verdict)
    return f"{finding.figure.name:<6}{first:>11}{second:>11} {unit:<3}{_factor(ratio.value):>8}  {bounds:<17}{verdict}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 10_000 else f"{value:,.4g}"


def _factor(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}" if value < 100 else f"{value:.3g}"


def _conclusion(found: Comparison) -> str:
    """One sentence that can be read alone."""
    changes = [_changes(found, verdict) for verdict in ("worse", "better") if _changed(found, verdict)]
    if not changes:
        if found.verdict == "unknown":
            return "It cannot be told whether they differ: too little was measured."
        sure, small = f"{found.confidence * 100:g}%", f"{found.margin * 100:g}%"
        return f"No difference seen ({sure} confidence; changes below {small} count as none)."
    return f"B is {'; '.join(changes)}."


def _changed(found: Comparison, verdict: str) -> list[Case]:
    return [case for case in found.cases if verdict in {finding.verdict for finding in case.findings}]


def _changes(found: Comparison, verdict: str) -> str:
    """`worse: p99 x 1.114, cpu x 1.050`: each figure once, by the row where it changed most."""
    most: dict[str, float] = {}
    cases = _changed(found, verdict)
    for finding in (each for case in cases for each in case.findings if each.verdict == verdict):
        name, value = finding.figure.name, finding.ratio.value
        if name not in most or abs(math.log(value)) > abs(math.log(most[name])):
            most[name] = value
    where = f" (in {len(cases)} of {len(found.cases)} rows, at most)" if len(found.cases) > 1 else ""
    return f"{verdict}: {', '.join(f'{name} x {_factor(value)}' for name, value in most.items())}{where}"
