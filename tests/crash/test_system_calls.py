"""One system call fails, and the promise holds: each of them, in each way it can, over and over.

    pytest tests/crash/test_system_calls.py -s --every-fault

The calls go through a shim that is preloaded, so what fails is what the program really calls, SQLite's included.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
POINTS = 300
FAILURE_POINTS = 60


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """The compiled shim."""
    path = tmp_path_factory.mktemp("shim") / "fault_shim.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", path, HERE / "fault_shim.c", "-ldl"], check=True)
    return path


@pytest.fixture
def directory(tmp_path):
    """Where syncs cost nothing: what they keep is not what is tested here."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="streamfn-faults-", dir=memory))
    yield path
    shutil.rmtree(path)


def faults(shim, directory, *options):
    command = [sys.executable, "fault_runner.py", directory, *options]
    environment = {**os.environ, "LD_PRELOAD": str(shim)}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_promise_holds_whichever_system_call_fails(shim, directory, crash_seed, request, capsys):
    judge("log", POINTS, shim, directory, crash_seed, request, capsys)


def test_every_discard_is_carried_once_whichever_system_call_fails(shim, directory, crash_seed, request, capsys):
    judge("failures", FAILURE_POINTS, shim, directory, crash_seed, request, capsys)


def judge(script, points, shim, directory, crash_seed, request, capsys):
    every = request.config.getoption("--every-fault")
    options = [] if every else ["--points", str(points), "--seed", str(crash_seed)]
    found = faults(shim, directory, "--script", script, *options)
    with capsys.disabled():
        print(f"\nsystem calls that fail, {script}: {found['points']} of {found['total']} points", end="")
        print(f" ({found['calls']} calls, EIO, ENOSPC, short writes, SIGKILL)", end="")
        print("" if every else f"; seed {crash_seed}")
        for site, call, file in found["sites"]:
            print(f"    {site:32} {call:12} {file}")
    assert not found["broken"], "\n".join(found["broken"])
    assert found["points"] == (found["total"] if every else points)


def test_a_writer_that_does_not_see_a_failed_write_is_found(shim, directory, crash_seed):
    found = faults(shim, directory, "--points", "80", "--seed", str(crash_seed), "--planted")
    assert any("careless" in line for line in found["broken"])


def test_a_forwarder_that_notes_nothing_is_found(shim, directory, crash_seed):
    options = ["--points", "14", "--seed", str(crash_seed), "--after", "commit.publish", "--fault", "SIGKILL"]
    found = faults(shim, directory, "--script", "failures", *options, "--planted")
    assert any("failed has" in line for line in found["broken"])
