"""DynamoDB change records as JSON: what GetRecords of DynamoDB Streams answers, Lambda events, and a short form.

    {"eventID": ..., "eventName": "MODIFY", ..., "dynamodb": {"Keys": {...}, "NewImage": {...}, ...},
     "userIdentity": {...}}
    {"Keys": {"id": {"N": "1"}}, "NewImage": {"id": {"N": "1"}, "name": {"S": "Ada"}}}

Of keys and images the text is kept, without the white space between its tokens: attributes stay in their order,
numbers and escapes as they were written.  So a record is parsed to be checked, and cut to be stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import orjson

from streamfn.formats.attributes import check_item, check_keys, same_item, shown
from streamfn.formats.json_values import value_end
from streamfn.formats.times import parse_seconds_ms
from streamfn.types import Change, NewChange

EVENT_NAMES = ("INSERT", "MODIFY", "REMOVE")
VIEW_TYPES = ("KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES")
_IMAGES = ("NewImage", "OldImage")

_BLANK = re.compile(rb"[ \t\r\n]*+")
_BLANKS = re.compile(rb'("(?:[^"\\]++|\\.)*+")|[ \t\r\n]++', re.DOTALL)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class _Written:
    """The parts of an object whose text is what orjson would write."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._value = value

    def text(self, name: str) -> bytes:
        """Return the text of a member's value, without white space between its tokens."""
        return orjson.dumps(self._value[name])

    def inside(self, name: str) -> _Written:
        """Return the parts of a member that is an object."""
        return _Written(self._value[name])


class _Searched:
    """The same of an object that was written in another way: its members are looked for in its text."""

    def __init__(self, text: bytes) -> None:
        self._members = members(text)

    def text(self, name: str) -> bytes:
        """Return the text of a member's value, without white space between its tokens."""
        return compact(self._members[name])

    def inside(self, name: str) -> _Searched:
        """Return the parts of a member that is an object."""
        return _Searched(self._members[name])


_Parts: TypeAlias = _Written | _Searched


