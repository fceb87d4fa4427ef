"""Records on their way from a file into a stream, and what a bad one means.

Every reader yields `Rows`: good records, in the file's order.  At a bad one it yields what came before and
raises `BadRecord`, or, told to skip bad ones, counts it and goes on.  A record that is bad says why in a
`ValueError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from streamfn.formats.fields import KeyOf, TimeOf
from streamfn.limits import RECORD_BYTES_MAX


class Rows(NamedTuple):
    """Good records in the file's order, and how far in the file they reach.

    `arrivals` is milliseconds since 1970, UTC; None takes the time of the append.  `last_line` is the last
    line looked at, good, bad or blank; `bad` how many were skipped as bad.  Without any record it only says
    that the source is quiet.
    """

    data: list[bytes]
    keys: list[str]
    arrivals: list[int] | None
    last_line: int
    bad: int


class BadRecord(Exception):
    """A record that cannot be taken; everything before it has been yielded."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Reading:
    """How records are read: where keys and times come from, and what happens to bad ones."""

    key_of: KeyOf
    time_of: TimeOf | None = None
    skip_bad: bool = False
    skip_lines: int = 0


class Collector:
    """Gathers good records into Rows, and decides what a bad one means."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._key_of, self._time_of = reading.key_of, reading.time_of
        self._start()

    def _start(self) -> None:
        self.data: list[bytes] = []
        self.keys: list[str] = []
        self.arrivals: list[int] | None = None if self._time_of is None else []
        self.bad = 0

    def add(self, data: bytes, value: object) -> None:
        """Take one record; ValueError if it is bad, and then nothing has been taken."""
        if len(data) > RECORD_BYTES_MAX:
            raise ValueError(f"it has more than {RECORD_BYTES_MAX} bytes, and a record may not")
        key = self._key_of(data, value)
        if self.arrivals is not None:
            assert self._time_of is not None
            self.arrivals.append(self._time_of(value))
        self.data.append(data)
        self.keys.append(key)

    def add_all(self, lines: list[bytes], parse: Callable[[bytes], object]) -> None:
        """Take many records, or, where one is bad, none: ValueError, which does not say which one.

        Each parsed value is let go before the next one is made: a block of them would not fit a cache.
        """
        if max(map(len, lines), default=0) > RECORD_BYTES_MAX:
            raise ValueError("one has too many bytes")
        key_of, time_of = self._key_of, self._time_of
        if self.arrivals is None or time_of is None:
            self.keys += [key_of(line, parse(line)) for line in lines]
        else:
            found = [(key_of(line, value), time_of(value)) for line in lines for value in (parse(line),)]
            self.keys += [key for key, _ in found]
            self.arrivals += [arrival for _, arrival in found]
        self.data += lines

    def refuse(self, line: int, error: Exception) -> BadRecord | None:
        """Count a bad record, or return what ends the import."""
        if not self._reading.skip_bad:
            return BadRecord(line, str(error))
        self.bad += 1
        return None

    def take(self, last_line: int) -> Rows:
        """Return what has been gathered and start again."""
        rows = Rows(self.data, self.keys, self.arrivals, last_line, self.bad)
        self._start()
        return rows
