"""Directories that say by a lock whether their owner lives: the kernel lets go of it, however that one ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path


def own_name(prefix: str) -> str:
    """Give a name that nobody else has: a pid alone is another runtime's, too, in another PID namespace."""
    return f"{prefix}{os.getpid()}-{secrets.token_hex(6)}"


def is_own_name(name: str, prefix: str) -> bool:
    """Whether a name is one that `own_name` gives, here or elsewhere: others may have a use for the prefix."""
    return re.fullmatch(r"\d+-[0-9a-f]{12}", name.removeprefix(prefix)) is not None and name.startswith(prefix)


def lock_directory(path: Path) -> int:
    """Make a directory and lock it; give the descriptor.  Once more if somebody sweeps it away before it is locked."""
    while True:
        path.mkdir(mode=0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return lock
            os.close(lock)


@contextlib.contextmanager
def held_if_free(path: Path) -> Iterator[None]:
    """Hold the lock of a directory whose owner is gone, for as long as the block lasts.  OSError if it has one."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)
