"""One owner of a mapping at a time, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamfn.errors import BusyError, FailedError
from streamfn.state.owner import Ownership
from streamfn.state.store import Store

HOLD = """
import sys, pathlib
from streamfn.state.owner import Ownership
held = Ownership.acquire(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_second_owner_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "uuid"
    process = hold(lock)
    try:
        with pytest.raises(BusyError, match=rf"already running in process {process.pid}$"):
            Ownership.acquire(lock)
    finally:
        end(process)


def test_a_killed_owner_frees_the_lock_at_once(tmp_path: Path) -> None:
    for _ in range(3):
        process = hold(tmp_path / "lock")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        Ownership.acquire(tmp_path / "lock").release()


def test_what_a_killed_owner_executed_does_not_keep_the_lock(tmp_path: Path) -> None:
    with Ownership.acquire(tmp_path / "lock") as owner:
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
        try:
            owner.release()
            Ownership.acquire(tmp_path / "lock").release()
        finally:
            child.kill()
            child.wait()


def test_the_same_process_cannot_take_it_twice(tmp_path: Path) -> None:
    with Ownership.acquire(tmp_path / "lock"), pytest.raises(BusyError, match=str(os.getpid())):
        Ownership.acquire(tmp_path / "lock")
    with Ownership.acquire(tmp_path / "lock"):
        pass


def test_a_stale_pid_in_the_file_is_not_named(tmp_path: Path) -> None:
    with Ownership.acquire(tmp_path / "lock"):
        (tmp_path / "lock").write_text("999999999\n")
        with pytest.raises(BusyError, match="another process"):
            Ownership.acquire(tmp_path / "lock")


def test_a_place_that_cannot_hold_a_lock_fails_naming_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedError, match="file/lock"):
        Ownership.acquire(tmp_path / "file" / "lock")


CREATE = """
import sys, pathlib
from streamfn.state.store import Store
sys.stdin.readline()
with Store.open(pathlib.Path(sys.argv[1]), create=True) as store:
    binding = store.bind("m", stream_id="i", stream_name="s", handler="h.h", code_dir="/", options={},
                         starts={"shard-0": 0})
    print(store.acquire(binding.mapping.uuid), binding.mapping.uuid, flush=True)
"""


def test_processes_that_start_together_make_one_database_and_get_an_epoch_each(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(tmp_path / "state.db")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=20)[0].split() for process in processes]
    assert sorted(epoch for epoch, _ in answers) == ["1", "2", "3", "4"]
    assert len({uuid for _, uuid in answers}) == 1


COMMIT = """
import sys, pathlib
from streamfn.state.store import Store
with Store.open(pathlib.Path(sys.argv[1]), create=True) as store:
    uuid = store.bind("m", stream_id="i", stream_name="s", handler="h.h", code_dir="/", options={},
                      starts={"shard-0": 0, "shard-1": 0}).mapping.uuid
    epoch = store.acquire(uuid)
    offset = store.checkpoints(uuid)["shard-0"].offset
    while True:
        offset += 1
        store.commit(uuid, epoch, {"shard-0": (offset, None), "shard-1": (offset, None)})
        print(offset, flush=True)
"""


def test_a_commit_that_returned_survives_kill_9_and_none_is_half_made(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for round_number in range(5):
        process = subprocess.Popen([sys.executable, "-c", COMMIT, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        deadline = time.monotonic() + 20
        for line in process.stdout:
            if int(line) % 40 >= 20 + round_number or time.monotonic() > deadline:
                break
        process.kill()
        rest = process.communicate()[0]
        acknowledged = int((line + rest).split()[-1])
        with Store.open(path, create=False) as store:
            mapping = store.mapping("m")
            assert mapping is not None
            found = store.checkpoints(mapping.uuid)
        assert found["shard-0"].offset == found["shard-1"].offset
        assert acknowledged <= found["shard-0"].offset <= acknowledged + 1
