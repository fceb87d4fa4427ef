"""Where JSON values begin and end in bytes, without parsing them.

What captures print and Firehose writes is one value after the other, with or without white space between, and
a record's own text is to be kept as it is.  So values are measured first and parsed afterwards: a regular
expression runs from one bracket to the next, strings included, so that a flat object costs two steps
whatever it holds.  That a value measured here is JSON is not said: only that its brackets and quotes close.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from streamfn.limits import MIB

# A document may be this long: GetRecords answers with at most 10 MiB of data, which is 14 MiB of JSON.
VALUE_BYTES_MAX = 64 * MIB

_BETWEEN = re.compile(rb"[ \t\r\n,]*")
# From a place outside of strings to the next bracket, over whole strings.
_TO_BRACKET = re.compile(rb'(?:[^{}\[\]"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,{}\[\]\":]+")
_CLOSES = {ord("{"): ord("}"), ord("["): ord("]")}
_MARK = b"\xef\xbb\xbf"


class Value(NamedTuple):
    """The text of one value, and the byte position at which it begins."""

    text: bytes
    position: int


class NotValues(ValueError):
    """What stands at byte `position` is not a JSON object or array, or does not end; the text says which."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


class _Open:
    """A value that has not ended where the bytes do: where to go on, and the brackets that are open."""

    __slots__ = ("at", "brackets")

    def __init__(self, at: int) -> None:
        self.at = at
        self.brackets = bytearray()

    def close(self, buffer: bytes | bytearray) -> int | None:
        """Return where the value ends, None if the bytes end before; ValueError if a bracket closes another."""
        at, brackets = self.at, self.brackets
        while True:
            found = _TO_BRACKET.match(buffer, at)
            assert found is not None
            at = found.end()
            if at == len(buffer) or buffer[at] == 0x22:  # a quote that is not closed
                self.at = found.start()  # a string may go on: it is looked at again from here
                return None
            char = buffer[at]
            if char in _CLOSES:
                brackets.append(_CLOSES[char])
            elif brackets.pop() != char:
                raise ValueError(f"{chr(char)!r} closes another bracket")
            at += 1
            self.at = at
            if not brackets:
                return at


def split_values(blocks: Iterable[bytes], *, skip_bad: bool = False) -> Iterator[list[Value | NotValues]]:
    """Yield the objects and arrays of `blocks` in lists, an empty list for an empty block.

    Between them may be white space or nothing; commas too, so that the inside of an array can be read.  Told to
    skip what is bad, yields it as a `NotValues` and goes on in the next line.

    Raises:
        NotValues: anything else; what came before has been yielded.
    """
    splitter = _Splitter(skip_bad)
    for block in blocks:
        if block:
            yield from splitter.feed(block, last=False)
        else:
            yield []
    yield from splitter.feed(b"", last=True)


class _Splitter:
    def __init__(self, skip_bad: bool) -> None:
        self._skip_bad = skip_bad
        self._buffer = bytearray()
        self._position = 0  # of the buffer's first byte
        self._open: _Open | None = None
        self._skipping = False
        self._begun = False

    def feed(self, block: bytes, *, last: bool) -> Iterator[list[Value | NotValues]]:
        """Yield what ends in this block; the last one, which may be empty, tells what never ended."""
        self._buffer += block
        if not self._begun:
            if len(self._buffer) < len(_MARK) and not last:
                return
            self._begun = True
            if self._buffer.startswith(_MARK):
                self._drop(len(_MARK))
        found: list[Value | NotValues] = []
        at = 0
        error: NotValues | None = None
        while error is None:
            if self._skipping:
                end = self._buffer.find(b"\n", at)
                at = len(self._buffer) if end < 0 else end + 1
                if end < 0:
                    break
                self._skipping = False
            step = self._step(at, last)
            if step is None:
                break
            start, stop, error = step
            at = stop
            if error is None:
                found.append(Value(bytes(self._buffer[start:stop]), self._position + start))
            elif self._skip_bad:
                found.append(error)
                error, self._skipping, self._open = None, True, None
        if found:
            yield found
        if error is not None:
            raise error
        if self._open is None:
            self._drop(at if at == len(self._buffer) else self._blank(at))
        else:
            start = self._blank(at)
            self._open.at -= start
            self._drop(start)

    def _blank(self, at: int) -> int:
        found = _BETWEEN.match(self._buffer, at)
        assert found is not None
        return found.end()

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._position += count

    def _step(self, at: int, last: bool) -> tuple[int, int, NotValues | None] | None:
        """Find the next value behind `at`: (start, end, None), or what is wrong, or None for more bytes."""
        buffer = self._buffer
        start = self._blank(at)
        if start == len(buffer):
            return None
        if self._open is None:
            if buffer[start] not in _CLOSES:
                return start, start, NotValues(self._position + start, "it is not a JSON object or array")
            self._open = _Open(start)
        try:
            end = self._open.close(buffer)
        except ValueError as error:
            return start, start, NotValues(self._position + start, f"it is not JSON: {error}")
        if end is not None:
            self._open = None
            return start, end, None
        if last:
            return start, start, NotValues(self._position + start, "it is not complete: the file ends inside it")
        if len(buffer) - start > VALUE_BYTES_MAX:
            return start, start, NotValues(
                self._position + start, f"it does not end within {VALUE_BYTES_MAX // MIB} MiB"
            )
        return None


def value_end(text: bytes, start: int) -> int:
    """Return where the value that begins at `start` ends, whatever it is.

    Raises:
        ValueError: it does not end.
    """
    char = text[start : start + 1]
    if char in (b"{", b"["):
        end = _Open(start).close(text)
        if end is None:
            raise ValueError("a bracket is not closed")
        return end
    found = (_STRING if char == b'"' else _SCALAR).match(text, start)
    if found is None:
        raise ValueError(f"no value at byte {start}")
    return found.end()


def elements(array: bytes) -> Iterator[Value]:
    """Yield the elements of an array's text; positions count from its first byte.

    Raises:
        ValueError: it is no array.
    """
    if array[:1] != b"[":
        raise ValueError("it is not an array")
    at = _skip(_BETWEEN, array, 1)
    while array[at : at + 1] != b"]":
        end = value_end(array, at)
        yield Value(array[at:end], at)
        at = _skip(_BETWEEN, array, end)


def _skip(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at)
    assert found is not None
    return found.end()
