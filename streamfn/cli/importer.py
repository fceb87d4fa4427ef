"""The work behind `streamfn import`: a file on one side, a stream on the other.

The stream is made when there are records for it, so that a file whose first line is bad leaves nothing
behind; whatever can be refused is refused before.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from streamfn.cli.loading import StreamLoader
from streamfn.cli.progress import ImportProgress
from streamfn.errors import FailedError, RefusedError
from streamfn.formats.detect import format_of
from streamfn.formats.fields import key_of, time_of
from streamfn.formats.lines import read_blocks, split_lines
from streamfn.formats.rows import BadRecord, Reading, Rows
from streamfn.formats.text import read_csv, read_jsonl, read_plain
from streamfn.log.datadir import DataDir, check_name, check_shards
from streamfn.log.stream import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What `import` was asked for; `file` is a path or `-`, `format` None for "by its name"."""

    file: str
    stream: str
    shards: int | None = None
    partition_key: str | None = None
    time_field: str | None = None
    format: str | None = None
    skip_bad: bool = False
    skip_lines: int = 0


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did; `lines` is the last line looked at, `bad` the records skipped as bad."""

    stream: str
    shards: int
    records: int
    bytes: int
    bad: int
    lines: int
    seconds: float


class Target:
    """The stream an import goes into: found and opened at once if it exists, made when it is first needed."""

    def __init__(self, data_dir: Path, name: str, shards: int | None) -> None:
        """Check everything that can be checked without making anything.

        Raises:
            RefusedError: the name or number of shards is not valid, or not that of the existing stream.
            FailedError: the data directory cannot be used, or another process writes to the stream.
        """
        check_name(name)
        if shards is not None:
            check_shards(shards)
        self._data_dir, self._name, self._shards = data_dir, name, shards
        self._loader: StreamLoader | None = None
        if (data_dir / "format").exists():
            found = {stream.name: stream for stream in DataDir.open(data_dir, create=True).streams()}
            if name in found:
                self._loader = StreamLoader(self._of_shards(found[name]))

    def _of_shards(self, stream: Stream) -> Stream:
        if self._shards is not None and len(stream.open_shards) != self._shards:
            raise RefusedError(f"stream {self._name!r} has {len(stream.open_shards)} open shards, not {self._shards}")
        return stream

    @property
    def opened(self) -> StreamLoader | None:
        """The loader, if the stream exists by now."""
        return self._loader

    def close(self) -> None:
        """Release the stream's shards."""
        if self._loader is not None:
            self._loader.close()

    def loader(self) -> StreamLoader:
        """Return the loader, making data directory and stream where there are none."""
        if self._loader is None:
            made = DataDir.open(self._data_dir, create=True).open_or_create_stream(self._name, self._shards)
            self._loader = StreamLoader(made)
        return self._loader


class Source:
    """An open file of records.  `size` is in bytes, None where it is unknown."""

    def __init__(self, request: ImportRequest) -> None:
        """Open the file.

        Raises:
            RefusedError: it cannot be read, or options do not go with its format.
        """
        self.format = request.format or format_of(request.file)
        if self.format == "lines" and (request.partition_key or request.time_field):
            raise RefusedError("lines have no fields: --partition-key and --time-field need another format")
        if self.format == "parquet" and request.file == "-":
            raise RefusedError("Parquet cannot be read from standard input: it begins at its end")
        self._reading = Reading(
            key_of(request.partition_key),
            time_of(request.time_field) if request.time_field else None,
            request.skip_bad,
            request.skip_lines,
        )
        self.fd = _open(request.file)
        self.size: int | None = os.fstat(self.fd).st_size or None
        self._path = Path(request.file)
        self.unit = "row" if self.format == "parquet" else "line"

    @property
    def position(self) -> int | None:
        """How many bytes have been read, where that is known."""
        if self.size is None or self.format == "parquet":
            return None
        return os.lseek(self.fd, 0, os.SEEK_CUR)

    def rows(self) -> Iterator[Rows]:
        """Yield the records; see `formats`."""
        skip = self._reading.skip_lines
        match self.format:
            case "jsonl":
                return read_jsonl(split_lines(read_blocks(self.fd), skip), self._reading)
            case "lines":
                return read_plain(split_lines(read_blocks(self.fd), skip), self._reading)
            case "csv":
                return read_csv(split_lines(read_blocks(self.fd)), self._reading)
        from streamfn.formats.parquet import ParquetRows

        return iter(ParquetRows(self._path, self._reading))

    def close(self) -> None:
        """Close the file, but not standard input."""
        if self.fd != sys.stdin.fileno():
            os.close(self.fd)


