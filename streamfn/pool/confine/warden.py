"""The warden: the process outside a sandbox's outer wall that puts it up, and waits for its end.

    runtime ─exec─▶ warden ─ namespaces ─▶ keeper (process 1)
                                      └──▶ view, user, capabilities, filter ─exec─▶ zygote

None of the user's code runs before the wall stands, and nothing of the user's configuration has a say in it: the
function's environment (PYTHONPATH, LD_PRELOAD) is the zygote's alone.  Everything inside is gone before the warden
ends, as the zygote did.  It ends the zygote when the runtime ends, and is itself taken along by the runtime's kill.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import site
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import streamfn
from streamfn.pool import boot, linux, protocol
from streamfn.pool.confine import idmap, landlock, namespaces, seccomp, shelf, view
from streamfn.pool.confine.isolation import Isolation

_KEYCTL_JOIN_SESSION_KEYRING = 1
# Variables that name files which must be there for a function's libraries.
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class Unwalled(Exception):
    """The wall cannot be put up here; the text says which part, and what the machine said."""


def note(
    control: int, *, code_dir: str, environment: Mapping[str, str], isolation: Isolation, storage_bytes: int | None
) -> int:
    """Make the memfd that tells a warden what to do; the caller closes it."""
    fd = linux.growing_memfd("streamfn-sandbox", append=False)
    fields = {
        "control": control,
        "runtime_pid": os.getpid(),
        "code_dir": code_dir,
        "environment": dict(environment),
        "isolation": isolation.to_json(),
        "storage_bytes": storage_bytes,
    }
    os.write(fd, json.dumps(fields).encode())
    return fd


def serve(fd: int) -> NoReturn:
    """Be the warden that the memfd `fd` tells of; ends the process as its zygote ended."""
    with open(fd, "rb") as file:
        file.seek(0)
        fields: dict[str, Any] = json.loads(file.read())
    linux.name_process("sf-warden")
    control = int(fields["control"])
    try:
        status = _stand(fields, control)
    except Unwalled as reason:
        _refuse(control, str(reason))
        os._exit(1)
    _end_like(status)


def _stand(fields: Mapping[str, Any], control: int) -> int:
    """Put the wall up, have the zygote behind it, and give its wait status."""
    isolation = Isolation.from_json(fields["isolation"])
    runtime = os.pidfd_open(fields["runtime_pid"])
    if os.getppid() != fields["runtime_pid"]:
        os._exit(1)
    readable = [*isolation.readable, *python_paths(fields["environment"])]
    warden = os.pidfd_open(os.getpid())
    user, _ = view.sandbox_ids()
    mounts = idmap.swapped(_pieces(readable, isolation.data_dir), user) if user != os.geteuid() else None
    keeper = enter(network=isolation.network)
    if os.path.isdir(isolation.data_dir):
        _send_shelf(control, isolation.data_dir)
    pid = os.fork()
    if pid == 0:
        _become_zygote(fields, isolation, readable, mounts, control, warden)
    for fd in (control, *(mounts or {}).values()):
        os.close(fd)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    zygote = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(runtime, select.POLLIN)
    poller.register(zygote, select.POLLIN)
    poller.poll()
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    keeper.kill()
    _, status = os.waitpid(pid, 0)
    keeper.end()  # which waits for the last of them
    return status if ended is not None else signal.SIGKILL


def _pieces(paths: Iterable[str], hidden: str) -> Iterator[str]:
    """The paths as they are shown: in place of one that `hidden` lies in, what lies around that."""
    for path in map(os.path.realpath, paths):
        if hidden and hidden.startswith(path + "/") and os.path.isdir(path):
            yield from (each for each in view.around(path, [hidden]) if each != hidden and not os.path.islink(each))
        else:
            yield path


def _send_shelf(control: int, directory: str) -> None:
    with step("a read-only mount of the data directory"):
        mount = shelf.mount_read_only(directory)
    try:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(control)) as sock:
            protocol.send(sock, {"op": "shelf"}, [mount])
    finally:
        os.close(mount)


def _become_zygote(
    fields: Mapping[str, Any],
    isolation: Isolation,
    readable: list[str],
    mounts: Mapping[str, int] | None,
    control: int,
    warden: int,
) -> NoReturn:
    try:
        _die_with(warden)
        raise_wall(isolation, readable, mounts, storage_bytes=fields["storage_bytes"])
        _die_with(warden)  # it has been forgotten with the capabilities
        os.close(warden)
        code_dir = fields["code_dir"]
        try:
            os.chdir(code_dir)
            os.listdir(code_dir)
        except OSError as error:
            raise Unwalled(_unreadable(code_dir, error)) from error
        environment = {**fields["environment"], **_user_site()}
        os.set_inheritable(control, True)
        os.execve(sys.executable, boot.command("zygote", control), environment)
    except Unwalled as reason:
        _refuse(control, str(reason))
    except view.Unshowable as reason:
        _refuse(control, str(reason))
    except OSError as error:
        _refuse(control, f"the Python interpreter {sys.executable} cannot be started in it: {error}")
    finally:
        os._exit(1)


def raise_wall(
    isolation: Isolation, readable: Iterable[str], mounts: Mapping[str, int] | None, *, storage_bytes: int | None
) -> None:
    """In the first child behind `namespaces.enter_outer`: everything else of the outer wall.  Unwalled, Unshowable."""
    with step("a view of the file system of its own"):
        view.build(
            readable,
            [isolation.data_dir] if isolation.data_dir else [],
            mounts,
            network=isolation.network,
            storage_bytes=storage_bytes,
        )
    with contextlib.suppress(OSError):  # a kernel without keys
        linux.syscall(seccomp.number("keyctl") or 0, _KEYCTL_JOIN_SESSION_KEYRING, None)
    with step("giving up what its user may do"):
        namespaces.become_unprivileged()
    with step("a seccomp filter"):
        seccomp.install(seccomp.outer(network=isolation.network, truncate=landlock.abi() >= landlock.ABI_TRUNCATE))


def enter(*, network: bool) -> namespaces.Keeper:
    """See `namespaces.enter_outer`; Unwalled says what this machine lacks."""
    if landlock.abi() == 0:
        raise Unwalled("this kernel has no landlock")
    if seccomp.machine() is None:
        raise Unwalled(f"no seccomp filter is known for {os.uname().machine}")
    os.chdir("/")  # the keeper is seen from inside, and what it stands in should lead nowhere
    with step("namespaces of its own"):
        return namespaces.enter_outer(network=network)


def _unreadable(code_dir: str, error: OSError) -> str:
    return (
        f"the sandbox runs as user {os.geteuid()}, who cannot read {code_dir} ({error.strerror}): "
        "give others the right to read it, or run as its owner"
    )


def _die_with(warden: int) -> None:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([warden], [], [], 0)[0]:
        os._exit(1)


@contextlib.contextmanager
def step(name: str) -> Any:
    """Say what could not be had when something fails."""
    try:
        yield
    except OSError as error:
        raise Unwalled(f"this machine does not allow {name}: {words(error)}") from error


def words(error: OSError) -> str:
    """What the system said, and of which file."""
    # Of namespaces the kernel's text for ENOSPC, "No space left on device", speaks of disks.
    text = "no more may be made (/proc/sys/user/max_*)" if error.errno == errno.ENOSPC else error.strerror
    if not error.filename:
        return str(text or error)
    place = os.fsdecode(error.filename)
    for root in (view.OLD, view.NEW):  # what it is called while the view is being made
        place = place.removeprefix(root) if place.startswith(root + "/") else place
    return f"{text or error} ({place})"


def _refuse(control: int, reason: str) -> None:
    with contextlib.suppress(OSError, protocol.Garbled), socket.socket(fileno=os.dup(control)) as sock:
        protocol.receive(sock)  # the runtime's first message: closed with that unread, ours would be lost
        protocol.send(sock, {"op": "unwalled", "reason": reason})


def _end_like(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)  # no core file of ours
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def python_paths(environment: Mapping[str, str]) -> list[str]:
    """List what this very Python is made of: prefixes, path, interpreter, its libraries, and what a function's
    environment says about certificates."""
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, sys.executable}
    paths.update(sys.path)
    paths.add(str(Path(streamfn.__file__).parent))
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):  # setuptools finds packages under development so
            paths.update(map(str, getattr(module, "MAPPING", {}).values()))
    with open("/proc/self/maps") as file:
        mapped = {line.split(maxsplit=5)[5].rstrip("\n") for line in file if ".so" in line}
    paths.update(os.path.dirname(path) for path in mapped)
    paths.update(environment.get("LD_LIBRARY_PATH", "").split(":"))
    paths.update(environment.get("LD_PRELOAD", "").replace(" ", ":").split(":"))
    paths.update(environment.get(name, "") for name in _CERTIFICATES)
    return [path for path in paths if os.path.isabs(path) and os.path.normpath(path) not in ("/", "/tmp")]


def _user_site() -> dict[str, str]:
    # The home directory is not there, and Python would look for the user's packages in it.
    return {"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE else {}
