"""Which format a file has: what its name says, else what its first bytes are.

A name that says so is believed: a line of `events.jsonl` is a record, also where it is a Lambda event.  `.json`
and other names say nothing, nor does standard input; then Arrow, Parquet and captured records are recognised, and
JSON values are JSONL where each has a line of its own, and what Firehose writes where they have not.
"""

from __future__ import annotations

import orjson

from streamfn.errors import RefusedError
from streamfn.formats.captured import CAPTURES, form_of
from streamfn.formats.documents import events_in
from streamfn.formats.json_values import value_end

FORMATS = ("jsonl", "lines", "csv", "parquet", "arrow", *CAPTURES, "firehose")
COLUMNS = ("parquet", "arrow")
# Formats of which whole directories may be read: what was captured or delivered comes in many files.
DIRECTORIES = (*CAPTURES, "firehose")

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".txt": "lines",
    ".log": "lines",
}
_ARROW_FILE, _PARQUET = b"ARROW1\0\0", b"PAR1"
_ARROW_STREAM = b"\xff\xff\xff\xff"
_MARK = b"\xef\xbb\xbf"
# A first record that is longer says its format in its first bytes.
_LOOKED_AT = 1024 * 1024


def format_of(stem: str, head: bytes, *, piped: bool = False) -> str:
    """Return the format of a file by its name, without the suffix of a codec, and its first bytes.

    `piped` is standard input, which is JSONL where nothing speaks against it.

    Raises:
        RefusedError: neither says.
    """
    for suffix, found in _SUFFIXES.items():
        if stem.lower().endswith(suffix):
            return found
    by_content = _by_content(head)
    if by_content is not None:
        return by_content
    if piped:
        return "jsonl"
    raise RefusedError(
        f"cannot tell the format of {stem!r} from its name or from what it holds: give --format {'|'.join(FORMATS)}"
    )


def captured_format(head: bytes) -> str | None:
    """Return the format of captured records that a file of JSON lines begins with, None if it begins with others."""
    return _captured(head.removeprefix(_MARK).lstrip())


def _by_content(head: bytes) -> str | None:
    if head.startswith(_ARROW_FILE) or (head.startswith(_ARROW_STREAM) and len(head) >= 8):
        return "arrow"
    if head.startswith(_PARQUET):
        return "parquet"
    text = head.removeprefix(_MARK).lstrip()
    if text[:1] in (b"{", b"["):
        return _captured(text) or _values(text)
    line = next((line for line in text.splitlines()[:1000] if b"Records" in line), b"")
    event = next(events_in(line), None)
    return _captured(event) if event is not None else None


def _captured(text: bytes) -> str | None:
    """Return the format of captured records, if the text begins with one or with a document of them."""
    try:
        value = orjson.loads(text[: value_end(text, 0)])
    except ValueError:
        value = _first_record(text)
    if isinstance(value, dict) and "Records" in value:
        if value["Records"] == [] and "MillisBehindLatest" in value:
            return CAPTURES[0]
        value = value["Records"]
    if isinstance(value, list):
        value = value[0] if value else None
    try:
        return form_of(value)
    except ValueError:
        return None


def _first_record(text: bytes) -> object:
    """Return the first record of a document that goes on behind what is known of it, None if that is not to be seen."""
    start = text.find(b"[", 0, _LOOKED_AT) + 1
    start = start + len(text[start:]) - len(text[start:].lstrip())
    if b'"Records"' not in text[:start]:
        return None
    try:
        return orjson.loads(text[start : value_end(text, start)])
    except ValueError:
        return None


def _values(text: bytes) -> str | None:
    """Return `jsonl` where the first value has a line of its own, `firehose` where it has not, None if it is none."""
    try:
        end = value_end(text, 0)
        orjson.loads(text[:end])
    except ValueError:
        return None
    rest = text[end:].lstrip(b" \t\r")
    alone = not rest or rest.startswith(b"\n")
    return "jsonl" if alone and b"\n" not in text[:end] else "firehose"
