"""The native event and its predicted length against the plain-Python oracle and orjson."""

from __future__ import annotations

import gc
import random
import tracemalloc

import orjson
import pytest
from arrow_rows import SOURCE, MappedRows, build
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamfn import _events, limits
from streamfn._native import ffi, lib
from streamfn.events.kinesis import KinesisSource, kinesis_event
from streamfn.events.size import EVENT_FRAME_BYTES, fixed_bytes, json_prefix
from streamfn.log.format.batch import from_records
from streamfn.types import NewRecord, Record

ODD_CHARACTERS = '\x00\x01\x07\b\t\n\x0b\f\r\x1f "\\/\x7f\x80é\u07ff\u0800\u2028\u2029\ud7ff\ue000\uffff'
ODD_CHARACTERS += "😀\U0010ffff"
ODD_ARRIVALS = [0, 1, 9, 10, 99, 100, 999, 1_000, 999_999_999_999, 10**12, 1_545_084_650_987]
ODD_ARRIVALS += [9_999_999_999_999, 10**13, limits.ARRIVAL_MS_MAX, -1, -1_500]

keys = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
keys |= st.text(alphabet=ODD_CHARACTERS, max_size=8) | st.text("abc-019", max_size=40)
arrivals = st.integers(0, limits.ARRIVAL_MS_MAX) | st.sampled_from(ODD_ARRIVALS)
sequences = st.integers(0, 10**129 - 1).map(str)
records = st.builds(
    Record,
    offset=st.just(0),
    sequence_number=sequences,
    partition_key=keys,
    arrival_ms=arrivals,
    data=st.binary(max_size=200),
)
sources = st.builds(
    KinesisSource,
    arn=keys,
    region=st.text(max_size=8).filter(lambda text: text.isascii()),
    shard_id=st.text(st.characters(codec="ascii"), max_size=127),
    identity_arn=keys,
)


def record(data: bytes = b"data", key: str = "key", sequence: str = "1", arrival_ms: int = 1) -> Record:
    return Record(0, sequence, key, arrival_ms, data)


def assert_same(built: object, wanted: object) -> None:
    """Equal, of exactly the same types, with the keys in the same order."""
    assert type(built) is type(wanted)
    if isinstance(built, dict) and isinstance(wanted, dict):
        assert list(built) == list(wanted)
        for key in wanted:
            assert_same(built[key], wanted[key])
    elif isinstance(built, list) and isinstance(wanted, list):
        assert len(built) == len(wanted)
        for one, other in zip(built, wanted, strict=True):
            assert_same(one, other)
    else:
        assert built == wanted
        if isinstance(built, str) and isinstance(wanted, str):
            assert built.isascii() == wanted.isascii()  # the str's own header, which we set


def assert_predicted(
    mapped: MappedRows, rows: list[Record], source: KinesisSource, first: int, end: int
) -> None:
    prefix = json_prefix(mapped.address, mapped.message, fixed_bytes(source))
    assert prefix.format == "Q"
    assert len(prefix) == len(rows) + 1
    assert prefix[0] == 0
    written = orjson.dumps(kinesis_event(source, rows[first:end]))
    assert EVENT_FRAME_BYTES + prefix[end] - prefix[first] == len(written)


@settings(max_examples=400, deadline=None)
@given(rows=st.lists(records, min_size=1, max_size=12), source=sources, data=st.data())
@example(rows=[record(bytes(range(256)))], source=SOURCE, data=None)
@example(rows=[record(b""), record(b"", ""), record(b"x")], source=SOURCE, data=None)
@example(rows=[record(key=character) for character in ODD_CHARACTERS], source=SOURCE, data=None)
@example(rows=[record(key=ODD_CHARACTERS * 8)], source=SOURCE, data=None)
@example(rows=[record(key=character * 256) for character in '😀"k'], source=SOURCE, data=None)
@example(rows=[record(arrival_ms=ms) for ms in ODD_ARRIVALS], source=SOURCE, data=None)
def test_a_run_of_rows_builds_the_oracles_event_and_has_the_predicted_length(
    rows: list[Record], source: KinesisSource, data: st.DataObject | None
) -> None:
    first, end = 0, len(rows)
    if data is not None:
        first = data.draw(st.integers(0, len(rows) - 1))
        end = data.draw(st.integers(first + 1, len(rows)))
    mapped = MappedRows(rows)
    assert_same(mapped.build((first, end - first), source=source), kinesis_event(source, rows[first:end]))
    assert_predicted(mapped, rows, source, first, end)


