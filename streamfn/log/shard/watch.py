"""Being told that shards have new records and streams new shards: one inotify descriptor for all of them.

Readers need not ask a thousand shards in turn, and an idle process makes no system call at all.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Generic, TypeVar

from streamfn.errors import LogError
from streamfn.log.catalog import description
from streamfn.log.catalog.stream import Shard, Stream
from streamfn.log.storage import libc

Key = TypeVar("Key", bound=Hashable)

_DESCRIPTION = description.FILE.encode()


class CommitWatch(Generic[Key]):
    """Says which shards were committed to, and which streams are described anew.  Not thread-safe.

    `fileno()` becomes readable when `drain` has something to say.  A key may be told without news (another
    reader's recovery, a deleted stream): it means "look again".  Add first, then read the commit file, or
    a commit between the two goes unnoticed.
    """

    def __init__(self) -> None:
        try:
            self._fd = libc.inotify_init()
        except OSError as error:
            raise LogError(f"cannot watch for commits: {error.strerror}") from error
        self._keys: dict[int, set[Key]] = {}
        self._watches: dict[Key, int] = {}

    def __enter__(self) -> CommitWatch[Key]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor to wait for; it is non-blocking."""
        return self._fd

    def add(self, what: Shard | Stream | Path, key: Key) -> None:
        """Tell `key` when the shard is committed to, the stream is described anew, or the file is written to.

        Several keys may watch the same.

        Raises:
            LogError: it is not there any more, or the system's limit of watches is reached.
        """
        assert key not in self._watches, f"{key!r} is watched already"
        place = what if isinstance(what, Path) else what.directory
        try:
            if isinstance(what, Stream):
                watch = libc.inotify_add(self._fd, str(place), libc.IN_MOVED_TO)
            else:
                written = place / "commit" if isinstance(what, Shard) else place
                watch = libc.inotify_add(self._fd, str(written), libc.IN_MODIFY)
        except OSError as error:
            why = (
                f"{error.strerror}; see /proc/sys/fs/inotify"
                if error.errno == errno.ENOSPC
                else error.strerror
            )
            raise LogError(f"cannot watch {place}: {why}") from error
        self._keys.setdefault(watch, set()).add(key)
        self._watches[key] = watch

    def remove(self, key: Key) -> None:
        """Stop telling `key`; does nothing if it is not watched."""
        watch = self._watches.pop(key, None)
        if watch is None:
            return
        keys = self._keys.get(watch, set())
        keys.discard(key)
        if not keys and self._keys.pop(watch, None) is not None:
            libc.inotify_remove(self._fd, watch)

    def drain(self) -> set[Key]:
        """Return the keys of what has changed since the last call.  Never blocks."""
        told: set[Key] = set()
        for watch, mask, name in libc.inotify_events(self._fd):
            if name and name != _DESCRIPTION:  # something else was renamed into a stream's directory
                continue
            if mask & libc.IN_Q_OVERFLOW:
                told.update(self._watches)
            told.update(self._keys.get(watch, ()))
            if mask & libc.IN_IGNORED:  # the file is gone, and its watch with it
                for key in self._keys.pop(watch, ()):
                    self._watches.pop(key, None)
        return told

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
