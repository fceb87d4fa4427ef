"""Structured values on the command line, as the AWS CLI takes them: JSON, its shorthand, or a file with either.

    {"OnFailure": {"Destination": "arn:..."}}          JSON
    OnFailure={Destination=arn:...}                    shorthand: keys, values, {} for structures, [] for lists
    Filters=[{Pattern='{"data": {"n": [1]}}'}]         a value in quotes may hold anything
    ReportBatchItemFailures                            a list of texts, where one is expected: comma-separated
    file://destination.json                            what is in the file

The shorthand is that of the AWS CLI User Guide, "Using shorthand syntax". Its values are texts: none of the structures
that are taken here holds anything else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from streamfn.errors import RefusedError

_BARE = re.compile(r"[^,\[\]{}\"']*")
_KEY = re.compile(r"[A-Za-z0-9_.#/:-]+")
_QUOTED = {quote: re.compile(rf"((?:[^{quote}\\]|\\.)*){quote}", re.S) for quote in "\"'"}


def text_or_file(option: str, text: str) -> str:
    """The text itself, or what the file of `file://PATH` holds.

    Raises:
        RefusedError: the file cannot be read.
    """
    if not text.startswith("file://"):
        return text
    path = Path(text.removeprefix("file://")).expanduser()
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise RefusedError(f"{option}: cannot read {path}: {reason}") from None


def structure(option: str, text: str) -> dict[str, Any]:
    """A structure, given as JSON, in shorthand, or as a file.

    Raises:
        RefusedError: it is none; the text says at which character.
    """
    content = text_or_file(option, text).strip()
    if not content.startswith(("{", "[")):
        try:
            return _Shorthand(option, content).pairs(end="")
        except RecursionError:
            raise _too_deep(option) from None
    value = _json(option, content)
    if not isinstance(value, dict):
        raise RefusedError(f"{option} takes a structure, not {content!r}")
    return value


def texts(option: str, given: tuple[str, ...]) -> list[Any]:
    """A list of texts: the option given several times, comma-separated texts, or a JSON list; an empty text is none."""
    found: list[Any] = []
    for text in given:
        content = text_or_file(option, text).strip()
        if content.startswith("["):
            value = _json(option, content)
            assert isinstance(value, list), "JSON that begins with a bracket"
            found += value
        elif content:
            found += content.split(",")
    return found


def json_input(option: str, text: str) -> dict[str, Any]:
    """A whole request as JSON (`--cli-input-json`).

    Raises:
        RefusedError: it is no JSON object.
    """
    value = _json(option, text_or_file(option, text))
    if not isinstance(value, dict):
        raise RefusedError(f"{option} takes a JSON object, not {text!r}")
    return value


def _json(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise _too_deep(option) from None
    except ValueError as error:
        raise RefusedError(f"{option}: {text!r} is not JSON: {error}") from None


def _too_deep(option: str) -> RefusedError:
    return RefusedError(f"{option} is nested too deeply")


class _Shorthand:
    """A parser of one text; every method goes on where the last one stopped."""

    def __init__(self, option: str, text: str) -> None:
        self._option = option
        self._text = text
        self._at = 0

    def pairs(self, end: str) -> dict[str, Any]:
        """`key=value` pairs, up to `end`."""
        found: dict[str, Any] = {}
        while True:
            self._blank()
            if self._take(end):
                return found
            key = _KEY.match(self._text, self._at)
            if key is None:
                raise self._wrong("a name")
            self._at = key.end()
            self._expect("=")
            found[key[0]] = self._value()
            self._blank()
            if self._take(end):
                return found
            self._expect(",")

    def _value(self) -> Any:
        self._blank()
        if self._take("{"):
            return self.pairs("}")
        if self._take("["):
            return self._list()
        for quote, rest in _QUOTED.items():
            if self._take(quote):
                match = rest.match(self._text, self._at)
                if match is None:
                    raise self._wrong(f"a closing {quote}")
                self._at = match.end()
                return re.sub(r"\\(['\"\\])", r"\1", match[1])
        bare = _BARE.match(self._text, self._at)
        assert bare is not None, "it matches nothing at all, too"
        self._at = bare.end()
        return bare[0].strip()

    def _list(self) -> list[Any]:
        found: list[Any] = []
        self._blank()
        if self._take("]"):
            return found
        while True:
            found.append(self._value())
            self._blank()
            if self._take("]"):
                return found
            self._expect(",")

    def _blank(self) -> None:
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1

    def _take(self, what: str) -> bool:
        """Whether `what` comes next (nothing: whether the text is over); then it is passed."""
        if not what:
            return self._at == len(self._text)
        if not self._text.startswith(what, self._at):
            return False
        self._at += len(what)
        return True

    def _expect(self, what: str) -> None:
        self._blank()
        if not self._take(what):
            raise self._wrong(repr(what))

    def _wrong(self, expected: str) -> RefusedError:
        found = repr(self._text[self._at]) if self._at < len(self._text) else "the end"
        return RefusedError(
            f"{self._option}: {self._text!r} is neither JSON nor the AWS CLI's shorthand: "
            f"expected {expected} at character {self._at + 1}, not {found}"
        )
