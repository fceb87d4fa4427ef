"""The counts of a histogram that are not zero, in the layout that the C core records in: HdrHistogram(1, 2**42, 3).

The layout has 34,816 counts, of which a second of one workload touches a few hundred.  A result holds a histogram for
every interval of every run, and a comparison reads all of them, so what is done here costs by what was touched: the
package takes milliseconds to ask one histogram for a percentile, this microseconds.  The answers are the package's own,
to the digit.

    index 0 .. 2047              value = index
    index i from 2048 on         bucket b = i // 1024 - 1:  value = (i % 1024 + 1024) << b, and the 2**b - 1 above it

Values are nanoseconds.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from streamfn._native import ffi, lib

HALF = 1024
LENGTH = 34 * HALF
_WORD = 8
_HIGHEST = 2**42

# The transportable form of HdrHistogram, version 2: what a base64 text holds.  The ratio is 1.0: nanoseconds stay so.
_OUTER = struct.Struct(">ii")
_INNER = struct.Struct(">iiiiqqd")
_OUTER_COOKIE = 0x1C849304 | 0x10
_INNER_COOKIE = 0x1C849303 | 0x10
_DIGITS = 3
_INFLATED_MAX = _INNER.size + 9 * LENGTH


class Counts:
    """How often each bucket of the layout was hit.  Immutable.

    `indexes` ascend; `counts` are the numbers that belong to them, none of them 0.
    """

    __slots__ = ("_running", "counts", "indexes")

    def __init__(self, found: Mapping[int, int] | Iterable[tuple[int, int]] = ()) -> None:
        """From pairs of index and count; those without a count may be among them."""
        pairs = sorted((index, count) for index, count in dict(found).items() if count)
        self.indexes: tuple[int, ...] = tuple(index for index, _ in pairs)
        self.counts: tuple[int, ...] = tuple(count for _, count in pairs)
        self._running = list(accumulate(self.counts))

    @classmethod
    def of(cls, histogram: Any) -> Counts:
        """What an `sf_histogram *` holds now.  Call it in the thread that records."""
        return cls.between(b"", copied(histogram))

    @classmethod
    def between(cls, earlier: bytes, later: bytes) -> Counts:
        """What was recorded between two copies (`copied`) of one histogram; an empty `earlier` is the beginning."""
        found = {}
        width = HALF * _WORD
        for first in range(0, len(later), width):
            new, old = later[first : first + width], earlier[first : first + width]
            if new == old or not any(new):
                continue
            before = array("q", old) if old else array("q", bytes(width))
            for place, (then, now) in enumerate(zip(before, array("q", new), strict=True), first // _WORD):
                if now != then:
                    found[place] = now - then
        return cls(found)

    @classmethod
    def of_values(cls, values: Iterable[int]) -> Counts:
        """The counts of these values in nanoseconds; what is above the highest is recorded as it."""
        found: dict[int, int] = {}
        for value in values:
            index = index_of(value)
            found[index] = found.get(index, 0) + 1
        return cls(found)

    @classmethod
    def merged(cls, parts: Iterable[Counts]) -> Counts:
        """All of them together."""
        found: dict[int, int] = {}
        for part in parts:
            for index, count in zip(part.indexes, part.counts, strict=True):
                found[index] = found.get(index, 0) + count
        return cls(found)

    @property
    def total(self) -> int:
        """How many values were recorded."""
        return self._running[-1] if self._running else 0

    def percentile(self, percent: float) -> int:
        """The highest value of the bucket up to which `percent` of all lie; 0 where nothing was recorded."""
        if not self._running:
            return 0
        wanted = max(1, int(min(percent, 100.0) * self.total / 100 + 0.5))
        return highest_of(self.indexes[bisect_left(self._running, wanted)])

    def at_most(self, value: int) -> int:
        """How many values were in the bucket of `value` or below it."""
        place = bisect_left(self.indexes, index_of(value) + 1)
        return self._running[place - 1] if place else 0

    @property
    def mean(self) -> float:
        """The mean, each value taken as the middle of its bucket; 0.0 where nothing was recorded."""
        if not self._running:
            return 0.0
        pairs = zip(self.indexes, self.counts, strict=True)
        return sum(middle_of(index) * count for index, count in pairs) / self.total

    @property
    def max(self) -> int:
        """The highest value that the highest bucket stands for; 0 where nothing was recorded."""
        return highest_of(self.indexes[-1]) if self.indexes else 0

    def encode(self) -> str:
        """HdrHistogram's own transportable form, version 2, compressed, in base64."""
        words = bytearray()
        at = 0
        for index, count in zip(self.indexes, self.counts, strict=True):
            if index > at:
                _put_word(words, at - index)  # so many zeros
            _put_word(words, count)
            at = index + 1
        inner = _INNER.pack(_INNER_COOKIE, len(words), 0, _DIGITS, 1, _HIGHEST, 1.0) + bytes(words)
        outer = zlib.compress(inner)
        return base64.b64encode(_OUTER.pack(_OUTER_COOKIE, len(outer)) + outer).decode()

    @classmethod
    def decode(cls, text: str) -> Counts:
        """Read what `encode`, or any HdrHistogram of this layout, has written; ValueError says what is wrong."""
        try:
            outer = base64.b64decode(text, validate=True)
            cookie, length = _OUTER.unpack_from(outer)
            inflater = zlib.decompressobj()
            inner = inflater.decompress(outer[_OUTER.size : _OUTER.size + length], _INFLATED_MAX)
            inner_cookie, words, offset, digits, lowest, highest, _ = _INNER.unpack_from(inner)
        except (binascii.Error, struct.error, zlib.error, ValueError) as error:
            raise ValueError(f"not an encoded HdrHistogram: {error}") from None
        if cookie != _OUTER_COOKIE or inner_cookie != _INNER_COOKIE or not inflater.eof:
            raise ValueError("not an encoded HdrHistogram of version 2, compressed")
        if (digits, lowest, highest, offset) != (_DIGITS, 1, _HIGHEST, 0):
            raise ValueError(
                f"an HdrHistogram({lowest}, {highest}, {digits}); only those of ({1}, {_HIGHEST}, {_DIGITS}) are read"
            )
        return cls(_pairs(inner[_INNER.size : _INNER.size + words]))

    def __eq__(self, other: object) -> bool:
        """Whether the same buckets were hit as often."""
        if not isinstance(other, Counts):
            return NotImplemented
        return self.indexes == other.indexes and self.counts == other.counts

    def __hash__(self) -> int:
        return hash((self.indexes, self.counts))

    def __repr__(self) -> str:
        return f"<Counts of {self.total} values, p50 {self.percentile(50)} ns, max {self.max} ns>"


