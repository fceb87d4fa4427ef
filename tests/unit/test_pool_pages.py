"""Memory that is gathered into huge pages stays what it was, and what is small is left alone."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, mmap, sys
from streamfn.pool import linux, pages

megabytes = int(sys.argv[1])
memory = mmap.mmap(-1, megabytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))

def huge():  # KiB of it, and of nothing else that this process has
    found, ours = 0, False
    with open("/proc/self/smaps") as file:
        for line in file:
            first = line.split()[0]
            if not first.endswith(":"):
                low, high = (int(number, 16) for number in first.split("-"))
                ours = low < begin + len(memory) and begin < high
            elif ours and first == "AnonHugePages:":
                found += int(line.split()[1])
    return found

memory.madvise(mmap.MADV_NOHUGEPAGE if sys.argv[2] == "no" else mmap.MADV_NORMAL)
for place in range(0, len(memory), 4096):
    memory[place : place + 8] = place.to_bytes(8, "little")
before = huge()
pages.gather()
kept = all(memory[place : place + 8] == place.to_bytes(8, "little") for place in range(0, len(memory), 4096))
print(kept, huge() - before)
"""


def gathered(megabytes: int, *, may: bool = True) -> tuple[bool, int]:
    command = [sys.executable, "-c", PROGRAM, str(megabytes), "yes" if may else "no"]
    kept, grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return kept == "True", int(grown)


def test_what_is_in_memory_comes_to_lie_in_huge_pages_and_is_what_it_was() -> None:
    kept, grown = gathered(64)
    assert kept
    if not grown:
        pytest.skip("this kernel does not collapse pages when it is asked to")
    assert grown % 2048 == 0


def test_where_it_may_not_be_done_nothing_happens() -> None:
    assert gathered(64, may=False) == (True, 0)


def test_a_small_process_is_left_alone() -> None:
    assert gathered(4) == (True, 0)


FREEING = """
import resource, sys
from streamfn.pool import pages

def event():
    return [bytes(20_000) for _ in range(100)]

if sys.argv[1] == "keep":
    pages.keep_freed()
for _ in range(3):
    event()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    event()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""


def faults(keep: bool, **environment: str) -> float:
    """Page faults an event of 2 MB."""
    command = [sys.executable, "-c", FREEING, "keep" if keep else "no"]
    given = {**os.environ, **environment}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=given).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library cannot be told")
def test_an_event_finds_the_memory_that_the_last_one_left() -> None:
    assert faults(keep=False) > 100
    assert faults(keep=True) < 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library cannot be told")
def test_what_the_environment_says_of_malloc_holds() -> None:
    assert faults(keep=True, MALLOC_TRIM_THRESHOLD_="131072") > 100
