"""What of a process's memory counts, from what the kernel says of it."""

from __future__ import annotations

import os
import time

from streamfn.pool.confine.memory import Gauge, Reading, descendants, parse_rollup, parse_status

STATUS = b"""\
Name:\tpython3
VmPeak:\t  900000 kB
VmHWM:\t  150000 kB
VmRSS:\t  140000 kB
RssAnon:\t   40000 kB
RssFile:\t   95000 kB
RssShmem:\t    5000 kB
VmSwap:\t    1000 kB
Threads:\t1
"""
ROLLUP = b"""\
5566000-7ffd000 ---p 00000000 00:00 0                          [rollup]
Rss:              316488 kB
Pss_Anon:         150000 kB
Pss_Shmem:          2000 kB
Shared_Dirty:       6572 kB
Private_Dirty:    100000 kB
SwapPss:             500 kB
"""
KB = 1024


def test_mapped_files_do_not_count_and_swapped_pages_do() -> None:
    assert parse_status(STATUS) == Reading(own=46_000 * KB, file=95_000 * KB, peak=150_000 * KB)


def test_a_process_that_has_ended_has_no_memory() -> None:
    assert parse_status(b"Name:\tpython3\nState:\tZ (zombie)\n") is None


def test_a_forked_process_counts_for_what_it_does_not_share() -> None:
    assert parse_rollup(ROLLUP) == 102_500 * KB


def test_a_gauge_knows_the_most_and_that_a_process_is_gone() -> None:
    pid = os.fork()
    if pid == 0:
        kept = bytearray(b"x") * (20 << 20)
        del kept
        time.sleep(30)
        os._exit(0)
    gauge = Gauge(pid)
    try:
        deadline = time.monotonic() + 10
        while gauge.peak < 20 << 20:
            assert time.monotonic() < deadline
            gauge.look()
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        peak = gauge.peak
        assert gauge.look() == 0
        assert gauge.peak == peak
        assert gauge.peak_mb == -(-peak // (1 << 20))
    finally:
        gauge.close()


def test_a_file_that_was_unmapped_is_not_taken_for_memory() -> None:
    gauge = Gauge(os.getpid())
    try:
        gauge.files_go()
        before = gauge.peak
        gauge.look()
        assert gauge.peak < before + (64 << 20)
        gauge.files_went()
        gauge.look()
        assert gauge.peak >= before
    finally:
        gauge.close()


def test_descendants_are_found_over_generations() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        grandchild = os.fork()
        if grandchild:
            os.write(writer, str(grandchild).encode())
        time.sleep(30)
        os._exit(0)
    grandchild = int(os.read(reader, 100))
    try:
        assert set(descendants(os.getpid())) >= {pid, grandchild}
        assert descendants(pid) == [grandchild]
    finally:
        for each in (grandchild, pid):
            os.kill(each, 9)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
