"""Doing what `verify` proposes: what can be read stays, what cannot is named in the ledger, and nothing is thrown away.

    1  whoever appends is kept out, and everything that will be touched is copied to the backup, durably
    2  the ledger names what is lost, so that readers and writers go on behind it from that moment on
    3  each damaged segment is written anew from its good messages, one sealed file for each run without a hole, so
       that any Arrow tool reads it again
    4  the shard is opened for writing once, which recovers it as after a crash and publishes where it ends

A crash between the steps leaves a shard that `verify` finds damaged, or one that is repaired; never less than before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from streamfn import limits
from streamfn._native import ffi
from streamfn.log.catalog.stream import Shard
from streamfn.log.segment.readable import Readable, Run
from streamfn.log.segment.sealed_writer import SealedWriter
from streamfn.log.segment.segment import SegmentFile, list_files
from streamfn.log.shard import gaps, reserve
from streamfn.log.shard.gaps import DAMAGED, LOST, Gap
from streamfn.log.shard.merge import merged
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.sharing.broker import request_release
from streamfn.log.storage.commit import CommitFile
from streamfn.log.storage.disk import Disk, write_all
from streamfn.log.storage.lock import FileLock
from streamfn.log.upkeep.verify import Finding, verify_shard

_CHUNK = 1 << 20
_GROUP_MESSAGES = 8192
_OTHERS = ("commit", gaps.FILE_NAME, reserve.FILE_NAME)


class Repaired(NamedTuple):
    """What `repair_shard` did about a shard: `actions` are lines for people, `left` what it could not mend."""

    findings: list[Finding]
    actions: list[str]
    left: list[Finding]


def repair_shard(shard: Shard, backup: Path, *, now_ms: int, wait_s: float = 5.0) -> Repaired:
    """Repair a shard; where there is nothing to repair nothing is touched, and no backup is made.

    `backup` is a directory for copies of the files that are changed, made if it is needed.  `now_ms` is milliseconds
    since 1970, UTC.

    Raises:
        BusyError: another process appends to the shard, and did so for `wait_s` seconds; its pid is named.
        LogError: a file cannot be read or written; what was done until then is whole.
    """
    lock = FileLock(shard.directory / "lock", shard.disk)
    what = f"shard {shard.id} in {shard.directory.parent}"
    lock.acquire(what, wait_s, ask=partial(request_release, shard))
    try:
        findings = verify_shard(shard).findings
        if not findings:
            return Repaired([], [], [])
        actions = _Repair(shard, backup, now_ms).all(findings)
    finally:
        lock.release()
    if shard.open:
        ShardWriter.open(shard, wait_s=wait_s).close()
    return Repaired(findings, actions, verify_shard(shard).findings)


class _Repair:
    def __init__(self, shard: Shard, backup: Path, now_ms: int) -> None:
        self._shard = shard
        self._disk = shard.disk
        self._backup = backup
        self._now_ms = now_ms
        self._actions: list[str] = []

    def all(self, findings: list[Finding]) -> list[str]:
        """Back up, name what is lost, write anew what is damaged."""
        segments = {file.path: file for file in list_files(self._shard)}
        touched = sorted({finding.path for finding in findings} & {*segments, *self._others()})
        for path in touched:
            self._keep(path)
        ledger = self._shard.directory / gaps.FILE_NAME
        if ledger in touched:
            self._disk.unlink(ledger)
            self._actions.append(f"{ledger.name}: written anew")
        elif ledger in self._others():
            self._keep(ledger)
        for finding in findings:
            if finding.records:
                self._name(finding, finding.path in segments)
        reserved = self._shard.directory / reserve.FILE_NAME
        if reserved in touched:
            self._reserve_anew()
            self._actions.append(f"{reserved.name}: written anew")
        for path in touched:
            if path in segments:
                self._write_anew(segments[path])
        self._disk.sync_directory(self._shard.directory)
        return self._actions

    def _others(self) -> set[Path]:
        """The shard's files beside its segments that a repair may change."""
        names = set(self._disk.list_directory(self._shard.directory))
        return {self._shard.directory / name for name in _OTHERS if name in names}

    def _keep(self, path: Path) -> None:
        """Copy a file to the backup; holes stay holes.  With another ending: it is no part of the log there."""
        _make_directories(self._disk, self._backup)
        copy = self._backup / (path.name + ".bak")
        source = self._disk.open(path, os.O_RDONLY)
        target = self._disk.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            size = self._disk.status(source).size
            for start, stop in self._disk.data_extents(source, 0, size):
                for at in range(start, stop, _CHUNK):
                    content = self._disk.pread(source, min(_CHUNK, stop - at), at)
                    write_all(self._disk, target, memoryview(content), at)
            self._disk.truncate(target, size)
            self._disk.sync(target)
        finally:
            self._disk.close(source)
            self._disk.close(target)
        self._disk.sync_directory(self._backup)
        self._actions.append(f"{path.name}: copied to {copy}")

    def _name(self, finding: Finding, damaged: bool) -> None:
        gap = Gap(
            finding.first_offset,
            finding.end_offset,
            DAMAGED if damaged else LOST,
            finding.first_sequence_number,
            finding.last_sequence_number,
            finding.path.name if damaged else None,
            finding.byte,
            self._now_ms,
        )
        gaps.record(self._shard, gap)
        self._actions.append(f"{gaps.FILE_NAME}: {gap}")

    def _reserve_anew(self) -> None:
        ends = [gap.end_offset for gap in gaps.read(self._shard).gaps]
        for file in list_files(self._shard)[-1:]:
            good = Readable(self._shard, file)
            try:
                ends += [file.first_offset, *(run.end_offset for run in good.runs())]
            finally:
                good.close()
        commit = None
        if self._shard.directory / "commit" in self._others():
            commit = CommitFile.open(self._disk, self._shard.directory, write=False).read()
        if commit is not None:
            ends.append(commit.end_offset)
        settled = commit is not None and commit.boot_id == self._disk.boot_id()
        reserve.write_anew(self._shard, max(ends, default=0), settled=settled)

    def _write_anew(self, file: SegmentFile) -> None:
        """Write the good messages of a segment into sealed files, one for each run of offsets without a hole.

        Later runs first: as long as the old file is there it is what readers of the first run open.
        """
        good = Readable(self._shard, file)
        try:
            runs = good.runs()
            for run in reversed(runs):
                self._write_run(good, run)
        finally:
            good.close()
        if not file.sealed or file.first_offset not in {run.first_offset for run in runs}:
            self._disk.unlink(file.path)
        if runs:
            kept = ", ".join(f"{run.first_offset} to {run.end_offset - 1}" for run in runs)
            self._actions.append(f"{file.path.name}: written anew, with offsets {kept}")
        else:
            self._actions.append(f"{file.path.name}: removed, nothing in it can be read")

    def _write_run(self, good: Readable, run: Run) -> None:
        writer = SealedWriter(self._shard, run.first_offset, good.layout)
        try:
            for group in _groups(run.messages):
                batch = ffi.new("sf_message[]", [message[0] for message in group])
                writer.add_draft(merged(good, batch, len(group), run.end_offset))
            writer.finish(run.end_offset, good.appended)
        except BaseException:
            writer.abandon()
            raise


def _groups(messages: list[Any]) -> Iterator[list[Any]]:
    """Divide messages into row groups of the size that sealing makes."""
    group: list[Any] = []
    size = 0
    for message in messages:
        if group and (size + message.length > limits.SEALED_GROUP_BYTES or len(group) == _GROUP_MESSAGES):
            yield group
            group, size = [], 0
        group.append(message)
        size += message.length
    if group:
        yield group


def _make_directories(disk: Disk, path: Path) -> None:
    """Make a directory and what it lies in, durably."""
    for directory in [*reversed(path.parents), path]:
        try:
            disk.make_directory(directory)
        except FileExistsError:
            continue
        disk.sync_directory(directory.parent)
