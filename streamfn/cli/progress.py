"""Progress bars, on a terminal only."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from streamfn.limits import MIB


class Measured(Protocol):
    """A file that knows how far into how many bytes it is."""

    name: str
    size: int | None

    @property
    def position(self) -> int | None:
        """Bytes read so far, where that is known."""


class _Bar:
    """A rich progress bar; a context manager.  Where standard error is no terminal, nothing is shown."""

    def __init__(self, *columns: ProgressColumn) -> None:
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if sys.stderr.isatty():
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


class ImportProgress(_Bar):
    """How far an import is: what it calls."""

    def __init__(self) -> None:
        counts = TextColumn("{task.fields[counts]}")
        super().__init__(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), counts, TimeRemainingColumn()
        )
        self._source: Measured | None = None
        self._records = 0
        self._started = time.monotonic()

    def __call__(self, source: Measured, records: int, total_bytes: int) -> None:
        """Say that `records` more have been read from a file, `total_bytes` of data from all."""
        self._records += records
        if self._progress is None:
            return
        if source is not self._source:
            if self._source is not None:
                self._progress.remove_task(self._task)
            total = source.size if source.position is not None else None
            self._task = self._progress.add_task(source.name.rpartition("/")[2], total=total, counts="")
            self._source = source
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = f"{total_bytes / MIB / seconds:,.0f} MiB/s"
        self._progress.update(self._task, completed=source.position, counts=f"{self._records:,} records, {rate}")


class ByteProgress(_Bar):
    """How far work is that is measured in bytes."""

    def __init__(self, name: str, total_bytes: int) -> None:
        columns = (BarColumn(), TaskProgressColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        super().__init__(TextColumn("{task.description}"), *columns)
        if self._progress is not None:
            self._task = self._progress.add_task(name, total=total_bytes)

    def advance(self, more_bytes: int) -> None:
        """Say that so many more bytes are done."""
        if self._progress is not None:
            self._progress.advance(self._task, more_bytes)
