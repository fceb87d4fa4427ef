"""What a handler returned, as bytes: what AWS's Python runtime client (awslambdaric) would have posted.

The client encodes with simplejson.  Beyond the standard library's json that means: whatever has `_asdict` is
an object (named tuples), bytes inside are UTF-8 text, a Decimal is its digits; bytes as the whole response
are passed on as they are; and from Python 3.12 on nothing is escaped for not being ASCII.

Three ways to the same bytes, from fast to general: constants for what stream handlers mostly return; the
standard encoder, written in C, for trees of exactly the built-in types; and a plain encoder here that follows
simplejson's rules.
"""

from __future__ import annotations

import json
import marshal as python_marshal
import math
import sys
from decimal import Decimal
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any

ASCII_ONLY = sys.version_info < (3, 12)

_NO_FAILURES = b'{"batchItemFailures": []}'


class MarshalError(Exception):
    """The response cannot be written as JSON.  The text is Lambda's: "Unable to marshal response: ..."."""


def marshal(result: object, *, ascii_only: bool = ASCII_ONLY) -> bytes:
    """Return the response's bytes.

    Args:
        result: what the handler returned.  Its own methods may be called (`_asdict`, `items`, `__str__`).
        ascii_only: escape what is not ASCII, as the client does for this Python's runtime.

    Raises:
        MarshalError: it has no JSON form: a type that JSON does not know, a cycle, too deep, a lone surrogate
            that would not be escaped, or a method of its own raised.
    """
    kind = type(result)
    if result is None:
        return b"null"
    if kind is bool:
        return b"true" if result else b"false"
    if kind is dict and _says_no_failures(result):
        return _NO_FAILURES
    if isinstance(result, bytes):
        return bytes(result)
    try:
        return _encode(result, ascii_only).encode()
    except Exception as error:  # methods of the handler's own objects ran, and may raise anything
        raise MarshalError(f"Unable to marshal response: {_text(error)}") from error


def _says_no_failures(result: Any) -> bool:
    if len(result) != 1:
        return False
    failures = result.get("batchItemFailures")
    return type(failures) is list and not failures


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # the handler's own exception class
        return type(error).__name__


def _encode(value: Any, ascii_only: bool) -> str:
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is str:
        return encode_basestring_ascii(value) if ascii_only else encode_basestring(value)
    try:
        # Proves, at the speed of C, that the tree is finite and of built-in types themselves: marshal refuses
        # their subclasses (a named tuple must not be taken for a tuple) and what is nested over 2,000 deep
        # (so, every cycle).
        python_marshal.dumps(value)
        return (_ASCII if ascii_only else _UNICODE).encode(value)
    except (ValueError, TypeError, RecursionError):
        return _Writer(ascii_only).write(value)


def _default(value: object) -> object:
    if isinstance(value, bytes):
        return str(value, "utf-8")
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_ASCII = json.JSONEncoder(check_circular=False, ensure_ascii=True, default=_default)
_UNICODE = json.JSONEncoder(check_circular=False, ensure_ascii=False, default=_default)


class _Writer:
    """simplejson's rules, as plainly as possible.  One frame a level, so that it goes about as deep."""

    def __init__(self, ascii_only: bool) -> None:
        self._string = encode_basestring_ascii if ascii_only else encode_basestring
        self._open: set[int] = set()

    def write(self, value: Any) -> str:
        """Return the JSON of `value`; raises what simplejson raises, with its text."""
        scalar = self._scalar(value)
        if scalar is not None:
            return scalar
        if id(value) in self._open:
            raise ValueError("Circular reference detected")
        self._open.add(id(value))
        members = _members(value)
        if isinstance(members, dict):
            pairs = [f"{self._string(_key(key))}: {self.write(item)}" for key, item in members.items()]
            text = "{" + ", ".join(pairs) + "}"
        elif isinstance(members, list | tuple):
            text = "[" + ", ".join([self.write(item) for item in members]) + "]"
        else:
            raise TypeError(f"Object of type {value.__class__.__name__} is not JSON serializable")
        self._open.discard(id(value))
        return text

    def _scalar(self, value: Any) -> str | None:
        if isinstance(value, str):
            return self._string(value)
        if isinstance(value, bytes):
            return self._string(str(value, "utf-8"))
        if value is None:
            return "null"
        if value is True or value is False:
            return "true" if value else "false"
        if isinstance(value, int):
            return str(int(value))
        if isinstance(value, float):
            return _float(value)
        if isinstance(value, Decimal) and not callable(getattr(value, "_asdict", None)):
            return "NaN" if value.is_nan() else str(value)
        return None


def _members(value: Any) -> Any:
    """What stands for a container: the dict that `_asdict` gives if there is one, or the value itself."""
    as_dict = getattr(value, "_asdict", None)
    if not callable(as_dict):
        return value
    try:
        members = as_dict()
    except TypeError:  # a class, say, whose method lacks its self: simplejson then takes the value as it is
        return value
    if not isinstance(members, dict):
        raise TypeError(f"_asdict() must return a dict, not {type(members).__name__}")
    return members


def _float(value: float) -> str:
    exact = float(value)
    if math.isnan(exact):
        return "NaN"
    if math.isinf(exact):
        return "Infinity" if exact > 0 else "-Infinity"
    return repr(exact)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        return str(key, "utf-8")
    if isinstance(key, float):
        return _float(key)
    if key is True or key is False:
        return "true" if key else "false"
    if key is None:
        return "null"
    if isinstance(key, int):
        return str(int(key))
    raise TypeError(f"keys must be str, int, float, bool or None, not {key.__class__.__name__}")
