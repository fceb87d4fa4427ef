"""Record batches over mapped columns: the rows of the oracle, and a mapping that lives for as long as a batch does."""

from __future__ import annotations

import base64
import json
import os
import random
import threading
from typing import Any

import pyarrow as pa
import pytest
from arrow_rows import SOURCE, MappedRows
from change_rows import SOURCE as TABLE
from change_rows import MappedChanges, stored
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_selected_rows import aimed, change, record, subsets

from streamfn import _events
from streamfn._native import ffi, lib
from streamfn.events import arrow
from streamfn.events.dynamodb import dynamodb_event
from streamfn.events.kinesis import kinesis_event
from streamfn.log.format.layout import DYNAMODB, KINESIS
from streamfn.log.format.schema import schema_message
from streamfn.types import Change, Record

ROWS = 20
RECORDS = [record(row) for row in range(ROWS)]
CHANGES = [stored(change(row)) for row in range(ROWS)]
TIME = pa.timestamp("ms", "UTC")


def exported(extents: Any, segments: dict[int, _events.Segment], selection: list[int] | None = None) -> pa.RecordBatch:
    """The batch of some extents, every offset of which has been checked by pyarrow too."""
    room = ffi.new("uint64_t[10]")
    array, address = (int(ffi.cast("uintptr_t", each)) for each in (room, extents))
    if selection is None:
        source = _events.export(array, address, len(extents), segments)
    else:
        numbers = ffi.new("uint32_t[]", selection)
        source = _events.export(
            array, address, len(extents), segments, int(ffi.cast("uintptr_t", numbers)), len(numbers)
        )
    batch = arrow.importer()(array, source)
    batch.validate(full=True)
    return batch


def record_rows(records: list[Record]) -> list[dict[str, object]]:
    return [
        {
            "sequence_number": each.sequence_number,
            "partition_key": each.partition_key,
            "approximate_arrival_timestamp": pa.scalar(each.arrival_ms, pa.int64()).cast(TIME).as_py(),
            "data": each.data,
        }
        for each in records
    ]


def change_rows(changes: list[Change]) -> list[dict[str, object]]:
    def text(document: bytes | None) -> str | None:
        return None if document is None else document.decode()

    return [
        {
            "event_id": each.event_id,
            "event_name": each.event_name,
            "event_version": each.event_version,
            "sequence_number": each.sequence_number,
            "approximate_creation_date_time": pa.scalar(each.creation_ms, pa.int64()).cast(TIME).as_py(),
            "keys": text(each.keys),
            "new_image": text(each.new_image),
            "old_image": text(each.old_image),
            "size_bytes": each.size_bytes,
            "stream_view_type": each.stream_view_type,
            "user_identity": text(each.user_identity),
        }
        for each in changes
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(subsets, min_size=1, max_size=4))
@example([[3, 4, 5]])
@example([[0, 1, 2], [19], [0, 19], list(range(20))])
def test_a_batch_has_the_rows_of_its_extents_in_their_order(selections: list[list[int]]) -> None:
    chosen = [row for rows in selections for row in rows]
    mapped = MappedRows(RECORDS)
    extents, selection = aimed(mapped, *selections)
    batch = exported(extents, {7: mapped.segment()}, selection)
    assert batch.to_pylist() == record_rows([RECORDS[row] for row in chosen])
    changes = MappedChanges([change(row) for row in range(ROWS)])
    extents, selection = aimed(changes, *selections)
    batch = exported(extents, {7: changes.segment()}, selection)
    assert batch.to_pylist() == change_rows([CHANGES[row] for row in chosen])
    assert batch.column(6).null_count == sum(row % 3 == 0 for row in chosen)


def test_the_schema_is_the_log_s_and_says_in_its_metadata_what_events_have_in_common() -> None:
    for changes, layout in ((False, KINESIS), (True, DYNAMODB)):
        logged = pa.ipc.read_schema(pa.py_buffer(schema_message("s/shard", layout)))
        assert arrow.schema(changes=changes).equals(logged)
    mapped = MappedRows(RECORDS)
    assert exported(mapped.extents((0, 2)), {7: mapped.segment()}).schema.metadata == {
        b"eventSource": b"aws:kinesis",
        b"eventSourceARN": SOURCE.arn.encode(),
        b"awsRegion": SOURCE.region.encode(),
        b"invokeIdentityArn": SOURCE.identity_arn.encode(),
        b"shardId": SOURCE.shard_id.encode(),
    }


