"""Selected rows and lanes: the native parts against the oracles, and against what Python would do."""

from __future__ import annotations

import array
import json
import random
from decimal import Decimal
from typing import Any

import orjson
import pytest
from arrow_rows import SOURCE, MappedRows, build
from change_rows import SOURCE as TABLE
from change_rows import MappedChanges, stored
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamfn._native import ffi, lib
from streamfn.events import rows as native
from streamfn.events.dynamodb import dynamodb_event
from streamfn.events.kinesis import kinesis_event
from streamfn.events.size import EVENT_FRAME_BYTES, fixed_bytes, json_prefix
from streamfn.log.format.changes import item_key
from streamfn.types import NewChange, Record

FACTORS = range(1, 11)


def numbers(*rows: int) -> memoryview:
    return memoryview(array.array("I", rows))


def record(row: int, key: str | None = None) -> Record:
    name = f"k{row % 7}é" if key is None else key
    return Record(0, str(10**20 + row), name, 1_545_084_650_000 + 37 * row, b"x" * row)


def change(row: int, keys: bytes | None = None) -> NewChange:
    image = None if row % 3 == 0 else b'{"a":{"S":"%s"}}' % (b"y" * row)
    key = b'{"id":{"N":"%d"}}' % (row % 7) if keys is None else keys
    return NewChange("MODIFY", key, image, None, "NEW_IMAGE", "ab", 1_733_418_659_000 + row, str(10**20 + row), 3)


def aimed(mapped: Any, *selections: list[int]) -> tuple[Any, list[int]]:
    """Extents of some selections of a message's rows, and the batch's selection."""
    extents, selection = ffi.new("sf_extent[]", len(selections)), []
    message = mapped.extents((0, mapped.rows))
    for extent, rows in zip(extents, selections, strict=True):
        if native.aim(message, numbers(*rows), ffi.addressof(extent)):
            selection += rows
        assert (extent.first_offset, extent.rows) == (rows[0], len(rows))
    return extents, selection


subsets = st.sets(st.integers(0, 19), min_size=1).map(sorted)


@settings(max_examples=150, deadline=None)
@given(st.lists(subsets, min_size=1, max_size=4))
@example([[0, 1, 2], [19], [0, 19], list(range(20))])
def test_selected_rows_build_the_oracles_event_and_have_the_predicted_length(selections: list[list[int]]) -> None:
    records, changes = [record(row) for row in range(20)], [change(row) for row in range(20)]
    chosen = [row for rows in selections for row in rows]
    for mapped, wanted, source in (
        (MappedRows(records), kinesis_event(SOURCE, [records[row] for row in chosen]), SOURCE),
        (MappedChanges(changes), dynamodb_event(TABLE, [stored(changes[row]) for row in chosen]), TABLE),
    ):
        extents, selection = aimed(mapped, *selections)
        assert build(extents, {7: mapped.segment()}, selection) == wanted
        prefix = json_prefix(mapped.address, mapped.message, fixed_bytes(source))
        sums = [native.select_prefix(prefix, numbers(*rows)) for rows in selections]
        assert all(each[0] == 0 for each in sums)
        assert EVENT_FRAME_BYTES + sum(each[-1] for each in sums) == len(orjson.dumps(wanted))
        fixed = fixed_bytes(source)
        for rows, expected in zip(selections, sums, strict=True):
            assert json_prefix(mapped.address, mapped.message, fixed, numbers(*rows)) == expected


def test_only_rows_with_gaps_between_them_take_room_in_the_selection() -> None:
    mapped = MappedRows([record(row) for row in range(20)])
    extents, selection = aimed(mapped, [3], [4, 5, 6], [7, 9], list(range(20)))
    assert [extent.first_row for extent in extents] == [3, 4, lib.SF_SELECTED, 0]
    assert selection == [7, 9]


