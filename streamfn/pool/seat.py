"""Where a worker sits: its end of the rings, the control socket, its standard streams.

This is all that a worker's main is given.  It loads neither trio nor anything else a handler would pay for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from streamfn._native import ffi, lib
from streamfn.pool import protocol

SEGMENT_HEADER_BYTES_MAX = 64 * 1024
_ID_BYTES = 8
# Bound before any handler can put something else in their places: a worker must be able to write and to end.
_exit, _fstat, _write = os._exit, os.fstat, os.write


class Vacated(Exception):
    """The runtime has gone, or the handler has closed our descriptors: the worker must exit."""


class Seat:
    """A worker's own things.

    `desk` is the `sf_desk *` for sf_desk_next and sf_desk_finish, `control` the descriptor of the socket
    that segments come through, `index` the worker's number in its function (from 0), `debug` whether
    standard input, output and error are the terminal.

    `forked` becomes true in a process that a handler made with fork: it is *not* a worker, and when it
    returns from the handler, it must be ended by `leave_fork` (the rings are not mapped there).
    """

    def __init__(self, index: int, fds: Sequence[int], *, debug: bool) -> None:
        """Take the descriptors of a spawn message over: they move to high numbers, out of a handler's way."""
        self.index = index
        self.debug = debug
        self.forked = False
        ring, doorbell, log, side, control = _move_up(fds)
        self.control = control
        self._control_file = _identity(control)
        # The rings' memfd is mapped and not needed again; the others the desk goes on using.
        self.desk: Any = lib.sf_desk_open(ring, doorbell, -1 if debug else log, side)
        if self.desk == ffi.NULL:
            raise OSError(ffi.errno, f"the worker cannot map its rings: {os.strerror(ffi.errno)}")
        os.close(ring)
        if not debug:
            with open(os.devnull, "rb") as null:
                os.dup2(null.fileno(), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
        self._streams = {"stdout": sys.stdout, "stderr": sys.stderr}
        os.register_at_fork(after_in_child=self._forked)

    def watch(self) -> None:
        """Have the desk notice from now on when a handler leaves the process unfit for others; see `sf_desk_watch`."""
        lib.sf_desk_watch(self.desk, self.control)

    def _forked(self) -> None:
        self.forked = True

    def leave_fork(self) -> None:
        """End a process that a handler forked and that came back from the handler."""
        self.flush_stdio()
        _exit(0)

    def flush_stdio(self) -> bool:
        """Write out what was printed, so that it counts for the invocation that printed it.

        A stream that the handler has replaced is flushed instead; one that cannot be (deleted, closed, or whatever
        stands there raises) gives way to the worker's own.  False if that has been closed as well: what comes next
        could not print, and the worker should exit when it has answered.
        """
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except Exception:  # foreign code
            return self._restore_streams()
        return True

    def _restore_streams(self) -> bool:
        for name, own in self._streams.items():
            try:
                getattr(sys, name).flush()
            except Exception:  # foreign code
                setattr(sys, name, own)
        return not any(own.closed for own in self._streams.values())

    def log(self, text: str) -> None:
        """Write to the worker's log (the terminal in debug mode), wherever its standard output leads by now.

        A handler may have closed every descriptor and opened a file, which then is number 2; that file is its own.
        """
        data = text.encode("utf-8", "backslashreplace")
        if self.debug:
            with suppress(OSError):
                _write(2, data)
        else:
            lib.sf_desk_log(self.desk, data, len(data))

    def receive_segment(self) -> tuple[int, bytes, int]:
        """Wait for the next segment: its id, its JSON header, its descriptor (the caller closes it).

        Raises Vacated if the socket is closed or is not ours any more.
        """
        try:
            if _identity(self.control) != self._control_file:
                raise Vacated("the control descriptor is another file")
            with _borrowed(self.control) as sock:
                body, fds = protocol.receive_bytes(sock, _ID_BYTES + SEGMENT_HEADER_BYTES_MAX)
        except (OSError, protocol.Garbled) as error:
            raise Vacated(str(error)) from error
        if len(body) < _ID_BYTES or len(fds) != 1:
            protocol.close_all(fds)
            raise Vacated("the runtime has closed the control socket")
        return int.from_bytes(body[:_ID_BYTES], "little"), body[_ID_BYTES:], fds[0]

    def report(self, fields: dict[str, object]) -> None:
        """Tell the runtime how the worker's own Init went."""
        self.flush_stdio()
        with _borrowed(self.control) as sock:
            protocol.send(sock, fields)


def segment_message(segment_id: int, header: bytes) -> bytes:
    """Give the datagram that introduces a segment."""
    return segment_id.to_bytes(_ID_BYTES, "little") + header


def _move_up(fds: Sequence[int]) -> list[int]:
    """Move descriptors above what a handler's own will be, close-on-exec."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    floor = max(3, min(soft, 1024) - 64) if soft != resource.RLIM_INFINITY else 960
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor) for fd in fds]
    for fd in fds:
        os.close(fd)
    return moved


def _identity(fd: int) -> tuple[int, int]:
    status = _fstat(fd)
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """Use a descriptor as a socket without owning it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()
