"""A worker's main without events: the first extent of a batch says what its "handler" does.

`column[6]` is the deed, `column[5]` its number.  Paths come from the settings.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import resource
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from typing import Any

from streamfn._native import ffi, lib
from streamfn.pool import linux
from streamfn.pool.protocol import InitFailed
from streamfn.pool.seat import Seat

OK, FAIL, SPIN, EXIT, HARD_EXIT, PRINT, PRINT_MUCH, USURP, FORK, LONG, SLEEP_MS, CLOSE_ALL, ORPHAN = range(13)
SEGMENT, CHATTER, SEGFAULT, FORK_RETURN, STOP_SELF, LOSE, CALL, MARK, CHILD, TELL, ASK_USER, SAY_PARTLY = range(13, 25)
FILL_BELL, RING, BELL_IDS = range(25, 28)
REPORT = 60
SHUT, FLOOD, BREED, SIGNAL_PARENT = range(28, 32)


def init(settings: dict[str, Any]) -> dict[str, Any]:
    how = settings.get("init", "")
    if how:
        print("init prints", flush=True)
    if how == "fail":
        raise InitFailed(b'{"errorMessage": "no such handler", "errorType": "Runtime.HandlerNotFound"}')
    if how == "exit":
        os._exit(3)
    if how == "hang":
        time.sleep(60)
    if how == "raise":
        raise RuntimeError("a bug in main")
    if how == "no fork":
        os.fork = lambda: refuse()  # it is the zygote that calls it
    if how == "deadly fork":
        os.fork = lambda: os._exit(9)
    if how == "socket":
        settings["socket"] = socket.socket()
    if how == "native thread":
        ctypes.CDLL(None).pthread_create(ctypes.byref(ctypes.c_ulong()), None, ctypes.CDLL(None).pause, None)
    if how == "named thread":
        importlib.import_module("numpy")
        named = ctypes.CDLL(None)
        named.prctl(15, b"somebodys")
        named.pthread_create(ctypes.byref(ctypes.c_ulong()), None, named.pause, None)
        named.prctl(15, b"sf-zygote")
    if how == "epoll":
        settings["epoll"] = select.epoll()
    if how == "database":
        connection = sqlite3.connect(settings["database"], check_same_thread=False)
        connection.execute("CREATE TABLE IF NOT EXISTS t (a)")
        settings["connection"] = connection
    if how == "numpy":
        importlib.import_module("numpy").ones((300, 300)) @ importlib.import_module("numpy").ones((300, 300))
    if how == "thread":
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    if how.startswith("thread-"):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        with open(settings["count"], "a") as file:
            file.write("x")
        if os.path.getsize(settings["count"]) > 1:  # in a worker now
            if how == "thread-exit":
                os._exit(4)
            if how == "thread-hang":
                time.sleep(60)
            raise InitFailed(b'{"errorMessage": "fails in the worker", "errorType": "E"}')
    return settings


def refuse() -> int:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def bell_ids() -> list[str]:
    """Which eventfds this process has: the kernel's numbers of them."""
    found: list[str] = []
    for fd in linux.open_fds():
        with open(f"/proc/self/fdinfo/{fd}") as file:
            found += [line.split()[1] for line in file if line.startswith("eventfd-id:")]
    return found


def spin() -> None:
    while True:
        pass


def breed(stop: str, chains: int) -> None:
    """Each chain is a process that forks the next one and ends."""
    for _ in range(chains):
        if os.fork() == 0:
            while not os.path.exists(stop):
                os.setsid()
                if os.fork():
                    os._exit(0)
            os._exit(0)


