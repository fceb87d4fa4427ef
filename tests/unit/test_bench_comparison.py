"""What two results differ in: which rows are compared, on what the intervals rest, and what others did."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streamfn.cli.bench_compare import compare as command
from streamfn.cli.bench_compare import say, text
from streamfn.errors import RefusedError
from streamfn.measure.comparison import Comparison, compare
from streamfn.measure.counts import Counts
from streamfn.measure.matching import case_text
from streamfn.measure.result import Result, Row, Sample


def row(seed: int = 1, *, slower: float = 1.0, run: int = 0, others: float | None = 0.0, **changed: Any) -> Row:
    """4 s of some 1,000 records a second, each of some 2 ms, noise of about 1 %."""
    chance = random.Random(seed)
    samples = []
    for _ in range(40):
        values = [int(2e6 * slower * chance.lognormvariate(0, 0.1)) for _ in range(round(100 / slower))]
        seconds = 0.1 * chance.gauss(1, 0.01)
        samples.append(Sample(len(values), seconds, Counts.of_values(values), run, 1e-5 * len(values) * slower, others))
    given: dict[str, Any] = {
        "handler": "app.handler",
        "source": {"kind": "generated"},
        "mode": "open",
        "rate_offered": 1000.0,
        "records": sum(each.records for each in samples),
        "batches": 1,
        "errors": 0,
        "discarded": 0,
        "seconds": sum(each.seconds for each in samples),
        "batch_size": 10,
        "workers": 2,
        "record_size": 100,
        "latency": Counts.merged(each.latency for each in samples),
        "samples": samples,
    }
    return Row(**(given | changed))


def result(*rows: Row, at: int = 0, **more: Any) -> Result:
    return Result(rows, 0, {"cpu": "X", "cores": 2, "time": f"2025-11-25T08:00:{at:02}Z"}, **more)


def verdicts(found: Comparison) -> dict[str, str]:
    (case,) = found.cases
    return {finding.figure.name: finding.verdict for finding in case.findings}


def test_two_runs_of_the_same_build_show_no_difference() -> None:
    found = compare([result(row(1))], [result(row(2))])
    assert verdicts(found) == {
        "rate": "no difference",
        "p50": "no difference",
        "p90": "no difference",
        "p99": "no difference",
        "p99.9": "shown",
        "cpu": "no difference",
    }
    assert (found.verdict, found.exit_code, found.remarks) == ("no difference", 0, [])


def test_a_slower_build_is_worse_in_latency_and_cpu_and_a_quicker_one_better() -> None:
    slow, quick = [result(row(1, slower=1.1))], [result(row(2))]
    worse, better = compare(quick, slow), compare(slow, quick)
    assert {name: verdicts(worse)[name] for name in ("rate", "p50", "cpu")} == dict.fromkeys(
        ("rate", "p50", "cpu"), "worse"
    )
    assert (worse.verdict, worse.exit_code) == ("worse", 5)
    assert (better.verdict, better.exit_code) == ("better", 0)


def test_in_a_closed_loop_latency_is_shown_and_not_judged() -> None:
    first, second = (
        row(seed, slower=slower, mode="closed", rate_offered=None) for seed, slower in ((1, 1.0), (2, 1.5))
    )
    found = verdicts(compare([result(first)], [result(second)]))
    assert [found[name] for name in ("rate", "p50", "p99", "cpu")] == ["worse", "shown", "shown", "worse"]


def test_what_is_better_in_one_figure_and_worse_in_another_is_mixed() -> None:
    dear = row(2)
    samples = [Sample(each.records, each.seconds / 1.2, each.latency, 0, each.records * 5e-5) for each in dear.samples]
    found = compare([result(row(1))], [result(row(2, samples=samples))])
    assert (verdicts(found)["rate"], verdicts(found)["cpu"]) == ("better", "worse")
    assert (found.verdict, found.exit_code) == ("mixed", 5)


def test_a_difference_within_the_margin_is_none() -> None:
    first, second = [result(row(1))], [result(row(2, slower=1.1))]
    assert compare(first, second, margin=0.01).verdict == "worse"
    assert compare(first, second, margin=0.2).verdict == "no difference"


def test_cpu_that_was_not_measured_is_not_compared() -> None:
    bare = row(1)
    bare = row(1, samples=[Sample(each.records, each.seconds, each.latency) for each in bare.samples])
    assert "cpu" not in verdicts(compare([result(bare)], [result(row(2))]))


def test_rows_are_compared_where_they_were_asked_for_the_same() -> None:
    first = result(row(1), row(2, batch_size=100), row(3, batch_size=1))
    second = result(row(4, batch_size=100), row(5), row(6, workers=4))
    found = compare([first], [second])
    assert [case.case["batch_size"] for case in found.cases] == [10, 100]
    assert [case["batch_size"] for case in found.only_first] == [1]
    assert [case["workers"] for case in found.only_second] == [4]


def test_results_with_nothing_in_common_are_refused_by_what_they_have() -> None:
    with pytest.raises(RefusedError) as refused:
        compare([result(row(1))], [result(row(2, rate_offered=2000.0))], names=("a.json", "b.json"))
    text = str(refused.value)
    assert "a.json has open loop at 1,000 records/s, batch size 10, 2 workers, records of 100 bytes" in text
    assert "b.json has open loop at 2,000 records/s" in text


def test_ramps_are_compared_where_they_went_from_and_to_the_same() -> None:
    ramp = {"rate_offered": 550.0, "ramp": (100.0, 1000.0)}
    found = compare([result(row(1, **ramp))], [result(row(2, **ramp))])
    assert case_text(found.cases[0].case).startswith("open loop from 100 to 1,000 records/s, batch size 10")
    with pytest.raises(RefusedError, match="nothing to compare"):
        compare([result(row(1, **ramp))], [result(row(2, rate_offered=550.0, ramp=(0.0, 1100.0)))])


def test_results_that_differ_in_their_rate_alone_are_refused_with_what_to_do() -> None:
    searches = [[result(row(seed, rate_offered=rate))] for seed, rate in ((1, 35_000.0), (2, 33_500.0))]
    with pytest.raises(RefusedError, match="all but the rate is the same: measure both at one --rate"):
        compare(*searches)
    with pytest.raises(RefusedError) as refused:
        compare(searches[0], [result(row(2, batch_size=3))])
    assert "--rate" not in str(refused.value)


def test_two_runs_a_side_are_drawn_by_blocks_and_three_by_runs() -> None:
    def side(first: int, number: int) -> list[Result]:
        samples = [each for run in range(number) for each in row(first + run, run=run).samples]
        return [result(row(first, samples=samples))]

    assert compare(side(1, 2), side(11, 5)).cases[0].drawn == "blocks"
    whole = compare(side(1, 3), side(11, 5)).cases[0]
    assert (whole.drawn, whole.runs) == ("runs", (3, 5))


def test_results_taken_in_turns_are_drawn_by_pairs() -> None:
    first = [result(row(seed), at=10 * seed) for seed in (1, 2, 3)]
    turns = [result(row(seed + 10, slower=1.1), at=10 * seed + 5) for seed in (1, 2, 3)]
    after = [result(row(seed + 10, slower=1.1), at=40 + seed) for seed in (1, 2, 3)]
    assert compare(first, turns).cases[0].drawn == "pairs"
    assert compare(first, after).cases[0].drawn == "runs"
    assert compare(first[:2], turns[:2]).cases[0].drawn == "blocks"


def late(seed: int, where: range) -> Row:
    """A row whose p99 is ten times as high in these intervals."""
    samples = list(row(seed).samples)
    for place in where:
        each = samples[place]
        more = Counts.of_values([25_000_000] * 20)
        samples[place] = Sample(each.records + 20, each.seconds, Counts.merged([each.latency, more]), 0, each.cpu_s)
    return row(seed, samples=samples)


def test_a_burst_in_a_few_blocks_is_said_and_makes_no_difference() -> None:
    """Where every block is late it is a difference; three in ten may have been the machine's."""
    some = compare([result(row(1))], [result(late(2, range(8, 20)))])
    p99 = next(finding for finding in some.cases[0].findings if finding.figure.name == "p99")
    assert p99.verdict == "no difference"
    assert p99.whole[1] > 8 * p99.second
    assert p99.document()["b_whole"] == p99.whole[1]
    (remark,) = some.remarks
    assert remark.startswith("there are bursts: p99 of all that B measured is 25 ms, of a block")
    always = compare([result(row(1))], [result(late(2, range(40)))])
    assert verdicts(always)["p99"] == "worse"
    assert always.remarks == []


