"""The options of `record` as values, and what it shows."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from streamfn.capture.outcome import Counts, RecordResult, ShardTrouble
from streamfn.capture.reading import Beginning, Until
from streamfn.cli.recording import (
    parse_beginning,
    parse_duration_s,
    parse_until,
    picture,
    status_line,
    summary_text,
)
from streamfn.errors import RefusedError

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("TRIM_HORIZON", Beginning("TRIM_HORIZON")),
        ("latest", Beginning("LATEST", NOW_MS)),
        ("2020-01-01", Beginning("AT_TIMESTAMP", 1_577_836_800_000)),
        ("1600000000.5", Beginning("AT_TIMESTAMP", 1_600_000_000_500)),
    ],
)
def test_from_is_a_position_or_a_time(text, beginning):
    assert parse_beginning(text, NOW_MS) == beginning


def test_a_beginning_that_is_yet_to_come_is_refused():
    with pytest.raises(RefusedError, match="--from 2100-01-01 is yet to come"):
        parse_beginning("2100-01-01", NOW_MS)


def test_until_now_lasts_to_the_end_of_the_second_that_the_source_named():
    assert parse_until(None, NOW_MS) is None
    assert parse_until("now", NOW_MS) == Until(NOW_MS + 999, NOW_MS)
    assert parse_until("2020-01-01", NOW_MS) == Until(1_577_836_800_000, 1_577_836_800_000)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172_800), ("7", 7)])
def test_a_duration_is_a_number_with_a_unit(text, seconds):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "0s", "-1s", "1w", "1 2 s"])
def test_anything_else_is_no_duration(text):
    with pytest.raises(RefusedError, match="--duration takes a number of s, m, h or d"):
        parse_duration_s(text)


def recorder(*, behind_ms=0, troubles=(), losses=0):
    lineage = SimpleNamespace(shards=dict.fromkeys("abc"))
    counts = Counts(records=1234, bytes=2048, losses=losses)
    return SimpleNamespace(
        counts=counts, behind_ms=behind_ms, reading=2, lineage=lineage, troubles=lambda: list(troubles)
    )


TROUBLE = ShardTrouble("shardId-000000000001", 3, "InternalFailure:\x1b[31m no", 1.5)


def test_the_live_line_says_how_much_how_fast_and_how_far_behind():
    line = status_line(recorder(behind_ms=61_000), 56.7, stopping=False)
    assert line == "1,234 records · 57/s · 2.0 KiB · 2 shards of 3 · 1 min 1 s behind"
    assert status_line(recorder(), 0, stopping=True).endswith("2 shards of 3 · caught up · stopping")
    line = status_line(recorder(troubles=[TROUBLE], losses=1), 0, stopping=False)
    assert line.endswith("2 shards of 3 · 1 shard waiting to try again · 1 range trimmed away")


def test_a_shard_in_trouble_has_a_line_of_its_own_that_cannot_take_over_the_terminal():
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.capture() as captured:
        console.print(picture("line", [TROUBLE] * 6))
    console.file.close()
    lines = captured.get().splitlines()
    assert lines[1] == r"  shardId-000000000001: 3 failures, again in 1.5 s: InternalFailure:\x1b[31m no"
    assert len(lines) == 5


def test_the_summary_names_a_few_shards_and_counts_the_rest():
    result = RecordResult(
        why="stopped", records=10, bytes=100, shards=6, losses=2, seconds=2.0,
        resumes_at={"a": "7", "b": None, **dict.fromkeys("cdef", "9")},
    )  # fmt: skip
    assert summary_text("orders", result) == (
        "orders: recorded 10 records (100 B) of 6 shards in 2.0 s (5 records/s); 2 ranges had been trimmed away\n"
        "resumes: a after 7, b at its beginning, c after 9, d after 9 and 2 more shards"
    )
