"""One shard against a list: appends, commits, restarts, kills, power cuts, rolls, sealing, compaction, readers.

Goal    What was committed is there, in order, byte for byte; what a reader saw stays; what was never
        committed is there as a prefix or not at all.
Method  Hypothesis drives one real shard directory with tiny segments.  A kill leaves everything that was
        written; a power cut changes the boot id and loses any of the unsynced 512-byte sectors.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamfn import limits
from streamfn.log.catalog.datadir import DataDir
from streamfn.log.shard.compact import compact
from streamfn.log.shard.reader import ShardReader, horizon, records, segments
from streamfn.log.shard.seek import offset_at_time
from streamfn.log.shard.writer import ShardWriter
from streamfn.log.storage import commit
from streamfn.types import NewRecord

SEGMENT = 16 * 1024
SECTOR = 512
FAR_MS = 5_000_000_000_000

payloads = st.tuples(
    st.binary(max_size=40) | st.integers(0, 3000).map(lambda n: b"z" * n),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.none() | st.integers(0, 10_000),
).map(lambda fields: NewRecord(*fields))


class Clock:
    """A wall clock that the test turns, also backwards."""

    def __init__(self) -> None:
        self.now = 5000

    def monotonic_ns(self) -> int:
        return 0

    def unix_ms(self) -> int:
        return self.now


class ShardMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.patch = mock.patch.multiple(
            limits, MESSAGE_BYTES_TARGET=4096, STRAIGHT_BYTES=3000, SEALED_GROUP_BYTES=8192
        )
        self.patch.start()
        self.shard = DataDir.open(self.root, create=True).create_stream("s").shards[0]
        self.appended: list[NewRecord] = []
        self.committed = 0
        self.clock = Clock()
        self.given_ms = 0
        self.readers: list[ShardReader] = []
        self.open_writer()

    def open_writer(self) -> None:
        self.writer = ShardWriter.open(self.shard, wait_s=0, clock=self.clock, segment_bytes=SEGMENT)

    def append_expected(self, batch: list[NewRecord]) -> None:
        for record in batch:
            at = record.arrival_ms
            if at is None:
                at = self.given_ms = max(self.given_ms, self.clock.now)
            self.appended.append(record._replace(arrival_ms=at))

    @rule(batch=st.lists(payloads, max_size=6), now=st.integers(0, 10_000))
    def append(self, batch: list[NewRecord], now: int) -> None:
        self.clock.now = now
        first = len(self.appended)
        self.append_expected(batch)
        assert self.writer.append(batch) == range(first, len(self.appended))
        assert self.writer.committed_offset >= self.committed
        self.committed = self.writer.committed_offset  # a roll commits

    @rule(batch=st.lists(payloads, min_size=1, max_size=6), times=st.booleans(), skip=st.integers(0, 2))
    def append_columns(self, batch: list[NewRecord], times: bool, skip: int) -> None:
        import pyarrow as pa

        first = len(self.appended)
        if times:
            batch = [record._replace(arrival_ms=record.arrival_ms or 0) for record in batch]
        else:
            batch = [record._replace(arrival_ms=None) for record in batch]
        batch = [batch[0]] * skip + batch
        data = pa.array([record.data for record in batch], pa.binary()).slice(skip)
        keys = pa.array([record.partition_key for record in batch]).slice(skip)
        arrival = pa.array([record.arrival_ms for record in batch], pa.int64()).slice(skip) if times else None
        self.append_expected(batch[skip:])
        assert self.writer.append_columns(data, keys, arrival) == range(first, len(self.appended))
        self.committed = self.writer.committed_offset

    @rule()
    def commit_all(self) -> None:
        self.writer.commit()
        self.committed = len(self.appended)
        assert self.writer.committed_offset == self.committed

    @rule()
    def restart(self) -> None:
        self.writer.close()
        self.committed = len(self.appended)
        self.open_writer()
        assert self.writer.recovered.cut_bytes == 0
        assert self.writer.end_offset == self.committed

    @rule(roll=st.booleans(), cold=st.booleans(), size=st.integers(1, 8))
    def compact(self, roll: bool, cold: bool, size: int) -> None:
        if roll:
            self.writer.roll()
            self.committed = self.writer.committed_offset
        self.writer.finish_sealing()
        compact(self.shard, FAR_MS, cold_after_s=0 if cold else None, segment_bytes=size * SEGMENT)

    @rule(torn=st.booleans(), seed=st.integers(0, 1 << 30))
    def kill(self, torn: bool, seed: int) -> None:
        """The process dies; the system keeps what it had written, perhaps a body without its prefix."""
        path = self.shard.directory / f"{self.writer._segment:020d}.arrows"
        end = self.writer._position
        self.writer._abandon()
        if torn:
            with path.open("r+b") as file:
                file.seek(end + 8)
                file.write(random.Random(seed).randbytes(300)[: max(0, SEGMENT - end - 16)])
        self.open_writer()
        assert self.writer.end_offset == len(self.appended)
        assert (self.writer.recovered.cut_bytes > 0) == (torn and end + 16 < SEGMENT)
        self.committed = len(self.appended)
        assert self.writer._arrival_ms <= self.given_ms
        self.given_ms = self.writer._arrival_ms

    @rule(seed=st.integers(0, 1 << 30), reader_first=st.booleans(), keep_commit=st.booleans())
    def power_cut(self, seed: int, reader_first: bool, keep_commit: bool) -> None:
        """The machine dies: unsynced sectors are kept or lost, one by one."""
        chance = random.Random(seed)
        for reader in self.readers:
            reader.close()
        self.readers = []
        path = self.shard.directory / f"{self.writer._segment:020d}.arrows"
        synced, end = self.writer._committed.length, self.writer._position
        self.writer._abandon()
        with path.open("r+b") as file:
            for at in range(synced, end, SECTOR):
                stop = min((at // SECTOR + 1) * SECTOR, end)
                if chance.random() < 0.3:
                    file.seek(at)
                    file.write(bytes(stop - at))
        commit_path = self.shard.directory / "commit"
        known = commit.decode(commit_path.read_bytes())
        assert known is not None
        commit_path.write_bytes(
            commit.encode(known._replace(boot_id="an earlier boot")) if keep_commit else b""
        )
        self.reopen(reader_first)

    def reopen(self, reader_first: bool) -> None:
        if reader_first:
            with ShardReader.open(self.shard, 0) as reader:
                seen = reader.committed().end_offset
                assert self.committed <= seen <= len(self.appended)
        self.open_writer()
        kept = self.writer.end_offset
        assert self.committed <= kept <= len(self.appended)
        assert not reader_first or kept == seen
        del self.appended[kept:]
        self.committed = kept
        self.given_ms = self.writer._arrival_ms

    @rule(offset=st.integers(0, 1 << 20))
    def open_reader(self, offset: int) -> None:
        reader = ShardReader.open(self.shard, offset % (self.committed + 1))
        self.readers = [*self.readers[-3:], reader]

    @precondition(lambda self: self.readers)
    @rule(
        which=st.integers(0, 9),
        bytes_max=st.integers(0, 9000),
        until=st.none() | st.integers(0, 300),
        most=st.integers(1, 5),
    )
    def poll(self, which: int, bytes_max: int, until: int | None, most: int) -> None:
        reader = self.readers[which % len(self.readers)]
        start = reader.position
        got = reader.poll(bytes_max, until, most)
        if start < min(self.committed, self.committed if until is None else until):
            assert got
        assert len(got) <= most
        assert got == [] or until is None or got[-1].first_offset < until
        if len(got) > 1:
            assert sum(message.bytes for message in got) <= bytes_max + got[0].bytes
        at = start
        for message in got:
            assert message.first_offset <= at < message.first_offset + message.rows
            self.check(records(message))
            at = message.first_offset + message.rows
        assert reader.position == max(start, at) <= self.committed

    def check(self, found: list) -> None:  # type: ignore[type-arg]
        for record in found:
            wanted = self.appended[record.offset]
            assert NewRecord(record.data, record.partition_key, record.arrival_ms) == wanted
            assert record.sequence_number == f"{self.shard.sequence_base}{record.offset:020d}"

    @rule(ms=st.integers(0, 10_001))
    def offset_at_time_is_the_first_in_log_order(self, ms: int) -> None:
        times = [record.arrival_ms for record in self.appended[: self.committed]]
        wanted = next((i for i, at in enumerate(times) if at is not None and at >= ms), self.committed)
        assert offset_at_time(self.shard, ms) == wanted

    @rule()
    def segments_add_up(self) -> None:
        found = segments(self.shard)
        assert sum(info.records for info in found) == self.committed
        assert horizon(self.shard) == 0
        times = [record.arrival_ms for record in self.appended[: self.committed]]
        if times:
            assert min(info.first_ms for info in found if info.first_ms is not None) == min(times)
            assert max(info.last_ms for info in found if info.last_ms is not None) == max(times)

    @rule()
    def everything_committed_is_there(self) -> None:
        with ShardReader.open(self.shard, 0) as reader:
            found = [
                record for got in iter(lambda: reader.poll(1 << 30), []) for m in got for record in records(m)
            ]
        assert [record.offset for record in found] == list(range(self.committed))
        self.check(found)

    @invariant()
    def readers_never_pass_what_is_committed(self) -> None:
        for reader in getattr(self, "readers", ()):
            assert reader.position <= self.committed

    def teardown(self) -> None:
        if not hasattr(self, "root"):
            return
        try:
            self.everything_committed_is_there()
        finally:
            for reader in self.readers:
                reader.close()
            self.writer.close()
            self.patch.stop()
            shutil.rmtree(self.root)


TestShard = ShardMachine.TestCase
TestShard.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