def deed(state: dict[str, Any], seat: Seat, what: int, number: int, work: Any) -> bytes:
    if what == FAIL:
        raise ValueError(f"number {number}")
    if what == SPIN:
        spin()
    elif what == EXIT:
        sys.exit(number)
    elif what == HARD_EXIT:
        os._exit(number)
    elif what == PRINT:
        print(f"line {number}")
        print("no newline", end="")
        os.write(2, b"\xff\x00raw")
    elif what == PRINT_MUCH:
        block = b"x" * (1 << 20)
        for _ in range(number):
            os.write(1, block)
    elif what in (USURP, CLOSE_ALL):
        os.closerange(3, 4096)
        if what == USURP:  # a file in place of every descriptor
            fd = os.open(state["path"], os.O_CREAT | os.O_RDWR, 0o600)
            os.write(fd, b"precious")
            for other in range(fd + 1, 1100):
                os.dup2(fd, other)
    elif what == FORK:
        pid = os.fork()
        if pid == 0:
            os._exit(number)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == number
    elif what == FORK_RETURN:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
    elif what == LONG:
        return b"y" * number
    elif what == SLEEP_MS:
        time.sleep(number / 1000)
    elif what == ORPHAN:  # a daemon: double fork and a session of its own
        subprocess.run(
            [sys.executable, "-c", "import os,time\nif os.fork()==0:\n os.setsid()\n time.sleep(600)"], check=True
        )
    elif what == CHILD:  # in the worker's own group
        subprocess.Popen(["sleep", "600"])
    elif what == SEGMENT:
        segment_id, header, fd = seat.receive_segment()
        try:
            return b"%d %s %s" % (segment_id, header, os.pread(fd, 100, 0))
        finally:
            os.close(fd)
    elif what == CHATTER:
        for i in range(number):
            print(f"tick {i}")
            time.sleep(0.05)
    elif what == SEGFAULT:
        ctypes.string_at(0)
    elif what == STOP_SELF:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == CALL:
        return repr(state["callable"](number)).encode()
    elif what == MARK:
        with open(state["path"], "a") as file:
            file.write(f"{number}\n")
    elif what == ASK_USER:
        print("you said", input("question: "))
    elif what == TELL:  # about itself
        return json.dumps(
            {
                "pid": os.getpid(),
                "modules": sorted(sys.modules),
                "fds": {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in linux.open_fds()},
                "random": random.random(),
                "cwd": os.getcwd(),
                "environ": dict(os.environ),
                "path": sys.path,
                "sigterm": str(signal.getsignal(signal.SIGTERM)),
                "group": os.getpgid(0),
                "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
            }
        ).encode()
    elif what in (FILL_BELL, RING):
        bells = [fd for fd in linux.open_fds() if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"]
        for bell in bells:
            os.set_blocking(bell, what == FILL_BELL)
        while True:
            for bell in bells:
                os.eventfd_write(bell, 1 if what == RING else 2**64 - 2)
    elif what == REPORT:
        seat.report({"op": "ready"})
    elif what == BELL_IDS:
        return json.dumps(bell_ids()).encode()
    elif what == SHUT:  # our socket
        for fd in linux.open_fds():
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                socket.socket(fileno=os.dup(fd)).shutdown(socket.SHUT_RDWR)
    elif what == FLOOD:  # in a thread that goes on
        block = b"f" * (1 << 20)
        threading.Thread(target=lambda: [os.write(1, block) for _ in iter(int, 1)], daemon=True).start()
    elif what == BREED:  # processes that leave their group and their parent, until a file is there
        breed(state["path"], number)
    elif what == SIGNAL_PARENT:
        for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            os.kill(os.getppid(), each)
    elif what == LOSE:  # ask for the next before this is answered
        assert lib.sf_desk_next(seat.desk, ffi.new("sf_work *"), 0) == lib.SF_NEXT_LOST
    return b"%d" % work.records


def main(state: dict[str, Any], seat: Seat) -> None:
    if state.get("die"):
        with open(state["die"], "a") as file:
            file.write("x")
        sys.exit(5)
    work = ffi.new("sf_work *")
    while True:
        found = lib.sf_desk_next(seat.desk, work, 100_000_000)
        if found == lib.SF_NEXT_LOST:
            sys.exit(70)
        if found == lib.SF_NEXT_RETIRE:
            lib.sf_desk_retired(seat.desk)
        if found != lib.SF_NEXT_INVOKE:
            continue
        extent = ffi.cast("sf_extent *", work.extents)
        try:
            outcome, payload = lib.SF_OK, deed(state, seat, extent.column[6], extent.column[5], work)
            if extent.column[6] == SAY_PARTLY:
                outcome = lib.SF_PARTLY
        except Exception as error:
            outcome, payload = lib.SF_ERROR, repr(error).encode()
        if seat.forked:
            seat.leave_fork()
        seat.flush_stdio()
        if not lib.sf_desk_finish(seat.desk, outcome, payload, len(payload)):
            sys.exit(71)
