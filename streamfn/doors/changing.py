"""What a program gives as a DynamoDB change, made into a record of one."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import orjson

from streamfn.errors import RefusedError
from streamfn.formats.changes import VIEW_TYPES, changes_nothing, parse_change, viewed
from streamfn.types import NewChange

ChangeDocument: TypeAlias = Mapping[str, Any] | bytes | str
ViewType: TypeAlias = Literal["KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES"]


def new_change(change: NewChange | ChangeDocument, view_type: str | None) -> NewChange | None:
    """Return the record of a change as a stream of that view carries it, or None if it changes nothing.

    A sequence number it may have is that of another stream, and is dropped.

    Raises:
        RefusedError: it is no change, or there is no such view.
    """
    if view_type is not None and view_type not in VIEW_TYPES:
        raise RefusedError(f"a stream view type is one of {', '.join(VIEW_TYPES)}, not {view_type!r}")
    try:
        made = change if isinstance(change, NewChange) else parse_change(_text(change))
        if changes_nothing(made):
            return None
    except ValueError as error:
        raise RefusedError(f"this is no DynamoDB change: {error}") from None
    if view_type is not None:
        made = viewed(made, view_type)
    return made._replace(sequence_number=None)


def _text(change: object) -> bytes:
    if isinstance(change, str):
        return change.encode("utf-8", "surrogatepass")  # what is no Unicode is no JSON, and refused as such
    if isinstance(change, bytes | bytearray | memoryview):
        return bytes(change)
    try:
        return orjson.dumps(change, default=_binary)
    except TypeError as error:
        raise ValueError(f"it cannot be written as JSON: {error}") from None


def _binary(value: object) -> str:
    """Return the base64 of an attribute's bytes: the SDK gives and takes them raw."""
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    raise TypeError(f"{value!r} is no value of DynamoDB JSON")
