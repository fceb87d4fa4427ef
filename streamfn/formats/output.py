"""Where an export goes: a file that is there whole or not at all, or standard output."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from streamfn.errors import FailedError, RefusedError
from streamfn.formats.compression import compressing, split_suffix

if TYPE_CHECKING:
    import pyarrow as pa

STANDARD_OUTPUT = "-"


class Output:
    """A context manager.  What is written to `sink` gets its name when the block ends well, and is gone otherwise.

    `stem` is the file's name without the suffix of a codec, by which it is compressed.  What is no file, a pipe for
    example, is written to as it is.
    """

    def __init__(self, file: str) -> None:
        """Begin.

        Raises:
            RefusedError: it cannot be written.
        """
        import pyarrow as pa

        self.stem, self.codec = split_suffix(file) if file != STANDARD_OUTPUT else (file, None)
        self.name = "standard output" if file == STANDARD_OUTPUT else file
        self._path = None if file == STANDARD_OUTPUT else Path(file)
        self._temporary: Path | None = None
        try:
            self._file = self._open()
        except OSError as error:
            raise RefusedError(f"cannot write {self.name}: {error.strerror}") from None
        self.sink: pa.NativeFile = compressing(pa.PythonFile(self._file, mode="w"), self.codec)

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._drop()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise FailedError(f"cannot write {self.name}: {error.strerror or error}") from error

    def _open(self) -> BinaryIO:
        if self._path is None:
            return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        if self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode):
            return open(self._path, "wb")
        self._temporary = self._path.with_name(f".{self._path.name}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
        return open(self._temporary, "xb")

    def _finish(self) -> None:
        """Give the file its name, durably."""
        try:
            if not self.sink.closed:
                self.sink.close()  # flushes what a codec holds; the file below it is Arrow's to close, too
            if self._temporary is None or self._path is None:
                return
            fd = os.open(self._temporary, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            self._temporary.replace(self._path)
            self._temporary = None
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise FailedError(f"cannot write {self.name}: {error.strerror or error}") from error

    def _drop(self) -> None:
        """Close, and remove what did not get its name; what could not be written has been said."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
