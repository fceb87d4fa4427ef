"""What processes use while something is measured: processor time, context switches, page faults, memory.

Of other processes too: from their clocks (a microsecond) and from /proc (some 100 µs a process, so not often). A
worker's context switches are those of its threads that live at the last look.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import time
from collections.abc import Iterable
from typing import NamedTuple

from streamfn.pool import linux


class Used(NamedTuple):
    """What was used, from some moment to another: seconds of processor time, and counts."""

    cpu_s: float = 0.0
    voluntary: int = 0
    involuntary: int = 0
    minor: int = 0
    major: int = 0

    def plus(self, other: Used) -> Used:
        """Return both together."""
        return Used(
            self.cpu_s + other.cpu_s,
            self.voluntary + other.voluntary,
            self.involuntary + other.involuntary,
            self.minor + other.minor,
            self.major + other.major,
        )

    @classmethod
    def sum(cls, parts: Iterable[Used]) -> Used:
        """Return all of them together."""
        return functools.reduce(cls.plus, parts, cls())

    def since(self, earlier: Used) -> Used:
        """Return what was used after `earlier`."""
        return self.plus(Used(*(-value for value in earlier)))  # type: ignore[arg-type]


def used_by_us() -> Used:
    """What this process has used so far, with all of its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = usage.ru_utime + usage.ru_stime
    return Used(cpu_s, usage.ru_nvcsw, usage.ru_nivcsw, usage.ru_minflt, usage.ru_majflt)


def cpu_ns_of(pid: int) -> int | None:
    """Processor time of another process, all its threads, in nanoseconds; None when it is gone."""
    try:
        # As clock_getcpuclockid(3) makes the id of a pid's clock; /proc has hundredths of a second only.
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return None


def used_by(pid: int) -> Used | None:
    """What another process has used so far; None when it is gone."""
    cpu_ns = cpu_ns_of(pid)
    if cpu_ns is None:
        return None
    try:
        fields = linux.stat_fields(pid)
    except OSError:
        return None
    voluntary, involuntary = _switches(pid)
    return Used(cpu_ns / 1e9, voluntary, involuntary, int(fields[7]), int(fields[9]))


def _switches(pid: int) -> tuple[int, int]:
    found = {b"voluntary_ctxt_switches": 0, b"nonvoluntary_ctxt_switches": 0}
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/status", "rb") as file:
                for name, _, value in (line.partition(b":") for line in file):
                    if name in found:
                        found[name] += int(value)
    return found[b"voluntary_ctxt_switches"], found[b"nonvoluntary_ctxt_switches"]


def memory_of(pid: int) -> int:
    """Bytes of memory of its own that a process has now: not the mapped log; 0 when it is gone."""
    from streamfn.pool.confine.memory import parse_status

    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            reading = parse_status(file.read())
    except OSError:
        return 0
    return reading.own if reading is not None else 0


class Watch:
    """Follows a runtime and its workers through one measurement: `begin` it, `look` now and then, `end` it.

    A worker that ends between two looks is counted up to the last one. Memory is the most that a look has found.
    """

    def __init__(self) -> None:
        self._ours = Used()
        self._began: dict[int, Used] = {}
        self._last: dict[int, Used] = {}
        self._cpu_ns: dict[int, int] = {}
        self.runtime = Used()
        self.runtime_peak = 0
        self.workers_peak = 0

    def begin(self, workers: Iterable[int]) -> None:
        """Count from now on; these are the pids of the workers that are there."""
        self._began = {pid: used for pid in workers if (used := used_by(pid)) is not None}
        self._last = dict(self._began)
        self.runtime_peak = self.workers_peak = 0
        self._ours = used_by_us()

    def cpu_s(self, workers: Iterable[int]) -> float:
        """Processor time of the runtime and all workers there have been, in seconds; for differences only."""
        for pid in workers:
            cpu_ns = cpu_ns_of(pid)
            if cpu_ns is not None:
                self._cpu_ns[pid] = cpu_ns
        return (time.process_time_ns() + sum(self._cpu_ns.values())) / 1e9

    def look(self, workers: Iterable[int]) -> None:
        """Note what has been used; a worker that was not there at the begin counts from its birth."""
        held = 0
        for pid in workers:
            used = used_by(pid)
            if used is not None:
                self._last[pid] = used
                held += memory_of(pid)
        self.workers_peak = max(self.workers_peak, held)
        self.runtime_peak = max(self.runtime_peak, memory_of(os.getpid()))

    def end(self, workers: Iterable[int]) -> None:
        """Count no further: `runtime` and `workers` are what has been used since `begin`."""
        self.look(workers)
        self.runtime = used_by_us().since(self._ours)

    @property
    def workers(self) -> Used:
        """What the workers used from `begin` to the last look."""
        total = Used()
        for pid, used in self._last.items():
            total = total.plus(used.since(self._began.get(pid, Used())))
        return total