def test_ten_thousand_records_build_the_oracles_event() -> None:
    rows = [record(b"%d" % i, f"key {i}", str(10**55 + i), 1_545_084_650_987 + i) for i in range(10_000)]
    mapped = MappedRows(rows)
    assert_same(mapped.build(), kinesis_event(SOURCE, rows))
    assert_same(mapped.build(*[(i, 1) for i in range(10_000)]), kinesis_event(SOURCE, rows))
    assert_predicted(mapped, rows, SOURCE, 0, 10_000)


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_records_of_a_mebibyte_build_the_oracles_event(extra: int) -> None:
    rows = [record(random.Random(extra).randbytes(limits.MIB + extra)) for _ in range(3)]
    mapped = MappedRows(rows)
    assert_same(mapped.build(), kinesis_event(SOURCE, rows))
    assert_predicted(mapped, rows, SOURCE, 0, 3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 5)), max_size=6))
def test_extents_of_several_messages_and_shards_follow_each_other(runs: list[tuple[int, int, int]]) -> None:
    other = SOURCE._replace(shard_id="shardId-000000000009", region="eu-west-1")
    rows = [[record(b"%d-%d" % (shard, i), f"{i}") for i in range(9)] for shard in (0, 1)]
    mapped = [MappedRows(of_shard) for of_shard in rows]
    segments = {7: mapped[0].segment(), 2**64 - 1: mapped[1].segment(other)}
    extents = mapped[0].extents(*[(first, count) for _, first, count in runs])
    for extent, (shard, _, _) in zip(extents, runs, strict=True):
        extent.segment_id = list(segments)[shard]
        extent.column = list(mapped[shard].message.column)
    wanted = [
        kinesis_event(source, rows[shard][first : first + count])["Records"]
        for shard, first, count in runs
        for source in [(SOURCE, other)[shard]]
    ]
    assert_same(build(extents, segments), {"Records": [one for run in wanted for one in run]})


def test_events_share_no_dict_with_each_other_or_with_what_made_them() -> None:
    mapped = MappedRows([record(), record()])
    event = mapped.build()
    for one in event["Records"]:
        one["kinesis"].clear()  # type: ignore[attr-defined]
        one.clear()
    assert_same(mapped.build(), kinesis_event(SOURCE, [record(), record()]))


def test_building_leaves_the_collector_as_it_was_and_nothing_behind() -> None:
    mapped = MappedRows([record(b"x" * 1_000, "é")] * 100)
    segments, extents = {7: mapped.segment()}, mapped.extents((0, 100))
    assert gc.isenabled()
    build(extents, segments)
    assert gc.isenabled()
    gc.disable()
    try:
        build(extents, segments)
        assert not gc.isenabled()
    finally:
        gc.enable()
    tracemalloc.start()
    try:
        build(extents, segments)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            build(extents, segments)
        assert tracemalloc.get_traced_memory()[0] - before < 1_000
    finally:
        tracemalloc.stop()


def test_an_unknown_segment_is_a_key_error() -> None:
    mapped = MappedRows([record()])
    with pytest.raises(KeyError, match="8"):
        build(mapped.extents((0, 1), segment_id=8), {7: mapped.segment()})


@pytest.mark.parametrize("column", range(7))
@pytest.mark.parametrize("beyond", ["just past the end", "past the address space"])
def test_a_column_that_leaves_the_segment_is_refused(column: int, beyond: str) -> None:
    mapped = MappedRows([record(), record()])
    extents = mapped.extents((0, 2))
    extents[0].column[column] = mapped.size - 1 if beyond == "just past the end" else 2**64 - 8
    with pytest.raises(ValueError, match="leaves its segment"):
        build(extents, {7: mapped.segment()})


@pytest.mark.parametrize(("first", "rows"), [(2**32 - 2, 1), (0, 2**32 - 1), (2**32 - 2, 2**20), (1_000, 1)])
def test_rows_that_the_segment_has_no_room_for_are_refused(first: int, rows: int) -> None:
    mapped = MappedRows([record(), record()])
    with pytest.raises(ValueError, match=r"leaves its segment|at most 1048576 records"):
        mapped.build((first, rows))


