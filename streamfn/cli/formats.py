"""Files of records, read as rows that can go into a stream.

    jsonl     one JSON value a line; the line's bytes are the record's data, as they are; blank lines are
              skipped
    lines     one record a line, whatever it holds, an empty line too
    csv       the first line names the columns; each row becomes a compact JSON object in the order of the
              columns, every value a string; blank lines are skipped
    parquet   each row becomes a compact JSON object: times are ISO 8601 (without a zone: UTC), binary is
              base64, decimals are strings in full precision, NaN and infinity are null

Every reader yields `Rows`: good records, in the file's order.  At a bad one it yields what came before and
raises `BadRecord`, or, told to skip bad ones, counts it and goes on.  Lines are counted from 1 as an editor
does; for Parquet a "line" is a row.  A record that is bad says why in a `ValueError`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from streamfn.cli.fields import KeyOf, TimeOf
from streamfn.errors import RefusedError
from streamfn.limits import RECORD_BYTES_MAX

FORMATS = ("jsonl", "lines", "csv", "parquet")
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "lines",
    ".log": "lines",
}
# Rows that csv hands on at a time; lines come as many as a block holds.
CSV_ROWS = 4096


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


def format_of(name: str) -> str:
    """Return the format that a file's name says it has; standard input (`-`) is taken as jsonl.

    Raises:
        RefusedError: the name does not say.
    """
    if name == "-":
        return "jsonl"
    for suffix, found in _SUFFIXES.items():
        if name.lower().endswith(suffix):
            return found
    raise RefusedError(f"cannot tell the format of {name!r} from its name: give --format {'|'.join(FORMATS)}")


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


def read_jsonl(lines: Iterable[list[bytes]], reading: Reading) -> Iterator[Rows]:
    """Read JSON lines; `lines` begins behind the skipped ones."""
    return _read_lines(lines, reading, orjson.loads, skip_blank=True)


def read_plain(lines: Iterable[list[bytes]], reading: Reading) -> Iterator[Rows]:
    """Read lines that mean nothing to us; `lines` begins behind the skipped ones."""
    return _read_lines(lines, reading, lambda line: None, skip_blank=False)


def _read_lines(
    lines: Iterable[list[bytes]], reading: Reading, parse: Callable[[bytes], object], *, skip_blank: bool
) -> Iterator[Rows]:
    collector = Collector(reading)
    number = reading.skip_lines
    for group in lines:
        try:  # all at once, which is faster; and one by one only where one of them is bad, or blank
            collector.add_all(group, parse)
            one_by_one: list[bytes] = []
            number += len(group)
        except ValueError:
            one_by_one = group
        for line in one_by_one:
            number += 1
            try:
                collector.add(line, parse(line))
            except ValueError as error:
                if skip_blank and not line.strip():
                    continue
                if stop := collector.refuse(number, _without_position(error)):
                    yield collector.take(number - 1)
                    raise stop from None
        yield collector.take(number)


def _without_position(error: Exception) -> Exception:
    """Return the error without the parser's line number, which is always 1; the column stays."""
    if isinstance(error, orjson.JSONDecodeError):
        return ValueError(f"it is not JSON: {error.msg} at column {error.colno}")
    return error


def read_csv(lines: Iterable[list[bytes]], reading: Reading) -> Iterator[Rows]:
    """Read CSV; `lines` begins with the header, also when the first lines are skipped.

    Raises:
        RefusedError: there is no usable header.
        BadRecord: see the top of the file.
    """
    csv.field_size_limit(RECORD_BYTES_MAX)
    rows = csv.reader(_decoded(lines), strict=True)
    header = _header(rows)
    collector = Collector(reading)
    line = rows.line_num
    while True:
        before = line
        try:
            row = next(rows)
            line = rows.line_num
            if row and line > reading.skip_lines:
                value = _row_object(header, row)
                collector.add(_dumps(value), value)
        except StopIteration:
            break
        except (csv.Error, ValueError) as error:
            line = rows.line_num
            if line > reading.skip_lines and (stop := collector.refuse(line, error)):
                yield collector.take(before)
                raise stop from None
        if len(collector.data) >= CSV_ROWS:
            yield collector.take(line)
    yield collector.take(line)


def _decoded(lines: Iterable[list[bytes]]) -> Iterator[str]:
    """Yield text; bytes that are not UTF-8 become surrogates, which `_dumps` refuses in their row."""
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}"
    for group in lines:
        for line in group:
            yield line.decode("utf-8", "surrogateescape").removeprefix(mark) + "\n"
            mark = "\n"  # only the file's first line may begin with a byte order mark


def _header(rows: Iterator[list[str]]) -> list[str]:
    try:
        header = next(rows, [])
        _dumps(header)
    except (csv.Error, ValueError) as error:
        raise RefusedError(f"the first line, which names the columns, is bad: {error}") from None
    if not header:
        raise RefusedError("the first line, which names the columns, is empty")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise RefusedError(f"the first line names column {twice[0]!r} twice")
    return header


def _row_object(header: list[str], row: list[str]) -> dict[str, str]:
    if len(row) != len(header):
        raise ValueError(f"it has {len(row)} fields, and the first line has {len(header)}")
    return dict(zip(header, row, strict=True))


def _dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise ValueError("it is not valid UTF-8") from None
