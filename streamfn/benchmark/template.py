"""Templates of JSON records, with fields that are filled in anew for every record.

    {"id": "{{uuid}}", "customer": {{int 1 500}}, "city": {{choice Oslo "New York"}}, "at": "{{now}}"}

    {{seq [FIRST]}}          0, 1, 2, ..., or from FIRST on
    {{uuid}}                 a random UUID
    {{int A B}}              an integer from A to B
    {{float A B [DIGITS]}}   a number from A to B with so many digits behind the point (2)
    {{bool}}                 true or false
    {{choice V...}}          one of these; a V of several words in quotes
    {{text N [M]}}           N random letters, or N to M
    {{now [ms|s]}}           when the record is made: ISO 8601, or milliseconds or seconds since 1970
    {{key}}                  the record's partition key
    {{padding}}              as many letters as make the record as large as it is to be

Inside a JSON string a field is text; outside of one it is a JSON value, so `{{uuid}}` brings its own quotes there and
`{{int 1 9}}` is a number. What is filled in can never break the document.
"""

from __future__ import annotations

import random
import re
import shlex
import string
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import orjson

from streamfn.errors import RefusedError

_FIELD = re.compile(r"\{\{(.*?)\}\}", re.S)
_LITERAL = re.compile(r"true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
# Random letters are cut out of these: a letter drawn for each would cost more than everything else.
_LETTERS = "".join(random.Random(8).choices(string.ascii_lowercase, k=65_536)).encode()


class Filling(NamedTuple):
    """What the fields of one record are filled from."""

    seq: int
    key: str
    random: random.Random


Value: TypeAlias = Callable[[Filling], str]


class Field(NamedTuple):
    """What a field is filled with; `literal`: it is a JSON value as it stands."""

    value: Value
    literal: bool


class Template:
    """A compiled template. `pads` says whether it has a `{{padding}}`."""

    def __init__(self, text: str) -> None:
        """Compile it.

        Raises:
            RefusedError: a field is unknown or has other arguments, or what comes out is no JSON.
        """
        self._parts: list[str | Value] = []
        self._padding: int | None = None
        within = False  # a JSON string
        end = 0
        for found in _FIELD.finditer(text):
            before = text[end : found.start()]
            within = _within_string(before, within)
            self._parts.append(before)
            self._add(found[1], within)
            end = found.end()
        self._parts.append(text[end:])
        self._check()

    @property
    def pads(self) -> bool:
        """Whether the records' size can be chosen."""
        return self._padding is not None

    def fill(self, filling: Filling, size: int | None = None) -> bytes:
        """Return one record; with a size and a `{{padding}}`, of exactly so many bytes.

        Raises:
            RefusedError: it is larger than that without any padding.
        """
        parts = [part if isinstance(part, str) else part(filling) for part in self._parts]
        if self._padding is None or size is None:
            return "".join(parts).encode()
        short = size - sum(len(part) if part.isascii() else len(part.encode()) for part in parts)
        if short < 0:
            raise RefusedError(
                f"--record-size {size} is too small for the template: record {filling.seq} has {size - short} bytes "
                "without any padding"
            )
        parts[self._padding] = letters(short, filling.random).decode()
        return "".join(parts).encode()

    def _add(self, content: str, within: bool) -> None:
        name, arguments = _words(content)
        if name == "padding" and self._padding is not None:
            raise RefusedError("--template: there can be one {{padding}} only")
        field = _field(content, name, arguments)
        value = field.value
        if within:
            value = _escaped(value)
        elif not field.literal:
            value = _quoted(value)
        if name == "padding":
            # Where the letters go: behind the quote that opens it, if it brings its own.
            if not within:
                self._parts.append('"')
            self._padding = len(self._parts)
            self._parts.append("")
            if not within:
                self._parts.append('"')
        else:
            self._parts.append(value)

    def _check(self) -> None:
        sample = self.fill(Filling(0, "key", random.Random(0)))
        try:
            orjson.loads(sample)
        except orjson.JSONDecodeError as error:
            shown = sample if len(sample) <= 120 else sample[:117] + b"..."
            raise RefusedError(
                f"--template makes no JSON: {str(error).partition(':')[0]}; its first record would be "
                f"{shown.decode(errors='replace')}"
            ) from None


def letters(count: int, source: random.Random) -> bytes:
    """Return so many random letters."""
    start = int(source.random() * len(_LETTERS))
    found = _LETTERS[start : start + count]
    short = count - len(found)
    return found if not short else found + (_LETTERS * (short // len(_LETTERS) + 1))[:short]


def _within_string(text: str, within: bool) -> bool:
    """Whether what follows `text` is inside a JSON string, if what it begins with is (or is not)."""
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif within and char == "\\":
            escaped = True
        elif char == '"':
            within = not within
    return within


def _words(content: str) -> tuple[str, list[str]]:
    try:
        words = shlex.split(content)
    except ValueError as error:
        raise RefusedError(f"--template: {{{{{content}}}}} cannot be read: {error}") from None
    return (words[0], words[1:]) if words else ("", [])


def _field(content: str, name: str, arguments: Sequence[str]) -> Field:
    make = _FIELDS.get(name)
    if make is None:
        known = ", ".join(sorted(_FIELDS))
        raise RefusedError(f"--template: {{{{{content}}}}} is no field; there are {known}")
    try:
        return make(*arguments)
    except (TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it has too few or too many arguments"
        raise RefusedError(f"--template: {{{{{content}}}}} cannot be filled in: {reason}") from None


def _quoted(value: Value) -> Value:
    return lambda filling: orjson.dumps(value(filling)).decode()


def _escaped(value: Value) -> Value:
    return lambda filling: orjson.dumps(value(filling)).decode()[1:-1]


# ---- the fields


def _number(text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is no {'integer' if kind is int else 'number'}") from None


def _span(first: str, last: str, kind: type[int] | type[float]) -> tuple[float, float]:
    low, high = _number(first, kind), _number(last, kind)
    if not low <= high or not high - low < 1e300:
        raise ValueError(f"{first} is above {last}" if low > high else "that is no range")
    return low, high


def _seq(first: str = "0") -> Field:
    start = int(_number(first, int))
    return Field(lambda filling: str(start + filling.seq), literal=True)


def _uuid(filling: Filling) -> str:
    digits = f"{filling.random.getrandbits(128):032x}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _int(first: str, last: str) -> Field:
    low, high = (int(value) for value in _span(first, last, int))
    span = high - low + 1
    if span.bit_length() > 52:  # a float's digits do not reach
        return Field(lambda filling: str(filling.random.randint(low, high)), literal=True)
    return Field(lambda filling: str(low + int(filling.random.random() * span)), literal=True)


def _float(first: str, last: str, digits: str = "2") -> Field:
    low, high = _span(first, last, float)
    places = int(_number(digits, int))
    if not 0 <= places <= 17:
        raise ValueError(f"{digits} digits are not 0 to 17")
    return Field(lambda filling: f"{low + filling.random.random() * (high - low):.{places}f}", literal=True)


def _bool() -> Field:
    return Field(lambda filling: "true" if filling.random.random() < 0.5 else "false", literal=True)


def _choice(*values: str) -> Field:
    if not values:
        raise ValueError("it has nothing to choose from")
    count = len(values)
    literal = all(_LITERAL.fullmatch(value) for value in values)
    return Field(lambda filling: values[int(filling.random.random() * count)], literal=literal)


def _text(least: str, most: str | None = None) -> Field:
    low, high = (int(value) for value in _span(least, most or least, int))
    if low < 0:
        raise ValueError(f"{low} letters are too few")
    span = high - low + 1

    def text(filling: Filling) -> str:
        return letters(low + int(filling.random.random() * span), filling.random).decode()

    return Field(text, literal=False)


def _now(unit: str = "iso") -> Field:
    if unit == "ms":
        return Field(lambda filling: str(time.time_ns() // 1_000_000), literal=True)
    if unit == "s":
        return Field(lambda filling: f"{time.time_ns() / 1e9:.3f}", literal=True)
    if unit != "iso":
        raise ValueError(f"{unit!r} is neither ms nor s")
    from streamfn.formats.times import format_time

    return Field(lambda filling: format_time(time.time_ns() // 1_000_000), literal=False)


_FIELDS: dict[str, Callable[..., Field]] = {
    "seq": _seq,
    "uuid": lambda: Field(_uuid, literal=False),
    "int": _int,
    "float": _float,
    "bool": _bool,
    "choice": _choice,
    "text": _text,
    "now": _now,
    "key": lambda: Field(lambda filling: filling.key, literal=False),
    "padding": lambda: Field(lambda filling: "", literal=False),
}
