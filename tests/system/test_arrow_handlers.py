"""Arrow handlers run by real workers: whole batches, gathered ones, selected rows, and batches that are kept."""

import itertools
import subprocess
import sys

import orjson
import pytest
import trio
from library_rig import FUNCTIONS
from trio.testing import trio_test

import streamfn
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.writer import ShardWriter
from streamfn.pool.confine import probe
from streamfn.types import NewRecord

LACKING = probe.lacking_for_sandbox()

names = itertools.count()


def write(directory, messages, rows, segment_bytes=1 << 22):
    """A stream of one shard whose data count up from 0, so many rows in each message."""
    shard = DataDir.open(directory, create=True).create_stream("s", 1).shards[0]
    with ShardWriter.open(shard, segment_bytes=segment_bytes) as writer:
        for message in range(messages):
            writer.append([NewRecord(b"%d" % (message * rows + row), f"key-{row % 5}") for row in range(rows)])
            writer.commit()


async def outcomes(directory, handler, **options):
    found = []
    options = {"workers": 1, "code_dir": FUNCTIONS, "name": f"m{next(names)}", **options}
    async with (
        streamfn.open(directory) as session,
        session.mapping(handler, "s", **options) as mapping,
        mapping.outcomes() as seen,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(mapping.run_until_caught_up)
        async for outcome in seen:
            found.append(outcome)
    return found


async def results(directory, handler, **options):
    found = await outcomes(directory, handler, **options)
    assert all(outcome.succeeded for outcome in found), [outcome.fault for outcome in found]
    return [outcome.result for outcome in found]


def sums(first, rows):
    return [rows, sum(range(first, first + rows)), True, "shardId-000000000000"]


@trio_test
async def test_batches_within_a_message_and_across_messages_have_the_records_in_order(tmp_path):
    write(tmp_path / "d", messages=6, rows=50)
    assert await results(tmp_path / "d", "columns.sums", batch_size=25) == [sums(25 * each, 25) for each in range(12)]
    assert await results(tmp_path / "d", "columns.sums_later", batch_size=120) == [
        sums(0, 120), sums(120, 120), sums(240, 60),
    ]  # fmt: skip
    running = await results(tmp_path / "d", "columns.Running", batch_size=100)
    assert running == [sum(range(100)), sum(range(200)), sum(range(300))]


@trio_test
async def test_filtered_rows_and_lanes_are_gathered(tmp_path):
    write(tmp_path / "d", messages=2, rows=100)
    pattern = {"Filters": [{"Pattern": '{"partitionKey": ["key-1", "key-3"]}'}]}
    found = await results(tmp_path / "d", "columns.sums", filter_criteria=pattern, batch_size=200)
    wanted = [number for number in range(200) if number % 100 % 5 in (1, 3)]
    assert [sum(each[place] for each in found) for place in (0, 1)] == [len(wanted), sum(wanted)]
    found = await results(tmp_path / "d", "columns.sums", parallelization_factor=4, workers=2)
    assert [sum(each[place] for each in found) for place in (0, 1)] == [200, sum(range(200))]
    assert len(found) > 2
    assert all(each[2] for each in found)


@trio_test
async def test_batch_item_failures_name_sequence_numbers(tmp_path):
    write(tmp_path / "d", messages=1, rows=16)
    found = await outcomes(
        tmp_path / "d", "columns.reports", function_response_types=["ReportBatchItemFailures"], maximum_retry_attempts=3
    )
    assert [(outcome.first_offset, outcome.records) for outcome in found] == [(0, 16), (7, 9)]
    assert [outcome.succeeded for outcome in found] == [False, True]


@trio_test
async def test_changes_have_the_columns_of_their_log(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        for number in range(3):
            image = {"id": {"N": str(number)}, "n": {"N": "1"}}
            await session.put_change("s", {"Keys": {"id": image["id"]}, "NewImage": image})
        await session.put_change("s", {"Keys": {"id": image["id"]}, "OldImage": image})
    ((names, nulls, size),) = await results(tmp_path / "d", "columns.changes")
    assert (names, nulls) == (["INSERT"] * 3 + ["REMOVE"], 1)
    assert size > 0


@trio_test
async def test_a_batch_that_is_kept_stays_readable_when_its_segment_has_been_let_go(tmp_path):
    write(tmp_path / "d", messages=120, rows=20, segment_bytes=1 << 15)
    found = await results(tmp_path / "d", "columns.keeps", batch_size=20)
    for number, (totals, _) in enumerate(found):
        assert totals == [sum(range(20 * each, 20 * each + 20)) for each in range(number + 1)]
    mapped = [count for _, count in found]
    assert mapped == sorted(mapped)
    assert mapped[-1] > 5
    # Without anybody holding a batch they go.
    assert max(await results(tmp_path / "d", "columns.keeps_nothing", batch_size=20)) <= mapped[-1] // 2


@pytest.mark.skipif(LACKING is not None, reason=f"no sandbox on this machine: {LACKING}")
@trio_test
async def test_an_asynchronous_arrow_handler_runs_in_a_sandbox(tmp_path):
    write(tmp_path / "d", messages=3, rows=10)
    assert await results(tmp_path / "d", "columns.sums_later", isolation="sandbox") == [sums(0, 30)]


@trio_test
async def test_an_arrow_handler_may_be_a_closure(tmp_path):
    write(tmp_path / "d", messages=1, rows=10)
    factor = 3

    @streamfn.arrow_handler
    def handler(batch, context):
        return factor * batch.num_rows

    assert await results(tmp_path / "d", handler) == [30]


@trio_test
async def test_tumbling_windows_are_refused_for_an_arrow_handler(tmp_path):
    write(tmp_path / "d", messages=1, rows=1)
    with pytest.raises(streamfn.HandlerImportError, match="cannot be used with TumblingWindowInSeconds"):
        await outcomes(tmp_path / "d", "columns.sums", tumbling_window_in_seconds=60)


@trio_test
async def test_an_arrow_handler_that_fails_has_its_own_frames_in_the_error(tmp_path):
    async with streamfn.open(tmp_path / "d") as session:
        await session.put("s", b"not a number")
    (outcome,) = await outcomes(tmp_path / "d", "columns.sums", maximum_retry_attempts=0)
    assert outcome.fault.error_type == "ArrowInvalid"
    frames = orjson.loads(outcome.fault.document)["stackTrace"]
    assert [str(FUNCTIONS / "columns.py") in frame for frame in frames[:2]] == [True, True]


@pytest.mark.parametrize("module", ["streamfn", "streamfn.events.arrow"])
def test_a_handler_module_may_import_it_without_loading_pyarrow(module):
    code = (
        f"import sys, {module}\n{module}.arrow_handler(print)\n"
        "sys.exit(', '.join({'pyarrow', 'trio', 'asyncio', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
