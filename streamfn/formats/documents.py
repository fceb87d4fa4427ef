"""Documents that hold captured records, found in files, in concatenations and in logs.

A document is what one GetRecords call answered, one Lambda event, an array of records, or a record alone.  They
stand in a file one after the other, with or without white space between; Lambda events also in the lines of a
log, behind a prefix, as JSON, inside a JSON log entry, or as Python prints them.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import orjson

from streamfn.formats.json_values import NotValues, Value, split_values, value_end

# How deep a log entry is looked through for an event.
_DEPTH_MAX = 6
_EVENT = re.compile(rb"""\{\s*(["'])Records\1\s*:""")
_SOURCES = (b"aws:kinesis", b"aws:dynamodb")


class Document(NamedTuple):
    """The text of a document, and where it stands, in words.  Where it is none, `problem` says why."""

    text: bytes
    where: str
    problem: str = ""


def whole_documents(blocks: Iterable[bytes], *, skip_bad: bool) -> Iterator[list[Document]]:
    """Yield the documents of a file, an empty list for an empty block.

    What is none ends it, unless bad ones are skipped: then it is one with a `problem`.
    """
    try:
        for values in split_values(blocks, skip_bad=skip_bad):
            yield [_document(value) for value in values]
    except NotValues as error:
        yield [_document(error)]


def _document(value: Value | NotValues) -> Document:
    where = f"in the document at byte {value.position}"
    if isinstance(value, NotValues):
        return Document(b"", where, str(value))
    return Document(value.text, where)


def logged_events(lines: Iterable[list[bytes]]) -> Iterator[list[Document]]:
    """Yield the Lambda events in the lines of a log; lines without one are passed over.

    A line that speaks of Kinesis or DynamoDB records and holds no event that can be read, because it was cut for
    example, is a document with a `problem`.
    """
    number = 0
    for group in lines:
        found: list[Document] = []
        for line in group:
            number += 1
            if b"Records" not in line:
                continue
            where = f"in the event in line {number}"
            events = list(events_in(line))
            found += [Document(event, where) for event in events]
            if not events and any(source in line for source in _SOURCES):
                found.append(Document(b"", where, "the line does not hold a whole event"))
        yield found


def is_logged(head: bytes) -> bool:
    """Whether a file that begins so is read by lines: it is, unless its first line is the begin of a document only."""
    line = head.lstrip().partition(b"\n")[0].rstrip()
    if line[:1] not in (b"{", b"["):
        return True
    try:
        return value_end(line, 0) == len(line)
    except ValueError:
        return False


def events_in(line: bytes) -> Iterator[bytes]:
    """Yield the texts of the events in one line of a log."""
    at = 0
    while found := _EVENT.search(line, at):
        event = _python_event(line[found.start() :]) if found[1] == b"'" else None
        if event is not None:
            yield event
            return
        try:
            at = value_end(line, found.start())
        except ValueError:
            at = found.end()
            continue
        yield line[found.start() : at]
    start = line.find(b"{")
    if at == 0 and start >= 0:
        try:
            yield from _inside(orjson.loads(line[start : value_end(line, start)]), 0)
        except ValueError:
            return


def _inside(value: object, depth: int) -> Iterator[bytes]:
    """Yield the events in a parsed log entry: as objects, or as text that holds JSON."""
    if depth > _DEPTH_MAX:
        return
    if isinstance(value, dict):
        if isinstance(value.get("Records"), list):
            yield orjson.dumps(value)
            return
        for inner in value.values():
            yield from _inside(inner, depth + 1)
    elif isinstance(value, str) and "Records" in value:
        yield from events_in(value.encode())


def _python_event(text: bytes) -> bytes | None:
    """Return as JSON what Python printed of an event, None if it is not one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what only looks like Python
            return orjson.dumps(ast.literal_eval(text[: text.rindex(b"}") + 1].decode()))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
