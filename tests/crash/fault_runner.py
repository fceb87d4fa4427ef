"""Runs the script once for each point, a system call and a fault, and judges what is left.

Started with the shim preloaded; forks a process for each run, so that a run costs what the script does.
Prints one line of JSON: the call sites, the points, every broken promise.

    LD_PRELOAD=shim.so python fault_runner.py DIRECTORY --points 300 --seed 5
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import importlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow  # noqa: F401  once, and not in every fork

from streamfn.errors import StreamfnError
from streamfn.log.shard import active
from streamfn.log.storage.disk import SystemDisk
from streamfn.state.store import Store

# What is run, and who judges what is left: of the log and its checkpoints, or of discards on their way.
SCRIPTS = {"log": ("fault_script", "fault_check"), "failures": ("failure_script", "failure_check")}
FAULTS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "short": -1, "SIGKILL": -2}
# A read cannot run out of space, and only a write can be short.
READS = {"read", "pread", "mmap", "opendir", "flock"}
WRITES = {"write", "pwrite"}
_RUN_S = 30
# How many calls come next after one, with `--after`.
AFTER_CALLS = 12

shim = ctypes.CDLL(None)
shim.fault_count.restype = ctypes.c_long
shim.fault_arm.argtypes = (ctypes.c_long, ctypes.c_int)


class Call(NamedTuple):
    """One system call of the script: its number, name, where in the program, and on what file."""

    number: int
    name: str
    site: str
    file: str


class Run(NamedTuple):
    """How a process ended, and what it told."""

    status: int
    told: list[Any]
    trouble: str


def name_the_sites() -> None:
    """Have the log's calls say where they come from."""
    for name in [name for name in vars(SystemDisk) if not name.startswith("_")]:
        setattr(SystemDisk, name, _sited(getattr(SystemDisk, name)))


def _sited(original: Any) -> Any:
    def call(*arguments: Any) -> Any:
        frame = sys._getframe(1)
        while frame.f_code.co_filename.endswith("log/storage/disk.py"):
            frame = frame.f_back
        module = Path(frame.f_code.co_filename).stem
        shim.fault_site(f"{module}.{frame.f_code.co_name}".encode())
        try:
            return original(*arguments)
        finally:
            shim.fault_site(b"state")

    return call


class Scripted:
    """The script that was asked for: what it begins with, what it does, what must hold."""

    def __init__(self, name: str) -> None:
        script, check = (importlib.import_module(module) for module in SCRIPTS[name])
        self.prepare: Callable[[Path], None] = script.prepare
        self.script: Any = script.Script
        self.broken_promises: Callable[[Path, list[Any], bool], list[str]] = check.broken_promises


def plant(script: str) -> None:
    """Put a bug into the writer, or the forwarder, so that one can see that it is found."""
    if script == "failures":
        Store.note = lambda *arguments: None  # type: ignore[method-assign]
        return

    def careless(*arguments: Any) -> None:
        with contextlib.suppress(OSError):
            original(*arguments)

    original = active.write_all
    active.write_all = careless


