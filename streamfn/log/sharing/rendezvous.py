"""Where the writer of a shard can be met: a UNIX socket beside the shard's directory, and who may use it.

The socket lies in the stream's directory and is its owner's alone (mode 0600); both ends also look at whose
process the other one is.  It is addressed through a descriptor of that directory, because the path of a socket
may have 108 bytes and a data directory lies wherever it lies.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from streamfn.log.catalog.stream import Shard

_CREDENTIALS = struct.Struct("3i")
BACKLOG = 1024


def socket_name(shard: Shard) -> str:
    """Return the name of a shard's socket in its stream's directory."""
    return f"{shard.directory.name}.sock"


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def connect(shard: Shard) -> socket.socket | None:
    """Return a connection to the process that serves a shard's writer, or None if there is none of this user's."""
    with suppress(OSError), _directory(shard) as (_, place):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.connect(f"{place}/{socket_name(shard)}")
            if peer(connection)[1] == os.geteuid():
                return connection
        except OSError:
            connection.close()  # nobody listens: a writer that does not serve, one that died, or none
            raise
        connection.close()
    return None


def listen(shard: Shard) -> socket.socket:
    """Return a listening socket for a shard, in place of one that a dead writer has left.

    The caller holds the shard's lock, so nobody else does the same.

    Raises:
        OSError: it cannot be made; a file system without sockets, say.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before it has a name, so nobody finds it with another mode
        with _directory(shard) as (directory, place):
            with suppress(FileNotFoundError):
                os.unlink(socket_name(shard), dir_fd=directory)
            listener.bind(f"{place}/{socket_name(shard)}")
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def withdraw(shard: Shard) -> None:
    """Remove a shard's socket; the caller holds the lock.  What waits to be accepted is refused."""
    with suppress(OSError), _directory(shard) as (directory, _):  # with a deleted stream it is gone as well
        os.unlink(socket_name(shard), dir_fd=directory)


@contextmanager
def _directory(shard: Shard) -> Iterator[tuple[int, str]]:
    """A descriptor of the stream's directory, and a short path to it."""
    fd = os.open(shard.directory.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd, f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
