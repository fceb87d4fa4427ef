"""Joining what two handlers made of the same batches, and finding the record; read as a specification."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import trio_test

from streamfn.cli.diffing import Told, contrasted
from streamfn.errors import RefusedError
from streamfn.mapping.options import RunOptions
from streamfn.mapping.outcome import Outcome
from streamfn.replay.diffing import (
    SHOWN,
    Batch,
    Comparison,
    Finding,
    Place,
    Said,
    canonical,
    check,
    result_of,
    smallest,
)
from streamfn.types import Fault, Record

SHARD, OTHER = "shardId-000000000000", "shardId-000000000001"


def batch(number: int, digest: bytes = b"same", records: int = 10) -> Batch:
    return Batch(number * 10, number * 10 + 10, records, digest)


def outcome(response: bytes = b"", fault: Fault | None = None, request_id: str = "id-1") -> Outcome:
    return Outcome(request_id, SHARD, 0, 1, 1, 1, 0, 0, 0, 0, response, fault)


# ---- joining


TURNS = [(side, shard) for side in (0, 1) for shard in (SHARD, OTHER)]


@given(st.lists(st.sampled_from(TURNS), max_size=60), st.data())
def test_batches_are_joined_whichever_handler_and_shard_is_ahead(
    order: list[tuple[int, str]], data: st.DataObject
) -> None:
    counts = {turn: order.count(turn) for turn in TURNS}
    wrong = {shard: data.draw(st.sets(st.integers(0, 20))) for shard in (SHARD, OTHER)}
    comparison, given_to = Comparison(), dict.fromkeys(counts, 0)
    for side, shard in order:
        number = given_to[side, shard]
        given_to[side, shard] += 1
        differs = side == 1 and number in wrong[shard]
        comparison.add(side, shard, batch(number, b"different" if differs else b"same"))
    both = {shard: min(counts[0, shard], counts[1, shard]) for shard in (SHARD, OTHER)}
    expected = {shard: sorted(number for number in wrong[shard] if number < both[shard]) for shard in both}
    assert comparison.batches == sum(both.values())
    assert comparison.different == sum(map(len, expected.values()))
    for shard, numbers in expected.items():
        found = [place.first_offset // 10 for place in comparison.first.get(shard, [])]
        assert found == numbers[:SHOWN]
    assert comparison.ahead(0) - comparison.ahead(1) == sum(
        counts[0, shard] - counts[1, shard] for shard in (SHARD, OTHER)
    )
    comparison.end()
    assert comparison.uncompared == 10 * sum(abs(counts[0, shard] - counts[1, shard]) for shard in (SHARD, OTHER))


def test_what_only_one_handler_was_given_is_counted_and_what_follows_is_joined_again() -> None:
    comparison = Comparison()
    for number in (0, 1, 2, 3):
        comparison.add(0, SHARD, batch(number))
    for number in (2, 3):  # two batches were trimmed before this one came to them
        comparison.add(1, SHARD, batch(number, b"different" if number == 3 else b"same"))
    comparison.end()
    assert (comparison.batches, comparison.records, comparison.uncompared) == (2, 20, 20)
    assert comparison.first == {SHARD: [Place(SHARD, 30, 40, 10)]}


# ---- finding


@pytest.mark.parametrize("count", [1, 2, 3, 100, 1000])
@trio_test
async def test_the_first_record_that_differs_is_found_by_halving(count: int) -> None:
    wrong = {random.Random(count).randrange(count), count - 1}
    asked = 0

    async def differs(first: int, end: int) -> bool:
        nonlocal asked
        asked += 1
        return any(first <= 50 + number < end or first <= number + 50 < end for number in wrong)

    first, end = await smallest(50, 50 + count, differs)
    assert (first, end) == (50 + min(wrong), 51 + min(wrong))
    assert asked <= 2 * count.bit_length()


@trio_test
async def test_where_only_the_whole_differs_it_is_the_whole() -> None:
    async def differs(first: int, end: int) -> bool:
        return end - first == 8

    assert await smallest(0, 8, differs) == (0, 8)


# ---- what is compared


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a": 1, "b": [2]}', b'{"b":[2],"a":1}'),
        (b"[1, 2]", b"[1,2]"),
        (b"null", b"null"),
        (b'{"a": {"x": 1, "y": 2}}', b'{"a": {"y": 2, "x": 1}}'),
        (b"{not json", b"{not json"),
    ],
)
def test_equal_responses_are_equal_however_they_were_written(one: bytes, other: bytes) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"[1]", b"[1.0]"),
        (b"[1]", b'["1"]'),
        (b"[1, 2]", b"[2, 1]"),
        (b"[0.12345678901234567890]", b"[0.12345678901234567891]"),
        (b"[123456789012345678901]", b"[123456789012345678902]"),
        (b"[NaN]", b"[null]"),
        (b"{}", b"[]"),
        (b"null", b"{}"),
    ],
)
def test_different_responses_differ(one: bytes, other: bytes) -> None:
    assert canonical(one) != canonical(other)


def test_errors_are_compared_by_type_and_message_and_not_by_the_request() -> None:
    def failed(kind: str, message: str, request_id: str = "id-1") -> bytes:
        return result_of(outcome(fault=Fault(kind, message, b"{}"), request_id=request_id))

    assert failed("E", "no") != failed("E", "yes")
    assert failed("E", "no") != failed("F", "no")
    assert failed("T", "RequestId: id-1 Error: timed out") == failed("T", "RequestId: id-2 Error: timed out", "id-2")
    assert failed("E", "no") != result_of(outcome(b'"no"'))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"tumbling_window_in_seconds": 10}, "tumbling-window-in-seconds"),
        ({"parallelization_factor": 2}, "parallelization-factor 2"),
        ({"debug": True, "timeout_s": None}, "--debug"),
    ],
)
def test_what_would_make_batches_depend_on_each_other_is_refused(more: dict[str, int], why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        check(RunOptions(handler="app.handler", stream="s", **more))  # type: ignore[arg-type]


# ---- what is told


def told(*findings: Finding, different: int = 0, **more: Any) -> Told:
    comparison = Comparison(batches=20, records=2_000, different=different)
    given: dict[str, Any] = {"seconds": 1.25, "comparison": comparison, "findings": list(findings), **more}
    return Told(handlers=("app.old", "app.newer"), stream="s", region="us-east-1", **given)


ROW = Record(7, "4962", "key", 1_700_000_000_000, b"\x1b[2J{}", None, None)


def test_without_a_difference_one_line_says_so() -> None:
    assert told().text() == "app.old and app.newer: 2,000 records in 20 batches, no difference, 1.2 s\n"


def test_a_difference_in_a_record_shows_it_and_what_each_handler_says() -> None:
    said = (Said(b'{"ok": true}', None, ""), Said(b"", "ValueError", "no\nline"))
    lines = told(Finding(Place(SHARD, 7, 8, 1), (ROW,), said, True, b"{}"), different=3).text().splitlines()
    assert lines == [
        "app.old and app.newer: 2,000 records in 20 batches, 3 batches differ, 1.2 s",
        f"{SHARD}, offset 7, sequence number 4962",
        f"  2023-11-14T22:13:20.000Z  {SHARD}  key  \\x1b[2J{{}}",
        '  app.old    {"ok": true}',
        "  app.newer  ValueError: no\\nline",
        "and 2 more batches for which they differ",
    ]


def test_a_difference_that_does_not_come_again_is_said_to_be_one() -> None:
    finding = Finding(Place(SHARD, 0, 10, 10), (ROW,) * 10, (None, None), False, b"{}")
    text = told(finding, different=1).text()
    assert "10 records: they differ there, and agree when called with that again" in text
    (described,) = told(finding, different=1).to_json()["differences"]  # type: ignore[misc]
    assert (described["again"], described["record"], described["result"]) == (False, None, None)


def test_what_is_printed_for_programs_is_json_whatever_was_returned() -> None:
    for response, shown in ((b'{"x": NaN}', {"x": "NaN"}), (b"\xff", "\ufffd"), (b"12", 12)):
        assert Said(response, None, "").to_json() == shown


def test_what_was_not_compared_is_said_with_its_reason() -> None:
    comparison = Comparison(batches=1, records=5, uncompared=7)
    assert "7 records not compared: it was stopped" in told(comparison=comparison, is_complete=False).text()
    assert "7 records not compared: what one of them was given" in told(comparison=comparison).text()
    assert "; 3 records lost" in told(lost=3).text()


def test_long_results_are_cut_to_where_they_begin_to_differ() -> None:
    one, other = contrasted("x" * 5_000 + "here" + "y" * 5_000, "x" * 5_000 + "there" + "y" * 5_000)
    assert len(one) < 400
    assert one.startswith("…x")
    assert "here" in one
    assert "there" in other
    assert contrasted("short", "shorter") == ("short", "shorter")
