"""DynamoDB JSON: items as maps of attribute values, {name: {type: value}}, and what is wrong with one.

    {"S": "text"}  {"N": "4.50"}  {"B": "base64"}  {"BOOL": true}  {"NULL": true}
    {"L": [value, ...]}  {"M": {name: value, ...}}  {"SS": [...]}  {"NS": [...]}  {"BS": [...]}
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson

TYPES = ("S", "N", "B", "BOOL", "NULL", "L", "M", "SS", "NS", "BS")
KEY_TYPES = ("S", "N", "B")
# DynamoDB's own: digits of a number, and how deep lists and maps may lie in each other.
DIGITS_MAX = 38
DEPTH_MAX = 32
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def check_keys(keys: object, where: str) -> None:
    """Raise ValueError unless `keys` is the key of an item: one or two attributes of text, number or binary."""
    check_item(keys, where)
    assert isinstance(keys, Mapping)
    if not 1 <= len(keys) <= 2:
        raise ValueError(f"{where} is a partition key and perhaps a sort key, not {len(keys)} attributes")
    for name, value in keys.items():
        kind, content = next(iter(value.items()))
        if kind not in KEY_TYPES:
            raise ValueError(f"{where}.{name} is of type {kind}; a key is S, N or B")
        if content == "":
            raise ValueError(f"{where}.{name} is empty; a key is not")


def check_item(item: object, where: str) -> None:
    """Raise ValueError, naming the attribute by its path, unless `item` is DynamoDB JSON."""
    if not isinstance(item, dict):
        raise ValueError(f"{where} is not a JSON object of attributes: {shown(item)}")
    _check_attributes(item, where, 1)


def _check_attributes(item: Mapping[str, Any], where: str, depth: int) -> None:
    for name, value in item.items():
        _check_value(value, f"{where}.{name}", depth)


def _check_value(value: object, where: str, depth: int) -> None:
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f'{where} is not an attribute value such as {{"S": "text"}}: {shown(value)}')
    ((kind, content),) = value.items()
    if depth > DEPTH_MAX:
        raise ValueError(f"{where} lies more than {DEPTH_MAX} lists and maps deep")
    if kind == "M":
        if not isinstance(content, dict):
            raise ValueError(f"{where}.M is a JSON object, not {shown(content)}")
        _check_attributes(content, where, depth + 1)
    elif kind == "L":
        if not isinstance(content, list):
            raise ValueError(f"{where}.L is an array, not {shown(content)}")
        for number, element in enumerate(content):
            _check_value(element, f"{where}[{number}]", depth + 1)
    elif kind in ("SS", "NS", "BS"):
        _check_set(content, kind, where)
    elif kind in TYPES:
        _check_scalar(content, kind, where)
    else:
        raise ValueError(f"{where} has type {shown(kind)}; attribute types are {', '.join(TYPES)}")


def _check_set(content: object, kind: str, where: str) -> None:
    if not isinstance(content, list) or not content:
        raise ValueError(f"{where}.{kind} is an array of at least one element, not {shown(content)}")
    for element in content:
        _check_scalar(element, kind[0], where)
    if len({_scalar(element, kind[0]) for element in content}) != len(content):
        raise ValueError(f"{where}.{kind} has an element twice: {shown(content)}")


def _check_scalar(content: object, kind: str, where: str) -> None:
    if kind == "BOOL":
        if not isinstance(content, bool):
            raise ValueError(f"{where}.BOOL is true or false, not {shown(content)}")
    elif kind == "NULL":
        if content is not True:
            raise ValueError(f"{where}.NULL is true, not {shown(content)}")
    elif not isinstance(content, str):
        example = ', such as {"N": "4.5"}' if kind == "N" else ""
        raise ValueError(f"{where}.{kind} is a JSON string{example}, not {shown(content)}")
    elif kind == "N":
        _check_number(content, where)
    elif kind == "B":
        try:
            binascii.a2b_base64(content, strict_mode=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"{where}.B is not base64: {error}") from None


def _check_number(text: str, where: str) -> None:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{where}.N is not a number: {shown(text)}")
    digits = text.lower().partition("e")[0].lstrip("+-").replace(".", "").strip("0")
    if len(digits) > DIGITS_MAX:
        raise ValueError(f"{where}.N has {len(digits)} digits; DynamoDB keeps {DIGITS_MAX}")


def same_item(one: object, other: object) -> bool:
    """Whether two items are equal to DynamoDB: numbers by value, sets and maps in any order."""
    return _normal(one) == _normal(other)


def _normal(value: object) -> object:
    """Return an item, or anything in one, in a form that is equal where DynamoDB says so."""
    if not isinstance(value, dict):
        return value
    return {name: _normal_value(attribute) for name, attribute in value.items()}


def _normal_value(value: object) -> object:
    if not isinstance(value, dict) or len(value) != 1:
        return value
    ((kind, content),) = value.items()
    if kind == "M":
        return kind, _normal(content)
    if kind == "L":
        return kind, [_normal_value(element) for element in content]
    if kind in ("SS", "NS", "BS"):
        return kind, {_scalar(element, kind[0]) for element in content}
    return kind, _scalar(content, kind)


def _scalar(content: Any, kind: str) -> Any:
    return Decimal(content) if kind == "N" else content


def shown(value: object) -> str:
    """Return a value as JSON, cut to a length that fits an error."""
    text = orjson.dumps(value, default=repr).decode()
    return text if len(text) <= 100 else text[:97] + "..."