def parse_change(text: bytes) -> NewChange:
    """Return the change that one JSON object describes, in either form.

    What it does not say stays None: sequence number, event id, creation time, size.  In the short form the event
    name follows from the images, unless it is given.

    Raises:
        ValueError: it is none; the text says what is wrong, and where in it.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg}") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    # Nearly always a parser's own way to write is how it was written, white space apart: then a part's text need not
    # be searched for.
    parts = _Written(value) if orjson.dumps(value) == compact(text) else _Searched(text)
    if "dynamodb" in value:
        return _long_form(value, parts)
    if "Keys" in value or "NewImage" in value or "OldImage" in value:
        return _short_form(value, parts)
    raise ValueError('it is no change: it has neither "dynamodb" nor "Keys"')


def _long_form(value: Mapping[str, Any], parts: _Parts) -> NewChange:
    if not isinstance(value["dynamodb"], dict):
        raise ValueError("its dynamodb is not a JSON object")
    name = value.get("eventName")
    if name not in EVENT_NAMES:
        raise ValueError(f"its eventName is one of {', '.join(EVENT_NAMES)}, not {shown(name)}")
    return _around(_change(name, value["dynamodb"], parts.inside("dynamodb")), value, parts)


def _around(change: NewChange, value: Mapping[str, Any], parts: _Parts) -> NewChange:
    """The change, with what either form says outside of Keys and images."""
    user = value.get("userIdentity")
    return change._replace(
        event_id=_text(value, "eventID"),
        event_version=_text(value, "eventVersion") or "1.1",
        user_identity=_user_identity(user, parts.text("userIdentity")) if user is not None else None,
    )


def _short_form(value: Mapping[str, Any], parts: _Parts) -> NewChange:
    new, old = (value.get(name) is not None for name in _IMAGES)
    name = value.get("eventName") or {(1, 0): "INSERT", (1, 1): "MODIFY", (0, 1): "REMOVE"}.get((new, old))
    if name is None:
        raise ValueError('it has neither "NewImage" nor "OldImage", so what happened is not known: add "eventName"')
    if name not in EVENT_NAMES:
        raise ValueError(f"its eventName is one of {', '.join(EVENT_NAMES)}, not {shown(name)}")
    return _around(_change(name, value, parts), value, parts)


def _change(name: str, value: Mapping[str, Any], parts: _Parts) -> NewChange:
    """Return the change that an object with Keys and images describes."""
    if value.get("Keys") is None:
        raise ValueError('it has no "Keys"')
    check_keys(value["Keys"], "Keys")
    images: list[bytes | None] = []
    for image in _IMAGES:
        if value.get(image) is None:
            images.append(None)
            continue
        check_item(value[image], image)
        for key, expected in value["Keys"].items():
            if not same_item({key: value[image].get(key)}, {key: expected}):
                raise ValueError(f"{image}.{key} is not the item's key: {shown(value[image].get(key))}")
        images.append(parts.text(image))
    if name == "INSERT" and images[1] is not None:
        raise ValueError('an INSERT has no "OldImage"')
    if name == "REMOVE" and images[0] is not None:
        raise ValueError('a REMOVE has no "NewImage"')
    view = value.get("StreamViewType", "NEW_AND_OLD_IMAGES")
    if view not in VIEW_TYPES:
        raise ValueError(f"its StreamViewType is one of {', '.join(VIEW_TYPES)}, not {shown(view)}")
    size = value.get("SizeBytes")
    if size is not None and (type(size) is not int or not 0 <= size < 2**63):
        raise ValueError(f"its SizeBytes is no number of bytes: {shown(size)}")
    created = value.get("ApproximateCreationDateTime")
    return NewChange(
        name,
        parts.text("Keys"),
        images[0],
        images[1],
        view,
        None,
        parse_seconds_ms(created) if created is not None else None,
        _sequence_number(value.get("SequenceNumber")),
        size,
    )


def _sequence_number(number: object) -> str | None:
    if number is None:
        return None
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) <= 129:
        return number
    raise ValueError(f"its SequenceNumber is 1 to 129 decimal digits, not {shown(number)}")


def _text(value: Mapping[str, Any], name: str) -> str | None:
    found = value.get(name)
    if found is None:
        return None
    if isinstance(found, str) and found.isascii() and found.isprintable() and 1 <= len(found) <= 128:
        return found
    raise ValueError(f"its {name} is 1 to 128 printable ASCII characters, not {shown(found)}")


def _user_identity(user: object, text: bytes) -> bytes:
    """Return it as Lambda events have it: GetRecords begins its names with capitals."""
    if not isinstance(user, dict):
        raise ValueError("its userIdentity is not a JSON object")
    if user.keys() == {"Type", "PrincipalId"}:
        return orjson.dumps({"type": user["Type"], "principalId": user["PrincipalId"]})
    return text


def viewed(change: NewChange, view_type: str) -> NewChange:
    """Return the change as a stream of that view type carries it: what it does not is gone from the size, too."""
    new = change.new_image if view_type in ("NEW_IMAGE", "NEW_AND_OLD_IMAGES") else None
    old = change.old_image if view_type in ("OLD_IMAGE", "NEW_AND_OLD_IMAGES") else None
    kept = new is change.new_image and old is change.old_image
    return change._replace(
        new_image=new,
        old_image=old,
        stream_view_type=view_type,
        size_bytes=change.size_bytes if kept else None,
    )


def changes_nothing(change: NewChange) -> bool:
    """Whether a write left its item as it was: DynamoDB makes no record of that."""
    if change.event_name != "MODIFY" or change.new_image is None or change.old_image is None:
        return False
    return same_item(orjson.loads(change.new_image), orjson.loads(change.old_image))


def get_records_json(change: Change, region: str, shard_id: str | None = None) -> bytes:
    """Return a change as GetRecords of DynamoDB Streams answers it, as JSON; times are seconds since 1970.

    With `shard_id` there is one key more, as nothing else would say it.
    """
    dynamodb: dict[str, object] = {
        "ApproximateCreationDateTime": change.creation_ms / 1000,
        "Keys": orjson.Fragment(change.keys),
    }
    if change.new_image is not None:
        dynamodb["NewImage"] = orjson.Fragment(change.new_image)
    if change.old_image is not None:
        dynamodb["OldImage"] = orjson.Fragment(change.old_image)
    dynamodb |= {
        "SequenceNumber": change.sequence_number,
        "SizeBytes": change.size_bytes,
        "StreamViewType": change.stream_view_type,
    }
    record: dict[str, object] = {
        "eventID": change.event_id,
        "eventName": change.event_name,
        "eventVersion": change.event_version,
        "eventSource": "aws:dynamodb",
        "awsRegion": region,
        "dynamodb": dynamodb,
    }
    if change.user_identity is not None:
        record["userIdentity"] = _get_records_user(change.user_identity)
    if shard_id is not None:
        record["ShardId"] = shard_id
    return orjson.dumps(record)


def _get_records_user(text: bytes) -> object:
    user = orjson.loads(text)
    if isinstance(user, dict) and user.keys() == {"type", "principalId"}:
        return {"PrincipalId": user["principalId"], "Type": user["type"]}
    return orjson.Fragment(text)


def compact(text: bytes) -> bytes:
    """Return JSON without the white space between its tokens."""
    if not any(blank in text for blank in (b" ", b"\t", b"\r", b"\n")):
        return text
    return _BLANKS.sub(lambda found: found[1] or b"", text)


def members(text: bytes) -> dict[str, bytes]:
    """Return the text of each member's value of an object, which must be valid JSON; the last of equal names."""
    return dict(_members(text))


def elements(text: bytes) -> list[bytes]:
    """Return the text of each element of an array, which must be valid JSON."""
    found = []
    at = _end(_BLANK, text, _end(_BLANK, text, 0) + 1)
    while text[at] != 0x5D:  # ]
        end = value_end(text, at)
        found.append(text[at:end])
        at = _end(_BLANK, text, end)
        if text[at] == 0x2C:  # ,
            at = _end(_BLANK, text, at + 1)
    return found


def _members(text: bytes) -> Iterator[tuple[str, bytes]]:
    at = _end(_BLANK, text, _end(_BLANK, text, 0) + 1)
    while text[at] != 0x7D:  # }
        key_end = _end(_STRING, text, at)
        name = orjson.loads(text[at:key_end])
        start = _end(_BLANK, text, _end(_BLANK, text, key_end) + 1)
        end = value_end(text, start)
        yield name, text[start:end]
        at = _end(_BLANK, text, end)
        if text[at] == 0x2C:  # ,
            at = _end(_BLANK, text, at + 1)


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at)
    assert found is not None, "the text is not JSON"
    return found.end()
