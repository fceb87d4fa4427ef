"""The native DynamoDB event and its predicted length against the plain-Python oracle and orjson."""

from __future__ import annotations

import random
import tracemalloc

import orjson
import pytest
from change_rows import SOURCE, MappedChanges, stored
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamfn import _events, limits
from streamfn._native import ffi, lib
from streamfn.errors import RefusedError
from streamfn.events.dynamodb import DynamoDBSource, dynamodb_event
from streamfn.events.size import EVENT_FRAME_BYTES, fixed_bytes, json_prefix
from streamfn.log.format.changes import check_change
from streamfn.types import NewChange

ODD_CHARACTERS = '\x00\x01\b\t\n\x0b\f\r\x1f "\\/\x7f\x80é\u07ff\u0800\u2028\ud7ff\ue000\uffff😀\U0010ffff'
ODD_NUMBERS = ["-0", "1.0", "1e5", "0.1", "-1E-7", "123456789012345678901", "18446744073709551615", "1e400"]

text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6) | st.text(ODD_CHARACTERS, max_size=6)
numbers = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(text, values, max_size=4)
attribute_values = st.recursive(
    st.builds(lambda value: {"S": value}, text)
    | st.builds(lambda value: {"N": str(value)}, st.integers())
    | st.sampled_from([{"B": "AA=="}, {"BOOL": True}, {"NULL": True}, {"SS": ["a", "é"]}]),
    lambda inner: st.builds(lambda value: {"L": value}, st.lists(inner, max_size=3))
    | st.builds(lambda value: {"M": value}, st.dictionaries(text, inner, max_size=3)),
    max_leaves=8,
)
items = st.dictionaries(text, attribute_values, max_size=4)


