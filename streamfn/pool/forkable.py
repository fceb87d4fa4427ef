"""What Init may leave behind that a fork would lose, or share with every worker: looked for before the first fork.

A thread does not exist in the child, and a lock that it held stays locked there.  A socket, an epoll, an inotify are
one object for all who have inherited them, so workers would take each other's answers and events.  SQLite says that a
connection must not be carried across a fork.

Native threads are another matter: the pools of numpy and pyarrow are made anew after a fork by those libraries, and
refusing them would cost every handler that imports one its fast start.  So those of an unknown library count, and
those that have a name of their own, which says that they are somebody's and not a pool of numpy's.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Container

from streamfn.pool import linux

# Libraries whose threads are known to survive: they have handlers for it.
_POOLS = ("numpy", "pyarrow", "scipy")
_THREADS_KNOWN = ("jemalloc_bg_thd",)  # pyarrow's allocator
_SHARED = {
    "[eventpoll]": "an epoll (an event loop's, perhaps)",
    "[io_uring]": "an io_uring",
    "inotify": "an inotify",
    "[inotify]": "an inotify",
    "[timerfd]": "a timerfd",
    "[signalfd]": "a signalfd",
}
_SQLITE = b"SQLite format 3\0"


def why_not(own: Container[int]) -> str | None:
    """Say what would not survive a fork of this process; None if nothing is known.  `own` descriptors are ours."""
    # sys._current_frames also knows threads that were started behind threading's back.
    threads = len(sys._current_frames())
    if threads > 1:
        return f"its import started {threads - 1} Python thread(s)"
    thread = _strange_thread()
    if thread is not None:
        return f"its import started {thread}"
    for fd in linux.open_fds():
        if fd > 2 and fd not in own:
            what = _shared(fd)
            if what is not None:
                return f"its import left {what} open (descriptor {fd})"
    return None


def _strange_thread() -> str | None:
    """A native thread that is not known to survive."""
    own = _name("self")
    known = any(name in sys.modules for name in _POOLS)
    for task in os.listdir("/proc/self/task"):
        if int(task) == os.getpid():
            continue
        name = _name(f"self/task/{task}")
        if name in _THREADS_KNOWN or name is None:
            continue
        if name != own:
            return f"the native thread {name!r}"
        if not known:
            return "a native thread"
    return None


def _name(process: str) -> str | None:
    try:
        with open(f"/proc/{process}/comm", errors="backslashreplace") as file:
            return file.read().rstrip("\n")
    except OSError:  # it has ended meanwhile
        return None


def _shared(fd: int) -> str | None:
    """What an open descriptor is, if it must not be shared."""
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            return "a socket"
        link = os.readlink(f"/proc/self/fd/{fd}")
        if link.startswith("anon_inode:"):
            return _SHARED.get(link.removeprefix("anon_inode:"))
        if stat.S_ISREG(mode) and os.pread(fd, len(_SQLITE), 0) == _SQLITE:
            return "the SQLite database " + link
    except OSError:  # not to be read: no database of ours to judge
        return None
    return None
