"""A worker's main whose handlers take what they can: of memory, of processes, of descriptors, of /tmp.

As in `toy_worker` the first extent of a batch says which (`column[6]`), and how much (`column[5]`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import resource
import time
from pathlib import Path
from typing import Any

from streamfn._native import ffi, lib
from streamfn.pool.seat import Seat

TELL, PRIVATE, AT_ONCE, SHARED, CHILD, CHILDREN, MEMFD, FORK_BOMB, OPEN, WRITE_TMP, READ_TMP, SPIN_MS, CRASH, MARK = (
    range(14)
)
MB = 1 << 20
_kept: list[object] = []


def init(settings: dict[str, Any]) -> dict[str, Any]:
    if settings.get("init_mb"):
        _kept.append(bytearray(b"x") * (settings["init_mb"] * MB))
    if settings.get("init_file"):
        Path(settings["init_file"]).write_text("x")
    return settings


def touch(megabytes: int) -> bytearray:
    return bytearray(b"x") * (megabytes * MB)


def child(megabytes: int) -> None:
    """A forked process with so much memory of its own, for a while."""
    if os.fork() == 0:
        try:
            _kept.append(touch(megabytes))
            time.sleep(30)
        finally:
            os._exit(1)


def deed(state: dict[str, Any], what: int, number: int) -> object:
    if what == TELL:
        return {
            "groups": Path("/proc/self/cgroup").read_text(),
            "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE),
            "processes": resource.getrlimit(resource.RLIMIT_NPROC),
            "data": resource.getrlimit(resource.RLIMIT_DATA),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "oom": int(Path("/proc/self/oom_score_adj").read_text()),
            "tmpdir": os.environ.get("TMPDIR"),
            "cwd": os.getcwd(),
        }
    if what == PRIVATE:
        for _ in range(0, number, 4):
            _kept.append(touch(4))
        time.sleep(0.1)  # the watchdog looks every 20 ms
    elif what == AT_ONCE:
        return len(bytearray(number * MB))
    elif what == SHARED:
        area = mmap.mmap(-1, number * MB)
        _kept.append(area)
        for page in range(0, number * MB, 4096):
            area[page] = 1
        time.sleep(0.1)
    elif what == CHILD:
        child(number)
        time.sleep(1)
    elif what == CHILDREN:  # three that share what their parent has
        _kept.append(touch(number))
        for _ in range(3):
            child(0)
        time.sleep(0.2)
    elif what == MEMFD:
        file = os.memfd_create("hog")
        for _ in range(number):
            os.write(file, b"x" * MB)
    elif what == FORK_BOMB:
        return bomb(number)
    elif what == OPEN:
        return open_all()
    elif what == WRITE_TMP:
        return fill(place() / "filled", number)
    elif what == READ_TMP:
        return sorted(entry.name for entry in place().iterdir() if entry.is_file())
    elif what == SPIN_MS:
        began = time.thread_time()
        wall = time.monotonic()
        while time.monotonic() < wall + number / 1000:
            pass
        return (time.thread_time() - began) / (time.monotonic() - wall)
    elif what == MARK:
        Path(state["mark"]).write_text(os.getcwd())
    elif what == CRASH:
        os._exit(9)
    return None


def place() -> Path:
    """Where temporary files go; `tempfile` would go elsewhere as soon as that is full."""
    return Path(os.environ.get("TMPDIR", "/tmp"))


def bomb(most: int) -> int:
    """Fork until that is refused, or `most` times; how many there were."""
    for made in range(most):
        try:
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            return made
    return most


def open_all() -> int:
    """Open files until that is refused; the number of the last one."""
    opened = []
    try:
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    for file in opened:
        os.close(file)
    return max(opened)


def fill(path: Path, megabytes: int) -> int:
    """Write until there is no room; how many megabytes went in."""
    written = 0
    with contextlib.suppress(OSError), path.open("wb") as file:
        for _ in range(megabytes):
            file.write(b"x" * MB)
            written += 1
    return written


def main(state: dict[str, Any], seat: Seat) -> None:
    work = ffi.new("sf_work *")
    while True:
        if lib.sf_desk_next(seat.desk, work, 100_000_000) != lib.SF_NEXT_INVOKE:
            continue
        extent = ffi.cast("sf_extent *", work.extents)
        try:
            outcome, payload = lib.SF_OK, json.dumps(deed(state, extent.column[6], extent.column[5])).encode()
        except MemoryError:
            outcome, payload = lib.SF_ERROR, b"MemoryError"
        except Exception as error:
            outcome, payload = lib.SF_ERROR, repr(error).encode()
        seat.flush_stdio()
        lib.sf_desk_finish(seat.desk, outcome, payload, len(payload))