def run(scripted: Scripted, template: Path, directory: Path, number: int, fault: int) -> Run:
    """Run the script in a process of its own, with call `number` failing; 0 for none."""
    log = os.open(_log_path(directory), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(template, directory)

    def work(witness: int) -> None:
        shim.fault_watch(os.fsencode(directory), log)
        shim.fault_arm(number, fault)
        script = scripted.script(directory, witness, lambda name: shim.fault_site(b"state"))
        with contextlib.suppress(StreamfnError):  # of the last close: whatever it was, the log must be right
            script.run()

    done = in_a_fork(work)
    os.close(log)
    return done


def _log_path(directory: Path) -> Path:
    return directory.with_suffix(".calls")


def last_calls(directory: Path) -> list[Call]:
    """The system calls of the run that was last."""
    lines = [line.split(" ", 3) for line in _log_path(directory).read_text().splitlines()]
    return [Call(int(number), name, site, file) for number, name, site, file in lines]


def in_a_fork(work: Callable[[int], None]) -> Run:
    """Let a process of its own do `work`, which writes what it has to tell to a descriptor, a line of JSON each.

    Nothing that it opens or remembers is there in the next one.
    """
    reads, writes = os.pipe()
    errors_read, errors_write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(_RUN_S)
            work(writes)
            status = 0
        except BaseException:
            os.write(errors_write, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writes)
    os.close(errors_write)
    with os.fdopen(reads, "rb") as told, os.fdopen(errors_read) as errors:
        lines = [json.loads(line) for line in told if line.endswith(b"\n")]
        trouble = errors.read()
    return Run(os.waitpid(child, 0)[1], lines, trouble)


def calls_of(scripted: Scripted, template: Path, directory: Path) -> list[Call]:
    """Every system call of the script, when none fails."""
    done = run(scripted, template, directory, 0, 0)
    assert done.status == 0, done.trouble
    assert judge(scripted, directory, done, "none") == []
    return last_calls(directory)


def points_of(calls: list[Call]) -> list[tuple[Call, str]]:
    """Every call with every fault that it can have."""
    return [
        (call, fault)
        for call in calls
        for fault in FAULTS
        if (fault != "short" or call.name in WRITES) and (fault != "ENOSPC" or call.name not in READS)
    ]


def judge(scripted: Scripted, directory: Path, done: Run, fault: str, number: int = 0) -> list[str]:
    """What a run broke in which call `number` was to fail; the last ones may not come, because times differ."""
    killed = os.WIFSIGNALED(done.status) and os.WTERMSIG(done.status) == signal.SIGKILL
    expected = fault == "SIGKILL" and number <= len(last_calls(directory))
    if killed != expected or (not killed and done.status != 0):
        return [f"the process ended with status {done.status}: {done.trouble}"]

    def check(out: int) -> None:
        for line in scripted.broken_promises(directory, done.told, killed):
            os.write(out, json.dumps(line).encode() + b"\n")

    checked = in_a_fork(check)
    return checked.told if checked.status == 0 else [f"what is left cannot be used: {checked.trouble}"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--script", choices=SCRIPTS, default="log")
    parser.add_argument("--points", type=int, help="how many are drawn; all of them without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--after", help="only calls that come next after one by this site")
    parser.add_argument("--fault", choices=FAULTS, help="only this fault")
    parser.add_argument("--planted", action="store_true", help="with a bug: see `plant`")
    arguments = parser.parse_args()
    logging.disable()
    template, directory = arguments.directory / "template", arguments.directory / "data"
    scripted = Scripted(arguments.script)
    made = in_a_fork(lambda out: scripted.prepare(template))
    assert made.status == 0, made.trouble
    name_the_sites()
    if arguments.planted:
        plant(arguments.script)
    calls = calls_of(scripted, template, directory)
    points = points_of(calls)
    if arguments.after is not None:
        near = {call.number + step for call in calls if call.site == arguments.after for step in range(1, AFTER_CALLS)}
        points = [(call, fault) for call, fault in points if call.number in near]
    if arguments.fault is not None:
        points = [(call, fault) for call, fault in points if fault == arguments.fault]
    total = len(points)
    if arguments.points is not None:
        points = random.Random(arguments.seed).sample(points, min(arguments.points, total))
    broken = []
    for call, fault in points:
        done = run(scripted, template, directory, call.number, FAULTS[fault])
        for line in judge(scripted, directory, done, fault, call.number):
            calls_then = last_calls(directory)  # times differ, and with them now and then a call
            call = calls_then[call.number - 1] if call.number <= len(calls_then) else call
            broken.append(f"call {call.number}, {call.name} of {call.file} by {call.site}, {fault}: {line}")
    sites = sorted({(call.site, call.name, call.file.rpartition(".")[2]) for call in calls})
    counts = {"calls": len(calls), "total": total, "points": len(points)}
    json.dump({**counts, "sites": sites, "broken": broken}, sys.stdout)


if __name__ == "__main__":
    main()
