"""A function's code on the disk: its digest, which is its version, and being told when it changes.

Code is what Python imports: sources and extension modules below the code directory. Everything else there is not: a
handler may write beside its code, and would be a new version each time. Hidden directories, `__pycache__`,
`node_modules`, virtual environments and data directories are left out. A directory with more in it than Lambda would
take (somebody runs a handler from their home) is not looked through; then the code is the handler's own module, or
package.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path

from streamfn.functions.finding import split_name
from streamfn.state.functions import Code

BYTES_MAX = 262_144_000  # Lambda's: of a package, unzipped
DIRECTORIES_MAX = 1_000  # ours: to look through so many takes some 30 ms
FILES_MAX = 10_000  # ours

_SUFFIXES = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
_LEFT_OUT = {"__pycache__", "node_modules"}
# What lies in a virtual environment, and in a data directory of ours, which may lie among the code.
_MARKS = ({"pyvenv.cfg"}, {"format", "streams"})
# A file that was written so short a time ago may be written again within one tick of its time stamp.
_SETTLED_NS = 2_000_000_000

_Stamp = tuple[int, int, int]


class TooMuch(Exception):
    """There is more below a directory than a function's code can be."""


class CodeFiles:
    """The files of one function's code. What they were like is remembered, so looking again reads only what changed.

    Use it from one thread at a time; every call waits for the disk.
    """

    def __init__(self, code_dir: str, handler: str) -> None:
        self._code_dir = Path(code_dir)
        self._module = _top_of(handler)
        self._known: dict[Path, tuple[_Stamp, bytes]] = {}
        self.directories: list[Path] = []
        """Those that were looked into, the last time."""

    def look(self) -> None:
        """Find the directories, and read nothing."""
        self._find()

    def is_there(self) -> bool:
        """Whether the code directory is there."""
        return self._code_dir.is_dir()

    def code(self) -> Code:
        """The digest of all files, names included, as they are now, and how many bytes they have.

        What cannot be read, or is gone while it is looked at, is taken as not there.
        """
        digest, size, known = hashlib.sha256(), 0, {}
        for path in self._find():
            found = self._file(path)
            if found is None:
                continue
            known[path] = found
            size += found[0][1]
            digest.update(os.fsencode(path.relative_to(self._code_dir)) + b"\0" + found[1])
        self._known = known
        return Code(base64.b64encode(digest.digest()).decode(), size)

    def _find(self) -> list[Path]:
        """The files, sorted: of the code directory, or of the handler's module where that has too many."""
        walk = _Walk()
        try:
            files = list(walk.files(self._code_dir))
        except TooMuch:
            walk, module = _Walk(), self._code_dir / self._module
            files = [module.with_name(module.name + suffix) for suffix in _SUFFIXES]
            with contextlib.suppress(TooMuch):  # then it is that one file
                files += list(walk.files(module))
            walk.directories.append(self._code_dir)
        self.directories = walk.directories
        return sorted(files)

    def _file(self, path: Path) -> tuple[_Stamp, bytes] | None:
        """What a file is known by; read only if it is not as it was."""
        try:
            now = os.stat(path)
            if not stat.S_ISREG(now.st_mode):
                return None
            stamp = (now.st_ino, now.st_size, now.st_mtime_ns)
            before = self._known.get(path)
            if before is not None and before[0] == stamp:
                return before
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return None
        if time.time_ns() - now.st_mtime_ns < _SETTLED_NS:
            stamp = (now.st_ino, now.st_size, -1)  # equal to none: it is read again the next time
        return stamp, content


class _Walk:
    """One look through a tree: the files of code in it, and the directories that there are."""

    def __init__(self) -> None:
        self.directories: list[Path] = []
        self._files = 0
        self._bytes = 0

    def files(self, directory: Path) -> Iterator[Path]:
        """Yield the files below a directory; links to directories are not followed.

        Raises:
            TooMuch: there are more directories or files than code can have.
        """
        pending = [directory]
        while pending:
            directory = pending.pop()
            try:
                with os.scandir(directory) as listing:
                    entries = list(listing)
            except OSError:
                continue
            if self.directories and _is_something_else({entry.name for entry in entries}):
                continue
            self.directories.append(directory)
            for entry in entries:
                with contextlib.suppress(OSError):  # it is gone, or a link that leads nowhere
                    if entry.is_dir(follow_symlinks=False):
                        if not is_left_out(entry.name):
                            pending.append(directory / entry.name)
                    elif is_code(entry.name):
                        self._bytes += entry.stat().st_size
                        self._files += 1
                        yield directory / entry.name
            many = len(self.directories) + len(pending) > DIRECTORIES_MAX or self._files > FILES_MAX
            if many or self._bytes > BYTES_MAX:
                raise TooMuch


def _is_something_else(names: set[str]) -> bool:
    return any(mark <= names for mark in _MARKS)


def is_code(name: str) -> bool:
    """Whether a file of this name is code."""
    return name.endswith(_SUFFIXES)


def is_left_out(name: str) -> bool:
    """Whether a directory of this name is not looked into."""
    return name.startswith(".") or name in _LEFT_OUT


def _top_of(handler: str) -> str:
    """The first directory, package or module that a handler's name leads to."""
    found = split_name(handler)
    return (found[0] if found else handler).replace("/", ".").lstrip(".").split(".")[0] or "_"
