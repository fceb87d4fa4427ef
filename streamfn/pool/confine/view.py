"""The file system as a sandbox sees it: a new root, and in it what a function needs, read only.

    /usr /bin /lib...   the system, and what Python is made of, wherever that lies
    code, layers        at the very paths they have outside
    /etc                certificates and how names are looked up; users of its own
    /dev                null, zero, full, random, urandom
    /tmp                its own, empty, limited in size
    /proc               that of its own PID namespace

Nothing else has a name in it.  The old root is let go of at the end, so nothing can lead back.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping

from streamfn.pool import linux
from streamfn.pool.confine import copying, mounts, seccomp
from streamfn.pool.confine.limits import STORAGE_BYTES_DEFAULT
from streamfn.pool.confine.mounts import NODEV, NOSUID, RDONLY, mount_memory

_SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store",
    "/etc/alternatives", "/etc/crypto-policies", "/etc/fonts", "/etc/pki/ca-trust/extracted", "/etc/pki/tls/certs",
    "/etc/ssl/certs", "/sys/devices/system/cpu",
)  # fmt: skip
_COPIED = (
    "/etc/gai.conf", "/etc/host.conf", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf",
    "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf", "/etc/protocols", "/etc/services", "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
)  # fmt: skip
_NETWORK = ("/etc/hosts", "/etc/resolv.conf")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# What of a system cannot be shown under its own name, because a sandbox has its own.
_OWN = ("/", "/dev", "/etc", "/proc", "/sys", "/tmp")
USER = "sbx_user1051"  # as in Lambda

_BASE = "/tmp"  # any directory that exists; it is covered for a moment, for us alone
OLD, NEW = "/old", "/new"
_LINKS_MAX = 40
_SMALL = "16m"  # directories, and files that are written here


def set_read_only(target: str) -> None:
    """Make a mount, and those below it, read only, without devices and setuid."""
    mounts.set_attributes(target, RDONLY | NOSUID | NODEV)


class Unshowable(Exception):
    """A path cannot be shown; the text says which and why."""


def build(
    readable: Iterable[str],
    hidden: Iterable[str],
    instead: Mapping[str, int] | None,
    *,
    network: bool,
    storage_bytes: int | None,
) -> None:
    """Make the view, and make it the root of this process, in a mount namespace of its own.

    `readable` are absolute paths; those that do not exist are left out.  `hidden` are directories that are empty in
    it: what lies around them is shown piece by piece, because a mount over them could be gone around (the zygote may
    mount).  `instead`, if the user changes, are mounts to show in place of some of them (see `idmap`); of the others,
    what the new user could not read is copied.  The process needs CAP_SYS_ADMIN over its mount namespace,
    and to be in the PID namespace that /proc is to show.  OSError names the path of what is refused; Unshowable.
    """
    os.umask(0o022)
    uid, gid = sandbox_ids()  # as /proc says, which is covered in a moment
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    mount_memory(_BASE, _SMALL)
    os.mkdir(_BASE + OLD)
    os.mkdir(_BASE + NEW)
    _pivot(_BASE, _BASE + OLD)
    os.chdir("/")
    mount_memory(NEW, _SMALL)
    view = _View(instead, frozenset(OLD + path for path in hidden))
    for name in ("/proc", "/dev", "/etc", "/tmp"):
        os.mkdir(NEW + name)
    mount_tmp(NEW + "/tmp", storage_bytes)
    for path in (*_SYSTEM, *sorted(set(readable))):
        view.show(path)
    for path in (*_COPIED, *(_NETWORK if network else ())):
        view.copy(path)
    view.write("/etc/passwd", f"root:x:0:0:root:/root:/sbin/nologin\n{USER}:x:{uid}:{gid}::/tmp:/sbin/nologin\n")
    view.write("/etc/group", f"root:x:0:\n{USER}:x:{gid}:\n")
    if not network:
        view.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    _make_devices()
    linux.mount("proc", NEW + "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    mounts.set_attributes(NEW, RDONLY, recursive=False)
    os.chdir(NEW)
    _pivot(".", ".")
    linux.unmount(".")
    os.chdir("/")


def mount_tmp(target: str, storage_bytes: int | None) -> None:
    """Mount an empty /tmp of that size (None: Lambda's 512 MB) over `target`."""
    mount_memory(target, STORAGE_BYTES_DEFAULT if storage_bytes is None else storage_bytes, "1777")


class _View:
    """The new root while it is being made: `OLD` and `NEW` are the old one and the new one."""

    def __init__(self, instead: Mapping[str, int] | None, hidden: frozenset[str]) -> None:
        self._instead = instead or {}
        self._copies = instead is not None
        self._hidden = hidden
        self._shown: list[str] = []

    def show(self, path: str) -> None:
        """Let `path` be there, and the links that lead to it."""
        real = self._resolve(path, link=True)
        if not os.path.lexists(OLD + real) or self._is_shown(real):
            return
        if real in _OWN:
            raise Unshowable(
                f"{path} cannot be read as a whole in a sandbox, which has a {real} of its own: "
                "put the code into a directory below it"
            )
        target = NEW + real
        if os.path.isdir(OLD + real):
            os.makedirs(target, exist_ok=True)
        else:
            self._make_file(real, b"")
        if any(_lies_in(OLD + real, each) for each in self._hidden):  # it is in what is hidden
            return
        if any(_lies_in(each, OLD + real) for each in self._hidden):
            self._show_around(real, target)
        elif real in self._instead:
            mounts.attach(self._instead[real], target)
        elif self._copies and path not in _SYSTEM and not copying.is_readable_by_all(OLD + real, self._hidden):
            self._copy_tree(real, target)
        else:
            linux.mount(OLD + real, target, flags=linux.MS_BIND | linux.MS_REC)
        if os.path.ismount(target):
            set_read_only(target)
        self._shown.append(real)

    def _show_around(self, real: str, target: str) -> None:
        """Let a directory be there with everything in it but what is hidden."""
        mount_memory(target, _SMALL)
        for path in around(OLD + real, self._hidden):
            inside = path.removeprefix(OLD)
            if path in self._hidden:
                os.makedirs(NEW + inside)
            elif os.path.islink(path):
                os.makedirs(os.path.dirname(NEW + inside), exist_ok=True)
                os.symlink(os.readlink(path), NEW + inside)
            else:
                with contextlib.suppress(FileNotFoundError):  # somebody has removed it meanwhile
                    self.show(inside)

    def _copy_tree(self, real: str, target: str) -> None:
        try:
            if os.path.isdir(target):
                mount_memory(target, copying.BYTES_MAX)
                copying.copy_for_all(OLD + real, target, self._hidden)
            elif os.path.isfile(OLD + real):
                with open(OLD + real, "rb") as source, open(target, "wb") as file:
                    file.write(source.read())
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise Unshowable(
                f"{real} can only be read by root, and is larger than the {copying.BYTES_MAX >> 20} MB that are copied "
                "into a sandbox: give others the right to read it"
            ) from None

    def copy(self, path: str) -> None:
        """Let `path` be there as a copy; nothing if it cannot be read."""
        with contextlib.suppress(OSError), open(OLD + self._resolve(path, link=False), "rb") as file:
            self._make_file(path, file.read())

    def write(self, path: str, text: str) -> None:
        """Let there be a file with this text."""
        self._make_file(path, text.encode())

    def _is_shown(self, real: str) -> bool:
        return any(_lies_in(real, each) for each in self._shown)

    def _make_file(self, path: str, content: bytes) -> None:
        if self._is_shown(path):
            return
        os.makedirs(os.path.dirname(NEW + path), exist_ok=True)
        with open(NEW + path, "wb") as file:
            file.write(content)

    def _resolve(self, path: str, *, link: bool) -> str:
        """Follow links as they were in the old root; with `link` they are made in the new one too."""
        done = ""
        rest = path.split("/")[::-1]
        links = 0
        while rest:
            part = rest.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = os.path.dirname(done)
                continue
            here = f"{done}/{part}"
            try:
                target = os.readlink(OLD + here)
            except OSError:
                done = here
                continue
            links += 1
            if links > _LINKS_MAX:
                raise Unshowable(f"{path} goes through more than {_LINKS_MAX} links")
            if link and not self._is_shown(here) and not os.path.lexists(NEW + here):
                os.makedirs(os.path.dirname(NEW + here), exist_ok=True)
                os.symlink(target, NEW + here)
            if target.startswith("/"):
                done = ""
            rest += target.split("/")[::-1]
        return done or "/"


def around(directory: str, hidden: Collection[str]) -> Iterator[str]:
    """List what is in a directory: in place of a directory that something hidden lies in, what is in that."""
    for name in sorted(os.listdir(directory)):
        path = f"{directory}/{name}"
        if path not in hidden and any(_lies_in(each, path) for each in hidden) and not os.path.islink(path):
            yield from around(path, hidden)
        else:
            yield path


def _lies_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")


def sandbox_ids() -> tuple[int, int]:
    """Give the user and group id that code in the sandbox has: nobody's if it is root that asks, else our own.

    Root of the machine stays so to the kernel in any namespace: /proc/sys would be its to write.
    """
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    return (_NOBODY, _NOBODY) if _is_mapped(_NOBODY) else (0, os.getegid())


_NOBODY = 65534


def _is_mapped(uid: int) -> bool:
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(first <= uid < first + count for first, _, count in ranges)


def _make_devices() -> None:
    for device in DEVICES:
        with open(NEW + device, "wb"):
            pass
        linux.mount(OLD + device, NEW + device, flags=linux.MS_BIND)
        mounts.set_attributes(NEW + device, NOSUID)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{NEW}/dev/{name}")


def _pivot(root: str, old: str) -> None:
    number = seccomp.number("pivot_root")
    assert number is not None
    linux.syscall(number, os.fsencode(root), os.fsencode(old))
