"""How quiet the machine is: what everybody else does to work that is always the same, looked at before a measurement.

Every core is given the same small piece of work again and again for half a second, in threads that release the
interpreter's lock for it. On a quiet machine each piece takes as long as the quickest; what is above that was somebody
else's, or the clock's. Then a thread sleeps a millisecond, some dozens of times: how much later it wakes up is what any
schedule of ours is late by.

What others do while the measurement runs is looked at as well (`Others`): it goes into the samples, and comparisons
leave room for it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPIN_S = 0.5
SLEEP_S = 0.001
SLEEPS = 60
_WARM_UP = 0.2  # of the time: the clock comes up, threads find their cores
_THREADS_MAX = 16  # more would wait for the interpreter's lock, and be noise themselves
_PIECE = bytes(1 << 20)
_SHORT_S = 0.05  # five ticks of the kernel's count

# From here on a machine is called noisy. A quiet virtual machine loses 1 to 3 % by this measure, one other busy process
# on two cores 25 to 50 %.
STOLEN_MAX = 0.08
STEAL_MAX = 0.02
LATE_MS_MAX = 0.5  # one sleep in ten; a single one may be 2 ms late anywhere


def probe(spin_s: float = SPIN_S, sleeps: int = SLEEPS) -> dict[str, object]:
    """Measure for some 0.6 s, in the calling thread and others; what a result holds as `noise`.

    `stolen` is the share of all cores' time that was not ours although we wanted it, `steal` the part of it that the
    hypervisor owns up to (None where it tells nothing); `worst_pause_ms` the longest time a piece of work stood still;
    `wakeup_ms` how much longer than asked for a sleep of 1 ms took. `speed` is pieces of work a second on one core: it
    compares the same machine at two times. `noisy` and `reasons` say what to make of it.
    """
    cores = min(len(os.sched_getaffinity(0)), _THREADS_MAX)
    pieces: list[list[int]] = [[] for _ in range(cores)]
    before = _ticks()
    threads = [threading.Thread(target=_spin, args=(each, spin_s), daemon=True) for each in pieces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = _ticks()
    late = sorted(_late_ms() for _ in range(sleeps))
    found = _judged(pieces, late)
    found["steal"] = _steal(before, after)
    found["load"] = os.getloadavg()[0]
    reasons = _reasons(found)
    return found | {"noisy": bool(reasons), "reasons": reasons}


class Others:
    """What share of the whole machine others used between two looks, the hypervisor's other guests included."""

    def __init__(self) -> None:
        self._cores = os.cpu_count() or 1
        self._last: tuple[float, float, float] | None = None

    def look(self, own_cpu_s: float) -> float | None:
        """The share since the last look that said one; None at the first, or where the machine does not say.

        `own_cpu_s` is the CPU time of everything that is ours so far, in seconds. The kernel counts the machine's in
        ticks of 10 ms, so a share of a short time may be off by some, below 0 too: the mean of many is not. Of less
        than 50 ms nothing is said, and it is part of what is said next.
        """
        if self._last is not None and time.monotonic() - self._last[0] < _SHORT_S:
            return None
        ticks = _ticks()
        if len(ticks) < 8:
            return None
        busy_s = (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and iowait
        last, self._last = self._last, (time.monotonic(), busy_s, own_cpu_s)
        if last is None:
            return None
        seconds, busy, own = (now - then for now, then in zip(self._last, last, strict=True))
        return (busy - own) / (seconds * self._cores)


def complaints(noise: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    """Lines for whoever reads the figures: why they may not hold. None where the machine was quiet."""
    lines = [f"this machine is noisy: {reason}" for reason in noise.get("reasons", ())]
    governor = environment.get("governor")
    if governor not in (None, "performance"):
        lines.append(
            f"the CPU frequency governor is {governor!r}: clocks change in the run; they do not with performance"
        )
    quota, cores = environment.get("quota_cores"), environment.get("usable_cores")
    if quota is not None and cores is not None and quota < cores:
        lines.append(f"a control group allows {quota:g} of {cores} cores: what uses more of them stands still at times")
    return lines


def _spin(taken: list[int], seconds: float) -> None:
    end = time.perf_counter_ns() + int(seconds * 1e9)
    began = time.perf_counter_ns()
    while began < end:
        hashlib.sha256(_PIECE)
        now = time.perf_counter_ns()
        taken.append(now - began)
        began = now


def _late_ms() -> float:
    began = time.perf_counter()
    time.sleep(SLEEP_S)
    return (time.perf_counter() - began - SLEEP_S) * 1e3


def _judged(pieces: list[list[int]], late: list[float]) -> dict[str, object]:
    """What the times of the pieces (ns, one list a core) and of the sleeps (ms, ascending) come to."""
    stolen, speed, worst = [], [], 0
    for taken in pieces:
        steady = taken[int(len(taken) * _WARM_UP) :]
        best = sorted(steady)[len(steady) // 10]
        stolen.append(max(0.0, 1 - best * len(steady) / sum(steady)))
        speed.append(1e9 / best)
        worst = max(worst, max(steady) - best)
    return {
        "cores": len(pieces),
        "stolen": sum(stolen) / len(stolen),
        "worst_pause_ms": worst / 1e6,
        "wakeup_ms": {"p50": late[len(late) // 2], "p90": late[len(late) * 9 // 10], "max": late[-1]},
        "speed": sum(speed) / len(speed),
    }


def _reasons(found: Mapping[str, Any]) -> list[str]:
    reasons = []
    if found["stolen"] > STOLEN_MAX:
        reasons.append(
            f"{found['stolen']:.0%} of its {found['cores']} cores' time went elsewhere just before the run "
            f"(load {found['load']:.1f})"
        )
    if (found["steal"] or 0.0) > STEAL_MAX:
        reasons.append(f"the hypervisor took {found['steal']:.0%} of the time")
    if found["wakeup_ms"]["p90"] > LATE_MS_MAX:
        reasons.append(f"one sleep of 1 ms in ten ended more than {found['wakeup_ms']['p90']:.1f} ms late")
    return reasons


def _ticks(root: Path = Path("/")) -> list[int]:
    """The first line of /proc/stat: user nice system idle iowait irq softirq steal ..., in ticks of all cores."""
    try:
        return [int(word) for word in (root / "proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return []


def _steal(before: list[int], after: list[int]) -> float | None:
    """The share of the time between two readings that was stolen."""
    if len(before) < 8 or len(after) < 8:
        return None
    # Guest time is in user time as well.
    whole = sum(after[:8]) - sum(before[:8])
    return (after[7] - before[7]) / whole if whole > 0 else 0.0
