"""DynamoDB change records as JSON: kept to the letter, refused with the place of what is wrong."""

from __future__ import annotations

import json
import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn.formats.changes import (
    changes_nothing,
    compact,
    get_records_json,
    members,
    parse_change,
    viewed,
)
from streamfn.log.format.changes import from_changes, item_key, size_bytes
from streamfn.types import Change, NewChange

KEYS = '{"id": {"N": "1"}}'
NEW = '{ "zeta": {"S": "\\u00e9 \\/ \\" {[ "}, "id": {"N": "1.0"}, "n": {"N" : "0.10E+2"} }'
CAPTURED = f"""
{{
    "eventID": "ab0ed3713569f4655f353e5ef61a88c4", "eventName": "MODIFY", "eventVersion": "1.1",
    "eventSource": "aws:dynamodb", "awsRegion": "eu-west-1",
    "dynamodb": {{
        "ApproximateCreationDateTime": 1733418659.25,
        "Keys": {KEYS},
        "NewImage": {NEW},
        "OldImage": {{"id": {{"N": "1"}}}},
        "SequenceNumber": "700000000000888747038",
        "SizeBytes": 26,
        "StreamViewType": "NEW_AND_OLD_IMAGES"
    }},
    "userIdentity": {{"PrincipalId": "dynamodb.amazonaws.com", "Type": "Service"}}
}}
""".encode()


def test_a_captured_record_is_kept_to_the_letter_but_for_white_space() -> None:
    assert parse_change(CAPTURED) == NewChange(
        "MODIFY",
        b'{"id":{"N":"1"}}',
        b'{"zeta":{"S":"\\u00e9 \\/ \\" {[ "},"id":{"N":"1.0"},"n":{"N":"0.10E+2"}}',
        b'{"id":{"N":"1"}}',
        "NEW_AND_OLD_IMAGES",
        "ab0ed3713569f4655f353e5ef61a88c4",
        1733418659250,
        "700000000000888747038",
        26,
        b'{"type":"Service","principalId":"dynamodb.amazonaws.com"}',
        "1.1",
    )


def test_what_is_written_as_get_records_reads_back_the_same() -> None:
    new = parse_change(CAPTURED)
    change = Change(
        7, new.sequence_number or "", new.event_id or "", new.event_name, new.event_version, new.creation_ms or 0,
        new.keys, new.new_image, new.old_image, new.size_bytes or 0, new.stream_view_type, new.user_identity,
    )  # fmt: skip
    written = get_records_json(change, "eu-west-1", "shardId-0")
    assert parse_change(written) == new
    record = json.loads(written)
    assert list(record) == [
        "eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb", "userIdentity", "ShardId",
    ]  # fmt: skip
    assert record["userIdentity"] == {"PrincipalId": "dynamodb.amazonaws.com", "Type": "Service"}
    assert record["dynamodb"]["ApproximateCreationDateTime"] == 1733418659.25


@pytest.mark.parametrize(
    ("images", "name"),
    [
        ('"NewImage": {"id": {"N": "1"}}', "INSERT"),
        ('"OldImage": {"id": {"N": "1"}}', "REMOVE"),
        ('"OldImage": {"id": {"N": "1"}}, "NewImage": {"id": {"N": "1"}, "a": {"NULL": true}}', "MODIFY"),
        ('"OldImage": null, "NewImage": {"id": {"N": "1"}}', "INSERT"),
        ('"eventName": "REMOVE"', "REMOVE"),
    ],
)
def test_the_short_form_says_what_happened_by_its_images(images: str, name: str) -> None:
    change = parse_change(f'{{"Keys": {KEYS}, {images}}}'.encode())
    assert change.event_name == name
    assert change.sequence_number is change.event_id is change.creation_ms is change.size_bytes is None


