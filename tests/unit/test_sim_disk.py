"""The simulated disk: as the machine's own while it has power, and forgetful in every way it should be without."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfn.log.storage.disk import Disk, SystemDisk
from streamfn.testing.disk import SimDisk

NAMES = ("a", "b", "c")
RW = os.O_RDWR | os.O_CREAT


def write(disk: SimDisk, name: str, content: bytes, at: int = 0, *, sync: bool = False, entry: bool = False) -> None:
    fd = disk.open(Path("/") / name, RW)
    disk.pwrite(fd, content, at)
    if sync:
        disk.sync(fd)
    if entry:
        disk.sync_directory(Path("/"))
    disk.close(fd)


def found(disk: SimDisk) -> set[tuple[tuple[str, bytes | None], ...]]:
    """Every state that a loss of power may leave, as sorted (path, content) of files."""
    states = disk.crash().states(1 << 12, random.Random(0))
    return {tuple(sorted((path, content) for path, content in state.files().items() if path)) for state in states}


OPERATIONS = st.one_of(
    st.tuples(st.just("open"), st.sampled_from(NAMES), st.sampled_from((0, os.O_CREAT, os.O_CREAT | os.O_TRUNC))),
    st.tuples(st.just("write"), st.binary(max_size=40), st.integers(0, 60)),
    st.tuples(st.just("read"), st.integers(0, 80), st.integers(0, 80)),
    st.tuples(st.just("truncate"), st.integers(0, 90), st.just(0)),
    st.tuples(st.just("punch"), st.integers(0, 60), st.integers(1, 40)),
    st.tuples(st.just("rename"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("unlink"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("list"), st.just(0), st.just(0)),
    st.tuples(st.just("status"), st.just(0), st.just(0)),
)


def outcome(disk: Disk, root: Path, fds: list[int], step: tuple[str, object, object]) -> object:
    """What one operation gives, or the errno it raises; on the newest file opened."""
    kind, a, b = step
    try:
        match kind:
            case "open":
                fds.append(disk.open(root / a, os.O_RDWR | b))
            case "rename":
                disk.rename(root / a, root / b)
            case "unlink":
                disk.unlink(root / a)
            case "list":
                return sorted(disk.list_directory(root))
            case _ if not fds:
                return None
            case "write":
                return disk.pwrite(fds[-1], a, b)
            case "read":
                return disk.pread(fds[-1], a, b)
            case "truncate":
                disk.truncate(fds[-1], a)
            case "punch":
                disk.punch_hole(fds[-1], a, b)
            case "status":
                status = disk.status(fds[-1])
                return status.size, status.links
    except OSError as error:
        return error.errno
    return None


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(OPERATIONS, max_size=25))
def test_with_power_it_does_what_the_machines_own_disk_does(steps):
    simulated, system = SimDisk(), SystemDisk()
    fds: dict[str, list[int]] = {"simulated": [], "system": []}
    with tempfile.TemporaryDirectory() as directory:
        for step in steps:
            expected = outcome(system, Path(directory), fds["system"], step)
            assert outcome(simulated, Path("/"), fds["simulated"], step) == expected, step
        for fd in fds["system"]:
            system.close(fd)


def test_what_was_synced_is_there_and_what_was_not_is_a_choice_of_each_sector():
    disk = SimDisk()
    write(disk, "a", b"x" * 1024, sync=True, entry=True)
    assert found(disk) == {(("/a", b"x" * 1024),)}
    write(disk, "a", b"y" * 600, 200)
    first, second = b"x" * 200 + b"y" * 312, b"y" * 288 + b"x" * 224
    assert found(disk) == {
        (("/a", one + two),) for one in (first, b"x" * 512) for two in (second, b"x" * 512)
    }


def test_a_length_is_lost_without_the_content_and_the_content_without_the_length():
    disk = SimDisk()
    write(disk, "a", b"xx", sync=True, entry=True)
    write(disk, "a", b"yy", 2)
    assert found(disk) == {(("/a", b"xx"),), (("/a", b"xxyy"),), (("/a", b"xx\0\0"),)}


def test_a_synced_file_without_a_synced_entry_may_be_gone():
    disk = SimDisk()
    write(disk, "a", b"x", sync=True)
    assert found(disk) == {(), (("/a", b"x"),)}
    disk.sync_directory(Path("/"))
    assert found(disk) == {(("/a", b"x"),)}


def test_entries_change_independently_but_a_rename_is_whole():
    disk = SimDisk()
    write(disk, "a", b"1", sync=True)
    write(disk, "b", b"2", sync=True, entry=True)
    disk.rename(Path("/a"), Path("/c"))
    disk.unlink(Path("/b"))
    left = {tuple(path for path, _ in state) for state in found(disk)}
    assert left == {("/a", "/b"), ("/a",), ("/b", "/c"), ("/c",)}


def test_a_failed_sync_loses_what_no_later_sync_writes():
    disk = SimDisk()
    write(disk, "a", b"xx", sync=True, entry=True)
    fd = disk.open(Path("/a"), os.O_RDWR)
    disk.pwrite(fd, b"yy", 0)

    def fail(call: str) -> None:
        raise OSError(errno.EIO, call)

    disk.before = fail
    with pytest.raises(OSError, match="sync"):
        disk.sync(fd)
    disk.before = None
    disk.sync(fd)
    assert disk.pread(fd, 2, 0) == b"yy"
    assert found(disk) == {(("/a", b"xx"),), (("/a", b"yy"),)}
    disk.pwrite(fd, b"yy", 0)
    disk.sync(fd)
    assert found(disk) == {(("/a", b"yy"),)}


def test_a_killed_process_loses_nothing_and_its_locks_are_free():
    disk = SimDisk()
    write(disk, "a", b"x")
    fd = disk.open(Path("/a"), os.O_RDWR)
    assert disk.try_lock(fd)
    assert not disk.try_lock(disk.open(Path("/a"), os.O_RDWR))
    after = SimDisk(disk.crash().killed())
    assert after.boot_id() == disk.boot_id()
    fd = after.open(Path("/a"), os.O_RDWR)
    assert after.try_lock(fd)
    assert after.pread(fd, 9, 0) == b"x"
    lost = SimDisk(after.crash().lost())
    assert lost.boot_id() != disk.boot_id()
    assert lost.list_directory(Path("/")) == []


def test_a_mapping_shows_what_is_written_later_and_outlives_the_name():
    disk = SimDisk()
    write(disk, "a", bytes(64))
    fd = disk.open(Path("/a"), os.O_RDWR)
    address = disk.map(fd, 64)
    disk.pwrite(fd, b"later", 8)
    disk.unlink(Path("/a"))
    assert disk.status(fd).links == 0
    disk.close(fd)
    assert ctypes.string_at(address + 8, 5) == b"later"
    assert disk.open_files == 1
    disk.unmap(address, 64)
    assert disk.open_files == 0


def test_a_moment_that_has_too_many_states_gives_the_extremes_and_draws_the_rest():
    disk = SimDisk()
    write(disk, "a", bytes(1 << 14), sync=True, entry=True)
    write(disk, "a", random.Random(1).randbytes(1 << 14))
    crash = disk.crash()
    assert crash.combinations == 1 << 32
    drawn = [state.files()["/a"] for state in crash.states(200, random.Random(2))]
    assert len(set(drawn)) == len(drawn) == 200
    assert bytes(1 << 14) in drawn
    assert bytes(disk.crash().killed().files()["/a"] or b"") in drawn