def copied(histogram: Any) -> bytes:
    """The counts of an `sf_histogram *` as they are now: 272 KiB, some 20 us.  Call it in the thread that records."""
    return bytes(ffi.buffer(lib.sf_histogram_counts(histogram), LENGTH * _WORD))


def index_of(value: int) -> int:
    """Which count a value falls into."""
    value = min(max(value, 0), _HIGHEST)
    bucket = max(0, value.bit_length() - 11)
    return (bucket + 1) * HALF + (value >> bucket) - HALF


def lowest_of(index: int) -> int:
    """The lowest value of a bucket of the layout."""
    bucket = max(0, index // HALF - 1)
    return (index - bucket * HALF) << bucket


def highest_of(index: int) -> int:
    """The highest value of a bucket of the layout."""
    return lowest_of(index) + (1 << max(0, index // HALF - 1)) - 1


def middle_of(index: int) -> int:
    """The value that stands for a bucket in a mean."""
    return lowest_of(index) + (1 << max(0, index // HALF - 1) >> 1)


def _put_word(words: bytearray, value: int) -> None:
    """A signed number as ZigZag LEB128: seven bits a byte, low ones first, and the ninth byte whole."""
    word = value << 1 if value >= 0 else (-value << 1) - 1
    for _ in range(8):
        if word < 0x80:
            words.append(word)
            return
        words.append(word & 0x7F | 0x80)
        word >>= 7
    words.append(word)


def _pairs(words: bytes) -> Iterable[tuple[int, int]]:
    """Index and count of what is not zero in a stream of such words."""
    index = word = shift = 0
    for byte in words:
        if shift == 56:
            word |= byte << shift
        else:
            word |= (byte & 0x7F) << shift
            if byte & 0x80:
                shift += 7
                continue
        value = (word >> 1) ^ -(word & 1)
        word = shift = 0
        if value < 0:
            index -= value
        else:
            if index >= LENGTH:
                raise ValueError("an encoded HdrHistogram with more counts than its layout has")
            if value:
                yield index, value
            index += 1
    if shift:
        raise ValueError("an encoded HdrHistogram that is cut off")
