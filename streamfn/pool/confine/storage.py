"""A /tmp of its own for each environment, of limited size: Lambda's ephemeral storage.

It lies in memory (tmpfs) and over the machine's /tmp, in a mount namespace.  The namespace is the environment's: the
zygote makes it, holds it, and forks the worker into it, so that the process which replaces one that crashed or timed
out finds its files again, as in Lambda, whose reset does not clear /tmp either (Lambda Developer Guide, "Lambda
execution environment lifecycle").  It goes with its last holder, however that ends: nothing is to be removed.

Directories that are in the machine's /tmp when the zygote starts are seen through it: code, data directories and what a
test has prepared often lie there.  They are the machine's: what is written there is neither limited nor wiped.

Where there are no mount namespaces to be had, each environment has a directory of its own that TMPDIR names, and
somebody has to look how large it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from streamfn.pool import linux
from streamfn.pool.confine.copying import copy_file
from streamfn.pool.confine.locking import held_if_free, is_own_name, lock_directory, own_name
from streamfn.pool.confine.mounts import mount_memory, unescaped
from streamfn.pool.confine.privileges import CAP_SYS_ADMIN, CAP_SYS_CHROOT, keep_capabilities, unshare_keeping_ids

TMP = "/tmp"
PREFIX = "streamfn-tmp-"
_NAMESPACE = "/proc/thread-self/ns/mnt"


class Tmp(Protocol):
    """What gives each of a zygote's environments, by their numbers, a place for temporary files."""

    def child(self, number: int, *, fresh: bool) -> contextlib.AbstractContextManager[None]:
        """Have the process that is forked in the block live in the environment of this number; OSError if it cannot.

        `fresh`: it finds nothing there, but for what Init has left.
        """

    def wipe(self, number: int) -> None:
        """Let an environment's files go; nothing if there are none."""

    def let_go(self) -> None:
        """In the child: what was the zygote's is not the worker's."""


class Spaces:
    """The mount namespaces of a zygote's environments, by their numbers.  Made before any of the user's code runs."""

    def __init__(self, code_dir: str, size_bytes: int, *, walled: bool = False) -> None:
        """Put the calling process into a namespace with a /tmp of its own.  OSError if there are none to be had.

        An ordinary user needs a user namespace for that; in it the ids are what they were.  `walled`: it is in a
        sandbox, so that has been done, and what is seen through a /tmp is what is mounted below that one.
        """
        self._code_dir = code_dir
        self._size = size_bytes
        self._kept: dict[int, int] = {}
        self._is_user = False
        if walled:
            self._through: Sequence[str] = mounts_below(TMP)
        else:
            self._is_user = _enter_own()
            linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
            self._through = directories(TMP)
            lay_over(self._size, self._through, copy=False)
            os.chdir(code_dir)
        self._own = _open_namespace()

    @contextlib.contextmanager
    def child(self, number: int, *, fresh: bool) -> Iterator[None]:
        """See `Tmp`; what Init has left in the zygote's /tmp is copied."""
        if fresh:
            self.wipe(number)
        try:
            if number in self._kept:
                linux.setns(self._kept[number], linux.CLONE_NEWNS)
            else:
                linux.unshare(linux.CLONE_NEWNS)
                lay_over(self._size, self._through, copy=True)
                self._kept[number] = _open_namespace()
            os.chdir(self._code_dir)
            yield
        finally:
            linux.setns(self._own, linux.CLONE_NEWNS)
            os.chdir(self._code_dir)

    def wipe(self, number: int) -> None:
        """See `Tmp`: they go as soon as no process is left there."""
        kept = self._kept.pop(number, None)
        if kept is not None:
            os.close(kept)

    def let_go(self) -> None:
        """See `Tmp`."""
        for namespace in (self._own, *self._kept.values()):
            os.close(namespace)
        if self._is_user:
            keep_capabilities(())