@given(subsets)
def test_running_sums_of_selected_rows_are_those_of_their_sizes(rows: list[int]) -> None:
    mapped = MappedRows([record(row) for row in range(20)])
    prefix = json_prefix(mapped.address, mapped.message, 100)
    sums = native.select_prefix(prefix, numbers(*rows))
    assert (sums.format, len(sums)) == ("Q", len(rows) + 1)
    assert [sums[i + 1] - sums[i] for i in range(len(rows))] == [prefix[row + 1] - prefix[row] for row in rows]


def test_times_and_numbers_are_those_of_the_rows() -> None:
    records, changes = [record(row) for row in range(9)], [change(row) for row in range(9)]
    for mapped, times in (
        (MappedRows(records), [each.arrival_ms for each in records]),
        (MappedChanges(changes), [each.creation_ms for each in changes]),
    ):
        found = native.arrivals(mapped.address, mapped.message)
        assert (found.format, list(found)) == ("q", times)
        assert list(native.arrivals(mapped.address, mapped.message, numbers(1, 5, 8))) == [
            times[row] for row in (1, 5, 8)
        ]
        found_numbers = native.sequence_numbers(mapped.address, mapped.message, range(2, 5))
        assert found_numbers == [str(10**20 + row) for row in (2, 3, 4)]


# ---- lanes


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(deadline=None)
@given(st.lists(keys, min_size=1, max_size=30), st.sampled_from(FACTORS))
def test_records_of_one_key_are_of_one_lane_wherever_they_lie(texts: list[str], factor: int) -> None:
    mapped = MappedRows([record(row, key) for row, key in enumerate(texts)])
    found = native.lanes(mapped.address, mapped.message, factor)
    assert len(found) == len(texts)
    assert all(lane < factor for lane in found)
    for key, lane in zip(texts, found, strict=True):
        alone = MappedRows([record(0, key)])
        assert native.lanes(alone.address, alone.message, factor)[0] == lane
        assert key or lane == 0


def test_lanes_do_not_change_between_versions() -> None:
    """A change would be no error, but whoever reads a distribution should find it again."""
    mapped = MappedRows([record(0, f"key-{i}") for i in range(12)])
    assert list(native.lanes(mapped.address, mapped.message, 10)) == KINESIS_LANES
    changes = MappedChanges([change(i, b'{"id":{"S":"item-%d"}}' % i) for i in range(12)])
    assert list(native.lanes(changes.address, changes.message, 10)) == ITEM_LANES


KINESIS_LANES = [0, 6, 9, 2, 1, 7, 0, 3, 6, 2, 2, 2]
ITEM_LANES = [2, 2, 3, 4, 0, 3, 8, 8, 1, 2, 6, 4]


@pytest.mark.parametrize("factor", [2, 3, 10])
@pytest.mark.parametrize("form", ["%d", "customer-%08d", "%032x"])
def test_keys_spread_over_all_lanes(form: str, factor: int) -> None:
    count = 5000
    mapped = MappedRows([record(0, form % i) for i in range(count)])
    items = [b'{"id":{"S":"%s"}}' % (form % i).encode() for i in range(count)]
    changes = MappedChanges([change(i, item)._replace(new_image=None) for i, item in enumerate(items)])
    for each in (mapped, changes):
        found = native.lanes(each.address, each.message, factor)
        for lane in range(factor):
            assert 0.85 < found.count(lane) * factor / count < 1.15


attributes = st.dictionaries(
    keys.filter(bool),
    st.one_of(
        st.builds(lambda text: {"S": text}, keys),
        st.builds(lambda number: {"N": str(number)}, st.integers()),
        st.builds(lambda text: {"B": text}, keys),
    ),
    min_size=1,
    max_size=3,
)


def spelled(item: dict[str, Any], seed: int) -> bytes:
    """JSON of the same item in another order, with other spaces and escapes."""
    dice = random.Random(seed)
    members = list(item.items())
    dice.shuffle(members)
    text = json.dumps(dict(members), ensure_ascii=dice.random() < 0.5, indent=dice.choice([None, 1]))
    return text.replace("/", "\\/" if dice.random() < 0.5 else "/").encode()


