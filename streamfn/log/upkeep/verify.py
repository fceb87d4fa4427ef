"""Walking a shard from its first byte to its last, and saying what is not as it was written.

`check` looks at one segment file; here is what holds them together: the commit file, the ledger of gaps, that the
segments follow on each other without a hole the ledger does not name, and that everything that was committed is
still there.  Nothing is changed and no lock is taken, so a writer may be at work meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from streamfn.errors import LogDamaged
from streamfn.log.catalog.stream import Shard
from streamfn.log.segment import check
from streamfn.log.segment.check import Check, check_segment
from streamfn.log.segment.segment import SegmentFile, list_files, sealed_path
from streamfn.log.shard import gaps, recovery, reserve
from streamfn.log.shard.chain import read_chain
from streamfn.log.shard.damage import numbers_given
from streamfn.log.shard.gaps import Gap, Ledger
from streamfn.log.storage.commit import Commit, CommitFile
from streamfn.log.storage.disk import stored_bytes

# A segment that is sealed, merged or trimmed between looking and opening is looked for again.
_ATTEMPTS = 5

Progress = Callable[[int], None]


class Finding(NamedTuple):
    """Something that is not as it was written.

    `byte` and `end_byte` are file positions, None where the whole file is meant; the records from `first_offset` up to,
    not including, `end_offset` are lost with it (equal: none is).  The sequence numbers are those of the first and last
    of them, None where they are not known.  `remedy` is what `repair` does about it.
    """

    path: Path
    byte: int | None
    end_byte: int | None
    first_offset: int
    end_offset: int
    first_sequence_number: str | None
    last_sequence_number: str | None
    why: str
    remedy: str

    @property
    def records(self) -> int:
        """How many records are lost."""
        return self.end_offset - self.first_offset


class ShardReport(NamedTuple):
    """What a walk over a shard found.

    `gaps` are the ranges that the ledger names: known and no damage.  `notes` are lines about what is unusual and
    harmless, such as a torn append that the next writer cuts.
    """

    findings: list[Finding]
    notes: list[str]
    gaps: tuple[Gap, ...]
    segments: int
    records: int
    bytes: int


def shard_bytes(shard: Shard) -> int:
    """Return how many bytes `verify_shard` will look at, roughly: for a progress bar."""
    total = 0
    for file in list_files(shard):
        try:
            total += stored_bytes(shard.disk, file.path)
        except FileNotFoundError:
            continue
    return total


def verify_shard(shard: Shard, progress: Progress | None = None) -> ShardReport:
    """Walk a shard.

    `progress` is told now and then how many more bytes were checked.

    Raises:
        LogError: a file cannot be read, for a reason that is not damage.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _Walk(shard, progress).report()
        except FileNotFoundError:  # sealed, merged or trimmed meanwhile
            continue
    return _Walk(shard, progress).report()


