"""Handing files of a directory out through a mount that is read only.

A descriptor that is only for reading still speaks for its file: who owns the file may change its mode, its times and
its attributes by it, and the handler of an ordinary user's sandbox is that user to the kernel.  Of a descriptor that
was opened through a read-only mount the kernel refuses all that, whoever asks.
"""

from __future__ import annotations

import errno
import os

from streamfn.pool.confine.mounts import NODEV, NOEXEC, NOSUID, RDONLY, detached


def mount_read_only(path: str) -> int:
    """Make a read-only mount of a directory, attached nowhere; see `mounts.detached`."""
    return detached(path, RDONLY | NOSUID | NODEV | NOEXEC)


class Shelf:
    """A directory and its read-only mount, which is ours to close."""

    def __init__(self, path: str, mount: int) -> None:
        self._path = os.path.realpath(path)
        self._mount = mount

    def close(self) -> None:
        """Close the mount; nothing the second time."""
        mount, self._mount = self._mount, -1
        if mount >= 0:
            os.close(mount)

    def opened(self, fd: int) -> int | None:
        """Open the file of a descriptor again through the mount, for reading; None if it has no name there any more.

        A file without a name is nobody's to change for others, and memory (a document) never had one.

        Raises:
            OSError: it has a name, and could not be opened by it now: another one took that name, or descriptors are
                short.  To be tried again; the descriptor itself must not be handed out.
        """
        path = os.readlink(f"/proc/self/fd/{fd}")
        if not path.startswith(self._path + "/") or os.fstat(fd).st_nlink == 0:
            return None
        again = os.open(path[len(self._path) + 1 :], os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._mount)
        if os.path.sameopenfile(fd, again):
            return again
        os.close(again)
        raise FileNotFoundError(errno.ENOENT, "its name is another file's now", path)