def test_the_short_form_may_say_who_did_it() -> None:
    user = '{"type": "Service", "principalId": "dynamodb.amazonaws.com"}'
    text = f'{{"Keys": {KEYS}, "OldImage": {KEYS}, "userIdentity": {user}, "eventID": "e"}}'
    change = parse_change(text.encode())
    assert change.user_identity is not None
    assert (change.event_name, change.event_id, json.loads(change.user_identity)) == ("REMOVE", "e", json.loads(user))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", 'neither "dynamodb" nor "Keys"'),
        ('{"dynamodb": 1}', "dynamodb is not a JSON object"),
        ('{"dynamodb": {}, "eventName": "UPSERT"}', 'INSERT, MODIFY, REMOVE, not "UPSERT"'),
        ('{"NewImage": {}}', 'no "Keys"'),
        ('{"Keys": {"id": {"N": "1"}}}', 'add "eventName"'),
        ('{"Keys": {}, "NewImage": {}}', "0 attributes"),
        ('{"Keys": {"id": {"BOOL": true}}, "NewImage": {}}', "Keys.id is of type BOOL"),
        ('{"Keys": {"id": {"S": ""}}, "NewImage": {}}', "Keys.id is empty"),
        ('{"Keys": {"id": {"N": 1}}, "NewImage": {}}', 'Keys.id.N is a JSON string, such as {"N": "4.5"}, not 1'),
        ('{"Keys": {"i": {"N": "1"}}, "NewImage": {"i": {"N": "2"}}}', "NewImage.i is not the item's key: "),
        ('{"Keys": {"id": {"N": "1"}}, "OldImage": {}}', "OldImage.id is not the item's key: null"),
        ('{"Keys": {"id": {"S": "1"}}, "eventName": "INSERT", "OldImage": {"id": {"S": "1"}}}', "no \"OldImage\""),
        ('{"Keys": {"id": {"S": "1"}}, "eventName": "REMOVE", "NewImage": {"id": {"S": "1"}}}', "no \"NewImage\""),
        ('{"Keys": {"i": {"S": "1"}}, "NewImage": {"i": {"S": "1"}}, "StreamViewType": "ALL"}', "StreamViewType"),
        ('{"Keys": {"i": {"S": "1"}}, "NewImage": {"i": {"S": "1"}}, "SizeBytes": -1}', "SizeBytes"),
        ('{"Keys": {"i": {"S": "1"}}, "NewImage": {"i": {"S": "1"}}, "SequenceNumber": 7}', "SequenceNumber"),
    ],
)  # fmt: skip
def test_what_is_no_change_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_change(text.encode())


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("1", 'NewImage.a is not an attribute value such as {"S": "text"}: 1'),
        ('{"S": "x", "N": "1"}', "NewImage.a is not an attribute value"),
        ('{"T": "x"}', 'NewImage.a has type "T"'),
        ('{"S": 1}', "NewImage.a.S is a JSON string, not 1"),
        ('{"N": "1e"}', 'NewImage.a.N is not a number: "1e"'),
        ('{"N": "' + "1" * 39 + '"}', "has 39 digits; DynamoDB keeps 38"),
        ('{"B": "x"}', "NewImage.a.B is not base64"),
        ('{"BOOL": "true"}', 'NewImage.a.BOOL is true or false, not "true"'),
        ('{"NULL": false}', "NewImage.a.NULL is true, not false"),
        ('{"L": {}}', "NewImage.a.L is an array"),
        ('{"M": []}', "NewImage.a.M is a JSON object"),
        ('{"L": [{"S": "x"}, {"M": {"b": {"N": "x"}}}]}', 'NewImage.a[1].b.N is not a number: "x"'),
        ('{"SS": []}', "NewImage.a.SS is an array of at least one element"),
        ('{"NS": ["1", "1.0"]}', "NewImage.a.NS has an element twice"),
        ('{"L": [' * 33 + '{"S": "x"}' + "]}" * 33, "more than 32 lists and maps deep"),
    ],
)
def test_a_value_that_is_not_dynamodb_json_is_named_by_its_path(value: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_change(f'{{"Keys": {KEYS}, "NewImage": {{"id": {{"N": "1"}}, "a": {value}}}}}'.encode())


def test_a_view_drops_what_it_does_not_carry_and_the_size_with_it() -> None:
    change = parse_change(CAPTURED)
    assert viewed(change, "NEW_AND_OLD_IMAGES") == change
    new = viewed(change, "NEW_IMAGE")
    assert (new.new_image, new.old_image, new.size_bytes) == (change.new_image, None, None)
    keys = viewed(change, "KEYS_ONLY")
    assert (keys.new_image, keys.old_image, keys.stream_view_type) == (None, None, "KEYS_ONLY")
    assert viewed(change, "OLD_IMAGE").old_image == change.old_image


@pytest.mark.parametrize(
    ("new", "old", "same"),
    [
        ('{"a": {"N": "1"}, "b": {"SS": ["x", "y"]}}', '{"b": {"SS": ["y", "x"]}, "a": {"N": "1.00"}}', True),
        ('{"a": {"L": [{"N": "1"}]}}', '{"a": {"L": [{"N": "10e-1"}]}}', True),
        ('{"a": {"M": {"b": {"BOOL": true}}}}', '{"a": {"M": {"b": {"BOOL": false}}}}', False),
        ('{"a": {"S": "1"}}', '{"a": {"N": "1"}}', False),
    ],
)
def test_a_write_that_changes_nothing_is_one_for_dynamodb(new: str, old: str, same: bool) -> None:
    change = NewChange("MODIFY", KEYS.encode(), new.encode(), old.encode())
    assert changes_nothing(change) is same
    assert not changes_nothing(change._replace(event_name="INSERT", old_image=None))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(['"', "\\", "}{", "[]", " "]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_values_are_cut_out_of_any_object(value: dict[str, object], indent: object, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")  # type: ignore[arg-type]
    parts = members(text)
    assert list(parts) == list(value)
    for name, part in parts.items():
        assert json.loads(part) == value[name]
        squeezed = compact(part)
        assert json.loads(squeezed) == value[name]
        assert squeezed == json.dumps(value[name], separators=(",", ":"), ensure_ascii=ascii_only).encode(
            "utf-8", "surrogatepass"
        )


@pytest.mark.parametrize(
    ("item", "size"),
    [
        ({"id": {"S": "testId0"}}, 9),
        ({"id": {"N": "42"}}, 4),
        ({"id": {"N": "-42"}}, 5),
        ({"n": {"N": "0"}}, 2),
        ({"n": {"N": "1200"}}, 3),
        ({"n": {"N": "0.00123"}}, 4),
        ({"b": {"B": "Zm9vYmFy"}}, 7),
        ({"b": {"B": "Zm8="}}, 3),
        ({"é": {"BOOL": True}}, 3),
        ({"a": {"NULL": True}}, 2),
        ({"a": {"L": [{"S": "xy"}, {"N": "1"}]}}, 1 + 3 + 2 + 2 + 2),
        ({"a": {"M": {"b": {"S": "xy"}}}}, 1 + 3 + 1 + 1 + 2),
        ({"a": {"SS": ["x", "yz"]}}, 4),
        ({"a": {"NS": ["1", "23"]}}, 5),
    ],
)
def test_an_item_has_dynamodbs_size(item: dict[str, object], size: int) -> None:
    keys = orjson.dumps(item)
    assert size_bytes(NewChange("INSERT", keys)) == size
    assert size_bytes(NewChange("INSERT", keys, keys, keys)) == 3 * size


def test_an_append_makes_what_is_missing() -> None:
    (rows,) = from_changes([NewChange("REMOVE", b'{"id":{"N":"42"}}')], 99)
    event_id = bytes(rows.buffers[1] or b"")
    assert len(event_id) == 32
    assert int(event_id, 16) >= 0
    assert list(memoryview(rows.buffers[8] or b"").cast("B").cast("q")) == [99]


def test_all_spellings_of_an_items_key_lead_to_one_shard() -> None:
    spellings = [
        b'{"id":{"N":"1"},"at":{"S":"\xc3\xa9"}}', b'{"at":{"S":"\\u00e9"},"id":{"N":"1.0"}}',
        b'{ "id": {"N": "10e-1"}, "at": {"S": "\\u00E9"} }',
    ]  # fmt: skip
    assert len({item_key(keys) for keys in spellings}) == 1
    others = [
        b'{"id":{"N":"1"}}', b'{"id":{"S":"1"}}', b'{"id":{"B":"MQ=="}}', b'{"di":{"N":"1"}}', b'{"id":{"N":"-1"}}',
        b'{"id":{"N":"10000000000000000000000000000000000000"}}',
        b'{"id":{"N":"10000000000000000000000000000000000001"}}',
        b"{}", b'{"id":1}', b'{"id":{"N":"x"}}',
    ]  # fmt: skip
    assert len({item_key(keys) for keys in others}) == len(others)
    assert item_key(b'{"n":{"N":"0"}}') == item_key(b'{"n":{"N":"-0.00"}}')
