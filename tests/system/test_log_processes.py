"""The log between real processes: kills, one writer, stock readers beside it, full disks, failing calls.

A kill keeps what the system has in memory, so these tests say nothing about power; the model test does.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import polars
import pyarrow as pa
import pytest

from streamfn.errors import BusyError, DiskFull
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.catalog.stream import Shard
from streamfn.log.shard.reader import ShardReader, records, segments
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord

SEGMENT = 256 * 1024

# Appends records whose content follows from their offset, and says after each commit how far it is.
APPENDER = """
import random, sys
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.writer import ShardWriter
from streamfn.types import NewRecord
path, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
shard = DataDir.open(path, create=False).stream("s").shards[0]
with ShardWriter.open(shard, segment_bytes={segment}) as writer:
    print("open", writer.end_offset, flush=True)
    for _ in range(rounds):
        for _ in range(chance.randrange(1, 4)):
            start = writer.end_offset
            stop = start + chance.choice((1, 1, 5, 40))
            rows = range(start, stop)
            writer.append([NewRecord(b"%d " % i * (1 + i % 300), f"key {{i}}", i) for i in rows])
        writer.commit()
        print("durable", writer.committed_offset, flush=True)
"""


def content(offset: int) -> bytes:
    return b"%d " % offset * (1 + offset % 300)


def appender(path: Path, seed: int, rounds: int, *before: str) -> subprocess.Popen[str]:
    script = textwrap.dedent(APPENDER.format(segment=SEGMENT))
    command = [*before, sys.executable, "-c", script, str(path), str(seed), str(rounds)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def durable(output: str) -> int:
    """The last offset that was said to be durable; a line may have been cut by the kill."""
    lines = [line.split() for line in output.splitlines(keepends=True) if line.endswith("\n")]
    return max((int(words[1]) for words in lines if words[0] == "durable"), default=0)


def check_log(shard: Shard) -> int:
    """Read everything, compare every byte, and return how many records there are."""
    expected = 0
    with ShardReader.open(shard, 0) as reader:
        while got := reader.poll(1 << 22):
            for record in (record for message in got for record in records(message)):
                assert record.offset == expected
                assert (record.data, record.partition_key) == (content(expected), f"key {expected}")
                assert record.arrival_ms == expected
                expected += 1
    return expected


@pytest.fixture
def path(tmp_path: Path) -> Path:
    DataDir.open(tmp_path / "data", create=True).create_stream("s")
    return tmp_path / "data"


def shard_of(path: Path) -> Shard:
    return DataDir.open(path, create=False).stream("s").shards[0]


def test_appender_killed_at_random_moments_loses_nothing_it_called_durable(path: Path) -> None:
    chance = random.Random(20)
    shard = shard_of(path)
    acked = 0
    for round_ in range(12):
        process = appender(path, round_, 1 << 30)
        assert process.stdout is not None
        process.stdout.readline()  # it is open
        time.sleep(chance.random() * 0.15)  # the moment of the kill is what is varied here
        process.kill()
        output, errors = process.communicate()
        # It may have found, and said, that the one before it was killed in the middle of an append.
        assert all("half-written bytes" in line for line in errors.splitlines()), errors
        acked = max(acked, durable(output))
        assert check_log(shard) >= acked
    with ShardWriter.open(shard) as writer:
        assert writer.end_offset >= acked > 0
    assert check_log(shard) == writer.end_offset
    assert len(list(shard.directory.glob("*.arrow"))) > 3, "too little was written to roll"


def test_the_second_of_two_processes_is_refused_until_the_first_is_dead(path: Path) -> None:
    process = appender(path, 1, 1 << 30)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(BusyError, match=f"process {process.pid}"):
            ShardWriter.open(shard_of(path), wait_s=0.05)
    finally:
        process.kill()
        process.communicate()
    ShardWriter.open(shard_of(path), wait_s=0).close()


def read_as_it_stands(shard: Shard) -> list[tuple[str, int]]:
    """Read every segment with stock pyarrow and stock Polars; a path that has gone is no failure."""
    seen = []
    for path in sorted(shard.directory.iterdir()):
        if path.suffix not in (".arrow", ".arrows"):
            continue
        first = int(path.stem)
        with contextlib.suppress(FileNotFoundError):
            with pa.OSFile(str(path)) as file:
                if path.suffix == ".arrow":
                    table = pa.ipc.open_file(file).read_all()
                else:
                    table = pa.ipc.open_stream(file).read_all()
            table.validate(full=True)
            check_rows(table["data"].to_pylist(), first)
            assert table["partition_key"].to_pylist() == [f"key {first + i}" for i in range(len(table))]
            seen.append((path.suffix, first + len(table)))
            frame = polars.read_ipc(path) if path.suffix == ".arrow" else polars.read_ipc_stream(path)
            check_rows(frame["data"].to_list(), first)
    return seen


def check_rows(rows: list[bytes], first: int) -> None:
    assert rows == [content(first + i) for i in range(len(rows))]


def watch_as_it_stands(path: Path, seconds: float) -> None:
    shard = shard_of(path)
    process = appender(path, 3, 1 << 30)
    try:
        reads, forms, furthest = 0, set(), 0
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for form, end in read_as_it_stands(shard):
                forms.add(form)
                furthest = max(furthest, end)
                reads += 1
            # Old segments are pruned, or the loop would slow down as the log grows.
            for old in sorted(shard.directory.glob("*.arrow"))[:-2]:
                old.unlink()
    finally:
        process.kill()
        _, errors = process.communicate()
    assert errors == ""
    assert reads > 20
    assert forms == {".arrow", ".arrows"}
    with ShardWriter.open(shard) as writer:
        assert furthest <= writer.end_offset, "a reader saw a row that was never appended"


def test_stock_readers_read_the_active_segment_during_appends_rolls_and_sealing(path: Path) -> None:
    watch_as_it_stands(path, 3)


@pytest.mark.soak
def test_stock_readers_for_half_a_minute(path: Path) -> None:
    watch_as_it_stands(path, 30)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a small tmpfs cannot be mounted here: " + made.stderr.decode().strip())
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def numbered(start: int, stop: int) -> list[NewRecord]:
    return [NewRecord(content(i), f"key {i}", i) for i in range(start, stop)]


def append_until_full(writer: ShardWriter) -> None:
    for _ in range(10_000):
        try:
            writer.append(numbered(writer.end_offset, writer.end_offset + 50))
        except DiskFull:
            return
    raise AssertionError("the disk never filled up")


def test_a_full_disk_refuses_appends_keeps_what_was_acked_and_goes_on_when_there_is_room(
    small_disk: Path,
) -> None:
    shard = DataDir.open(small_disk / "data", create=True).create_stream("s").shards[0]
    with ShardWriter.open(shard, segment_bytes=SEGMENT) as writer:
        append_until_full(writer)
        writer.commit()
        acked = writer.committed_offset
        status = os.statvfs(small_disk)
        assert status.f_bavail >= status.f_blocks // 5, "room for checkpoints must be left"
        assert check_log(shard) == acked == writer.end_offset
        filler = small_disk / "filler"  # and something else takes the rest: now the write itself fails
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        writer._require_space = lambda length: None  # type: ignore[method-assign]
        append_until_full(writer)
        end = writer.end_offset
        filler.unlink()
        for old in sorted(shard.directory.glob("*.arrow"))[:-1]:
            os.unlink(old)
        assert writer.append(numbered(end, end + 50)) == range(end, end + 50)
    with ShardReader.open(shard, acked) as reader:
        found = [r for got in iter(lambda: reader.poll(1 << 22), []) for m in got for r in records(m)]
    assert [r.offset for r in found][-1] == end + 49
    check_rows([r.data for r in found], found[0].offset)


def strace_works() -> bool:
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode
        == 0
    )


@pytest.mark.skipif(not strace_works(), reason="strace cannot trace here")
@pytest.mark.parametrize(
    ("call", "fault", "when"),
    [
        ("pwrite64", "error=EIO", 3),
        ("pwrite64", "error=ENOSPC", 9),
        ("pwrite64", "signal=SIGKILL", 20),
        ("fdatasync", "error=EIO", 1),
        ("fdatasync", "error=EIO", 5),
        ("fsync", "error=EIO", 2),
        ("rename", "error=EIO", 2),
        ("fdatasync", "signal=SIGKILL", 8),
        ("rename", "signal=SIGKILL", 2),
    ],
)
def test_any_failing_call_ends_with_one_error_and_nothing_durable_lost(
    path: Path, call: str, fault: str, when: int
) -> None:
    inject = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:{fault}:when={when}",
    ]
    output, errors = appender(path, when, 60, *inject).communicate(timeout=60)
    if "SIGKILL" not in fault and errors:
        assert errors.splitlines()[-1].startswith(("streamfn.errors.LogError", "streamfn.errors.DiskFull")), (
            errors
        )
    shard = shard_of(path)
    assert check_log(shard) >= durable(output)
    with ShardWriter.open(shard) as writer:
        end = writer.end_offset
        writer.append(numbered(end, end + 3))
    assert check_log(shard) == end + 3
    assert sum(info.records for info in segments(shard)) == end + 3


def anonymous_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return sum(
        int(line.split()[1]) for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem"))
    )


def test_appending_and_reading_one_by_one_does_not_grow_the_process(path: Path) -> None:
    shard = shard_of(path)
    record = [NewRecord(b"x" * 200, "key", 1)]
    with ShardWriter.open(shard, segment_bytes=4 << 20) as writer, ShardReader.open(shard, 0) as reader:
        sizes = []
        for _ in range(4):
            for _ in range(5000):
                writer.append(record)
            writer.commit()
            rows = sum(message.rows for got in iter(lambda: reader.poll(1 << 20), []) for message in got)
            assert rows == 5000
            sizes.append(anonymous_kib())
    assert sizes[-1] - sizes[0] < 4096
