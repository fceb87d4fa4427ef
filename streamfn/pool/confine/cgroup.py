"""Control groups: what the kernel itself holds an execution environment to, where they may be written.

A runtime has one directory of its own, `streamfn-PID-` and a random number, in each hierarchy it may write to (version
1: one for memory, one for pids, one for cpu; version 2: one for all), and in it one group for each environment.  It
holds a lock on that directory for as long as it lives, however it ends; who finds such a directory unlocked sweeps it
away.

A process enters a group by itself, with descriptors that the runtime has opened: it needs neither the rights nor the
files for that, and whatever it allocates afterwards is counted there.  Version 1 takes a single thread in 40 us
(`tasks`); version 2 waits for the kernel's readers, 5 to 15 ms where no other process has just done so.

Version 2 has the rule that a group with processes in it divides nothing among groups below.  So the directory is made
where the rule allows it: in the nearest group upwards that we may write to and that hands controllers down already.
If there is none, and nobody but us is in our own group, we move one level down ourselves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from streamfn.pool.confine.locking import held_if_free, is_own_name, lock_directory, own_name
from streamfn.pool.confine.mounts import unescaped

MEMORY, PIDS, CPU = "memory", "pids", "cpu"
CONTROLLERS = (MEMORY, PIDS, CPU)
PREFIX = "streamfn-"
# What the CPU is shared out in: so much of every 20 ms.
PERIOD_US = 20_000
QUOTA_US_MIN = 1_000  # the kernel's own
_REMOVAL_S = 1.0  # how long a killed process may take to leave its group at our end
_NOWHERE = "no hierarchy of control groups has that controller"


class Place(NamedTuple):
    """A directory of the hierarchy of some controllers, and which version of control groups it is."""

    path: Path
    version: int
    controllers: frozenset[str]


class Hierarchies(NamedTuple):
    """Where the calling process stands, and for what there is no place: why, in words."""

    places: Sequence[Place]
    lacking: Mapping[str, str]


def standing(mountinfo: str, own: str) -> list[Place]:
    """Find the groups that a process is in, from its /proc/self/mountinfo and /proc/self/cgroup.

    Version 2 comes with no controllers: its own files tell which.  Groups that are not mounted, or outside of what is
    mounted (a container's view), are left out.
    """
    groups: dict[str, str] = {}  # by controller; version 2: by ""
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    found: list[Place] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, point = (unescaped(text) for text in before.split()[3:5])
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            names, version = {""}, 2
        elif kind == "cgroup":
            names, version = set(options.split(",")) & {MEMORY, PIDS, CPU}, 1
        else:
            continue
        paths = {groups[name] for name in names if name in groups}
        for path in paths:
            below = _below(root, path)
            if below is not None and not any(each.controllers == names - {""} for each in found):
                found.append(Place(Path(point, below), version, frozenset(names - {""})))
    return found


def _below(root: str, path: str) -> str | None:
    """The part of `path` that is below `root`; None if it is elsewhere."""
    if "/.." in path:
        return None
    rest = path.removeprefix(root.rstrip("/"))
    return rest.lstrip("/") if rest == "" or rest.startswith("/") else None


def survey() -> Hierarchies:
    """Find out, changing nothing, where this process could make groups, and for which controllers it could not."""
    try:
        found = standing(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    except OSError as error:
        return Hierarchies([], dict.fromkeys(CONTROLLERS, f"control groups cannot be read: {error.strerror}"))
    places: list[Place] = []
    lacking = dict.fromkeys(CONTROLLERS, _NOWHERE)
    for place in sorted(found, key=lambda each: each.version):  # a controller is in one hierarchy only
        if place.version == 1:
            if os.access(place.path, os.W_OK):
                places.append(place)
            else:
                lacking.update(dict.fromkeys(place.controllers, f"{place.path} may not be written to"))
        else:
            usable = _handed_down(place.path)
            why = f"no group from {place.path} upwards may be written to and hands that controller down"
            if usable is not None:
                places.append(usable)
                why = f"{usable.path} does not hand that controller down"
            lacking.update({name: why for name, known in lacking.items() if known == _NOWHERE})
    for place in places:
        for name in place.controllers:
            lacking.pop(name, None)
    return Hierarchies(places, lacking)


def _handed_down(own: Path) -> Place | None:
    """The nearest group of version 2, from our own upwards, in which ours can be made, with what it would have."""
    if os.access(own, os.W_OK) and _is_alone(own):
        has = _words(own / "cgroup.controllers") & set(CONTROLLERS)
        if has:
            return Place(own, 2, frozenset(has))
    for path in (own, *own.parents):
        if not (path / "cgroup.subtree_control").exists():
            return None  # above the hierarchy's root
        has = _words(path / "cgroup.subtree_control") & set(CONTROLLERS)
        # Moving a process takes the right to write where the two groups' ways meet: here.
        if has and os.access(path, os.W_OK) and os.access(path / "cgroup.procs", os.W_OK):
            return Place(path, 2, frozenset(has))
    return None


def _is_alone(path: Path) -> bool:
    """Whether nobody is in that group but this process."""
    with contextlib.suppress(OSError):
        return {int(pid) for pid in path.joinpath("cgroup.procs").read_text().split()} <= {os.getpid()}
    return False


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


class Groups:
    """The groups of one runtime.  Call `close` when every process of it has ended."""

    def __init__(self) -> None:
        """Make the runtime's own directories, where that can be done, and sweep those of runtimes that are gone."""
        self._homes: list[Place] = []
        self._locks: list[int] = []
        self._left: list[Group] = []
        found = survey()
        self.lacking = dict(found.lacking)
        name = own_name(PREFIX)
        for place in found.places:
            sweep(place.path)
            try:
                self._homes.append(self._settle(place, name))
            except OSError as error:
                why = f"{error.filename or place.path}: {error.strerror}"
                self.lacking.update(dict.fromkeys(place.controllers, why))

    def _settle(self, place: Place, name: str) -> Place:
        home = place.path / name
        lock = lock_directory(home)
        self._locks.append(lock)
        try:
            if place.version == 2:
                self._hand_down(place, home)
        except OSError:
            _remove(home)
            raise
        return place._replace(path=home)

    def _hand_down(self, place: Place, home: Path) -> None:
        """Let groups below `home` have the controllers."""
        wanted = " ".join(f"+{name}" for name in sorted(place.controllers))
        if not place.controllers <= _words(place.path / "cgroup.subtree_control"):
            # Only in a group of our own, in which nobody else is: we step aside, and it may divide.
            aside = home / "runtime"
            aside.mkdir()
            _write(aside / "cgroup.procs", "0")
            _write(place.path / "cgroup.subtree_control", wanted)
        _write(home / "cgroup.subtree_control", wanted)

    @property
    def held(self) -> frozenset[str]:
        """The controllers that groups of this runtime have."""
        return frozenset(name for home in self._homes for name in home.controllers)

    @property
    def is_quick(self) -> bool:
        """Whether entering a group costs next to nothing (version 1)."""
        return bool(self._homes) and all(home.version == 1 for home in self._homes)

    def group(self, name: str, *, memory_bytes: int | None, processes: int) -> Group:
        """Make a group: at most so many bytes (None: any, and any share of the CPU), so many processes and threads.

        OSError if the kernel refuses; nothing is left then.
        """
        self.tidy()
        wanted = {PIDS} if memory_bytes is None else set(CONTROLLERS)
        homes = [home for home in self._homes if home.controllers & wanted]
        group = Group([home._replace(path=home.path / name) for home in homes])
        try:
            group.make(memory_bytes, processes)
        except OSError:
            self.drop(group)
            raise
        return group

    def drop(self, group: Group) -> None:
        """Kill whatever is in a group, and remove it as soon as the last of that is gone."""
        group.release()
        if not group.end():
            self._left.append(group)

    def tidy(self) -> None:
        """Remove the groups whose last process has ended meanwhile."""
        self._left = [group for group in self._left if not group.end()]

    def close(self) -> None:
        """Remove everything; waits, for a second at most, for processes that are being killed."""
        deadline = time.monotonic() + _REMOVAL_S
        self.tidy()
        while self._left and time.monotonic() < deadline:
            time.sleep(0.002)
            self.tidy()
        for home in self._homes:
            self._step_back(home)
            _remove(home.path)
        for lock in self._locks:
            os.close(lock)
        self._homes.clear()
        self._locks.clear()

    def _step_back(self, home: Place) -> None:
        """Undo what `_hand_down` did for want of another place."""
        if (home.path / "runtime").exists():
            parent = home.path.parent
            with contextlib.suppress(OSError):
                _write(home.path / "cgroup.subtree_control", " ".join(f"-{each}" for each in sorted(home.controllers)))
                _write(parent / "cgroup.subtree_control", " ".join(f"-{each}" for each in sorted(home.controllers)))
                _write(parent / "cgroup.procs", str(os.getpid()))
            _remove(home.path / "runtime")


class Group:
    """One group: a directory in each hierarchy.  Made by `Groups.group`, ended by `Groups.drop`.

    `doors` are descriptors; who writes "0" to each of them is in the group (`enter`).
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.doors: list[int] = []
        self._places = places
        self._by_controller = {name: place for place in places for name in place.controllers}

    def make(self, memory_bytes: int | None, processes: int) -> None:
        """See `Groups.group`."""
        for place in self._places:
            place.path.mkdir()
            door = "tasks" if place.version == 1 else "cgroup.procs"
            self.doors.append(os.open(place.path / door, os.O_WRONLY | os.O_CLOEXEC))
        if PIDS in self._by_controller:
            _write(self._by_controller[PIDS].path / "pids.max", str(processes))
        if memory_bytes is not None and MEMORY in self._by_controller:
            self._limit_memory(self._by_controller[MEMORY], memory_bytes)

    def _limit_memory(self, place: Place, limit: int) -> None:
        first, second = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        if place.version == 2:
            first, second = ("memory.max", "memory.swap.max")
        _write(place.path / first, str(limit))
        # A hog is to be ended, and not to be moved out into swap; kernels without swap accounting have no such file.
        with contextlib.suppress(FileNotFoundError):
            _write(place.path / second, str(limit if place.version == 1 else 0))
        if place.version == 2:
            with contextlib.suppress(FileNotFoundError):
                _write(place.path / "memory.oom.group", "1")

    def release(self) -> None:
        """Close the doors: who is to enter has been given them."""
        for door in self.doors:
            os.close(door)
        self.doors.clear()

    def throttle(self, vcpus: float) -> None:
        """Let its processes have so many CPUs, a fraction or several, and no more.  OSError if that is refused."""
        place = self._by_controller.get(CPU)
        if place is None:
            return
        quota = max(QUOTA_US_MIN, round(vcpus * PERIOD_US))
        if place.version == 2:
            _write(place.path / "cpu.max", f"{quota} {PERIOD_US}")
        else:
            _write(place.path / "cpu.cfs_period_us", str(PERIOD_US))
            _write(place.path / "cpu.cfs_quota_us", str(quota))

    @property
    def is_anywhere(self) -> bool:
        """Whether any hierarchy has a directory of it."""
        return bool(self._places)

    def processes(self) -> list[int]:
        """List who is in it; threads are not listed."""
        with contextlib.suppress(OSError):
            for place in self._places:
                return [int(pid) for pid in (place.path / "cgroup.procs").read_text().split()]
        return []

    def kills(self) -> int:
        """How many processes the kernel has killed here because there was no more memory to be had."""
        place = self._by_controller.get(MEMORY)
        if place is None:
            return 0
        with contextlib.suppress(OSError):
            text = (place.path / ("memory.oom_control" if place.version == 1 else "memory.events")).read_text()
            for line in text.splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        return 0

    def end(self) -> bool:
        """Kill whatever is in it, and remove it.  False if something has not ended yet: call again."""
        done = True
        for place in self._places:
            _kill_all(place)
            done = _remove(place.path) and done
        return done


def of(pid: int) -> str:
    """Name the control groups a process is in; all that have ended are in the same one."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def enter(doors: Sequence[int]) -> None:
    """Put the calling process, which has one thread, into a group, and close the doors.  OSError if it is refused."""
    for door in doors:
        os.write(door, b"0")
        os.close(door)


def sweep(parent: Path) -> None:
    """Remove what runtimes have left in a group whose lock they do not hold any more: they were killed."""
    for home in _directories(parent):
        if is_own_name(home.name, PREFIX):
            with contextlib.suppress(OSError), held_if_free(home):
                _sweep_away(home)


def _sweep_away(home: Path) -> None:
    deadline = time.monotonic() + _REMOVAL_S
    while not _remove(home) and time.monotonic() < deadline:
        for group in _directories(home):
            _kill_all(Place(group, 2 if (group / "cgroup.type").exists() else 1, frozenset()))
            _remove(group)
        time.sleep(0.001)


def _directories(path: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        yield from [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _kill_all(place: Place) -> None:
    """SIGKILL every process of a group; none can be added meanwhile where it has the pids controller."""
    with contextlib.suppress(OSError):
        if place.version == 2:
            with contextlib.suppress(FileNotFoundError):  # before Linux 5.14
                return _write(place.path / "cgroup.kill", "1")
        listing = place.path / "cgroup.procs"
        if not listing.read_text():
            return None
        with contextlib.suppress(OSError):
            _write(place.path / "pids.max", "0")
        seen: set[str] = set()
        while new := set(listing.read_text().split()) - seen:
            seen |= new
            _kill_listed(new, listing)
    return None


def _kill_listed(pids: set[str], listing: Path) -> None:
    files: dict[str, int] = {}
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                files[pid] = os.pidfd_open(int(pid))
        # A number that is listed again had not been given to somebody else when the pidfd was opened.
        for pid in files.keys() & set(listing.read_text().split()):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(files[pid], signal.SIGKILL)
    finally:
        for file in files.values():
            os.close(file)


def _remove(path: Path) -> bool:
    """Remove a group.  False if something is in it."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def _write(path: Path, text: str) -> None:
    """Write a setting in one system call, as the kernel wants it."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(file)
