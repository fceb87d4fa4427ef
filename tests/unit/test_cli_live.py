"""What a run shows, as text."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from streamfn.cli.live import LiveDisplay, RunSummary, summary_text
from streamfn.mapping.observing import LastError, RetryingShard, Snapshot
from streamfn.pool.function import Census

SNAPSHOT = Snapshot(
    elapsed_s=1.0,
    records=12_345,
    records_per_second=250_000.4,
    lag_records=678,
    lag_ms=4_210,
    errors=1,
    workers=Census(busy=2, maximum=2),
)
RETRYING = RetryingShard("shardId-000000000001", 3, "ValueError: no\x1b[31m\nred", 1.5, 100, 50)
SUMMARY = RunSummary(
    name="app.handler@orders",
    stream="orders",
    records=1_000,
    batches=10,
    errors=0,
    discarded=0,
    seconds=0.5,
    why="caught up",
)
BILLED: dict[str, float] = {"billed_duration_ms": 99, "gb_seconds": 0.5}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "app.handler@orders: 1,000 records in 10 batches, 0.5 s, 2,000 records/s, 0 errors"),
        ({"records": 0, "batches": 0}, "app.handler@orders: nothing left to do"),
        ({"discarded": 2}, "0 errors, 2 records discarded"),
        ({"trimmed": 3, "lost": 1}, "0 errors, 3 records trimmed before they were handed over, 1 record lost"),
        ({"remaining": 5}, "; 5 records left, run it again to go on there"),
        (BILLED | {"estimated_price_usd": 0.01}, "\nbilled 99 ms, 0.500 GB-seconds: about $0.010000 in Lambda (RATES)"),
        (BILLED | {"estimated_price_usd": 2e-7}, "GB-seconds: less than $0.000001 in Lambda (RATES)"),
        (
            {"position_ignored": True},
            "\nthe starting position was ignored: the mapping went on from its checkpoint",
        ),
    ],
)
def test_the_summary_says_what_was_done_and_what_is_left(changes: dict[str, float], text: str) -> None:
    said = summary_text(replace(SUMMARY, **changes))  # type: ignore[arg-type]
    assert re.sub(r"in Lambda \(.*\)", "in Lambda (RATES)", said).endswith(text)


def test_the_summarys_json_has_the_contracts_keys() -> None:
    assert {"records", "batches", "errors", "discarded", "records_per_second"} <= set(SUMMARY.to_json())


def test_without_a_terminal_a_line_comes_now_and_then_and_a_retry_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with LiveDisplay(console=Console(file=io.StringIO(), force_terminal=False)) as display:
        for tenth in range(120):
            retrying = [RETRYING] if tenth >= 30 else []
            display.update(replace(SNAPSHOT, elapsed_s=tenth / 10, retrying=retrying))
        display.write("START\n")
    lines = capsys.readouterr().err.splitlines()
    assert [text.partition(" ")[0] for text in lines] == [
        "shardId-000000000001:",
        "12,345",
        "12,345",
        "START",
    ]


def test_on_a_terminal_logs_go_above_the_changing_line() -> None:
    out = io.StringIO()
    with LiveDisplay(console=Console(file=out, force_terminal=True, width=120)) as display:
        display.update(SNAPSHOT)
        display.write("[red]not markup\n")
    assert "[red]not markup" in out.getvalue()
    assert "12,345" in out.getvalue()


def test_a_dumb_terminal_gets_lines_as_a_file_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    with LiveDisplay(console=Console(file=out, force_terminal=True)) as display:
        display.update(replace(SNAPSHOT, elapsed_s=6.0))
    assert out.getvalue() == ""
    assert capsys.readouterr().err.startswith("12,345 records · ")


def test_no_color_leaves_the_picture_and_takes_the_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}
    for name in ("coloured", "plain"):
        out = io.StringIO()
        with LiveDisplay(console=Console(file=out, force_terminal=True, width=80, color_system="standard")) as display:
            display.update(replace(SNAPSHOT, last_error=LastError("shardId-0", 1, "ValueError: no", 0)))
        drawn[name] = out.getvalue()
        monkeypatch.setenv("NO_COLOR", "1")
    red = "\x1b[31m"
    assert red in drawn["coloured"]
    assert red not in drawn["plain"]
    assert "ValueError: no" in drawn["plain"]


def test_a_disabled_display_writes_logs_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveDisplay(enabled=False) as display:
        display.update(replace(SNAPSHOT, elapsed_s=100.0))
        display.write("log\n")
    assert capsys.readouterr().err == "log\n"


def test_a_held_display_draws_nothing_so_that_a_question_stays_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with LiveDisplay(console=Console(file=out, force_terminal=True, width=120)) as display:
        display.update(SNAPSHOT)
        display.hold()
        display.write("again? ")
        drawn = len(out.getvalue())
        display.update(SNAPSHOT)
        assert len(out.getvalue()) == drawn
        assert capsys.readouterr().err == "again? "
        display.release()
        display.update(replace(SNAPSHOT, records=99_999))
        assert "99,999" in out.getvalue()[drawn:]
