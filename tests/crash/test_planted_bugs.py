"""The judge is not blind: each of these bugs, put into the log on purpose, is found, and the seed is shown."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

import pytest
from crash_explore import explore
from crash_scripts import OPERATIONS
from crash_world import Life

from streamfn._native import ffi, lib
from streamfn.log import recovery
from streamfn.log.writer import ShardWriter
from streamfn.testing.disk import SimDisk

# Enough for the rarest of them many times over.
STATES = 20_000
# What it takes to seal something, so that the scripts that do come early.
SEALING = ("seal", "roll", "append")

Patch = pytest.MonkeyPatch


def acknowledge_before_the_sync(patch: Patch) -> type[Life]:
    def commit(self: ShardWriter) -> None:
        if self._committed.end_offset != self._end_offset:
            self._publish()
            self._sync(self._fd)

    patch.setattr(ShardWriter, "commit", commit)
    return Life


def no_directory_sync(patch: Patch) -> type[Life]:
    patch.setattr(ShardWriter, "_sync_directory", lambda self: None)
    return Life


def roll_without_a_sync(patch: Patch) -> type[Life]:
    def roll(self: ShardWriter, *arguments: Any) -> None:
        self._sync = lambda fd: None
        try:
            original(self, *arguments)
        finally:
            del self._sync

    original = ShardWriter._roll
    patch.setattr(ShardWriter, "_roll", roll)
    return Life


def no_checksum(patch: Patch) -> type[Life]:
    """Everything counts as proven before it was looked at."""

    def step(self: recovery.Scan, *arguments: Any) -> Any:
        self.segment.proven = self.segment.size
        return original(self, *arguments)

    original = recovery.Scan.step
    patch.setattr(recovery.Scan, "step", step)
    return Life


def recovery_that_trusts_lengths(patch: Patch) -> type[Life]:
    """Whole is what says how long it is."""
    value = re.compile(rb"SFN1:[0-9a-f]{8}:([0-9a-f]{8}):([0-9a-f]{16}):([0-9a-f]{8}):([0-9a-f]{16}):")

    def scan_all(segment: Any, start: tuple[int, int], epoch: int) -> tuple[int, int, int, int]:
        position, offset = start
        while position + 8 <= segment.size:
            mark, length = struct.unpack("<II", ffi.buffer(segment.base + position, 8)[:])
            if mark != 0xFFFFFFFF or position + 8 + length > segment.size:
                break
            found = value.search(ffi.buffer(segment.base + position, 8 + length)[:])
            if found is None:
                break
            epoch, _, rows, body = (int(number, 16) for number in found.groups())
            position, offset = position + 8 + length + body, offset + rows
        return lib.SF_SCAN_END, position, offset, epoch

    patch.setattr(recovery, "_scan_all", scan_all)
    return Life


def commit_file_trusted_after_a_reboot(patch: Patch) -> type[Life]:
    patch.setattr(SimDisk, "boot_id", lambda self: "0" * 36)
    return Life


def checkpoint_ahead_of_the_log(patch: Patch) -> type[Life]:
    class Ahead(Life):
        """Delivers what was written, whether it was committed or not."""

        def checkpoint(self) -> None:
            self.told = self.told._replace(checkpoint=self.writer.end_offset)

    return Ahead


def what_was_kept_is_not_synced(patch: Patch) -> type[Life]:
    def continue_without(self: ShardWriter, tail: Any) -> None:
        original(self, tail._replace(kept_records=0))

    original = ShardWriter._continue
    patch.setattr(ShardWriter, "_continue", continue_without)
    return Life


def a_torn_tail_that_is_left(patch: Patch) -> type[Life]:
    patch.setattr(recovery, "cut", lambda disk, tail: None)
    return Life


def unlinked_before_the_sealed_name_is_synced(patch: Patch) -> type[Life]:
    class Hasty(Life):
        def seal(self) -> None:
            syncing, self.disk.sync_directory = self.disk.sync_directory, lambda path: None
            try:
                super().seal()
            finally:
                self.disk.sync_directory = syncing

    return Hasty


def sealed_without_a_sync(patch: Patch) -> type[Life]:
    class Hasty(Life):
        def seal(self) -> None:
            syncing, self.disk.sync = self.disk.sync, lambda fd: None
            try:
                super().seal()
            finally:
                self.disk.sync = syncing

    return Hasty


BUGS = [
    acknowledge_before_the_sync,
    no_directory_sync,
    roll_without_a_sync,
    no_checksum,
    recovery_that_trusts_lengths,
    commit_file_trusted_after_a_reboot,
    checkpoint_ahead_of_the_log,
    what_was_kept_is_not_synced,
    a_torn_tail_that_is_left,
    unlinked_before_the_sealed_name_is_synced,
    sealed_without_a_sync,
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Callable[[Patch], type[Life]], monkeypatch: Patch, crash_seed: int, capsys: Any):
    monkeypatch.setattr(recovery._log, "disabled", True)
    life = bug(monkeypatch)
    operations = SEALING if "seal" in bug.__name__ else OPERATIONS
    found = explore(crash_seed, STATES, operations=operations, broken_max=1, life=life)
    assert found.broken, f"{bug.__name__} was not found in {found.states} states, seed {crash_seed}"
    with capsys.disabled():
        print(f"\nplanted: {bug.__name__}: state {found.states}: {found.broken[0]}", end="")


def test_without_a_planted_bug_nothing_is_found(monkeypatch: Patch, crash_seed: int):
    monkeypatch.setattr(recovery._log, "disabled", True)
    assert explore(crash_seed, 500).broken == []
