"""What a writer does when nobody knows any more what is on the disk: it takes nothing, until it is opened again.

After a failed sync the system may take for written what is not, and trying again would lie.  Only a new writer, which
reads the log and writes anew what is not known to be synced, can go on.
"""

from __future__ import annotations

import errno

from streamfn.errors import DiskFull, LogError
from streamfn.log.catalog.stream import Shard

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Fence:
    """The fence around one writer; `reason` is why it is shut, None while it is open.  Once shut it stays so."""

    __slots__ = ("_shard", "reason")

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.reason: str | None = None

    def check(self) -> None:
        """Raise LogError if it is shut."""
        if self.reason is not None:
            raise LogError(f"shard {self._shard.id} takes no appends until it is opened again: {self.reason}")

    def shut(self, why: str, error: OSError) -> LogError:
        """Shut it, and return the error that says why."""
        self.reason = f"{why}: {error.strerror}"
        return LogError(f"shard {self._shard.id} in {self._shard.directory.parent}: {self.reason}")

    def shut_unless_full(self, why: str, error: OSError) -> LogError:
        """The same, unless only room was lacking and one may try again: then it stays open, and that is DiskFull."""
        if error.errno in _NO_ROOM:
            return log_error(self._shard, "cannot append to", error)
        return self.shut(why, error)

    def sync(self, fd: int) -> None:
        """Sync a file of the shard; a failure raises LogError and shuts the fence."""
        try:
            self._shard.disk.sync(fd)
        except OSError as error:
            raise self.shut("a sync failed", error) from error

    def sync_directory(self) -> None:
        """Sync the shard's directory; a failure raises LogError and shuts the fence."""
        try:
            self._shard.disk.sync_directory(self._shard.directory)
        except OSError as error:
            raise self.shut("a sync of its directory failed", error) from error


def log_error(shard: Shard, what: str, error: OSError) -> LogError:
    """Return the error for a call that failed and left everything as it was."""
    text = f"{what} shard {shard.id} in {shard.directory.parent}: {error.strerror}"
    return DiskFull(text) if error.errno in _NO_ROOM else LogError(text)
