"""Two handlers over the same records, over the whole engine: what is found, and what is not taken for a difference."""

import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
import trio
from range_rig import Said
from run_rig import FUNCTIONS
from trio.testing import trio_test

from streamfn.log.catalog.datadir import DataDir
from streamfn.mapping.options import RunOptions
from streamfn.mapping.runtime import open_runtime
from streamfn.replay import diffing
from streamfn.replay.diffing import Diff, Side

SHARD = "shardId-000000000000"


def selected(place):
    """All of the stream `s`, as offsets."""
    return {shard_id: len(numbers) for shard_id, numbers in place.log().items()}


@asynccontextmanager
async def diff_of(place, one, other, *, limit=None, said=None, ends=None, **options):
    ends = ends or selected(place)
    given = {"stream": "s", "workers": 1, "batch_size": 100, "logs": "none", **options}
    handlers = [f"differing_{name}" if "." in name else f"differing.{name}" for name in (one, other)]
    sides = tuple(Side(RunOptions(handler=handler, **given), FUNCTIONS) for handler in handlers)
    store = Path(tempfile.mkdtemp(dir=place.root)) / "state.db"
    async with open_runtime(DataDir.open(place.data, create=False), said or Said(), store_path=store) as runtime:
        diff = Diff(runtime, sides, dict.fromkeys(ends, 0), ends, limit)
        await diff.open()
        yield diff


async def compared(place, one, other, **options):
    async with diff_of(place, one, other, **options) as diff:
        await diff.run()
        return diff


def contents(count, **marked):
    """Texts; `at_7="wrong"` marks the one with the number 7."""
    marks = {int(key.removeprefix("at_")): text for key, text in marked.items()}
    return [f"{number} {marks.get(number, '')}" for number in range(count)]


@trio_test
async def test_equal_handlers_do_not_differ(place):
    place.stream(contents=contents(1_050), shards=2)
    diff = await compared(place, "before", "after")
    assert (diff.comparison.records, diff.comparison.different, diff.comparison.uncompared) == (1_050, 0, 0)
    assert diff.comparison.batches == 12  # of each shard five full ones, and what is left
    assert diff.findings == []


@pytest.mark.parametrize("handlers", [("summed", "summed_again"), ("columns.sizes", "columns.sizes_again")])
@trio_test
async def test_a_planted_difference_is_found_at_its_record(place, handlers):
    place.stream(contents=contents(1_000, at_437="wrong"))
    diff = await compared(place, *handlers)
    assert (diff.comparison.records, diff.comparison.different) == (1_000, 1)
    (finding,) = diff.findings
    assert finding.place == (SHARD, 437, 438, 1)
    assert finding.alone
    (row,) = finding.rows
    assert row.data == b"437 wrong"
    assert finding.said[0] != finding.said[1]
    assert [record["kinesis"]["partitionKey"] for record in orjson.loads(finding.event)["Records"]] == [
        row.partition_key
    ]


@trio_test
async def test_an_error_of_one_handler_is_a_difference(place):
    place.stream(contents=contents(300, at_0="raise", at_299="raise"))
    said = Said()
    diff = await compared(place, "before", "after", said=said)
    assert diff.comparison.different == 2
    assert [finding.place.first_offset for finding in diff.findings] == [0, 299]
    one, other = diff.findings[0].said
    assert one.to_json() == {"lengths": [7], "ok": True}
    assert other.to_json() == {"errorType": "ValueError", "errorMessage": "a new error"}
    assert "discards" not in said.text


@trio_test
async def test_errors_that_say_the_same_are_no_difference(place):
    place.stream(contents=contents(250))
    diff = await compared(place, "fails", "fails")
    assert (diff.comparison.batches, diff.comparison.different) == (3, 0)


@trio_test
async def test_a_crash_is_compared_like_other_errors(place):
    place.stream(contents=contents(6, at_1="crash"))
    diff = await compared(place, "crashes", "before", batch_size=2)
    (finding,) = diff.findings
    assert (finding.place.first_offset, finding.said[0].error_type) == (1, "Runtime.ExitError")
    same = await compared(place, "crashes", "crashes", batch_size=2)
    assert (same.comparison.batches, same.comparison.different) == (3, 0)


@trio_test
async def test_a_difference_that_no_record_shows_alone_is_said_to_be_one(place):
    place.stream(contents=contents(50))
    diff = await compared(place, "counting", "steady", batch_size=10, limit=50)
    assert diff.comparison.different == 2
    assert diff.findings
    # The same process has been called more often by now, so whichever part it is called for, it says 2.
    assert all(finding.said[0] != finding.said[1] for finding in diff.findings)


@trio_test
async def test_with_a_filter_the_batches_are_those_of_what_matches(place):
    place.stream(contents=[orjson.dumps({"n": n, "even": n % 2 == 0, "text": "wrong" if n in (201, 302) else ""})
                           for n in range(401)])  # fmt: skip
    diff = await compared(place, "before", "after", filters=('{"data": {"even": [true]}}',), batch_size=30)
    assert (diff.comparison.records, diff.comparison.batches) == (201, 7)
    (finding,) = diff.findings
    assert finding.place == (SHARD, 302, 303, 1)


@trio_test
async def test_a_limit_gives_both_handlers_the_same_records(place):
    place.stream(contents=contents(1_000, at_300="wrong"), shards=4)
    diff = await compared(place, "before", "after", limit=333)
    assert (diff.comparison.records, diff.comparison.uncompared) == (333, 0)


@trio_test
async def test_a_drained_comparison_tells_what_it_has(place):
    place.stream(contents=contents(3_000))
    async with diff_of(place, "before", "after", batch_size=1) as diff, trio.open_nursery() as nursery:
        nursery.start_soon(diff.run)
        while diff.comparison.batches < 10:
            await trio.sleep(0.001)
        diff.drain()
    assert 10 <= diff.comparison.records < 3_000
    assert diff.findings == []


@trio_test
async def test_the_faster_handler_waits_for_the_slower_one(place, monkeypatch):
    monkeypatch.setattr(diffing, "AHEAD_MAX", 20)
    place.stream(contents=contents(600), shards=2)
    waited = set()

    async def look(diff):
        while True:
            waited.add(tuple(mapping.paused for mapping in diff.mappings))
            await trio.sleep(0.001)

    async with diff_of(place, "steady", "slowly", batch_size=1) as diff, trio.open_nursery() as nursery:
        nursery.start_soon(look, diff)
        await diff.run()
        nursery.cancel_scope.cancel()
    assert (True, False) in waited
    assert (True, True) not in waited  # each would wait for the other
    assert (diff.comparison.batches, diff.comparison.different, diff.comparison.uncompared) == (600, 0, 0)


@pytest.mark.soak
@trio_test
async def test_the_one_record_among_a_million_is_found(place):
    count, wrong = 1_000_000, 734_511
    place.stream(shards=1)
    for first in range(0, count, 50_000):
        place.put([f"{number} wrong" if number == wrong else str(number) for number in range(first, first + 50_000)])
    began = time.monotonic()
    diff = await compared(place, "before", "after", batch_size=100, workers=2, ends={SHARD: count})
    print(f"a million records compared in {time.monotonic() - began:.1f} s")
    assert (diff.comparison.records, diff.comparison.different) == (count, 1)
    assert [finding.place for finding in diff.findings] == [(SHARD, wrong, wrong + 1, 1)]
    assert diff.findings[0].rows[0].data == f"{wrong} wrong".encode()
