"""Code that only root may read, copied to where the sandbox's user may: the way out where mounts cannot be idmapped.

A file system such as overlayfs (most containers' root) has no idmapped mounts.  Who runs as root there with code of
mode 0700 still expects it to run.  The copy lies in memory, belongs to one sandbox and goes with it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

# Twice what Lambda allows for code and layers, unzipped.
BYTES_MAX = 512 * 1024 * 1024
_PIECE = 1024 * 1024


def is_readable_by_all(path: str, left_out: frozenset[str]) -> bool:
    """Whether others may read everything there, but for the directories `left_out`."""
    return all(_allows_all(os.lstat(each)) for each in _walk(path, left_out))


def copy_for_all(source: str, target: str, left_out: frozenset[str]) -> None:
    """Copy a directory into an existing one so that everybody may read it; OSError, ENOSPC included.

    Links stay links; what is neither file, directory nor link is not copied.
    """
    for each in _walk(source, left_out):
        there = target + each[len(source) :]
        status = os.lstat(each)
        if stat.S_ISDIR(status.st_mode):
            os.makedirs(there, mode=0o755, exist_ok=True)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(each), there)
        elif stat.S_ISREG(status.st_mode):
            copy_file(each, there, 0o755 if status.st_mode & stat.S_IXUSR else 0o644)


def _walk(path: str, left_out: frozenset[str]) -> Iterator[str]:
    """A directory and everything below it, a directory before what is in it."""
    yield path
    if os.path.islink(path) or not os.path.isdir(path) or path in left_out:
        return
    with os.scandir(path) as entries:
        for entry in entries:
            yield from _walk(entry.path, left_out)


def _allows_all(status: os.stat_result) -> bool:
    if stat.S_ISLNK(status.st_mode):
        return True
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IROTH
    return status.st_mode & needed == needed


def copy_file(source: str, target: str, mode: int) -> None:
    """Copy what is in a file; the new one has this mode.  OSError, ENOSPC included."""
    with open(source, "rb") as file, open(target, "wb") as copy:
        while piece := file.read(_PIECE):
            copy.write(piece)
    os.chmod(target, mode)