def test_rows_that_follow_each_other_are_not_copied_and_others_are() -> None:
    mapped = MappedRows(RECORDS)

    def lies_in_the_segment(batch: pa.RecordBatch) -> set[bool]:
        buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer is not None]
        return {mapped.address <= buffer.address < mapped.address + mapped.size for buffer in buffers}

    assert lies_in_the_segment(exported(mapped.extents((4, 9)), {7: mapped.segment()})) == {True}
    assert lies_in_the_segment(exported(mapped.extents((4, 9), (15, 2)), {7: mapped.segment()})) == {False}
    extents, selection = aimed(mapped, [3, 5])
    assert lies_in_the_segment(exported(extents, {7: mapped.segment()}, selection)) == {False}


def test_a_batch_from_an_event_is_the_batch_from_the_log() -> None:
    mapped = MappedRows(RECORDS)
    event = kinesis_event(SOURCE, RECORDS)
    of_log = exported(mapped.extents((0, ROWS)), {7: mapped.segment()})
    assert arrow.batch_of_event(event).equals(of_log, check_metadata=True)
    changes = MappedChanges([change(row) for row in range(ROWS)])
    of_log = exported(changes.extents((0, ROWS)), {7: changes.segment()})
    assert arrow.batch_of_event(dynamodb_event(TABLE, CHANGES)).equals(of_log, check_metadata=True)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({}, "takes a record batch, or a Lambda event"),
        ({"Records": []}, "takes a record batch, or a Lambda event"),
        ({"Records": [{"eventSource": "aws:sqs"}]}, "not of 'aws:sqs'"),
        ({"Records": [{"eventSource": "aws:kinesis"}]}, "KeyError"),
        ({**kinesis_event(SOURCE, RECORDS[:1]), "window": {}, "state": {}}, "TumblingWindowInSeconds"),
    ],
)
def test_an_event_that_has_no_columns_is_refused_in_words(event: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        arrow.batch_of_event(event)


# ---- how long a mapping lives


class Mapped:
    """A segment in a file of its own, mapped as a worker maps it."""

    def __init__(self, name: str) -> None:
        rows = MappedRows(RECORDS)
        self.file = os.memfd_create(name)
        os.write(self.file, bytes(rows.memory))
        address = lib.sf_map(self.file, rows.size)
        os.close(self.file)
        source = _events.Source(*SOURCE)
        self.segments = {7: _events.Segment(source, int(ffi.cast("uintptr_t", address)), rows.size, owned=True)}
        self.extents = rows.extents((2, 10))
        self.name = name

    @property
    def is_mapped(self) -> bool:
        with open("/proc/self/maps") as maps:
            return self.name in maps.read()


def test_an_owned_segment_is_unmapped_when_it_and_the_last_column_are_gone() -> None:
    mapped = Mapped("pinned-by-columns")
    batch = exported(mapped.extents, mapped.segments)
    rows = record_rows(RECORDS[2:12])
    mapped.segments.clear()
    assert mapped.is_mapped
    assert batch.to_pylist() == rows
    column, buffer = batch.column(3), batch.column(1).buffers()[2]
    view = memoryview(buffer)
    del batch, buffer
    assert column.to_pylist() == [row["data"] for row in rows]
    del column
    assert mapped.is_mapped
    assert bytes(view[:2]) == b"k0"
    view.release()
    del view
    assert not mapped.is_mapped


def test_a_segment_nobody_took_a_batch_of_is_unmapped_with_its_object() -> None:
    mapped = Mapped("pinned-by-nobody")
    assert mapped.is_mapped
    mapped.segments.clear()
    assert not mapped.is_mapped


def test_a_copied_batch_does_not_keep_the_segment() -> None:
    mapped = Mapped("not-pinned")
    mapped.extents = MappedRows(RECORDS).extents((0, 3), (7, 2))
    batch = exported(mapped.extents, mapped.segments)
    mapped.segments.clear()
    assert not mapped.is_mapped
    assert batch.to_pylist() == record_rows([*RECORDS[0:3], *RECORDS[7:9]])


def test_batches_may_be_let_go_in_any_thread_and_order() -> None:
    mapped = Mapped("pinned-by-threads")
    batches = [exported(mapped.extents, mapped.segments) for _ in range(40)]
    mapped.segments.clear()
    random.Random(1).shuffle(batches)

    def drop(some: list[pa.RecordBatch]) -> None:
        while some:
            pa.Table.from_batches([some.pop()]).combine_chunks()

    threads = [threading.Thread(target=drop, args=(batches[place::4],)) for place in range(4)]
    batches.clear()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del threads
    assert not mapped.is_mapped


# ---- what a handler may have written over


def test_an_extent_that_leaves_its_segment_is_refused() -> None:
    mapped = MappedRows(RECORDS)
    for first, rows in ((0, 10_000_000), (2**31, 1), (ROWS * 1000, 1)):
        with pytest.raises(ValueError, match="leaves its segment|at most"):
            exported(mapped.extents((first, rows)), {7: mapped.segment()})
    for column in range(7):
        extents = mapped.extents((0, ROWS))
        extents[0].column[column] = mapped.size + 1
        with pytest.raises(ValueError, match="leaves its segment"):
            exported(extents, {7: mapped.segment()})
    extents, selection = aimed(mapped, [3, 5])
    for numbers in (selection[:1], [*selection, 7], [3, 1 << 30]):
        with pytest.raises(ValueError, match="selection has|leaves its segment"):
            exported(extents, {7: mapped.segment()}, numbers)
    with pytest.raises(KeyError):
        exported(extents, {8: mapped.segment()}, selection)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_a_scribbled_extent_gives_a_valid_batch_or_a_refusal(seed: int, of_changes: bool) -> None:
    chance = random.Random(seed)
    mapped: Any = MappedChanges([change(row) for row in range(ROWS)]) if of_changes else MappedRows(RECORDS)
    extents = mapped.extents((chance.randrange(ROWS), chance.randrange(4)), (0, 2))
    count = chance.choice((1, 2))
    for _ in range(chance.randrange(1, 4)):
        extent = extents[chance.randrange(count)]
        place = chance.randrange(9)
        value = chance.choice((0, 1, 8, mapped.size - 8, mapped.size, chance.randrange(mapped.size), 2**31, 2**40))
        if place < 7:
            extent.column[place] = value
        elif place == 7:
            extent.rows = value % 2**32
        else:
            extent.first_row = value % 2**32
    try:
        array = ffi.new("uint64_t[10]")
        address = int(ffi.cast("uintptr_t", array))
        source = _events.export(address, int(ffi.cast("uintptr_t", extents)), count, {7: mapped.segment()})
    except ValueError:
        return
    batch = arrow.importer()(address, source)
    batch.validate()  # that texts are UTF-8 is not promised of a scribbled extent, that memory is ours is
    for column in batch.columns:
        if pa.types.is_string(column.type):
            column = column.view(pa.binary())
        elif pa.types.is_timestamp(column.type):
            column = column.view(pa.int64())
        assert len(column.to_pylist()) == batch.num_rows


# ---- the decorator


def test_a_decorated_handler_is_called_with_the_batch_it_is_given_or_the_event_s() -> None:
    @arrow.arrow_handler
    def handler(batch: pa.RecordBatch, context: object) -> object:
        """Its own docstring."""
        return [batch.num_rows, context]

    event = kinesis_event(SOURCE, RECORDS)
    assert handler(arrow.batch_of_event(event), 1) == [ROWS, 1]
    assert handler(event, 2) == [ROWS, 2]
    assert handler(batch=arrow.batch_of_event(event), context=3) == [ROWS, 3]
    assert (handler.__name__, handler.__doc__) == ("handler", "Its own docstring.")


def test_a_class_is_decorated_by_its_call() -> None:
    @arrow.arrow_handler
    class Sum:
        def __init__(self) -> None:
            self.rows = 0

        def __call__(self, batch: pa.RecordBatch, context: object) -> int:
            self.rows += batch.num_rows
            return self.rows

    made = Sum()
    event = json.loads(json.dumps(kinesis_event(SOURCE, RECORDS)))
    assert base64.b64decode(event["Records"][3]["kinesis"]["data"]) == RECORDS[3].data
    assert [made(event, None), made(arrow.batch_of_event(event), None)] == [ROWS, 2 * ROWS]


@pytest.mark.parametrize("wrong", [7, type("Empty", (), {})])
def test_what_cannot_be_called_cannot_be_decorated(wrong: Any) -> None:
    with pytest.raises(TypeError, match="an Arrow handler"):
        arrow.arrow_handler(wrong)