@settings(max_examples=200, deadline=None)
@given(st.lists(attributes, min_size=1, max_size=8), st.sampled_from(FACTORS), st.integers(0, 2**32))
def test_changes_of_one_item_are_of_one_lane_however_its_key_is_written(
    items: list[dict[str, Any]], factor: int, seed: int
) -> None:
    one = MappedChanges([change(row, orjson.dumps(item)) for row, item in enumerate(items)])
    other = MappedChanges([change(row, spelled(item, seed + row)) for row, item in enumerate(items)])
    found = native.lanes(one.address, one.message, factor)
    assert found == native.lanes(other.address, other.message, factor)
    assert all(lane < factor for lane in found)


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (["1", "1.0", "01", "+1", "1e0", "10e-1", "0.1E1", "0.001e+3", "1.000"], ["-1", "10", "0.1", "11", "1.01"]),
        (["0", "-0", "0.0", "000", "0e5", ".0"], ["1", "", "e", "."]),
        (["100", "1e2", "100.00", "0.1e3", "1E+02"], ["101", "1e3", "10", "1001", "1010"]),
        (["-120.5", "-1.205e2", "-0120.50"], ["120.5", "-12.05", "-1205", "-120.05", "-100.5"]),
        (["0.0012", "12e-4", ".0012", "1.2e-3"], ["0.012", "0.00012", "0.0102"]),
        (["one"], ["One", "1"]),
    ],
)
def test_numbers_of_an_items_key_count_by_value(same: list[str], other: list[str]) -> None:
    """As where the item's shard is chosen."""

    def key(number: str) -> bytes:
        return orjson.dumps({"id": {"S": "1"}, "sort": {"N": number}})

    assert len({hash_of(key(number)) for number in same}) == 1
    assert len({hash_of(key(number)) for number in [same[0], *other]}) == 1 + len(other)
    texts = [orjson.dumps({"id": {"S": number}}) for number in (*same, *other)]
    assert len({hash_of(text) for text in texts}) == len(texts), "texts do not"


decimals = st.decimals(-(10**12), 10**12, places=4) | st.sampled_from([Decimal(0), Decimal("0.1"), Decimal(10)])


@settings(deadline=None)
@given(st.tuples(decimals, decimals), st.integers(-9, 9))
def test_numbers_have_one_hash_if_and_only_if_they_are_equal(pair: tuple[Decimal, Decimal], shift: int) -> None:
    one, other = pair
    spelled_otherwise = f"{one.scaleb(-shift):f}e{shift}"
    hashes = [hash_of(b'{"id":{"N":"%s"}}' % text.encode()) for text in (str(one), spelled_otherwise, str(other))]
    assert hashes[0] == hashes[1]
    assert (hashes[0] == hashes[2]) == (one == other)
    keys = [item_key(b'{"id":{"N":"%s"}}' % text.encode()) for text in (str(one), str(other))]
    assert (keys[0] == keys[1]) == (hashes[0] == hashes[2])


def hash_of(text: bytes) -> tuple[bool, int]:
    memory = ffi.new("uint8_t[]", text) if text else ffi.NULL
    found = ffi.new("uint64_t *")
    return bool(lib.sf_item_hash(memory, len(text), found)), int(found[0])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(values, values)
def test_texts_have_one_hash_if_and_only_if_they_mean_the_same(one: object, other: object) -> None:
    def meaning(value: object) -> str:
        return json.dumps(value, sort_keys=True)

    first, second = hash_of(orjson.dumps(one)), hash_of(json.dumps(other, indent=1).encode())
    assert first[0]
    assert second[0]
    assert (first == second) == (meaning(one) == meaning(other))


