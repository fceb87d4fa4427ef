"""What we need of Linux."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from streamfn.pool import linux
from streamfn.pool.launch import ZygoteProcess


def test_a_sealed_memfd_cannot_change_its_size() -> None:
    fd = linux.sealed_memfd("ring", 8192)
    try:
        for size in (0, 4096, 16384):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        assert os.pwrite(fd, b"x", 8191) == 1
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_an_append_memfd_is_written_at_its_end_whatever_the_offset() -> None:
    fd = linux.growing_memfd("log", append=True)
    try:
        os.write(fd, b"one")
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"two")
        assert os.pread(fd, 10, 0) == b"onetwo"
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("pass", "exit status 0"),
        ("raise SystemExit(7)", "exit status 7"),
        ("import os; os.kill(os.getpid(), 9)", "signal: killed"),
        ("import os; os.kill(os.getpid(), 15)", "signal: terminated"),
    ],
)
def test_ends_are_said_in_lambdas_words(code: str, detail: str) -> None:
    popen = subprocess.Popen([sys.executable, "-c", code])
    process = ZygoteProcess(popen.pid, popen)
    os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOWAIT)
    assert process.exit_detail() == detail
    process.reap()
    assert popen.poll() is not None


def test_the_process_table_shows_us_and_our_children() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        assert child.pid in linux.children()
        [entry] = [entry for entry in linux.processes() if entry.pid == child.pid]
        assert (entry.parent, entry.session) == (os.getpid(), child.pid)
        linux.kill_session(child.pid)
        assert child.wait() == -signal.SIGKILL


def test_the_worker_side_loads_no_trio_pyarrow_or_click() -> None:
    code = (
        "import sys; import streamfn.pool.zygote, streamfn.pool.seat, streamfn.pool.request_id; "
        "print(sorted({'trio', 'pyarrow', 'click', 'asyncio', 'subprocess'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=os.environ)
    assert done.stdout == b"[]\n"
