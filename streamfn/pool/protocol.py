"""What zygote and runtime say to each other: JSON datagrams with descriptors, over SOCK_SEQPACKET.

    runtime -> zygote   {"op": "init", "main", "settings", "runtime_pid", "code_dir", "debug", "init",
                         "limits", "isolation", "holding", "workers", "folder"}
                                                             [the runtime's pidfd, doors of a control group...]
                        {"op": "spawn", "token", "index", "fresh"}
                                                             [ring memfd, doorbell, log, side, control, doors...]
                        {"op": "wipe", "index"}              the environment of that number is over, its files go
    zygote -> runtime   {"op": "ready", "begins", "no_tmp"}  what each worker does before it is ready (below), or null;
                                                             why its files are in a directory of `folder`, or null
                        {"op": "failed", "document": text}   the module's Init failed
                        {"op": "shelf"}                      [a mount]  of its warden, in a sandbox: see `confine.shelf`
                        {"op": "unwalled", "reason": text}   there is no sandbox here; of its warden too
                        {"op": "unforkable", "reason": text} it must run in workers that import it themselves
                        {"op": "spawned", "token", "pid"}    [the worker's pidfd]
                        {"op": "refused", "token", "reason": text}   there was no fork
                        {"op": "exited", "token", "status"}  a wait status; sent when it has been reaped
    worker -> runtime   {"op": "ready"} or {"op": "failed", ...}, only where each worker does its own Init, or begins

`begins` is "restore" where hooks that were registered for it run in each worker, behind the fork, and "begin" where a
worker makes something of its own without those.

A message longer than a datagram goes into a memfd, which then is the last descriptor.

Init runs the user's code in the zygote, and in workers, so what comes from there may be anything: the runtime takes
only messages of the `Shapes` that can come at that moment, with these descriptors, and reads a memfd only if it can
change no more (so reading it waits for nobody, either: it is no pipe and no file of another file system).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

DATAGRAM_BYTES_MAX = 32 * 1024
MESSAGE_BYTES_MAX = 8 * 1024 * 1024
FDS_MAX = 16

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

# Where Init is done ("init"): in the zygote, once; in each worker that is forked; in each, in a fresh interpreter.
ZYGOTE, WORKER, FRESH = "zygote", "worker", "fresh"

# The descriptors of a spawn message, in order.
RING, DOORBELL, LOG, SIDE, CONTROL = range(5)
SEAT_FDS = 5  # and behind them the doors of its control group (`confine.cgroup`)


# What workers begin with.
BEGIN, RESTORE = "begin", "restore"


class InitFailed(Exception):
    """Raised by a worker main's `init`, `before_fork` or `begin`: the function cannot be initialised.

    `document` is the error document, bytes of JSON; `status` what the process then exits with.
    """

    def __init__(self, document: bytes, status: int = 1) -> None:
        super().__init__(document)
        self.document = document
        self.status = status


class Garbled(Exception):
    """The other side sent what is not a message, or none that can come now."""


class Shape(NamedTuple):
    """What a message must have: its fields' types, and how many descriptors; and the types of those that may be null
    or not there.  Others are not looked at."""

    fields: Mapping[str, type]
    fds: int
    optional: Mapping[str, type] = MappingProxyType({})


Shapes = Mapping[str, Shape]
_FAILED = Shape({"document": str}, 0)
# By `op`: what a zygote may say of its Init, what it may say then, and what a worker may say of its own Init.
OF_INIT: Shapes = {
    "ready": Shape({}, 0, {"begins": str, "no_tmp": str}),
    "failed": _FAILED,
    "shelf": Shape({}, 1),
    "unwalled": Shape({"reason": str}, 0),
    "unforkable": Shape({"reason": str}, 0),
}
OF_WORKERS: Shapes = {
    "spawned": Shape({"token": int, "pid": int}, 1),
    "refused": Shape({"token": int, "reason": str}, 0),
    "exited": Shape({"token": int, "status": int}, 0),
}
OF_ITSELF: Shapes = {"ready": Shape({}, 0), "failed": _FAILED}


class Message(NamedTuple):
    """A message and the descriptors that came with it; they are the receiver's to close."""

    fields: dict[str, Any]
    fds: list[int]