@pytest.mark.parametrize("column", [0, 2, 5])
@pytest.mark.parametrize("offsets", [(4, 3), (-1, 2), (0, -1), (0, 2**31 - 1), (-8, -4)])
def test_offsets_that_decrease_or_lead_outside_are_refused(column: int, offsets: tuple[int, int]) -> None:
    mapped = MappedRows([record()])
    at = mapped.message.column[column]
    mapped.memory[at : at + 8] = b"".join(offset.to_bytes(4, "little", signed=True) for offset in offsets)
    with pytest.raises(ValueError, match="offsets decrease"):
        mapped.build()


def test_a_size_is_believed_to_the_byte() -> None:
    mapped = MappedRows([record(b"last bytes")])
    end = mapped.message.column[6] + len(b"last bytes")
    source = _events.Source(*SOURCE)
    extents = mapped.extents((0, 1))
    assert len(build(extents, {7: _events.Segment(source, mapped.address, end)})["Records"]) == 1
    with pytest.raises(ValueError, match="leaves its segment"):
        build(extents, {7: _events.Segment(source, mapped.address, end - 1)})


@pytest.mark.parametrize(("column", "error"), [(1, ValueError), (3, UnicodeDecodeError)])
def test_text_that_is_not_text_is_refused(column: int, error: type[Exception]) -> None:
    mapped = MappedRows([record(sequence="123456789", key="123456789")])
    at = mapped.message.column[column] + 8
    mapped.memory[at : at + 1] = b"\xff"
    with pytest.raises(error):
        mapped.build()


def test_what_is_not_an_argument_is_refused() -> None:
    source = _events.Source(*SOURCE)
    with pytest.raises(ValueError, match="ASCII"):
        _events.Source("arn", "region", "shard-é", "role")
    with pytest.raises(ValueError, match="shorter"):
        _events.Source("arn", "region", "s" * 128, "role")
    with pytest.raises(ValueError, match="address"):
        _events.Segment(source, 0, 8)
    with pytest.raises(ValueError, match="address"):
        _events.Segment(source, 2**63, 2**63)
    with pytest.raises(OverflowError):
        _events.Segment(source, -1, 8)
    with pytest.raises(OverflowError):
        _events.Segment(source, 8, 2**64)
    for address, count in [(0, 1), (8, -1), (8, 2**40)]:
        with pytest.raises(ValueError, match="no such extents or row numbers"):
            _events.build(address, count, {})
    with pytest.raises(TypeError):
        _events.build(8, 0, [])  # type: ignore[arg-type]
    mapped = MappedRows([record()])
    with pytest.raises(TypeError):
        build(mapped.extents((0, 1)), {7: "segment"})  # type: ignore[dict-item]
    assert _events.build(0, 0, {}) == {"Records": []}


def test_a_source_and_a_segment_say_what_they_are() -> None:
    segment = _events.Segment(_events.Source(*SOURCE), 4_096, 2**40)
    assert (segment.address, segment.size, segment.source.shard_id) == (4_096, 2**40, SOURCE.shard_id)
    assert (segment.source.arn, segment.source.region) == (SOURCE.arn, SOURCE.region)
    assert segment.source.identity_arn == SOURCE.identity_arn


def test_records_out_of_aggregated_ones_make_the_same_event() -> None:
    """Their segments have two more columns, which an event does not show."""
    new = [NewRecord(b"%d" % i, f"k{i}", 1000 + i, None, str(10**i) if i % 2 else None, i) for i in range(1, 9)]
    (rows,) = from_records(new, 0)
    encoded = bytes(rows.draft(5, b"49", 0).finish(1, 0))
    memory, message = ffi.new("uint8_t[]", encoded), ffi.new("sf_message *")
    position, offset, count = ffi.new("uint64_t *"), ffi.new("uint64_t *", 5), ffi.new("size_t *")
    status = lib.sf_scan(
        memory, len(encoded), lib.SF_KINESIS_SOURCE, position, offset, 1 << 60, message, 1, count
    )
    assert (status, count[0]) == (lib.SF_SCAN_LIMIT, 1)
    address = int(ffi.cast("uintptr_t", memory))
    extent = {"segment_id": 7, "first_row": 0, "rows": 8, "column": list(message.column)}
    segment = _events.Segment(_events.Source(*SOURCE), address, len(encoded))
    built = build(ffi.new("sf_extent[]", [extent]), {7: segment})
    stored = [record(row.data, row.partition_key, f"49{5 + i:020d}", 1001 + i) for i, row in enumerate(new)]
    assert_same(built, kinesis_event(SOURCE, stored))
    prefix = json_prefix(address, message, fixed_bytes(SOURCE))
    assert EVENT_FRAME_BYTES + prefix[8] - prefix[0] == len(orjson.dumps(built))
