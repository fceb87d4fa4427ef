"""An execution environment from the runtime's side: what it is held with, what it uses, and what it ran out of.

`Environments` knows what this machine gives: control groups for everything, or for some of it, or none.  Where there is
none the worker limits itself (`rlimits`) and the runtime looks at its memory every 20 ms.  With a memory group the
runtime looks too, and the group is the wall behind that: a group also counts what is not the handler's, the pages of
the mapped log, files in a /tmp that is memory, and what is printed, so it has room for those.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from streamfn.pool.confine import storage
from streamfn.pool.confine.cgroup import CPU, MEMORY, PIDS, Group, Groups
from streamfn.pool.confine.limits import MB, Limits
from streamfn.pool.confine.memory import Gauge
from streamfn.pool.confine.rlimits import Holding

# What a worker writes for us lies in memory files that are counted with it: its output (unread at most 64 MiB, and what
# is written until the next look), long responses, the rings.
OURS_BYTES = 160 * MB
FOLDER_LOOK_S = 1.0
MB_PER_VCPU = 1769  # Lambda Developer Guide, "Configure Lambda function memory"


class Environments:
    """What holds the environments of one pool.  `close` it when all of them have ended."""

    def __init__(self) -> None:
        """Makes the directories for control groups, and sweeps away what killed runtimes have left."""
        self._groups = Groups()
        self._count = 0

    def close(self) -> None:
        """Remove every control group."""
        self._groups.close()

    def holding(self, limits: Limits) -> Holding:
        """Give what control groups hold environments with these limits to."""
        held = self._groups.held
        return Holding(memory=limits.memory_mb is not None and MEMORY in held, processes=PIDS in held)

    def shortcomings(self, limits: Limits) -> list[str]:
        """Say what of these limits this machine does not hold as it should, and why, a sentence each."""
        said: list[str] = []
        lacking = self._groups.lacking
        if limits.memory_mb is not None:
            if MEMORY in lacking:
                said.append(
                    f"the memory of {limits.memory_mb} MB is looked after every 20 ms and by RLIMIT_DATA, "
                    f"not by a control group: {lacking[MEMORY]}"
                )
            if CPU in lacking:
                said.append(f"the share of the CPU that goes with the memory is not limited: {lacking[CPU]}")
        return said

    def zygote(self, limits: Limits, workers: int) -> Environment:
        """Hold a zygote and its Init, and the workers as well where they have no groups of their own."""
        processes = limits.processes if self._is_each_held(limits) else limits.processes * (workers + 1)
        return self._environment("zygote", limits, processes)

    def worker(self, limits: Limits) -> Environment:
        """Hold one worker.  OSError if the kernel refuses a control group."""
        if self._is_each_held(limits):
            return self._environment("worker", limits, limits.processes)
        return Environment(limits, None, None)

    def folder(self, limits: Limits) -> Path | None:
        """Name a directory for the files of a zygote's environments, where they cannot have a /tmp of their own.

        None where they are not to have one.  What killed runtimes have left is swept away; `remove_folder` is for the
        zygote's end.
        """
        if limits.storage_bytes is None:
            return None
        storage.sweep_folders()
        return storage.folder_home()

    def remove_folder(self, folder: Path) -> None:
        """Remove that directory with everything in it, if it was needed."""
        shutil.rmtree(folder, ignore_errors=True)

    def _is_each_held(self, limits: Limits) -> bool:
        # Where it takes milliseconds to enter a group, each worker has one only if it has a limit of its own.
        return limits.memory_mb is not None or self._groups.is_quick

    def _environment(self, kind: str, limits: Limits, processes: int) -> Environment:
        groups = self._groups
        self._count += 1
        memory_bytes = None
        if limits.memory_bytes is not None:
            memory_bytes = limits.memory_bytes + (limits.storage_bytes or 0) + OURS_BYTES
        group = groups.group(f"{kind}-{self._count}", memory_bytes=memory_bytes, processes=processes)
        return Environment(limits, groups, group)


class Environment:
    """One process, what it forks, and what holds them.  `close` it when the process has ended."""

    def __init__(self, limits: Limits, groups: Groups | None, group: Group | None) -> None:
        self._limits = limits
        self._groups = groups
        self._group = group
        self._gauge: Gauge | None = None
        self._over = False
        self._folder: Path | None = None
        self._look_at = 0.0

    @property
    def memory_mb(self) -> int | None:
        """The memory size, in MB; None: no limit."""
        return self._limits.memory_mb

    @property
    def doors(self) -> Sequence[int]:
        """Descriptors for `cgroup.enter`, to be sent to the process, or none."""
        return self._group.doors if self._group is not None else ()

    def born(self, pid: int) -> None:
        """Begin to measure."""
        with contextlib.suppress(OSError):  # it may have ended already
            group = self._group
            self._gauge = Gauge(pid, group.processes if group is not None and group.is_anywhere else None)

    def entered(self) -> None:
        """Close the doors: the process has its own."""
        if self._group is not None:
            self._group.release()

    def initialised(self) -> None:
        """Init is done: from here on it has the share of the CPU that goes with its memory, as in Lambda."""
        self.peak_mb()  # a process that ends early has been seen once
        if self._group is not None and self._limits.memory_mb is not None:
            self._group.throttle(self._limits.memory_mb / MB_PER_VCPU)

    def is_over(self) -> bool:
        """Look at its memory: whether it uses more than it may."""
        limit = self._limits.memory_bytes
        if limit is None or self._gauge is None:
            return False
        self._over = self._over or self._gauge.look_at_all(limit) > limit
        if self._over:
            self._gauge.reached(limit)
        return self._over

    def ran_out(self) -> bool:
        """Whether it was ended for its memory: by the kernel, or because it `is_over`."""
        if not self._over and self._group is not None and self._group.kills() > 0:
            self._over = True
            if self._gauge is not None and self._limits.memory_bytes is not None:
                self._gauge.reached(self._limits.memory_bytes)
        return self._over

    def watch_folder(self, folder: Path) -> None:
        """Its temporary files are in a directory that nothing else limits."""
        self._folder = folder

    def is_full(self) -> bool:
        """Look, once a second, whether that directory is larger than it may be."""
        now = time.monotonic()
        if self._folder is None or self._limits.storage_bytes is None or now < self._look_at:
            return False
        self._look_at = now + FOLDER_LOOK_S
        return storage.size_of(self._folder) > self._limits.storage_bytes

    def processes(self) -> list[int]:
        """List who is in its control group; empty where it has none."""
        return [] if self._group is None else self._group.processes()

    def peak_mb(self) -> int | None:
        """The most memory it has used so far, in MB; None if it ended before anybody had looked."""
        if self._gauge is None:
            return None
        if not self._over:
            self._gauge.look()
        return self._gauge.peak_mb

    def files_go(self) -> None:
        """Its process is about to let mapped files go."""
        if self._gauge is not None:
            self._gauge.files_go()

    def files_went(self) -> None:
        """It has let them go."""
        if self._gauge is not None:
            self._gauge.files_went()

    def close(self) -> None:
        """Kill whatever is left of it, and remove its control group; the peak is still known."""
        if self._gauge is not None:
            self._gauge.close()
        if self._group is not None and self._groups is not None:
            self._groups.drop(self._group)
        self._group = None
