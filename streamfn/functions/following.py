"""Following the code of functions that run: a change on the disk is one call, when the disk has come to rest.

    directories of code ─inotify─▶ which functions ─▶ rest ─▶ digest ─▶ another one: `changed`

One inotify descriptor serves all functions of a runtime, and nothing is done while nothing changes. The directories are
watched before a function's Init begins, so no change is missed between what Init read and the first digest.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Hashable, Iterable
from pathlib import Path

import trio

from streamfn.functions.code import CodeFiles, is_code, is_left_out
from streamfn.log.storage import libc
from streamfn.state.functions import Code

# Editors write in steps, and a checkout of many files takes a while: what is looked at has been let alone for so long,
# or is looked at all the same.
REST_S = 0.05
RESTLESS_S = 2.0
# A code directory that is away cannot be watched: whether it is back is looked at so often.
AWAY_S = 0.5
# The first digest reads all of the code: not in the moments in which a run begins, and a short one needs none.
FIRST_S = 1.0

Changed = Callable[[Code], Awaitable[None]]

_SELF = libc.IN_DELETE_SELF | libc.IN_MOVE_SELF  # a directory is replaced by another one of its name
_MASK = libc.IN_CLOSE_WRITE | libc.IN_MOVED_FROM | libc.IN_MOVED_TO | libc.IN_CREATE | libc.IN_DELETE | _SELF


class CodeWatch:
    """Says whose directories of code have changed. Not thread-safe.

    A key may be told without news; where more happened than the system remembers, all are told.
    """

    def __init__(self) -> None:
        """OSError: the system's limit of watchers is reached."""
        self._fd = libc.inotify_init()
        self._keys: dict[int, set[Hashable]] = {}
        self._watches: dict[Hashable, set[int]] = {}

    def fileno(self) -> int:
        """The descriptor that becomes readable when `drain` has something to say."""
        return self._fd

    def watch(self, key: Hashable, directories: Iterable[Path]) -> None:
        """Tell `key` of changes of code in these directories, and of no others any more.

        A directory that is gone is left out.

        Raises:
            OSError: the system's limit of watches is reached; then some are not watched.
        """
        now: set[int] = set()
        try:
            for directory in directories:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    watch = libc.inotify_add(self._fd, str(directory), _MASK)
                    now.add(watch)
                    self._keys.setdefault(watch, set()).add(key)
        finally:
            for watch in self._watches.get(key, set()) - now:
                self._forget(key, watch)
            self._watches[key] = now

    def forget(self, key: Hashable) -> None:
        """Tell `key` nothing any more; harmless twice."""
        for watch in self._watches.pop(key, set()):
            self._forget(key, watch)

    def drain(self) -> set[Hashable]:
        """The keys of what has changed since the last call. Never blocks."""
        told: set[Hashable] = set()
        for watch, mask, name_bytes in libc.inotify_events(self._fd):
            name = os.fsdecode(name_bytes)
            if mask & libc.IN_Q_OVERFLOW:
                told.update(self._watches)
            elif mask & libc.IN_IGNORED:  # the directory is gone, and its watch with it
                for key in self._keys.pop(watch, ()):
                    self._watches[key].discard(watch)
            elif mask & _SELF or (not is_left_out(name) if mask & libc.IN_ISDIR else is_code(name)):
                told.update(self._keys.get(watch, ()))
        return told

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)

    def _forget(self, key: Hashable, watch: int) -> None:
        keys = self._keys.get(watch, set())
        keys.discard(key)
        if not keys and self._keys.pop(watch, None) is not None:
            libc.inotify_remove(self._fd, watch)


class Followed:
    """The code of one function. Made by `Following.watch`."""

    def __init__(self, files: CodeFiles) -> None:
        self.files = files
        self.stirred = trio.Event()
        self.scope = trio.CancelScope()


class Following:
    """Follows the code of a runtime's functions. `say` takes a line for whoever runs them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._refused = False
        self._waiting: list[tuple[Followed, Changed]] = []
        self._followed: set[Followed] = set()
        self._nursery: trio.Nursery | None = None
        self._watch: CodeWatch | None = None
        try:
            self._watch = CodeWatch()
        except OSError as error:
            self._error = error

    async def run(self) -> None:
        """Follow, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for followed, changed in self._waiting:
                    nursery.start_soon(self._follow, followed, changed)
                self._waiting.clear()
                while self._watch is not None:
                    await trio.lowlevel.wait_readable(self._watch.fileno())
                    self._stir(self._watch)
        finally:
            self._nursery = None

    async def watch(self, code_dir: str, handler: str) -> Followed | None:
        """Begin to watch a function's code, before its Init. None, and said once, if the system does not let us."""
        files = CodeFiles(code_dir, handler)
        followed = Followed(files)
        await trio.to_thread.run_sync(files.look)
        try:
            if self._watch is None:
                raise self._error
            self._watch.watch(followed, files.directories)
        except OSError as error:
            self._refuse(followed, error)
            return None
        self._followed.add(followed)
        return followed

    def begin(self, followed: Followed, changed: Changed) -> None:
        """Call `changed` with the code whenever it is another than before; one such call at a time."""
        if self._nursery is None:
            self._waiting.append((followed, changed))
        else:
            self._nursery.start_soon(self._follow, followed, changed)

    def end(self, followed: Followed) -> None:
        """Follow no longer; harmless twice."""
        followed.scope.cancel()
        self._followed.discard(followed)
        if self._watch is not None:
            self._watch.forget(followed)

    def close(self) -> None:
        """Let everything go; `run` has ended."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def _follow(self, followed: Followed, changed: Changed) -> None:
        files = followed.files
        with followed.scope:
            with trio.move_on_after(FIRST_S):
                await followed.stirred.wait()
            code = await trio.to_thread.run_sync(files.code)
            # What has stirred by now may be in that digest, and not in what Init read: it is a change.
            if self._watch is not None:
                self._stir(self._watch)
            stirred = followed.stirred.is_set()
            while True:
                await followed.stirred.wait()
                await self._rest(followed)
                await trio.to_thread.run_sync(files.look)  # directories that are new are watched before they are read
                self._watch_anew(followed)
                now = await trio.to_thread.run_sync(files.code)
                if stirred or now.digest != code.digest:
                    stirred, code = False, now
                    await changed(now)

    def _stir(self, watch: CodeWatch) -> None:
        for key in watch.drain():
            assert isinstance(key, Followed)
            key.stirred.set()

    async def _rest(self, followed: Followed) -> None:
        """Wait until the code has been let alone."""
        with trio.move_on_after(RESTLESS_S):
            while followed.stirred.is_set():
                followed.stirred = trio.Event()
                await trio.sleep(REST_S)
        followed.stirred = trio.Event()
        while not await trio.to_thread.run_sync(followed.files.is_there):  # noqa: ASYNC110 (nothing tells of it)
            await trio.sleep(AWAY_S)

    def _watch_anew(self, followed: Followed) -> None:
        """Watch the directories that there are now."""
        if self._watch is not None and followed in self._followed:
            try:
                self._watch.watch(followed, followed.files.directories)
            except OSError as error:
                self._refuse(followed, error)

    def _refuse(self, followed: Followed, error: OSError) -> None:
        if self._watch is not None:
            self._watch.forget(followed)
        if not self._refused:
            self._refused = True
            self._say(f"changes of code are not followed: {error.strerror}; see /proc/sys/fs/inotify")