class Spelling:
    """Writes a value as JSON in one of the many ways there are: escapes, white space, equal names."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._odd = self._chance.random() < 0.5

    def write(self, value: object) -> str:
        """Return the text."""
        if isinstance(value, dict):
            pairs = list(value.items())
            if pairs and self._rarely():
                pairs.insert(self._chance.randrange(len(pairs) + 1), (self._chance.choice(pairs)[0], "again"))
            inside = (f"{self._text(name)}{self._blank()}:{self._blank()}{self.write(item)}" for name, item in pairs)
            return "{" + self._blank() + self._joined(inside) + "}"
        if isinstance(value, list):
            return "[" + self._blank() + self._joined(self.write(item) for item in value) + "]"
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, float) and self._odd and self._rarely():
            return self._chance.choice(ODD_NUMBERS[:-1])
        return orjson.dumps(value).decode()

    def _joined(self, parts: object) -> str:
        return (self._blank() + "," + self._blank()).join(parts) + self._blank()  # type: ignore[arg-type]

    def _rarely(self) -> bool:
        return self._odd and self._chance.random() < 0.1

    def _blank(self) -> str:
        return self._chance.choice(["", " ", "\n\t", "\r"]) if self._odd else ""

    def _text(self, value: str) -> str:
        return '"' + "".join(map(self._character, value)) + '"'

    def _character(self, character: str) -> str:
        plain = orjson.dumps(character).decode()[1:-1]
        if not self._odd or self._chance.random() < 0.6:
            return plain
        if character == "/":
            return "\\/"
        units = character.encode("utf-16-be").hex()
        units = units if self._chance.random() < 0.5 else units.upper()
        return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def spelled(value: object, seed: int) -> bytes:
    return Spelling(seed).write(value).encode()


def length_of(document: bytes) -> int:
    # An exact allocation of its own, so that AddressSanitizer sees every byte too many.
    memory = ffi.new("uint8_t[]", document) if document else ffi.NULL
    return int(lib.sf_json_length(memory, len(document)))


documents = st.builds(spelled, items | objects, st.integers(0, 2**32))
changes = st.builds(
    NewChange,
    event_name=st.sampled_from(["INSERT", "MODIFY", "REMOVE"]),
    keys=documents,
    new_image=st.none() | documents,
    old_image=st.none() | documents,
    stream_view_type=st.sampled_from(["KEYS_ONLY", "NEW_AND_OLD_IMAGES"]),
    event_id=st.text("0123456789abcdef\"\\", min_size=1, max_size=32),
    creation_ms=st.integers(0, limits.ARRIVAL_MS_MAX) | st.sampled_from([0, 1, 10, 999, 1000, 1733418659000]),
    sequence_number=st.just("1"),
    size_bytes=st.integers(0, 2**63 - 1) | st.sampled_from([0, 9, 10, 99, 100]),
    user_identity=st.none() | documents,
    event_version=st.sampled_from(["1.1", "1.0"]),
)
rows_of_changes = st.lists(changes, min_size=1, max_size=6).map(
    lambda rows: [row._replace(sequence_number=str(10**20 + number)) for number, row in enumerate(rows)]
)


def change(keys: bytes = b'{"id":{"N":"1"}}', **fields: object) -> NewChange:
    made = NewChange("MODIFY", keys, event_id="ab", creation_ms=1, sequence_number="1", size_bytes=3)
    return made._replace(**fields)  # type: ignore[arg-type]


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


@settings(max_examples=200, deadline=None)
@given(rows=rows_of_changes, arn=text, region=st.text("abc-1", max_size=8), data=st.data())
@example(rows=[change(b'{"a":1.0}'), change(b"{}", sequence_number="2")], arn="é", region="", data=None)
@example(rows=[change(b'{"a":1,"\\u0061":2}')], arn="a", region="r", data=None)
def test_a_run_of_changes_builds_the_oracles_event_and_has_the_predicted_length(
    rows: list[NewChange], arn: str, region: str, data: st.DataObject | None
) -> None:
    source = DynamoDBSource(arn, region)
    first, end = 0, len(rows)
    if data is not None:
        first = data.draw(st.integers(0, len(rows) - 1))
        end = data.draw(st.integers(first + 1, len(rows)))
    mapped = MappedChanges(rows)
    wanted = dynamodb_event(source, [stored(row) for row in rows[first:end]])
    assert_same(mapped.build((first, end - first), source=source), wanted)
    prefix = json_prefix(mapped.address, mapped.message, fixed_bytes(source))
    assert (prefix.format, len(prefix), prefix[0]) == ("Q", len(rows) + 1, 0)
    assert EVENT_FRAME_BYTES + prefix[end] - prefix[first] == len(orjson.dumps(wanted))


@settings(max_examples=500, deadline=None)
@given(value=values | items, seed=st.integers(0, 2**32))
def test_the_length_of_any_json_text_is_what_orjson_would_write(value: object, seed: int) -> None:
    document = spelled(value, seed)
    length = length_of(document)
    assert length != lib.SF_JSON_BROKEN
    if length != lib.SF_JSON_ODD:
        assert length == len(orjson.dumps(orjson.loads(document)))


@settings(max_examples=200, deadline=None)
@given(item=items, compact=st.booleans())
def test_an_items_length_is_always_found_by_walking(item: dict[str, object], compact: bool) -> None:
    document = orjson.dumps(item, option=0 if compact else orjson.OPT_INDENT_2)
    assert length_of(document) == len(orjson.dumps(item))


@settings(max_examples=300, deadline=None)
@given(value=values, seed=st.integers(0, 2**32), data=st.data())
def test_what_orjson_does_not_read_is_never_given_a_length(value: object, seed: int, data: st.DataObject) -> None:
    document = bytearray(spelled(value, seed))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(document) - 1))
        document[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from([*b'",:{}[]\\u0e-d8'])).to_bytes()
        if not document:
            break
    length = length_of(bytes(document))
    try:
        document.decode()
        wanted = len(orjson.dumps(orjson.loads(document)))
    except ValueError:
        assert length < 0 or not _is_utf8(document)
    else:
        assert length in (wanted, lib.SF_JSON_ODD)


def _is_utf8(document: bytearray) -> bool:
    try:
        document.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("document", "length"),
    [
        (b"", lib.SF_JSON_BROKEN), (b" ", lib.SF_JSON_BROKEN), (b"nul", lib.SF_JSON_BROKEN),
        (b'"\\ud800"', lib.SF_JSON_BROKEN), (b'"\\udc00"', lib.SF_JSON_BROKEN),
        (b'"\\ud800\\u0041"', lib.SF_JSON_BROKEN),
        (b'"\\ud83d\\ude00"', 6), (b'"\\u00e9"', 4), (b'"\\/"', 3), (b'"\\u001f"', 8), (b'"\\u0008\\b"', 6),
        (b'"\x01"', lib.SF_JSON_BROKEN), (b'"a', lib.SF_JSON_BROKEN), (b'"\\', lib.SF_JSON_BROKEN),
        (b"[1,]", lib.SF_JSON_BROKEN), (b"{,}", lib.SF_JSON_BROKEN), (b'{"a":1,}', lib.SF_JSON_BROKEN),
        (b"[1}", lib.SF_JSON_BROKEN), (b'{"a":1]', lib.SF_JSON_BROKEN), (b"]", lib.SF_JSON_BROKEN),
        (b"1 1", lib.SF_JSON_BROKEN), (b"[[]", lib.SF_JSON_BROKEN), (b"{1:2}", lib.SF_JSON_BROKEN),
        (b" [ 1 , 2 ] ", 5), (b"{}", 2), (b'{"a":{"a":1},"b":{"a":2}}', 25),
        (b"-0", lib.SF_JSON_ODD), (b"1.5", lib.SF_JSON_ODD), (b"1234567890123456789", lib.SF_JSON_ODD), (b"-12", 3),
        (b"[" * 128 + b"]" * 128, 256), (b"[" * 129 + b"]" * 129, lib.SF_JSON_ODD),
        (b'{"a":1,"a":2}', lib.SF_JSON_ODD), (b'{"a":1,"\\u0061":2}', lib.SF_JSON_ODD),
    ],
)  # fmt: skip
def test_a_text_has_a_length_or_a_reason_for_none(document: bytes, length: int) -> None:
    assert length_of(document) == length


def test_thousands_of_names_are_walked_and_more_are_odd() -> None:
    for count, odd in ((1000, False), (3000, False), (5000, True)):
        item = {f"attribute {i}": {"S": "x"} for i in range(count // 2)}
        document = orjson.dumps(item)
        assert (length_of(document) == lib.SF_JSON_ODD) == odd
        assert odd or length_of(document) == len(document)


def test_names_of_objects_of_any_number_are_told_apart() -> None:
    document = orjson.dumps([{"a": i, "b": {"a": i}} for i in range(700)])
    assert length_of(document) == len(document)


def test_an_append_takes_what_every_parser_reads_and_nothing_else() -> None:
    for good in (b"{}", b'{"a":1.5}', b'{"a":1,"a":2}', b'{"a":"\\ud83d\\ude00"}'):
        check_change(change(good))
    bad = [b"", b"1", b"[]", b"{", b'{"a":NaN}', b'{"a":1.5,"b":NaN}', b'{"a":1.5,"b":"\\ud800"}', b'{"a":"\\ud800"}']
    for document in [*bad, b'{"a":1e999}', b'{"\xff":1}', b'{"a":01}']:
        with pytest.raises(RefusedError, match="is not a JSON object in UTF-8"):
            check_change(change(new_image=document))


def test_keys_stand_in_the_services_order_and_absent_images_are_left_out() -> None:
    both = change(new_image=b"{}", old_image=b"{}", user_identity=b'{"type":"Service"}')
    whole, bare = MappedChanges([both, change(sequence_number="2")]).build()["Records"]
    assert list(whole) == [
        "eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb", "userIdentity",
        "eventSourceARN",
    ]  # fmt: skip
    assert list(bare) == [key for key in whole if key != "userIdentity"]
    assert list(whole["dynamodb"]) == [  # type: ignore[call-overload]
        "ApproximateCreationDateTime", "Keys", "NewImage", "OldImage", "SequenceNumber", "SizeBytes", "StreamViewType",
    ]  # fmt: skip
    assert set(whole["dynamodb"]) - set(bare["dynamodb"]) == {"NewImage", "OldImage"}  # type: ignore[call-overload]


def test_building_leaves_nothing_behind_and_shares_no_dict() -> None:
    mapped = MappedChanges([change(new_image='{"a":"é"}'.encode(), user_identity=b"{}")] * 1)
    wanted = mapped.build()
    mapped.build()["Records"][0]["dynamodb"].clear()  # type: ignore[attr-defined]
    assert mapped.build() == wanted
    tracemalloc.start()
    try:
        mapped.build()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            mapped.build()
        assert tracemalloc.get_traced_memory()[0] - before < 5_000, "less than 25 bytes an event are no event"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("column", "value"),
    [(0, 2**64 - 8), (0, 2**63), (1, 0), (1, 1), (1, 2**31), (1, 2**64 - 1), (1, 3), (1, 1000)],
)
def test_an_extent_that_somebody_wrote_to_is_refused_or_some_event(column: int, value: int) -> None:
    mapped = MappedChanges([change(), change(sequence_number="2")])
    extents = mapped.extents((0, 2))
    extents[0].column[column] = value
    with pytest.raises(ValueError):  # noqa: PT011 - whichever check is first
        _events.build(int(ffi.cast("uintptr_t", extents)), 1, {7: mapped.segment()})


def test_hostile_extents_and_bytes_never_read_outside() -> None:
    """Anything but a crash: what is outside the segment is not ours, which AddressSanitizer would say."""
    chance = random.Random(5)
    rows = [change(new_image=b'{"a":{"S":"x"}}', user_identity=b"{}", sequence_number=str(i)) for i in range(9)]
    clean = MappedChanges(rows)
    content = bytes(clean.memory)
    built = 0
    for _ in range(4000):
        memory = ffi.new("uint8_t[]", content)
        for _ in range(chance.randrange(4)):
            memory[chance.randrange(len(content))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        extents = clean.extents((chance.choice((0, 1, 8, 2**31)), chance.choice((1, 2, 9, 2**20))))
        if chance.random() < 0.7:
            at = chance.randrange(len(content)) & ~chance.choice((0, 7))
            extents[0].column[0] = chance.choice((at, clean.message.column[0], 2**64 - 1))
            extents[0].column[1] = chance.choice((9, 1, 10, 100, chance.randrange(2**32), 2**64 - 1))
        segment = _events.Segment(clean.segment().source, int(ffi.cast("uintptr_t", memory)), len(content))
        try:
            _events.build(int(ffi.cast("uintptr_t", extents)), 1, {7: segment})
            built += 1
        except ValueError:
            continue
    assert 200 < built < 4000


def test_a_source_is_of_one_of_two_kinds() -> None:
    with pytest.raises(ValueError, match="kinesis or dynamodb, not 'sqs'"):
        _events.Source("arn", "region", "shard", "role", "sqs")
    assert _events.Source(SOURCE.arn, SOURCE.region, "é" * 200, "role", "dynamodb").arn == SOURCE.arn
