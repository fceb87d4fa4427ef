"""One shard of a producer: a queue, and the thread that empties it.

The thread has one of two roles, or none while nothing is put:

    writing   it holds the shard's lock: it takes all that waits, from this process and from others, appends
              it as one message, syncs, and answers
    relaying  another process holds it: what waits goes there

Which one it is decides itself when there is something to put: whoever finds nobody serving the shard and its lock
free becomes the writer and serves the others.  When a writer ends, dies or is asked to let go, they find that out by
their connections, and one of them takes over.
"""

from __future__ import annotations

import secrets
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from streamfn.clock import Clock
from streamfn.errors import BusyError, LogError, ShardClosed
from streamfn.log.catalog.stream import Shard
from streamfn.log.producer.part import Part
from streamfn.log.producer.relay import Client, Flight, Relay
from streamfn.log.producer.wakeup import Wakeup
from streamfn.log.producer.writing import Writing
from streamfn.log.sharing import rendezvous
from streamfn.log.sharing.frames import Malformed, Placed, Verdict

# How often a shard that is busy, or being handed over, is looked at again.
_RETRY_S = 0.005
# How long we stand back from a shard that somebody asked for, who looks for its lock every 10 ms.
_STAND_BACK_S = 0.2
# From so many puts in a group on, the next group waits, at most so long, until they have been told.
_TURN_PUTS = 8
_TURN_S = 0.002
# A busy writer to whom nobody is connected looks so often whether somebody wants to be.
_LOOK_S = 0.005


class Owner(Protocol):
    """What a lane asks of the producer it belongs to."""

    lock: threading.Lock
    wait_s: float
    clock: Clock | None

    def answered(
        self, parts: Sequence[Part], error: Exception | None, turn: threading.Lock | None = None
    ) -> None:
        """Answer puts whose parts are durable, or have failed; `turn` is described at `answer.settle`."""

    def moved(self, lane: Lane, parts: list[Part]) -> None:
        """Put parts elsewhere, and what waits in the lane behind them: its shard is closed."""

    def cleared(self, lane: Lane) -> None:
        """A lane that others stand behind has nothing left; the lock is held."""