def _open(file: str) -> int:
    if file == "-":
        return sys.stdin.fileno()
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        os.read(fd, 0)  # a directory opens, and then cannot be read
    except OSError as error:
        raise RefusedError(f"cannot read {file}: {error.strerror}") from None
    return fd


def run_import(data_dir: Path, request: ImportRequest, *, show_progress: bool) -> ImportReport:
    """Import all of a file.

    Raises:
        RefusedError: an option does not fit; nothing was made.
        FailedError: a bad record, a full disk, a damaged file: the text says where, why, and up to which
            line records are durable.
        KeyboardInterrupt: likewise, with a note of the same content.
    """
    if request.skip_lines < 0:
        raise RefusedError("--skip-lines counts lines: it cannot be negative")
    started = time.monotonic()
    with ExitStack() as stack:
        source = Source(request)
        stack.callback(source.close)
        rows = source.rows()
        target = Target(data_dir, request.stream, request.shards)
        stack.callback(target.close)
        progress = stack.enter_context(ImportProgress(request.file, source, enabled=show_progress))
        importing = _Importing(request, source, target, progress)
        importing.run(rows)
        loader = target.loader()  # makes the stream of an empty file
        seconds = time.monotonic() - started
        return ImportReport(
            request.stream,
            len(loader.stream.open_shards),
            loader.records,
            loader.bytes,
            importing.bad,
            importing.line,
            seconds,
        )


class _Importing:
    """One import as it goes."""

    def __init__(
        self, request: ImportRequest, source: Source, target: Target, progress: ImportProgress
    ) -> None:
        self._request = request
        self._source = source
        self._target = target
        self._progress = progress
        self.line = request.skip_lines
        self.bad = 0

    def run(self, rows: Iterator[Rows]) -> None:
        """Read to the end; every way out has stored what could be stored."""
        try:
            self._read_all(rows)
        except BadRecord as bad:
            raise FailedError(
                f"{self._place(bad.line)} is bad: {bad.reason}; {self._durable(bad.line)}"
            ) from None
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"interrupted; {self._durable()}")
            raise
        except FailedError as error:
            if self._target.opened is None:
                raise
            raise type(error)(f"{error}; {self._durable()}") from error

    def _read_all(self, rows: Iterator[Rows]) -> None:
        try:
            self._load(rows)
        finally:
            if (loader := self._target.opened) is not None:
                loader.flush()

    def _load(self, rows: Iterator[Rows]) -> None:
        for some in rows:
            self.line = some.last_line
            self.bad += some.bad
            if some.data:
                loader = self._target.loader()
                loader.add(some)
                self._progress.advance(len(some.data), loader.bytes)
            elif self._target.opened is not None:
                self._target.opened.flush()

    def _place(self, line: int) -> str:
        name = "standard input" if self._request.file == "-" else self._request.file
        return f"{name}: {self._source.unit} {line}"

    def _durable(self, bad_line: int | None = None) -> str:
        loader = self._target.opened
        line = max(self._request.skip_lines, 0 if loader is None else loader.durable_line)
        unit = self._source.unit
        said = f"records up to {unit} {line} are durable" if line else "nothing of it was stored"
        said += f", --skip-lines {line} goes on from there" if line else ""
        if bad_line is not None:
            said += f" (--skip-lines {bad_line} leaves the bad {unit} out)"
        if loader is not None and loader.partly_stored:
            said += f"; some records behind {unit} {line} are stored too, and would be there twice"
        return said
