"""Lines of text as records.

    jsonl     one JSON value a line; the line's bytes are the record's data, as they are; blank lines are
              skipped
    lines     one record a line, whatever it holds, an empty line too
    csv       the first line names the columns; each row becomes a compact JSON object in the order of the
              columns, every value a string; blank lines are skipped

Lines are counted from 1 as an editor does.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator

import orjson

from streamfn.errors import RefusedError
from streamfn.formats.rows import Collector, Reading, Rows
from streamfn.limits import RECORD_BYTES_MAX

# Rows that csv hands on at a time; lines come as many as a block holds.
CSV_ROWS = 4096


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