class Lane:
    """The queue of a shard and its thread, which ends with `finish`."""

    def __init__(self, owner: Owner, shard: Shard) -> None:
        self.shard = shard
        self.problem: LogError | None = None
        self._owner = owner
        self._waiting: list[Part] = []
        self._closing = False
        self._asleep = False
        # Whether the thread sleeps without a role: nothing of this lane is under way.
        self.idle = False
        # Lanes of shards that were closed, whose last puts may be under way: those come before ours.
        self.behind: set[Lane] = set()
        self._writing: Writing | None = None
        self._relay: Relay | None = None
        self._client = Client(secrets.token_bytes(16))
        self._not_before_s = 0.0
        self._poll = select.epoll()
        try:
            self._wake = Wakeup()
        except OSError:
            self._poll.close()
            raise
        self._poll.register(self._wake, select.EPOLLIN | select.EPOLLET)
        self._thread = threading.Thread(target=self._run, name=f"put {shard.id}", daemon=True)
        self._thread.start()

    @property
    def last_guest_s(self) -> float:
        """When a put of another process came last, on the monotonic clock; 0: never."""
        writing = self._writing
        return 0.0 if writing is None else writing.guests.last_put_s

    def add(self, part: Part) -> None:
        """Queue a part, under the owner's lock, and see that it is looked at."""
        self._waiting.append(part)
        if self._relay is not None:
            if not self._relay.offer(self._waiting):
                self._rouse()
        elif self._asleep:
            self._rouse()

    def add_first(self, parts: list[Part]) -> None:
        """Queue parts, under the owner's lock, before everything that waits; nothing is under way here."""
        self._waiting[:0] = parts
        self._rouse()

    def let_pass(self, other: Lane) -> None:
        """Stand behind another lane no more; the owner's lock is held."""
        if other in self.behind:
            self.behind.discard(other)
            self._rouse()

    def take_all(self) -> list[Part]:
        """Return everything that waits, under the owner's lock: it goes elsewhere."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def finish(self) -> None:
        """Answer what is queued, let go of the shard, end the thread."""
        with self._owner.lock:
            self._closing = True
            self._rouse()
        self._thread.join()

    def _rouse(self) -> None:
        self._asleep = False
        self._wake.ring()

    # ---- the thread

    def _run(self) -> None:
        try:
            while self._wait():
                try:
                    self._attach()
                except ShardClosed as closed:
                    self._move(closed)
                except Exception as error:  # the boundary of this thread: who waits is told, whatever it was
                    self._fail(error)
                if self._writing is not None:
                    self._write(self._writing)
                elif self._relay is not None:
                    self._carry(self._relay)
        finally:
            self._wake.close()
            self._poll.close()

    def _wait(self) -> bool:
        """Sleep until something waits, and its turn has come; False if nothing will any more."""
        while True:
            with self._owner.lock:
                self.idle = False
                if self._client.unanswered or (self._waiting and not self.behind):
                    return True
                if not self._waiting:
                    self._owner.cleared(self)
                    if self._closing:
                        return False
                self.idle = self._asleep = True
            self._poll.poll()

    def _attach(self) -> None:
        """Become the writer, or find who is.

        Raises:
            BusyError: somebody writes who serves nobody, and did so for as long as we wait; the text names the pid.
            ShardClosed: the shard was split or merged.
            LogError, FailedError: it cannot be opened.
        """
        deadline = time.monotonic() + self._owner.wait_s
        while True:
            if (pause := self._not_before_s - time.monotonic()) > 0:
                time.sleep(pause)
            if self._join() or self._take_over(final=time.monotonic() >= deadline):
                return
            time.sleep(_RETRY_S)

    def _join(self) -> bool:
        connected = rendezvous.connect(self.shard)
        if connected is None:
            return False
        asked = self._client.hello()
        unanswered = self._client.unanswered
        try:
            relay = Relay(self._client, connected)
        except (OSError, Malformed):
            connected.close()
            return False
        self._judge(unanswered, lambda flight: relay.verdict(flight.number, asked), relay.welcome.base)
        self._poll.register(relay, select.EPOLLIN)
        with self._owner.lock:
            self._relay = relay
            relay.offer(self._waiting)
        return True

    def _take_over(self, *, final: bool) -> bool:
        try:
            writing = Writing.open(self.shard, self._poll, self._owner.clock)
        except BusyError:
            if final:
                raise
            return False
        asked, unanswered = self._client.hello(), self._client.unanswered
        self._client.unanswered = []
        self._writing = writing
        self._judge(unanswered, lambda flight: writing.guests.verdict(asked, flight.number), writing.base)
        return True

    def _judge(self, flights: list[Flight], verdict: Callable[[Flight], Verdict], base: str) -> None:
        """Answer, or queue again, what the writer that we lost did not answer."""
        again: list[Part] = []
        for flight in flights:
            found = verdict(flight)
            if found.first is not None:
                self._place(flight.parts, found.first, base)
            elif found.known:
                again += flight.parts
            else:
                self._owner.answered(flight.parts, _unknown(self.shard))
        with self._owner.lock:
            self._waiting[:0] = again

    def _move(self, closed: ShardClosed) -> None:
        unanswered, self._client.unanswered = self._client.unanswered, []
        for flight in unanswered:  # whose outcome only the shard's next writer would have known
            self._owner.answered(flight.parts, _unknown(self.shard))
        parts: list[Part] = []
        try:
            self._owner.moved(self, parts)
        except Exception as error:  # the boundary, as in _run
            self._owner.answered(parts, error)

    def _fail(self, error: Exception) -> None:
        unanswered, self._client.unanswered = self._client.unanswered, []
        for flight in unanswered:
            self._owner.answered(flight.parts, _unknown(self.shard))
        with self._owner.lock:
            parts = self.take_all()
        self._owner.answered(parts, error)

    # ---- relaying

    def _carry(self, relay: Relay) -> None:
        """Pass on what waits until the connection ends, or there is nothing more to come."""
        interest = select.EPOLLIN  # as `_join` has registered it
        while not relay.over:
            if interest != relay.interest():
                interest = relay.interest()
                self._poll.modify(relay, interest)
            self._poll.poll()
            for flight, answer in relay.receive():
                if isinstance(answer, Placed):
                    self._place(flight.parts, answer.first, answer.base)
                else:
                    self._owner.answered(flight.parts, answer.error)
            with self._owner.lock:
                relay.offer(self._waiting)
                relay.flush()
                if self._closing and not self._waiting and not relay.flights:
                    break
        with self._owner.lock:
            self._relay = None
        self._poll.unregister(relay)
        relay.close()
        if relay.parted:
            if relay.claimed:
                self._not_before_s = time.monotonic() + _STAND_BACK_S
            with self._owner.lock:
                self._waiting[:0] = [part for flight in relay.flights for part in flight.parts]
        else:
            self._client.unanswered = list(relay.flights)

    def _place(self, parts: Sequence[Part], first: int, base: str) -> None:
        for part in parts:
            part.placed(self.shard, first, base)
            first += len(part.records)
        self._owner.answered(parts, None)

    # ---- writing

    def _write(self, writing: Writing) -> None:
        """Append what waits, group after group, until we are to end or are asked to let go."""
        while parts := self._gather(writing):
            error = writing.append(parts) or writing.commit()
            local = writing.answer(parts, error)
            if local:
                self._answer(local, error)
        self._writing = None
        try:
            writing.close()
        except LogError as problem:
            self.problem = problem
        if writing.guests.release_asked:
            self._not_before_s = time.monotonic() + _STAND_BACK_S

    def _answer(self, parts: list[Part], error: Exception | None) -> None:
        """Answer puts of this process, and if they are many let them come again before the next group is taken.

        Those who wait for their answers together put together again a moment later.  Taking them all at once makes
        the groups twice as large (60 of 64 putters instead of 31), and a record costs 15 us of processor time
        instead of 25: syncs are dear, and so is a writer that fights for the GIL with those it has woken.
        """
        turn = None
        if len(parts) >= _TURN_PUTS:
            turn = threading.Lock()
            turn.acquire()
        self._owner.answered(parts, error, turn)
        if turn is not None:
            turn.acquire(timeout=_TURN_S)

    def _gather(self, writing: Writing) -> list[Part]:
        """Wait for something to append, and return it: nothing if we are to end."""
        while True:
            parts, writing.held = writing.held, []
            with self._owner.lock:
                leaving = writing.guests.release_asked
                if not leaving:  # what comes from now on is for the next writer
                    parts += self._waiting
                    self._waiting = []
                pause = not parts and not leaving and not self._closing
                self._asleep = pause
            now = time.monotonic()
            if pause or (not leaving and (writing.guests.present or now >= writing.look_s)):
                writing.look_s = now + _LOOK_S
                parts += writing.guests.receive(self._poll.poll(writing.sync_in(now) if pause else 0.0))
                self._asleep = False  # who still finds it set rings once too often
            writing.sync_if_due(time.monotonic())
            if parts or not pause:
                return writing.first_run(parts)

def _unknown(shard: Shard) -> LogError:
    return LogError(
        f"the process that wrote to shard {shard.id} in {shard.directory.parent} ended before it answered: it is "
        "unknown whether the records are in the log"
    )
