"""A port, the descriptors of a worker, and a desk here or in a forked process."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from streamfn._native import ffi, lib

CAPACITY = 16
ARENA_BYTES = 16 * 80
SQ_TAIL, WORKER_SLEEPS, CQ_TAIL, CQ_HEAD, RUNTIME_SLEEPS, STARTED = 128, 384, 512, 640, 768, 896
SUBMISSIONS = 4096


def ring_memfd(size: int, seals: int = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW) -> int:
    memfd = os.memfd_create("rings", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memfd, size)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, seals)
    return memfd


class Rig:
    """One pair of rings.  `fork(worker)` runs `worker(desk)` in a child; `desk` opens one in this process."""

    def __init__(self, capacity: int = CAPACITY, arena_bytes: int = ARENA_BYTES, *, log: bool = True) -> None:
        self.capacity = capacity
        self.memfd = ring_memfd(lib.sf_ring_bytes(capacity, arena_bytes))
        self.doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.log = os.memfd_create("log") if log else -1
        self.side = os.memfd_create("side")
        self.control = -1
        self.port = lib.sf_port_open(self.memfd, capacity, arena_bytes)
        assert self.port, os.strerror(ffi.errno)
        self.memory = mmap.mmap(self.memfd, 0)
        self.out = ffi.new("sf_reaped[]", 256)
        self.work = ffi.new("sf_work *")
        self.invocation = 100
        self.pid = 0
        self._desk = ffi.NULL

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pid:
            os.kill(self.pid, 9)
            self.wait()
        lib.sf_desk_close(self._desk)
        lib.sf_port_close(self.port)
        self.memory.close()
        for fd in (self.memfd, self.doorbell, self.log, self.side):
            if fd >= 0:
                os.close(fd)

    # ---- the worker

    @property
    def desk(self) -> Any:
        if not self._desk:
            self._desk = lib.sf_desk_open(self.memfd, self.doorbell, self.log, self.side)
            assert self._desk, os.strerror(ffi.errno)
        return self._desk

    def fork(self, worker: Callable[[Any], int | None]) -> int:
        """Runs `worker(desk)` in a child, whose exit status is what it returns (70 if it raises)."""
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                status = worker(self.desk) or 0
            finally:
                os._exit(status)
        return self.pid

    def wait(self) -> int:
        """Reaps the child; its exit status, or minus the signal."""
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def next(self, slice_ns: int = 0) -> int:
        return int(lib.sf_desk_next(self.desk, self.work, slice_ns))

    def finish(self, outcome: int = lib.SF_OK, payload: bytes = b"null") -> bool:
        return bool(lib.sf_desk_finish(self.desk, outcome, payload, len(payload)))

    def run(self, outcome: int = lib.SF_OK, payload: bytes = b"null") -> int:
        """Takes one batch and answers it; its invocation number."""
        assert self.next() == lib.SF_NEXT_INVOKE
        invocation = int(self.work.invocation)
        assert self.finish(outcome, payload)
        return invocation

    def drain(self) -> list[int]:
        """Runs all there is; the invocation numbers."""
        ran = []
        while self.next() in (lib.SF_NEXT_INVOKE, lib.SF_NEXT_SELECTED):
            ran.append(int(self.work.invocation))
            assert self.finish()
        return ran

    def extents(self) -> list[tuple[int, int, int]]:
        """(first_offset, first_row, rows) of the claimed batch."""
        at = ffi.cast("sf_extent *", self.work.extents)
        return [(at[i].first_offset, at[i].first_row, at[i].rows) for i in range(self.work.extent_count)]

    def selection(self) -> list[int]:
        """The row numbers of the claimed batch."""
        return list(ffi.cast("uint32_t *", self.work.selection)[0 : self.work.selected])

    # ---- the runtime

    def submit(
        self,
        batches: int = 1,
        *,
        lane: int = 0,
        epoch: int = 0,
        rows: int = 1,
        now_ns: int | None = None,
        latency: Any = ffi.NULL,
        duration: Any = ffi.NULL,
    ) -> int:
        first = ffi.new("sf_extent *", {"segment_id": 1, "first_offset": 1000, "first_row": 5})
        now = time.monotonic_ns() if now_ns is None else now_ns
        done = lib.sf_port_submit_run(
            self.port, lane, epoch, first, rows, batches, self.invocation, now, latency, duration
        )
        self.invocation += done
        lib.sf_port_publish(self.port)
        return int(done)

    def submit_extents(self, count: int, *, lane: int = 0, first_offset: int = 0) -> bool:
        extents = ffi.new("sf_extent[]", count)
        for i in range(count):
            extents[i].first_offset, extents[i].first_row, extents[i].rows = first_offset + i, i, 1
        now, null = time.monotonic_ns(), ffi.NULL
        done = lib.sf_port_submit(self.port, lane, 0, extents, count, null, 0, self.invocation, now, null, null)
        self.invocation += done
        lib.sf_port_publish(self.port)
        return bool(done)

    def submit_rows(self, rows: list[int], rows_per_batch: int, batches: int) -> int:
        """Batches of selected rows of a message whose first row has shard offset 1000."""
        message = ffi.new("sf_extent *", {"segment_id": 1, "first_offset": 1000})
        now, null = time.monotonic_ns(), ffi.NULL
        done = lib.sf_port_submit_rows(
            self.port,
            0,
            0,
            message,
            ffi.new("uint32_t[]", rows),
            rows_per_batch,
            batches,
            self.invocation,
            now,
            null,
            null,
        )
        self.invocation += done
        lib.sf_port_publish(self.port)
        return int(done)

    def submit_mixed(self, *parts: int | list[int]) -> bool:
        """One batch with an extent for each part: so many rows from row 0 on, or selected ones."""
        extents, selection = ffi.new("sf_extent[]", len(parts)), []
        for extent, part in zip(extents, parts, strict=True):
            extent.rows = part if isinstance(part, int) else len(part)
            if isinstance(part, list):
                extent.first_row = lib.SF_SELECTED
                selection += part
        numbers, now, null = ffi.new("uint32_t[]", selection), time.monotonic_ns(), ffi.NULL
        done = lib.sf_port_submit(
            self.port, 0, 0, extents, len(parts), numbers, len(selection), self.invocation, now, null, null
        )
        self.invocation += done
        lib.sf_port_publish(self.port)
        return bool(done)

    def reap(self, *, fold: bool = False, release: bool = True, capacity: int = 256) -> list[Any]:
        """Copies of the answers."""
        count = lib.sf_port_reap(self.port, self.out, capacity, fold)
        answers = [ffi.new("sf_reaped *", self.out[i]) for i in range(count)]
        if release:
            lib.sf_port_release(self.port)
        return answers

    def reap_until(self, batches: int, *, fold: bool = True, deadline_s: float = 10) -> list[Any]:
        """Sleeps and reaps until that many batches have been answered."""
        answers: list[Any] = []
        end = time.monotonic() + deadline_s
        while sum(answer.batches for answer in answers) < batches:
            assert time.monotonic() < end, "the worker does not answer"
            if not lib.sf_port_arm(self.port, self.capacity):
                self.rung(1000)
            answers += self.reap(fold=fold)
        return answers

    def orphans(self) -> list[Any]:
        found = []
        while lib.sf_port_orphan(self.port, self.out):
            found.append(ffi.new("sf_reaped *", self.out[0]))
        return found

    def rung(self, timeout_ms: int = 0) -> bool:
        """Whether the doorbell has been rung; takes it down."""
        poll = select.poll()
        poll.register(self.doorbell, select.POLLIN)
        if not poll.poll(timeout_ms):
            return False
        os.eventfd_read(self.doorbell)
        return True

    # ---- the shared memory, as a hostile handler sees it

    def peek(self, offset: int, kind: str = "Q") -> int:
        value: int = struct.unpack_from("<" + kind, self.memory, offset)[0]
        return value

    def poke(self, offset: int, value: int, kind: str = "Q") -> None:
        struct.pack_into("<" + kind, self.memory, offset, value)

    def state_at(self, slot: int) -> int:
        """Where the state word of a submission lies."""
        return SUBMISSIONS + 64 * slot

    def completion_at(self, slot: int) -> int:
        """Where a completion lies.

        outcome u32, payload_bytes u32, started, finished, log_end, side_offset, payload_inline u32.
        """
        return SUBMISSIONS + self.capacity * (64 + 128) + 64 * slot


def outcomes(answers: list[Any]) -> list[int]:
    return [answer.outcome for answer in answers]


def payload(rig: Rig, answer: Any) -> bytes:
    if answer.payload_inline:
        return bytes(ffi.buffer(answer.payload, answer.payload_bytes))
    return os.pread(rig.side, answer.payload_bytes, answer.side_offset)
