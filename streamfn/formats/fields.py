"""What an import takes out of each record: its partition key and its arrival time.

A field is named as it stands in the record, or as a path with dots: `customer.id` is the member
`customer.id` where there is one, else the member `id` of the member `customer`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import md5
from typing import TypeAlias

from streamfn.formats.times import parse_time_ms
from streamfn.limits import PARTITION_KEY_CHARS_MAX

KeyOf: TypeAlias = Callable[[bytes, object], str]
"""From a record's bytes and its parsed value to its partition key; ValueError says what is wrong."""

TimeOf: TypeAlias = Callable[[object], int]
"""From a record's parsed value to milliseconds since 1970, UTC; ValueError says what is wrong."""


def field(value: object, name: str) -> object:
    """Return the field of that name.

    Raises:
        ValueError: there is none, or it is null.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"it is not an object, so it has no field {name!r}")
    found = value.get(name)
    if found is None and "." in name:
        found = value
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if found is None:
        raise ValueError(f"it has no field {name!r}")
    return found


def data_key(data: bytes) -> str:
    """Return the key of a record that has none of its own: the hexadecimal MD5 of its data."""
    return md5(data, usedforsecurity=False).hexdigest()


def key_of(name: str | None) -> KeyOf:
    """Return how to find a record's partition key: in its field `name`, or (None) from its data."""
    if name is None:
        return lambda data, value: data_key(data)

    def from_field(data: bytes, value: object) -> str:
        found = field(value, name)
        if isinstance(found, str):
            key = found
        elif isinstance(found, float):
            key = _number_as_written(data, name)
        elif isinstance(found, bool | int):
            key = json.dumps(found)
        else:
            raise ValueError(f"field {name!r} is not a string, a number or a boolean")
        return checked_key(key, f"field {name!r}")

    return from_field


def time_of(name: str) -> TimeOf:
    """Return how to find a record's arrival time: in its field `name`."""

    def from_field(value: object) -> int:
        try:
            return parse_time_ms(field(value, name))
        except ValueError as error:
            raise ValueError(f"field {name!r}: {error}") from None

    return from_field


def checked_key(key: str, what: str) -> str:
    """Return `key` if Kinesis would take it as a partition key.

    Raises:
        ValueError: it is empty, too long, or not text.
    """
    if not 1 <= len(key) <= PARTITION_KEY_CHARS_MAX:
        raise ValueError(
            f"{what} has {len(key)} characters; a partition key has 1 to {PARTITION_KEY_CHARS_MAX}"
        )
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{what} is not valid Unicode text") from None
    return key


def _number_as_written(data: bytes, name: str) -> str:
    """Return the number's own digits: as a float, integers beyond 64 bits would all look alike."""
    return str(field(json.loads(data, parse_float=str, parse_int=str), name))