def test_bursts_in_every_run_are_a_difference() -> None:
    def side(first: int, where: range) -> list[Result]:
        return [result(late(first + run, where), at=first + run) for run in range(3)]

    found = compare(side(1, range(0)), side(11, range(8, 20)))
    assert (found.cases[0].drawn, verdicts(found)["p99"]) == ("runs", "worse")


def test_what_others_did_widens_what_rests_on_blocks() -> None:
    """A slowdown of a tenth is not seen where the machine was shared, as others could have made it."""
    quiet = compare([result(row(1))], [result(row(2, slower=1.1))])
    shared = compare([result(row(1, others=0.3))], [result(row(2, slower=1.1, others=0.4))])
    assert quiet.verdict == "worse"
    assert (shared.verdict, shared.exit_code) == ("no difference", 0)
    assert shared.cases[0].allowance == pytest.approx(0.7 / 0.6 * 2.718281828 ** (0.25 * 0.35) - 1)
    assert shared.remarks == [
        "other processes used 30% of the machine in A and 40% in B: that alone could make 27%. Measure on a quieter "
        "machine, or take 3 runs or more of each, in turns"
    ]


def test_what_others_did_is_no_matter_to_pairs() -> None:
    first = [result(row(seed, others=0.5), at=10 * seed) for seed in (1, 2, 3, 4)]
    turns = [result(row(seed + 10, slower=1.1, others=0.7), at=10 * seed + 5) for seed in (1, 2, 3, 4)]
    found = compare(first, turns)
    assert (found.cases[0].allowance, found.verdict) == (0.0, "worse")


