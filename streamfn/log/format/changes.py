"""DynamoDB change records on their way into a message: checked, measured as DynamoDB measures, and filled up."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any

from streamfn import limits
from streamfn._native import lib
from streamfn.errors import RefusedError
from streamfn.log.format.batch import Rows, Values, assemble, check_sequence_number, require_rising
from streamfn.log.format.layout import DYNAMODB
from streamfn.types import NewChange

# More than DynamoDB's 38 digits, so that nothing is rounded.
_EXACT = Context(prec=80)
EVENT_NAMES = ("INSERT", "MODIFY", "REMOVE")
VIEW_TYPES = ("KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES")


def from_changes(changes: Sequence[NewChange], creation_ms: int) -> Iterable[Rows]:
    """Cut change records into messages; those without a creation time get `creation_ms`.

    An event id and the size are made where they are not given.  Everything is checked before the first message
    is given out.

    Raises:
        RefusedError: a change breaks a limit or is not one, or captured sequence numbers do not rise.
    """
    for change in changes:
        check_change(change)
    numbers = [change.sequence_number for change in changes if change.sequence_number is not None]
    if numbers:
        require_rising(numbers, len(changes))
    columns: list[Values] = [
        [(change.event_id or secrets.token_hex(16)).encode() for change in changes],
        [change.event_name.encode() for change in changes],
        [change.event_version.encode() for change in changes],
        [number.encode() for number in numbers] if numbers else None,
        [creation_ms if change.creation_ms is None else change.creation_ms for change in changes],
        [change.keys for change in changes],
        [change.new_image for change in changes],
        [change.old_image for change in changes],
        [size_bytes(change) if change.size_bytes is None else change.size_bytes for change in changes],
        [change.stream_view_type.encode() for change in changes],
        [change.user_identity for change in changes],
    ]
    return assemble(DYNAMODB, len(changes), columns, numbers)


def check_change(change: NewChange) -> None:
    """Raise RefusedError, saying why, where a change record is not one or breaks a limit.

    That its keys and images are DynamoDB JSON is checked where they are parsed, not here.
    """
    if change.event_name not in EVENT_NAMES:
        raise RefusedError(f"a change's event name is one of {', '.join(EVENT_NAMES)}, not {change.event_name!r}")
    if change.stream_view_type not in VIEW_TYPES:
        raise RefusedError(
            f"a stream view type is one of {', '.join(VIEW_TYPES)}, not {change.stream_view_type!r}"
        )
    for what, text in (("event id", change.event_id), ("event version", change.event_version)):
        if text is not None and not (text.isascii() and text.isprintable() and 1 <= len(text) <= 128):
            raise RefusedError(f"a change's {what} is 1 to 128 printable ASCII characters, not {text[:140]!r}")
    documents = (change.keys, change.new_image, change.old_image, change.user_identity)
    for what, document in zip(("keys", "new image", "old image", "user identity"), documents, strict=True):
        if document is not None:
            _check_document(document, what)
    size = sum(len(document) for document in documents if document is not None)
    if size > limits.CHANGE_BYTES_MAX:
        raise RefusedError(
            f"a change's keys and images have at most {limits.CHANGE_BYTES_MAX} bytes of JSON, not {size}"
        )
    if change.creation_ms is not None and not 0 <= change.creation_ms <= limits.ARRIVAL_MS_MAX:
        raise RefusedError(f"creation time {change.creation_ms} ms is not between 1970 and the end of year 9999")
    if change.size_bytes is not None and not 0 <= change.size_bytes < 2**63:
        raise RefusedError(f"a change's size is 0 or more and below 2**63, not {change.size_bytes}")
    if change.sequence_number is not None:
        check_sequence_number(change.sequence_number)


def _check_document(document: bytes, what: str) -> None:
    """Raise RefusedError unless it is a JSON object that every parser reads."""
    length = lib.sf_json_length(document, len(document))
    try:
        document.decode()
        if length == lib.SF_JSON_ODD:
            value = json.loads(document, parse_constant=_no_constant)
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        length = lib.SF_JSON_BROKEN
    if length == lib.SF_JSON_BROKEN or not document.startswith(b"{"):
        raise RefusedError(f"a change's {what} is not a JSON object in UTF-8: {document[:100]!r}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def size_bytes(change: NewChange) -> int:
    """Return DynamoDB's SizeBytes: the sizes of keys, new and old image.

    Raises:
        RefusedError: one of them is not DynamoDB JSON.
    """
    try:
        return sum(
            item_bytes(json.loads(document))
            for document in (change.keys, change.new_image, change.old_image)
            if document is not None
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RefusedError(f"keys and images must be DynamoDB JSON, {{name: {{type: value}}}}: {error!r}") from error


@lru_cache(maxsize=16_384)
def item_key(keys: bytes) -> str:
    """Return the same text for all spellings of an item's key: its changes all go to one shard.

    Attributes in any order, numbers by value ("1", "1.0"), text with or without escapes.
    """
    try:
        item = json.loads(keys)
        attributes = sorted((name, *next(iter(value.items()))) for name, value in item.items())
        return json.dumps([(name, kind, _number(text) if kind == "N" else text) for name, kind, text in attributes])
    except (ValueError, TypeError, AttributeError, ArithmeticError, StopIteration):
        return keys.decode("utf-8", "replace")  # no key of DynamoDB's


def _number(text: str) -> str:
    value = Decimal(text)
    return str(value.normalize(_EXACT)) if value else "0"


def item_bytes(item: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the size of an item, as DynamoDB counts it: names in UTF-8, and values."""
    return sum(len(name.encode("utf-8", "surrogatepass")) + value_bytes(value) for name, value in item.items())


def value_bytes(value: Mapping[str, Any]) -> int:
    """Return the size of one attribute value, {type: value}.

    Text counts its UTF-8 bytes, a number a byte for every two of its digits and one more, binary its raw bytes, null
    and booleans 1; a set the sum of its elements; a list or map 3, and 1 for each element beside its contents.
    """
    ((kind, content),) = value.items()
    if kind == "S":
        return len(content.encode("utf-8", "surrogatepass"))
    if kind == "N":
        return number_bytes(content)
    if kind == "B":
        return binary_bytes(content)
    if kind in ("NULL", "BOOL"):
        return 1
    if kind == "L":
        return 3 + sum(1 + value_bytes(element) for element in content)
    if kind == "M":
        return 3 + len(content) + item_bytes(content)
    if kind in ("SS", "NS", "BS"):
        return sum(value_bytes({kind[0]: element}) for element in content)
    raise KeyError(f"attribute type {kind!r}")


def binary_bytes(text: str) -> int:
    """Return how many bytes base64 stands for."""
    return len(text) * 3 // 4 - text[-2:].count("=")


def number_bytes(text: str) -> int:
    """Return the size of a number: its significant digits, two a byte, and 1; a sign is 1 more."""
    mantissa = text.lower().partition("e")[0]
    digits = mantissa.lstrip("+-").replace(".", "").strip("0")
    return (len(digits) + 1) // 2 + 1 + mantissa.startswith("-")
