"""Many processes and one stream: puts that meet, writers that are killed, commands that want the shard alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import streamfn
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.reader import ShardReader, records
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import Record

# Puts numbered records one by one and says of each what became of it; begins when it is told to.
PUTTER = """
import sys
from streamfn.errors import StreamfnError
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.types import NewRecord
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Producer(DataDir.open(path, create=True).stream("s")) as producer:
    producer.submit([NewRecord(b"ready %s" % name.encode(), "k")]).result()
    print("ready", flush=True)
    sys.stdin.readline()
    n = 0
    while n < count:
        try:
            producer.submit([NewRecord(b"%s %d" % (name.encode(), n), name)]).result()
            print("ok", n, flush=True)
        except StreamfnError as error:
            print("failed", n, error, flush=True)
        n += 1
"""
FOREVER = 10**9


def putter(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUTTER, str(path), name, str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def said(output: str) -> tuple[list[int], list[int]]:
    """The numbers that were acknowledged, and those that failed; a line that a kill has cut is none."""
    words = [line.split(maxsplit=2) for line in output.splitlines(keepends=True) if line.endswith("\n")]
    return [int(w[1]) for w in words if w[0] == "ok"], [int(w[1]) for w in words if w[0] == "failed"]


def contents(path: Path) -> list[Record]:
    found: list[Record] = []
    for shard in DataDir.open(path, create=False).stream("s").shards:
        with ShardReader.open(shard, 0) as reader:
            while messages := reader.poll(1 << 26):
                for message in messages:
                    found += records(message)
    return found


def numbers(path: Path, name: str) -> list[int]:
    """The numbers that a putter has in the log, in the log's order."""
    mine = (record.data.decode().split() for record in contents(path))
    return [int(number) for who, number in mine if who == name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    DataDir.open(tmp_path / "data", create=True).create_stream("s")
    return tmp_path / "data"


def cli(path: Path, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamfn", "--data-dir", str(path), *arguments],
        input=given, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


# 64 starts of Python would be most of the test.
FORKED = """
import os, sys
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.producer.producer import Producer
from streamfn.types import NewRecord

def put(name):
    with Producer(DataDir.open(sys.argv[1], create=True).stream("s")) as producer:
        for n in range(20):
            producer.submit([NewRecord(b"%d %d" % (name, n), f"{name}")]).result(60)

children = []
for name in range(64):
    child = os.fork()
    if child == 0:
        try:
            put(name)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_64_processes_put_at_once_and_each_keeps_its_order(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = [record.data.decode().split() for record in contents(path)]
    assert len(found) == 64 * 20
    for name in range(64):
        assert [int(number) for who, number in found if who == str(name)] == list(range(20))
    left = {entry.name for entry in DataDir.open(path, create=False).stream("s").directory.iterdir()}
    assert left == {"shardId-000000000000", "stream.json"}


@pytest.mark.parametrize("seed", range(2))
def test_when_the_writer_is_killed_nothing_is_lost_or_there_twice(path: Path, seed: int) -> None:
    """Kill the writer in the middle, and the one that took over, and then let the rest finish."""
    chance = random.Random(seed)
    writer = putter(path, "w", FOREVER)
    ready(writer)
    heirs = [putter(path, f"p{n}", 400) for n in range(4)]
    for heir in heirs:
        ready(heir)
    for process in (writer, *heirs):
        go(process)
    time.sleep(chance.uniform(0.02, 0.2))
    os.kill(writer.pid, signal.SIGKILL)
    dead = {"w": writer.communicate()[0]}
    time.sleep(chance.uniform(0.01, 0.1))
    second = _lock_holder(path)
    left = []
    for n, heir in enumerate(heirs):
        if heir.pid == second and heir.poll() is None:
            os.kill(heir.pid, signal.SIGKILL)
            dead[f"p{n}"] = heir.communicate()[0]
        else:
            left.append((f"p{n}", heir))
    for name, heir in left:
        acknowledged, failed = said(heir.communicate(timeout=60)[0])
        assert failed == [], "two kills in a row are told apart, too"
        assert acknowledged == list(range(400))
        assert numbers(path, name) == list(range(400)), f"seed {seed}"
    for name, output in dead.items():
        acknowledged, _ = said(output)
        mine = numbers(path, name)
        # Of the one that died, one put may be there that nobody was told of.
        assert mine[: len(acknowledged)] == acknowledged
        assert len(mine) <= len(acknowledged) + 1, f"seed {seed}"


def _lock_holder(path: Path) -> int:
    (shard,) = DataDir.open(path, create=False).stream("s").shards
    text = (shard.directory / "lock").read_text().strip()
    return int(text) if text else 0


def test_after_a_kill_the_next_put_takes_over_within_a_second(path: Path) -> None:
    writer = putter(path, "w", FOREVER)
    ready(writer)
    heir = putter(path, "p", 1)
    ready(heir)  # it puts through the writer, and sleeps
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    began = time.monotonic()
    go(heir)
    output = heir.communicate(timeout=30)[0]
    assert time.monotonic() - began < 1 + 1, "one second for the end of the process"
    assert said(output) == ([0], [])


def test_put_goes_through_a_put_that_reads_a_long_pipe(path: Path) -> None:
    command = [sys.executable, "-m", "streamfn", "--data-dir", str(path), "put", "s"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as long:
        assert long.stdin is not None
        assert long.stdout is not None
        long.stdin.write("one\n")
        long.stdin.flush()
        long.stdout.readline()
        began = time.monotonic()
        done = cli(path, "put", "s", "two", "three", "--json")
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < 4, "it did not wait for the writer"
        assert [json.loads(line)["ShardId"] for line in done.stdout.splitlines()] == ["shardId-000000000000"] * 2
        long.stdin.write("four\n")
        long.stdin.close()
        long.stdout.read()
    assert long.returncode == 0
    assert [record.data for record in contents(path)] == [b"one", b"two", b"three", b"four"]


def test_put_and_split_go_on_beside_a_session_that_holds_the_stream(path: Path) -> None:
    with streamfn.open_sync(path) as session:
        session.put("s", b"one", partition_key="a")
        done = cli(path, "put", "s", "two", "--partition-key", "a", "--durability", "os")
        assert done.returncode == 0, done.stderr
        session.put("s", b"three", partition_key="a")
        split = cli(path, "split-shard", "--stream-name", "s", "--shard-to-split", "shardId-000000000000",
                    "--new-starting-hash-key", str(2**127))  # fmt: skip
        assert split.returncode == 0, split.stderr
        assert session.put("s", b"four", partition_key="a").shard_id != "shardId-000000000000"
    assert [record.data for record in contents(path)] == [b"one", b"two", b"three", b"four"]


def test_two_writers_that_cannot_share_name_each_other(path: Path) -> None:
    (shard,) = DataDir.open(path, create=False).stream("s").shards
    with ShardWriter.open(shard):
        began = time.monotonic()
        done = cli(path, "put", "s", "x")
        assert done.returncode == 1
        assert f"is in use by process {os.getpid()}" in done.stderr
        assert "Traceback" not in done.stderr
        assert 5 <= time.monotonic() - began < 15


def test_standing_by_while_a_stopped_writer_sleeps_and_goes_on_when_it_wakes(path: Path) -> None:
    writer = putter(path, "w", 50)
    ready(writer)
    other = putter(path, "p", 50)
    ready(other)
    os.kill(writer.pid, signal.SIGSTOP)
    try:
        go(other)
        time.sleep(0.2)
        assert other.poll() is None
    finally:
        os.kill(writer.pid, signal.SIGCONT)
    go(writer)
    assert said(other.communicate(timeout=30)[0]) == (list(range(50)), [])
    assert said(writer.communicate(timeout=30)[0]) == (list(range(50)), [])
    assert numbers(path, "p") == list(range(50))


def test_puts_and_an_import_of_one_stream_go_on_together(path: Path) -> None:
    command = [sys.executable, "-m", "streamfn", "--data-dir", str(path), "import", "-", "--stream", "s"]
    with streamfn.open_sync(path) as session:
        session.put("s", b"before")
        with subprocess.Popen(
            [*command, "--format", "lines", "--durability", "interval(20)"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as importing:  # fmt: skip
            assert importing.stdin is not None
            importing.stdin.write("imported 1\n")
            importing.stdin.flush()
            deadline = time.monotonic() + 20
            while _lock_holder(path) != importing.pid:  # it has asked the session to let go
                assert time.monotonic() < deadline
                time.sleep(0.01)
            session.put("s", b"meanwhile")
            importing.stdin.write("imported 2\n")
            importing.stdin.close()
            assert importing.wait(timeout=30) == 0, importing.stderr.read() if importing.stderr else ""
        session.put("s", b"after")
    found = [record.data for record in contents(path)]
    assert sorted(found) == sorted([b"before", b"imported 1", b"meanwhile", b"imported 2", b"after"])
    assert found[0] == b"before"
    assert found[-1] == b"after"
