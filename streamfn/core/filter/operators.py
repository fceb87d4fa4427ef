"""The match expressions of a filter pattern: `{"prefix": "a"}` into a test of one value.

A test is given a JSON scalar: text, number, boolean or None. Arrays, objects and missing fields are not its business.
Semantics are those recorded from EventBridge; where nothing is recorded, it is said.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

Test = Callable[[Any], bool]

NUMERIC_OPERATORS = ("=", "<", "<=", ">", ">=")
# Names that are operators: inside `$or` they are no field names.
reserved = frozenset(
    {"exactly", "prefix", "suffix", "equals-ignore-case", "wildcard", "numeric", "anything-but", "exists", "cidr"}
    | set(NUMERIC_OPERATORS)
)

# The service refuses rules as too complex by a measure that it does not publish: six wildcards in one value were
# refused, two were taken. The limit is ours.
WILDCARDS_MAX = 5

_INT64 = range(-(2**63), 2**64)


class Bad(Exception):
    """A match expression is refused; the text is event-ruler's reason."""


def anything(value: Any) -> bool:
    """Pass every value there is: `{"exists": true}`."""
    return True


def one_of(literals: Iterable[Any]) -> Test:
    """Return the test for plain values: texts and booleans as they are, numbers by value, null for null only."""
    texts = frozenset(each for each in literals if isinstance(each, str))
    numbers = frozenset(number(each) for each in literals if _is_number(each))
    others = [each for each in literals if each is None or isinstance(each, bool)]
    if not numbers and not others:
        return lambda value: value in texts

    def test(value: Any) -> bool:
        kind = type(value)
        if kind is str:
            return value in texts
        if kind is int or kind is float:
            return value in numbers
        return any(value is each for each in others)

    return test


def number(value: int | float) -> int | float:
    """Return the number as a parser of 64-bit integers reads it: what is larger is a double."""
    return value if isinstance(value, float) or value in _INT64 else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def test_of(operator: str, argument: Any) -> Test:
    """Return the test of a match expression (all but `exists` and `exactly`).

    Raises:
        Bad: there is no such operator, or not with this argument.
    """
    make = _OPERATORS.get(operator)
    if make is None:
        raise Bad(f"Unrecognized match type {operator}")
    return make(argument)


# ---- text


def _text(argument: Any, operator: str) -> str:
    if not isinstance(argument, str):
        raise Bad(f"{operator} match pattern must be a string")
    return argument


def _folded(argument: Any, operator: str) -> tuple[str, bool]:
    """Return the text of `prefix` or `suffix`, and whether case counts not."""
    if isinstance(argument, dict) and list(argument) == ["equals-ignore-case"]:
        return _text(argument["equals-ignore-case"], operator).lower(), True
    return _text(argument, operator), False


def _prefix(argument: Any) -> Test:
    text, fold = _folded(argument, "prefix")
    if fold:
        return lambda value: type(value) is str and value.lower().startswith(text)
    return lambda value: type(value) is str and value.startswith(text)


def _suffix(argument: Any) -> Test:
    text, fold = _folded(argument, "suffix")
    if fold:
        return lambda value: type(value) is str and value.lower().endswith(text)
    return lambda value: type(value) is str and value.endswith(text)


def _ignore_case(argument: Any) -> Test:
    text = _text(argument, "equals-ignore-case").lower()
    return lambda value: type(value) is str and value.lower() == text


def _wildcard(argument: Any) -> Test:
    parts = _wildcard_parts(_text(argument, "wildcard"))
    if parts == [""]:
        return lambda value: False  # an empty one is allowed, and matches nothing
    if len(parts) == 1:
        (text,) = parts
        return lambda value: type(value) is str and value == text
    first, *middle, last = parts
    least = len(first) + len(last)

    def test(value: Any) -> bool:
        if type(value) is not str or len(value) < least or not value.startswith(first) or not value.endswith(last):
            return False
        at, end = len(first), len(value) - len(last)
        for part in middle:
            at = value.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return test


def _wildcard_parts(text: str) -> list[str]:
    """Return what stands between the wildcards. Positions in the reasons count from the quote before the text."""
    parts, part, at = [], "", 0
    while at < len(text):
        character = text[at]
        if character == "\\":
            if text[at + 1 : at + 2] not in ("*", "\\") or at + 1 == len(text):
                raise Bad(f"Invalid escape character at pos {at + 1}")
            part += text[at + 1]
            at += 1
        elif character == "*":
            if text[at + 1 : at + 2] == "*":
                raise Bad(f"Consecutive wildcard characters at pos {at + 1}")
            parts.append(part)
            part = ""
        else:
            part += character
        at += 1
    parts.append(part)
    if len(parts) - 1 > WILDCARDS_MAX:
        raise Bad(
            "Rule is too complex - try using fewer wildcard characters or fewer repeating character sequences after a "
            "wildcard character"
        )
    return parts


# ---- numbers


