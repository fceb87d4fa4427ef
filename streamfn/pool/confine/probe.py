"""What this machine allows, found out by trying: what may be written in /proc/sys about it is half of the truth.

Every means is tried in a process of its own (an Ubuntu lets anybody make a user namespace, and do nothing in it), and
the sandbox as a whole, walls and all.  Nothing is left behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NoReturn

from streamfn.pool import boot, linux
from streamfn.pool.confine import cgroup, idmap, landlock, namespaces, seccomp, storage, view, warden
from streamfn.pool.confine.isolation import SANDBOX, Isolation

_PATIENCE_S = 20


@dataclass(frozen=True)
class Means:
    """One thing that an environment is held with: whether it is to be had here, and more about it in words.

    `level` is what needs it: `sandbox` cannot be had without; `limits` has something else in its place; `""`: nothing
    needs it.
    """

    name: str
    level: str
    available: bool
    detail: str


@dataclass(frozen=True)
class Findings:
    """What the machine allows.  `lacking` is why there is no sandbox, None if there is one."""

    lacking: str | None
    means: tuple[Means, ...]


def survey() -> Findings:
    """Try everything, in processes that are gone afterwards; some 0.2 s.  OSError if none can be started."""
    told = linux.growing_memfd("streamfn-probe", append=False)
    try:
        command = boot.command("confine.probe", told)
        # The environment is ours: what is tried here is the machine, not a function.
        done = subprocess.run(
            command, pass_fds=[told], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False
        )
        text = os.pread(told, 1 << 20, 0)
    except subprocess.TimeoutExpired:
        return Findings(f"what this machine allows could not be found out within {_PATIENCE_S} s", ())
    finally:
        os.close(told)
    if not text:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason was given"]
        return Findings(f"what this machine allows could not be found out: {last[0]}", ())
    fields = json.loads(text)
    return Findings(fields["lacking"], tuple(Means(**each) for each in fields["means"]))


def lacking_for_sandbox() -> str | None:
    """Why there can be no sandbox here; None if there can."""
    return survey().lacking


def serve(fd: int) -> NoReturn:
    """Be the process that `survey` starts: write the findings to `fd`."""
    lacking = _tried(_whole)
    means = [*_of_sandbox(), *_of_limits()]
    os.pwrite(fd, json.dumps(asdict(Findings(lacking, tuple(means)))).encode(), 0)
    sys.exit(0)


def _of_sandbox() -> list[Means]:
    found = [
        _means("user namespaces", lambda: None, ""),
        _means("mount namespaces", lambda: linux.unshare(linux.CLONE_NEWNS), ""),
        _means("PID namespaces", _keeper, ""),
        _means("IPC namespaces", lambda: linux.unshare(linux.CLONE_NEWIPC), ""),
        _means("UTS namespaces", lambda: linux.unshare(linux.CLONE_NEWUTS), ""),
        _means("network namespaces", lambda: linux.unshare(linux.CLONE_NEWNET), "not needed with --allow-network"),
        _means("mounts, read only", _mounts, ""),
        _means("/proc of its own", _proc, "", alone=True),
    ]
    version = landlock.abi()
    notes = []
    if version < landlock.ABI_TRUNCATE:
        notes.append("truncate(2) is denied instead of watched over")
    if version < landlock.ABI_SCOPES:
        notes.append("no scopes: the namespaces alone keep signals and sockets in")
    detail = "; ".join([f"ABI {version}", *notes]) if version else "not in this kernel, or not switched on"
    found.append(Means("landlock", SANDBOX, version > 0, detail))
    found.append(_means("seccomp filters", _filter, "", alone=True))
    if os.geteuid() == 0:
        why = _tried(_idmapped)
        without = f"code that only root may read is copied instead: {why}"
        found.append(Means("idmapped mounts", "", why is None, "" if why is None else without))
    return found


def _of_limits() -> list[Means]:
    found = cgroup.survey()
    where = {name: place for place in found.places for name in place.controllers}
    instead = {
        cgroup.MEMORY: "a look every 20 ms and RLIMIT_DATA instead",
        cgroup.PIDS: "RLIMIT_NPROC instead" if os.geteuid() else "nothing, for root outside of a sandbox",
        cgroup.CPU: "a function has any share of the CPU",
    }
    rows = []
    for name in cgroup.CONTROLLERS:
        place = where.get(name)
        why = found.lacking.get(name, "")
        detail = f"{instead[name]}: {why}" if place is None else f"version {place.version}, in {place.path}"
        rows.append(Means(f"control group: {name}", "limits", place is not None, detail))
    why_not = _tried(lambda: storage.Spaces("/", 1 << 20))
    detail = "" if why_not is None else f"a directory that TMPDIR names instead: {why_not}"
    rows.append(Means("a /tmp of its own", "limits", why_not is None, detail))
    return rows


def _means(name: str, deed: Callable[[], object], detail: str, *, alone: bool = False) -> Means:
    """Try a deed, in a user namespace unless it can do without."""

    def whole() -> None:
        if not alone:
            namespaces.enter_user()
        deed()

    why = _tried(whole)
    return Means(name, SANDBOX, why is None, detail if why is None else why)


def _tried(deed: Callable[[], object]) -> str | None:
    """Do it in a child; give the reason why it failed, or None."""
    heard, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            deed()
        except OSError as error:
            os.write(tell, warden.words(error).encode())
        except BaseException as error:
            os.write(tell, str(error).encode() or type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(tell)
    with open(heard, "rb") as file:
        text = file.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return text or (linux.describe_exit(status) if status else None)


def _keeper() -> None:
    namespaces.Keeper().end()


def _mounts() -> None:
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    view.mount_tmp("/tmp", 1 << 20)
    os.mkdir("/tmp/usr")
    linux.mount("/usr", "/tmp/usr", flags=linux.MS_BIND | linux.MS_REC)
    view.set_read_only("/tmp/usr")


def _proc() -> None:
    """Mount one; where parts of the machine's are covered (containers do that), the kernel shows no uncovered one."""
    why = _behind(namespaces.enter_outer(network=True), lambda: linux.mount("proc", "/proc", "proc"))
    if why is not None:
        covered = "; parts of the machine's are covered, as in a container?" if "permitted" in why else ""
        raise warden.Unwalled(why + covered)


def _filter() -> None:
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(seccomp.outer(network=False, truncate=True))


def _idmapped() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    idmap.try_one(here, view.sandbox_ids()[0])


def _whole() -> None:
    """The whole sandbox, to the walls of a worker."""

    def inside() -> None:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        warden.raise_wall(Isolation(level=SANDBOX), warden.python_paths({}), None, storage_bytes=1 << 20)
        linux.prctl(linux.PR_SET_DUMPABLE, 1)  # an exec would do it
        with warden.step("the walls of a worker"):
            namespaces.Nursery("/", network=False, storage_bytes=1 << 20).try_out()

    why = _behind(warden.enter(network=False), inside)
    if why is not None:
        raise warden.Unwalled(why)


def _behind(keeper: namespaces.Keeper, deed: Callable[[], object]) -> str | None:
    """`_tried`, by the first child in the keeper's namespace."""
    try:
        return _tried(deed)
    finally:
        keeper.end()
