"""Mounts in which the machine's root's files are those of the sandbox's user: what root may read, the function may.

The sandbox of a runtime that root has started runs as nobody, who could not read the code of a root that is careful
(a umask of 077, a temporary directory).  An idmapped mount shows the same files as nobody's own, read only, and only in
the sandbox.  Where the file system or the kernel (before 5.12) has no such mounts, `copying` takes their place.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from streamfn.pool import linux
from streamfn.pool.confine.mounts import IDMAP, detached
from streamfn.pool.confine.privileges import map_ids

_ALL_IDS = 2**32 - 1


def swapped(paths: Iterable[str], user: int) -> dict[str, int]:
    """Make mounts, attached nowhere yet, of those paths for which it can be done: descriptors by real path.

    Their files' owner and group 0 is `user`, and the other way round.  The process must be the machine's root.
    """
    mounts: dict[str, int] = {}
    with contextlib.suppress(OSError), _namespace(user) as namespace:
        for path in paths:
            with contextlib.suppress(OSError):
                real = os.path.realpath(path)
                if real not in mounts:
                    mounts[real] = detached(real, IDMAP, namespace)
    return mounts


def try_one(path: str, user: int) -> None:
    """Make such a mount and let it go; OSError if it cannot be."""
    with _namespace(user) as namespace:
        os.close(detached(path, IDMAP, namespace))


@contextlib.contextmanager
def _namespace(user: int) -> Iterator[int]:
    """A descriptor of a user namespace that maps as a mount is to map; no process is left in it."""
    rest = _ALL_IDS - user - 1
    text = f"0 {user} 1\n1 1 {user - 1}\n{user} 0 1\n{user + 1} {user + 1} {rest}\n"
    made, tell = os.pipe2(os.O_CLOEXEC)
    wait, release = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(release)
            linux.unshare(linux.CLONE_NEWUSER)
            os.write(tell, b"!")
            os.read(wait, 1)
        finally:
            os._exit(0)
    os.close(tell)
    os.close(wait)
    try:
        if not os.read(made, 1):
            raise PermissionError("no user namespace")
        map_ids(str(pid), text, text)
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(made)
        os.close(release)
        os.waitpid(pid, 0)
    try:
        yield namespace
    finally:
        os.close(namespace)