class _Walk:
    def __init__(self, shard: Shard, progress: Progress | None) -> None:
        self._shard = shard
        self._progress = progress
        self._findings: list[Finding] = []
        self._notes: list[str] = []
        self._records = 0
        self._bytes = 0
        self._commit = self._read_commit()
        self._ledger = self._read_ledger()
        self._read_reserve()

    def report(self) -> ShardReport:
        files = self._files()
        promised = self._promised()
        offset = self._ledger.horizon
        for number, file in enumerate(files):
            self._follow(offset, file.first_offset)
            last = number + 1 == len(files)
            checked = self._check(file, max(promised, file.first_offset) if last else None)
            ends = [checked.end_offset, *(found.end_offset for found in checked.findings)]
            offset = max(offset, *ends, promised if last else 0)
        if not files:
            self._follow(offset, promised)
        return ShardReport(
            self._findings, self._notes, self._ledger.gaps, len(files), self._records, self._bytes
        )

    # ---- what surrounds the segments

    def _read_commit(self) -> Commit | None:
        path = self._shard.directory / "commit"
        try:
            file = CommitFile.open(self._shard.disk, self._shard.directory, write=False)
        except FileNotFoundError:
            self._find(path, "there is no commit file", "it is written anew from what the segments hold")
            return None
        try:
            commit = file.read()
        finally:
            file.close()
        if commit is None:
            self._find(path, "the commit file is damaged", "it is written anew from what the segments hold")
        return commit

    def _read_ledger(self) -> Ledger:
        try:
            return gaps.read(self._shard)
        except LogDamaged as damage:
            remedy = "it is written anew, with every hole between the segments as lost"
            self._find(self._shard.directory / gaps.FILE_NAME, str(damage), remedy)
            return Ledger()

    def _read_reserve(self) -> None:
        try:
            reserve.read(self._shard)
        except LogDamaged as damage:
            remedy = "it is written anew, and what comes next is above all that may have been given out"
            self._find(self._shard.directory / reserve.FILE_NAME, str(damage), remedy)

    def _files(self) -> list[SegmentFile]:
        """The files that hold the shard's records; those beside them are left over."""
        chain = read_chain(self._shard, self._ledger)
        for file in chain.leftovers:
            self._notes.append(f"{file.path} is left over from sealing: opening the shard for writing removes it")
        return [link.file for link in chain.links]

    def _promised(self) -> int:
        """The offset below which every record was acknowledged as durable and must be there."""
        return recovery.promised(self._shard, self._commit)

    def _follow(self, offset: int, after: int) -> None:
        """What is known ends at `offset`, and what comes next begins at `after`."""
        expected = self._ledger.end_at(offset)
        if after > expected:
            path = sealed_path(self._shard, expected)
            remedy = "the ledger names them as lost, and reading goes on behind them"
            self._find(path, "no segment holds them", remedy, first=expected, end=after)

    # ---- the segments

    def _check(self, file: SegmentFile, promised: int | None) -> Check:
        """Check a file; `promised` is where the records of the last one end at least, None for the others."""
        committed_bytes, last = None, promised is not None
        if promised is not None and not file.sealed:
            committed_bytes, promised = self._tail(file, promised)
        elif self._commit is None:
            promised = None
        checked = check_segment(
            self._shard,
            file,
            committed_bytes=committed_bytes,
            end_offset=promised,
            at_least=last,
            progress=self._progress,
        )
        self._records += checked.records
        self._bytes += checked.bytes
        for found in checked.findings:
            gap = self._ledger.at(found.first_offset)
            if gap is None or not found.first_offset < found.end_offset <= gap.end_offset:
                self._damaged(found)
        return checked

    def _tail(self, file: SegmentFile, end_offset: int) -> tuple[int | None, int]:
        """How much of the active segment must be whole, and where its records end."""
        shard, commit = self._shard, self._commit
        here = shard.disk.boot_id()
        if commit is not None and commit.boot_id == here and commit.segment == file.first_offset:
            return commit.length, commit.end_offset
        try:
            tail = recovery.find_tail(shard, commit)
        except LogDamaged:
            return None, end_offset  # the check of the whole file names it
        if tail.data_end > tail.position:
            self._notes.append(
                f"{file.path}: {tail.data_end - tail.position} bytes from byte {tail.position} on are a torn append "
                "that was never acknowledged: opening the shard for writing cuts them"
            )
        return tail.position, tail.end_offset

    # ---- findings

    def _damaged(self, found: check.Finding) -> None:
        remedy = "the segment is written anew; no record is lost"
        if found.end_offset > found.first_offset:
            remedy = "the segment is written anew without them, and the ledger names them as damaged"
        self._find(
            found.path,
            found.why.removeprefix(f"{found.path} "),
            remedy,
            byte=found.byte,
            end_byte=found.end_byte,
            first=found.first_offset,
            end=found.end_offset,
        )

    def _find(
        self,
        path: Path,
        why: str,
        remedy: str,
        *,
        byte: int | None = None,
        end_byte: int | None = None,
        first: int = 0,
        end: int = 0,
    ) -> None:
        first_number, last_number = numbers_given(self._shard, first, end)
        self._findings.append(
            Finding(path, byte, end_byte, first, end, first_number, last_number, why, remedy)
        )
