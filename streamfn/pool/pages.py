"""How the memory of our processes lies: in few pages where they are forked from, kept where it is needed again at once.

What a fork costs is mostly the table of pages that it copies, some 0.2 us for each.  A huge page is one entry instead
of 512, and a child that writes into one gets a copy of the 4 KiB it writes to, no more.
"""

from __future__ import annotations

import os
import time

from streamfn.pool import linux

HUGE_BYTES = 2 << 20

# Gathering a huge page copies 2 MiB, which is some 0.5 ms.  What is not done after so much processor time stays as it
# is.
TIME_S = 0.05
# Of a range, how much has to be in memory already: the rest would be from now on.
IN_USE = 0.9
# Less than this forks fast as it is.
WORTH_BYTES = 16 << 20

# An event is at most 6 MB; the handler may hold its data decoded and parsed beside it.
KEPT_BYTES = 32 << 20
# More than any string of an event has.
OWN_BYTES = 8 << 20
SAID_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def gather() -> None:
    """Gather the process's own memory into huge pages: where it is nearly all in use, and the kernel can (6.1)."""
    ranges = _ranges_in_use()
    if sum(end - start for start, end in ranges) < WORTH_BYTES:
        return
    deadline = time.thread_time() + TIME_S
    for start, end in ranges:
        first = -(-start // HUGE_BYTES) * HUGE_BYTES
        for address in range(first, end - HUGE_BYTES + 1, HUGE_BYTES):
            if time.thread_time() > deadline:
                return
            linux.collapse(address, HUGE_BYTES)


def _ranges_in_use() -> list[tuple[int, int]]:
    """Start and end of writable memory of no file, of which hardly any is still untouched."""
    found: list[tuple[int, int]] = []
    start = end = 0
    with open("/proc/self/smaps") as maps:
        for line in maps:
            fields = line.split()
            if fields[0].endswith(":"):
                if fields[0] == "Rss:" and int(fields[1]) * 1024 >= (end - start) * IN_USE:
                    found.append((start, end))
                continue
            start = end = 0
            if fields[1] == "rw-p" and (len(fields) == 5 or fields[5] == "[heap]"):
                start, end = (int(number, 16) for number in fields[0].split("-"))
    return [(start, end) for start, end in found if end - start >= HUGE_BYTES]


def keep_freed() -> None:
    """Keep what an event leaves behind for the next one, unless the environment says how malloc is to do it.

    glibc gives the heap's end back to the kernel as soon as 128 KiB of it are free. With a string of an event there,
    that is after every event, and each page of the next one is a fault and is filled with zeros: four fifths of the
    time where records have 16 KiB.
    """
    if not any(name in os.environ for name in SAID_BY_USER):
        linux.keep_freed(KEPT_BYTES, OWN_BYTES)
