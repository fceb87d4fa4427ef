"""A running mapping as a line and as a picture."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from streamfn.cli.picture import Picture, line, lines, retry_line
from streamfn.mapping.observing import LastError, RetryingShard, Snapshot
from streamfn.pool.function import Census

SNAPSHOT = Snapshot(
    name="app.handler@orders",
    elapsed_s=83.2,
    records=12_345,
    records_per_second=250_000.4,
    lag_records=678,
    lag_ms=4_210,
    errors=1,
    workers=Census(busy=2, maximum=2),
)
RETRYING = RetryingShard("shardId-000000000001", 3, "ValueError: no\x1b[31m\nred", 1.5, 100, 50)
EVERYTHING = replace(
    SNAPSHOT,
    note="offered 50,000/s",
    records=987_654_321,
    total_records=1_975_308_642,
    left_s=3_601.0,
    history=[float(point) for point in range(60)],
    latency_ms={"p50": 0.0123, "p90": 1.25, "p99": 88.8, "max": 12_345.6},
    errors=1_234,
    retries=56,
    discarded=7,
    workers=Census(busy=10, held_up=1, idle=3, starting=2, retiring=1, maximum=64),
    retrying=[replace(RETRYING, shard_id=f"shardId-{number:012d}") for number in range(10)],
    last_error=LastError("shardId-000000000007", 123_456, "KeyError: '\x1b]0;title\x07'", 0),
    now_ns=3_000_000_000,
    no_worker="app.handler: Runtime.ImportModuleError",
    paused="no space left on the disk",
    draining=True,
)


def drawn(snapshot: Snapshot, width: int = 80) -> list[str]:
    """The picture as text, line by line, through a console as wide as that."""
    console = Console(file=io.StringIO(), width=width, record=True, color_system=None)
    console.print(Picture(snapshot))
    return console.export_text().splitlines()


def test_the_line_says_rate_lag_errors_and_workers() -> None:
    assert line(SNAPSHOT) == "12,345 records · 250,000/s · lag 678 (4.2 s) · 1 error · 2 workers"


def test_the_line_says_latencies_of_late_and_how_long_it_takes() -> None:
    busy = replace(SNAPSHOT, latency_ms={"p50": 1.23, "p90": 2.0, "p99": 45.6, "max": 99.0}, left_s=12.4)
    assert " · caught up in 12 s · p50 1.2 ms, p99 46 ms · " in line(busy)
    assert " · 12 s left · " in line(replace(busy, total_records=20_000))


def test_the_line_says_what_was_given_up() -> None:
    assert line(replace(SNAPSHOT, discarded=1_234)).endswith("2 workers · 1,234 discarded")


def test_the_line_says_what_it_is_waiting_for() -> None:
    waiting = replace(
        SNAPSHOT, workers=Census(maximum=2), retrying=[RETRYING], paused="no disk space", draining=True
    )
    assert line(waiting).endswith(
        "0/2 workers · 1 shard waiting to retry · paused: no disk space · stopping at the edge of a batch"
    )


def test_a_retry_says_which_records_why_and_when_and_cannot_move_the_cursor() -> None:
    assert retry_line(RETRYING) == (
        "shardId-000000000001: 50 records from offset 100 failed 3 times, again in 1.5 s: "
        "ValueError: no\\x1b[31m\\nred"
    )
    assert "again now" in retry_line(replace(RETRYING, next_attempt_s=0.0))
    assert len(retry_line(replace(RETRYING, reason="x" * 10_000))) < 250


def test_the_picture_of_a_run_that_follows_its_stream() -> None:
    assert drawn(replace(SNAPSHOT, errors=0, left_s=90.0, history=[1.0, 8.0, 4.0])) == [
        "app.handler@orders" + " " * 58 + "1:23",
        "records  12,345                         throughput    250,000/s ▂█▅",
        "lag      678, caught up in 1 min 30 s   iterator age  4.2 s",
        "latency  none",
        "errors   0",
        "workers  2 busy",
    ]


def test_a_note_stands_beside_the_name_or_below_it_where_there_is_no_room() -> None:
    assert drawn(replace(SNAPSHOT, note="offered 50,000/s"))[0].startswith("app.handler@orders  offered 50,000/s   ")
    long = "row 1 of 8: batch size 100, workers 2, record size 16384"
    first, second, *_ = drawn(replace(SNAPSHOT, note=long))
    assert first == "app.handler@orders" + " " * 58 + "1:23"
    assert second == f"  {long}"


def test_the_picture_of_a_run_that_ends_has_a_bar_and_what_is_left() -> None:
    bar = drawn(replace(SNAPSHOT, total_records=24_690, left_s=0.4))[1]
    assert re.fullmatch("(━+)(─+)  50%  under 1 s left", bar)
    assert abs(bar.count("━") - bar.count("─")) <= 1, "without colours it must be readable, too"
    assert "12,345 of 24,690" in drawn(replace(SNAPSHOT, total_records=24_690))[2]


def test_a_few_of_many_waiting_shards_are_shown_and_the_last_error_beside_them() -> None:
    text = "\n".join(drawn(EVERYTHING, 200))
    assert "shardId-000000000003" in text
    assert "and 6 more shards" in text
    assert "last error 3.0 s ago: KeyError: '\\x1b]0;title\\x07' (shardId-000000000007, offset 123456)" in text
    same = replace(EVERYTHING, last_error=LastError("shardId-000000000000", 1, RETRYING.reason, 0))
    assert "last error" not in "\n".join(drawn(same, 200))


def test_where_there_is_little_room_why_a_shard_waits_has_a_line_of_its_own() -> None:
    found = drawn(replace(SNAPSHOT, retrying=[replace(RETRYING, reason="ValueError: no such order")]))
    assert found[-2:] == [
        "  shardId-000000000001: 50 records from offset 100 failed 3 times",
        "    again in 1.5 s: ValueError: no such order",
    ]


@pytest.mark.parametrize("width", [40, 80, 119, 150, 200])
@pytest.mark.parametrize("snapshot", [SNAPSHOT, EVERYTHING], ids=["little", "everything"])
def test_no_line_is_wider_than_the_terminal_or_can_move_its_cursor(snapshot: Snapshot, width: int) -> None:
    found = drawn(snapshot, width)
    assert all(cell_len(text) <= width and text.isprintable() for text in found), found
    assert len(found) == len(list(lines(snapshot, width))), "a line was wrapped"


def test_nothing_is_cut_at_80_columns_that_has_a_usual_length() -> None:
    assert not any("…" in text for text in drawn(replace(EVERYTHING, retrying=(), last_error=None)))


def test_a_terminal_without_unicode_has_the_same_in_ascii() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    whole = replace(EVERYTHING, retrying=[RETRYING], last_error=None)
    Console(file=file, width=80, force_terminal=True, color_system="standard").print(Picture(whole))
    text = re.sub(r"\x1b\[[\d;]*m", "", raw.getvalue().decode("ascii"))
    assert "errors   1,234 | 56 retries | 7 discarded" in text
    assert re.search("^=+-+  50%", text, re.M)


def test_a_wide_terminal_has_all_figures_in_three_rows() -> None:
    found = drawn(replace(EVERYTHING, retrying=(), last_error=None, paused=None, no_worker=None, draining=False), 200)
    assert len(found) == 5
    assert all(name in found[2] for name in ("records", "throughput", "lag", "iterator age"))
    assert "p50 0.012 ms · p90 1.2 ms · p99 89 ms · max 12.3 s" in found[3]
    assert "10 busy · 1 held up · 3 idle · 2 starting · 1 retiring (of 64)" in found[3]
    assert "1,234 · 56 retries · 7 discarded" in found[4]
