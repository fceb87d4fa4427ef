"""Which rows of two results belong together, and what of them is drawn: blocks, runs, or pairs of runs.

Runs of a few seconds say nothing of what a machine does between them, and what other processes do is most of it. So
where blocks are drawn the interval is widened by what others could have done: as much as they left to each side
differs, and a quarter of what they used (they share caches, clocks and cores' threads with us). On a quiet machine
that is nothing; with two other processes on two cores it hides most of everything. Whole runs need the first part only,
pairs of runs neither. On the machine this was written on, under five others' load, runs of 2 s of one build differed
in 59 of 100 pairs without the allowance, and in none with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from streamfn.errors import RefusedError
from streamfn.measure import statistics
from streamfn.measure.result import Result, Row, Sample
from streamfn.measure.statistics import Unit

_SHARING = 0.25  # of what others use, we are slowed down by so much, at most
_OTHERS_MAX = 0.98  # more cannot be told from all

Rows = dict[str, list[Row]]  # by what they were asked for; the same row of each result, in order


@dataclass(frozen=True, slots=True)
class Match:
    """Everything that A and B have of one case.

    `drawn` is blocks, runs or pairs, and `units` are those of each side, `whole` all of them as one; `runs` are how
    many runs there are.
    """

    rows: tuple[Sequence[Row], Sequence[Row]]
    drawn: str
    units: tuple[Sequence[Unit], Sequence[Unit]]
    whole: tuple[Unit, Unit]
    runs: tuple[int, int]

    @classmethod
    def of(cls, first: Sequence[Row], second: Sequence[Row], *, in_turns: bool) -> Match:
        """What is drawn of these rows, which were asked for the same thing."""
        sides = (first, second)
        runs = [[run for row in side for run in _runs(row.samples)] for side in sides]
        counted = (len(runs[0]), len(runs[1]))
        if in_turns and len(first) == len(second) >= statistics.RUNS_MIN:
            drawn, units = "pairs", [[Unit.of(row.samples) for row in side] for side in sides]
        elif min(counted) >= statistics.RUNS_MIN:
            drawn, units = "runs", [[Unit.of(run) for run in side] for side in runs]
        else:
            drawn, units = "blocks", [[block for run in side for block in statistics.blocks(run)] for side in runs]
        whole = Unit.together(units[0]), Unit.together(units[1])
        return cls(sides, drawn, (units[0], units[1]), whole, counted)

    @property
    def case(self) -> dict[str, object]:
        """What both were asked for."""
        return self.rows[0][0].case

    @property
    def others(self) -> tuple[float | None, float | None]:
        """The share of the machine that others used, of A and of B; None where it was not measured."""
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


def match_up(
    first: Sequence[Result], second: Sequence[Result], names: tuple[str, str]
) -> tuple[list[Match], list[dict[str, object]], list[dict[str, object]]]:
    """What both sides have in common, and the cases that A alone and B alone have.

    Raises:
        RefusedError: they have nothing in common.
    """
    sides = [_by_case(results) for results in (first, second)]
    common = [key for key in sides[0] if key in sides[1]]
    if not common:
        raise RefusedError(_nothing(sides, names))
    in_turns = _in_turns(first, second)
    alone = [[rows[0].case for key, rows in side.items() if key not in common] for side in sides]
    return [Match.of(sides[0][key], sides[1][key], in_turns=in_turns) for key in common], alone[0], alone[1]


def _by_case(results: Sequence[Result]) -> Rows:
    found: Rows = {}
    for result in results:
        for row in result.rows:
            found.setdefault(_key(row.case), []).append(row)
    return found


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


# ---- in words


def _key(case: Mapping[str, object]) -> str:
    return json.dumps(case, sort_keys=True)


def _nothing(sides: Sequence[Rows], names: tuple[str, str]) -> str:
    """Why two sides have nothing in common, and what to do where that is easy to say."""
    wanted, has = (_cases_said(side) for side in sides)
    alike = [{_key({**rows[0].case, "rate_offered": None, "ramp": None}) for rows in side.values()} for side in sides]
    advice = "; all but the rate is the same: measure both at one --rate" if alike[0] & alike[1] else ""
    return f"there is nothing to compare: {names[0]} has {wanted}, {names[1]} has {has}{advice}"


def _cases_said(side: Rows) -> str:
    shown = [case_text(rows[0].case) for rows in side.values()]
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
