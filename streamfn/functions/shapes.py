"""Requests as structures: which members there are, and of what type.

Checked as botocore does it before it sends a request, in its words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from streamfn.errors import RefusedError

Shape = object  # str, int, bool, float (a time), a dict of members, a one-item list of what it holds, or OTHER

OTHER = object()  # known to Lambda, and not for streams: refused by name

_TYPES = {str: "<class 'str'>", int: "<class 'int'>", bool: "<class 'bool'>"}
_TIME_TYPES = "<class 'datetime.datetime'>, timestamp-string"


def check(request: Mapping[str, Any], shapes: Mapping[str, Shape], required: str = "") -> None:
    """Refuse a request whose parameters are unknown, missing or of the wrong type.

    Raises:
        RefusedError: with everything that is wrong, in botocore's words.
    """
    wrong = [] if not required or required in request else [f'Missing required parameter in input: "{required}"']
    wrong += list(_structure("input", "", request, shapes))
    if wrong:
        raise RefusedError("Parameter validation failed: " + "; ".join(wrong))


def _structure(what: str, path: str, value: Any, shapes: Mapping[str, Shape]) -> Iterator[str]:
    for name, member in value.items():
        if name not in shapes:
            yield f'Unknown parameter in {what}: "{name}", must be one of: {", ".join(shapes)}'
        else:
            yield from _member(f"{path}.{name}" if path else name, member, shapes[name])


def _member(path: str, value: Any, shape: Shape) -> Iterator[str]:
    if shape is OTHER:
        return
    if isinstance(shape, dict):
        if not isinstance(value, Mapping):
            yield _wrong(path, value, "<class 'dict'>")
        elif shape:
            yield from _structure(path, path, value, shape)
        else:
            for key, member in value.items():
                yield from _member(f"{path} (key: {key})", key, str)
                yield from _member(f"{path}.{key}", member, str)
    elif isinstance(shape, list):
        if not isinstance(value, list | tuple):
            yield _wrong(path, value, "<class 'list'>, <class 'tuple'>")
            return
        for index, member in enumerate(value):
            yield from _member(f"{path}[{index}]", member, shape[0])
    elif shape is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield _wrong(path, value, _TIME_TYPES)
    elif not isinstance(value, shape) or (shape is int and isinstance(value, bool)):  # type: ignore[arg-type]
        yield _wrong(path, value, _TYPES[shape])  # type: ignore[index]


def _wrong(path: str, value: Any, valid: str) -> str:
    return f"Invalid type for parameter {path}, value: {value}, type: {type(value)}, valid types: {valid}"