def test_members_that_change_places_make_another_text() -> None:
    texts = [b'{"a":"b"}', b'{"b":"a"}', b'["a","b"]', b'["b","a"]', b'[["a"],"b"]', b'[["a","b"]]', b'{"a":["b"]}']
    texts += [b'"a"', b"1", b'"1"', b"null", b'"null"', b"[]", b"{}", b'""', b"[[]]", b"[{}]", b'{"a":{"b":"c"}}']
    texts += [b'{"a":{"b":"c"},"d":"e"}', b'{"a":{"d":"e"},"b":"c"}', b'{"a":"1","b":"2"}', b'{"a":"2","b":"1"}']
    assert len({hash_of(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"a"', b'{"a":', b'{"a":}', b'"', b'"\\u12', b"[1,", b"]", b"nul", b"[" * 200]
)
def test_what_is_no_json_has_the_hash_of_its_bytes(text: bytes) -> None:
    assert hash_of(text) == (False, hash_of(text)[1])
    assert hash_of(text)[1] != hash_of(text + b"!")[1]


def test_broken_texts_are_walked_within_their_bounds() -> None:
    """Anything but a read outside, which AddressSanitizer would say."""
    dice = random.Random(7)
    for _ in range(3000):
        text = bytearray(orjson.dumps({"id": {"S": "\u00e9\n" * dice.randrange(4)}, "n": [1, None, {"x": True}]}))
        for _ in range(dice.randrange(5)):
            text[dice.randrange(len(text))] = dice.choice(b'{}[]",:\\u\x00\xff01e-')
        hash_of(bytes(text[: dice.randrange(len(text) + 1)]))


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=50), st.sampled_from(FACTORS), st.randoms())
def test_rows_are_grouped_by_lane_and_keep_their_order(raw: list[int], factor: int, dice: random.Random) -> None:
    of_rows = bytearray(lane % factor for lane in raw)
    chosen = [row for row in range(len(raw)) if dice.random() < 0.5]
    for rows in (None, numbers(*chosen)):
        grouped = native.group(of_rows, factor, rows)
        among = range(len(raw)) if rows is None else chosen
        assert [list(each) for each in grouped] == [
            [row for row in among if of_rows[row] == lane] for lane in range(factor)
        ]
        assert all(each.format == "I" for each in grouped)


# ---- a handler that writes where the extents lie


@pytest.mark.parametrize("kind", [MappedRows, MappedChanges])
@pytest.mark.parametrize("row", [20, 2**31, 2**32 - 1])
def test_a_row_number_that_the_message_has_not_is_refused(kind: type[Any], row: int) -> None:
    mapped = kind([record(row) if kind is MappedRows else change(row) for row in range(20)])
    if kind is MappedRows and row == 20:
        row = mapped.size // 4  # a Kinesis extent does not say how many rows there are, the segment's size bounds them
    extents, selection = aimed(mapped, [1, 3])
    with pytest.raises(ValueError, match="leaves its segment"):
        build(extents, {7: mapped.segment()}, [selection[0], row])


@pytest.mark.parametrize(("selection", "reason"), [([], "fewer"), ([1], "fewer"), ([1, 3, 5], "more"), (None, "fewer")])
def test_a_selection_must_have_the_numbers_that_its_extents_want(selection: list[int] | None, reason: str) -> None:
    mapped = MappedRows([record(row) for row in range(20)])
    extents, _ = aimed(mapped, [1, 3])
    with pytest.raises(ValueError, match=f"the selection has {reason} row numbers"):
        build(extents, {7: mapped.segment()}, selection)


def test_hostile_selections_and_extents_never_read_outside() -> None:
    dice = random.Random(11)
    kinds = [MappedRows([record(row) for row in range(20)]), MappedChanges([change(row) for row in range(20)])]
    built = 0
    for _ in range(4000):
        mapped = dice.choice(kinds)
        extents, selection = aimed(mapped, sorted(dice.sample(range(20), dice.randint(1, 9))), [3, 9])
        for _ in range(dice.randrange(3)):
            extent = dice.choice(list(extents))
            if dice.random() < 0.5:
                extent.first_row = dice.choice((0, 5, 2**32 - 1, 2**31))
            else:
                extent.rows = dice.choice((0, 1, 2, 3, 2**20, 2**31))
        for _ in range(dice.randrange(2)):
            selection[dice.randrange(len(selection))] = dice.choice((0, 25, 2**32 - 1, dice.randrange(2**32)))
        try:
            build(extents, {7: mapped.segment()}, selection)
            built += 1
        except ValueError:
            continue
    assert 200 < built < 4000
