"""Puts of this process, on their way through the process that writes to the shard.

At most two frames are under way; what comes meanwhile waits and goes together in the next one, so that many
putters here share a frame as they would share a sync.  A lone put is sent by the thread that puts: it waits for
nobody in between.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from streamfn import limits
from streamfn.log.producer.part import New, Part, run_of
from streamfn.log.sharing import frames
from streamfn.log.sharing.frames import Failed, Hello, Malformed, Placed, Verdict, Welcome
from streamfn.log.storage.durability import strongest
from streamfn.types import NewChange

_READ_BYTES = 1 << 16
# What of a frame is filled, by a generous estimate of what a record takes in it.
_FILL_BYTES = 12 * limits.MIB
_WELCOME_S = 5.0


class Flight(NamedTuple):
    """A put that was sent, and the parts in it."""

    number: int
    parts: list[Part]


class Client:
    """Who we are for the writers of one shard, whichever they are: an id, and numbers that are never used twice."""

    def __init__(self, token: bytes) -> None:
        self.token = token
        self.number = 0
        self.lost_epoch = 0
        self.unanswered: list[Flight] = []

    def hello(self) -> Hello:
        """What we say first."""
        return Hello(self.token, self.lost_epoch, tuple(flight.number for flight in self.unanswered))


class Relay:
    """A connection to the writer of a shard.

    `offer` belongs to the lock of whoever owns the queue, and may be called by any thread; everything else to one.
    """

    def __init__(self, client: Client, connected: socket.socket) -> None:
        """Say hello.

        Raises:
            OSError, Malformed: there is no writer behind it that takes puts, or not any more.
        """
        self._client = client
        self._socket = connected
        self._buffer = bytearray()
        self._unsent = bytearray()
        self.flights: deque[Flight] = deque()
        self.over = False
        self.parted = False
        self.claimed = False
        self.welcome = self._meet(client.hello())
        client.unanswered = []
        connected.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor, to wait for."""
        return self._socket.fileno()

    def verdict(self, number: int, asked: Hello) -> Verdict:
        """Return what became of a put that was asked for with `asked`."""
        return self.welcome.verdicts[asked.puts.index(number)]

    def offer(self, waiting: list[Part]) -> bool:
        """Send what may be sent of `waiting`, and take it out of it; False if some of it is left to `flush`."""
        while waiting and len(self.flights) < frames.FLIGHTS_MAX and not self.over:
            count = _fitting(waiting)
            parts = waiting[:count]
            del waiting[:count]
            self._client.number += 1
            put = frames.Put(
                self._client.number,
                strongest([part.durability for part in parts]),
                parts[0].records if count == 1 else [record for part in parts for record in part.records],
            )
            self.flights.append(Flight(put.number, parts))
            self._unsent += frames.encode_put(put)
            self._send()
        return not self._unsent

    def flush(self) -> bool:
        """Send what is left; True when nothing is."""
        self._send()
        return not self._unsent

    def receive(self) -> list[tuple[Flight, Placed | Failed]]:
        """Return what has been answered; `over` says that nothing more will be, `parted` that it ended in order.

        In order: what is still in `flights` was not appended, and `claimed` says that somebody asked for the shard.
        Otherwise nobody here knows.
        """
        answered: list[tuple[Flight, Placed | Failed]] = []
        try:
            received = self._socket.recv(_READ_BYTES)
            self.over = not received
            self._buffer += received
        except BlockingIOError:
            return answered
        except OSError:
            # Also what a writer that ended in order leaves behind, if it had not read all we sent: the goodbye is
            # read first, but it may have come with the welcome.
            self.over = True
        try:
            for kind, payload in frames.split(self._buffer):
                if kind == frames.GOODBYE:
                    self.over = self.parted = True
                    self.claimed = payload == frames.CLAIMED
                    break
                answered.append(self._answer(kind, payload))
        except Malformed:
            self.over = True
        return answered

    def close(self) -> None:
        """Let go of the connection; what is in `flights` is the client's to ask for."""
        self._client.lost_epoch = self.welcome.epoch
        self._socket.close()

    def _answer(self, kind: int, payload: bytes) -> tuple[Flight, Placed | Failed]:
        answer: Placed | Failed
        if kind == frames.PLACED:
            answer = frames.decode_placed(payload)
        elif kind == frames.FAILED:
            answer = frames.decode_failed(payload)
        else:
            raise Malformed(f"a frame of kind {kind}")
        if not self.flights or self.flights[0].number != answer.number:
            raise Malformed(f"an answer to put {answer.number}, which is not the next")
        return self.flights.popleft(), answer

    def _meet(self, hello: Hello) -> Welcome:
        deadline = time.monotonic() + _WELCOME_S
        self._socket.settimeout(_WELCOME_S)
        self._socket.sendall(frames.encode_hello(hello))
        while True:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            received = self._socket.recv(_READ_BYTES)
            if not received:
                raise ConnectionResetError("the writer has gone")
            self._buffer += received
            for kind, payload in frames.split(self._buffer):
                if kind != frames.WELCOME:
                    raise ConnectionResetError("the writer says goodbye")
                welcome = frames.decode_welcome(payload)
                if len(welcome.verdicts) != len(hello.puts):
                    raise Malformed("a welcome with other verdicts")
                return welcome

    def _send(self) -> None:
        # Blocking and broken connections alike: whoever waits for the socket sees what has become of it.
        with suppress(OSError):
            while self._unsent:
                sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                del self._unsent[:sent]

    def interest(self) -> int:
        """What to wait for."""
        return select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)


def cut(records: Sequence[New]) -> list[Sequence[New]]:
    """Divide records so that each piece fits a frame; nearly always one piece."""
    pieces: list[Sequence[New]] = []
    start = filled = 0
    for place, record in enumerate(records):
        heavy = weight(record)
        if filled + heavy > _FILL_BYTES and place > start:
            pieces.append(records[start:place])
            start, filled = place, 0
        filled += heavy
    pieces.append(records[start:])
    return pieces


def _fitting(waiting: list[Part]) -> int:
    """Return how many parts, from the first on, go in one frame; each fits one alone."""
    if len(waiting) == 1:
        return 1
    filled = 0
    for count, part in enumerate(waiting[: run_of(waiting)]):
        filled += sum(map(weight, part.records))
        if filled > _FILL_BYTES and count:
            return count
    return run_of(waiting)


def weight(record: New) -> int:
    """Return a generous estimate of what a record takes in a frame, in bytes."""
    if isinstance(record, NewChange):
        texts = (record.keys, record.new_image, record.old_image, record.user_identity)
        return sum(len(text) for text in texts if text is not None) + 2048
    return len(record.data) + 4 * len(record.partition_key) + 512
