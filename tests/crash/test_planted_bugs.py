"""The judge is not blind: each of these bugs, put into the log on purpose, is found, and the seed is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from crash_explore import PLAN, explore
from crash_world import Life

from streamfn.log.segment import scan
from streamfn.log.shard import gaps, recovery, reserve
from streamfn.log.shard.fence import Fence
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage.durability import FSYNC, OS
from streamfn.testing.disk import SimDisk
from streamfn.types import Record

# Enough for the rarest of them many times over.
STATES = 20_000
Patch = pytest.MonkeyPatch


def acknowledge_before_the_sync(patch: Patch) -> type[Life]:
    def sync(self: ShardWriter) -> None:
        if self._committed.end_offset != self._end_offset:
            self._publish(self._end_offset)
            self._fence.sync(self._current.fd)

    patch.setattr(ShardWriter, "sync", sync)
    return Life


def no_directory_sync(patch: Patch) -> type[Life]:
    patch.setattr(Fence, "sync_directory", lambda self: None)
    return Life


def roll_without_a_sync(patch: Patch) -> type[Life]:
    def roll(self: ShardWriter, *arguments: Any) -> None:
        with mock.patch.object(Fence, "sync", return_value=None):
            original(self, *arguments)

    original = ShardWriter._roll
    patch.setattr(ShardWriter, "_roll", roll)
    return Life


def no_checksum(patch: Patch) -> type[Life]:
    """Everything counts as proven before it was looked at."""

    def step(self: scan.Scan, *arguments: Any) -> Any:
        self.segment.proven = self.segment.size
        return original(self, *arguments)

    original = scan.Scan.step
    patch.setattr(scan.Scan, "step", step)
    return Life


def recovery_that_trusts_lengths(patch: Patch) -> type[Life]:
    """Whole is what says how long it is."""

    def step(self: scan.Scan, end: int, *arguments: Any) -> Any:
        self.segment.proven = self.segment.size
        try:
            return original(self, end, *arguments)
        finally:
            self.segment.proven = 0

    def scan_tail(self: Any) -> Any:
        with pytest.MonkeyPatch.context() as here:
            here.setattr(scan.Scan, "step", step)
            return ending(self)

    original, ending = scan.Scan.step, recovery._Ending._scan
    patch.setattr(recovery._Ending, "_scan", scan_tail)
    return Life


def commit_file_trusted_after_a_reboot(patch: Patch) -> type[Life]:
    patch.setattr(SimDisk, "boot_id", lambda self: "0" * 36)
    return Life


def checkpoint_ahead_of_the_log(patch: Patch) -> type[Life]:
    class Ahead(Life):
        """Delivers what was written, whether it was committed or not."""

        def checkpoint(self) -> list[Record]:
            delivered = super().checkpoint()
            start, end = self.told.checkpoint, self.writer.end_offset
            if start < end:
                self.store(end, ((start, end, "ok"),))
            return delivered

    return Ahead


def discards_after_their_checkpoint(patch: Patch) -> type[Life]:
    class Late(Life):
        """Two transactions, and a moment in between."""

        def store(self, checkpoint: int, disposed: Any) -> None:
            super().store(checkpoint, tuple(one for one in disposed if one[2] == "ok"))
            super().store(checkpoint, tuple(one for one in disposed if one[2] != "ok"))

    return Late


def offsets_given_out_twice(patch: Patch) -> type[Life]:
    """Without a reserve, under a weaker durability."""
    patch.setattr(reserve, "read", lambda shard: reserve.NOTHING)
    return Life


def trimmed_before_the_ledger_says_so(patch: Patch) -> type[Life]:
    class Hasty(Life):
        def trim(self) -> None:
            with pytest.MonkeyPatch.context() as here:
                here.setattr(gaps, "_write", lambda shard, ledger: written.append((shard, ledger)))
                here.setattr(gaps, "read", lambda shard: written[-1][1] if written else read(shard))
                super().trim()
            for shard, ledger in written:
                gaps._write(shard, ledger)
            written.clear()

    written: list[Any] = []
    read = gaps.read
    return Hasty


def what_was_kept_is_not_synced(patch: Patch) -> type[Life]:
    def continue_without(self: ShardWriter, tail: Any) -> None:
        original(self, tail._replace(kept_from=tail.position, kept_records=0))

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


# And as what it shows.
BUGS = {
    acknowledge_before_the_sync: "lost-record",
    no_directory_sync: "lost-record",
    roll_without_a_sync: "lost-record",
    no_checksum: "wrong-content",
    recovery_that_trusts_lengths: "unreadable",
    commit_file_trusted_after_a_reboot: "lost-record",
    checkpoint_ahead_of_the_log: "checkpoint-ahead",
    discards_after_their_checkpoint: "disposition",
    offsets_given_out_twice: "checkpoint-ahead",
    trimmed_before_the_ledger_says_so: "unreadable",
    what_was_kept_is_not_synced: "lost-record",
    a_torn_tail_that_is_left: "tail-left",
    unlinked_before_the_sealed_name_is_synced: "unreadable",
    sealed_without_a_sync: "unreadable",
}


# The short script that does what the bug is in, where that comes late.
PLANS = {
    checkpoint_ahead_of_the_log: (FSYNC, "append", "checkpoint"),
    discards_after_their_checkpoint: (FSYNC, "append", "sync", "checkpoint"),
    offsets_given_out_twice: (OS, "append", "checkpoint"),
    trimmed_before_the_ledger_says_so: (FSYNC, "append", "roll", "seal", "trim"),
    unlinked_before_the_sealed_name_is_synced: (FSYNC, "append", "roll", "seal"),
    sealed_without_a_sync: (FSYNC, "append", "roll", "seal"),
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Callable[[Patch], type[Life]], monkeypatch: Patch, crash_seed: int, capsys: Any):
    monkeypatch.setattr(recovery._log, "disabled", True)
    life = bug(monkeypatch)
    plan = [([script], durability) for durability, *script in [PLANS[bug]]] if bug in PLANS else PLAN
    found = explore(crash_seed, STATES, plan=plan, broken_max=1, life=life)
    assert found.broken, f"{bug.__name__} was not found in {found.states} states, seed {crash_seed}"
    assert f": {BUGS[bug]}: " in found.broken[0]
    with capsys.disabled():
        print(f"\nplanted: {bug.__name__}: state {found.states}: {found.broken[0]}", end="")


def test_without_a_planted_bug_nothing_is_found(monkeypatch: Patch, crash_seed: int):
    monkeypatch.setattr(recovery._log, "disabled", True)
    assert explore(crash_seed, 500).broken == []
