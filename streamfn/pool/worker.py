"""One worker process as the runtime sees it: its rings, its files, its life.

STARTING   the zygote has been asked for it (or it does its own Init)
READY      it takes entries
RETIRING   it takes no more; what it runs is waited for, what it has not begun comes back behind that
DRAINING   it has been killed; what it answered before its end still counts
DEAD       everything in flight has been answered, every descriptor and mapping is gone
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

import trio

from streamfn import limits
from streamfn._native import ffi, lib
from streamfn.pool import linux, protocol
from streamfn.pool.bells import make_bell
from streamfn.pool.confine.environment import Environment
from streamfn.pool.confine.shelf import Shelf
from streamfn.pool.lane import Answer, FailureKind, LaneClient, LaneSeat
from streamfn.pool.logs import NO_OUTPUT, LogReader, Output
from streamfn.pool.seat import segment_message

if TYPE_CHECKING:
    from streamfn.pool.reaper import Reaper

ALL_LANES = 0xFFFFFFFF
PAYLOAD_BYTES_MAX = limits.RESPONSE_BYTES_MAX + 64 * 1024
KILLED = "signal: killed"  # `linux.describe_exit` of SIGKILL
# A timeout counts from the worker's own start stamp, and if that is not to be had, from what we saw last;
# that is a little later.
TIMEOUT_GRACE_NS = 50_000_000
# Output of an invocation that runs for longer than this is handed out while it runs, as often.
PRINTED_AFTER_NS = 100_000_000
# A worker from which nothing has come for so long, and for so many times of what it usually takes, is held up.
HELD_UP_NS = 100_000_000
HELD_UP_TIMES = 4


class State(Enum):
    """See the module."""

    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"
    DRAINING = "draining"
    DEAD = "dead"


def _nobody(worker: Worker) -> None:
    return None


class Worker:
    """A worker process and what we keep for it.

    `roster` is the list of ready workers it enters and leaves; of its leaving, `left` is told.  All of it belongs
    to the Trio thread.
    """

    def __init__(
        self,
        reaper: Reaper,
        roster: list[Worker],
        index: int,
        environment: Environment,
        *,
        timeout_s: float | None,
        debug: bool,
        fold: bool,
        left: Callable[[Worker], None] = _nobody,
    ) -> None:
        """Make the rings and files.  OSError when there is no memory or no descriptor for them.

        The environment is the worker's from now on, and closed with it.
        """
        self.index = index
        self.environment = environment
        self.shelf: Shelf | None = None  # what segments are opened again through, in a sandbox
        self.pid = 0
        self.state = State.STARTING
        self.ready = False
        self.in_flight = 0
        self.lanes = 0
        self.progress_ns = 0
        self.usual_ns = 0  # about how long its answers are apart
        self.is_held_up = False  # by an invocation that takes long: other lanes have been freed, and sit down elsewhere
        self.chores = 0  # retire entries that are not answered
        self.armed = False
        self.rings = 0  # since its last answer
        self.fold = fold
        self.is_cut_off = False  # its socket is closed: the reaper retires it
        self.fruitful = False  # it has begun an invocation
        self.since_ns = 0  # when it became ready
        self.idle_since_ns = 0  # when the last lane stood up
        self.init_ns = 0  # how long its Init took
        self.retired_for = ""  # why it was retired
        self.is_init_billed = False
        self.restore_ns: int | None = None  # from asking for its fork to the end of the hooks behind it; None: no hooks
        self.staged: deque[list[Any]] = deque()  # [seat, first invocation, count], oldest first
        self.seats: list[LaneSeat | None] = [None] * limits.RING_CAPACITY
        self._epochs = [0] * limits.RING_CAPACITY
        self._free = list(range(limits.RING_CAPACITY - 1, -1, -1))
        self._known: set[int] = set()
        self._owed: deque[int] = deque()  # segments to be retired for which the ring had no room
        self._cause = FailureKind.CRASHED
        self._detail = ""
        self._reaper = reaper
        self._roster = roster
        self._left = left
        self._timeout_ns = None if timeout_s is None else round(timeout_s * 1e9)
        self._printed_ns = 0
        self._log_seen = 0
        self._pidfd = -1
        with contextlib.ExitStack() as undo:
            size = lib.sf_ring_bytes(limits.RING_CAPACITY, limits.ARENA_BYTES)
            self._ring = linux.sealed_memfd("streamfn-ring", size)
            undo.callback(os.close, self._ring)
            self.port: Any = lib.sf_port_open(self._ring, limits.RING_CAPACITY, limits.ARENA_BYTES)
            if self.port == ffi.NULL:
                raise OSError(ffi.errno, os.strerror(ffi.errno))
            undo.callback(lib.sf_port_close, self.port)
            self._log_fd = linux.growing_memfd("streamfn-log", append=True)
            undo.callback(os.close, self._log_fd)
            self._side = linux.growing_memfd("streamfn-side", append=False)
            undo.callback(os.close, self._side)
            self.doorbell = make_bell()
            undo.callback(os.close, self.doorbell)
            self.control, self._far = protocol.pair()
            undo.pop_all()
        self.log = None if debug else LogReader(self._log_fd)

    # ---- birth ----

    @property
    def birth_fds(self) -> list[int]:
        """The descriptors of its spawn message."""
        seat = [self._ring, self.doorbell, self._log_fd, self._side, self._far.fileno()]
        return [*seat, *self.environment.doors]

    def born(self, pid: int, pidfd: int) -> None:
        """Note the process; the worker's ends are its own now.  Takes the pidfd over."""
        self.pid = pid
        self._pidfd = pidfd
        self.environment.born(pid)
        self.environment.entered()
        self._forget_far_ends()
        if self.state is not State.STARTING:  # it was killed before it was there
            self._send_kill()

    def enlist(self) -> None:
        """Begin to take entries."""
        assert self.state is State.STARTING, self.state
        # It has nothing more to say here, and what a handler sent would lie in the socket unread, with its descriptors.
        self.control.shutdown(socket.SHUT_RD)
        self.state = State.READY
        self.ready = True
        self.since_ns = self.idle_since_ns = time.monotonic_ns()
        self._roster.append(self)
        self._reaper.admit(self)

    async def wait_ended(self) -> None:
        """Wait until the process has ended.  Cancelling changes nothing."""
        await trio.lowlevel.wait_readable(self._pidfd)

    # ---- what a lane may ask ----

    @property
    def room(self) -> int:
        """Entries that can be staged now."""
        return int(lib.sf_port_room(self.port)) if self.ready else 0

    def seat_lane(self, client: LaneClient, latency: Any = ffi.NULL, duration: Any = ffi.NULL) -> LaneSeat:
        """Give a lane a slot.  The histograms (`sf_histogram *` or NULL) take every invocation that runs.

        Raises trio.WouldBlock when all slots are taken, or the worker is not ready.
        """
        if not self.ready or not self._free:
            raise trio.WouldBlock
        slot = self._free.pop()
        self._epochs[slot] += 1
        seat = LaneSeat(self, self._reaper, slot, self._epochs[slot], client, latency, duration)
        self.seats[slot] = seat
        self.lanes += 1
        return seat

    def vacate(self, slot: int, seat: LaneSeat) -> None:
        """Take a slot back; nothing if the worker is dead, and its seats with it."""
        if self.state is not State.DEAD and self.seats[slot] is seat:
            if seat.measured is not None:
                lib.sf_port_measure(self.port, slot, ffi.NULL, ffi.NULL)
            self._epochs[slot] = seat.epoch
            self.seats[slot] = None
            self._free.append(slot)
            self.lanes -= 1
            if not self.lanes:
                self.idle_since_ns = time.monotonic_ns()

    def knows(self, segment_id: int) -> bool:
        """Whether the segment has been introduced and not retired since."""
        return segment_id in self._known

    def introduce(self, segment_id: int, fd: int, header: bytes) -> None:
        """Pass a segment's descriptor and JSON header on, before the first extent that needs it.

        Raises trio.WouldBlock when the socket is full (try again in a later round) or the worker goes away.
        """
        if not self.ready:
            raise trio.WouldBlock
        again: int | None = None
        try:
            if self.shelf is not None:
                again = self.shelf.opened(fd)
            protocol.send_bytes(self.control, segment_message(segment_id, header), [fd if again is None else again])
        except (BrokenPipeError, ConnectionResetError) as error:  # a handler has closed it
            self.is_cut_off = True
            self._reaper.tell()
            raise trio.WouldBlock from error
        except OSError as error:  # full, short of memory or of descriptors, or the file is just being renamed
            raise trio.WouldBlock from error
        finally:
            if again is not None:
                os.close(again)
        self._known.add(segment_id)

    def let_go(self, segment_id: int) -> None:
        """Have the worker let a segment's mapping go, behind everything that is staged now; with a full ring, soon."""
        self._owed.append(segment_id)
        self.pay()

    def pay(self) -> None:
        """Submit the retire entries that are owed, as far as there is room; the reaper calls it after each round."""
        if not self.ready:
            self._owed.clear()
            return
        chores = self.chores
        while self._owed:
            # Until its entry is staged a segment is known: what was staged meanwhile lies before it.
            if self._owed[0] in self._known:
                self.environment.files_go()
                if not lib.sf_port_retire(self.port, self._owed[0]):
                    break
                self._known.discard(self._owed[0])
                self.chores += 1
            self._owed.popleft()
        if self.chores > chores:
            self._reaper.publish(self)

    @property
    def owes(self) -> bool:
        """Whether retire entries wait for room."""
        return bool(self._owed)

    # ---- watching ----

    @property
    def is_watched(self) -> bool:
        """Whether it may be running something that is to be waited for."""
        return self.state in (State.READY, State.RETIRING)

    def is_overdue(self, now_ns: int) -> bool:
        """Whether the running invocation has outlived its timeout."""
        if self._timeout_ns is None or not self.in_flight:
            return False
        started_ns = lib.sf_port_running_since(self.port)
        latest_ns = self.progress_ns + self._timeout_ns + TIMEOUT_GRACE_NS
        return bool(now_ns >= latest_ns or (started_ns and now_ns >= started_ns + self._timeout_ns))

    def holds_up(self, now_ns: int) -> bool:
        """Whether lanes wait here for another one's invocation that takes much longer than usual."""
        if self.is_held_up or self.lanes < 2:
            return False
        return now_ns - self.progress_ns >= max(HELD_UP_NS, HELD_UP_TIMES * self.usual_ns)

    def free_lanes(self) -> None:
        """Give back at once what waits behind the running invocation, so that its lanes can go on elsewhere.

        What its own lane has staged comes back when it has been answered, as ever.
        """
        self.is_held_up = True
        running = self.staged[0][0]
        for slot, seat in enumerate(list(self.seats)):
            if seat is None or not seat.in_flight:
                continue
            seat.client.recalled()
            if seat is running:
                lib.sf_port_revoke(self.port, slot)
                continue
            count = lib.sf_port_withdraw(self.port, slot)
            if count:
                assert count == seat.in_flight, (count, seat.in_flight)
                self.staged = deque(each for each in self.staged if each[0] is not seat)
                self.in_flight -= count
                seat.in_flight = 0
                seat.client.returned(count)

    def revoke_all(self) -> None:
        """Take back everything that has not begun."""
        for seat in self.seats:
            if seat is not None and seat.in_flight:
                seat.client.recalled()
        lib.sf_port_revoke(self.port, ALL_LANES)

    def watch_log(self, now_ns: int) -> None:
        """Hand out what the running invocation has printed, if it has been running for some time.

        Everything answered so far must have been reaped since `now_ns`, or output would go to the wrong one.
        """
        if self.log is None:
            return
        self.log.shed()
        started_ns = lib.sf_port_running_since(self.port)
        is_long = started_ns and now_ns - started_ns >= PRINTED_AFTER_NS
        if not is_long or now_ns - self._printed_ns < PRINTED_AFTER_NS:
            return
        end = self.log.size()
        self._reaper.reap(self)
        if self.staged and lib.sf_port_running_since(self.port) == started_ns:
            seat, invocation, _ = self.staged[0]
            text = self.log.partial(end)
            if text:
                self._printed_ns = now_ns
                seat.client.printed(invocation, text)

    def shed_log(self) -> bool:
        """Bound what is kept of output that nobody reads.  True if anything was printed since the last time."""
        if self.log is None:
            return False
        self.log.shed()
        seen, self._log_seen = self._log_seen, self.log.size()
        return self._log_seen != seen

    def take_log(self, end: int | None = None) -> Output:
        """Give the output of the invocation that was answered with this `log_end` (None: all there is)."""
        if self.log is None:
            return NO_OUTPUT
        size = self.log.size()
        return self.log.settle(size if end is None else min(end, size))

    def read_side(self, offset: int, length: int) -> bytes:
        """Read a long payload."""
        return os.pread(self._side, min(length, PAYLOAD_BYTES_MAX), offset)

    # ---- the end ----

    def retire(self, reason: str) -> None:
        """End it at a batch edge: it takes nothing new, and is killed when what it runs is answered.

        What it has staged and not begun is revoked, and comes back behind what runs.  A timeout still holds.
        `reason` is for whoever looks.  Nothing if it is not ready (any more).
        """
        if self.state is not State.READY:
            return
        self.retired_for = reason
        self._leave_roster()
        self.state = State.RETIRING
        self.revoke_all()
        self.end_if_retired()

    def end_if_retired(self) -> None:
        """Kill a retired worker that has nothing in flight any more; the reaper asks after each answer."""
        if self.state is State.RETIRING and not self.in_flight:
            self.kill()

    def kill(self, cause: FailureKind = FailureKind.CRASHED, detail: str = "") -> None:
        """SIGKILL it; what it is running fails with `cause`.  The task that waits for its end buries it."""
        if self.state in (State.DRAINING, State.DEAD):
            return
        self._cause = cause
        self._detail = detail
        self._leave_roster()
        self.state = State.DRAINING
        self.environment.peak_mb()  # later there is nothing to be seen any more
        self._send_kill()

    def _send_kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def bury(self, detail: str) -> None:
        """After its end, which was as `detail` says: answer everything in flight, and free everything."""
        self._leave_roster()
        if self._cause is FailureKind.CRASHED and detail == KILLED and self.environment.ran_out():
            self._cause = FailureKind.OUT_OF_MEMORY
        if self.in_flight or self.chores:
            while self._reaper.reap(self):
                pass
            self._answer_orphans(detail)
        assert self.in_flight == 0, self.in_flight
        self.close()

    def _answer_orphans(self, detail: str) -> None:
        entry = ffi.new("sf_reaped *")
        while lib.sf_port_orphan(self.port, entry):
            if entry.outcome == lib.SF_RETIRED:
                self.chores -= 1
                continue
            seat = self.seats[entry.lane]
            assert seat is not None
            self.answered(seat, 1)
            if entry.outcome == lib.SF_ERROR:
                is_first, self.fruitful = not self.fruitful, True
                output = self.take_log()
                answer = Answer(
                    invocation=entry.first_invocation,
                    records=entry.records,
                    submitted_ns=entry.submitted_ns,
                    started_ns=entry.started_ns,
                    finished_ns=time.monotonic_ns(),
                    payload=b"",
                    log=output.text,
                    log_dropped=output.dropped,
                    detail=self._detail or detail,
                    is_first=is_first,
                )
                seat.client.failed(answer, self._cause)
            else:
                seat.client.returned(1)

    def answered(self, seat: LaneSeat, batches: int) -> None:
        """Note that the oldest `batches`, all of `seat`, are answered."""
        seat.in_flight -= batches
        self.in_flight -= batches
        staged = self.staged
        while batches:
            oldest = staged[0]
            if oldest[2] > batches:
                oldest[1] += batches
                oldest[2] -= batches
                return
            batches -= oldest[2]
            staged.popleft()

    def close(self) -> None:
        """Kill the process if it lives, and free every descriptor and mapping.  Answers nobody."""
        if self.state is State.DEAD:
            return
        self.kill()
        self.state = State.DEAD
        self._reaper.dismiss(self)
        self.control.close()
        self._forget_far_ends()
        for fd in (self._log_fd, self._side, self.doorbell, self._pidfd):
            if fd >= 0:
                os.close(fd)
        lib.sf_port_close(self.port)
        self.port = ffi.NULL
        for seat in self.seats:
            if seat is not None:
                seat.in_flight = 0
        self.seats = []
        self.in_flight = self.lanes = 0
        self.staged.clear()
        self.environment.close()  # last: it may fail, by what others have put into its directories

    def _leave_roster(self) -> None:
        if self.ready:
            self.ready = False
            self._roster.remove(self)
            self._reaper.tell()
            self._left(self)

    def _forget_far_ends(self) -> None:
        self._far.close()
        if self._ring >= 0:
            os.close(self._ring)
            self._ring = -1
