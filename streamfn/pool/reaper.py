"""The one place where answers come in: a loop over every worker's completion ring, for the whole pool.

All workers ring at one place (bells.py).  A round reaps every ring that has anything outstanding, tells the lanes,
calls `on_round` once if there was news, and raises each ring's "the runtime sleeps" word before it waits for a
ringing.  With several batches staged a worker rings only when a quarter of them is left, so a round pays for
many batches; the ticker sees to it that what lies unreaped meanwhile is never older than TICK_S.  The ticker
also watches timeouts and the output of long invocations, and does not run while nothing is in flight.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn

import trio

from streamfn import limits
from streamfn._native import ffi, lib
from streamfn.pool.bells import Bells
from streamfn.pool.lane import Answer, FailureKind
from streamfn.pool.logs import NO_OUTPUT, Output
from streamfn.pool.worker import Worker

TICK_S = 0.02
# How often a pool without work looks at what its workers have printed: once for all of them.
IDLE_TICK_S = 0.32
# With fewer staged than this the runtime is woken by each answer.
DEEP = 4
# A worker rings once for an answer, and that may have been taken already; one that rings so often for nothing wants
# to keep the runtime busy.
RINGS_MAX = 1000

_OK: int = lib.SF_OK
_CAPACITY = limits.RING_CAPACITY
_reap = lib.sf_port_reap
_release = lib.sf_port_release


class Reaper:
    """The reap loop and the ticker.  Belongs to the Trio thread; `run` and `tick` are its two tasks."""

    def __init__(self) -> None:
        self._bells = Bells()
        self.next_invocation = 1
        self.on_round: Callable[[], None] = _nothing
        self._workers: list[Worker] = []
        self._asleep = False
        self._news = False
        self._rounds = 0
        self._ticking = False
        self._tick_wanted = trio.Event()
        # Made once: a round makes no cdata objects.
        self._out: Any = ffi.new("sf_reaped[]", _CAPACITY)
        self._views = [self._out[i] for i in range(_CAPACITY)]

    def close(self) -> None:
        """Free the descriptors; no task of ours may be running."""
        self._bells.close()

    # ---- what workers and lanes call ----

    def admit(self, worker: Worker) -> None:
        """Begin to reap a worker that became ready."""
        self._workers.append(worker)
        self._bells.hang(worker)
        self.tell()

    def dismiss(self, worker: Worker) -> None:
        """Stop reaping a worker that went away; nothing if it never was ready."""
        if worker in self._workers:
            self._workers.remove(worker)
            self._bells.take_down(worker)
            self.tell()

    def tell(self) -> None:
        """Let there be a round soon, with `on_round`."""
        self._news = True
        if self._asleep:
            self._bells.ring()

    def publish(self, worker: Worker) -> None:
        """Make a worker's staged entries visible to it."""
        if self._asleep and not worker.armed:
            lib.sf_port_arm(worker.port, _CAPACITY)
            worker.armed = True
        lib.sf_port_publish(worker.port)
        if not self._ticking:
            self._ticking = True
            self._tick_wanted.set()

    # ---- rounds ----

    async def run(self) -> NoReturn:
        """Reap until cancelled."""
        while True:
            self._round()
            if self._arm():
                await trio.lowlevel.checkpoint()
                continue
            self._asleep = True
            try:
                await trio.lowlevel.wait_readable(self._bells)
            finally:
                self._asleep = False
            for worker in self._bells.answer():
                worker.rings += 1
                if worker.rings > RINGS_MAX:
                    worker.kill(FailureKind.CRASHED, "the worker rang and rang without an answer to give")

    def _round(self) -> None:
        self._rounds += 1
        for worker in self._workers:
            if worker.armed:
                lib.sf_port_disarm(worker.port)
                worker.armed = False
            if worker.in_flight or worker.chores:
                self.reap(worker)
            if worker.owes:
                worker.pay()
            if worker.is_cut_off:
                worker.retire("its handler has closed our socket")
        if self._news:
            self._news = False
            self.on_round()

    def _arm(self) -> bool:
        """Raise the words.  True if there is something to do already."""
        if self._news:
            return True
        for worker in self._workers:
            outstanding = worker.in_flight + worker.chores
            if outstanding:
                worker.armed = True
                if lib.sf_port_arm(worker.port, outstanding >> 2 if outstanding >= DEEP else _CAPACITY):
                    return True
        return False

    def reap(self, worker: Worker) -> bool:
        """Take every answer a worker has given and tell its lanes.  True if there was any."""
        port = worker.port
        count = _reap(port, self._out, _CAPACITY, worker.fold)
        if not count:
            return False
        seats = worker.seats
        views = self._views
        for i in range(count):
            entry = views[i]
            if entry.outcome == _OK and worker.fold and not entry.printed:
                batches = entry.batches
                seat: Any = seats[entry.lane]
                worker.answered(seat, batches)
                worker.fruitful = True
                seat.client.succeeded(batches, entry.finished_ns)
            else:
                self._answer_one(worker, entry)
        _release(port)
        worker.rings = 0
        now_ns = time.monotonic_ns()
        apart_ns, usual_ns = now_ns - worker.progress_ns, worker.usual_ns
        worker.usual_ns = apart_ns if apart_ns > usual_ns else usual_ns - (usual_ns >> 3)
        worker.progress_ns = now_ns
        worker.is_held_up = False
        worker.end_if_retired()
        self._news = True
        return True

    def _answer_one(self, worker: Worker, entry: Any) -> None:
        outcome = entry.outcome
        if outcome == lib.SF_RETIRED:
            worker.chores -= 1
            if not worker.chores:
                worker.environment.files_went()
            return
        if outcome == lib.SF_BROKEN:
            worker.kill(FailureKind.CRASHED, "the worker broke the protocol of its rings")
            return
        seat: Any = worker.seats[entry.lane]
        worker.answered(seat, 1)
        if outcome in (lib.SF_OK, lib.SF_ERROR, lib.SF_PARTLY):
            is_first, worker.fruitful = not worker.fruitful, True
            output = worker.take_log(entry.log_end) if entry.printed else NO_OUTPUT
            if outcome == lib.SF_ERROR:
                seat.client.failed(_answer(worker, entry, output, is_first), FailureKind.HANDLER)
            elif outcome == lib.SF_PARTLY:
                seat.client.failed(_answer(worker, entry, output, is_first), FailureKind.RESPONSE)
            elif output.any or not worker.fold:
                seat.client.completed(_answer(worker, entry, output, is_first))
            else:  # what was printed before it (a worker's own Init) had been handed out
                seat.client.succeeded(1, entry.finished_ns)
        else:
            seat.client.returned(1)

    # ---- the ticker ----

    async def tick(self) -> NoReturn:
        """Look after what is in flight, every TICK_S, until cancelled."""
        while True:
            await self._idle()
            while any(worker.in_flight or worker.chores for worker in self._workers):
                await trio.sleep(TICK_S)
                self._look()
            self._ticking = False
            self._tick_wanted = trio.Event()

    async def _idle(self) -> None:
        """Wait until something is in flight.

        Threads and children that handlers have left behind may print meanwhile: whoever does is looked at as often as
        when it runs, and whoever does not is looked at now and then.
        """
        pause_s = TICK_S
        while not self._tick_wanted.is_set():
            with trio.move_on_after(pause_s):
                await self._tick_wanted.wait()
            printed = [worker.shed_log() for worker in self._workers]
            pause_s = TICK_S if any(printed) else min(2 * pause_s, IDLE_TICK_S)

    def _look(self) -> None:
        now_ns = time.monotonic_ns()
        for worker in self._workers:
            if worker.in_flight and worker.is_watched:
                if worker.is_overdue(now_ns):
                    self._expire(worker, now_ns)
                if worker.in_flight and worker.environment.is_over():
                    self._end(worker, FailureKind.OUT_OF_MEMORY)
                if worker.in_flight and worker.environment.is_full():
                    worker.retired_for = "its ephemeral storage is used up"  # whoever comes next begins with none
                    self._end(worker, FailureKind.CRASHED, worker.retired_for)
                if worker.in_flight and worker.holds_up(now_ns):
                    self._free_lanes(worker)
                if worker.in_flight:
                    worker.watch_log(now_ns)
        # A low-water mark lets plain successes lie; without a round since the last look they get one now.
        if self._asleep and (self._news or not self._rounds):
            self._bells.ring()
        self._rounds = 0

    def _free_lanes(self, worker: Worker) -> None:
        """Free the lanes behind a long invocation, unless it turns out to have just been answered."""
        if not self.reap(worker) and worker.in_flight:
            worker.free_lanes()
            self.tell()

    def _expire(self, worker: Worker, now_ns: int) -> None:
        """Kill a worker whose invocation is overdue, unless it turns out to have just been answered."""
        if self.reap(worker) and not worker.is_overdue(now_ns):
            return
        worker.revoke_all()
        if self.reap(worker) and not worker.is_overdue(now_ns):
            return
        worker.kill(FailureKind.TIMEOUT)

    def _end(self, worker: Worker, cause: FailureKind, detail: str = "") -> None:
        """Kill a worker for what its process has become; only what it runs fails."""
        worker.revoke_all()
        self.reap(worker)
        worker.kill(cause, detail)


def _answer(worker: Worker, entry: Any, output: Output, is_first: bool) -> Answer:
    length = entry.payload_bytes
    if entry.payload_inline:
        payload = bytes(ffi.buffer(entry.payload)[:length])
    else:
        payload = worker.read_side(entry.side_offset, length)
    return Answer(
        entry.first_invocation,
        entry.records,
        entry.submitted_ns,
        entry.started_ns,
        entry.finished_ns,
        payload,
        output.text,
        output.dropped,
        is_first=is_first,
    )


def _nothing() -> None:
    return None
