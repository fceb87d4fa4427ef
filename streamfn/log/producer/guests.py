"""Puts of other processes, in the process that writes to the shard: connections, frames in, answers out.

Everything here runs in the thread that owns the shard's writer, which also waits for all of it at once: a put of
another process costs it one read and one write more than one of its own.

Nothing that a client sends can harm the writer: who is not of our user is turned away, frames are bounded and
checked, a client has at most two puts under way, and whoever breaks a rule loses its connection.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from os import geteuid

from streamfn import limits
from streamfn.errors import RefusedError, StreamfnError
from streamfn.log.catalog.stream import DYNAMODB, Shard
from streamfn.log.producer.part import Part, check_records
from streamfn.log.producer.tickets import Ticket, Tickets
from streamfn.log.sharing import frames, rendezvous
from streamfn.log.sharing.frames import Failed, Malformed, Placed, Welcome
from streamfn.log.storage.disk import SYSTEM_DISK

CONNECTIONS_MAX = 4096
# How much is read at once, and how much of what was read may wait to be appended.
_READ_BYTES = 1 << 18
_HELD_BYTES_MAX = 64 * limits.MIB


class GuestPart(Part):
    """A put that came through a connection."""

    __slots__ = ("connection", "first", "number")

    def __init__(self, connection: Connection, put: frames.Put, size: int) -> None:
        super().__init__(put.records, put.durability, size)
        self.connection = connection
        self.number = put.number
        self.first = -1

    def placed(self, shard: Shard, first: int, base: str) -> None:
        """See `Part`: the client knows the rest."""
        self.first = first


class Connection:
    """One client."""

    __slots__ = ("buffer", "client", "flights", "socket")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.buffer = bytearray()
        self.client: bytes | None = None
        self.flights = 0

    def send(self, content: bytes) -> bool:
        """Send a whole answer; False if the client does not take it, though it fits what it may have open."""
        try:
            return self.socket.send(content, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(content)
        except OSError:
            return False


class Guests:
    """The listening socket of a shard and everybody who came through it.  Belongs to the writer's thread."""

    def __init__(
        self, shard: Shard, poll: select.epoll, epoch: int, base: str, end_offset: int, *, releases: bool
    ) -> None:
        """Begin to listen; where the file system has no sockets there will be no guests.

        `epoch`, `base` and `end_offset` are the writer's, as it was opened.  Who asks for the shard is turned away
        unless it `releases` it.
        """
        self.release_asked = False
        self._releases = releases
        self.last_put_s = 0.0
        self._shard = shard
        self._poll = poll
        self._epoch = epoch
        self._base = base
        self._tickets = Tickets(shard, epoch, end_offset)
        self._connections: dict[int, Connection] = {}
        self._held_bytes = 0
        self._listener: socket.socket | None = None
        if shard.disk is SYSTEM_DISK:
            with suppress(OSError):
                self._listener = rendezvous.listen(shard)
                poll.register(self._listener, select.EPOLLIN)

    @property
    def present(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._connections)

    def receive(self, events: Iterable[tuple[int, int]]) -> list[Part]:
        """Take in what has come, and return the puts in it."""
        parts: list[Part] = []
        for fd, _ in events:
            if self._listener is not None and fd == self._listener.fileno():
                self._accept()
            elif fd in self._connections and self._held_bytes <= _HELD_BYTES_MAX:
                connection = self._connections[fd]
                try:
                    self._read(connection, parts)
                except (OSError, Malformed, RefusedError):
                    self._drop(connection)
        return parts

    def note(self, parts: Sequence[Part], offset: int) -> None:
        """Write down whose puts are about to be appended from `offset` on; see `tickets`.

        Raises:
            OSError: it could not be written; they must not be appended.
        """
        tickets = []
        for part in parts:
            if isinstance(part, GuestPart) and part.connection.client is not None:
                tickets.append(Ticket(part.connection.client, part.number, offset, len(part.records)))
            offset += len(part.records)
        if tickets:
            self._tickets.note(tickets)

    def answer(self, parts: Sequence[Part], error: StreamfnError | None, base: str) -> None:
        """Tell clients what became of their puts."""
        for part in parts:
            if not isinstance(part, GuestPart):
                continue
            connection = part.connection
            self._held_bytes -= part.size
            connection.flights -= 1
            content = (
                frames.encode_placed(Placed(part.number, part.first, base))
                if error is None
                else frames.encode_failed(Failed(part.number, error))
            )
            if connection.socket.fileno() >= 0 and not connection.send(content):
                self._drop(connection)

    def close(self) -> None:
        """Say goodbye: everything taken has been answered, and the socket is gone when this returns."""
        if self._listener is not None:
            self._poll.unregister(self._listener)
            rendezvous.withdraw(self._shard)
            self._listener.close()
            self._listener = None
        for connection in self._connections.values():
            if connection.client is not None:
                connection.send(frames.frame(frames.GOODBYE, frames.CLAIMED if self.release_asked else b""))
        self._tickets.close()

    def part(self) -> None:
        """Close the connections; the shard's lock is free by now, which is what who asked for it waits for."""
        for connection in list(self._connections.values()):
            self._drop(connection)

    def _accept(self) -> None:
        assert self._listener is not None
        with suppress(OSError):
            while len(self._connections) < CONNECTIONS_MAX:
                connected, _ = self._listener.accept()
                connected.setblocking(False)
                if rendezvous.peer(connected)[1] != geteuid():
                    connected.close()
                    continue
                self._poll.register(connected, select.EPOLLIN)
                self._connections[connected.fileno()] = Connection(connected)

    def _read(self, connection: Connection, parts: list[Part]) -> None:
        received = connection.socket.recv(_READ_BYTES)
        if not received:
            raise ConnectionResetError
        connection.buffer += received
        for kind, payload in frames.split(connection.buffer):
            if kind == frames.PUT and connection.client is not None:
                parts.append(self._put(connection, payload))
            elif kind == frames.HELLO and connection.client is None:
                self._welcome(connection, payload)
            elif kind == frames.RELEASE and self._releases:
                self.release_asked = True
            else:
                raise Malformed(f"a frame of kind {kind}")

    def _put(self, connection: Connection, payload: bytes) -> Part:
        if connection.flights >= frames.FLIGHTS_MAX:
            raise Malformed("more puts than may be under way")
        put = frames.decode_put(payload)
        check_records(put.records, changes=self._shard.kind == DYNAMODB)
        part = GuestPart(connection, put, len(payload))
        connection.flights += 1
        self._held_bytes += part.size
        self.last_put_s = time.monotonic()
        return part

    def _welcome(self, connection: Connection, payload: bytes) -> None:
        hello = frames.decode_hello(payload)
        self._tickets.begin()
        connection.client = hello.client
        verdicts = tuple(self._tickets.verdict(hello, number) for number in hello.puts)
        if not connection.send(frames.encode_welcome(Welcome(self._epoch, self._base, verdicts))):
            raise Malformed("a client that does not listen")

    def verdict(self, hello: frames.Hello, number: int) -> frames.Verdict:
        """What became of a put of ours that the writer before us took along."""
        return self._tickets.verdict(hello, number)

    def _drop(self, connection: Connection) -> None:
        self._connections.pop(connection.socket.fileno(), None)
        with suppress(OSError):
            self._poll.unregister(connection.socket)
        connection.socket.close()
