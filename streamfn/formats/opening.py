"""An input of an import: opened, decompressed, and looked into before it is read."""

from __future__ import annotations

import itertools
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from streamfn.errors import FailedError, RefusedError
from streamfn.formats.compression import codec_of, decompressed, split_suffix
from streamfn.formats.lines import read_blocks

STANDARD_INPUT = "-"


class Input:
    """One file, or standard input.  `name` is for people, `path` None where there is none.

    `stem` is the file's name without the suffix of a codec, `codec` what it is compressed with (None: not), `head` its
    first bytes, decompressed, as many as a read gives.  `size` is in bytes as it lies there, None where unknown.
    """

    def __init__(self, file: str) -> None:
        """Open it and read its first bytes.

        Raises:
            RefusedError: it cannot be read, or is not what its name says.
            FailedError: it is compressed and damaged at once.
        """
        self.name = "standard input" if file == STANDARD_INPUT else file
        self.path = None if file == STANDARD_INPUT else Path(file)
        self._copy: BinaryIO | None = None
        self.fd = _open(file)
        try:
            status = os.fstat(self.fd)
            self.size: int | None = status.st_size or None
            self._regular = stat.S_ISREG(status.st_mode)
            self._blocks = read_blocks(self.fd)
            self.stem, named = split_suffix(file)
            head = self._first()
            self.codec = codec_of(head)
            if named is not None and head and self.codec != named:
                raise RefusedError(f"{self.name} is not {named}, which its name says")
            if self.codec is not None:
                self._blocks = decompressed(itertools.chain([head], self._blocks), self.codec, self.name)
                head = self._first()
            self.head = head
        except BaseException:
            self.close()
            raise

    def _first(self) -> bytes:
        return next((block for block in self._blocks if block), b"")

    @property
    def position(self) -> int | None:
        """How many bytes of the file have been read, where that is known."""
        if self.size is None or not self._regular:
            return None
        return os.lseek(self.fd, 0, os.SEEK_CUR)

    @property
    def plain_path(self) -> Path | None:
        """The file's path, if what it holds lies there as it is: it can be mapped, and read at any place."""
        return self.path if self._regular and self.codec is None else None

    def blocks(self) -> Iterator[bytes]:
        """Yield what it holds, decompressed, from the begin on; once.  See lines.py for empty blocks."""
        if self.head:
            yield self.head
        yield from self._blocks

    def seekable(self) -> Path | BinaryIO:
        """Return something that can be read at any place: the file itself, or an unnamed copy of what it holds.

        Raises:
            FailedError: there is no room for the copy, in the directory for temporary files.
        """
        if self.plain_path is not None:
            return self.plain_path
        self._copy = copy = tempfile.TemporaryFile()  # noqa: SIM115  `close` closes it
        try:
            for block in self.blocks():
                copy.write(block)
            copy.seek(0)
        except OSError as error:
            raise FailedError(
                f"cannot keep a copy of {self.name}, which its format needs, in {tempfile.gettempdir()}: "
                f"{error.strerror}"
            ) from error
        return copy

    def close(self) -> None:
        """Close the file, but not standard input, and let the copy go."""
        if self._copy is not None:
            self._copy.close()
        if self.path is not None:
            os.close(self.fd)


def _open(file: str) -> int:
    if file == STANDARD_INPUT:
        return sys.stdin.fileno()
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        os.read(fd, 0)  # a directory opens, and then cannot be read
    except OSError as error:
        raise RefusedError(f"cannot read {file}: {error.strerror}") from None
    return fd
