"""Limits that a process sets on itself and hands on to what it forks: all there is where there are no control groups.

RLIMIT_NPROC does not bind root, and counts a user's processes wherever they are, so it is set that far above what the
user has at the start.  RLIMIT_DATA counts address space, with the 8 MiB of each thread's stack of which a few KiB are
used: it is the wall behind the watchdog, which looks at the memory itself.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Mapping
from typing import Any, NamedTuple

from streamfn.pool.confine import memory
from streamfn.pool.confine.limits import MB, Limits

# Address space that a handler may have beside its memory: stacks of some 30 threads and the allocator's arenas.
UNUSED_BYTES = 256 * MB
# Between RLIMIT_DATA's soft and its hard value: so much is left for saying that there is no more.
RESERVE_BYTES = 8 * MB
# When the machine runs out of memory, a worker goes before its zygote, and both before the runtime.
OOM_SCORE_WORKER = 1000
OOM_SCORE_ZYGOTE = 900


class Holding(NamedTuple):
    """What else holds an environment: whether control groups limit its memory, its number of processes.

    `others` counts the processes and threads that the user had when the function started.
    """

    memory: bool
    processes: bool
    others: int = 0


def limit_zygote(fields: Mapping[str, Any], held: Mapping[str, Any]) -> dict[str, Any]:
    """Hold Init to the limits: the calling process and what it starts.  `limit_worker` sets some of them anew.

    Takes Limits and Holding as they come in a message, and gives the latter completed.
    """
    limits, holding = Limits.from_json(fields), Holding(**held)
    if _binds(holding):
        holding = holding._replace(others=count_tasks(os.geteuid()))
    _offer(OOM_SCORE_ZYGOTE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, limits.descriptors)
    _limit_data(limits, holding, reserve=None)
    return holding._asdict()


def limit_worker(limits: Limits, holding: Holding, workers: int) -> None:
    """Hold the calling process, a worker that has not run anything yet, to the limits.

    `workers`: how many there may be beside it, of the same user.
    """
    _offer(OOM_SCORE_WORKER)
    _limit_data(limits, holding, reserve=RESERVE_BYTES)
    if _binds(holding):
        _lower(resource.RLIMIT_NPROC, holding.others + limits.processes * workers)


def _binds(holding: Holding) -> bool:
    """Whether RLIMIT_NPROC is what limits the number of processes."""
    return not holding.processes and os.geteuid() != 0


def give_way() -> None:
    """Lift RLIMIT_DATA's soft value to its hard one: there is something to be said, and no memory for it."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def count_tasks(uid: int) -> int:
    """Count the processes and threads that a user has: what RLIMIT_NPROC compares with."""
    found = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{entry}").st_uid == uid:
                found += len(os.listdir(f"/proc/{entry}/task"))
    return found


def _offer(score: int) -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(score))


def _limit_data(limits: Limits, holding: Holding, reserve: int | None) -> None:
    if limits.memory_bytes is None or holding.memory:
        return
    soft = memory.data_size() + limits.memory_bytes + UNUSED_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = hard if reserve is None else _least(soft + reserve, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (_least(soft, wanted), wanted))


def _lower(which: int, value: int) -> None:
    """Set both values, unless the machine allows even less."""
    _, hard = resource.getrlimit(which)
    least = _least(value, hard)
    resource.setrlimit(which, (least, least))


def _least(value: int, other: int) -> int:
    return value if other == resource.RLIM_INFINITY else min(value, other)