def _numeric(argument: Any) -> Test:
    if not isinstance(argument, list):
        raise Bad("Value of numeric must be an array.")
    if not argument or not isinstance(argument[0], str):
        raise Bad(f"Invalid member in numeric match: {argument[0] if argument else ']'}")
    operator, bound = argument[0], _bound(argument, 0)
    if operator not in NUMERIC_OPERATORS:
        raise Bad(f"Unrecognized numeric range operator: {operator}")
    if len(argument) == 2:
        return _compared(operator, bound)
    if operator not in (">", ">="):
        raise Bad("Too many elements in numeric expression")
    upper = argument[2]
    if not isinstance(upper, str):
        raise Bad(f"Bad value in numeric range: {upper}")
    if upper not in ("<", "<="):
        raise Bad(f"Bad numeric range operator: {upper}")
    top = _bound(argument, 2)
    if len(argument) > 4:
        raise Bad("Too many terms in numeric range expression")
    if bound >= top:
        raise Bad("Bottom must be less than top")
    above, below = _compared(operator, bound), _compared(upper, top)
    return lambda value: above(value) and below(value)


def _bound(argument: list[Any], at: int) -> int | float:
    operator = argument[at]
    if operator in NUMERIC_OPERATORS and (len(argument) <= at + 1 or not _is_number(argument[at + 1])):
        raise Bad(f"Value of {operator} must be numeric")
    return number(argument[at + 1]) if operator in NUMERIC_OPERATORS else 0


def _compared(operator: str, bound: int | float) -> Test:
    # A boolean is an int to Python, so the type is compared, not the class.
    if operator == "=":
        return lambda value: (type(value) is int or type(value) is float) and value == bound
    if operator == "<":
        return lambda value: (type(value) is int or type(value) is float) and value < bound
    if operator == "<=":
        return lambda value: (type(value) is int or type(value) is float) and value <= bound
    if operator == ">":
        return lambda value: (type(value) is int or type(value) is float) and value > bound
    return lambda value: (type(value) is int or type(value) is float) and value >= bound


# ---- addresses


def _cidr(argument: Any) -> Test:
    if not isinstance(argument, str):
        raise Bad("prefix match pattern must be a string")  # what is recorded, word for word
    address_text, slash, bits_text = argument.partition("/")
    if not slash or "/" in bits_text:
        raise Bad("Malformed CIDR, one '/' required")
    if not (bits_text.isascii() and bits_text.isdigit()):
        raise Bad("Malformed CIDR, mask bits must be an integer")
    address = _address(address_text)
    if address is None:
        raise Bad(f"Nonstandard IP address: {address_text}")
    bits = int(bits_text)
    if bits > address.max_prefixlen:
        raise Bad(f"IPv{address.version} mask bits must be in range 0-{address.max_prefixlen}")
    shift = address.max_prefixlen - bits
    version, network = address.version, int(address) >> shift

    def test(value: Any) -> bool:
        found = _address(value) if type(value) is str else None
        return found is not None and found.version == version and int(found) >> shift == network

    return test


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


# ---- anything-but


def _anything_but(argument: Any) -> Test:
    """Return the test that is passed by every value, whatever its type, that is not named."""
    if isinstance(argument, dict):
        return _anything_but_like(argument)
    if isinstance(argument, list):
        if any(each is None or isinstance(each, (bool, list, dict)) for each in argument):
            raise Bad("Inside anything but list, start|null|boolean is not supported.")
        if len({isinstance(each, str) for each in argument}) != 1:
            raise Bad("Inside anything but list, either all values are number or string, mixed type is not supported")
        named = one_of(argument)
    elif isinstance(argument, str) or _is_number(argument):
        named = one_of([argument])
    else:
        raise Bad("Value of anything-but must be an array or single string/number value.")
    return lambda value: not named(value)


def _anything_but_like(argument: dict[str, Any]) -> Test:
    if len(argument) != 1:
        raise Bad("Only one key allowed in match expression" if argument else "Anything-But expression name not found")
    ((operator, texts),) = argument.items()
    if operator not in ("prefix", "suffix", "equals-ignore-case", "wildcard"):
        raise Bad(f"Unsupported anything-but pattern: {operator}")
    if isinstance(texts, dict):
        raise Bad("Value of anything-but must be an array or single string/number value.")
    listed = texts if isinstance(texts, list) else [texts]
    if not all(isinstance(each, str) for each in listed):
        raise Bad(_not_text(operator, isinstance(texts, list)))
    if not listed:
        raise Bad("Empty arrays are not allowed")
    if operator in ("prefix", "suffix") and "" in listed:
        raise Bad("Null prefix/suffix not allowed")
    tests = [test_of(operator, each) for each in listed]
    if len(tests) == 1:
        (only,) = tests
        return lambda value: not only(value)
    return lambda value: not any(test(value) for test in tests)


def _not_text(operator: str, in_list: bool) -> str:
    if operator in ("prefix", "suffix"):
        return "prefix/suffix match pattern must be a string"
    if operator == "wildcard" and not in_list:
        return "wildcard match pattern must be a string"
    return f"Inside anything-but/{operator} list, number|start|null|boolean is not supported."


_OPERATORS: dict[str, Callable[[Any], Test]] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "equals-ignore-case": _ignore_case,
    "wildcard": _wildcard,
    "numeric": _numeric,
    "cidr": _cidr,
    "anything-but": _anything_but,
}