def test_what_makes_a_comparison_doubtful_is_said() -> None:
    first = result(row(1), noise={"noisy": True, "reasons": ["a sleep of 1 ms ended up to 9.0 ms late"]})
    second = Result([row(2, errors=3)], 0, {"cpu": "Y", "cores": 2, "time": "later"})
    assert compare([first], [second]).remarks == [
        "not the same surroundings: cpu X and Y",
        "A was measured on a noisy machine: a sleep of 1 ms ended up to 9.0 ms late",
        "B has 3 failed invocations: what fails costs something else",
    ]


def test_several_noisy_results_are_said_once() -> None:
    noisy = [result(row(seed), noise={"reasons": [f"reason {seed}", "another"]}) for seed in (1, 2)]
    found = compare([*noisy, result(row(3))], [result(row(4))])
    assert found.remarks == ["A was measured on a noisy machine in 2 of 3 results, at last: reason 2; another"]


@pytest.mark.parametrize("kept", [0, 1])
def test_of_too_little_nothing_can_be_told(kept: int) -> None:
    little = row(1)
    found = compare([result(row(1, samples=little.samples[:kept]))], [result(row(2, slower=2.0))])
    assert (found.verdict, found.exit_code) == ("unknown", 0)
    json.dumps(found.document(), allow_nan=False)


# ---- the command


def write(path: Path, *results: Result) -> str:
    path.write_text("\n".join(json.dumps(each.document()) for each in results))
    return str(path)


def test_the_command_says_what_changed_and_exits_5_where_something_became_worse(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.json", result(row(1))), write(tmp_path / "b.json", result(row(2, slower=1.1)))
    said = CliRunner().invoke(command, [first, second])
    assert said.exit_code == 5
    assert said.output.splitlines()[-1].startswith("B is worse: ")
    assert max(len(line) for line in said.output.splitlines()[2:]) <= 80
    same = CliRunner().invoke(command, [first, first])
    assert same.exit_code == 0
    assert same.output.endswith("No difference seen (99% confidence; changes below 1% count as none).\n")


def test_of_a_sweep_it_says_in_how_many_rows_what_changed_most(tmp_path: Path) -> None:
    def sweep(*slower: float) -> Result:
        return result(*[row(place, batch_size=place + 1, slower=factor) for place, factor in enumerate(slower)])

    said = text(compare([sweep(1.0, 1.0, 1.0)], [sweep(1.0, 1.2, 1.4)]))
    assert "cpu x 1.400 (in 2 of 3 rows, at most)." in said
    assert said.splitlines()[-1].startswith("B is worse: rate x 0.7")


def test_the_commands_json_is_one_object(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.json", result(row(1))), write(tmp_path / "b.json", result(row(2)))
    said = CliRunner().invoke(command, [first, second, "--json", "--margin", "2%", "--confidence", "95"])
    document = json.loads(said.output)
    assert (document["verdict"], document["margin"], document["confidence"]) == ("no difference", 0.02, 0.95)
    (case,) = document["cases"]
    assert case["drawn"] == "blocks"
    figures = {figure["figure"]: figure for figure in case["figures"]}
    assert figures["rate"]["low"] < figures["rate"]["ratio"] < figures["rate"]["high"]
    assert figures["p99.9"]["low"] is None


@pytest.mark.parametrize(
    ("option", "value"), [("--margin", "much"), ("--margin", "101%"), ("--confidence", "1"), ("--confidence", "100%")]
)
def test_a_percentage_that_is_none_is_refused(tmp_path: Path, option: str, value: str) -> None:
    first = write(tmp_path / "a.json", result(row(1)))
    said = CliRunner().invoke(command, [first, first, option, value])
    assert said.exit_code == 2
    assert f"'{value}' is not a percentage" in said.output


def test_a_run_is_held_against_a_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    found = say("base.json", [result(row(1))], result(row(2, slower=1.1)))
    assert found.exit_code == 5
    out = capsys.readouterr().out
    assert "A  base.json, app.handler" in out
    assert "B  this run, app.handler" in out
    assert say("base.json", [result(row(1))], result(row(2)), quiet=True).verdict == "no difference"
    assert capsys.readouterr().out == ""