class Folders:
    """Directories that TMPDIR names, where mount namespaces are not to be had; their size is watched (`size_of`)."""

    def __init__(self, home: Path) -> None:
        """Make `home`, and let the calling process use a directory in it.  OSError."""
        self._home = home
        self._lock = lock_directory(home)
        self._use(home / "init")

    @contextlib.contextmanager
    def child(self, number: int, *, fresh: bool) -> Iterator[None]:
        """See `Tmp`; what Init has left stays in Init's own directory."""
        if fresh:
            self.wipe(number)
        self._use(self._home / str(number))
        try:
            yield
        finally:
            self._use(self._home / "init")

    def wipe(self, number: int) -> None:
        """See `Tmp`."""
        shutil.rmtree(self._home / str(number), ignore_errors=True)

    def let_go(self) -> None:
        """See `Tmp`."""
        os.close(self._lock)

    def _use(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        os.environ["TMPDIR"] = str(directory)
        tempfile.tempdir = None


def folder_home() -> Path:
    """Give a directory's name for `Folders` of a function of this process; nothing is there yet."""
    return Path(tempfile.gettempdir(), own_name(PREFIX))


def sweep_folders() -> None:
    """Remove directories of `Folders` of this user whose zygote is gone: its runtime was killed."""
    for home in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), held_if_free(home):
            if is_own_name(home.name, PREFIX) and home.stat().st_uid == os.geteuid():
                shutil.rmtree(home, ignore_errors=True)


def size_of(directory: Path) -> int:
    """Give the bytes that the files below a directory take up; what vanishes meanwhile counts or not."""
    found = 0
    for path, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(os.path.join(path, name)).st_blocks * 512
    return found


def directories(path: str) -> list[str]:
    """List the directories in a directory that can be entered."""
    with os.scandir(path) as entries:
        return sorted(
            entry.path for entry in entries if entry.is_dir(follow_symlinks=False) and os.access(entry.path, os.X_OK)
        )


def lay_over(size_bytes: int, through: Sequence[str], *, copy: bool) -> None:
    """Mount an empty /tmp over the one there is, in a mount namespace of the caller's own.

    The files and directories named in `through` are still seen, themselves; `copy`: of all other files that the old
    one has, copies.
    """
    before = os.open(TMP, os.O_PATH | os.O_CLOEXEC)
    places: list[tuple[str, int]] = []
    try:
        for path in through:
            with contextlib.suppress(FileNotFoundError):  # somebody has removed it meanwhile
                places.append((path, os.open(path, os.O_PATH | os.O_CLOEXEC)))
        mount_memory(TMP, size_bytes, "1777")
        for path, place in places:
            with contextlib.suppress(FileNotFoundError):
                _show(path, f"/proc/self/fd/{place}")
        if copy:
            _copy_missing(f"/proc/self/fd/{before}", TMP)
    finally:
        for place in (before, *(place for _, place in places)):
            os.close(place)


def mounts_below(directory: str) -> list[str]:
    """List the mount points below a directory, outermost first, and none that lies in another."""
    found: list[str] = []
    with open("/proc/self/mountinfo") as file:
        points = sorted(unescaped(line.split()[4]) for line in file)
    for point in points:
        if point.startswith(directory + "/") and not any(point.startswith(each + "/") for each in found):
            found.append(point)
    return found


def _show(path: str, place: str) -> None:
    if os.path.isdir(place):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    linux.mount(place, path, flags=linux.MS_BIND | linux.MS_REC)


def _copy_missing(source: str, target: str) -> None:
    """Copy what is not there yet; directories that exist are gone into, mount points are not."""
    with os.scandir(source) as entries:
        for entry in entries:
            there = f"{target}/{entry.name}"
            if os.path.ismount(there):
                continue
            if entry.is_dir(follow_symlinks=False):
                os.makedirs(there, exist_ok=True)
                _copy_missing(entry.path, there)
            elif entry.is_symlink():
                os.symlink(os.readlink(entry.path), there)
            elif entry.is_file():
                copy_file(entry.path, there, entry.stat().st_mode & 0o7777)


def _enter_own() -> bool:
    """Enter a new mount namespace, in a new user namespace if need be: whether that was needed."""
    try:
        linux.unshare(linux.CLONE_NEWNS)
    except PermissionError:
        unshare_keeping_ids(linux.CLONE_NEWNS)
        # All that is needed for more namespaces; over nothing that is not ours.
        keep_capabilities((CAP_SYS_ADMIN, CAP_SYS_CHROOT))
        linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_CLEAR_ALL)
        return True
    return False


def _open_namespace() -> int:
    return os.open(_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