def pair() -> tuple[socket.socket, socket.socket]:
    """Make the two ends: the runtime's, which never blocks, and the other's, which does."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    return near, far


def send(sock: socket.socket, fields: Mapping[str, object], fds: Sequence[int] = ()) -> None:
    """Send one message.  BlockingIOError if the socket is full; then nothing was sent."""
    body = json.dumps(fields).encode()
    if len(body) <= DATAGRAM_BYTES_MAX:
        send_bytes(sock, body, fds)
        return
    spill = os.memfd_create("streamfn-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(spill, "wb", closefd=False) as file:
            file.write(body)
        fcntl.fcntl(spill, fcntl.F_ADD_SEALS, _SEALS)
        send_bytes(sock, b'{"op": "long"}', [*fds, spill])
    finally:
        os.close(spill)


def send_bytes(sock: socket.socket, body: bytes, fds: Sequence[int]) -> None:
    """Send one datagram with descriptors."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([body], rights)


def receive_bytes(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Receive one datagram of at most `size` bytes and its descriptors, close-on-exec.  b"" at the end.

    Raises Garbled if it was longer, or had more than FDS_MAX descriptors.
    """
    room = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)
    body, ancillary, flags, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds)
        raise Garbled("a datagram was cut")
    return body, list(fds)


def receive(sock: socket.socket, shapes: Shapes | None = None) -> Message | None:
    """Receive one message; None when the other side is gone.

    `shapes`: which messages can come, where the other side is not to be trusted; then a message has the fields and
    descriptors that its shape says.

    Raises BlockingIOError on a non-blocking socket with nothing in it, and Garbled.
    """
    try:
        body, fds = receive_bytes(sock, DATAGRAM_BYTES_MAX)
    except ConnectionResetError:
        return None
    if not body:
        close_all(fds)
        return None
    try:
        fields = json.loads(body)
        if isinstance(fields, dict) and fields.get("op") == "long" and fds:
            spill = fds.pop()
            try:
                fields = json.loads(_sealed_content(spill))
            finally:
                os.close(spill)
        _check(fields, fds, shapes)
    except (ValueError, OSError, RecursionError) as error:
        close_all(fds)
        raise Garbled("a message is no JSON") from error
    except Garbled:
        close_all(fds)
        raise
    return Message(fields, fds)


def _sealed_content(fd: int) -> bytes:
    """Give all that is in a memfd.  OSError or Garbled if it is none, could still change, or is too large."""
    if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise Garbled("the memfd of a message is not sealed")
    size = os.fstat(fd).st_size
    if size > MESSAGE_BYTES_MAX:
        raise Garbled(f"a message has {size} bytes")
    return os.pread(fd, size, 0)


def _check(fields: object, fds: Sequence[int], shapes: Shapes | None) -> None:
    if not isinstance(fields, dict):
        raise Garbled("a message is no object")
    if shapes is None:
        return
    op = fields.get("op")
    shape = shapes.get(op) if isinstance(op, str) else None
    if shape is None:
        raise Garbled(f"a message {op!r:.40} cannot come now")
    if len(fds) != shape.fds:
        raise Garbled(f"a message {op!r} has {len(fds)} descriptors, not {shape.fds}")
    for name, kind in shape.fields.items():
        if type(fields.get(name)) is not kind:
            raise Garbled(f"{name!r} of a message {op!r} is no {kind.__name__}")
    for name, kind in shape.optional.items():
        if fields.get(name) is not None and type(fields[name]) is not kind:
            raise Garbled(f"{name!r} of a message {op!r} is no {kind.__name__}")


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors, those that are closed already too."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
