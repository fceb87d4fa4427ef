"""Files on one side, a stream on the other.

The stream is made when there are records for it, so that a file whose first line is bad leaves nothing
behind; whatever can be refused is refused before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from streamfn.doors.grouping import Item, weight
from streamfn.doors.sources import ImportRequest, Source, expanded
from streamfn.doors.targets import CapturedTarget, RoutedTarget, Target
from streamfn.errors import FailedError, RefusedError
from streamfn.formats.rows import BadRecord

__all__ = ["ImportReport", "ImportRequest", "Progress", "run_import"]

Progress: TypeAlias = Callable[[Source, int, int], None]
"""Called now and then with the file that is read, how many records came since, and the bytes of data in all."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    `already_there` are captured records that the stream had; `bad` those skipped as bad; `lines` the last line (row,
    record) of the last file that was looked at; `bytes` the data's; `shards` those that are open.
    `look_alike` is the first file whose lines were taken as they are though they look like captured records, and the
    format that those would have.
    """

    stream: str
    shards: int
    records: int
    bytes: int
    bad: int
    already_there: int
    files: int
    lines: int
    seconds: float
    look_alike: tuple[str, str] | None = None


def run_import(data_dir: Path, request: ImportRequest, progress: Progress | None = None) -> ImportReport:
    """Import all of the files, one after the other.

    Raises:
        RefusedError: an option does not fit; nothing was made.
        FailedError: a bad record, a full disk, a damaged file: the text says where, why, and up to which
            line records are durable.
        KeyboardInterrupt: likewise, with a note of the same content.  Other exceptions of `progress` end it too.
    """
    if request.skip_lines < 0:
        raise RefusedError("--skip-lines counts lines: it cannot be negative")
    started = time.monotonic()
    files = expanded(request.files, request.format)
    with ExitStack() as stack:
        first = stack.enter_context(closing(Source(files[0], request, request.skip_lines)))
        target: Target = (CapturedTarget if first.captured else RoutedTarget)(data_dir, request)
        stack.callback(target.close)
        importing = _Importing(request, target, progress)
        importing.run(first)
        for file in files[1:]:
            with closing(importing.open_next(file)) as source:
                importing.run(source)
        loader = target.finish(first.kind, first.origin)
        return ImportReport(
            request.stream,
            len(loader.stream.open_shards),
            loader.records,
            loader.bytes,
            importing.bad,
            target.already_there,
            len(files),
            importing.line,
            time.monotonic() - started,
            importing.look_alike,
        )


class _Importing:
    """One import as it goes."""

    def __init__(self, request: ImportRequest, target: Target, progress: Progress | None) -> None:
        self._request = request
        self._target = target
        self._progress = progress
        self._source: Source | None = None
        self._skipped = request.skip_lines
        self.line = request.skip_lines
        self.bad = 0
        self.look_alike: tuple[str, str] | None = None

    def open_next(self, file: str) -> Source:
        """Open another file; what was read before is durable when this returns.

        Raises:
            FailedError: as `run_import`, also where an option does not fit this file.
        """
        try:
            if (loader := self._target.opened) is not None:
                loader.begin_file()
            source = Source(file, self._request, 0)
            if source.captured != isinstance(self._target, CapturedTarget):
                source.close()
                raise RefusedError("it holds captured records, or the files before do: import them apart")
        except (RefusedError, FailedError) as error:
            raise FailedError(f"{file}: {error}; the files before it are durable") from error
        self._skipped = self.line = 0
        return source

    def run(self, source: Source) -> None:
        """Read a file to its end; every way out has stored what could be stored."""
        self._source = source
        if source.look_alike is not None and self.look_alike is None:
            self.look_alike = source.name, source.look_alike
        try:
            self._read_all(source)
        except BadRecord as bad:
            where = f" ({bad.where})" if bad.where else ""
            raise FailedError(
                f"{source.name}: {source.unit} {bad.line}{where} is bad: {bad.reason}; {self._durable(bad.line)}"
            ) from None
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"interrupted; {self._durable()}")
            raise
        except RefusedError as error:
            if self._target.opened is None or not self._target.opened.bytes:
                raise
            raise FailedError(f"{source.name}: {error}; {self._durable()}") from error
        except FailedError as error:
            if self._target.opened is None:
                raise
            raise type(error)(f"{error}; {self._durable()}") from error

    def _read_all(self, source: Source) -> None:
        try:
            for some in source.rows():
                self._take(source, some)
        finally:
            if (loader := self._target.opened) is not None:
                loader.flush()

    def _take(self, source: Source, some: Item) -> None:
        records, _ = weight(some)
        if records:
            self.bad += self._target.take(some)
        elif self._target.opened is not None and not some.bad:
            self._target.opened.flush()  # a pipe is quiet
        self.line = some.last_line
        self.bad += some.bad
        if self._progress is not None:
            loader = self._target.opened
            self._progress(source, records, 0 if loader is None else loader.bytes)

    def _durable(self, bad_line: int | None = None) -> str:
        loader, source = self._target.opened, self._source
        assert source is not None
        line = max(self._skipped, 0 if loader is None else loader.durable_line)
        unit = source.unit
        said = f"records up to {unit} {line} are durable" if line else "nothing of it was stored"
        said += f", --skip-lines {line} goes on from there" if line else ""
        if bad_line is not None:
            said += f" (--skip-lines {bad_line} leaves the bad {unit} out)"
        if loader is not None and loader.partly_stored:
            said += f"; some records behind {unit} {line} are stored too, and would be there twice"
        if len(self._request.files) > 1:
            said += "; the files before it are durable"
        return said
