"""What zygote and runtime say to each other: JSON datagrams with descriptors, over SOCK_SEQPACKET.

    runtime -> zygote   {"op": "init", "main", "settings", "runtime_pid", "code_dir", "debug", "init",
                         "limits", "isolation"}
                                                             [the runtime's pidfd]
                        {"op": "spawn", "token", "index"}    [ring memfd, doorbell, log, side, control]
    zygote -> runtime   {"op": "ready", "begins"}            what each worker does before it is ready (below), or null
                        {"op": "failed", "document": text}   the module's Init failed
                        {"op": "unforkable", "reason": text} it must run in workers that import it themselves
                        {"op": "spawned", "token", "pid"}    [the worker's pidfd]
                        {"op": "refused", "token", "reason": text}   there was no fork
                        {"op": "exited", "token", "status"}  a wait status; sent when it has been reaped
    worker -> runtime   {"op": "ready"} or {"op": "failed", ...}, only where each worker does its own Init, or begins

`begins` is "restore" where hooks that were registered for it run in each worker, behind the fork, and "begin" where a
worker makes something of its own without those.

A message longer than a datagram goes into a memfd, which then is the last descriptor.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

DATAGRAM_BYTES_MAX = 32 * 1024
MESSAGE_BYTES_MAX = 8 * 1024 * 1024
FDS_MAX = 8

# Where Init is done ("init"): in the zygote, once; in each worker that is forked; in each, in a fresh interpreter.
ZYGOTE, WORKER, FRESH = "zygote", "worker", "fresh"

# The descriptors of a spawn message, in order.
RING, DOORBELL, LOG, SIDE, CONTROL = range(5)


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
    """The other side sent what is not a message."""


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
    spill = os.memfd_create("streamfn-message", os.MFD_CLOEXEC)
    try:
        with open(spill, "wb", closefd=False) as file:
            file.write(body)
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


def receive(sock: socket.socket) -> Message | None:
    """Receive one message; None when the other side is gone.

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
                fields = json.loads(os.pread(spill, MESSAGE_BYTES_MAX, 0))
            finally:
                os.close(spill)
    except (ValueError, OSError, RecursionError) as error:
        close_all(fds)
        raise Garbled("a message is no JSON") from error
    if not isinstance(fields, dict):
        close_all(fds)
        raise Garbled("a message is no object")
    return Message(fields, fds)


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors, those that are closed already too."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
