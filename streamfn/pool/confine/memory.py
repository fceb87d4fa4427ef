"""How much memory an execution environment uses, and the most it has used.

What counts is what Lambda would count: anonymous and shared memory of the handler's process and of what it has
forked, swapped out or not.  Pages of mapped files do not count: the shard log is mapped by every worker, and the peak
that a control group keeps would be that of the log.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from streamfn.pool.confine.limits import MB

_STATUS_BYTES_MAX = 8192
_RESET_PEAK = b"5"  # of /proc/PID/clear_refs: VmHWM begins again at what is resident now


class Reading(NamedTuple):
    """Bytes, from one process's /proc/PID/status: `own` is anonymous, shared and swapped memory, `file` mapped files.

    `peak` is the most that was ever resident of all of that, mapped files too.
    """

    own: int
    file: int
    peak: int


def parse_status(text: bytes) -> Reading | None:
    """Read /proc/PID/status; None for a process that has no memory any more."""
    fields: dict[bytes, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(b":")
        if name in (b"RssAnon", b"RssShmem", b"VmSwap", b"RssFile", b"VmHWM"):
            fields[name] = int(value.split()[0]) * 1024
    if b"RssAnon" not in fields:
        return None
    own = fields[b"RssAnon"] + fields.get(b"RssShmem", 0) + fields.get(b"VmSwap", 0)
    return Reading(own, fields.get(b"RssFile", 0), fields.get(b"VmHWM", 0))


def parse_rollup(text: bytes) -> int:
    """Read /proc/PID/smaps_rollup: the bytes that a forked process has beside what it shares with others."""
    fields = {name: int(value.split()[0]) * 1024 for name, value in _pairs(text)}
    # Anonymous pages mapped once are dirty; of shared memory everybody is charged a part.
    private = min(fields.get(b"Private_Dirty", 0), fields.get(b"Pss_Anon", 0))
    return private + fields.get(b"Pss_Shmem", 0) + fields.get(b"SwapPss", 0)


def _pairs(text: bytes) -> list[tuple[bytes, bytes]]:
    lines = text.splitlines()[1:]  # the first is the range of addresses
    return [(name, value) for name, _, value in (line.partition(b":") for line in lines) if value]


class Gauge:
    """The memory of one environment, watched from outside.  Owns a descriptor; `close` it.

    `others` gives the pids of everything that belongs to the environment, the worker's own included or not.
    """

    def __init__(self, pid: int, others: Callable[[], Sequence[int]] | None = None) -> None:
        """Raises OSError if the process is gone."""
        self._pid = pid
        self._others = others if others is not None else lambda: descendants(pid)
        self._status = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        self._peak = 0
        self._is_file_gone = False

    def close(self) -> None:
        """Close the descriptor."""
        if self._status >= 0:
            os.close(self._status)
            self._status = -1

    @property
    def peak(self) -> int:
        """The most that any look has found, in bytes."""
        return self._peak

    @property
    def peak_mb(self) -> int | None:
        """The same in MB, as REPORT lines have it; None if nobody has looked in time."""
        return math.ceil(self._peak / MB) or None

    def reached(self, limit: int) -> None:
        """Note what is known without a look: the environment was ended because it went over its limit."""
        self._peak = limit

    def look(self) -> int:
        """Give the bytes used now by the worker's own process; 0 when it is gone.

        Between two looks the process's own high-water mark counts, less the mapped files.
        """
        reading = self._read()
        if reading is None:
            return 0
        # A file that has been unmapped since is in the mark still: then only what was seen counts.
        between = 0 if self._is_file_gone else reading.peak - reading.file
        self._peak = max(self._peak, reading.own, between)
        return reading.own

    def look_at_all(self, limit: int) -> int:
        """Give the bytes used now by every process of the environment; exact when that is over `limit`."""
        own = self.look()
        others = [pid for pid in self._others() if pid != self._pid]
        if not others:
            return own
        # What a forked process has not written to is counted with its parent: first the cheap upper bound.
        bound = own + sum(reading.own for reading in map(_reading_of, others) if reading is not None)
        if bound > limit:
            bound = own + sum(map(_beside_the_shared, others))
        self._peak = max(self._peak, bound)
        return bound

    def files_go(self) -> None:
        """Mapped files are about to be let go: what was used until now is noted without them."""
        self.look()
        self._is_file_gone = True

    def files_went(self) -> None:
        """They are gone: the process's own mark begins again."""
        with contextlib.suppress(OSError), open(f"/proc/{self._pid}/clear_refs", "wb", buffering=0) as file:
            file.write(_RESET_PEAK)
            self._is_file_gone = False

    def _read(self) -> Reading | None:
        if self._status < 0:
            return None
        try:
            return parse_status(os.pread(self._status, _STATUS_BYTES_MAX, 0))
        except OSError:  # it has been reaped
            return None


def descendants(pid: int) -> list[int]:
    """List the processes below `pid`, as far as their parents live."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children", "rb") as file:
                    below = [int(child) for child in file.read().split()]
                found.extend(below)
                waiting.extend(below)
    return found


def data_size() -> int:
    """Give the calling process's VmData in bytes: what RLIMIT_DATA counts."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def _reading_of(pid: int) -> Reading | None:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return parse_status(file.read())
    except OSError:
        return None


def _beside_the_shared(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return parse_rollup(file.read())
    except OSError:  # gone, or a kernel or a rule that does not let us look: what it has in all
        reading = _reading_of(pid)
        return 0 if reading is None else reading.own
