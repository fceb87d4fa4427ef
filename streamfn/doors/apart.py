"""Directories that are worked in and that nobody keeps: gone at the end, and after a kill swept up by the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from streamfn.errors import FailedError
from streamfn.pool.confine.locking import held_if_free, is_own_name, lock_directory, own_name


@contextmanager
def directory_apart(prefix: str) -> Iterator[Path]:
    """A new directory of this process in the temporary directory; its name begins with `prefix`.

    Those with that prefix whose process is gone are removed first.

    Raises:
        FailedError: it cannot be made.
    """
    parent = Path(tempfile.gettempdir())
    _sweep(parent, prefix)
    path = parent / own_name(prefix)
    try:
        lock = lock_directory(path)
        path.chmod(0o700)
    except OSError as error:
        raise FailedError(f"cannot make {path}, the directory that is worked in: {error.strerror}") from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


@contextmanager
def store_apart() -> Iterator[Path]:
    """Where a state store may be made for runs whose checkpoints nobody is to keep. Errors as of `directory_apart`."""
    with directory_apart("streamfn-store-") as path:
        home = path / "state"  # whoever makes a store locks the directory that it is in
        home.mkdir()
        yield home / "state.db"


def _sweep(parent: Path, prefix: str) -> None:
    for path in parent.glob(f"{prefix}*"):
        if is_own_name(path.name, prefix):
            with suppress(OSError), held_if_free(path):
                shutil.rmtree(path, ignore_errors=True)
