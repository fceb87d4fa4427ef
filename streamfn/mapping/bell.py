"""How who changes a mapping tells who runs it: a file in the data directory that is written to.

Its content says nothing; what was changed is in the store. Whoever runs the mappings watches the file with inotify, so
that nobody asks the database now and then.
"""

from __future__ import annotations

import os
from pathlib import Path

from streamfn.errors import FailedError


def bell_path(locks: Path) -> Path:
    """Where the bell of a data directory hangs, beside the locks of its mappings."""
    return locks / "bell"


def hang(locks: Path) -> Path:
    """Make sure that the bell is there, and return its path.

    Raises:
        FailedError: it cannot be made.
    """
    path = bell_path(locks)
    try:
        locks.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    except OSError as error:
        raise FailedError(f"cannot make {path}: {error.strerror}") from error
    return path


def ring(locks: Path) -> None:
    """Have everybody who runs mappings look at the store again.

    Raises:
        FailedError: the file cannot be written.
    """
    path = hang(locks)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, b".", 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise FailedError(f"cannot write {path}: {error.strerror}") from error
